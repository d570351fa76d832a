"""Row 17: a source tree that is read-only, a path with spaces, no home and no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import unprivileged

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["data.name=digits", "data.fraction=0.1", "batch_size=32", "epochs=1"]

START = """
import socket, sys
def no(*a, **k):
    raise OSError("this test has no network")
socket.socket.connect = no
source = sys.argv.pop(1)
sys.path.insert(0, source)
from hardlab import cli
assert cli.__file__.startswith(source), cli.__file__
cli.main()
"""


@pytest.fixture
def place(public: Path) -> Path:
    """A read-only copy of the package and a folder to write to, both with spaces and more in their paths."""
    at = public / "a b's (ö)"
    shutil.copytree(ROOT / "hardlab", at / "my source" / "hardlab", ignore=shutil.ignore_patterns("__pycache__"))
    (at / "my runs").mkdir()
    for folder, _, files in os.walk(at / "my source"):
        for f in files:
            os.chmod(Path(folder) / f, 0o444)
        os.chmod(folder, 0o555)
    os.chmod(at / "my runs", 0o777)
    return at


def spoken(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = ("PATH", "LANG", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
    env = {k: v for k, v in os.environ.items() if k in kept}  # no HOME, no caches, no data root
    command = [
        *unprivileged.offline(),
        *unprivileged.prefix(),
        sys.executable,
        "-c",
        START,
        str(place / "my source"),
        *words,
    ]
    return subprocess.run(command, env=env, cwd=place / "my runs", capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_trains_and_is_evaluated_from_a_read_only_tree_without_home_and_network(place, count):
    words = ["pretrain", "simclr", "--device", "cpu", "--runs", "runs", "--protocol", "knn", *SETTINGS]
    done = spoken(place, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = list((place / "my runs" / "runs").glob("simclr-smoke-*"))
    assert [json.loads((r / "manifest.json").read_text())["state"] for r in runs] == ["done"]
    assert (runs[0] / "results.jsonl").read_text().count("\n") >= 1
    assert sorted(p.name for p in (place / "my source").iterdir()) == ["hardlab"]
    assert not list((place / "my source").rglob("__pycache__"))
    count("17 read-only tree, spaces, no home, no network", 1)


@pytest.mark.slow
def test_data_that_would_have_to_be_downloaded_end_in_one_sentence(place, count):
    done = spoken(place, "pretrain", "simclr", "--device", "cpu", "--runs", "runs", "data.name=cifar10")
    assert done.returncode == 1
    assert done.stderr.startswith("hardlab: ") and done.stderr.count("\n") == 1, done.stderr[-2000:]
    assert not list((place / "my runs").rglob("manifest.json"))
    count("17 no network", 1)
