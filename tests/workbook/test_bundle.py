"""The archive of runs, opened as a reader would."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from run_folders import folder_of

from hardlab import cli
from hardlab.analysis import schema, tables
from hardlab.types import HardlabError
from hardlab.workbook import bundle, citation


def opened(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = [folder_of(tmp_path / "runs", "simsiam", seed, 0.1 * seed) for seed in range(3)]
    tables.collect(tmp_path / "runs", tmp_path / "data")
    for folder in folders:
        for name in ("views/step-00000001.parquet", "checkpoints/step-00000001-0123456789abcdef.pt"):
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(folder.name.encode())
        (folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "epoch": 0, "loss": 1.0}\n')
    rows = [{"run": folder.name, "value": '0,"10'} for folder in folders]
    rows += [{"run": " ".join(folder.name for folder in folders), "value": "x"}]
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "notes.csv", index=False)
    (tmp_path / "data" / "paper.csv").write_text("paper,value\nhvs,1\n")
    return folders


def test_the_archive_holds_all_that_the_runs_left_and_only_their_rows(runs: list[Path], tmp_path: Path) -> None:
    kept, left = runs[:2], runs[2]
    out = tmp_path / "b.tar.gz"
    bundle.write(out, bundle.contents(kept, tmp_path / "data"))
    files = opened(out)
    for folder in kept:
        for name in ("manifest.json", "metrics.jsonl", "results.jsonl", "views/step-00000001.parquet"):
            assert files[f"runs/{folder.name}/{name}"] == (folder / name).read_bytes()
        assert folder.name in files[f"cards/{folder.name}.md"].decode()
    assert files["CITATION.txt"].decode() == citation.text()
    assert not [name for name in files if left.name in name or "checkpoints" in name]
    rows = list(csv.DictReader(io.StringIO(files["data/notes.csv"].decode())))
    assert [r["value"] for r in rows] == ['0,"10', '0,"10', "x"] and "data/paper.csv" not in files


def test_the_sums_hold_for_every_other_file(runs: list[Path], tmp_path: Path) -> None:
    bundle.write(tmp_path / "b.tar.gz", bundle.contents(runs, tmp_path / "data", weights=True))
    files = opened(tmp_path / "b.tar.gz")
    sums = dict(reversed(line.split("  ")) for line in files.pop(bundle.SUMS).decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert sum("checkpoints" in name for name in files) == 3


def test_the_same_runs_are_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        bundle.write(tmp_path / name, bundle.contents(runs, tmp_path / "data"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_rows_in_the_archive_are_tables_again(runs: list[Path], tmp_path: Path) -> None:
    named = bundle.contents(runs[:1], tmp_path / "data")
    out = tmp_path / "unpacked"
    for name, content in named.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert set(schema.read(out / "data", "evaluation")["run"]) == {runs[0].name}
    assert set(schema.read_manifests(out / "data")) == {runs[0].name}


def test_a_run_twice_or_damaged_is_refused_and_no_archive_is_written(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match="given twice"):
        bundle.contents([runs[0], runs[0]], tmp_path / "data")
    (runs[0] / "manifest.json").write_text("{")
    out = tmp_path / "b.tar.gz"
    words = ["bundle", runs[0].name, "--runs", str(tmp_path / "runs"), "--out", str(out)]
    answer = CliRunner().invoke(cli.cli, words)
    assert answer.exit_code == 2 and "damaged" in answer.output and not out.exists()
    answer = CliRunner().invoke(cli.cli, ["bundle", runs[1].name, *words[2:]])
    assert answer.exit_code == 0 and out.exists(), answer.output
