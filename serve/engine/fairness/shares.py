"""`Shares`: tokens that wait for a model, by client and class. They decide whether a client may add a request.

A queue has a limit of tokens. A client that has tokens waiting may fill it up to `OCCUPIED`. The rest is free for clients
that have nothing waiting, so one client never fills the queue. A large request is computed in turns. It counts for a limited
number of tokens, so that it is admitted beside other requests.
"""

from __future__ import annotations

from typing import Final

from ..terms import SHARES, WEIGHTS, Client, Flow, Priority, Terms

__all__ = ["OCCUPIED", "Shares"]

#: Share of a limit up to which clients with waiting tokens, or with open requests, may fill it.
OCCUPIED: Final = 0.75

#: A request counts for at most this share of the limit, or for `LEAST_COUNTED` tokens if that is more.
LARGEST_SHARE: Final = 1 / 32
LEAST_COUNTED: Final = 4096


class Shares:
    """Waiting tokens by client and class. Not safe to use from several threads: the admission's lock guards it.

    Attributes:
        turn: tokens of a full batch: a large request gives at most so many before other clients have their turn.
        counted: waiting tokens of all clients, of large requests only the counted ones.
    """

    def __init__(self, max_tokens: int, turn: int) -> None:
        """Start without requests.

        Args:
            max_tokens: limit of waiting tokens.
            turn: tokens of a full batch.
        """
        self.turn = turn
        self.counted = 0
        self._max_tokens = max_tokens
        self._most = max(int(max_tokens * LARGEST_SHARE), LEAST_COUNTED)
        self._clients: dict[str, Client] = {}
        self._flows: dict[tuple[Priority, str], Flow] = {}

    def enter(self, terms: Terms) -> Flow:
        """Count an open request, and return its flow. `leave` ends it."""
        key = terms.priority, terms.client
        flow = self._flows.get(key)
        if flow is None:
            client = self._clients.get(terms.client)
            if client is None:
                client = self._clients[terms.client] = Client(terms.client)
            flow = self._flows[key] = Flow(terms.priority, client)
        flow.open += 1
        flow.client.open += 1
        return flow

    def leave(self, flow: Flow) -> None:
        """Count the end of a request whose tokens do not wait any more."""
        client = flow.client
        flow.open -= 1
        client.open -= 1
        if not flow.open:
            del self._flows[flow.priority, client.name]
            if not client.open:
                del self._clients[client.name]

    def charge(self, flow: Flow, before: int, after: int) -> None:
        """Change the waiting tokens of a request.

        Args:
            flow: flow of the request.
            before, after: waiting tokens of the request.
        """
        change = after - before
        flow.tokens += change
        if before > self._most or after > self._most:
            change = min(after, self._most) - min(before, self._most)
        flow.client.counted += change
        self.counted += change

    def refusal(self, flow: Flow, tokens: int) -> str | None:
        """Return the reason why a request must not be added now, or None if it may be added.

        A request of any size is admitted if no token waits.

        Args:
            flow: flow of the request.
            tokens: tokens of the request.
        """
        if not self.counted:
            return None
        limit, whose = self._max_tokens * SHARES[flow.priority], ""
        if flow.client.counted:
            limit, whose = limit * OCCUPIED, " for a client whose requests wait"
        if self.counted + min(tokens, self._most) <= limit:
            return None
        return f"{self.counted} tokens wait, and this request has {tokens}; the limit is {limit:.0f}{whose}"

    def tokens_before(self, flow: Flow) -> float:
        """Return the number of tokens that are computed before a new request of a flow.

        They are those of the flow itself, and those that other flows with work get meanwhile: their share by weight, and
        one turn of each.
        """
        weight, own = WEIGHTS[flow.priority], flow.tokens
        before = float(own)
        for other in self._flows.values():
            if other.tokens and other is not flow:
                ratio = WEIGHTS[other.priority] / weight
                before += min(other.tokens, own * ratio + self.turn * min(1.0, ratio))
        return before
