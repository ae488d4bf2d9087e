"""Built-in texts for verification: many scripts, many lengths, and cases that break tokenizers.

All of them were written for Fletcher. They are the same on every run, so that two reports can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

__all__ = ["EDGES", "EXTREMES", "SENTENCES", "lengths_to", "read_texts", "text_of_length"]

#: Ordinary texts; neighbors in the list are about the same thing, so that nearest neighbors mean something.
SENTENCES: tuple[str, ...] = (
    "The baker takes the bread out of the oven at five in the morning.",
    "Every day before sunrise, fresh loaves come from the stone oven.",
    "How long does sourdough have to rest before it is baked?",
    "A container ship was held in the harbour because of the storm.",
    "Strong winds kept the cargo vessel from leaving port.",
    "The central bank raised its interest rate by a quarter of a point.",
    "Borrowing becomes dearer after the decision of the monetary authority.",
    "Inflation fell to 2.1 % in March, from 2.6 % in February.",
    "To restart the service, run `systemctl restart queue` as root.",
    "The daemon has to be started again after the configuration was changed.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)",
    "SELECT name, count(*) FROM orders WHERE paid = false GROUP BY name HAVING count(*) > 3;",
    "for (int i = 0; i < n; ++i) { total += weights[i] * x[i]; }",
    '{"id": 4711, "tags": ["red", "blue"], "price": 12.50, "in_stock": null}',
    '<p class="note">It\'s <b>bold</b> &amp; simple.</p>',
    "https is a scheme, C:\\Users\\anna\\notes.txt a path, and anna.b@mail.test an address.",
    "Die Bäckerin öffnet ihr Geschäft in der Straße am Fluss um sechs Uhr.",
    "La boulangère ouvre sa boutique près de la rivière à six heures.",
    "La panadera abre su tienda junto al río a las seis; ¿quién llega primero?",
    "Пекарь достаёт хлеб из печи в пять часов утра.",
    "Ο φούρναρης βγάζει το ψωμί από τον φούρνο στις πέντε.",
    "面包师早上五点从烤箱里拿出面包。",
    "パン職人は朝五時に窯からパンを取り出します。",
    "제빵사는 아침 다섯 시에 오븐에서 빵을 꺼낸다.",
    "يخرج الخباز الخبز من الفرن في الخامسة صباحا.",
    "האופה מוציא את הלחם מהתנור בחמש בבוקר.",
    "रोटी बनाने वाला सुबह पाँच बजे तंदूर से रोटी निकालता है।",
    "คนทำขนมปังนำขนมปังออกจากเตาตอนตีห้า",
    "Thợ làm bánh lấy bánh mì ra khỏi lò lúc năm giờ sáng.",
    "Fırıncı ekmeği sabah beşte çıkarır; İstanbul'da ışıklar daha sönük.",
    "The heart pumps about five litres of blood a minute through the body.",
    "Cardiac output at rest is roughly 5 l/min in a healthy adult.",
    "She plays the cello in a quartet, and he sings in a choir.",
    "The string ensemble rehearses on Thursdays in the old church.",
    "E = mc², ∑ᵢ xᵢ ≤ √n · ‖x‖₂, and 3.14159 < π < 3.1416",
    "Flight LX 1612 leaves gate B42 at 17:45 on 2024-02-29; the fare is CHF 1’249.95.",
    "Great match yesterday!!! 🎉⚽️ 3:2 after extra time 😱😱 #final @team",
    "A mathematician proved that no such coloring of the plane exists.",
    "The committee meets again on Tuesday to discuss the leaking roof of the school.",
    "Frogs lay their eggs in shallow water, where tadpoles hatch after some days.",
)

#: Edge cases of tokenizers and graphs.
EDGES: tuple[str, ...] = (
    "",
    " ",
    " \t\r\n  \n",
    "\u00a0\u2003\u3000",  # spaces that are not ASCII
    "\x00",
    "a\x00b\x01c\x1f\x7f\x85d",
    "\u200b\u200d\ufeff\u2060",  # zero width
    "\u202eright to left\u202c",
    "\ufffd",
    ".",
    "?!…—–‚„“”«»",
    "-" * 40,
    "a",
    "I",
    "ß",
    "Ⅷ ﬁ ＡＢＣ ½ ㎏",  # compatibility forms
    "e\u0301 \u00e9 n\u0303 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334algo",  # combining marks
    "👩‍👩‍👧‍👦 🇨🇭 🏳️‍🌈 👍🏽",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎 𓀀",  # outside the basic plane
    "\U0010fffd\ue000",  # private use
    "0",
    "123456789012345678901234567890",
    "-1.5e-07, 0x1F, 1_000_000, ∞",
    "CamelCaseIdentifier snake_case_identifier kebab-case-identifier SCREAMING_CASE",
    "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
    "x" * 150,  # longer than the longest word that WordPiece looks at (100)
    "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <pad> <mask> <|endoftext|>",
    "query: passage: search_document:",
    "  leading and trailing spaces  ",
    "two  spaces\tand\na\r\nfew\u2028breaks",
)

#: Texts for which language models have their largest activations: code, one token many times, digits, mixed scripts, and all
#: sentences in a row.
EXTREMES: tuple[str, ...] = (
    "import numpy as np\nimport os, sys\nfrom collections import OrderedDict\n\nif __name__ == '__main__':\n    pass\n",
    "the " * 200,
    "!" * 150,
    "\n" * 40,
    "0123456789 " * 8 + "3.14159265358979323846 -1e-30 0xFFFF 1,000,000,000",
    "a字б가ع€🎉ñ\u200d�ﷺ𝔘Ωह्ไ" * 6,
    " ".join(SENTENCES),
)

#: Every length up to this one is verified; beyond it, lengths around powers of two, where kernels change their algorithm.
DENSE_LENGTHS = 24

#: One token in the vocabularies of all the families, and it merges with nothing: fills a text to an exact length.
FILLER = " a"


def lengths_to(max_tokens: int) -> list[int]:
    """Return the lengths to verify, in tokens: all up to 24, then around powers of two, and always the last two."""
    lengths = set(range(1, min(max_tokens, DENSE_LENGTHS) + 1)) | {max(max_tokens - 1, 1), max_tokens}
    power = 32
    while power < max_tokens:
        lengths |= {power - 1, power, power + 1, power + power // 2} if power <= 256 else {power, power + power // 2}
        power *= 2
    return sorted(length for length in lengths if length <= max_tokens)


def text_of_length(num_tokens: int, count_tokens: Callable[[str], int], *, start: int = 0) -> str:
    """Return a text of mixed sentences with `num_tokens` tokens, or nearly as many as the tokenizer allows.

    Args:
        num_tokens: requested length, special tokens included.
        count_tokens: the length of a text, special tokens included, before truncation.
        start: index of the first sentence.
    """
    first = start % len(SENTENCES)
    unit = " ".join((*SENTENCES[first:], *SENTENCES[:first]))
    if num_tokens <= count_tokens(""):
        return ""
    source = unit
    while count_tokens(source) < num_tokens:
        source = f"{source} {source}"
    # Tokens grow with characters, if not strictly, so bisection finds a prefix that is not too long.
    low, high = 0, len(source)
    while high - low > 1:
        middle = (low + high) // 2
        if count_tokens(source[:middle]) <= num_tokens:
            low = middle
        else:
            high = middle
    text = source[:low]
    for _ in range(num_tokens - count_tokens(text)):
        if count_tokens(text + FILLER) > num_tokens:
            break
        text += FILLER
    return text


class _Line(msgspec.Struct, frozen=True):
    text: str


def read_texts(path: str | Path) -> list[str]:
    """Read a file of texts: in `.jsonl` each line is an object with a string `text`, in other files each line is a text.

    Raises:
        InputError: the file is missing, is not UTF-8, or has no text; or a line of `.jsonl` has no `text`.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the texts {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the texts {path} are not UTF-8 (byte {error.start}): convert the file first") from error
    # Not splitlines(), which also breaks at U+2028 and form feeds.
    lines = content.removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    texts = _parse(path, lines) if path.suffix == ".jsonl" else lines
    if not texts:
        raise InputError(f"{path} holds no text: put a text on each line")
    return texts


def _parse(path: Path, lines: Sequence[str]) -> list[str]:
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            texts.append(decode_json(line, _Line).text)
        except msgspec.DecodeError as error:
            raise InputError(f'{path}, line {number}: {error}. Each line must be like {{"text": "…"}}') from error
    return texts
