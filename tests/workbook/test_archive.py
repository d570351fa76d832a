"""Archives of what runs leave: their limit, their order, and when a run is done."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from left_by_runs import finished

from hardlab.workbook.archive import Unit, evaluated, pack, units


def test_archives_keep_to_their_limit_and_what_has_no_room_is_named(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.bin").write_bytes(os.urandom(40_000))
    files_to_pack = [Unit(str(i), ((tmp_path / f"{i}.bin", f"runs/{i}/x.bin"),)) for i in range(7)]
    archives = [tmp_path / "out" / f"{i}.tar.gz" for i in range(3)]
    left = pack(archives, files_to_pack, limit=100_000)
    assert all(p.stat().st_size <= 100_000 for p in archives)
    names = []
    for path in archives:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [f"runs/{i}/x.bin" for i in range(6)]
    assert left == ["6"]
    pack(archives, files_to_pack[:1], limit=100_000)
    assert list((tmp_path / "out").iterdir()) == archives[:1]


def test_rows_of_all_runs_come_before_any_view_and_weights_never(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / "runs", name)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("said")
    packed = units(tmp_path / "runs", tmp_path / "logs", ["a", "b"])
    assert [u.name for u in packed] == ["a", "b", "a.log", "a: views", "b: views"]
    late, early = finished(tmp_path / "more", "x-cpu-s2-ab"), finished(tmp_path / "more", "y-cpu-s0-cd")
    for run in (late, early):
        (run / "snapshots").mkdir()
        (run / "snapshots" / "1.npz").write_text("bank")
    extras = [u.name for u in units(tmp_path / "more", tmp_path / "logs", [late.name, early.name])][3:]
    assert extras == [f"{run}: {kind}" for run in (early.name, late.name) for kind in ("views", "snapshots")]
    names = {name for u in packed for _, name in u.files}
    assert not [n for n in names if "checkpoints" in n or "features" in n]
    assert {"runs/a/manifest.json", "runs/a/results.jsonl", "runs/a/views/views.parquet"} <= names


def test_a_run_without_all_its_rows_is_not_done(tmp_path: Path) -> None:
    run = finished(tmp_path, "a", ("knn",))
    assert evaluated(run, ("knn",))
    assert not evaluated(run, ("knn", "linear-lbfgs"))
    with (run / "results.jsonl").open("a") as rows:
        rows.write('{"protocol": "linear", "data": "cifar100"}\n')
    assert evaluated(run, ("knn", "linear@cifar100"))
    assert not evaluated(run, ("linear@cifar10",))
    (run / "manifest.json").write_text('{"state": "stopped"}')
    assert not evaluated(run, ("knn",))
    assert not evaluated(tmp_path / "none", ())
