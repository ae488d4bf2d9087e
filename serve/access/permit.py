"""`Permit`: one request's use of the limits of its client, from its arrival to its end."""

from __future__ import annotations

from collections import deque
from typing import Final

from ..errors import ForbiddenError, RateLimitError
from .grant import Grant
from .limits.balance import Balance, headers_of
from .limits.ledger import Ledger
from .limits.plan import Plan

__all__ = ["Permit"]

#: What a client may do about a limit, by the beginning of its name.
ADVICE: Final = {
    "requests": "send fewer requests",
    "tokens": "send fewer or shorter texts",
    "bytes": "send smaller bodies",
    "in_flight": "wait for the answers of your other requests",
}


class Permit:
    """Use of limits by one request. One thread at a time uses it; `correct` may run on another one.

    Attributes:
        remote: True if calls may wait for the network.
    """

    __slots__ = (
        "_balance",
        "_bytes",
        "_client",
        "_corrected",
        "_estimates",
        "_grant",
        "_ledger",
        "_open",
        "_plan",
        "_tokens",
        "remote",
    )

    def __init__(self, ledger: Ledger, client: str, grant: Grant) -> None:
        """Prepare; nothing is charged.

        Args:
            ledger: counts the use.
            client: name of the client in the ledger.
            grant: rights of the client.
        """
        self.remote = ledger.remote and grant.plan is not None
        self._ledger = ledger
        self._client = client
        self._grant = grant
        self._plan: Plan | None = grant.plan
        self._open = False
        self._bytes = self._tokens = self._corrected = 0
        self._estimates: deque[int] = deque()
        self._balance: Balance | None = None

    def enter(self, size: int = 1) -> None:
        """Charge one request.

        Args:
            size: bytes of its body as far as they are known; at least 1, so that a client in debt is refused.

        Raises:
            RateLimitError: the client is over a limit.
        """
        if self._plan is None:
            return
        self._balance = self._ledger.charge(self._client, self._plan, (1, 0, max(size, 1)), opens=1)
        self._check()
        self._open, self._bytes = True, max(size, 1)

    def spend(self, tokens: int) -> None:
        """Charge the tokens that a part of the request will have, as estimated. `leave` replaces them by the real number.

        Raises:
            RateLimitError: the client is over a limit.
        """
        if self._plan is None:
            return
        self._balance = self._ledger.charge(self._client, self._plan, (0, tokens, 0))
        self._check()
        self._tokens += tokens

    def pace(self, tokens: int) -> float:
        """Charge the tokens of a part of a stream. Too many are not refused: the stream waits.

        Returns:
            Seconds to wait before the part is submitted.

        Raises:
            RateLimitError: the limit of the day is used up.
        """
        self._estimates.append(tokens)
        try:
            self.spend(tokens)
        except RateLimitError as error:
            assert self._plan is not None and self._balance is not None
            if self._balance.refused.endswith("-day"):
                raise
            self._ledger.charge(self._client, self._plan, (0, tokens, 0), force=True)
            self._tokens += tokens
            return error.retry_after
        return 0.0

    def correct(self, tokens: int) -> None:
        """Replace the estimate of the oldest part of a stream by the real number of its tokens."""
        if self._plan is not None and self._estimates:
            difference = tokens - self._estimates.popleft()
            self._ledger.charge(self._client, self._plan, (0, difference, 0), force=True)
            self._corrected += difference

    def leave(self, tokens: int, size: int) -> None:
        """End the request: charge what it really used. Repeated calls do nothing.

        Args:
            tokens: tokens of its texts.
            size: bytes of its body.
        """
        if not self._open:
            return
        self._open = False
        assert self._plan is not None
        rest = (0, tokens - self._tokens - self._corrected, max(size, 1) - self._bytes)
        self._ledger.charge(self._client, self._plan, rest, opens=-1, force=True)

    def check_model(self, name: str) -> None:
        """Check that the client may use a model.

        Raises:
            ForbiddenError: its key is for other models.
        """
        key = self._grant.key
        if key is not None and key.models is not None and name not in key.models:
            raise ForbiddenError(f"this API key is not for the model {name!r}: it is for {', '.join(key.models)}")

    def check_dataset(self, name: str) -> None:
        """Check that the client may write a dataset of Longbow.

        Raises:
            ForbiddenError: its key is for other datasets.
        """
        key = self._grant.key
        if key is not None and key.datasets is not None and name not in key.datasets:
            raise ForbiddenError(f"this API key is not for the dataset {name!r}: it is for {', '.join(key.datasets)}")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers with the state of the limits after the latest charge."""
        return [] if self._balance is None else headers_of(self._balance)

    def _check(self) -> None:
        balance = self._balance
        assert balance is not None
        if balance.refused:
            limit = balance.refused
            advice = ADVICE[limit.partition("-")[0]]
            period = " of this day" if limit.endswith("-day") else ""
            raise RateLimitError(
                f"this client is over its limit of {limit.removesuffix('-day').replace('_', ' ')}{period}: {advice}, or "
                f"retry after {balance.retry:.3g} s",
                balance.retry,
                self.headers,
            )
