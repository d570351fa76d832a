"""The recorded GPU memory and GPU-hours of the recipes: ``recipe_costs.json``, calculated by `workbook.memory`."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path
from typing import Any

from hardlab import files, recipes
from hardlab.config import Run
from hardlab.errors import HardlabError

CALCULATED = Path(__file__).with_name("recipe_costs.json")  # which `python -m benchmarks.recipe_costs` writes
PARTS = {  # of a peak, in the order of `memory.Cost`
    "images": "pixels of a data set in memory",
    "networks": "networks, banks and queues",
    "optimiser": "gradients, optimisers, a batch",
    "activations": "activations, views, temporary results",
}


@cache
def calculated() -> dict[str, Any]:
    """``recipe_costs.json``: the calculated costs of the recipes of each rung, and rates measured on a device.

    rungs: rung -> recipe -> batch, images (of the whole training), flops (per image), bytes (of each of ``PARTS``).
    rates: recipe -> operations per second of its training on ``device``; usual: their median.
    decoder: images_per_s that one core of ``machine`` decodes, JPEG files of ImageNet's size.
    """
    book: Any = files.read_json(CALCULATED)
    with files.as_expected(CALCULATED):
        ok = all(
            {"batch", "images", "flops", "bytes", "hash"} <= set(r)
            for rung in book["rungs"].values()
            for r in rung.values()
        )
        if not ok or not files.numbers(book["rates"] | {"decoder": book["decoder"]["images_per_s"]}):
            raise ValueError("a recipe lacks numbers")
        known: dict[str, Any] = book
    return known


@cache
def _kinds() -> dict[str, dict[frozenset[str], float]]:
    """Method -> names of strategies -> operations per second, the median of the measured recipes that have both."""
    found: dict[str, dict[frozenset[str], list[float]]] = {}
    for name, reached in calculated()["rates"].items():
        run = recipes.recipe(name, "gpu")
        found.setdefault(run.method.name, {}).setdefault(_strategies(run), []).append(reached)
    return {m: {s: statistics.median(v) for s, v in of.items()} for m, of in found.items()}


def _strategies(run: Run) -> frozenset[str]:
    return frozenset(s.name for s in run.hard)


def rate(run: Run) -> float:
    """Operations per second of a run's training on the device, from the most similar recipes that were measured.

    Those have the same method and the same strategies, else the same method and the fewest strategies that differ. A
    recipe's own rate does not come first: variants that calculate the same shall take the same time. For a method that
    was not measured it is the median of all.
    """
    of_method = _kinds().get(run.method.name)
    if not of_method:
        usual: float = calculated()["usual"]
        return usual
    ours = _strategies(run)
    least = min(len(ours ^ other) for other in of_method)
    return statistics.median(reached for other, reached in of_method.items() if len(ours ^ other) == least)


def gpu_hours(run: Run, images: float, flops: float) -> float:
    """Hours of a training of ``images`` images with ``flops`` operations each, at the rates measured on one GPU."""
    return images * flops / rate(run) / 3600


def decoding_hours(images: float) -> float:
    """Hours in which one core decodes ``images`` images of ImageNet's size."""
    per_second: float = calculated()["decoder"]["images_per_s"]
    return images / per_second / 3600


def conditions() -> str:
    """What the hours hold for, in sentences."""
    book = calculated()
    low, high = min(book["rates"].values()) / 1e12, max(book["rates"].values()) / 1e12
    return (
        f"GPU-hours are at rates measured on one {book['device']} in steps of ResNet-18 at 32 pixels, {low:.0f} to "
        f"{high:.0f} TFLOP/s by method and strategies; a variant has the rate of the most similar recipe. They count "
        f"neither reading nor decoding: decoding alone takes the core-hours, at {book['decoder']['images_per_s']:.0f} "
        f"JPEG files of 500 x 375 pixels a second on one core ({book['decoder']['machine']})."
    )


def table(rung: str) -> list[dict[str, Any]]:
    """A row for each recipe of a rung: batch, peak_gb, gflop (per image), gpu_hours and decoding_hours.

    Hours include those of its parent. decoding_hours are of one core, and None where images are held in memory.
    """
    rows = calculated()["rungs"].get(rung)
    if rows is None:
        allowed = ", ".join(calculated()["rungs"])
        raise HardlabError(
            f"Costs are recorded for the rungs {allowed}, not for {rung}; name a recipe to calculate it."
        )
    runs = {name: recipes.recipe(name, rung) for name in rows}
    hours = {name: gpu_hours(runs[name], row["images"], row["flops"]) for name, row in rows.items()}
    cores = {name: decoding_hours(row["images"]) for name, row in rows.items() if not row["bytes"]["images"]}
    return [
        {
            "recipe": name,
            "batch": row["batch"],
            "peak_gb": sum(row["bytes"].values()) / 1e9,
            "gflop": row["flops"] / 1e9,
            "gpu_hours": hours[name] + hours.get(row.get("parent"), 0.0),
            "decoding_hours": cores[name] + cores.get(row.get("parent"), 0.0) if name in cores else None,
        }
        for name, row in rows.items()
    ]
