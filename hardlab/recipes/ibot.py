"""iBOT (arXiv 2111.07832), the base method that HVS's later edition adds (HVP, arXiv 2310.03940 v6, ICLR 2025)."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.common import Recipe, make
from hardlab.recipes.dino import ADAMW


def ibot(rung: str) -> Run:
    """iBOT. paper: ViT-S/16 as in its README, 77.9 linear top-1 at 800 epochs; here 100, as in HVP."""
    crops = {
        "augment": {"name": "dino_global", "options": {"size": 32, "scale": [0.25, 1.0]}},
        "local": {"name": "dino_local", "count": 2, "options": {"size": 16}},
    }
    tiny = {"hidden": 256, "bottleneck": 64, "momentum": 0.99, "teacher_temperature": 0.04, "patch_temperature": 0.04}
    settings: dict[str, dict[str, Any]] = {
        "smoke": crops
        | {
            "backbone": {"name": "vit_micro", "options": {"patch": 8}},
            "method": {"name": "ibot", "options": tiny | {"prototypes": 256, "teacher_warmup_epochs": 0}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 1},
            "epochs": 3,
        },
        "cpu": crops
        | {
            "backbone": {"name": "vit_micro", "options": {"patch": 8}},
            "method": {"name": "ibot", "options": tiny | {"prototypes": 1024, "teacher_warmup_epochs": 0}},
            "optim": ADAMW | {"lr": 2e-3, "warmup_epochs": 3},
        },
        "gpu": {
            "backbone": {"name": "vit_tiny", "options": {"patch": 4, "size": 32, "drop_path": 0.1}},
            "augment": {"name": "dino_global", "options": {"size": 32, "scale": [0.25, 1.0]}},
            "local": {"name": "dino_local", "count": 8, "options": {"size": 16, "scale": [0.05, 0.25]}},
            "method": {"name": "ibot", "options": {"gain": "learned"}},
            "optim": ADAMW,
            "epochs": 300,
            "batch_size": 256,
        },
        "paper": {
            "backbone": {"name": "vit_small", "options": {"drop_path": 0.1}},
            "augment": {"name": "dino_global", "options": {"scale": [0.25, 1.0]}},
            "local": {"name": "dino_local", "count": 10, "options": {"scale": [0.05, 0.25]}},
            "method": {"name": "ibot", "options": {"gain": "learned"}},
            "optim": ADAMW,
            "batch_size": 512,
        },
    }
    return make("ibot", rung, settings[rung])


RECIPES: dict[str, Recipe] = {"ibot": ibot}
