"""Likely cause of a failed verification: the feature that the differing texts have in common, and the settings behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .case import ANY, Case
from .settings import Setting

__all__ = ["Differences", "find_cause"]

#: Settings that a message names.
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Differences:
    """Texts on which the artifact differs from the reference.

    Attributes:
        ids: for each text, whether the token ids differ.
        values: for each text, whether the result differs although the token ids are equal.
        shapes: shapes of the first result that has another shape than the reference's, in words; empty if none has.
    """

    ids: tuple[bool, ...]
    values: tuple[bool, ...]
    shapes: str = ""


def find_cause(
    cases: Sequence[Case], differences: Differences, settings: Sequence[Setting], versions: str, advice: str = ""
) -> str:
    """Return the likely cause in one or two sentences; empty if nothing differs.

    Args:
        cases: texts that the reference accepted.
        differences: texts that differ.
        settings: settings of the checkpoint.
        versions: versions of transformers that the artifact follows and that the reference ran, in words.
        advice: next step if the token ids differ because of these versions; empty if they are the same.
    """
    if any(differences.ids):
        feature, sentence = _common_feature(cases, differences.ids)
        named = _names(settings, feature)
        likely = (
            ", ".join(named) if named else f"tokenizer.json or tokenizer_config.json, as they are read by {versions}"
        )
        return f"Token ids differ on {sentence}. Likely cause: {likely}{'. ' if advice else ''}{advice}"
    if not any(differences.values):
        return ""
    feature, sentence = _common_feature(cases, differences.values)
    likely = ", ".join(_names(settings, feature)) or "config.json, the weights, or a module of modules.json"
    if differences.shapes:
        likely = f"{differences.shapes}: a setting of the dimension (truncate_dim), or a module of modules.json"
    return f"Token ids are equal, and results differ on {sentence}. Likely cause: {likely}"


def _common_feature(cases: Sequence[Case], failed: Sequence[bool]) -> tuple[str, str]:
    """Return the feature that separates the differing texts from the others best, and the numbers of both with it."""
    total = sum(failed)
    best, best_score = ANY, -1.0
    features = {name for case, bad in zip(cases, failed, strict=True) if bad for name in case.features}
    for feature in sorted(features, key=lambda name: (name != ANY, name)):
        having = [bad for case, bad in zip(cases, failed, strict=True) if feature in case.features]
        score = 2 * sum(having) / (len(having) + total)  # F1: harmonic mean of precision and recall
        if score > best_score:
            best, best_score = feature, score
    having = [bad for case, bad in zip(cases, failed, strict=True) if best in case.features]
    if best == ANY:
        return best, f"{total} of {len(cases)} texts"
    others = len(cases) - len(having)
    return best, f"{sum(having)} of {len(having)} texts with {best}, and on {total - sum(having)} of {others} others"


def _names(settings: Sequence[Setting], feature: str) -> list[str]:
    """Return the settings that texts with a feature exercise, those with the fewest other features first."""
    if feature == ANY:
        return []
    named = [setting for setting in settings if setting.features and feature in setting.features]
    named.sort(key=lambda setting: (len(setting.features or ()), setting.name.startswith("tokenizer.json")))
    return [setting.name for setting in named[:MOST_NAMED]]
