"""`SimulatedModel`: backend with a simulated device or a real `Fleet` of them. Its vectors can be calculated by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.batch import Batch
from fletcher.runtime.errors import ArtifactError, DeviceLostError, DeviceMemoryError, NotFiniteError, ProviderError
from fletcher.runtime.fleet.fleet import Fleet
from fletcher.runtime.fleet.member import FleetDevice
from fletcher.runtime.inputs import Inputs, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.session.counters import EncoderMetrics
from fletcher.runtime.session.session import Session
from fletcher.runtime.tasks.task import Task
from fletcher.serve.models.spec import ModelSpec

from ...serve.fake_encoder import DIMENSION, FakeEncoder, expected, ids_of, info
from ..stage.world import Violation, the_world
from .weather import FOREVER, DeviceWeather, ModelWeather

__all__ = ["Loads", "SimulatedModel", "right_vector"]

#: Slots of a device in a fleet.
SLOTS = 2

#: Texts above which tokenizing takes time.
FEW_TEXTS = 64

#: Texts for which every device gives NaN, and texts for which the library of every device raises an error.
POISON_IDS, BREAKING_IDS = tuple(ids_of("poison")), tuple(ids_of("breaks"))


@cache
def right_vector(text: str) -> bytes:
    """Return the vector that a client must get for a text, float32."""
    return expected(text).tobytes()


class Device(Session):
    """Session of one device, which takes its time and may fail, hang, or have too little memory.

    Attributes:
        hung: number of batches that hang now.
    """

    provider = "simulated"

    def __init__(self, name: str, weather: DeviceWeather) -> None:
        self.name = name
        self.hung = 0
        self._weather = weather
        self._closed = self._lost = False

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        world, weather = the_world(), self._weather
        assert isinstance(batch, Encodings)
        self._require_open()
        if batch.num_tokens > weather.memory and len(batch) > 1:
            raise DeviceMemoryError(f"{self.name} has too little memory")
        if self._lost:
            raise DeviceLostError(f"{self.name} is lost")
        if weather.hangs and world.chance.random() < weather.hangs:
            world.note(f"{self.name} hangs")
            self.hung += 1
            world.sleep(weather.late)
            self.hung -= 1
        world.sleep((weather.seconds + weather.token_seconds * batch.num_tokens) * world.chance.uniform(0.5, 1.0))
        self._require_open()
        if weather.fails and world.chance.random() < weather.fails:
            self._lost = world.chance.random() < weather.lost
            raise (DeviceLostError if self._lost else RuntimeError)(f"{self.name} failed")
        places = np.arange(batch.num_tokens) - np.repeat(batch.offsets[:-1], batch.lengths) + 1
        powers = batch.ids.astype(np.int64)[:, None] * places[:, None] ** np.arange(DIMENSION)
        vectors: NDArray[np.float32] = (np.add.reduceat(powers, batch.offsets[:-1]) % 1009).astype(np.float32)
        return vectors

    def _require_open(self) -> None:
        if self._closed:
            raise Violation(f"{self.name} computes after it was closed")

    def close(self) -> None:
        if self._closed:
            raise Violation(f"{self.name} is closed twice")
        self._closed = True


class SimulatedModel(FakeEncoder):
    """A `Backend` that loads took from the weather.

    Attributes:
        name: name and number of the load.
        closed: whether the engine has closed it.
        simulated: the devices of its first session.
    """

    def __init__(self, name: str, weather: ModelWeather) -> None:
        super().__init__()
        self.name = name
        self.closed = False
        self._weather = weather
        self.simulated = [Device(f"{name}/{index}", each) for index, each in enumerate(weather.devices)]
        self.session: Session = self.simulated[0]
        if len(self.simulated) > 1:
            self.session = Fleet(
                [
                    FleetDevice(f"sim:{index}", device, SLOTS, open=lambda index=index: self._reopen(index))  # type: ignore[misc]
                    for index, device in enumerate(self.simulated)
                ]
            )
        slots = SLOTS * len(self.simulated) if isinstance(self.session, Fleet) else SLOTS
        self.info = info(
            workers=slots, token_budget=weather.budget, small_tokens=weather.small, devices=len(self.simulated)
        )

    def _reopen(self, index: int) -> Session:
        world, weather = the_world(), self._weather
        world.sleep(weather.load_seconds)
        if world.chance.random() < 0.3:
            raise ProviderError("the device is still away")
        return Device(f"{self.name}/{index} again", weather.devices[index])

    @property
    def hung(self) -> bool:
        """Whether a batch hangs on one of its devices."""
        return any(device.hung for device in self.simulated)

    def prepare(self, inputs: Inputs, options: EmbedOptions, output: Any, /, *, salt: str = "") -> Task:
        self._require_open()
        task = super().prepare(inputs, options, output, salt=salt)
        if len(task.encodings) > FEW_TEXTS and not isinstance(inputs, TokenIds):
            the_world().sleep(1e-4 * len(task.encodings))
        return task

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        self._require_open()
        values = self.session.run(batch, output)
        rows = [
            tuple(batch.ids[start:end].tolist()) for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)
        ]
        if BREAKING_IDS in rows:
            raise RuntimeError("the library failed")
        if POISON_IDS in rows:
            bad = [number for number, row in enumerate(rows) if row == POISON_IDS]
            raise NotFiniteError(bad, f"the session gave NaN or infinity for row {bad[0]}")
        return values

    def _require_open(self) -> None:
        if self.closed:
            raise Violation(f"{self.name} is used after it was closed")

    def metrics(self) -> EncoderMetrics:
        return EncoderMetrics({}, self.session.metrics())

    def close(self) -> None:
        """Close the sessions. A real encoder waits for its batches, so the device must have none that hang."""
        the_world().note(f"close {self.name}")
        if self.closed:
            raise Violation(f"{self.name} is closed twice")
        self.closed = True
        self.session.close()


class Loads:
    """Loader of the models of a run.

    Attributes:
        opened: all backends that were loaded.
    """

    def __init__(self, weather: dict[str, ModelWeather]) -> None:
        self._weather = weather
        self.opened: list[SimulatedModel] = []
        self.calm = True

    def __call__(self, spec: ModelSpec) -> SimulatedModel:
        world, weather = the_world(), self._weather[spec.name]
        number = len(self.opened)
        if not self.calm:  # the first loads succeed, so that there is a server
            if world.chance.random() < weather.load_hangs:
                world.note(f"load of {spec.name} hangs")
                world.sleep(FOREVER)
            world.sleep(weather.load_seconds)
            if world.chance.random() < weather.load_fails:
                raise ArtifactError(f"{spec.name} cannot be loaded")
        model = SimulatedModel(f"{spec.name}#{number}", weather)
        self.opened.append(model)
        world.note(f"loaded {model.name}")
        return model
