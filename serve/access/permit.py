"""`Permit`: one request's use of the limits of its client, from its arrival to its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ..errors import ForbiddenError, RateLimitError
from .grant import Grant
from .limits.balance import Balance, headers_of
from .limits.ledger import Ledger

__all__ = ["Permit"]

#: Places of quantities in `QUANTITIES`.
TOKENS: Final = 1
BYTES: Final = 2

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
        "_opens",
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
        self._ledger = ledger
        self._client = client
        self._grant = grant
        plan = self._plan = grant.plan
        self.remote = ledger.remote and plan is not None
        self._open = False
        self._opens = 0 if plan is None or plan.in_flight is None else 1
        self._bytes = self._tokens = self._corrected = 0
        self._estimates: deque[int] | None = None
        self._balance: Balance | None = None

    def enter(self, size: int = 1) -> None:
        """Charge one request.

        Args:
            size: bytes of its body as far as they are known; at least 1, so that a client in debt is refused.

        Raises:
            RateLimitError: the client is over a limit.
        """
        plan = self._plan
        if plan is None:
            return
        size = max(size, 1)
        balance = self._balance = self._ledger.charge(self._client, plan, (1, 0, size), opens=self._opens)
        if balance.refused:
            raise self._refusal(balance)
        self._open, self._bytes = True, size

    def spend(self, tokens: int) -> None:
        """Charge the tokens that a part of the request will have, as estimated. `leave` replaces them by the real number.

        Raises:
            RateLimitError: the client is over a limit.
        """
        plan = self._plan
        if plan is None or not plan.counted[TOKENS]:
            return
        balance = self._balance = self._ledger.charge(self._client, plan, (0, tokens, 0))
        if balance.refused:
            raise self._refusal(balance)
        self._tokens += tokens

    def pace(self, tokens: int) -> float:
        """Charge the tokens of a part of a stream. Too many are not refused: the stream waits.

        Returns:
            Seconds to wait before the part is submitted.

        Raises:
            RateLimitError: the limit of the day is used up.
        """
        if self._estimates is None:
            self._estimates = deque()
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
            if self._plan.counted[TOKENS]:
                self._ledger.charge(self._client, self._plan, (0, difference, 0), force=True)
            self._corrected += difference

    def leave(self, tokens: int, size: int) -> None:
        """End the request: charge what it really used. Repeated calls do nothing.

        Args:
            tokens: tokens of its texts.
            size: bytes of its body.
        """
        plan = self._plan
        if plan is None or not self._open:
            return
        self._open = False
        rest = (0, tokens - self._tokens - self._corrected, max(size, 1) - self._bytes)
        if self._opens or (rest[1] and plan.counted[TOKENS]) or (rest[2] and plan.counted[BYTES]):
            self._ledger.charge(self._client, plan, rest, opens=-self._opens, force=True)

    def check_model(self, name: str) -> None:
        """Check that the client may use a model.

        Raises:
            ForbiddenError: its key is for other models.
        """
        key = self._grant.key
        _check_allowed("model", name, None if key is None else key.models)

    def check_dataset(self, name: str) -> None:
        """Check that the client may write a dataset of Longbow.

        Raises:
            ForbiddenError: its key is for other datasets.
        """
        key = self._grant.key
        _check_allowed("dataset", name, None if key is None else key.datasets)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers with the state of the limits after the latest charge."""
        return [] if self._balance is None else headers_of(self._balance)

    def _refusal(self, balance: Balance) -> RateLimitError:
        """Return the error about a limit that refuses."""
        limit = balance.refused
        advice = ADVICE[limit.partition("-")[0]]
        period = " of this day" if limit.endswith("-day") else ""
        return RateLimitError(
            f"this client is over its limit of {limit.removesuffix('-day').replace('_', ' ')}{period}: {advice}, or "
            f"retry after {balance.retry:.3g} s",
            balance.retry,
            self.headers,
        )


def _check_allowed(kind: str, name: str, allowed: Sequence[str] | None) -> None:
    if allowed is not None and name not in allowed:
        raise ForbiddenError(f"this API key is not for the {kind} {name!r}: it is for {', '.join(allowed)}")
