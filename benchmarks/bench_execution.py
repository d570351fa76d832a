"""How the networks of a step run best on this machine: as they are written, compiled, or replayed as CUDA graphs.

    python -m benchmarks.bench_execution --out FOLDER [--seconds 60]    # measures, and appends to FOLDER/bench.jsonl
    python -m benchmarks.bench_execution --page FOLDER/bench.jsonl      # keeps these rows, in docs/gpu.md too

What is not compiled in time is a row that says so. All contestants get ready at once, then take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hardlab import checkpoint
from hardlab.errors import HardlabError
from hardlab.workbook import bench, pages

MEASURING_S = 20.0  # of the budget, for the turns
KEPT = Path(__file__).with_name("gpu") / "execution.jsonl"
RATES = KEPT.with_name("nvidia-h200.json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
MARKS, TARGETS = "execution", "targets"  # blocks of the page
EXECUTIONS = ("eager", "compile", "graphs")
# recipe, rung, a setting with its values, whether the parts of a step are measured
FIELD: tuple[tuple[str, str, str, tuple[Any, ...], bool], ...] = (
    ("simsiam", "gpu", "execution", EXECUTIONS, False),
    ("simsiam", "cpu", "execution", ("eager", "graphs"), False),  # a small network, whose steps are mostly launches
    ("simsiam", "gpu", "channels_last", (True, False), False),
    ("adco", "gpu", "execution", ("eager", "graphs"), False),
    ("simsiam-hvs", "gpu", "execution", ("eager",), True),
)
ON_A_CPU: tuple[tuple[str, str, str, tuple[Any, ...], bool], ...] = (
    ("simsiam", "smoke", "execution", ("eager", "compile"), False),
    ("simsiam", "smoke", "channels_last", (True, False), False),
    ("simsiam-hvs", "smoke", "execution", ("eager",), True),
)


def entered(on_a_cpu: bool, steps: int) -> list[list[bench.Contestant]]:
    """The contestants, in groups that are compared."""
    groups: list[list[bench.Contestant]] = []
    for i, (recipe, rung, key, values, profile) in enumerate(ON_A_CPU if on_a_cpu else FIELD):
        group = bench.contestants(recipe, rung, {}, steps, (key, values), profile)
        for contestant in group:
            contestant.group = i
        groups.append(group)
    return groups


def key_of(row: Mapping[str, Any]) -> str:
    """What a row measures, and where: a later one of the same key replaces it."""
    return json.dumps([row.get(k) for k in ("device", "threads", "recipe", "rung", "settings")], sort_keys=True)


def merged(*books: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The measured rows, of each key the last, device by device."""
    rows = {key_of(row): row for book in books for row in book if "device" in row}  # else its process did not begin
    return sorted(rows.values(), key=lambda row: row["device"])


def targets(book: Mapping[str, Any]) -> list[str]:
    """A table of what a GPU of ``benchmarks/gpu`` reached and should reach, ResNet-18 at 32 pixels."""
    rows = {row["recipe"]: row for row in book["rows"] if row["rate"].startswith("gpu/")}
    rate = {name: row["images_per_s"] for name, row in rows.items()}
    seconds = rows["simsiam"]["seconds"]
    reached = [
        ("SimSiam, images/s over those of lightly with its loader", rate["simsiam"] / rate["lightly"], 5.0, True),
        ("HVS of 4 views, seconds of a step over those without", rate["simsiam"] / rate["simsiam-hvs"], 1.55, False),
        ("AdCo, seconds of a step over those of MoCo", rate["moco"] / rate["adco"], 1.02, False),
        ("share of the networks in a step of SimSiam", seconds["step"] / seconds["total"], 0.9, True),
    ]  # fmt: skip
    lines = [f"| on one {book['device']}, commit {book['commit'][:8]} | reached | target | |", "|---|---|---|---|"]
    for name, value, target, least in reached:
        missed = "" if (value >= target) == least else "missed"
        lines.append(f"| {name} | {value:.2f} | {'at least' if least else 'at most'} {target:g} | {missed} |")
    return lines


def page(text: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """The page with a table of the rows between its marks."""
    lines = [
        "| device | recipe, rung | network | batch | setting | images/s | times as fast | first steps, s | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shares = ["| device | recipe | ms | parts of a step |", "|---|---|---|---|"]
    for row in rows:
        setting = ", ".join(f"`{key}={json.dumps(value).strip(chr(34))}`" for key, value in row["settings"].items())
        network = f"{row['network']}, {row['precision']}"
        about = f"| {row['device']} | {row['recipe']}, {row['rung']} | {network} | {row['batch']} | {setting}"
        if "error" in row:
            lines.append(f"{about} | not measured: {row['error']} | – | – | – |")
            continue
        low, high = row["interval"]
        times = "–"
        if "ratio" in row:
            times = f"{row['ratio']:.2f} ({row['ratio_interval'][0]:.2f} to {row['ratio_interval'][1]:.2f})"
        lines.append(
            f"{about} | {row['images_per_s']:.0f} ({low:.0f} to {high:.0f}) | {times} | "
            f"{row['first_steps_s']:.0f} | {row['peak_memory_mb']:.0f} |"
        )
        if "seconds" in row:
            total = sum(row["seconds"].values())
            parts = ", ".join(f"{name} {100 * s / total:.1f} %" for name, s in row["seconds"].items())
            shares.append(f"| {row['device']} | {row['recipe']}, {row['rung']} | {1000 * total:.1f} | {parts} |")
    return pages.between(text, MARKS, [*lines, "", *shares])


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(measured: Path) -> None:
    """Keep the rows of a file beside those of other devices, and write all to the page."""
    rows = merged(read(KEPT), read(measured))
    checkpoint.write_atomic(KEPT, "".join(json.dumps(row) + "\n" for row in rows).encode())
    text = pages.between(PAGE.read_text(), TARGETS, targets(json.loads(RATES.read_text())))
    PAGE.write_text(page(text, rows))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the rows")
    parser.add_argument("--page", type=Path, metavar="FILE", help="rows to keep and to write to docs/gpu.md")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which it ends by itself")
    parser.add_argument("--cpu", action="store_true", help="what a CPU can measure, on all its cores")
    parser.add_argument("--threads", type=int, help="default: 2, with --cpu all cores")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    given = parser.parse_args(argv)
    if given.page is not None:
        keep(given.page)
        return 0
    if given.out is None:
        raise HardlabError("name a folder for the rows: --out FOLDER.")
    groups = entered(given.cpu, bench.WARM + given.steps * given.rounds)
    everyone = [contestant for group in groups for contestant in group]
    ready_s = max(given.seconds / 2, given.seconds - MEASURING_S)
    device, threads = ("cpu", given.threads) if given.cpu else ("auto", given.threads or 2)
    bench.measure(everyone, device, threads, given.steps, given.rounds, ready_s, given.seconds - 2)
    bench.write(given.out, everyone)
    for group in groups:
        print(bench.describe(group), end="\n\n", flush=True)
    return int(all(contestant.error for contestant in everyone))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HardlabError as e:
        sys.exit(f"benchmarks: {e}")
