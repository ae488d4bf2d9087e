"""Calibrations of served models, for requests that ask for probabilities."""

from __future__ import annotations

from fletcher.runtime.artifact.calibration import Calibration, Measure

from ...errors import FieldError
from ...models.version import ModelVersion

__all__ = ["calibration_of"]


def calibration_of(version: ModelVersion, measure: Measure, input_type: str = "raw") -> Calibration:
    """Return the calibration of a model.

    Args:
        version: the version of the model that answers.
        measure: value that the request computes.
        input_type: input type of the request's texts.

    Raises:
        FieldError: the model has no calibration, or one of another value or input type.
    """
    name, calibration = version.description.name, version.info.calibration
    if calibration is None or calibration.measure != measure:
        raise FieldError(
            f"calibrated is true, and {name} has no calibration: fit one with `fletcher-convert calibrate DIR --pairs FILE`",
            "calibrated",
        )
    if calibration.input_type != input_type:
        raise FieldError(
            f"calibrated is true, and {name} was calibrated with the input type {calibration.input_type!r}, not "
            f"{input_type!r}: use that one, or calibrate the model with the other",
            "calibrated",
        )
    return calibration
