"""DeepCluster-v2 (arXiv 2006.09882), the base of HEXA's prototype arm (arXiv 2012.13493), with 2, 6 or 8 crops."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, make

LARC = {"name": "larc", "weight_decay": 1e-6, "warmup_epochs": 10}
SWAV_STD = (0.228, 0.224, 0.225)  # as in swav/src/multicropdataset.py


def deepcluster(rung: str) -> Run:
    """DeepCluster-v2, 2 crops. paper: HEXA Table 1, 67.6 linear top-1. gpu: solo-learn, 88.85 at 1000 epochs."""
    paper = {"augment": "deepcluster", "optim": LARC | {"lr": 0.6, "warmup_from": 0.01875, "final_lr": 6e-4}}
    return _make("deepcluster", rung, 0, paper | {"batch_size": 256, "epochs": 200})


def deepcluster_6crop(rung: str) -> Run:
    """DeepCluster-v2, 2 crops of 160 and 4 of 96 pixels. paper: the base of HEXA Fig. 2, 5 epochs."""
    paper = {
        "augment": {"name": "deepcluster", "options": {"size": 160, "kernel": 23}},
        "optim": LARC | {"lr": 0.6, "warmup_epochs": 0, "final_lr": 6e-4},
    }
    return _make("deepcluster-6crop", rung, 4, paper | {"batch_size": 256, "epochs": 5})


def deepcluster_8crop(rung: str) -> Run:
    """DeepCluster-v2, 2 crops of 224 and 6 of 96 pixels. paper: HEXA Table 1, 75.2 linear top-1 at 800 epochs."""
    paper = {"augment": "deepcluster_8", "optim": LARC | {"lr": 0.3, "warmup_from": 0.01875, "final_lr": 0.0048}}
    return _make("deepcluster-8crop", rung, 6, paper | {"batch_size": 4096, "epochs": 800})


def _make(name: str, rung: str, local: int, paper: dict[str, Any]) -> Run:
    """An arm at a rung with ``local`` small crops; rates are per 256 images (4.8 at 4096)."""
    # SwAV's code blurs crops of every size with 23 taps
    options = {"kernel": 23} if rung == "paper" else {"size": 16}
    crops = {"name": "deepcluster_local", "count": local, "options": options}
    small = {"augment": {"name": "simclr_cifar", "options": {"blur": 0.0}}}
    sgd = {"name": "sgd", "weight_decay": 5e-4, "warmup_epochs": 1}
    tiny = {"hidden": 128, "dim": 64}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": small
        | {
            "method": {"name": "deepcluster", "options": tiny | {"prototypes": 30}},
            "optim": sgd | {"lr": 0.1},
        },
        "cpu": small
        | {
            "method": {"name": "deepcluster", "options": tiny | {"prototypes": 100}},
            "optim": sgd | {"lr": 0.1},
        },
        "gpu": {
            "augment": {"name": "deepcluster", "options": {"size": 32}},
            "method": "deepcluster",
            "optim": LARC
            | {"lr": 0.6, "warmup_epochs": 11, "final_lr": 6e-4, "trust": 0.02, "trust_by": "clip"}
            | {"exclude_bias_norm": True},
            "batch_size": 256,
        },
        "paper": {"method": "deepcluster", "pixel_std": SWAV_STD} | paper,
    }
    return make(name, rung, by_rung[rung] | ({"local": crops} if local else {}))


RECIPES: dict[str, Recipe] = {
    "deepcluster": deepcluster,
    "deepcluster-6crop": deepcluster_6crop,
    "deepcluster-8crop": deepcluster_8crop,
}
