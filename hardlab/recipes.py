"""One function per published row -> ``Run``; four rungs each.

smoke: built-in shapes, a tiny network, seconds. cpu: a 10 % subset of CIFAR-10, the tiny network, minutes on 2 cores.
gpu: CIFAR-10, ResNet-18, the public CIFAR schedule. paper: ImageNet, ResNet-50, the published schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hardlab import config, registry
from hardlab.config import Run

RUNGS = ("smoke", "cpu", "gpu", "paper")


def _common(rung: str) -> dict[str, Any]:
    """Data, network and logging of a rung; the same for every method, so that arms can be compared."""
    return {
        "smoke": {
            "data": {"name": "shapes", "fraction": 0.4},
            "backbone": "tiny",
            "epochs": 8,
            "batch_size": 128,
            "precision": "bf16",
            "logs": {"views_every": 2, "views_rows": 64, "checkpoint_every": 4},
        },
        "cpu": {
            "data": {"name": "cifar10-jpeg", "fraction": 0.1},
            "backbone": "tiny",
            "epochs": 30,
            "batch_size": 128,
            "precision": "bf16",
            "logs": {"views_every": 5, "views_rows": 128, "checkpoint_every": 10, "monitor_every": 10},
        },
        "gpu": {
            "data": {"name": "cifar10"},
            "backbone": "resnet18",
            "epochs": 200,
            "batch_size": 512,
            "precision": "bf16",
            "logs": {"monitor_every": 10},
        },
        "paper": {
            "data": {"name": "imagenet"},
            "backbone": {"name": "resnet50", "options": {"zero_init_residual": True}},
            "epochs": 100,
            "precision": "bf16",
            "logs": {"step_every": 50},
        },
    }[rung]


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
    return config.make({"recipe": "simsiam", "rung": rung, "method": method} | _common(rung) | by_rung[rung])


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
    return config.make({"recipe": "simclr", "rung": rung, "method": method} | _common(rung) | by_rung[rung])


def untrained(rung: str) -> Run:
    """The network of the rung as initialised: what every trained network has to beat."""
    return simsiam(rung).with_({"recipe": "untrained", "epochs": 0})


def _hvs(base: Callable[[str], Run], name: str, **options: Any) -> Callable[[str], Run]:
    def recipe(rung: str) -> Run:
        return base(rung).with_({"recipe": name, "hard": [{"name": "hvs", "options": options}]})

    recipe.__doc__ = f"{name}: Hard View Selection on {base.__name__}, N = 4 views, 6 pairs (HVS, Sec. 3.2, Eq. 2)."
    return recipe


RECIPES: dict[str, Callable[[str], Run]] = {
    "simsiam": simsiam,
    "simsiam-hvs": _hvs(simsiam, "simsiam-hvs"),
    "simsiam-hvs-static": _hvs(simsiam, "simsiam-hvs-static", colour="static"),
    "simsiam-hvs-easy": _hvs(simsiam, "simsiam-hvs-easy", pick="easiest"),
    "simclr": simclr,
    "simclr-hvs": _hvs(simclr, "simclr-hvs"),
    "untrained": untrained,
}


def recipe(name: str, rung: str = "smoke", overrides: Mapping[str, Any] | None = None) -> Run:
    """The run behind a name at a rung, with dotted overrides, e.g. ``recipe("simsiam-hvs", "cpu", {"seed": 1})``."""
    if name not in RECIPES:
        raise registry.unknown("recipe", name, RECIPES)
    if rung not in RUNGS:
        raise registry.unknown("rung", rung, RUNGS)
    return RECIPES[name](rung).with_(overrides or {})
