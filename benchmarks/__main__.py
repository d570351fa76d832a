"""``make bench``: every benchmark, as a table of ratios to peers measured in the same run."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks import bench_evaluate, bench_train, bench_views
from hardlab import checkpoint, runs


def main() -> int:
    """Prints the table and keeps it in benchmarks/results.json, race by race; status 1 where a target is missed."""
    head, dirty = runs.commit()
    rows: list[dict[str, Any]] = []
    about = {
        "commit": head,
        "dirty": dirty,
        "machine": runs.processor(),
        "python": platform.python_version(),
        "versions": runs.versions(),
        "rows": rows,
    }
    for race in (bench_views.run, *bench_train.RACES, bench_evaluate.run):
        for row in race():
            rows.append(row)
            target = "" if row["target"] is None else f"target {row['target']:g}"
            verdict = "ok" if row["ok"] else "MISSED"
            value = f"{row.get('ratio') or row['value']:.3f}"
            print(f"{row['name']:62} {value:>8}  {target:14} {row.get('peer') or '':40} {verdict}", flush=True)
        content = json.dumps(about, indent=1) + "\n"
        checkpoint.write_atomic(Path(__file__).with_name("results.json"), content.encode())
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
