"""DINO (arXiv 2104.14294) with the settings of HVS's comparison (arXiv 2310.03940, Table 7)."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, make

ADAMW = {
    "name": "adamw", "lr": 5e-4, "weight_decay": 0.04, "weight_decay_end": 0.4, "warmup_epochs": 10,
    "final_lr": 1e-6, "exclude_bias_norm": True, "clip": 3.0,
}  # fmt: skip


# scripts/pretrain/cifar/dino.yaml and augmentations/asymmetric.yaml of solo-learn, with its defaults
SOLO: dict[str, Any] = {
    "augment": {"name": "dino_global", "options": {"size": 32, "scale": [0.08, 1.0], "blur": 0.0}},
    "method": {
        "name": "dino",
        "options": {
            "prototypes": 4096, "momentum": 0.9995,
            "teacher_temperature": 0.07, "teacher_warmup_temperature": 0.04, "teacher_warmup_epochs": 50,
        },
    },
    "optim": {
        "name": "larc", "lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10,
        "trust": 0.02, "trust_by": "clip", "exclude_bias_norm": True,
    },
    "batch_size": 256,
}  # fmt: skip


def dino(rung: str) -> Run:
    """DINO. paper: ViT-S/16, HVS Table 1, 73.52 linear top-1. gpu: solo-learn's recipe, 89.52 at 1000 epochs."""
    small = {
        "augment": {"name": "dino_global", "options": {"size": 32}},
        "local": {"name": "dino_local", "count": 2, "options": {"size": 16}},
    }
    tiny = {"hidden": 256, "bottleneck": 64, "momentum": 0.99}
    settings: dict[str, dict[str, Any]] = {
        "smoke": small
        | {
            "method": {"name": "dino", "options": tiny | {"prototypes": 256}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 1},
        },
        "cpu": small
        | {
            "method": {"name": "dino", "options": tiny | {"prototypes": 1024}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 3},
        },
        "gpu": SOLO,
        "paper": {
            "backbone": {"name": "vit_small", "options": {"drop_path": 0.1}},
            "augment": "dino_global",
            "local": {"name": "dino_local", "count": 8},
            "method": "dino",
            "optim": ADAMW,
            "batch_size": 512,
        },
    }
    return make("dino", rung, settings[rung])


def dino_resnet50(rung: str) -> Run:
    """DINO with a ResNet-50 and otherwise the ViT's settings. paper: HVS Table 1, 71.93 linear top-1."""
    changes = {"backbone": {"name": "resnet50", "options": {}}} if rung == "paper" else {}
    return dino(rung).with_({"recipe": "dino-resnet50"} | changes)


def dino_multicrop(rung: str) -> Run:
    """DINO with small crops at every rung: solo-learn's CIFAR recipe has none, here it takes 4 of 16 pixels."""
    local = {"name": "dino_local", "count": 4, "options": {"size": 16}}
    return dino(rung).with_({"recipe": "dino-multicrop"} | ({"local": local} if rung == "gpu" else {}))


RECIPES: dict[str, Recipe] = {
    "dino": dino,
    "dino-resnet50": dino_resnet50,
    "dino-multicrop": dino_multicrop,
}
