"""The loop: exact resume, honest logs, and stopping without loss."""

import json
import signal

import pytest
import torch
from resuming import learned, quick, rows, same, stopping_at, views, whole_and_parts

from hardlab import build, checkpoint, config, meters, run_folder, stopping, train
from hardlab.types import HardlabError

LONGER = ("simsiam", "simclr", "simclr-hvs", "simsiam-hvs-static", "moco", "byol", "supervised", "simclr-dd")
ARMS = ["simsiam-hvs", *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)]


@pytest.mark.parametrize("name", ARMS)
def test_a_run_that_was_stopped_twice_ends_bitwise_like_one_that_was_not(name, tmp_path, monkeypatch):
    # in mid-epoch, and with an epoch's last step
    whole, parts = whole_and_parts(quick(name), tmp_path, monkeypatch, 2, 4)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    assert views(whole).sort_by([("step", "ascending")]).equals(views(parts).sort_by([("step", "ascending")]))


def test_a_finished_run_is_found_again_without_touching_a_file(tmp_path):
    path = train.train(quick(), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}
    assert train.train(quick(), tmp_path) == path
    assert before == {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("began", ["0", "1"])
def test_a_run_goes_on_in_the_precision_in_which_it_began_also_on_another_machine(began, tmp_path, monkeypatch):
    run, precisions, lines = quick("simclr"), {"0": "fp32", "1": "bf16"}, []
    monkeypatch.setenv("HARDLAB_BF16", began)
    whole = train.train(run, tmp_path / "whole", say=lambda line: None)
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(3))
    with pytest.raises(stopping.Stopped):
        train.train(run, tmp_path / "parts", say=lambda line: None)
    monkeypatch.setenv("HARDLAB_BF16", "10"[int(began)])  # another machine, to which the folder was copied
    other = train.train(run, tmp_path / "other", say=lambda line: None)
    file = tmp_path / "parts" / run.id / "manifest.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "precision"}))
    parts = train.train(run, tmp_path / "parts", say=lines.append)
    assert [run_folder.manifest(p)["precision"] for p in (whole, parts)] == [precisions[began]] * 2
    assert run_folder.manifest(other)["precision"] == precisions["10"[int(began)]]
    assert {run_folder.manifest(p)["config"]["precision"] for p in (whole, parts, other)} == {"auto"}
    assert same(learned(whole), learned(parts)) and rows(whole) == rows(parts)
    assert rows(whole) != rows(other)
    assert any(f"stays in {precisions[began]}, as it began" in line for line in lines)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_precision(tmp_path, monkeypatch):
    def crash(self):
        raise RuntimeError("power cut")

    monkeypatch.setenv("HARDLAB_BF16", "1")
    monkeypatch.setattr(meters.Rate, "tick", crash)
    with pytest.raises(RuntimeError):
        train.train(quick("simclr"), tmp_path, say=lambda line: None)
    monkeypatch.undo()
    monkeypatch.setenv("HARDLAB_BF16", "0")
    path = train.train(quick("simclr"), tmp_path, say=lambda line: None)
    assert run_folder.manifest(path)["precision"] == "bf16"


def test_a_manifest_from_before_there_was_auto_tells_its_precision_by_its_configuration():
    assert config.precision_of({"config": {"precision": "bf16"}}) == "bf16"
    assert config.precision_of({"config": {"precision": "auto"}, "precision": "fp32"}) == "fp32"


def test_a_parent_that_another_process_trains_is_waited_for_and_then_taken_as_it_is(tmp_path, monkeypatch):
    parent = quick("simclr", epochs=1)
    child = quick("simsiam", epochs=1).with_({"parent": parent.model_dump(mode="json")})
    other, lines = run_folder.Folder(tmp_path, parent), []

    def meanwhile(seconds):  # the other process ends its training while this one sleeps
        if len(lines) == 1:
            other.close()
            train.train(parent, tmp_path, say=lambda text: None)
            lines.append("trained")

    monkeypatch.setattr(train.time, "sleep", meanwhile)
    path = train.train(child, tmp_path, say=lines.append)
    assert lines[:2] == [f"{parent.id}: another process is training it; this one waits for that to end.", "trained"]
    assert f"{parent.id}: already finished, nothing to do." in lines
    assert run_folder.manifest(path)["parent"] == parent.id


def test_a_signal_ends_the_wait_for_another_process_as_it_ends_a_training(tmp_path, monkeypatch):
    parent = quick("simclr", epochs=1)
    child = quick("simsiam", epochs=1).with_({"parent": parent.model_dump(mode="json")})
    held = run_folder.Folder(tmp_path, parent)
    monkeypatch.setattr(train.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGUSR1))
    with pytest.raises(stopping.Stopped):
        train.train(child, tmp_path, say=lambda text: None)
    held.close()


def test_a_loss_that_is_not_a_number_stops_before_the_update(tmp_path):
    run = quick("simclr", **{"optim.lr": 1e12, "optim.warmup_epochs": 0, "epochs": 1})
    with pytest.raises(HardlabError, match=r"not finite at step \d+"):
        train.train(run, tmp_path)
    m = run_folder.manifest(tmp_path / run.id)
    assert m["state"] == "failed"
    assert "not finite" in m["error"]


def test_a_batch_larger_than_the_data_set_is_refused_before_training(tmp_path):
    with pytest.raises(HardlabError, match="batch_size=100000 is larger"):
        train.train(quick(batch_size=100_000), tmp_path)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_told_and_training_goes_on_from_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(7))
    with pytest.raises(stopping.Stopped):
        train.train(quick(), tmp_path / "a")
    monkeypatch.undo()
    folder = tmp_path / "a" / quick().id / "checkpoints"
    newest = checkpoint.listed(folder)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    lines = []
    path = train.train(quick(), tmp_path / "a", say=lines.append)
    assert any(newest.name in line and "damaged" in line for line in lines)
    assert same(learned(path), learned(train.train(quick(), tmp_path / "b")))


def test_an_untrained_run_saves_the_network_as_initialised(tmp_path):
    path = train.train(quick("untrained", epochs=0), tmp_path)
    run, method, m = run_folder.open_run(path)
    assert m["steps_done"] == 0
    torch.manual_seed(run.seed)
    assert same(dict(build.method(run).state_dict()), dict(method.state_dict()))


def test_a_request_that_comes_while_the_images_load_stops_before_the_first_step(tmp_path, monkeypatch):
    run, images = quick(), build.images

    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return images(*args, **kwargs)

    monkeypatch.setattr(build, "images", interrupted)
    with pytest.raises(stopping.Stopped):
        train.train(run, tmp_path)
    assert run_folder.manifest(tmp_path / run.id) is None
    monkeypatch.undo()
    assert run_folder.manifest(train.train(run, tmp_path))["state"] == "done"


@pytest.mark.slow
def test_a_read_only_folder_is_named_and_nothing_is_started(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HardlabError, match="cannot be written"):
        train.train(quick(), tmp_path / "file" / "runs")
