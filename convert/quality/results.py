"""`QualityReport` and `ComparisonReport`: results of the measures, as structs that JSON, pages and tables show."""

from __future__ import annotations

import msgspec

__all__ = [
    "ArtifactComparison",
    "Compressed",
    "Distribution",
    "DuplicatePair",
    "Duplicates",
    "Geometry",
    "Hubness",
    "LabelShare",
    "Map",
    "MovedText",
    "QualityReport",
    "QualityResult",
    "Retrieval",
    "Robustness",
    "Separability",
    "Words",
]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """`Distribution`: distribution of cosines.

    Attributes:
        count: number of values.
        mean: their mean.
        deviation: their standard deviation.
        p1: first percentile.
        p25: first quartile.
        median: median.
        p75: third quartile.
        p99: ninety-ninth percentile.
        histogram: counts in bins of equal width from -1 to 1.
    """

    count: int
    mean: float
    deviation: float
    p1: float
    p25: float
    median: float
    p75: float
    p99: float
    histogram: tuple[int, ...]


class Geometry(msgspec.Struct, frozen=True, kw_only=True):
    """`Geometry`: description of the vectors as a whole.

    Attributes:
        random_pairs: cosines of random pairs of different texts.
        neighbors: cosine of each text with its nearest other text.
        tenth_neighbors: cosine of each text with its tenth nearest text.
        anisotropy: mean cosine of all pairs; 0 means directions without a preferred one.
        effective_rank: exponential of the entropy of the singular values' shares (Roy and Vetterli).
        dimension: length of a vector.
        dimensions_of_variance: principal components that hold 90 % of the variance.
        first_component: share of the variance along the first principal component.
        uniformity: log mean exp(-2 |x - y|²) (Wang and Isola); lower is more evenly spread.
    """

    random_pairs: Distribution
    neighbors: Distribution
    tenth_neighbors: Distribution
    anisotropy: float
    effective_rank: float
    dimension: int
    dimensions_of_variance: int
    first_component: float
    uniformity: float


class Hubness(msgspec.Struct, frozen=True, kw_only=True):
    """`Hubness`: distribution of the number of texts that have a text among their nearest neighbors.

    Attributes:
        neighbors: number of nearest neighbors.
        skewness: skewness of that number; above about 2, a few texts (hubs) are neighbors of very many.
        never: share of texts that are a neighbor of none.
        largest: largest number.
        largest_text: beginning of the text that has it.
    """

    neighbors: int
    skewness: float
    never: float
    largest: int
    largest_text: str


class DuplicatePair(msgspec.Struct, frozen=True, kw_only=True):
    """`DuplicatePair`: two different texts that are nearly equal.

    Attributes:
        first: beginning of the text that comes first.
        second: beginning of the other text.
        cosine: their cosine.
    """

    first: str
    second: str
    cosine: float


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """`Duplicates`: equal and nearly equal texts.

    Attributes:
        threshold: smallest cosine of a near-duplicate.
        copies: texts that equal an earlier one letter by letter.
        copies_share: their share of all texts that are not empty.
        near_share: share of the different texts that have a near-duplicate among them.
        pairs: closest pairs.
    """

    threshold: float
    copies: int
    copies_share: float
    near_share: float
    pairs: tuple[DuplicatePair, ...]


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """`Words`: fit of the tokenizer's vocabulary and of the longest input to the texts.

    Attributes:
        texts: number of texts that were looked at.
        unknown_token: the token of unknown parts; None if the tokenizer has none, because it can write every text.
        unknown: share of the tokens that are unknown, special tokens not counted.
        texts_with_unknown: share of the texts with an unknown token.
        split_words: share of the words that are not in the vocabulary as a whole, and are split into pieces.
        tokens_per_word: mean number of tokens of a word.
        mean_tokens: mean number of tokens of a text, with special tokens, before truncation.
        truncated: share of all texts that are longer than the longest input.
        lost_tokens: share of all tokens that truncation cuts.
    """

    texts: int
    unknown_token: str | None
    unknown: float
    texts_with_unknown: float
    split_words: float
    tokens_per_word: float
    mean_tokens: float
    truncated: float
    lost_tokens: float


class LabelShare(msgspec.Struct, frozen=True, kw_only=True):
    """`LabelShare`: one label.

    Attributes:
        label: its name.
        texts: number of measured texts that have it.
        silhouette: mean silhouette of these texts.
    """

    label: str
    texts: int
    silhouette: float


class Separability(msgspec.Struct, frozen=True, kw_only=True):
    """`Separability`: separation of labeled groups. Accuracies are means over five parts that were not trained on.

    Attributes:
        texts: number of measured texts.
        left_out: texts without a label, with a rare one, or beyond the number that is measured.
        labels: the labels.
        silhouette: mean silhouette by cosine distance, -1 to 1.
        probe_accuracy: accuracy of a linear probe (logistic regression).
        probe_f1: its F1, mean over the labels.
        neighbors: number of neighbors that vote.
        neighbors_accuracy: accuracy of the vote of the nearest neighbors.
        neighbors_f1: its F1, mean over the labels.
        majority: share of the most frequent label: the accuracy of a guess.
        alignment: mean squared distance of two texts of one label (Wang and Isola).
    """

    texts: int
    left_out: int
    labels: tuple[LabelShare, ...]
    silhouette: float
    probe_accuracy: float
    probe_f1: float
    neighbors: int
    neighbors_accuracy: float
    neighbors_f1: float
    majority: float
    alignment: float


