"""PPCL (arXiv 2202.06464): the GAN it starts from, its arms, and the plain SimCLR they are compared with."""

from __future__ import annotations

from typing import Any

from hardlab.config import Run
from hardlab.recipes.bases import simclr
from hardlab.recipes.common import Recipe, make, with_hard

# Of the GAN at each rung: its networks, and how often and how far PPCL moves them. A run of rung cpu has 390 moves of
# G, where 300 epochs of a tenth of CIFAR-10 at batch 256 have 5,700. Each ascends five times as far, still half as far
# as a step of the game that keeps the images real, and the average forgets faster (departure P3).
_NETS: dict[str, dict[str, Any]] = {
    "smoke": {"size": 32, "width": 4},
    "cpu": {"size": 32, "width": 8},
    "gpu": {"size": 32},
    "paper": {"size": 64},
}
_PACE: dict[str, dict[str, Any]] = {
    "smoke": {"every": 10, "d_steps": 2},
    "cpu": {"every": 3, "d_steps": 2, "ascent_lr": 1e-4, "keep": 0.99},
    "gpu": {},
    "paper": {},
}


def gan(rung: str) -> Run:
    """The GAN that PPCL starts from. gpu: the CIFAR setting of BigGAN-PyTorch and DiffAugment for 200 of 1000 epochs.

    Public FID with labels: 8.7 (all of CIFAR-10), 22.4 (a tenth).
    """
    nets = _NETS[rung]
    batch, epochs, keep = {
        "smoke": (64, 4, {"keep": 0.9, "keep_from": 10}),
        "cpu": (64, 20, {"keep": 0.99, "keep_from": 100}),
        "gpu": (50, 200, {}),
        "paper": (256, 100, {}),
    }[rung]
    settings: dict[str, Any] = {
        "backbone": {"name": "biggan", "options": nets},
        "method": {"name": "gan", "options": nets | keep | ({"d_steps": 2} if rung == "smoke" else {})},
        "augment": {"name": "eval", "options": {"size": nets["size"], "flip": 0.5}},
        "optim": {
            "name": "adam",
            "lr": 2e-4 * 256 / batch,  # 2e-4 whatever the batch
            "betas": [0.0, 0.999],
            "weight_decay": 0,
            "schedule": "constant",
        },
        "epochs": epochs,
        "batch_size": batch,
        "precision": "fp32",
        "pixel_mean": [0.5] * 3,
        "pixel_std": [0.5] * 3,
        "logs": {"step_every": 50, "views_every": 10**9, "checkpoint_every": max(1, epochs // 10)},
    }
    return make("gan", rung, settings)


def ppcl_simclr(rung: str) -> Run:
    """SimCLR as PPCL compares with it. gpu: CIFAR-10, ResNet-18, batch 256, 300 epochs, 90.37 (PPCL, Table 1)."""
    changes: dict[str, Any] = {"recipe": "ppcl-simclr", "logs.checkpoint_every": {"smoke": 1, "cpu": 5}.get(rung, 10)}
    if rung == "smoke":
        changes |= {"epochs": 4}  # its steps see twice the images
    if rung == "gpu":
        changes |= {"epochs": 300, "batch_size": 256, "augment": "ppcl"}
    if rung == "paper":
        # the pixels of a batch are held at the largest size of its images
        changes |= {"backbone": "resnet18", "batch_size": 256, "data.size": 256}
        changes |= {"method.temperature": 0.5, "augment": "simclr"}
    return simclr(rung).with_(changes)


def _arm(name: str, doc: str, **options: Any) -> Recipe:
    """A recipe that adds generated images to ``ppcl_simclr`` and starts from the GAN of its rung and images."""

    def recipe(rung: str) -> Run:
        base = ppcl_simclr(rung)
        parent = gan(rung).with_({"data": base.data.model_dump(mode="json")})
        strategy = {"name": "generated", "options": _NETS[rung] | _PACE[rung] | options}
        return base.with_({"recipe": name, "hard": [strategy], "parent": parent.model_dump(mode="json")})

    recipe.__doc__ = f"{name}: {doc}"
    return recipe


RECIPES: dict[str, Recipe] = {
    "gan": gan,
    "ppcl-simclr": ppcl_simclr,
    "ppcl-dd": with_hard(
        ppcl_simclr, "ppcl-dd", "twice the real images a step, CIFAR-10 91.37 (PPCL, Table 1, row SimCLR-DD).", "double"
    ),
    "ppcl-gan": _arm(
        "ppcl-gan", "SimCLR with images of a frozen GAN, CIFAR-10 89.90 (PPCL, Table 1, row BigGAN).",
        positives="view", learn="frozen",
    ),
    "ppcl-hard": _arm(
        "ppcl-hard", "hard samples, the generator learns, one positive an image (PPCL, Fig. 4, G+Hard).",
        positives="view",
    ),
    "ppcl-pos": _arm(
        "ppcl-pos", "pairs of G and its average as positives, both frozen (PPCL, Fig. 4, G+Pos.).", learn="frozen"
    ),
    "ppcl": _arm("ppcl", "hard samples and hard positive pairs, CIFAR-10 92.94 (PPCL, Table 1, row Proposed)."),
}  # fmt: skip
