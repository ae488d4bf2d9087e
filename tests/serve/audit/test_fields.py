"""The document of the audit log's fields has each field, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from fletcher.serve.audit.entry import Entry

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "audit.md"


def test_the_document_has_the_fields_of_a_line() -> None:
    rows = [line.split("|")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {*Entry.__struct_fields__, "seq", "prev"}
