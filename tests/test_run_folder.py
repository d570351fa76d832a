"""A run's folder: its manifest, log, view log and lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from resuming import learned, quick, rows, same, views

from hardlab import build, meters, run_folder, train
from hardlab.types import HardlabError
from hardlab.views import PARAMS


@pytest.mark.slow
def test_what_was_logged_after_the_last_checkpoint_is_logged_once_after_a_crash(tmp_path, monkeypatch):
    run = quick(**{"logs.checkpoint_every": 2})
    whole = train.train(run, tmp_path / "whole")

    def crash(self):
        self.done += 1
        if self.done == 8:
            raise RuntimeError("power cut")

    monkeypatch.setattr(meters.Rate, "tick", crash)
    with pytest.raises(RuntimeError):
        train.train(run, tmp_path / "parts")
    monkeypatch.undo()
    parts = train.train(run, tmp_path / "parts")
    assert rows(whole) == rows(parts)
    assert same(learned(whole), learned(parts))


@pytest.mark.parametrize(("name", "pairs"), [("simsiam", 1), ("simsiam-hvs", 6), ("simclr-hvs", 6)])
def test_the_view_log_holds_every_candidate_once_and_marks_the_one_that_was_trained_on(name, pairs, tmp_path):
    path = train.train(quick(name), tmp_path)
    log = views(path).to_pandas()
    steps = run_folder.manifest(path)["steps_done"]
    logged = len(range(0, steps, 2))
    assert len(log) == logged * 16 * pairs
    assert {f"{s}_{p}" for s in "ab" for p in PARAMS} < set(log.columns)
    for _, image in log.groupby(["step", "index"]):
        assert sorted(image.candidate) == list(range(pairs))
        assert len(set(zip(image.a, image.b, strict=True))) == pairs
        assert image.chosen.sum() == 1
        assert image.loss[image.chosen].item() == image.loss.max()


def test_the_manifest_says_what_was_run_on_what_and_how_it_ended(tmp_path):
    m = run_folder.manifest(train.train(quick(), tmp_path))
    assert m["state"] == "done"
    assert m["config"]["hard"] == [{"name": "hvs", "options": {}}]
    assert m["config_hash"] == quick().hash
    assert m["data"]["count"] == len(build.images(quick()))
    assert len(m["data"]["digest"]) == 64
    assert m["versions"]["torch"] == torch.__version__.split("+")[0] or m["versions"]["torch"] == torch.__version__
    assert m["epochs_done"] == 2
    assert m["images_per_s"] > 0
    assert m["peak_memory_mb"] > 0


def test_a_second_process_may_not_train_in_the_same_folder(tmp_path):
    held = run_folder.Folder(tmp_path, quick())
    with pytest.raises(HardlabError, match="Another process"):
        train.train(quick(), tmp_path)
    held.close()


def test_a_folder_in_which_nothing_can_be_made_is_told_and_not_waited_for(tmp_path):
    (tmp_path / "file").write_text("a reader's own")
    for runs_dir in (tmp_path / "file", Path("/proc/x")):
        with pytest.raises(HardlabError, match=r"cannot be written \(.*\); choose another folder for runs"):
            run_folder.Folder(runs_dir, quick(), wait=lambda: None)


@pytest.mark.parametrize(
    "harm",
    [
        lambda name: "",
        lambda name: 7,
        lambda name: name.upper(),
        lambda name: name[:-1] + ("1" if name[-1] == "0" else "0"),
    ],
    ids=["empty", "a number", "other letters", "one digit"],
)
def test_a_log_whose_name_of_the_run_is_damaged_loses_that_line_alone(harm, tmp_path):
    run = quick(epochs=1)
    path = train.train(run, tmp_path)
    log = path / "metrics.jsonl"
    first, *others = log.read_text().splitlines(keepends=True)
    log.write_text(json.dumps(json.loads(first) | {"run": harm(run.id)}) + "\n" + "".join(others))
    held = run_folder.Folder(tmp_path, run)
    assert held.rewind(10**6) == 1
    held.close()
    assert log.read_text() == "".join(others)
