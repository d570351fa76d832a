"""Evaluating a run's folder: shared features, other networks and data, checkpoints, and what cannot be measured."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
from PIL import Image
from small_runs import small_run

from hardlab import build, checkpoint, run_folder, train
from hardlab.analysis.catalog import Catalog
from hardlab.evaluate import features, protocols, published
from hardlab.evaluate import runner as module
from hardlab.evaluate.runner import Sets, Store, evaluate_run
from hardlab.types import HardlabError

LINEAR = {"epochs": 2, "lr": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs with one of HNSSL, which has two networks, and its two checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    run = small_run("hnssl", **{"data.fraction": 1.0, "batch_size": 256, "augment.size": 16, "data.size": 16})
    return train.train(run, folder, say=lambda line: None)


@pytest.fixture
def path(trained, tmp_path):
    """A copy of that run, as a test may change it."""
    import shutil

    return shutil.copytree(trained, tmp_path / "runs" / trained.name)


def rows(path, file="results.jsonl"):
    return [json.loads(line) for line in (path / file).read_text().splitlines()]


def test_several_protocols_share_one_extraction_and_a_later_call_reads_it_from_disk(path, monkeypatch):
    calls = []
    real = features.extract
    monkeypatch.setattr(features, "extract", lambda *a, **k: calls.append(1) or real(*a, **k))
    first = evaluate_run(path, ["knn", "linear-lbfgs", "svm"])
    assert len(calls) == 2  # training and test images
    digest = checkpoint.named(checkpoint.listed(path / "checkpoints")[0])[1]
    kept = sorted(p.name for p in (path / "features").iterdir())
    assert len(kept) == 2 and all(name.startswith(f"{digest}-backbone-digits-") for name in kept)
    again = evaluate_run(path, ["knn", "linear-lbfgs", "svm"])
    assert len(calls) == 2
    assert [r["value"] for r in again] == [r["value"] for r in first]
    (path / "features" / kept[0]).write_bytes(b"torn")
    assert [r["value"] for r in evaluate_run(path, ["knn"])] == [r["value"] for r in first if r["protocol"] == "knn"]
    assert len(calls) == 3
    assert rows(path) and len(rows(path)) == len(first)  # each measurement once


@pytest.mark.parametrize(("took", "here"), [("fp32", "1"), ("bf16", "0")])
def test_a_run_is_evaluated_in_the_precision_that_it_took_and_its_rows_say_so(path, monkeypatch, took, here):
    file, precisions, real = path / "manifest.json", [], protocols.run_protocol
    file.write_text(json.dumps(json.loads(file.read_text()) | {"precision": took}))
    monkeypatch.setenv("HARDLAB_BF16", here)
    monkeypatch.setattr(
        protocols,
        "run_protocol",
        lambda name, task, *a, **k: precisions.append(task.precision) or real(name, task, *a, **k),
    )
    evaluate_run(path, ["knn"])
    assert precisions == [took]
    assert {r["precision"] for r in rows(path)} == {took}


def test_the_features_of_a_later_checkpoint_are_not_those_of_an_earlier_one(path):
    both = evaluate_run(path, ["knn"], checkpoints="all")
    assert len(list((path / "features").iterdir())) == 4
    steps = sorted({r["step"] for r in both})
    assert steps == [5, 10] and sorted({r["epoch"] for r in both}) == [1.0, 2.0]


def test_the_first_network_is_evaluated_and_the_others_by_name(path):
    assert {r["features"] for r in evaluate_run(path, ["knn"])} == {"backbone"}
    assert {r["features"] for r in evaluate_run(path, ["knn"], options={"network": "student"})} == {"student"}
    both = evaluate_run(path, ["knn"], options={"network": "all"}, pixels=True)
    assert {r["features"] for r in both} == {"backbone", "student", "pixels"}
    with pytest.raises(HardlabError, match=r"'studnet'.*'student'"):
        evaluate_run(path, ["knn"], options={"network": "studnet"})


def test_pixels_are_measured_by_the_protocols_that_need_no_network(path):
    results = evaluate_run(path, ["knn", "semi-hexa-1"], options={}, pixels=True)
    assert {(r["protocol"], r["features"]) for r in results} == {
        ("knn", "backbone"),
        ("knn", "pixels"),
        ("semi-hexa-1", "backbone"),
    }
    assert {r["n_train"] for r in results if r["protocol"] == "semi-hexa-1"} == {10}


def test_a_protocol_runs_on_another_data_set_with_the_images_at_another_size(path):
    own = evaluate_run(path, ["linear"], options=LINEAR)
    results = evaluate_run(path, ["linear"], options={"data": "digits", "size": 8, "fraction": 0.5, **LINEAR})
    assert {(r["data"], r["n_train"], r["n_test"]) for r in results} == {("digits", 723, 355)}
    assert results[0]["options"]["size"] == 8 and "data" not in results[0]["options"]
    assert len(rows(path)) == len(own) + len(results)  # neither takes the other's place
    assert len([p for p in (path / "features").iterdir() if "-8-" in p.name]) == 2


def test_rows_on_two_folders_of_images_stand_apart(path, tmp_path):
    for name in ("places", "insects"):
        for split, kind, grey in itertools.product(("train", "test"), ("a", "b"), range(5)):
            file = tmp_path / name / split / kind / f"{grey}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (40 * grey, 0, 200 * (kind == "a"))).save(file)
        evaluate_run(path, ["linear-lbfgs"], options={"data": f"folder:{tmp_path / name}"})
    results = [r for r in rows(path) if r["metric"] == "top1"]
    assert [(r["data"].partition("-")[0], r["n_train"]) for r in results] == [
        ("folder:places", 10),
        ("folder:insects", 10),
    ]


def test_rows_of_the_last_checkpoint_are_results_and_curves_know_step_epoch_and_classifier_epoch(path):
    plain = evaluate_run(path, ["linear"], options=LINEAR)
    assert all("step" not in r and "classifier_epoch" not in r for r in rows(path))
    assert [r["value"] for r in rows(path)] == [r["value"] for r in plain]
    curves = rows(path, "curves.jsonl")
    assert {(r["step"], r["epoch"], r["classifier_epoch"]) for r in curves} == {(10, 2.0, 1), (10, 2.0, 2)}
    evaluate_run(path, ["linear"], options=LINEAR, checkpoints=5)
    assert [r["value"] for r in rows(path)] == [r["value"] for r in plain]  # an older checkpoint is no result
    evaluate_run(path, ["linear"], options=LINEAR, checkpoints="all")
    frame = Catalog(path.parent).curves
    last = frame[(frame["metric"] == "top1-last") & frame["classifier_epoch"].isna()]
    assert last["epoch"].tolist() == [1.0, 2.0]
    top1 = frame[(frame["metric"] == "top1") & (frame["step"] == 10)]
    assert top1["classifier_epoch"].tolist() == [1, 2]
    assert top1["value"].iloc[-1] == last["value"].iloc[-1]
    assert not frame.duplicated([c for c in frame.columns if c not in ("value", "cost_s")]).any()


def test_no_protocol_changes_a_weight_or_a_statistic_of_the_run(path):
    run, method, _ = run_folder.open_run(path)
    method.train()
    before = copy.deepcopy(method.state_dict())
    train_images, test_images = Sets(None).splits(run, None, None, torch.device("cpu"))
    store = Store(path / "features", "0" * 16, build.look(run))
    task = module._task("backbone", method.backbone, train_images, test_images, None, store, "fp32", None)
    for name in ("knn", "linear-hexa-moco-1", "linear-lbfgs", "semi-hexa-1"):
        protocols.run_protocol(name, task, **({"lr": 0.1} if name == "linear-hexa-moco-1" else {}))
    after = method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert all(m.training for m in method.modules())


def test_a_vits_last_blocks_are_read_where_a_protocol_asks_for_them():
    class ViT(torch.nn.Module):
        def last_blocks(self, x, n):
            return torch.cat([x.mean((2, 3))] * n, 1)

        def forward(self, x):
            return x.mean((2, 3))

    x = torch.rand(2, 3, 4, 4)
    assert protocols.encoder(ViT(), 4)(x).shape == (2, 12)
    assert protocols.encoder(ViT(), 1)(x).shape == (2, 3)
    pooled = torch.nn.Flatten()
    assert protocols.encoder(pooled, 4) is pooled
    assert published.PROTOCOLS["linear-hvs-dino"].settings["blocks"] == 4


def test_what_cannot_be_measured_is_told_in_one_sentence(path, monkeypatch, tmp_path):
    with pytest.raises(HardlabError, match="no checkpoint of step 7; it has: 5, 10"):
        evaluate_run(path, ["knn"], checkpoints=7)
    with pytest.raises(HardlabError, match=r"Protocol 'knn' has no option 'epochs'"):
        evaluate_run(path, ["linear", "knn"], options={"epochs": 3})
    with pytest.raises(HardlabError, match="holds none of the folders"):
        evaluate_run(path, ["knn"], options={"data": f"folder:{tmp_path}"})
    real, fewer = module.data.load, {"train": ["1", "2", "3"], "test": ["1", "2"]}
    monkeypatch.setattr(module.data, "load", lambda name, split, **k: real(name, split, classes=fewer[split]))
    with pytest.raises(HardlabError, match="digits has different classes in its test"):
        evaluate_run(path, ["knn"], options={"data": "digits"})
    for file in (path / "checkpoints").iterdir():
        file.unlink()
    for which in ("newest", "all"):
        with pytest.raises(HardlabError, match="has no checkpoint yet"):
            evaluate_run(path, ["knn"], checkpoints=which)


def test_an_unfinished_run_is_measured_only_at_a_named_checkpoint(path):
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"stopped"'))
    with pytest.raises(HardlabError, match="not finished"):
        evaluate_run(path, ["knn"])
    assert evaluate_run(path, ["knn"], checkpoints=10)
    assert not (path / "results.jsonl").exists() and rows(path, "curves.jsonl")


def test_a_list_of_rates_is_chosen_from_on_held_out_training_images_not_on_the_test_images(path):
    values = {r["metric"]: r["value"] for r in evaluate_run(path, ["linear"], options={"epochs": 1, "lr": [1e-6, 1.0]})}
    assert values["chosen-lr"] == 1.0
    single = {r["metric"]: r["value"] for r in evaluate_run(path, ["linear"], options={"epochs": 1, "lr": 1.0})}
    assert single["top1-last"] == values["top1-last"]
