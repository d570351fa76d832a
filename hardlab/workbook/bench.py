"""Measures the training steps of a recipe: images a second, memory, where time goes, and which setting is fastest.

Each contestant is the unchanged trainer in a process of its own (``bench_work``); they take turns, so that a load of
the machine meets all of them.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardlab import compatible, config, recipes
from hardlab.config import Run
from hardlab.errors import HardlabError
from hardlab.workbook.timing import Ratio, Seconds

WORK = [sys.executable, "-m", "hardlab.workbook.bench_work"]
WARM = 6  # steps before the first timed one: optimisers make their state, networks are compiled, graphs recorded
LIMIT_S = 600.0  # for the first steps of a contestant, or for a turn
END_S = 5.0  # for its process to end by itself
STEPS, ROUNDS = 10, 7


@dataclass
class Contestant:
    """A run to measure, and what was measured. settings: in which it differs from the others of its group.

    group: contestants of one are compared with the first of them. facts: what its process says of itself. rounds:
    seconds of a step in each turn. parts: the same by part, with ``profile``. first_s: seconds of the steps before.
    error: why it could not be measured.
    """

    recipe: str
    run: Run
    group: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    profile: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    first_s: float | None = None
    peak_memory_mb: float | None = None
    error: str | None = None

    @property
    def seconds(self) -> Seconds:
        return Seconds(self.rounds)

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={config.written(value)}" for key, value in self.settings.items()) or self.recipe


def alike(run: Run) -> Run:
    """``run`` with steps that all cost the same: nothing is saved or monitored, and no step fills a bank."""
    changes: dict[str, Any] = {"logs.monitor_every": 0, "logs.checkpoint_every": 10**6}
    if any(s.name == "adco" for s in run.hard):
        changes["hard.adco.init"] = "random"  # instead of the keys of the first steps
    if run.parent is not None:
        changes["parent.epochs"] = 0
    return run.with_(changes)


def prepared(recipe: str, rung: str, given: Mapping[str, Any], steps: int) -> Run:
    """The run of a recipe, on the built-in images unless ``given`` names others, for at least twice ``steps`` steps.

    Its steps are alike, unless ``given`` says otherwise. Raises HardlabError.
    """
    given = {"data": {"name": "shapes"}} | dict(given)
    run = alike(recipes.recipe(recipe, rung, given))
    if "hard.adco.init" in given:
        run = run.with_({"hard.adco.init": given["hard.adco.init"]})
    if run.epochs == 0:
        raise HardlabError(f"Recipe '{recipe}' takes no training steps with epochs=0: there is nothing to measure.")
    count, _ = compatible.known_images(run)
    if count is not None and count >= run.batch_size:
        per_epoch = count // run.batch_size
        run = run.with_({"epochs": max(run.epochs, 2 * (steps // per_epoch + 2))})
    return run


def contestants(
    recipe: str,
    rung: str,
    given: Mapping[str, Any],
    steps: int,
    compare: tuple[str, Sequence[Any]] | None,
    profile: bool,
) -> list[Contestant]:
    """The contestants of a recipe: one, or one for each value of the setting that is compared. Raises HardlabError."""
    variants: list[dict[str, Any]] = [{}] if compare is None else [{compare[0]: value} for value in compare[1]]
    runs = [prepared(recipe, rung, {**given, **settings}, steps) for settings in variants]
    for run in runs:
        compatible.check(run)
    return [Contestant(recipe, run, 0, settings, profile) for run, settings in zip(runs, variants, strict=True)]


def comparison(text: str) -> tuple[str, list[Any]]:
    """Parse ``execution=eager,compile``: a setting and its values. Raises HardlabError for fewer than two."""
    key, _, values = text.partition("=")
    parsed = [config.value(value) for value in values.split(",") if value.strip()]
    if len(parsed) < 2:
        raise HardlabError(f"--compare {text}: name a setting and two values or more, as in execution=eager,compile.")
    return key, parsed


# ------------------------------------------------------------------------------------------------ the processes


class _Child:
    """The process of a contestant."""

    def __init__(self, about: Contestant, device: str, threads: int | None, environment: Mapping[str, str]) -> None:
        self.about = about
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lives as long as the process
        self.process = subprocess.Popen(
            WORK, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, env={**os.environ, **environment},
        )  # fmt: skip
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        run = about.run.model_dump(mode="json")
        self.tell(json.dumps({"run": run, "device": device, "threads": threads, "profile": about.profile}))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the next answer says why

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; if none comes in time, or the process has failed, None and the error of the contestant."""
        try:
            line = self.answers.get(timeout=max(0.01, seconds))
        except queue.Empty:
            self.about.error = "it was not ready in time"
            self.process.kill()
            return None
        said: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        self.about.error = said.get("error")
        return None if self.about.error else said

    def _last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return lines[-1][:300] if lines else f"its process ended with status {self.process.returncode}"

    def end(self) -> None:
        """Wait for the process, which ends with its input, so that those that it started end too."""
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@contextmanager
def _children(entered: Sequence[Contestant], device: str, threads: int | None) -> Iterator[list[_Child]]:
    compiled = sum(about.run.execution != "eager" for about in entered)
    compilers = max(1, (os.cpu_count() or 1) // max(1, compiled))  # of torch.compile, in each process
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": str(compilers)}
    children: list[_Child] = []
    try:
        for about in entered:
            children.append(_Child(about, device, threads, environment))
        yield children
    finally:
        for child in children:
            with suppress(BrokenPipeError):
                child.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        for child in children:
            child.end()


def measure(
    entered: Sequence[Contestant],
    device: str = "auto",
    threads: int | None = None,
    steps: int = STEPS,
    rounds: int = ROUNDS,
    limit_s: float = LIMIT_S,
    budget_s: float = math.inf,
) -> None:
    """Measure contestants, in place: ``rounds`` turns of ``steps`` steps each, after the first steps of all at once.

    limit_s: those that have not taken their first steps by then are left out. budget_s: no turn begins later. What
    fails has an ``error``.
    """
    start = time.monotonic()
    until = start + limit_s
    with _children(entered, device, threads) as children:
        for child in children:
            if (facts := child.hear(until - time.monotonic())) is not None:
                child.about.facts = facts
                child.tell(str(WARM))
        for child in children:
            if child.about.error is None and (said := child.hear(until - time.monotonic())) is not None:
                child.about.first_s = said["seconds"] * WARM
        for i in range(rounds):
            for child in children[:: 1 if i % 2 == 0 else -1]:
                if child.about.error is not None or time.monotonic() > start + budget_s:
                    continue
                child.tell(str(steps))
                if (said := child.hear(LIMIT_S)) is not None:
                    child.about.rounds.append(said["seconds"])
                    child.about.parts.append(said["parts"])
                    child.about.peak_memory_mb = said["peak_memory_mb"]
        for child in children:
            if child.about.error is None and not child.about.rounds:
                child.about.error = "no time was left for it"


# ------------------------------------------------------------------------------------------------ the results


def rate(about: Contestant) -> tuple[float, tuple[float, float]]:
    """Images a second, and their 95 % interval."""
    batch, (low, high) = about.run.batch_size, about.seconds.interval
    return batch / about.seconds, (batch / high, batch / low)


def ratio(about: Contestant, entered: Sequence[Contestant]) -> Ratio | None:
    """How many times as fast as the first of its group; None for the first, and where one of them has no time."""
    first = next(other for other in entered if other.group == about.group)
    return None if about is first or first.error or about.error else Ratio(first.seconds, about.seconds)


def fastest(entered: Sequence[Contestant]) -> Contestant | None:
    """The fastest of a group that is faster than its first beyond the interval; else the first, if it has a time."""
    first = entered[0]
    if first.error:
        return None
    surely = [(r, about) for about in entered if (r := ratio(about, entered)) is not None and r.interval[0] > 1]
    return max(surely, key=lambda pair: pair[0])[1] if surely else first


def profile(about: Contestant) -> dict[str, float]:
    """Seconds of a step by part in the median turn, so that they add up to its step."""
    strategies, players = about.facts["strategies"], about.facts["players"]
    names = {"data": "data", "views": "views"} | {name: f"strategy {name}" for name in strategies} | {"step": "model"}
    names |= {name: f"player {name}" for name in players} | {"optimizer": "optimizers", "logs": "logs"}
    turn = sorted(zip(about.rounds, range(len(about.rounds)), strict=True))[len(about.rounds) // 2][1]
    parts = about.parts[turn]
    known = {text: parts.get(name, 0.0) for name, text in names.items()}
    return known | {"rest": sum(seconds for name, seconds in parts.items() if name not in names)}


def rows(entered: Sequence[Contestant]) -> list[dict[str, Any]]:
    """The results as plain values, each with the facts of its machine."""
    out = []
    for about in entered:
        facts = {key: x for key, x in about.facts.items() if key not in ("strategies", "players")}
        row = {
            "recipe": about.recipe, "rung": about.run.rung, "run": about.run.id, "settings": about.settings,
            "execution": about.run.execution, "network": about.run.backbone.name, "batch": about.run.batch_size,
        } | facts  # fmt: skip
        if about.error:
            out.append(row | {"error": about.error})
            continue
        images, interval = rate(about)
        row |= {"images_per_s": images, "interval": interval, "peak_memory_mb": about.peak_memory_mb}
        row |= {"first_steps_s": about.first_s, "step_s": about.rounds}
        if (times := ratio(about, entered)) is not None:
            row |= {"ratio": float(times), "ratio_interval": times.interval}
        out.append(row | ({"seconds": profile(about)} if about.profile else {}))
    return out


def write(folder: Path, entered: Sequence[Contestant]) -> Path:
    """Append the results to ``bench.jsonl`` in a folder; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(entered))
    return path


def describe(entered: Sequence[Contestant]) -> str:
    """The results of one group as tables."""
    first = next((about for about in entered if not about.error), entered[0])
    wide = max(20, *(len(about.name) for about in entered))
    facts, run = first.facts, first.run
    where = f", {facts['precision']}, on {facts['device']}, {facts['threads']} threads" if facts else ""
    lines = [
        f"{run.recipe}, rung {run.rung}: batches of {run.batch_size}, {run.backbone.name}{where}",
        f"{'':{wide}}  {'images/s':>9}  {'95 % interval':>19}  {'times as fast':>22}  first steps     memory",
    ]
    for about in entered:
        if about.error:
            lines.append(f"{about.name:{wide}}  not measured: {about.error}")
            continue
        images, (low, high) = rate(about)
        times = ratio(about, entered)
        against = "" if times is None else f"{times:.3f} ({times.interval[0]:.3f} to {times.interval[1]:.3f})"
        lines.append(
            f"{about.name:{wide}}  {images:9.1f}  {f'{low:.1f} to {high:.1f}':>19}  {against:>22}  "
            f"{about.first_s or 0:9.1f} s  {about.peak_memory_mb or 0:6.0f} MB"
        )
    if len(entered) > 1 and (best := fastest(entered)) is not None:
        others = "" if best is not entered[0] else ": no other value is faster beyond its interval"
        lines.append(f"Take {best.name} here{others}.")
    for about in entered:
        if about.profile and not about.error:
            seconds = profile(about)
            total = sum(seconds.values())
            lines += ["", f"{f'a step of {about.name}, by part':{wide}}  {'ms':>9}  {'share':>7}"]
            parts = [*seconds.items(), ("total", total)]
            lines += [f"{name:{wide}}  {1000 * s:9.2f}  {100 * s / total:5.1f} %" for name, s in parts]
            lines.append(f"Measured by {facts['clock']}; each moment counts for one part.")
    return "\n".join(lines)
