"""The announcement of a server's addresses."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from fletcher.serve.access.addresses import Addresses
from fletcher.serve.listening import address_lines, announce

LINES = address_lines(Addresses(http="http://127.0.0.1:1", flight=None))


def test_addresses_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    announce(LINES)
    assert capsys.readouterr().out == "HTTP on http://127.0.0.1:1\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_the_output_does_not_end_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Path("/dev/full").open("w") as full, caplog.at_level(logging.ERROR):
        monkeypatch.setattr(sys, "stdout", full)
        announce(LINES)
        full.write("more")  # as at the end of the process
        full.flush()
    assert "cannot be printed" in caplog.text
