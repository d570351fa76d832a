"""The base methods, without any strategy."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, make, with_hard


def simsiam(rung: str) -> Run:
    """SimSiam. paper: HVS Table 8, 68.20 linear top-1. gpu: PatrickHua's CIFAR recipe, 90.3 kNN at 800 epochs."""
    small = {"name": "simsiam", "options": {"layers": 2}}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"optim": {"lr": 0.06, "weight_decay": 5e-4}, "augment": "simsiam_cifar"},
        "cpu": {"optim": {"lr": 0.5, "weight_decay": 5e-4}, "augment": "simsiam_cifar"},
        "gpu": {"optim": {"lr": 0.03, "weight_decay": 5e-4}, "augment": "simsiam_cifar"},
        "paper": {"optim": {"lr": 0.05, "weight_decay": 1e-4}, "augment": "simsiam", "batch_size": 512},
    }
    method = {
        "smoke": {"name": "simsiam", "options": {"layers": 2, "dim": 256, "hidden": 64}},
        "cpu": {"name": "simsiam", "options": {"layers": 2, "dim": 512, "hidden": 128}},
        "gpu": small,
        "paper": "simsiam",
    }[rung]
    return make("simsiam", rung, {"method": method} | by_rung[rung])


def simclr(rung: str) -> Run:
    """SimCLR. paper: HVS Table 9, 63.40 linear top-1. gpu: google-research's CIFAR recipe, about 91 at 1000 epochs."""
    lars = {"name": "lars", "weight_decay": 1e-4, "exclude_bias_norm": True}
    sgd = {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 2}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"optim": sgd | {"warmup_epochs": 1}, "augment": "simclr_cifar"},
        "cpu": {"optim": sgd, "augment": "simclr_cifar"},
        "gpu": {"optim": lars | {"lr": 1.0, "warmup_epochs": 10}, "augment": "simclr_cifar"},
        "paper": {"optim": lars | {"lr": 0.3, "warmup_epochs": 10}, "augment": "hvs_simclr", "batch_size": 4096},
    }
    small = {"name": "simclr", "options": {"temperature": 0.5}}
    tiny = {"name": "simclr", "options": {"temperature": 0.2}}
    method = {"smoke": tiny, "cpu": tiny, "gpu": small, "paper": "simclr"}[rung]
    return make("simclr", rung, {"method": method} | by_rung[rung])


def moco(rung: str) -> Run:
    """MoCo v2. paper: HEXA Table 1, 67.5 linear top-1 at 200 epochs. gpu: MoCo's CIFAR notebook, 82.6 kNN at 200."""
    notebook = {"momentum": 0.99, "temperature": 0.1, "head": "linear"}
    small = {"name": "moco", "options": notebook | {"queue": 1024}}
    sgd = {"lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 1}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"method": small, "optim": sgd, "augment": "moco_cifar"},
        "cpu": {"method": small, "optim": sgd, "augment": "moco_cifar"},
        "gpu": {
            "method": {"name": "moco", "options": notebook | {"queue": 4096}},
            "optim": {"lr": 0.03, "weight_decay": 5e-4},  # 0.06 at the notebook's batch of 512
            "augment": "moco_cifar",
        },
        "paper": {
            "method": "moco",
            "optim": {"lr": 0.03, "weight_decay": 1e-4},
            "augment": "moco",
            "backbone": "resnet50",
            "batch_size": 256,
            "epochs": 200,
        },
    }
    return make("moco", rung, by_rung[rung])


def untrained(rung: str) -> Run:
    """The network of the rung as initialised: what every trained network has to beat."""
    return simsiam(rung).with_({"recipe": "untrained", "epochs": 0})


RECIPES: dict[str, Recipe] = {
    "simsiam": simsiam,
    "simclr": simclr,
    "moco": moco,
    "moco-symmetric": with_hard(
        moco,
        "moco-symmetric",
        "both views are queries. gpu: the notebook's 85.3 kNN at 200 epochs.",
        method__symmetric=True,
    ),
    "untrained": untrained,
}
