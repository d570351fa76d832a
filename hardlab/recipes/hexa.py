"""HEXA (arXiv 2012.13493): adversarial and cut-mixed views for MoCo-v2 and DeepCluster-v2, their mixes; CLAE."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import moco
from hardlab.recipes.common import Recipe, with_hard
from hardlab.recipes.deepcluster import deepcluster, deepcluster_6crop, deepcluster_8crop
from hardlab.recipes.ppcl import ppcl_simclr

# the schemes of Fig. 2 beside the standard one, which is the base method
SCHEMES: dict[str, tuple[Any, ...]] = {
    "adv": ("adversarial",),
    "cmx": ("cutmix",),
    "adv-cmx": ("adversarial", "cutmix"),
    "adv-cmxa": ("adversarial", {"name": "cutmix", "options": {"source": "adversarial"}}),
    "adv-cmx-cmxa": ("adversarial", {"name": "cutmix", "options": {"source": "both"}}),
}
# epsilon and step of 0.03 with pixels in [-1,1], norms of images only and their momentum: CLAE/SimCLR/main.py
CLAE = {
    "name": "adversarial",
    "options": {"against": "clean", "epsilon": 3.825, "eta": 3.825, "aux_of": "2d", "aux_momentum": 0.01},
}


def _schemes(base: Recipe, name: str, published: dict[str, str]) -> dict[str, Recipe]:
    """``hexa-NAME`` with adversarial views, ``hexa-plus-NAME`` with mixed ones too, ``hexa-NAME-SCHEME`` for others."""
    schemes = {}
    for scheme, hard in SCHEMES.items():
        full = {"adv": f"hexa-{name}", "adv-cmx": f"hexa-plus-{name}"}.get(scheme, f"hexa-{name}-{scheme}")
        doc = published.get(scheme, f"the scheme +{scheme} on {name} (HEXA, Fig. 2).")
        schemes[full] = with_hard(base, full, doc, *hard)
    return schemes


def clae_code(rung: str) -> Run:
    """CLAE with all settings of its code (CLAE/SimCLR, ResNet-18): Adam, head of 64, strong jitter, 100 epochs."""
    changes: dict[str, Any] = {
        "recipe": "clae-code",
        "hard": [CLAE],
        "method.dim": 64,
        "method.temperature": 0.5,
        "augment": {"name": "clae", "options": {"size": 224} if rung == "paper" else {}},
        "optim": {"name": "adam", "lr": 3e-4, "weight_decay": 0, "schedule": "constant"},
        "batch_size": 128 if rung in ("smoke", "cpu") else 256,
        "pixel_mean": [0.5] * 3,
        "pixel_std": [0.5] * 3,
    }
    if rung in ("gpu", "paper"):
        changes |= {"backbone": "resnet18", "epochs": 100}
    return ppcl_simclr(rung).with_(changes)


RECIPES: dict[str, Recipe] = {
    **_schemes(
        moco,
        "moco",
        {
            "adv": "MoCo-v2 with adversarial queries. paper: 68.9 linear top-1 at 200 epochs (HEXA, Table 1).",
            "adv-cmx": "MoCo-v2 with adversarial and cut-mixed queries (HEXA, Fig. 2, +Adv+Cmx).",
        },
    ),
    **_schemes(
        deepcluster,
        "deepcluster",
        {"adv": "DeepCluster-v2 with adversarial crops. paper: 68.1 linear top-1 at 200 epochs (HEXA, Table 1)."},
    ),
    **_schemes(deepcluster_6crop, "deepcluster-6crop", {}),
    "hexa-deepcluster-8crop": with_hard(
        deepcluster_8crop,
        "hexa-deepcluster-8crop",
        "DeepCluster-v2, all 8 crops attacked. paper: 75.5 linear top-1 at 800 epochs (HEXA, Table 1).",
        *SCHEMES["adv"],
    ),
    "hexa-plus-deepcluster-8crop": with_hard(
        deepcluster_8crop,
        "hexa-plus-deepcluster-8crop",
        "all 8 crops attacked and mixed. paper: 75.1 linear top-1 at 800 epochs (HEXA, Table 1).",
        *SCHEMES["adv-cmx"],
    ),
    "clae": with_hard(
        ppcl_simclr,
        "clae",
        "SimCLR with CLAE's attack. gpu: ResNet-18, batch 256, 300 epochs, CIFAR-10 90.13 (PPCL, Table 1).",
        CLAE,
    ),
    "clae-code": clae_code,
}
