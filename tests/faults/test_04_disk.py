"""Row 4: a disk that is full and a folder that may not be written, by a real file system and a real other user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import unprivileged
from small_runs import small_run

from hardlab import checkpoint, run_folder, train
from hardlab.types import HardlabError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    at = tmp_path / "small"
    at.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield at
    subprocess.run(["umount", str(at)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all of the file system but ``leave`` bytes."""
    file = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    file.write_bytes(b"\0" * max(0, free - leave))
    return file


def test_a_write_into_a_full_file_system_names_the_path_and_keeps_the_file(disk, count):
    path = disk / "manifest.json"
    checkpoint.write_atomic(path, b"before")
    fill(disk, 0)
    with pytest.raises(HardlabError, match=r"manifest\.json.*No space left"):
        checkpoint.write_atomic(path, b"after" * 10**5)
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in disk.iterdir()) == ["filler", "manifest.json"]
    count("4 full file system", 1)


@pytest.mark.parametrize("leave", [0, 20_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_a_run_that_fills_the_disk_ends_in_a_sentence_and_goes_on_when_there_is_room(disk, leave, tmp_path, count):
    run, quiet = small_run("simclr"), {"device": "cpu", "say": lambda line: None}
    if leave == 0:  # not one byte: refused before it starts
        fill(disk, 0)
    else:  # the first epoch is saved, then the disk fills
        (disk / "part").mkdir()
        own = train.step

        def step(s, batch):
            if s.done == s.per_epoch and not (disk / "filler").exists():
                fill(disk, leave)
            return own(s, batch)

        train.step = step
    try:
        with pytest.raises((HardlabError, OSError)) as e:
            train.train(run, disk / "runs", **quiet)
    finally:
        if leave:
            train.step = own
    assert "No space left" in str(e.value) and str(disk) in str(e.value)
    assert isinstance(e.value, HardlabError), f"not a sentence of ours: {e.value!r}"
    about = run_folder.manifest(disk / "runs" / run.id)
    assert about is None or about["state"] != "done"
    if leave:
        assert checkpoint.newest(disk / "runs" / run.id / "checkpoints")[0]["step"] >= 4
    (disk / "filler").unlink()
    done = train.train(run, disk / "runs", **quiet)
    assert run_folder.manifest(done)["state"] == "done"
    steps = [r["step"] for r in run_folder.metrics(done, "step")]
    assert steps == list(range(1, 9))
    count("4 full file system", 1)


def test_another_user_may_not_write_into_a_folder_and_is_told_which(public, count):
    locked = public / "mine"
    locked.mkdir()
    os.chmod(locked, 0o755 if unprivileged.prefix() else 0o555)
    words = ["pretrain", "simclr", "--rung", "smoke", "--device", "cpu", "--runs", str(locked)]
    words += ["data.name=digits", "data.fraction=0.1", "batch_size=32"]
    env = os.environ | {"HARDLAB_DATA": str(public / "none"), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    start = [sys.executable, "-c", "from hardlab import cli; cli.main()"]
    done = subprocess.run(
        [*unprivileged.prefix(), *start, *words], capture_output=True, text=True, env=env, cwd="/", check=False
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and str(locked) in last and "Traceback" not in done.stderr
    assert list(locked.iterdir()) == []
    count("4 another user", 1)
