"""DINO (arXiv 2104.14294) with the settings of HVS's comparison (arXiv 2310.03940, Table 7)."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, make

ADAMW = {
    "name": "adamw", "lr": 5e-4, "weight_decay": 0.04, "weight_decay_end": 0.4, "warmup_epochs": 10,
    "final_lr": 1e-6, "exclude_bias_norm": True, "clip": 3.0,
}  # fmt: skip


def dino(rung: str) -> Run:
    """DINO. paper: HVS Table 1, ResNet-50 71.93 linear top-1. gpu: solo-learn's CIFAR recipe, 89.52 at 1000 epochs."""
    return make("dino", rung, settings(rung))


def settings(rung: str) -> dict[str, Any]:
    """What all DINO arms of a rung share."""
    small = {"augment": {"name": "dino_global", "options": {"size": 32}}}
    crops = {"name": "dino_local", "count": 2, "options": {"size": 16}}
    tiny = {"hidden": 256, "bottleneck": 64, "momentum": 0.99}
    return {
        "smoke": small
        | {
            "local": crops,
            "method": {"name": "dino", "options": tiny | {"prototypes": 256}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 1},
        },
        "cpu": small
        | {
            "local": crops,
            "method": {"name": "dino", "options": tiny | {"prototypes": 1024}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 3},
        },
        "gpu": small
        | {
            "method": {"name": "dino", "options": {"prototypes": 4096, "momentum": 0.9995}},
            "optim": {"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10, "exclude_bias_norm": True},
            "batch_size": 256,
        },
        "paper": {
            "augment": "dino_global",
            "local": {"name": "dino_local", "count": 8},
            "method": "dino",
            "optim": ADAMW,
            "batch_size": 512,
        },
    }[rung]


RECIPES: dict[str, Recipe] = {
    "dino": dino,
}
