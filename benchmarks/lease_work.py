"""The parts of a lease that need torch, each run as a process: the plan and the table of rates."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.lease import Line, read_queue
from hardlab import build, checkpoint, config, machine, recipes, run_folder, stopping, train
from hardlab.config import Run
from hardlab.types import HardlabError
from hardlab.workbook import bench
from hardlab.workbook.job_queue import Job, Machine

# every base method, then strategies; the most important first, in case time runs out
ARMS = (
    "simsiam", "simsiam-hvs", "moco", "adco-queue", "adco", "hexa-moco", "simclr", "simclr-hvs", "ppcl", "gan", "byol",
    "dino", "dino-hvs", "deepcluster", "hexa-deepcluster", "hnssl", "hexa-plus-moco", "supervised",
)  # fmt: skip
DEFINITION = (
    "share: the floating-point operations of an image (matrix products and convolutions, forward and backward, those "
    "of selections and attacks included, as torch counts them) at the rate reached, over the rate of a large matrix "
    "product of the same precision, measured on this device in the same process. seconds: of a step, by part; on a GPU "
    "in a process whose launches wait for the device, so that they add up to more than a step takes."
)
IMAGES = {"shapes": 5000, "cifar10-jpeg": 50_000}  # data set -> training images
NETWORKS = {"cpu": "tiny", "gpu": "resnet18"}  # rung -> its network, at 32 pixels
# recipes of rung paper, at 224 pixels, whose memory is calculated in docs/gpu.md
LARGE: dict[str, dict[str, Any]] = {
    "adco": {"batch_size": 512},  # 65,536 learned negatives
    "dino-resnet50": {"batch_size": 512, "backbone.recompute": True},  # 2 + 8 crops
}


# ------------------------------------------------------------------------------------------------ the plan


def configure(line: Line, rehearsal: bool) -> Run:
    """The run of a line; in a rehearsal, the same recipe and seed at rung smoke for one epoch."""
    given = config.parse(line.overrides)
    if not rehearsal:
        return recipes.recipe(line.recipe, line.rung, given)
    run = recipes.recipe(line.recipe, "smoke", {"seed": given["seed"], "epochs": 1, "data.fraction": 0.1})
    if run.parent is not None:
        run = run.with_({k: v for k, v in given.items() if k == "parent.seed"} | {"parent.epochs": 1})
    if any(s.name == "adco" for s in run.hard):
        run = run.with_({"hard.adco.init": "random"})  # too few steps to fill its bank with keys
    return run if line.recipe != "untrained" else run.with_({"epochs": 0})


def plan(lines: list[Line], rehearsal: bool, count: Callable[[Run], int]) -> tuple[list[Job], list[str]]:
    """Jobs in order, each parent before the first run that needs it, and the reasons why lines cannot be run.

    count: run -> number of images of its data set.
    """
    jobs: dict[str, Job] = {}
    refused = []
    for line in lines:
        try:
            run = configure(line, rehearsal)
            build.check(run)
            todo = [(run, line)] if run.parent is None else [(run.parent, None), (run, line)]
            for one, asked in todo:
                about = str(line) if asked else f"{one.recipe} of {line}"
                jobs.setdefault(one.id, Job.of(one, about, line.rung, count(one), line.protocols if asked else ()))
        except HardlabError as e:
            refused.append(f"{line}: {e}")
    return list(jobs.values()), refused


def make_plan(queue: Path, out: Path, rehearse: str) -> None:
    """Write the plan of a queue to ``out``; decodes its data once, for all runs."""
    device = build.device("auto")
    rehearsal = rehearse == "yes" or (rehearse == "auto" and device.type == "cpu")
    lines = read_queue(queue.read_text())
    counts: dict[str, int] = {}

    def count(run: Run) -> int:
        key = run.data.model_dump_json()
        if key not in counts:
            counts[key] = len(build.images(run, "train"))
            build.images(run, "test")
        return counts[key]

    if rehearsal:  # try to read the data of the real queue
        try:
            print(count(configure(lines[0], False)), "images")
        except HardlabError as e:
            print(e)
        lines = list({(line.recipe, line.rung): line for line in reversed(lines)}.values())[::-1]
    jobs, refused = plan(lines, rehearsal, count)
    here, name = Machine.here(device.type == "cuda"), "cpu" if device.type == "cpu" else torch.cuda.get_device_name()
    work = {
        "device": name, "places": here.places, "memory_mb": here.memory_mb, "rehearsal_on": rehearsal,
        "refused": refused,
        "rehearsal": "a rehearsal: one seed of each line, shortened" if rehearsal else "as in the queue",
        "jobs": [dataclasses.asdict(job) for job in jobs],
    }  # fmt: skip
    checkpoint.write_atomic(out, json.dumps(work).encode())


# ------------------------------------------------------------------------------------------------ the table of rates


def peaks(device: torch.device) -> dict[str, float]:
    """Precision -> operations per second of a large matrix product, the median of ten."""
    side = 8192 if device.type == "cuda" else 1024
    rates = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = []
        for i in range(13):
            start = time.perf_counter()
            _ = a @ b
            _wait(device)
            seconds += [time.perf_counter() - start] if i > 2 else []
        rates[name] = 2 * side**3 / statistics.median(seconds)
    return rates


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def arm(rung: str, recipe: str, rehearsal: bool, steps: int) -> Run:
    """The recipe on the built-in images, at rung paper on CIFAR-10, for ``steps`` steps or more, without monitoring."""
    if rehearsal:
        run = recipes.recipe(recipe, "smoke", {"data.fraction": 0.1})
        if recipe != "gan":
            run = run.with_({"backbone": NETWORKS[rung]} | ({} if recipe == "hnssl" else {"batch_size": 32}))
    else:
        run = recipes.recipe(recipe, rung, {"data": {"name": "shapes"}, "seed": 0})
        if rung == "paper":  # the built-in images are not drawn as large
            run = run.with_({"data": {"name": "cifar10-jpeg", "size": 224, "fraction": 0.07}} | LARGE[recipe])
    if run.parent is not None:
        run = run.with_({"parent.data": run.data.model_dump(mode="json")})
    logs = {"logs.step_every": 1 if rehearsal or rung == "paper" else 10, "logs.keep": 1}
    run = bench.alike(run).with_(logs | ({"data.fraction": _share(run, steps)} if rehearsal else {}))
    per_epoch = max(1, int(IMAGES[run.data.name] * run.data.fraction) // run.batch_size)
    epochs = math.ceil(steps / per_epoch)
    late = {"method.teacher_warmup_epochs": 0} if run.method.options.get("teacher_warmup_epochs", 0) > epochs else {}
    return run.with_({"epochs": epochs} | late)


def _share(run: Run, steps: int) -> float:
    """The share of the images that is enough for ``steps`` batches."""
    return min(1.0, (steps * run.batch_size + 10) / IMAGES[run.data.name])


def measure(run: Run, device: torch.device, warm: int, parts: bool) -> dict[str, Any]:
    """Measure images per second of the unchanged trainer after ``warm`` steps or, with ``parts``, the seconds by part.

    It reads the trainer's log, whose images_per_s at a step is the mean since the start of the run.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as name:
        path = train.train(run, Path(name), device=str(device), say=lambda line: None)
        about = run_folder.manifest(path) or {}
        steps, epochs = run_folder.metrics(path, "step"), run_folder.metrics(path, "epoch")
    precision = about.get("precision") or about["config"]["precision"]
    measured: dict[str, Any] = {
        "precision": precision,
        "peak_memory_mb": about["peak_memory_mb"],
        "batch": run.batch_size,
    }
    if parts:
        rows = epochs[1:] or epochs  # the first epoch includes what is done once
        per = run.epochs and about["steps_done"] / run.epochs
        names = {part for row in rows for part in row["seconds"]}
        return measured | {
            "seconds": {n: statistics.median(r["seconds"].get(n, 0.0) for r in rows) / per for n in sorted(names)}
        }
    at = {row["step"]: row["step"] * run.batch_size / row["images_per_s"] for row in steps}
    first = min((s for s in at if s > warm), default=min(at))
    last = max(at)
    return measured | {"images_per_s": (last - first) * run.batch_size / (at[last] - at[first]), "steps": last - first}