class Retrieval(msgspec.Struct, frozen=True, kw_only=True):
    """`Retrieval`: metrics of trec_eval, means over the queries with a judgment.

    Attributes:
        queries: number of queries.
        documents: number of documents.
        judgments: number of judgments above 0.
        missing: judgments above 0 of documents that are not among the texts; they count as not found.
        ndcg: nDCG of the first ten documents.
        recall_10: share of the relevant documents among the first ten.
        recall_100: share of the relevant documents among the first hundred.
        mrr: reciprocal rank of the first relevant document among the first ten, else 0.
        alignment: mean squared distance of a query and a relevant document (Wang and Isola).
    """

    queries: int
    documents: int
    judgments: int
    missing: int
    ndcg: float
    recall_10: float
    recall_100: float
    mrr: float
    alignment: float


class Compressed(msgspec.Struct, frozen=True, kw_only=True):
    """`Compressed`: loss of shorter vectors and smaller types, on texts that PCA was not fitted on.

    Attributes:
        method: `full`, `cut` (the first elements, as Matryoshka models are trained for), `pca`, or `pca-whitened`.
        dimension: length of the vectors.
        trained: True if the model was trained for that length, for `cut`.
        type: `float32`, `float16`, `int8`, or `binary`, whose best 40 bits are rescored with int8 vectors.
        bytes: size of a stored vector in the index; `binary` reads `dimension` bytes more of each candidate.
        overlap: share of the ten nearest full float32 vectors that a search returns, mean over the texts.
        ndcg: nDCG of the first ten documents; None without judgments, and for float16 and binary.
    """

    method: str
    dimension: int
    trained: bool
    type: str
    bytes: int
    overlap: float
    ndcg: float | None = None


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """`Robustness`: change of the vectors when the texts change a little.

    Attributes:
        change: `lower case`, `upper case`, `typos` (two neighboring letters exchanged in every tenth word), `first half` (of
            the words).
        texts: number of texts that the change makes different.
        cosine_mean: mean cosine of a changed text with the original.
        cosine_p5: fifth percentile of that cosine.
        found: share of the changed texts whose nearest text is the original.
    """

    change: str
    texts: int
    cosine_mean: float
    cosine_p5: float
    found: float


class Map(msgspec.Struct, frozen=True, kw_only=True):
    """`Map`: the texts in the plane.

    Attributes:
        rows: rows of the shown texts among the different texts.
        pca: two coordinates of each.
        umap: two coordinates of each.
        pca_variance: share of the variance that the two coordinates of `pca` hold.
    """

    rows: tuple[int, ...]
    pca: tuple[tuple[float, float], ...]
    umap: tuple[tuple[float, float], ...]
    pca_variance: float


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """`QualityReport`: the quality of one artifact's vectors on texts.

    Attributes:
        sentence: the result in one sentence.
        model: name of the model.
        artifact: folder of the artifact.
        digest: digest of the artifact.
        variant: name of the graph that ran.
        proof: origin of the artifact's canary in words.
        source: name of the file of texts.
        input_type: input type of the texts.
        texts: number of texts.
        empty: empty texts, which are left out.
        different: number of different texts, which are measured.
        geometry: description of the vectors as a whole.
        hubness: distribution of neighbors.
        duplicates: equal and nearly equal texts.
        words: fit of the vocabulary.
        robustness: change of the vectors when texts change.
        compressed: loss of shorter vectors and smaller types.
        advice: the smallest of `compressed`, without `binary`, that keeps `min_overlap` of the neighbors; None if none does.
        min_overlap: smallest share of neighbors that the advice keeps.
        labels: separation of labeled groups; None without labels.
        retrieval: metrics of queries; None without judgments.
        seconds: time of the measures.
        embedding_seconds: time of the embedding.
        time: end of the measurement, UTC.
        tools: versions of packages by name.
    """

    sentence: str
    model: str
    artifact: str
    digest: str
    variant: str
    proof: str
    source: str
    input_type: str
    texts: int
    empty: int
    different: int
    geometry: Geometry
    hubness: Hubness
    duplicates: Duplicates
    words: Words
    robustness: tuple[Robustness, ...]
    compressed: tuple[Compressed, ...]
    advice: Compressed | None
    min_overlap: float
    labels: Separability | None
    retrieval: Retrieval | None
    seconds: float
    embedding_seconds: float
    time: str
    tools: dict[str, str]


class MovedText(msgspec.Struct, frozen=True, kw_only=True):
    """`MovedText`: a text whose neighbors differ between two artifacts.

    Attributes:
        text: its beginning.
        overlap: share of its ten neighbors that both artifacts have.
        correlation: rank correlation of its similarities to other texts.
        nearest: beginning of its nearest text by the first artifact.
        other_nearest: beginning of its nearest text by the second artifact.
    """

    text: str
    overlap: float
    correlation: float
    nearest: str
    other_nearest: str


class ArtifactComparison(msgspec.Struct, frozen=True, kw_only=True):
    """`ArtifactComparison`: two artifacts on the same texts.

    Attributes:
        sentence: the result in one sentence.
        overlap: share of the ten nearest neighbors that both have, mean over the texts.
        spearman: rank correlation of the similarities of pairs of texts.
        moved: the texts that moved most, the largest change first.
    """

    sentence: str
    overlap: float
    spearman: float
    moved: tuple[MovedText, ...]


class QualityResult(msgspec.Struct, frozen=True, kw_only=True):
    """`QualityResult`: the result of the command, and the content of its JSON file.

    Attributes:
        reports: report of each artifact.
        comparison: comparison of two artifacts; None with one.
    """

    reports: tuple[QualityReport, ...]
    comparison: ArtifactComparison | None = None
