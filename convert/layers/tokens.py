"""The first points: the vocabulary, and the ids of texts, against transformers' tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from fletcher.model_zoo.card import RAW
from fletcher.runtime.artifact import Artifact
from fletcher.runtime.tokenizer import Tokenizer as TextTokenizer

from ..texts import EDGES, SENTENCES
from ..verify import Probe, compare_ids
from .results import PointResult
from .subject import Subject

__all__ = ["compare_tokenizers", "open_tokenizer"]


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artefact's tokenizer, without truncation.

    Raises:
        ArtifactError: it cannot be read.
    """
    TextTokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)  # the checks of a load
    tokenizer = Tokenizer.from_file(str(artifact.tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def compare_tokenizers(artifact: Artifact, subject: Subject, texts: Sequence[str]) -> Iterator[PointResult]:
    """Vocabulary and token ids.

    Args:
        artifact: ours.
        subject: theirs.
        texts: compared besides the built-in ones.
    """
    ours = open_tokenizer(artifact).get_vocab(with_added_tokens=True)
    theirs = subject.tokenizer.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    note = ""
    if different:
        token = different[0]
        note = f"{len(different)} tokens differ: {token!r} is {ours.get(token)}, in the checkpoint {theirs.get(token)}"
    yield _result("vocabulary", len(ours), len(different), note)

    probes = [Probe(text, RAW) for text in (*EDGES, *SENTENCES, *texts)]
    rows = subject.tokenize([probe.text for probe in probes])
    tokenizer = TextTokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
    ids = compare_ids(tokenizer.encode([probe.text for probe in probes]), rows, probes)
    yield _result("token ids", ids.compared, ids.compared - ids.equal, ids.reason)


def _result(what: str, count: int, num_different: int, note: str) -> PointResult:
    return PointResult(
        section="tokens",
        point=what,
        key=f"tokens/{what.replace(' ', '_')}",
        node="tokenizer.json",
        shape=(count,),
        max_abs=float(num_different),
        relative=num_different / max(count, 1),
        verdict="failed" if num_different else "passed",
        note=note,
    )
