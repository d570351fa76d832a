"""Packs the files of runs into archives of limited size: rows, manifests and logs first, weights never.

This module imports the standard library alone: ``benchmarks.lease`` uses it where little else is installed.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALWAYS = ("manifest.json", "metrics.jsonl", "results.jsonl", "curves.jsonl")  # of every run
EXTRAS = ("views", "crops", "snapshots")  # as far as they fit; weights and features are never packed


@dataclass(frozen=True)
class Unit:
    """Files that are packed together or not at all.

    files: (path, name in the archive) of each.
    """

    name: str
    files: tuple[tuple[Path, str], ...]


def units(runs: Path, logs: Path, done: Sequence[str]) -> list[Unit]:
    """List everything to pack by importance: the rows of all runs, all logs, then view logs and snapshots.

    View logs and snapshots are sorted by seed, so that every recipe has some.
    """

    def files_of(run: str, names: Iterable[str]) -> tuple[tuple[Path, str], ...]:
        paths = [p for n in names for p in sorted((runs / run).glob(n)) + sorted((runs / run / n).glob("*"))]
        return tuple((p, f"runs/{run}/{p.relative_to(runs / run).as_posix()}") for p in paths if p.is_file())

    rows = [Unit(run, files_of(run, ALWAYS)) for run in done]
    logged = [Unit(p.name, ((p, f"logs/{p.name}"),)) for p in sorted(logs.glob("*"))]
    extras = [Unit(f"{run}: {name}", files_of(run, [name])) for run in sorted(done, key=_seed) for name in EXTRAS]
    return [u for u in [*rows, *logged, *extras] if u.files]


def _seed(run: str) -> int:
    """The seed in a run's id (``simsiam-cpu-s3-1f2e3d``)."""
    match = re.search(r"-s(\d+)-", run)
    return int(match[1]) if match else 0


def pack(archives: Sequence[Path], units: Sequence[Unit], *, limit: int) -> list[str]:
    """Pack units into as few ``archives`` of at most ``limit`` bytes as possible; returns the names left out.

    Each archive is written atomically; archives of an earlier call that are no longer needed are deleted.
    """
    bins: list[list[Unit]] = [[] for _ in archives]
    room = [limit - 4096] * len(archives)
    left = []
    for unit in units:
        size = sum(packed_size(path) for path, _ in unit.files)
        place = next((i for i, free in enumerate(room) if size <= free), None)
        if place is None:
            left.append(unit.name)
            continue
        room[place] -= size
        bins[place].append(unit)
    for path, chosen in zip(archives, bins, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not chosen:
            path.unlink(missing_ok=True)
            continue
        scratch = path.with_suffix(".part")
        with tarfile.open(scratch, "w:gz", compresslevel=6) as tar:
            for unit in chosen:
                for file, name in unit.files:
                    tar.add(file, name, recursive=False)
        if scratch.stat().st_size > limit:
            left += [unit.name for unit in chosen]  # happens only if a file has grown meanwhile
            scratch.unlink()
        else:
            scratch.replace(path)
    return left


def packed_size(path: Path) -> int:
    """An upper estimate of the bytes of a file and its header in an archive."""
    if path.suffix in (".parquet", ".npz"):  # already compressed, and numerous
        return path.stat().st_size + 2048
    return len(zlib.compress(path.read_bytes(), 6)) + 1024


def evaluated(folder: Path, protocols: Iterable[str]) -> bool:
    """Whether the run in this folder is done and has rows of all protocols.

    protocols: names, or ``<name>@<data set>`` for rows on that data set.
    """
    try:
        about = json.loads((folder / "manifest.json").read_text())
        lines = (folder / "results.jsonl").read_text().splitlines() if protocols else []
        rows = [json.loads(line) for line in lines]
        have = {row["protocol"] for row in rows} | {f"{row['protocol']}@{row.get('data')}" for row in rows}
        return about.get("state") == "done" and set(protocols) <= have
    except (OSError, ValueError, KeyError):
        return False
