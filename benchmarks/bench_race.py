"""The race to an accuracy (docs/race.md), by kind of machine, and its picture.

``python -m benchmarks race`` runs it here. ``python -m benchmarks.bench_race FOLDER...`` takes the rows of folders that
``hardlab race --out FOLDER`` has written, here or elsewhere, and draws ``docs/race.png`` of all rows.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Seconds
from hardlab.files import read_lines, write_atomic
from hardlab.types import HardlabError
from hardlab.workbook import race

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURE = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "race.png"
KEPT = ("library", "seed", "step_s", "trained_s", "trained_images", "load", "curve")  # of a run
FACTS = ("commit", "dirty", "machine", "python", "versions")


def run() -> list[dict[str, Any]]:
    """The rows of this machine, on its CPU; runs in ``out/race`` are not repeated."""
    return rows(race.run({}, ["lightly"], 3, out=ROOT / "out" / "race", device="cpu"))


def rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each peer of each kind of machine: seconds of hardlab, and how many times as many the peer needs.

    runs: lines of ``race.jsonl``. Seeds that only one of the two has are left out.
    """
    out = []
    for kind in dict.fromkeys(_kind(one) for one in runs):
        own = {one["seed"]: one for one in runs if _kind(one) == kind and one["library"] == race.OWN}
        for peer in dict.fromkeys(one["library"] for one in runs if _kind(one) == kind):
            if peer == race.OWN:
                continue
            theirs = {one["seed"]: one for one in runs if _kind(one) == kind and one["library"] == peer}
            seeds = sorted(own.keys() & theirs.keys())
            if seeds:
                out.append(_row(kind, [own[s] for s in seeds], [theirs[s] for s in seeds]))
    return out


def _kind(one: Mapping[str, Any]) -> str:
    s = race.Settings(**one["settings"])
    about = f"{s.network}, B = {s.batch}, {s.precision}, {s.threads} threads"
    return f"seconds to {s.target:g} % kNN on {s.data}, {about}, {one['machine']}"


def _row(kind: str, own: list[Mapping[str, Any]], theirs: list[Mapping[str, Any]]) -> dict[str, Any]:
    ours, peers = race.summary(own)[0], race.summary(theirs)[0]
    peer = f"{peers['library']} {peers['version']}"
    row: dict[str, Any] = {"name": kind, "value": None, "unit": "s", "peer": peer, "target": None, "ok": True}
    row |= {key: own[-1][key] for key in (*FACTS, "date", "settings")} | {"hardlab": ours, "other": peers}
    both = [*own, *theirs]
    row["runs"] = [{key: one[key] for key in KEPT} for one in both]
    late = [one for one in both if race.reached(one) is None]
    if late:
        names = " and ".join(sorted({one["library"] for one in late}))
        spent = min(one["trained_s"] for one in late)
        return row | {"ok": None, "skipped": f"not reached by {names} in {spent:.0f} s"}
    seconds = Seconds(ours["seconds"])
    return row | {"value": float(seconds), "ratio": Seconds(peers["seconds"]) / seconds}


def keep(new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put these rows into benchmarks/results.json, in the place of those of the same name; returns all."""
    results = json.loads(RESULTS.read_text())
    known = {(row["name"], row["peer"]): row for row in results.get("race", {}).get("rows", [])}
    for row in new:
        if "ratio" in row:
            if len(row["hardlab"]["seeds"]) > 1:
                row["interval"] = [round(end, 3) for end in row["ratio"].interval]
            row |= {key: round(float(row[key]), 4) for key in ("value", "ratio")}
        known[row["name"], row["peer"]] = row
    last = max(known.values(), key=lambda row: row["date"])
    results["race"] = {key: last[key] for key in FACTS} | {"rows": list(known.values())}
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    return list(known.values())


def draw(kept: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw accuracy over seconds, a panel for each row: the peer, hardlab and the limit, which is arithmetic alone."""
    import matplotlib.pyplot as plt

    from hardlab.figures import style

    with style.applied():
        fig, axes = plt.subplots(1, len(kept), figsize=(3.4 * len(kept), 2.6), squeeze=False)
        for ax, row in zip(axes[0], kept):
            s, peer = race.Settings(**row["settings"]), row["other"]
            runs = {
                name: [one for one in row["runs"] if one["library"] == name] for name in (race.OWN, peer["library"])
            }
            alone = min(statistics.median(one["step_s"] for one in some) for some in runs.values()) / s.batch
            lines = [
                (f"{peer['library']} {peer['version']}", style.ORANGE, "-", runs[peer["library"]], None),
                (race.OWN, style.BLUE, "-", runs[race.OWN], None),
                ("the limit: arithmetic alone", style.GREY, "--", runs[race.OWN], alone),
            ]
            for label, colour, dashes, some, rate in lines:
                for i, one in enumerate(some):
                    x = [p["seconds"] if rate is None else p["images"] * rate for p in one["curve"]]
                    y = [100 * p["accuracy"] for p in one["curve"]]
                    ax.plot(x, y, dashes, color=colour, label="" if i else label, marker=".", markersize=3, linewidth=1)
            ax.axhline(s.target, color=style.INK, linewidth=0.5, linestyle=":")
            spread = "{:.1f} to {:.1f}".format(*row["interval"]) if "interval" in row else "one seed"
            times = row.get("skipped") or f"{peer['library']} takes {row.get('ratio', 0):.1f} times as long ({spread})"
            title = f"{row['machine']}: {s.network}, B = {s.batch}, {s.precision}; to {s.target:g} %,\n{times}"
            ax.set_title(title, fontsize=7, loc="left")
            ax.set(xlabel="seconds of training, loading included", ylabel="kNN, %")
            ax.set_xlim(left=0)
            ax.legend(loc="lower right")
        fig.tight_layout()
        fig.savefig(path, dpi=200, metadata={"Software": None})
        plt.close(fig)
    return path


def main(words: Sequence[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print("python -m benchmarks.bench_race FOLDER...  takes the rows of `hardlab race --out FOLDER`")
        return 0
    runs = [one for folder in words for one in read_lines(Path(folder) / race.RUNS)]
    if not runs:
        raise HardlabError(f"No run is in {' or '.join(words)}: name folders of `hardlab race --out FOLDER`.")
    new = rows(runs)
    print("\n".join(f"{row['name']}: {row.get('ratio') or row['skipped']}" for row in new))
    print(draw(keep(new), PICTURE))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HardlabError as e:
        sys.exit(f"bench_race: {e}")
