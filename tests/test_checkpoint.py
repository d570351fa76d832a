"""Checkpoints are whole or absent, and never run code."""

import hashlib
import os
import pickle
import signal
import time
from itertools import count

import pytest
import torch

from hardlab import checkpoint
from hardlab.types import HardlabError


def state(step):
    return {"step": step, "w": torch.full((1000,), float(step)), "config_hash": "x"}


def test_the_newest_checkpoint_comes_back_and_only_the_last_ones_stay(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    saved, _, complaints = checkpoint.newest(tmp_path)
    assert saved["step"] == 3
    assert complaints == []
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("harm", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(tmp_path, harm):
    checkpoint.save(tmp_path, 1, state(1), keep=2)
    newest = checkpoint.save(tmp_path, 2, state(2), keep=2)
    content = bytearray(newest.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if harm == "flip" else content[:-100])
    saved, _, complaints = checkpoint.newest(tmp_path)
    assert saved["step"] == 1
    assert newest.name in complaints[0]


def test_without_any_whole_checkpoint_nothing_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(1), keep=1)
    path.write_bytes(b"")
    with pytest.raises(HardlabError, match="No intact checkpoint"):
        checkpoint.newest(tmp_path)


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_does_not_run(tmp_path):
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    content = pickle.dumps(Evil())
    path = tmp_path / f"step-00000001-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    with pytest.raises(HardlabError, match="is not a checkpoint") as error:
        checkpoint.load(path)
    assert "weights_only" not in str(error.value)  # torch's advice to trust it
    assert not mark.exists()


def test_a_write_that_fails_names_the_path_and_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    checkpoint.write_atomic(path, b"before")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HardlabError, match=r"manifest\.json.*No space left"):
        checkpoint.write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint_every_time(tmp_path):
    w = torch.randn(400_000)
    for _ in range(8):
        child = os.fork()  # has torch already
        if not child:
            try:
                for step in count(1):
                    checkpoint.save(tmp_path, step, {"step": step, "w": w}, 2)
            finally:
                os._exit(1)
        while not checkpoint.listed(tmp_path):
            time.sleep(0.001)
        for _ in range(6):  # look at what is on disk while the other process writes
            time.sleep(0.013)
            paths = checkpoint.listed(tmp_path)
            assert all(p.exists() is False or checkpoint.load(p)["step"] > 0 for p in paths[:1])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert checkpoint.newest(tmp_path)[2] == []
        for p in tmp_path.glob("step-*"):
            p.unlink()
