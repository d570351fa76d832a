"""A race to an accuracy: seconds and images that hardlab and its peers need on this machine, over several seeds.

Every library trains the same network on CIFAR-10 with the same recipe (``race_libraries``), with the same seeds in
turns; checkpoints at the same numbers of images are evaluated by one function, outside of the clock.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hardlab import __version__
from hardlab.files import check_folder, read_lines, write_atomic

RUNS = "race.jsonl"
OWN = "hardlab"
PEERS = {"lightly": "pip install 'hardlab[bench]'", "stable-pretraining": "pip install stable-pretraining"}
CPU: dict[str, Any] = {"network": "tiny", "batch": 128, "target": 38.0, "budget": 90.0}
GPU: dict[str, Any] = {"network": "resnet18", "batch": 512, "target": 45.0, "budget": 15.0}


@dataclass(frozen=True)
class Settings:
    """What makes runs comparable.

    target: accuracy in per cent.
    budget: seconds of training of each run.
    """

    network: str
    batch: int
    target: float
    budget: float
    precision: Literal["fp32", "bf16"]
    threads: int
    data: str = "cifar10-jpeg"


def run(
    given: Mapping[str, Any],
    peers: Sequence[str],
    repeats: int,
    *,
    out: Path,
    device: str = "auto",
    root: Path | None = None,
    until: float | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train what ``out/race.jsonl`` lacks and return its rows for these settings.

    repeats: the seeds of each library, from 0 on.
    given: fields of ``Settings``; the others are those of ``CPU`` or ``GPU``.
    until: seconds from now on; a seed that would end later, judging by the one before, is not begun.
    """
    import torch

    from hardlab import build, data, machine, run_folder
    from hardlab.workbook import race_libraries as libraries

    begun = time.monotonic()
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    on = build.device(device)
    usual = GPU if on.type == "cuda" else CPU
    precision = machine.resolve(given.get("precision", "auto"), on)
    settings = Settings(**usual | dict(given) | {"precision": precision, "threads": torch.get_num_threads()})
    train, test = (data.load(settings.data, split, root=root, device=str(on)) for split in ("train", "test"))
    cores = os.cpu_count() or 1
    # all cores but two, of which one trains
    task = libraries.Task(settings.network, settings.batch, on, settings.precision, train, max(2, cores - 2))
    head, dirty = run_folder.commit()
    where = machine.processor() if on.type == "cpu" else torch.cuda.get_device_name(on)
    where += "".join(f", {name}={os.environ[name]}" for name in machine.KERNELS if name in os.environ)
    about = {
        "machine": where, "cores": cores, "settings": asdict(settings), "workers": task.workers, "commit": head,
        "dirty": dirty, "python": platform.python_version(), "versions": run_folder.versions(),
        "load": round(os.getloadavg()[0], 2), "date": run_folder.now(),
    }  # fmt: skip
    rows = read_lines(out / RUNS) if (out / RUNS).exists() else []
    longest = 0.0
    for seed in range(repeats):
        todo = [name for name in (OWN, *peers) if not _kept(rows, about, name, seed)]
        start = time.monotonic()
        if todo and until is not None and start - begun + longest > until:
            say(f"seed {seed} would end later than {until:g} s and is not begun.")
            break
        for name in todo[:: 1 if seed % 2 == 0 else -1]:
            measured = libraries.race(task, test, name, seed, settings.budget, settings.target / 100)
            rows.append({**about, "library": name, "version": _version(name), "seed": seed, **measured})
            write_atomic(out / RUNS, "".join(json.dumps(row) + "\n" for row in rows).encode())
            say(f"seed {seed}, {name}: {_sentence(rows[-1])}")
        longest = max(longest, time.monotonic() - start)
    return [row for row in rows if _same(row, about)]


def _version(library: str) -> str:
    if library == OWN:
        return __version__  # also of a checkout that is not installed
    return importlib.metadata.version(library)