class Operations(TorchDispatchMode):
    """Counts operations by torch's formulas; FlopCounterMode also hooks modules, which breaks ``autograd.grad``."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def flops(run: Run, device: torch.device, steps: int) -> float:
    """Floating-point operations per image, over the first ``steps`` steps of the trainer."""
    steps = max(steps, -(-run.method.options.get("prototypes", 0) // run.batch_size))  # no more clusters than images
    counted = run.with_({"epochs": 1, "data.fraction": _share(run, steps)})
    with tempfile.TemporaryDirectory() as name, Operations() as counter:
        path = train.train(counted, Path(name), device=str(device), say=lambda line: None)
        done = (run_folder.manifest(path) or {})["steps_done"]
    return counter.total / (done * run.batch_size)


def peer(rung: str, device: torch.device, rehearsal: bool, seconds: float = 8.0) -> dict[str, Any]:
    """Measure lightly's SimSiam with our network, batch and widths: images/s of both loader and step, and of each."""
    from benchmarks.bench_train import Peer
    from hardlab import registry

    run = arm(rung, "simsiam", rehearsal, 3)
    options = run.method.options
    cores = os.cpu_count() or 1
    low = run.precision != "fp32" and (device.type == "cuda" or machine.fast_bfloat16())
    theirs = Peer(
        "tiny", "bf16" if low else "fp32", tuned=True, batch=run.batch_size, device=str(device),
        backbone=registry.build("backbone", run.backbone.name, run.backbone.options),
        dims=(options.get("hidden", 512), options.get("dim", 2048)),
        workers=2 if rehearsal else max(2, cores - 2), epoch=2048 if rehearsal else 2048 * 64,
    )  # fmt: skip

    def rate(step: Callable[[], Any]) -> float:
        for _ in range(1 if rehearsal else 20):
            step()
        _wait(device)
        start, done = time.perf_counter(), 0
        while done < 2 or (time.perf_counter() - start < seconds / 4 and not rehearsal):
            step()
            done += 1
        _wait(device)
        return done * theirs.batch / (time.perf_counter() - start)

    both = rate(theirs.step)
    loader = rate(lambda: next(theirs.batches))
    batch = next(theirs.batches)
    theirs.batches = iter(lambda: batch, None)  # repeats one batch, to time the step alone
    return {"images_per_s": both, "loader_images_per_s": loader, "step_images_per_s": rate(theirs.step),
            "precision": "bf16" if low else "fp32", "batch": theirs.batch}  # fmt: skip


