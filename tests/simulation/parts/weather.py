"""`Weather`: conditions of one run, drawn from its seed: limits, speeds, failures, loads that hang."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["FOREVER", "DeviceWeather", "ModelWeather", "Weather"]

#: Seconds of a call that hangs: longer than any run.
FOREVER = 1e9


@dataclass(frozen=True, slots=True)
class DeviceWeather:
    """Behavior of one device.

    Attributes:
        seconds: seconds of a batch, besides those of its tokens.
        token_seconds: seconds of a token.
        fails: probability that a batch fails.
        hangs: probability that a batch hangs.
        late: seconds after which a batch that hangs ends.
        lost: probability that a failure is a loss of the device.
        memory: tokens of the largest batch that fits; only a fleet has devices with too little memory.
    """

    seconds: float
    token_seconds: float
    fails: float = 0.0
    hangs: float = 0.0
    late: float = FOREVER
    lost: float = 0.0
    memory: int = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelWeather:
    """Behavior of one model.

    Attributes:
        devices: its devices; several are a fleet.
        budget: tokens of a full batch.
        small: largest number of tokens of a small batch; 0 for none.
        load_seconds: seconds of a load.
        load_fails: probability that a load fails.
        load_hangs: probability that a load hangs.
        idle_seconds: seconds until the model sleeps, or None.
        changed: whether the admin exchanges it.
    """

    devices: tuple[DeviceWeather, ...]
    budget: int
    small: int = 0
    load_seconds: float = 0.5
    load_fails: float = 0.0
    load_hangs: float = 0.0
    idle_seconds: float | None = None
    changed: bool = True

    @property
    def healthy(self) -> bool:
        """Whether every batch is computed in time."""
        return not any(device.fails or device.hangs or device.memory < self.budget for device in self.devices)

    @property
    def steady(self) -> bool:
        """Whether the model is healthy, and it is loaded once."""
        return self.healthy and not self.changed and self.idle_seconds is None

    @property
    def batch_seconds(self) -> float:
        """Longest time of a full batch that does not hang."""
        return max(device.seconds + device.token_seconds * self.budget for device in self.devices)


@dataclass(frozen=True, slots=True)
class Weather:
    """Conditions of a run.

    Attributes:
        models: the models.
        queue_tokens: limit of waiting tokens.
        queue_seconds: longest expected wait.
        memory: limit of the predicted memory of open requests in bytes.
        budget: limit of bodies and answers in bytes.
        clients: number of requests over HTTP, and of those of threads.
        seconds: time in which the clients arrive.
        changes: number of changes of the models.
        stops_at: time of the stop in seconds; None after the last client.
        drain_seconds: longest time of a drain.
        load_limit: seconds that a load may take.
    """

    models: tuple[ModelWeather, ...]
    queue_tokens: int
    queue_seconds: float
    memory: int
    budget: int
    clients: tuple[int, int]
    seconds: float
    changes: int
    stops_at: float | None
    drain_seconds: float
    load_limit: float

    @classmethod
    def of(cls, chance: random.Random) -> Weather:
        """Draw the conditions of a run."""
        seconds = chance.choice([0.02, 0.2, 2.0, 20.0])
        return cls(
            models=tuple(_model(chance) for _ in range(chance.choice([1, 1, 2, 3]))),
            queue_tokens=chance.choice([300, 3000, 1 << 20]),
            queue_seconds=chance.choice([0.5, 5.0, 30.0]),
            memory=chance.choice([1 << 14, 1 << 17, 1 << 30]),
            budget=chance.choice([60_000, 400_000, 1 << 30]),
            clients=(chance.randint(5, 40), chance.randint(0, 12)),
            seconds=seconds,
            changes=chance.choice([0, 1, 4]),
            stops_at=seconds * chance.random() if chance.random() < 0.3 else None,
            drain_seconds=chance.choice([0.2, 5.0, 30.0]),
            load_limit=chance.choice([2.0, 60.0]),
        )


def _model(chance: random.Random) -> ModelWeather:
    troubled = chance.random() < 0.35
    count = chance.choice([1, 1, 2, 3])
    return ModelWeather(
        devices=tuple(_device(chance, troubled, count > 1) for _ in range(count)),
        budget=(budget := chance.choice([64, 256, 1024])),
        small=budget // 8 if chance.random() < 0.3 else 0,
        load_seconds=chance.choice([0.0, 0.3, 4.0]),
        load_fails=0.2 if troubled else 0.0,
        load_hangs=chance.choice([0.0, 0.0, 0.3]) if troubled else 0.0,
        idle_seconds=chance.choice([None, None, 0.5]),
        changed=chance.random() < 0.6,
    )


def _device(chance: random.Random, troubled: bool, in_fleet: bool) -> DeviceWeather:
    seconds, tokens = chance.choice([0.0005, 0.01, 0.2]), chance.choice([1e-6, 1e-4])
    if not troubled:
        return DeviceWeather(seconds, tokens)
    return DeviceWeather(
        seconds,
        tokens,
        fails=chance.choice([0.0, 0.05, 0.5, 1.0]),
        hangs=chance.choice([0.0, 0.0, 0.02]),
        late=chance.choice([200.0, FOREVER]),
        lost=0.5 if in_fleet else 0.0,
        memory=chance.choice([48, 1 << 30]) if in_fleet else 1 << 30,
    )
