"""``make bench``: every benchmark, as a table of ratios to peers measured in the same run."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from hardlab.errors import HardlabError

RESULTS = Path(__file__).with_name("results.json")
# their rows name the kind of machine; those of others stay
OF_A_KIND = ("growth", "minutes", "processes", "race", "reproduce")
# each race's module, which is loaded when its turn comes: peers take seconds to import
RACES = {
    "commands": "bench_commands",
    "views": "bench_views",
    "input": "bench_input",
    **dict.fromkeys(("simsiam-tiny", "simsiam-resnet18", "hvs-step", "hvs"), "bench_train"),
    "hexa-step": "bench_hexa",
    "dino-hvs-step": "bench_dino",
    "adco": "bench_adco",
    "evaluate": "bench_evaluate",
    **dict.fromkeys(("importance", "tsne"), "bench_importance"),
    **dict.fromkeys(("growth", "processes"), "bench_growth"),
    "minutes": "bench_minutes",
    "reproduce": "bench_reproduce",
    "race": "bench_race",
}


def race(name: str) -> Callable[[], list[dict[str, Any]]]:
    """The function that runs a race and returns its rows: of the ``RACES`` of its module, or its only one, ``run``."""
    module = import_module(f"benchmarks.{RACES[name]}")
    run: Callable[[], list[dict[str, Any]]] = module.RACES[name] if hasattr(module, "RACES") else module.run
    return run


def main(names: list[str]) -> int:
    """Runs the races of these names, or all; status 1 where a target is missed.

    Prints the table and keeps it in benchmarks/results.json: one entry per race, replaced as soon as it is run again.
    """
    if {"-h", "--help"} & set(names):
        print(f"python -m benchmarks [RACE]...  all races, or those named: {', '.join(RACES)}")
        return 0
    from hardlab import checkpoint, machine, run_folder
    from hardlab.registry import unknown

    for name in names:
        if name not in RACES:
            raise unknown("race", name, RACES)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    ok = True
    for name in names or RACES:
        head, dirty = run_folder.commit()
        rows = []
        for row in race(name)():
            rows.append(row)
            measured = row.get("ratio") or row["value"]
            interval = getattr(measured, "interval", None)
            row |= {k: round(float(row[k]), 4) for k in ("value", "ratio") if row.get(k) is not None}
            row |= {} if interval is None else {"interval": [round(end, 3) for end in interval]}
            if "skipped" in row:
                print(f"{row['name']:62}  skipped: {row['skipped']}", flush=True)
                continue
            target = "" if row["target"] is None else f"target {row['target']:g}"
            verdict = "" if row["target"] is None else "ok" if row["ok"] else "MISSED"
            between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
            about = f"{between:16} {target:14} {row.get('peer') or '':40} {verdict}"
            print(f"{row['name']:62} {measured:8.3f}  {about}", flush=True)
        ok &= all(row["ok"] is not False for row in rows)
        if name in OF_A_KIND:
            ours = {row["name"] for row in rows}
            rows = [row for row in results.get(name, {}).get("rows", []) if row["name"] not in ours] + rows
        results[name] = {
            "commit": head,
            "dirty": dirty,
            "machine": machine.processor(),
            "python": platform.python_version(),
            "versions": run_folder.versions(),
            "rows": rows,
        }
        known = {n: results[n] for n in RACES if n in results}
        checkpoint.write_atomic(RESULTS, (json.dumps(known, indent=1) + "\n").encode())
    return 0 if ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HardlabError as e:
        sys.exit(f"benchmarks: {e}")
