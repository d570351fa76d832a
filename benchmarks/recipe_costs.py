"""Writes ``hardlab/workbook/recipe_costs.json``: calculated costs of every recipe, rates of a measured GPU and decoder.

``python -m benchmarks.recipe_costs [RUNG ...] [--seconds N]``: recipes whose settings have not changed are kept, and
the rest is calculated until the time is over; the same command goes on. Rates are read again each time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from hardlab import checkpoint, recipes
from hardlab.types import HardlabError
from hardlab.workbook import memory
from hardlab.workbook import recipe_costs as costs

MEASURED = Path(__file__).with_name("gpu") / "nvidia-h200.json"
RACES = Path(__file__).with_name("results.json")
RUNGS = ("gpu", "paper")


def rates() -> dict[str, Any]:
    """Operations per second of each measured recipe of rung gpu, their median, the device, and a decoder's rate."""
    book = json.loads(MEASURED.read_text())
    rows = [r for r in book["rows"] if r["rate"].startswith("gpu/") and "flops_per_image" in r]
    reached = {r["recipe"]: r["images_per_s"] * r["flops_per_image"] for r in rows}
    race = json.loads(RACES.read_text())["input"]
    alone = next(r["value"] for r in race["rows"] if r["name"] == "the decoder alone, 2 threads")
    decoder = {"images_per_s": alone / 2, "machine": race["machine"], "commit": race["commit"]}
    usual = statistics.median(reached.values())
    return {"device": book["device"], "rates": reached, "usual": usual, "decoder": decoder}


def entry(recipe: str, rung: str) -> dict[str, Any]:
    run = recipes.recipe(recipe, rung)
    cost = memory.calculate(run)
    made = {"hash": run.hash, "batch": run.batch_size, "images": run.epochs * memory.count(run), "flops": cost.flops}
    made["bytes"] = {part: getattr(cost, part) for part in costs.PARTS}
    return made | ({} if run.parent is None else {"parent": run.parent.recipe})


def write(book: dict[str, Any]) -> None:
    whole = rates() | {"rungs": {r: book["rungs"][r] for r in RUNGS if r in book["rungs"]}}
    checkpoint.write_atomic(costs.CALCULATED, (json.dumps(whole, indent=1) + "\n").encode())


def main(rungs: list[str], seconds: float) -> int:
    """Status 1 if recipes are left."""
    until = time.monotonic() + seconds
    book = json.loads(costs.CALCULATED.read_text()) if costs.CALCULATED.exists() else {"rungs": {}}
    left = 0
    for rung in rungs:
        known = book["rungs"].get(rung, {})
        rows = {n: known[n] for n in recipes.RECIPES if known.get(n, {}).get("hash") == recipes.recipe(n, rung).hash}
        for name in recipes.RECIPES:
            if name in rows:
                continue
            if time.monotonic() > until:
                left += 1
                continue
            try:
                rows[name] = entry(name, rung)
            except HardlabError as e:
                print(e, file=sys.stderr)
                left += 1
            book["rungs"][rung] = {n: rows[n] for n in recipes.RECIPES if n in rows}
            write(book)
    write(book)
    print(f"{left} recipes are left")
    return int(left > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rungs", nargs="*", default=RUNGS)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    sys.exit(main(given.rungs, given.seconds))
