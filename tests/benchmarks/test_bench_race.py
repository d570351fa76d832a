"""Rows of the race: one for each kind of machine and peer, kept beside those of other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_race
from hardlab.types import HardlabError


def made(library: str, seed: int, seconds: float, machine: str = "M", best: float = 0.5) -> dict[str, Any]:
    """A run that has 40 % after ``seconds`` if ``best`` is at least that."""
    settings = {"network": "tiny", "batch": 100, "target": 40.0, "budget": 60.0, "precision": "fp32", "threads": 1}
    curve = [{"images": 0, "seconds": 0.0, "accuracy": 0.3}, {"images": 1000, "seconds": 2 * seconds, "accuracy": best}]
    about = {
        "commit": "c",
        "dirty": False,
        "machine": machine,
        "python": "3",
        "versions": {},
        "date": f"2026-0{seed + 1}",
    }
    return about | {"library": library, "version": "1", "seed": seed, "settings": settings, "curve": curve,
                    "step_s": 0.1, "trained_s": 60.0, "trained_images": 9000, "load": 0.5}  # fmt: skip


def test_a_row_has_the_seconds_of_hardlab_and_the_ratio_of_the_medians_over_common_seeds() -> None:
    runs = [
        made("hardlab", 0, 10),
        made("hardlab", 1, 20),
        made("hardlab", 2, 1000),
        made("peer", 1, 60),
        made("peer", 0, 20),
    ]
    (row,) = bench_race.rows(runs)
    assert row["value"] == pytest.approx(15) and float(row["ratio"]) == pytest.approx(40 / 15)
    assert row["hardlab"]["seconds"] == pytest.approx([10, 20]) and row["other"]["seconds"] == pytest.approx([20, 60])
    assert row["name"] == "seconds to 40 % kNN on cifar10-jpeg, tiny, B = 100, fp32, 1 threads, M"


def test_a_target_that_one_side_misses_makes_no_ratio() -> None:
    (row,) = bench_race.rows([made("hardlab", 0, 10), made("peer", 0, 10, best=0.39)])
    assert row["value"] is None and "ratio" not in row and row["skipped"] == "not reached by peer in 60 s"


def test_rows_of_other_machines_stay_and_those_of_the_same_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_race, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench_race, "PICTURE", tmp_path / "race.png")
    bench_race.RESULTS.write_text('{"views": {"rows": []}}')
    for machine, slow in (("M", 2), ("GPU", 3), ("M", 4)):
        folder = tmp_path / f"{machine}{slow}"
        folder.mkdir()
        runs = [made("hardlab", 0, 10, machine), made("peer", 0, 10 * slow, machine)]
        (folder / "race.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
        bench_race.keep(bench_race.rows(runs)) if slow < 4 else bench_race.main([str(folder)])
    results = json.loads(bench_race.RESULTS.read_text())
    assert results["views"] == {"rows": []}
    assert {row["name"].rsplit(", ")[-1]: row["ratio"] for row in results["race"]["rows"]} == {"M": 4.0, "GPU": 3.0}
    assert not any("interval" in row for row in results["race"]["rows"]), "one seed has no spread"
    assert bench_race.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match="No run is in"):
        bench_race.main([str(tmp_path)])
