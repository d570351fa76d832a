"""The published settings of every protocol, and what may be set otherwise."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from made_features import make

from hardlab.evaluate import published
from hardlab.evaluate.knn import knn
from hardlab.evaluate.linear import lbfgs, linear_probe
from hardlab.evaluate.protocols import given, run_protocol
from hardlab.evaluate.published import PROTOCOLS
from hardlab.types import HardlabError


@pytest.mark.parametrize(
    ("name", "function", "apart"),
    [("knn", knn, set()), ("linear", linear_probe, {"seed", "fresh"}), ("linear-lbfgs", lbfgs, set())],
)
def test_published_settings_are_the_defaults_of_the_functions(name, function, apart):
    defaults = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    published = {k: v for k, v in PROTOCOLS[name].settings.items() if k not in ("augment", "blocks")}
    assert {k: v for k, v in defaults.items() if k not in apart} == published


def test_the_public_linear_protocol_is_sgd_at_30_without_decay_for_100_epochs():
    row = run_protocol("linear", given(*make(n=20, q=20, classes=2))).rows[0]
    assert row["options"] == {
        "optimizer": "sgd",
        "lr": 30.0,
        "batch_size": 256,
        "epochs": 100,
        "weight_decay": 0.0,
        "schedule": "cosine",
    }


# the evaluation sections and appendices of the papers (docs/departures.md, E, where they are silent):
# optimiser, rate per 256 images, batch, epochs, decay, schedule, and what else is not as the public default has it
VIEWS = {"augment": "rrc-flip"}

CLASSIFIERS = {
    "linear": ("sgd", 30.0, 256, 100, 0.0, "cosine", {}),
    "linear-hexa-moco": ("sgd", 30.0, 256, 100, 0.0, "step-60-80", VIEWS),
    "linear-hexa-moco-1": ("sgd", 30.0, 256, 1, 0.0, "step-60-80", VIEWS),
    "linear-hexa-deepcluster": ("sgd", 0.3, 256, 100, 1e-6, "cosine", VIEWS),
    "linear-hexa-deepcluster-1": ("sgd", 0.3, 256, 1, 1e-6, "cosine", VIEWS),
    "linear-hexa-cifar": ("adamax", (0.1, 0.01, 0.001), 256, 20, 0.0, "step-35-70", {"size": 224}),
    "linear-adco": ("sgd", 10.0, 256, 100, 0.0, "cosine", VIEWS | {"final_lr": 0.01}),
    "linear-adco-places": ("sgd", 5.0, 256, 100, 0.0, "oscillating", VIEWS),
    "linear-hvs-simsiam": ("larc", 0.1, 4096, 90, 0.0, "cosine", VIEWS),
    "linear-hvs-simclr": ("sgd", 0.1, 4096, 90, 0.0, "cosine", VIEWS),
    "linear-hvs-dino": ("sgd", 0.001, 1024, 100, 0.0, "cosine", VIEWS | {"blocks": 4}),
    "linear-hnssl": ("nesterov", (0.4, 0.3, 0.2, 0.1, 0.05), 1024, 80, 0.0, "cosine", VIEWS),
    "linear-ppcl": ("adam", 3e-4, 256, 500, 0.0, "constant", {}),
    "linear-ppcl-all": ("adam", 3e-4, 256, 500, 0.0, "constant", {"fraction": 1.0}),
    "semi-hexa-1": ("sgd", 0.01, 256, 20, 5e-4, "fifth-60-80", {"labels": 0.01, "head_lr": 1.0}),
    "semi-hexa-10": ("sgd", 0.01, 256, 20, 5e-4, "fifth-60-80", {"labels": 0.1, "head_lr": 0.1}),
    "semi-hexa-100": ("sgd", 0.01, 256, 20, 5e-4, "fifth-60-80", {"head_lr": 0.1}),
    "semi-hnssl-1": ("nesterov", (0.005, 0.01, 0.02, 0.05, 0.1), 1024, (30, 50), 0.0, "cosine", {"labels": 0.01}),
    "semi-hnssl-10": ("nesterov", (0.005, 0.01, 0.02, 0.05, 0.1), 1024, (30, 50), 0.0, "cosine", {"labels": 0.1}),
    "semi-ppcl": ("adam", 3e-4, 256, 100, 0.0, "constant", {"labels": 0.01}),
    "finetune-hexa": ("adamax", (5e-4, 1e-3, 1e-2), 256, 20, 0.0, "step-35-70", {"size": 224}),
    "finetune-hvs-vit": ("adamw", 5e-5, 512, 300, 0.05, "cosine", {}),
    "finetune-hvs-resnet": ("adamw", 7.5e-6, 512, 300, 0.05, "cosine", {}),
    "finetune-hnssl": (
        "nesterov", pytest.approx(tuple(np.geomspace(1e-4, 0.1, 7))), 256, None, 0.0, "cosine", {"updates": 20000},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_has_the_settings_of_its_paper(name):
    keys = ("optimizer", "lr", "batch_size", "epochs", "weight_decay", "schedule")
    *expected, more = CLASSIFIERS[name]
    settings = dict(PROTOCOLS[name].settings)
    assert [settings.pop(k) for k in keys] == expected
    frozen = {"augment": "none", "blocks": 1, "final_lr": 0.0}
    tuned = {"augment": "rrc-flip", "labels": 1.0, "head_lr": None, "listing": None, "fraction": 1.0}
    assert settings == (frozen if name.startswith("linear") else tuned) | more


def test_no_classifier_is_left_out_of_that_list():
    trained = {name for name, p in PROTOCOLS.items() if "optimizer" in p.settings}
    assert trained == set(CLASSIFIERS)


def test_the_rates_of_hvs_differ_by_data_set_as_in_its_tables():
    rates = {
        "finetune-hvs-vit": {"cifar10": 7.5e-6, "cifar100": 7.5e-6, "flowers102": 5e-5, "food101": 5e-5},
        "finetune-hvs-resnet": {"cifar10": 7.5e-6, "cifar100": 5e-6, "flowers102": 5e-4, "food101": 5e-6},
    }
    for name, by_data in rates.items():
        assert {d: published.settings(name, {}, d)["lr"] for d in by_data} == by_data
        epochs = {d: published.settings(name, {}, d)["epochs"] for d in by_data}
        assert epochs == {"cifar10": 300, "cifar100": 300, "flowers102": 300, "food101": 100}
    assert published.settings("finetune-hvs-vit", {"lr": 1.0}, "cifar10")["lr"] == 1.0


def test_byols_penalties_are_45_from_1e_minus_6_to_1e5_on_the_summed_loss():
    np.testing.assert_allclose(PROTOCOLS["linear-hnssl-transfer"].settings["c"], 1 / np.geomspace(1e5, 1e-6, 45))


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("linaer", {}, "'linaer'.*'linear'"),
        ("knn", {"temprature": 1.0}, "'temprature'.*'temperature'"),
        ("knn", {"ks": 20}, "ks of protocol 'knn' must be a list, each"),
        ("linear", {"epochs": "three"}, "epochs of protocol 'linear' must be a whole number from 1 .* not 'three'"),
        ("linear", {"epochs": True}, "must be a whole number"),
        ("linear", {"lr": "thirty"}, "must be a finite number"),
        ("linear", {"lr": [0.1, "a"]}, "lr of protocol 'linear' must be a finite number above 0 .* not \\[0.1, 'a'\\]"),
        ("linear", {"lr": []}, "lr of protocol 'linear' must be .* a list, each .* not \\[\\]"),
        ("linear", {"lr": [0.1, -1.0]}, "lr of protocol 'linear' must be a finite number above 0"),
        ("linear-hnssl", {"epochs": [30, 0.5]}, "epochs of protocol 'linear-hnssl' must be a whole number"),
        ("svm", {"c": -1.0}, "c of protocol 'svm' must be a finite number above 0"),
        ("linear", {"augment": "rrc-flip"}, "only features were given"),
        ("linear", {"size": 0.5}, "size of protocol 'linear' must be a whole number from 1 to 4096, not 0.5"),
        ("svm", {"c": "big"}, "c of protocol 'svm' must be a finite number"),
        ("svm-low-shot", {"reading": "both"}, "'union' or 'own', not 'both'"),
        ("svm-low-shot", {"shots": (500,)}, "class 0 has 38 training images, fewer than the 500 to draw"),
        ("svm-low-shot", {"draws": 0}, "draws of protocol 'svm-low-shot' must be a whole number from 1"),
        ("semi-hexa-1", {}, "only features were given"),
        ("semi-hexa-1", {"head_lr": "one"}, "must be a finite number"),
        ("linear", {"optimizer": 3}, "must be 'sgd' or .*, not 3"),
        ("knn", {"ks": [5.5]}, r"ks of protocol 'knn' must be a list, each a whole number from 1"),
        ("knn", {"temperature": float("nan")}, "must be a finite number"),
        ("svm-low-shot", {"shots": [0]}, "shots of protocol 'svm-low-shot' must be a list"),
        ("svm", {"c": float("inf")}, "not inf"),
        ("linear-lbfgs", {"tolerance": 0}, "above 0"),
    ],
)
def test_unknown_names_and_wrong_kinds_are_refused_in_one_sentence(name, overrides, sentence):
    with pytest.raises(HardlabError, match=sentence):
        run_protocol(name, given(*make()), **overrides)
