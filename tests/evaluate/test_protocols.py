"""Protocols as data, and the file of results."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_features import make

from hardlab import data
from hardlab.evaluate import features
from hardlab.evaluate.features import Features
from hardlab.evaluate.knn import knn
from hardlab.evaluate.linear import held_out, lbfgs, linear_probe
from hardlab.evaluate.protocols import Task, given, run_protocol
from hardlab.evaluate.published import PROTOCOLS
from hardlab.nets import Tiny
from hardlab.types import HardlabError
from hardlab.views import PRESETS, Look


@pytest.fixture(scope="module")
def task():
    """A little network on a few shapes: whatever a protocol may ask for."""
    train, test = (data.load("shapes", split, count=n) for split, n in (("train", 260), ("test", 80)))
    look = Look(PRESETS["eval"], (0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(0)
    net = Tiny(width=8).to(memory_format=torch.channels_last)
    halves = *features.extract(net, train, look), *features.extract(net, test, look)
    return Task(lambda blocks: Features(*halves, classes=train.classes), net, look, train, test, size=16)


OF_IMAGES = [name for name, p in PROTOCOLS.items() if p.needs != "scenes"]  # those have tests of their own


def quick(name):
    """Settings that make a protocol a matter of a second."""
    published = PROTOCOLS[name].settings
    fast = {"epochs": 2, "lr": 1.0, "batch_size": 64, "shots": (2, 4), "draws": 2, "labels": 0.1}
    if isinstance(published.get("c"), tuple):
        fast["c"] = [0.1, 1.0]
    if PROTOCOLS[name].needs == "network":
        fast |= {"lr": [1e-3, 1e-2]}
    return {k: v for k, v in fast.items() if k in published}


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_protocol_gives_complete_rows_that_a_file_can_hold(name, task):
    rows, curves, *_ = run_protocol(name, task, 4, **quick(name))
    assert rows and len({r["metric"] for r in rows}) == len(rows)
    settings = set(PROTOCOLS[name].settings) - {"size"}
    for row in [*rows, *curves]:
        assert json.loads(json.dumps(row)) == row
        extra = {"classifier_epoch"} if "classifier_epoch" in row else set()
        assert set(row) - extra == {"protocol", "metric", "value", "n_train", "n_test", "seed", "cost_s", "options"}
        assert (row["protocol"], row["n_test"], row["seed"]) == (name, 80, 4)
        assert row["n_train"] == (30 if row["options"].get("labels", 1) < 1 else 260)
        assert row["cost_s"] > 0 and set(row["options"]) - {"size"} <= settings
        if row["metric"].startswith(("top", "mAP@", "ap")) and "-sd" not in row["metric"]:
            assert 0 <= row["value"] <= 1
    for metric in {r["metric"] for r in curves}:
        assert [r["classifier_epoch"] for r in curves if r["metric"] == metric] == [1, 2]


def test_rows_hold_what_the_functions_say():
    parts, fast = make(), {"epochs": 3, "lr": 1.0}
    value = {
        r["metric"]: r["value"]
        for name in ("knn", "linear", "linear-lbfgs")
        for r in run_protocol(name, given(*parts), **(fast if name == "linear" else {})).rows
    }
    assert {k: value[f"top1@k={k}"] for k in (10, 20, 100, 200)} == knn(*parts)
    probe = linear_probe(*parts, **fast)
    assert (value["top1-last"], value["top1-best"]) == (probe.top1[-1], max(probe.top1))
    assert (value["top5-last"], value["top5-best"]) == (probe.top5[-1], max(probe.top5))
    assert (value["top1"], value["top5"]) == (lbfgs(*parts).top1[0], lbfgs(*parts).top5[0])
    curves = run_protocol("linear", given(*parts), **fast).curves
    assert [r["value"] for r in curves if r["metric"] == "top1"] == probe.top1


def test_of_several_penalties_the_held_out_tenth_chooses_and_all_labels_are_learned_from():
    train_f, y, test_f, t = make(n=140)
    rest, kept = held_out(y)
    costs = (1e-4, 1e-2, 1.0)
    each = [lbfgs(train_f[rest], y[rest], train_f[kept], y[kept], c=c).top1[0] for c in costs]
    values = {r["metric"]: r["value"] for r in run_protocol("linear-lbfgs", given(train_f, y, test_f, t), c=costs).rows}
    assert len(set(each)) > 1 and values["chosen-c"] == costs[int(np.argmax(each))]
    assert values["objective"] == lbfgs(train_f, y, test_f, t, c=values["chosen-c"]).objective


def test_of_rates_and_lengths_the_best_pair_is_chosen_on_the_held_out_tenth():
    train_f, y, test_f, t = make(n=140)
    rest, kept = held_out(y)
    pairs = [(lr, epochs) for lr in (1e-4, 1e-3, 1.0) for epochs in (1, 4)]
    halves = train_f[rest], y[rest], train_f[kept], y[kept]
    each = [linear_probe(*halves, lr=lr, epochs=n).top1[-1] for lr, n in pairs]
    out = run_protocol("linear", given(train_f, y, test_f, t), lr=[1e-4, 1e-3, 1.0], epochs=[1, 4])
    values = {r["metric"]: r["value"] for r in out.rows}
    assert len(set(each)) > 1
    assert (values["chosen-lr"], values["chosen-epochs"]) == pairs[int(np.argmax(each))]
    assert {r["classifier_epoch"] for r in out.curves} == set(range(1, int(values["chosen-epochs"]) + 1))


def test_a_length_in_updates_is_that_many_batches_in_whole_epochs(task):
    quick = {"lr": 1e-3, "batch_size": 64, "size": 16}
    out = run_protocol("finetune-hnssl", task, updates=10, **quick)  # 260 images are 5 batches of 64
    assert {r["classifier_epoch"] for r in out.curves} == {1, 2}
    out = run_protocol("finetune-hnssl", task, epochs=1, **quick)
    assert {r["classifier_epoch"] for r in out.curves} == {1}


def test_the_cost_of_a_protocol_leaves_out_the_extraction_that_others_share():
    parts = Features(*make())

    def slow(blocks):
        time.sleep(0.3)
        return parts

    assert 0 < run_protocol("knn", Task(slow)).rows[0]["cost_s"] < 0.3


def test_published_ks_beyond_the_memory_give_no_row_and_named_ones_are_refused():
    train_f, train_y, test_f, test_y = make(n=150)
    rows = run_protocol("knn", given(train_f, train_y, test_f, test_y)).rows
    assert [r["metric"] for r in rows] == ["top1@k=10", "top1@k=20", "top1@k=100"]
    with pytest.raises(HardlabError, match="k=200 does not fit 150"):
        run_protocol("knn", given(train_f, train_y, test_f, test_y), ks=(200,))
    with pytest.raises(HardlabError, match="9 training samples are too few for kNN"):
        run_protocol("knn", given(train_f[:9], train_y[:9], test_f, test_y))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_unlabelled_data_are_refused_by_every_protocol(name, task):
    f = task.features(1)
    bare = copy.copy(task.train)
    bare.targets = torch.full_like(bare.targets, -1)
    unlabelled = Features(f.train_f, bare.targets, f.test_f, f.test_y)
    with pytest.raises(HardlabError, match="have no label"):
        run_protocol(name, replace(task, features=lambda blocks: unlabelled, train=bare))
