"""Registry of providers: requirements, reasons why a provider cannot be used, and fallbacks."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import MissingPackageError, OptionError, ProviderError
from fletcher.runtime.machine.machine import Machine
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.opening import open_session, open_with_fallback
from fletcher.runtime.providers.openvino.provider import OPENVINO, OPENVINO_BF16
from fletcher.runtime.providers.provider import Provider
from fletcher.runtime.providers.selection import candidates, check_provider, find_provider

PLAIN = Machine("plain", frozenset({"avx2"}), (0,), ((0,),), 1 << 30)


def with_needs(provider: Provider, **changes: Any) -> Provider:
    """Return the provider with changed requirements."""
    return dataclasses.replace(provider, needs=dataclasses.replace(provider.needs, **changes))


BF16 = dataclasses.replace(PLAIN, instructions=frozenset({"avx512_bf16"}))


def test_bf16_needs_a_processor_that_has_it(tiny_artifact: Path) -> None:
    variant = Artifact.open(tiny_artifact).variant()
    problems = {provider.name: problem for provider, problem in candidates(variant, PLAIN)}
    assert problems == {"mlas": None, "openvino": None, "openvino-bf16": "the processor has no bfloat16 arithmetic"}
    assert {problem for _, problem in candidates(variant, BF16)} == {None}


def test_a_missing_package_names_the_extra() -> None:
    absent = with_needs(OPENVINO, package="no_such_package")
    assert missing(absent, PLAIN) == ("no_such_package is not installed: pip install 'longbow-fletcher[openvino]'")


def test_an_old_package_has_another_message_than_a_missing_one() -> None:
    newer = with_needs(OPENVINO, oldest=(9999, 1))
    problem = missing(newer, PLAIN)
    assert problem is not None
    assert "is too old, 9999.1 is needed" in problem


def test_an_unknown_provider_is_an_error_of_the_option_provider() -> None:
    message = "there is no provider 'rocm': use auto, mlas, openvino, openvino-bf16, cuda"
    for check in (check_provider, find_provider):
        with pytest.raises(OptionError, match=message) as caught:
            check("rocm")
        assert caught.value.field == "provider"


def test_a_fallback_is_an_error_unless_it_was_allowed(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = Artifact.open(tiny_artifact)

    def refuse(*args: object, **options: object) -> None:
        raise ProviderError("it would not")

    monkeypatch.setattr("fletcher.runtime.providers.openvino.session.OpenVinoSession", refuse)
    requested = {"provider": "openvino", "threads": 1, "workers": 1}
    with pytest.raises(ProviderError, match="it would not"):
        open_with_fallback(artifact, artifact.variant(), allowed=False, **requested)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "fletcher.runtime.providers.opening"):
        opened = open_with_fallback(artifact, artifact.variant(), allowed=True, **requested)  # type: ignore[arg-type]
    assert opened.session.provider == "MLAS"
    assert opened.fallback == "openvino was requested, mlas runs: it would not"
    assert [record.message for record in caplog.records] == ["fallback"]
    opened.session.close()


def test_the_requested_provider_is_not_a_fallback(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    opened = open_with_fallback(artifact, artifact.variant(), provider="mlas", threads=1, workers=1, allowed=True)
    assert opened.fallback is None
    opened.session.close()


def test_a_provider_that_is_requested_by_name_must_meet_its_requirements(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check, OpenVINO would emulate bfloat16 without a message, slower than float32."""
    artifact = Artifact.open(tiny_artifact)
    monkeypatch.setattr("fletcher.runtime.providers.opening.this_machine", lambda: PLAIN)
    with pytest.raises(ProviderError, match="openvino-bf16 cannot be used here: the processor has no bfloat16"):
        open_session(artifact, artifact.variant(), provider="openvino-bf16")
    changed = (with_needs(OPENVINO, oldest=(9999, 1)), with_needs(OPENVINO_BF16, package="no_such_package"))
    monkeypatch.setattr("fletcher.runtime.providers.registry.PROVIDERS", changed)
    with pytest.raises(ProviderError, match=r"openvino .* is too old, 9999\.1 is needed"):
        open_session(artifact, artifact.variant(), provider="openvino")
    with pytest.raises(MissingPackageError, match=r"no_such_package.*longbow-fletcher\[openvino\]"):
        open_session(artifact, artifact.variant(), provider="openvino-bf16")


def test_a_target_that_no_cpu_provider_runs_is_rejected(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    import msgspec

    variant = msgspec.structs.replace(artifact.variant(), target="tensorrt")
    with pytest.raises(ProviderError, match="target tensorrt, which mlas does not run"):
        open_session(artifact, variant)
