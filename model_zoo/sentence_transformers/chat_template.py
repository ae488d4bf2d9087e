"""Chat templates of rerankers that are language models: the fixed text around a query and a document.

A template is a program in Jinja's language, and no program of a checkpoint is run here. The templates of published rerankers
only put texts together: they name the messages of the roles `system`, `query` and `document`. These templates are read by
the rules of Jinja's documentation; any other expression or statement is refused by name.

Sources: jinja.palletsprojects.com/templates (whitespace control); `apply_chat_template` in transformers'
utils/chat_template_utils.py (`trim_blocks` and `lstrip_blocks` are on); `pair_to_messages` in sentence-transformers'
modality.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..card import PairTemplate
from ..errors import CardError

__all__ = ["read_template"]

#: Stand-ins for the texts of a pair; a template cannot hold them.
QUERY, DOCUMENT = "\0query\0", "\0document\0"

_TAG = re.compile(r"\{\{(-?)(.*?)(-?)\}\}|\{%([-+]?)(.*?)([-+]?)%\}|\{#(-?)(.*?)(-?)#\}", re.DOTALL)
_TEXT = r"""(?:"(?:[^"\\]|\\[n"'\\])*"|'(?:[^'\\]|\\[n"'\\])*')"""
_EQUALS = r"""(?:"(?:eq|equalto|==)"|'(?:eq|equalto|==)')"""
_ROLE = rf"""selectattr\(\s*(?:"role"|'role')\s*,\s*{_EQUALS}\s*,\s*(?P<role>{_TEXT})\s*\)"""
_CONTENT = r"""(?:\.content|\[\s*(?:"content"|'content')\s*\])"""
_MAP = r"""map\(\s*attribute\s*=\s*(?:"content"|'content')\s*\)"""

#: Expressions: content of the first message of a role, in two spellings; of a message by its place; a name; a text.
_BY_ROLE = re.compile(
    rf"messages\s*\|\s*{_ROLE}\s*\|\s*{_MAP}\s*\|\s*first(?:\s*\|\s*default\(\s*(?P<default>{_TEXT})\s*\))?"
)
_BY_ROLE_FIRST = re.compile(rf"\(\s*messages\s*\|\s*{_ROLE}\s*\|\s*first\s*\)\s*{_CONTENT}")
_BY_PLACE = re.compile(rf"messages\[\s*(?P<place>\d)\s*\]\s*{_CONTENT}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SET = re.compile(r"set\s+(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a template: its kind, `text`, `expression`, `statement` or `comment`, and what is inside."""

    kind: str
    content: str


def read_template(source: str, where: str, instruction: str | None, tokens: Mapping[str, str]) -> PairTemplate:
    """Return the text that a template puts around a pair.

    Args:
        source: the template.
        where: file of the template, for messages.
        instruction: content of the message of the role `system`; None if there is no such message.
        tokens: special tokens by their names, such as `bos_token`.

    Raises:
        CardError: the template has other statements than texts put together, or does not give each text of a pair once.
    """
    messages = [("query", QUERY), ("document", DOCUMENT)]
    if instruction is not None:
        messages.insert(0, ("system", instruction))
    names = dict(tokens)
    rendered = []
    for piece in _pieces(source):
        match piece.kind:
            case "text":
                rendered.append(piece.content)
            case "expression":
                rendered.append(_value(piece.content, messages, names, where))
            case "statement":
                statement = _SET.fullmatch(piece.content)
                if statement is None:
                    raise _refusal(where, piece.content)
                names[statement["name"]] = _value(statement["value"].strip(), messages, names, where)
    whole = "".join(rendered)
    if whole.count(QUERY) != 1 or whole.count(DOCUMENT) != 1:
        raise CardError(f"{where}: the chat template does not put the query and the document once each into its text")
    query_first = whole.index(QUERY) < whole.index(DOCUMENT)
    first, second = (QUERY, DOCUMENT) if query_first else (DOCUMENT, QUERY)
    before, _, rest = whole.partition(first)
    between, _, after = rest.partition(second)
    return PairTemplate(before=before, between=between, after=after, query_first=query_first)


def _pieces(source: str) -> Iterator[_Piece]:
    """Yield the parts of a template, with the blanks removed that Jinja removes around its tags."""
    source = re.sub(r"\r\n|\r", "\n", source)
    source = source.removesuffix("\n")
    end, strip, newline = 0, False, False
    for tag in _TAG.finditer(source):
        kind = "expression" if tag[2] is not None else "statement" if tag[5] is not None else "comment"
        before = tag[1] or tag[4] or tag[7] or ""
        after = tag[3] or tag[6] or tag[9] or ""
        text = _stripped(source[end : tag.start()], strip=strip, newline=newline)
        if before == "-":
            text = text.rstrip()
        elif kind != "expression" and before != "+":
            # A tag alone on its line: the blanks before it go, too.
            line = text.rpartition("\n")[2]
            starts_line = "\n" in text or end == 0 or newline
            text = text.removesuffix(line) if starts_line and not line.strip() else text
        yield _Piece("text", text)
        yield _Piece(kind, next(part for part in (tag[2], tag[5], tag[8]) if part is not None).strip())
        end, strip, newline = tag.end(), after == "-", kind != "expression" and after != "+"
    yield _Piece("text", _stripped(source[end:], strip=strip, newline=newline))


def _stripped(text: str, *, strip: bool, newline: bool) -> str:
    return text.lstrip() if strip else text.removeprefix("\n") if newline else text


def _value(expression: str, messages: list[tuple[str, str]], names: Mapping[str, str], where: str) -> str:
    """Return the text of an expression."""
    if re.fullmatch(_TEXT, expression):
        return _literal(expression)
    if by_role := (_BY_ROLE.fullmatch(expression) or _BY_ROLE_FIRST.fullmatch(expression)):
        found = [content for role, content in messages if role == _literal(by_role["role"])]
        default = by_role.groupdict().get("default")
        return found[0] if found else "" if default is None else _literal(default)
    if by_place := _BY_PLACE.fullmatch(expression):
        place = int(by_place["place"])
        if place < len(messages):
            return messages[place][1]
    if _NAME.fullmatch(expression) and expression in names:
        return names[expression]
    raise _refusal(where, expression)


def _literal(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text[1:-1])


def _refusal(where: str, content: str) -> CardError:
    shown = " ".join(content.split())
    return CardError(
        f"{where}: the chat template has {shown[:120]!r}, and Fletcher runs no program of a checkpoint. It reads templates "
        "that put the contents of the messages of the roles system, query and document together: write the template so, in a "
        "copy"
    )
