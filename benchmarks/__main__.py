"""``make bench``: every benchmark, as a table of ratios to peers measured in the same run."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    bench_adco,
    bench_commands,
    bench_dino,
    bench_evaluate,
    bench_growth,
    bench_hexa,
    bench_importance,
    bench_input,
    bench_race,
    bench_reproduce,
    bench_train,
    bench_views,
)
from hardlab import checkpoint, machine, run_folder
from hardlab.registry import unknown
from hardlab.types import HardlabError

RESULTS = Path(__file__).with_name("results.json")
OF_A_KIND = ("growth", "processes", "race", "reproduce")  # their rows name the kind of machine; those of others stay
RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "commands": bench_commands.run,
    "views": bench_views.run,
    "input": bench_input.run,
    **bench_train.RACES,
    **bench_hexa.RACES,
    **bench_dino.RACES,
    "adco": bench_adco.run,
    "evaluate": bench_evaluate.run,
    **bench_importance.RACES,
    **bench_growth.RACES,
    "reproduce": bench_reproduce.run,
    "race": bench_race.run,
}


def main(names: list[str]) -> int:
    """Runs the races of these names, or all; status 1 where a target is missed.

    Prints the table and keeps it in benchmarks/results.json: one entry per race, replaced as soon as it is run again.
    """
    if {"-h", "--help"} & set(names):
        print(f"python -m benchmarks [RACE]...  all races, or those named: {', '.join(RACES)}")
        return 0
    for name in names:
        if name not in RACES:
            raise unknown("race", name, RACES)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    ok = True
    for name in names or RACES:
        head, dirty = run_folder.commit()
        rows = []
        for row in RACES[name]():
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
