"""`RedisLedger`: use of limits that several servers count together, in Redis or Valkey. Open requests count by server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

import redis

from fletcher.runtime.errors import InputError

from ...errors import LimitStoreError
from .balance import Balance
from .ledger import Amounts, StoreRule, TableLedger
from .plan import Plan
from .quota import QUANTITIES

__all__ = ["RedisLedger"]

logger = logging.getLogger("fletcher.serve.access")

#: Seconds that a call may take, and for which this server counts alone after a failed one.
CALL_SECONDS: Final = 0.25
ALONE_SECONDS: Final = 5.0

#: Beginning of the names of the entries.
PREFIX: Final = "fletcher:limits:"

#: The algorithm of `ledger.settle` in Redis, with its clock and in microseconds, as Lua has no whole numbers above 2^53.
SCRIPT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local today = math.floor(clock[1] / 86400)
local midnight = (today + 1) * 86400000000 - now
local stored = redis.call('HMGET', KEYS[1], 'f0', 'f1', 'f2', 'day', 'u0', 'u1', 'u2')
local row = {}
for place = 1, 7 do row[place] = tonumber(stored[place] or '0') end
if row[4] ~= today then row[4], row[5], row[6], row[7] = today, 0, 0, 0 end
local changed = {unpack(row)}
local refused, retry = '', 0
for index = 1, 3 do
  local amount = tonumber(ARGV[1 + index])
  local cost, capacity, most = tonumber(ARGV[4 + index]), tonumber(ARGV[7 + index]), tonumber(ARGV[10 + index])
  if cost >= 0 then
    local begin = math.max(row[index], now)
    local late = begin + math.min(amount * cost, capacity) - now - capacity
    if late > 0.5 and amount > 0 and late > retry then refused, retry = 'r' .. index, late end
    changed[index] = math.floor(begin + amount * cost + 0.5)
  end
  if most >= 0 then
    local used = row[4 + index]
    if amount > 0 and used + amount > most and midnight > retry then refused, retry = 'd' .. index, midnight end
    changed[4 + index] = math.max(used + amount, 0)
  end
end
if refused == '' or ARGV[1] == '1' then
  row, refused, retry = changed, '', 0
  local keep = 172800
  for index = 1, 3 do keep = math.max(keep, math.ceil((row[index] - now) / 1000000)) end
  redis.call('HSET', KEYS[1], 'f0', string.format('%.0f', row[1]), 'f1', string.format('%.0f', row[2]),
    'f2', string.format('%.0f', row[3]), 'day', string.format('%.0f', row[4]), 'u0', string.format('%.0f', row[5]),
    'u1', string.format('%.0f', row[6]), 'u2', string.format('%.0f', row[7]))
  redis.call('EXPIRE', KEYS[1], keep)
end
local answer = {refused, string.format('%.0f', retry), string.format('%.0f', now)}
for place = 1, 7 do answer[3 + place] = string.format('%.0f', row[place]) end
return answer
"""


class RedisLedger:
    """Ledger in Redis. While Redis does not answer, a rule decides: the server counts alone, or it refuses.

    Attributes:
        failures: number of calls that failed. No call is made for some seconds after one.
        missed: number of charges that Redis has not got.
    """

    remote = True

    def __init__(self, url: str, table: TableLedger, down: StoreRule = "alone") -> None:
        """Prepare; the first charge connects.

        Args:
            url: address such as `redis://127.0.0.1:6379/0`.
            table: counts open requests, and everything while Redis does not answer.
            down: rule while Redis does not answer.

        Raises:
            InputError: the URL cannot be used.
        """
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=CALL_SECONDS, socket_connect_timeout=CALL_SECONDS, decode_responses=True
            )
        except ValueError as error:
            raise InputError(f"--limit-store cannot be used: {error}") from None
        self._script = self._client.register_script(SCRIPT)
        self._table = table
        self._down: StoreRule = down
        self._alone_until = 0.0
        self._lock = threading.Lock()
        self.failures = self.missed = 0

    def charge(self, client: str, plan: Plan, amounts: Amounts, *, opens: int = 0, force: bool = False) -> Balance:
        """Charge amounts, all or none, as `Ledger.charge`."""
        if opens:
            # Open requests end with their server, so they are counted there.
            open_here = self._table.charge(client, plan, (0, 0, 0), opens=opens, force=force)
            if open_here.refused:
                return open_here
        if not any(amount and counted for amount, counted in zip(amounts, plan.counted, strict=True)):
            return Balance("", 0.0, plan, (), 0, 0.0)  # the store would change nothing
        try:
            balance = self._ask(client, plan, amounts, force=force)
            if balance is None:
                balance = self._count_alone(client, plan, amounts, force=force)
        except BaseException:
            self._give_back(client, plan, opens)
            raise
        if balance.refused:
            self._give_back(client, plan, opens)
        return balance

    def _give_back(self, client: str, plan: Plan, opens: int) -> None:
        """Count a request as ended that is refused."""
        if opens > 0:
            self._table.charge(client, plan, (0, 0, 0), opens=-opens, force=True)

    def _ask(self, client: str, plan: Plan, amounts: Amounts, *, force: bool) -> Balance | None:
        """Charge amounts in Redis; return None if it does not answer."""
        if time.monotonic() < self._alone_until:
            return None
        try:
            return _balance(self._script([PREFIX + client], [int(force), *amounts, *plan.stored]), plan)
        except (redis.RedisError, OSError) as error:
            with self._lock:
                self.failures += 1
                self._alone_until = time.monotonic() + ALONE_SECONDS
            fields = {"error": type(error).__name__, "seconds": ALONE_SECONDS, "rule": self._down}
            logger.warning("the store of limits does not answer", extra={"fields": fields})
            return None

    def _count_alone(self, client: str, plan: Plan, amounts: Amounts, *, force: bool) -> Balance:
        """Charge amounts in this server alone.

        Raises:
            LimitStoreError: the rule is to refuse, and nothing is forced.
        """
        with self._lock:
            self.missed += 1
        if self._down == "refuse" and not force:
            raise LimitStoreError(
                f"the store of limits does not answer, so this server refuses clients with limits: retry after "
                f"{ALONE_SECONDS:g} s",
                ALONE_SECONDS,
            )
        return self._table.charge(client, plan, amounts, force=force)


def _balance(answer: Sequence[str], plan: Plan) -> Balance:
    """Return the balance in the script's answer."""
    refused, retry, now = answer[0], int(answer[1]) / 1e6, int(answer[2])
    full, rest = [int(text) * 1000 for text in answer[3:6]], [int(text) for text in answer[6:10]]
    name = "" if not refused else QUANTITIES[int(refused[1]) - 1] + ("-day" if refused[0] == "d" else "")
    return Balance(name, retry, plan, (0, *full, *rest), now * 1000, now / 1e6)
