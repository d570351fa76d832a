"""The recorded GPU memory and GPU-hours of the recipes: ``recipe_costs.json``, calculated by `workbook.memory`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hardlab import files
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
    """
    book: Any = files.read_json(CALCULATED)
    with files.as_expected(CALCULATED):
        ok = all(
            {"batch", "images", "flops", "bytes", "hash"} <= set(r)
            for rung in book["rungs"].values()
            for r in rung.values()
        )
        if not ok or not files.numbers(book["rates"]):
            raise ValueError("a recipe lacks numbers")
        known: dict[str, Any] = book
    return known


def gpu_hours(recipe: str, images: float, flops: float) -> float:
    """Hours of a training of ``images`` images with ``flops`` operations each, at the rates measured on one GPU."""
    book = calculated()
    rate: float = book["rates"].get(recipe, book["usual"])
    return images * flops / rate / 3600


def table(rung: str) -> list[dict[str, Any]]:
    """A row for each recipe of a rung: batch, peak_gb, gflop (per image), gpu_hours (its parent's included)."""
    rows = calculated()["rungs"].get(rung)
    if rows is None:
        allowed = ", ".join(calculated()["rungs"])
        raise HardlabError(
            f"Costs are recorded for the rungs {allowed}, not for {rung}; name a recipe to calculate it."
        )
    hours = {name: gpu_hours(name, row["images"], row["flops"]) for name, row in rows.items()}
    return [
        {
            "recipe": name,
            "batch": row["batch"],
            "peak_gb": sum(row["bytes"].values()) / 1e9,
            "gflop": row["flops"] / 1e9,
        }
        | {"gpu_hours": hours[name] + hours.get(row.get("parent"), 0.0)}
        for name, row in rows.items()
    ]
