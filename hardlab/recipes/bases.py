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
        "paper": {
            "optim": lars | {"lr": 0.3, "warmup_epochs": 10, "rate_of": "momentum"},
            "augment": "hvs_simclr",
            "batch_size": 4096,
        },
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


def byol(rung: str) -> Run:
    """BYOL. paper: BYOL Table 1, 74.3 linear top-1. gpu: solo-learn's CIFAR recipe, 92.58 at 1000 epochs."""
    lars = {"name": "lars", "warmup_epochs": 10, "exclude_bias_norm": True}
    small = {"name": "byol", "options": {"dim": 64, "hidden": 512, "start": 0.96}}
    sgd = {"lr": 0.2, "weight_decay": 5e-4}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"method": small, "optim": sgd | {"warmup_epochs": 1}, "augment": "simclr_cifar"},
        "cpu": {"method": small, "optim": sgd | {"warmup_epochs": 2}, "augment": "simclr_cifar"},
        "gpu": {
            "method": {"name": "byol", "options": {"start": 0.99}},
            "optim": lars | {"lr": 1.0, "weight_decay": 1e-5},
            "augment": "simclr_cifar",
            "batch_size": 256,
        },
        "paper": {
            "method": "byol",
            "optim": lars | {"lr": 0.2, "weight_decay": 1.5e-6},
            "augment": "byol",
            "batch_size": 4096,
            "epochs": 1000,
        },
    }
    return make("byol", rung, by_rung[rung])


def supervised(rung: str) -> Run:
    """Cross-entropy on the labels. paper: torchvision's ResNet-50, 76.1 top-1 at 90 epochs. gpu: about 95."""
    sgd = {"lr": 0.2, "weight_decay": 5e-4, "warmup_epochs": 1}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"optim": sgd, "augment": "supervised_cifar"},
        "cpu": {"optim": sgd, "augment": "supervised_cifar"},
        "gpu": {"optim": sgd, "augment": "supervised_cifar", "batch_size": 128},
        "paper": {
            "optim": {"lr": 0.1, "weight_decay": 1e-4},
            "augment": "supervised",
            "batch_size": 256,
            "epochs": 90,
        },
    }
    return make("supervised", rung, {"method": "supervised"} | by_rung[rung])


def vicreg(rung: str) -> Run:
    """VICReg. paper: its Sec. 4.2, Table 1, 73.2 linear top-1. gpu: solo-learn's rates, 92.07 at 1000 epochs."""
    return _decorrelated("vicreg", rung, {"lr": 0.2, "weight_decay": 1e-6, "final_lr": 0.002}, {}, {})


def barlow(rung: str) -> Run:
    """Barlow Twins. paper: its Sec. 2.2, Table 1, 73.2 linear top-1. gpu: solo-learn's rates, 92.10 at 1000 epochs."""
    # LARS sees no scale of the loss on weights; biases and norm parameters, which it leaves alone, move at 0.0048
    scale = 0.024  # 0.0048 / 0.2
    paper = {"lr": 0.2, "weight_decay": 1.5e-6 * scale, "final_lr": 0.0016}
    return _decorrelated("barlow", rung, paper, {"scale": 0.1}, {"redundancy": 0.005, "scale": scale})


def _decorrelated(
    name: str, rung: str, paper: dict[str, float], gpu_method: dict[str, float], paper_method: dict[str, float]
) -> Run:
    """A loss on the correlations of a batch, with SimCLR's views, LARS and a wide projector. paper: its optimiser."""
    base = {"warmup_epochs": 10, "exclude_bias_norm": True}
    # solo-learn's LARS, scripts/pretrain/cifar/{vicreg,barlow}.yaml: eta bounds the rate
    solo = {"name": "larc", "trust": 0.02, "trust_by": "clip", "lr": 0.3, "weight_decay": 1e-4}
    sgd = {"lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 1, "clip": 1.0}
    by_rung: dict[str, dict[str, Any]] = {
        "smoke": {"method": {"name": name, "options": {"dim": 256, "layers": 2}}, "optim": sgd},
        "cpu": {"method": {"name": name, "options": {"dim": 512, "layers": 2}}, "optim": sgd | {"warmup_epochs": 2}},
        "gpu": {
            "method": {"name": name, "options": {"dim": 2048} | gpu_method},
            "optim": base | solo,
            "batch_size": 256,
        },
        "paper": {
            "method": {"name": name, "options": paper_method},
            "optim": base | {"name": "lars", "rate_of": "momentum"} | paper,
            "batch_size": 2048,
            "epochs": 1000,
        },
    }
    return make(name, rung, {"augment": "byol" if rung == "paper" else "simclr_cifar"} | by_rung[rung])


def untrained(rung: str) -> Run:
    """The network of the rung as initialised, which every trained network has to beat."""
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
        method__total="sum",
    ),
    "byol": byol,
    "supervised": supervised,
    "vicreg": vicreg,
    "barlow": barlow,
    "simclr-dd": with_hard(
        simclr,
        "simclr-dd",
        "SimCLR with twice the real images in a step. PPCL Table 1, 91.37 linear top-1 on CIFAR-10 at 300 epochs.",
        "double",
    ),
    "untrained": untrained,
}
