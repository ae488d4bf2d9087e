"""Likely cause of a failed verification: the feature that separates the texts that differ from the others."""

from __future__ import annotations

from collections.abc import Sequence

from .case import ANY, Case
from .settings import Setting

__all__ = ["find_cause"]

#: A feature separates the texts if the share of differing texts is higher by this much among the texts that have it.
SEPARATION = 0.5

#: Settings that a message names.
MOST_NAMED = 3


def find_cause(
    cases: Sequence[Case], ids: Sequence[bool], values: Sequence[bool], settings: Sequence[Setting], reason: str = ""
) -> str:
    """Return the likely cause in one sentence; empty if nothing differs.

    Args:
        cases: texts that the reference accepted.
        ids: for each text, whether the token ids differ.
        values: for each text, whether the result differs although the token ids are equal.
        settings: settings of the checkpoint.
        reason: addition for a difference of token ids, such as the version of transformers that the artifact follows.
    """
    if any(ids):
        feature, sentence = _separate(cases, ids)
        named = _names(settings, feature, "tokenizer")
        likely = ", ".join(named) or "tokenizer.json"
        return f"Token ids differ on {sentence}. Likely cause: {likely}{reason}"
    if any(values):
        feature, sentence = _separate(cases, values)
        named = [] if feature == ANY else _names(settings, feature, "")
        likely = ", ".join(named) or "config.json, the weights, or a module of modules.json"
        return f"Token ids are equal, and results differ on {sentence}. Likely cause: {likely}"
    return ""


def _separate(cases: Sequence[Case], failed: Sequence[bool]) -> tuple[str, str]:
    """Return the feature of the texts that differ, and the numbers of texts with and without it that differ."""
    best, best_score = ANY, SEPARATION
    for feature in sorted({name for case, bad in zip(cases, failed, strict=True) if bad for name in case.features}):
        inside, outside = _count(cases, failed, feature)
        if feature == ANY or outside[1] == 0:
            continue
        score = inside[0] / inside[1] - outside[0] / outside[1]
        if score > best_score:
            best, best_score = feature, score
    inside, outside = _count(cases, failed, best)
    if best == ANY:
        return best, f"{inside[0]} of {inside[1]} texts"
    return best, f"{inside[0]} of {inside[1]} texts with {best}, and on {outside[0]} of {outside[1]} others"


def _count(cases: Sequence[Case], failed: Sequence[bool], feature: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the numbers of differing and of all texts that have a feature, and of those that have not."""
    inside = [bad for case, bad in zip(cases, failed, strict=True) if feature in case.features]
    outside = [bad for case, bad in zip(cases, failed, strict=True) if feature not in case.features]
    return (sum(inside), len(inside)), (sum(outside), len(outside))


def _names(settings: Sequence[Setting], feature: str, start: str) -> list[str]:
    """Return the settings that texts with a feature exercise: those that no other feature does come first."""
    named = [
        setting
        for setting in settings
        if setting.features and feature in setting.features and (feature != ANY or setting.name.startswith(start))
    ]
    named.sort(key=lambda setting: (len(setting.features or ()), setting.name.startswith("tokenizer.json")))
    return [setting.name for setting in named[:MOST_NAMED]]
