"""Distance between the execution providers of this machine that run one variant, measured on the artifact's canary."""

from __future__ import annotations

import numpy as np

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ProviderError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import candidates

__all__ = ["measure_providers"]


def measure_providers(artifact: Artifact, variant: Variant) -> float | None:
    """Return the largest difference of an element of the canary's vectors between two providers that this machine has.

    Providers that compute in a lower precision than the variant are left out, and those that fail.

    Returns:
        The difference; None if fewer than two providers run the variant here.
    """
    encodings = read_canary(artifact.canary_file).encodings
    results = []
    for provider, problem in candidates(variant, this_machine()):
        if problem is not None or provider.precision not in (None, variant.precision):
            continue
        try:
            with open_session(artifact, variant, provider=provider.name, threads=1) as session:
                results.append(session.run(encodings).astype(np.float32, copy=False))
        except ProviderError:
            continue  # `fletcher-serve devices` reports why a provider fails
    if len(results) < 2:
        return None
    stacked = np.stack(results)
    return float((stacked.max(axis=0) - stacked.min(axis=0)).max())