def throughput(out: Path, seconds: float, rehearsal: bool, parts: bool, only: Sequence[str] = ()) -> None:
    """Measure all rows and write them to ``out``, one by one; rows of an earlier call on this device are kept.

    only: the rates to measure, ``<rung>/<recipe>``; all if empty.
    """
    until = time.monotonic() + seconds
    machine.keep_pages()
    device = build.device("auto")
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)
    name = torch.cuda.get_device_name() if device.type == "cuda" else machine.processor()
    head, dirty = run_folder.commit()
    facts: dict[str, Any] = {
        "device": name, "driver": run_folder.driver() if device.type == "cuda" else None,
        "processor": machine.processor(), "python": platform.python_version(), "versions": run_folder.versions(),
        "cuda": torch.version.cuda, "commit": head, "dirty": dirty, "rehearsal": rehearsal, "date": run_folder.now(),
        "definition": DEFINITION,
        "launches": "wait for the device" if os.environ.get("CUDA_LAUNCH_BLOCKING") == "1" else "as usual",
    }  # fmt: skip
    earlier = json.loads(out.read_text()) if out.exists() else {}
    same = earlier.get("device") == name and earlier.get("rehearsal") == rehearsal
    rows: list[dict[str, Any]] = [r for r in earlier["rows"] if "error" not in r] if same else []
    facts["peak_flops"] = earlier["peak_flops"] if same else peaks(device)
    warm, steps = (1, 3) if rehearsal else (10, 61 if not parts else 20)
    todo = [(rung, recipe) for rung in NETWORKS for recipe in ARMS]
    if not parts:
        for i, rung in ((2, "cpu"), (len(ARMS) + 3, "gpu")):
            todo.insert(i, (rung, "lightly"))
        todo += [("paper", recipe) for recipe in LARGE if not rehearsal]
    todo = [(rung, recipe) for rung, recipe in todo if not only or f"{rung}/{recipe}" in only]
    have = {row["rate"] for row in rows}
    left = []
    for rung, recipe in todo:
        key = f"{rung}/{recipe}"
        if key in have:
            continue
        if time.monotonic() > until:
            left.append(key)
            continue
        row: dict[str, Any] = {"rate": key, "network": NETWORKS.get(rung), "recipe": recipe}
        try:
            if recipe == "lightly":
                row |= peer(rung, device, rehearsal)
            else:
                large = rung == "paper"
                run = arm(rung, recipe, rehearsal, 6 if large else steps)
                row |= {"network": run.backbone.name} | ({"changes": LARGE[recipe]} if large else {})
                row |= measure(run, device, 2 if large else warm, parts)
                if not parts:
                    row["flops_per_image"] = flops(run, device, 2 if run.parent is None and recipe != "gan" else 10)
                    peak = facts["peak_flops"].get(row["precision"])
                    row["share"] = peak and row["images_per_s"] * row["flops_per_image"] / peak
        except stopping.Stopped:
            left += [f"{r}/{name}" for r, name in todo[todo.index((rung, recipe)) :]]
            break
        except Exception as e:  # record the failure and continue with the next row
            row["error"] = f"{type(e).__name__}: {e}".splitlines()[0]
        rows.append(row)
        print(json.dumps(row), flush=True)
        checkpoint.write_atomic(out, json.dumps(facts | {"left": left, "rows": rows}, indent=1).encode())
    checkpoint.write_atomic(out, json.dumps(facts | {"left": left, "rows": rows}, indent=1).encode())


def main(words: list[str]) -> int:
    verb, *rest = words
    if verb == "plan":
        make_plan(Path(rest[0]), Path(rest[1]), rest[2])
    else:
        only = rest[rest.index("--only") + 1 :] if "--only" in rest else []
        throughput(Path(rest[0]), float(rest[1]), "--rehearsal" in rest, "--parts" in rest, only)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
