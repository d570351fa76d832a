"""Estimates the time of a plan's steps on this machine from recorded ratios and a calibration of a few seconds.

``costs.json`` records a complete run: the training of each recipe in units of a calibration step, everything else in
units of a piece of plain Python. `python -m benchmarks reproduce` writes it.
"""

from __future__ import annotations

import heapq
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hardlab import files, recipes
from hardlab.errors import HardlabError
from hardlab.workbook.plan import Step

RECORDED = Path(__file__).with_name("costs.json")
MEMORY_MB = 4000  # for a step on up to three threads; the largest of rung smoke took 2,900 MB


class Rates(NamedTuple):
    """The result of a calibration, in seconds: a training step of the rung's network, and a piece of plain Python.

    precision: that of this rung's runs on this machine.
    """

    step: float
    python: float
    precision: str


def calibrate(rung: str) -> Rates | None:
    """Calibrate in a new process, so that this one does not load torch; None for rungs that need a GPU."""
    if rung not in ("smoke", "cpu"):
        return None
    child = subprocess.run(
        [sys.executable, "-m", "hardlab.workbook.costs", rung], capture_output=True, text=True, check=False
    )
    if child.returncode:
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        raise HardlabError(f"Cannot measure the speed of this machine, because torch does not run: {last}")
    return Rates(*json.loads(child.stdout))


def measure(rung: str) -> Rates:
    """The calibration: the fastest of several repetitions, so that short loads of the machine do not count."""
    import torch

    from hardlab import build, machine

    torch.set_num_threads(1)
    run = recipes.recipe("simsiam", rung)
    precision = machine.resolve(run.precision, torch.device("cpu"))
    net = build.method(run).backbone.to(memory_format=torch.channels_last)
    size = 32
    x = torch.randn(run.batch_size, 3, size, size).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = net(x).float().square().mean()
        loss.backward()

    step()
    return Rates(_fastest(step, 1.5), _fastest(_plain_python, 0.5), precision)


def _plain_python() -> None:
    numbers = [(i * 7919) % 10007 for i in range(100_000)]
    json.loads(json.dumps({str(n): n for n in sorted(numbers)}))


def _fastest(work: Any, budget: float) -> float:
    times: list[float] = []
    until = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@cache
def recorded() -> dict[str, Any]:
    """``costs.json``: training (recipe -> calibration steps a step), other (step -> units of plain Python)."""
    book: Any = files.read_json(RECORDED)
    if not isinstance(book, dict) or not all(files.numbers(book.get(kind)) for kind in ("training", "other")):
        raise files.damaged(RECORDED, "it needs the tables `training` and `other`, of numbers")
    tables: dict[str, Any] = book
    return tables


def estimate(step: Step, rates: Rates | None) -> float:
    """Seconds of a step with another one running on a second core; 0 without rates."""
    if rates is None:
        return 0.0
    book = recorded()
    training, other = book["training"], book["other"]
    usual = statistics.median(training.values()) if training else 0.0
    seconds = sum(t.steps * training.get(t.recipe, usual) * rates.step for t in step.trains)
    return seconds + other.get(_kind(step), 0.0) * rates.python


def _kind(step: Step) -> str:
    """The name under which costs other than training are recorded; all runs share one."""
    return "run" if step.kind == "run" else step.name


def limits(step: Step, rates: Rates | None) -> dict[str, int]:
    """What a cluster may grant a step: memory in MB and, with rates, three times the estimated minutes, and ten more.

    By the names of Snakemake's resources.
    """
    memory = {"mem_mb": MEMORY_MB * max(1, step.threads // 2)}
    return memory if rates is None else memory | {"runtime": 10 + math.ceil(3 * estimate(step, rates) / 60)}


def finish(
    todo: Sequence[Step], seconds: Mapping[str, float], cores: int, running: Mapping[str, float] | None = None
) -> float:
    """Seconds until all of ``todo`` is done, ``cores`` at a time, each step as soon as its inputs exist.

    seconds: step -> its duration. running: step -> the seconds that it still needs.
    """
    makes = {o: s.name for s in todo for o in s.outputs}
    needs = {s.name: {makes[i] for i in s.inputs if i in makes} - {s.name} for s in todo}
    waiting = {s.name: s for s in todo}
    busy: list[tuple[float, str]] = []
    for name, left in (running or {}).items():
        heapq.heappush(busy, (left, name))
        waiting.pop(name, None)
    now, ended = 0.0, {s.name for s in todo} - waiting.keys() - {n for _, n in busy}
    while waiting or busy:
        for name in list(waiting):
            if len(busy) < cores and not needs[name] - ended:
                heapq.heappush(busy, (now + seconds[name], name))
                del waiting[name]
        if not busy:  # the remaining steps wait for one that failed
            break
        now, name = heapq.heappop(busy)
        ended.add(name)
    return now


def record(
    plan: Sequence[Step], took: Mapping[str, float], trained: Mapping[str, float], rates: Rates
) -> dict[str, Any]:
    """The content of ``costs.json`` from a complete run of a plan.

    took: step -> seconds. trained: recipe -> seconds of a training step.
    """
    training = {recipe: round(s / rates.step, 3) for recipe, s in sorted(trained.items())}
    other: dict[str, list[float]] = {}
    for step in plan:
        steps_s = sum(t.steps * trained.get(t.recipe, 0.0) for t in step.trains)
        other.setdefault(_kind(step), []).append(max(0.0, took[step.name] - steps_s) / rates.python)
    return {"training": training, "other": {kind: round(statistics.mean(x), 2) for kind, x in other.items()}}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
