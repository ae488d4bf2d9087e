"""`NearestDocuments`: the best documents of each query, while documents arrive in chunks and are not kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NearestDocuments"]

#: Queries that are compared with a chunk at the same time: with chunks of 8,192 documents their scores take 32 MB.
QUERIES = 1024


class NearestDocuments:
    """`NearestDocuments`: the `count` documents with the largest dot products, for each query.

    Its memory is 12 bytes for each query and place, whatever the number of documents.

    Attributes:
        queries: vectors of the queries, float32, (queries, dimension).
        scores: scores of each query's best documents, unsorted, float32, (queries, count); -inf where there is none yet.
        rows: rows of these documents in the order of arrival, int64, (queries, count); -1 where there is none yet.
    """

    def __init__(self, queries: NDArray[np.float32], count: int) -> None:
        """Begin without documents.

        Args:
            queries: vectors of length 1, (queries, dimension).
            count: documents to keep for each query.
        """
        self.queries = queries
        self._arrived = 0
        self.scores = np.full((len(queries), count), -np.inf, np.float32)
        self.rows = np.full((len(queries), count), -1, np.int64)

    def add(self, documents: NDArray[np.float32]) -> None:
        """Compare documents with all queries.

        Args:
            documents: vectors of length 1, (n, dimension).
        """
        for start in range(0, len(self.queries), QUERIES):
            part = slice(start, start + QUERIES)
            self._merge(part, self.queries[part] @ documents.T)
        self._arrived += len(documents)

    def _merge(self, part: slice, scores: NDArray[np.float32]) -> None:
        """Put the new scores that are better than the worst kept ones among the kept ones.

        After the first chunks few are better, so only these are sorted.
        """
        kept, count = self.scores[part], self.scores.shape[1]
        if self._arrived == 0 and scores.shape[1] > count:  # all are better than nothing
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            self.scores[part], self.rows[part] = np.take_along_axis(scores, best, axis=1), best
            return
        hits = scores > kept.min(axis=1)[:, None]
        numbers = hits.sum(axis=1)
        active = np.flatnonzero(numbers)
        if not len(active):
            return
        rows, columns = np.nonzero(hits[active])
        # Each hit has its place behind the kept scores of its row.
        places = np.arange(len(rows)) - (np.cumsum(numbers[active]) - numbers[active])[rows]
        wide = count + int(numbers.max())
        all_scores = np.full((len(active), wide), -np.inf, np.float32)
        all_rows = np.full((len(active), wide), -1, np.int64)
        all_scores[:, :count], all_rows[:, :count] = kept[active], self.rows[part][active]
        all_scores[rows, count + places] = scores[active[rows], columns]
        all_rows[rows, count + places] = self._arrived + columns
        best = np.argpartition(-all_scores, count - 1, axis=1)[:, :count]
        self.scores[part.start + active] = np.take_along_axis(all_scores, best, axis=1)
        self.rows[part.start + active] = np.take_along_axis(all_rows, best, axis=1)

    def ranked(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows and scores of the documents of a query, the best first; equal scores in the order of arrival."""
        there = self.rows[query] >= 0
        rows, scores = self.rows[query][there], self.scores[query][there]
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]