def _same(row: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    return all(row[key] == about[key] for key in ("machine", "cores", "settings"))


def _kept(rows: Iterable[Mapping[str, Any]], about: Mapping[str, Any], library: str, seed: int) -> bool:
    return any((row["library"], row["seed"]) == (library, seed) and _same(row, about) for row in rows)


def reached(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Images and seconds to the target of a run, linear between the two checkpoints around it; None if it was not."""
    target, before = row["settings"]["target"] / 100, None
    for point in row["curve"]:
        if point["accuracy"] >= target:
            if before is None:
                return 0.0, 0.0
            share = (target - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            images, seconds = (before[key] + share * (point[key] - before[key]) for key in ("images", "seconds"))
            return images, seconds
        before = point
    return None


def _sentence(row: Mapping[str, Any]) -> str:
    target, got = row["settings"]["target"], reached(row)
    if got is None:
        best = max(point["accuracy"] for point in row["curve"])
        return (
            f"{target:g} % not reached in {row['trained_s']:.0f} s and {row['trained_images']:,} images; "
            f"the best checkpoint has {100 * best:.1f} %"
        )
    return f"{target:g} % after {got[1]:.1f} s and {got[0]:,.0f} images"


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each library its seconds and images to the target, a value a seed, None = not reached.

    arithmetic: the seconds of a step on views that are on the device already, times the steps to the target.
    rate: images a second, loading included; unlike the rest it does not depend on how the accuracy fluctuates.
    """
    out = []
    for name in dict.fromkeys(row["library"] for row in rows):
        own = sorted((row for row in rows if row["library"] == name), key=lambda row: row["seed"])
        ends = [reached(row) for row in own]
        batch = own[0]["settings"]["batch"]
        out.append({
            "library": name, "version": own[-1]["version"], "seeds": [row["seed"] for row in own],
            "seconds": [end and end[1] for end in ends], "images": [end and end[0] for end in ends],
            "arithmetic": [end and end[0] / batch * row["step_s"] for end, row in zip(ends, own)],
            "rate": [row["trained_images"] / row["trained_s"] for row in own],
            "trained_s": min(row["trained_s"] for row in own),
        })  # fmt: skip
    return out


def spread(values: Sequence[float | None], form: str = ".1f") -> str:
    """The median of some values with the lowest and the highest; "not reached" where more than half were not."""
    known = sorted(v for v in values if v is not None)
    if 2 * len(known) <= len(values):
        return f"not reached by {len(values) - len(known)} of {len(values)}"
    endless = [*known, *[float("inf")] * (len(values) - len(known))]
    last = f"{endless[-1]:{form}}" if len(known) == len(values) else "not reached"
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    return f"{statistics.median(endless):{form}} ({known[0]:{form}} to {last}, {seeds})"


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result as text."""
    if not rows:
        return "No run was made."
    about, sides = rows[0], summary(rows)
    s = Settings(**about["settings"])
    lines = [
        f"{s.target:g} % kNN on {s.data} by SimCLR, {s.network}, B = {s.batch}, {s.precision}, on {about['machine']}",
        f"{'library':24} {'seconds':28} {'of it arithmetic':28} {'images':36} images/s",
    ]
    for side in sides:
        name = f"{side['library']} {side['version']}"
        cells = [spread(side[key]) for key in ("seconds", "arithmetic")]
        images, rate = spread(side["images"], ",.0f"), spread(side["rate"], ",.0f")
        lines.append(f"{name:24} {cells[0]:28} {cells[1]:28} {images:36} {rate}")
        if None in side["seconds"]:
            lines[-1] += f"; trained for {side['trained_s']:.0f} s"
    own = next((side for side in sides if side["library"] == OWN), None)
    for side in sides:
        if own and side is not own and None not in (*side["seconds"], *own["seconds"]):
            pairs = [b / a for a, b in zip(own["seconds"], side["seconds"]) if a]
            if pairs:  # none if the untrained network has the target
                lines.append(f"{side['library']} needs {spread(pairs, '.2f')} times the seconds of {OWN}")
    return "\n".join(lines)
