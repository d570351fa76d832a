"""The curves of a run under way, read from its files, in a notebook, a terminal and TensorBoard."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from hardlab import rich
from hardlab.errors import HardlabError
from hardlab.files import read_manifest, read_own_lines

CURVES = {"loss": "loss", "std": "spread of the predictions", "knn": "accuracy of kNN"}
_POINTS = 300  # of a curve that is drawn


class Live:
    """A run as its files have it: how far it is, its curves, and what its health monitor said.

    In a notebook it shows itself as curves, as text it is one line a curve. ``read`` reads the files again; a run
    that has not begun is empty. HardlabError for damaged files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.about: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.read()

    def read(self) -> Live:
        """Read the files again, and return this object."""
        if (self.path / "manifest.json").exists():
            self.about = read_manifest(self.path / "manifest.json")
            self.rows = read_own_lines(self.path, "metrics.jsonl")
        return self

    @property
    def state(self) -> str:
        """running, done, stopped or failed; ``not started`` without a manifest."""
        return str(self.about.get("state", "not started"))

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 where they are not known yet."""
        config, count = self.about.get("config"), self.about.get("data", {}).get("count", 0)
        return int(config["epochs"] * (count // config["batch_size"])) if config else 0

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((int(row["step"]) for row in self.rows), default=0)

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Name -> (step, value) of the logged numbers of ``CURVES`` that are finite."""
        named = {name: [(r["step"], r[name]) for r in self.rows if r["kind"] in ("step", "epoch") and name in r]
                 for name in CURVES if name != "loss"}  # fmt: skip
        named = {"loss": [(r["step"], r["loss"]) for r in self.rows if r["kind"] == "step"]} | named
        finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in named.items()}
        return {name: points for name, points in finite.items() if points}

    def _head(self) -> str:
        rates = [row["images_per_s"] for row in self.rows if row["kind"] == "step" and "images_per_s" in row]
        pace = f", {rates[-1]:,.0f} images/s" if rates else ""
        return f"{self.path.name}: {self.state}, step {self.step} of {self.total}{pace}"

    def _alarms(self) -> list[str]:
        return [
            f"{row['rule']} (step {row['step']}): {row['sentence']}" for row in self.rows if row["kind"] == "health"
        ]

    def __repr__(self) -> str:
        lines = [self._head()]
        for name, points in self.curves().items():
            values = [y for _, y in points]
            lines.append(f"  {CURVES[name]:26}{rich.spark(values, 30):30}  {values[0]:.4g} to {values[-1]:.4g}")
        return "\n".join(lines + [f"  {alarm}" for alarm in self._alarms()])

    def _repr_html_(self) -> str:
        share = self.step / self.total if self.total else 0.0
        drawn = [rich.curve(_thinned(points), CURVES[name]) for name, points in self.curves().items()]
        alarms = [f"<p>{rich.escape(alarm)}</p>" for alarm in self._alarms()]
        return "".join([f"<p>{rich.escape(self._head())} {rich.bar(share, 12)}</p>", *drawn, *alarms])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / _POINTS)
    return [*points[:-1:stride], points[-1]]


def check(paths: Sequence[Path]) -> None:
    """Raise HardlabError for a folder that is no run."""
    for path in paths:
        if not (path / "manifest.json").exists():
            raise HardlabError(f"{path} is not a run: it has no manifest.json.")


def watch(
    paths: Sequence[Path], *, out: TextIO = sys.stdout, events: Path | None = None, every: float = 2.0
) -> list[Live]:
    """Show runs: in a terminal anew every so many seconds until none of them is running, elsewhere once.

    events: a folder that gets their numbers for TensorBoard, until none of them is running. HardlabError for a folder
    that is no run, and for events without the package tensorboard.
    """
    check(paths)
    lives = [Live(path) for path in paths]
    writers = [Events(events / path.name) for path in paths] if events else []
    drawn = 0
    while True:
        for writer, live in zip(writers, lives):
            writer.add(live)
        going = any(live.state == "running" for live in lives) and (out.isatty() or bool(events))
        if out.isatty() or not going:
            lines = "\n".join(map(repr, lives)).splitlines()
            if out.isatty():  # a line that wraps would be two to go up
                lines = [line[: shutil.get_terminal_size().columns - 1] for line in lines]
            out.write((f"\x1b[{drawn}A\x1b[J" if drawn else "") + "\n".join(lines) + "\n")
            out.flush()
            drawn = len(lines) if out.isatty() else 0
        if not going:
            return lives
        time.sleep(every)
        for live in lives:
            live.read()


class Events:
    """Writes a run's logged numbers as events of TensorBoard into a folder, where it replaces events of before."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            raise HardlabError(f"TensorBoard is not installed ({e}): install the extra 'tensorboard'.") from None
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        self.written = 0

    def add(self, live: Live) -> None:
        """Write the rows that were logged since the last call."""
        for row in live.rows[self.written :]:
            for name, value in _numbers(row):
                self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self.written = len(live.rows)
        self.writer.flush()


def _numbers(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row by name, those of its tables as ``table.name``."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", number) for name, number in _numbers(value))
        elif isinstance(value, int | float) and key not in ("step", "epoch"):
            yield key, value
