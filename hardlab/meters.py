"""Running statistics of a run: means over an epoch, seconds by part, images per second."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

SAY_EVERY = 5.0  # seconds between two progress lines


class Epoch:
    """Sums over the steps of the current epoch: the terms of the loss, on the device, and seconds by part."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.steps = 0.0
        self.terms: dict[str, Tensor | float] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def add(self, means: Mapping[str, Tensor]) -> None:
        """Add a step's terms, 0-dim tensors, without reading from the device."""
        self.steps += 1
        for name, value in means.items():
            self.terms[name] = self.terms.get(name, 0.0) + value.double()

    def means(self) -> dict[str, float]:
        """Term -> its mean over the steps; a step without it counts as 0."""
        return {name: float(total) / self.steps for name, total in self.terms.items()}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the seconds spent inside to those of ``part`` and to the total."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[part] += seconds
        self.seconds["total"] += seconds

    def around(self, part: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items, and add the time spent waiting for each to ``part``."""
        iterator = iter(items)
        while True:
            with self.time(part):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def dump(self) -> dict[str, float]:
        """The sums as plain numbers for a checkpoint, so that a resumed epoch's row covers all its steps."""
        flat = {f"term:{name}": float(total) for name, total in self.terms.items()}
        flat |= {f"seconds:{part}": s for part, s in self.seconds.items()}
        return flat | ({"steps": self.steps} if self.steps else {})

    def restore(self, flat: Mapping[str, float]) -> None:
        self.clear()
        if not all(isinstance(key, str) and isinstance(value, int | float) for key, value in flat.items()):
            raise ValueError("the sums of its current epoch are not numbers")
        self.steps = flat.get("steps", 0.0)
        for key, value in flat.items():
            kind, _, name = key.partition(":")
            if kind == "term":
                self.terms[name] = value
            elif kind == "seconds":
                self.seconds[name] = value


class Rate:
    """Images per second over the steps of this process, and the estimated time left."""

    def __init__(self, left: int, batch_size: int) -> None:
        self.left, self.batch_size, self.done = left, batch_size, 0
        self.start = self.said = time.monotonic()

    def tick(self) -> None:
        self.done += 1

    def images_per_s(self) -> float:
        return self.done * self.batch_size / max(1e-9, time.monotonic() - self.start)

    def due(self) -> bool:
        if time.monotonic() - self.said < SAY_EVERY:
            return False
        self.said = time.monotonic()
        return True

    def describe(self) -> str:
        per_step = (time.monotonic() - self.start) / max(1, self.done)
        minutes, seconds = divmod(round((self.left - self.done) * per_step), 60)
        return f"{self.images_per_s():.0f} images/s, {minutes} min {seconds:02d} s left"
