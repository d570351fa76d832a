"""The published evaluation protocols as data, and the settings that each allows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from hardlab import backbones, numbers
from hardlab.errors import HardlabError
from hardlab.numbers import (
    Count,
    Decay,
    Few,
    Layers,
    Many,
    Momentum,
    Natural,
    Pixels,
    PixelsOrNone,
    Positive,
    PositiveShare,
    Rate,
    RateOrZero,
    Tolerance,
    real,
    whole,
)  # fmt: skip
from hardlab.registry import unknown

KS = (10, 20, 100, 200)  # HVS's appendix, as in DINO
TEMPERATURE = 0.07
COST = 0.5  # PCL
COSTS = (*(10.0**p for p in range(-7, 3)), *(0.5**p for p in range(4, 20)))  # Goyal et al.
SHOTS = (2, 4, 8, 16, 32)

_C4: dict[str, Any] = {  # moco/detection on Detectron2: Base-RCNN-C4-BN.yaml, pascal_voc_R_50_C4_24k.yaml
    "train": ("voc2007/train", "voc2012/train", "voc2012/val"),
    "test": ("voc2007/test",),
    "images": 0,  # training scenes, drawn by the seed; 0 = all
    "test_images": 0,  # the first ones; 0 = all
    "side": 0,  # fit the images to a square on loading; 0 = as they are
    "objects": 0,  # the most objects in a built-in scene; 0 = the set's own
    "predict": "boxes",
    "neck": "c4",
    "res5_norm": "bn",
    "tuned": "all",
    "roi_size": 14,
    "rois": 512,
    "pre_nms": 12000,  # proposals in training; half of them in testing, as Detectron2
    "post_nms": 2000,
    "anchors": (32, 64, 128, 256, 512),
    "scales": tuple(range(480, 801, 32)),  # the shorter side, drawn for each image; the last in testing
    "max_side": 1333,
    "iterations": 24000,
    "batch_size": 16,
    "lr": 0.02,
    "steps": (18000, 22000),
    "warmup": 100,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "recalls": 11,  # VOC 2007 averages precision over 11 recalls, COCO over 101
    "small": 32.0**2,
}
_COCO_C4 = _C4 | {
    "train": ("coco/train",),
    "test": ("coco/val",),
    "predict": "masks",
    "scales": tuple(range(640, 801, 32)),
    "warmup": 1000,  # Detectron2's own; only VOC's file has 100
    "recalls": 101,
}
_FPN = _C4 | {  # HEXA, App. B; an epoch of the 16,551 images is 2,069 iterations
    "neck": "fpn",
    "tuned": "heads",
    "pre_nms": 2000,
    "iterations": 31033,
    "batch_size": 8,
    "lr": 0.05,
    "steps": (24827,),
    "warmup": 1000,
}
_SCENES = _C4 | {
    "train": ("shapes/train",),
    "test": ("shapes/test",),
    "images": 60,
    "test_images": 300,
    "side": 64,
    "objects": 3,
    "roi_size": 8,
    "rois": 32,
    "pre_nms": 400,
    "post_nms": 100,
    "anchors": (8, 16, 32),
    "scales": (64,),
    "max_side": 64,
    "iterations": 300,
    "batch_size": 8,
    "steps": (225, 275),
    "warmup": 50,
    "recalls": 101,
    "small": 20.0**2,
}
DETECTION: Mapping[str, Mapping[str, Any]] = {
    "detection": _SCENES,
    "segmentation": _SCENES | {"predict": "masks"},
    "detection-voc": _C4,
    "detection-voc-hexa": _FPN,
    "detection-voc-hvs": _C4 | {"iterations": 48000, "batch_size": 8, "lr": 0.01, "steps": (36000, 44000)},
    "segmentation-coco-2x": _COCO_C4 | {"iterations": 180000, "steps": (120000, 160000)},
    "segmentation-coco-hvs": _COCO_C4 | {"iterations": 90000, "batch_size": 8, "lr": 0.01, "steps": (60000, 80000)},
}


class Protocol(NamedTuple):
    """A published way of evaluating a network.

    kind: the function in ``protocols``.
    settings: as published; exactly these may be overridden.
    needs: frozen ``features``; frozen features of augmented ``views`` (the same if augment=none); the whole
        ``network``; or the network and ``scenes`` from sets of the protocol's own.
    used_by: the papers that use it.
    by_data: settings that differ on some sets.
    """

    kind: str
    settings: Mapping[str, Any]
    used_by: str
    needs: Literal["features", "views", "network", "scenes"] = "features"
    by_data: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def _probe(used_by: str, **changes: Any) -> Protocol:
    """A linear probe: the public CIFAR default with some settings changed, and by default ImageNet's augmentation."""
    return Protocol("linear", {**_LINEAR, "augment": "rrc-flip", **changes}, used_by, "views")


def _tuning(used_by: str, by_data: Mapping[str, Mapping[str, Any]] = MappingProxyType({}), **changes: Any) -> Protocol:
    """Fine-tuning of the whole network: HEXA's semi-supervised settings with some of them changed."""
    return Protocol("tuning", {**_TUNED, **changes}, used_by, "network", by_data)


_LINEAR = {
    "optimizer": "sgd",
    "lr": 30.0,
    "batch_size": 256,
    "epochs": 100,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "final_lr": 0.0,
    "augment": "none",
    "blocks": 1,
}
_TUNED = {
    "optimizer": "sgd",
    "lr": 0.01,
    "head_lr": None,
    "batch_size": 256,
    "epochs": 20,
    "weight_decay": 5e-4,
    "schedule": "fifth-60-80",
    "augment": "rrc-flip",
    "labels": 1.0,
    "listing": None,
    "fraction": 1.0,
}
_LBFGS = {"c": 1.0, "tolerance": 1e-5, "max_iter": 1000}
_BYOL: dict[str, Any] = {"optimizer": "nesterov", "schedule": "cosine"}
_BYOL_FEW: dict[str, Any] = {  # its App. C.1, 1 % and 10 % of ImageNet's labels
    **_BYOL,
    "lr": (0.005, 0.01, 0.02, 0.05, 0.1),
    "batch_size": 1024,
    "epochs": (30, 50),
    "weight_decay": 0.0,
}
_BYOL_COSTS = tuple(10 ** (p / 4) for p in range(-20, 25))  # its App. D.2: 45 penalties from 1e-6 to 1e5
_PPCL: dict[str, Any] = {"optimizer": "adam", "lr": 3e-4, "epochs": 500, "schedule": "constant", "augment": "none"}
_HVS_TUNED: dict[str, Any] = {
    "optimizer": "adamw",
    "batch_size": 512,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "epochs": 300,
}
_MOCO: dict[str, Any] = {"schedule": "step-60-80"}
_DEEPCLUSTER: dict[str, Any] = {"lr": 0.3, "weight_decay": 1e-6}
PROTOCOLS: Mapping[str, Protocol] = {
    "knn": Protocol("knn", {"ks": KS, "temperature": TEMPERATURE}, "HVS, DINO: weighted nearest neighbours"),
    "knn-moco": Protocol("knn", {"ks": (200,), "temperature": 0.1}, "the monitor of MoCo's CIFAR notebook"),
    "linear": Protocol("linear", _LINEAR, "public CIFAR default: MoCo's notebook, PatrickHua, hvp", "views"),
    "linear-lbfgs": Protocol("lbfgs", _LBFGS, "hardlab: the optimum"),
    "linear-hexa-moco": _probe("HEXA on MoCo v2, ImageNet", **_MOCO),
    "linear-hexa-moco-1": _probe("HEXA, Figs. 2 and 5: 1 epoch", **_MOCO, epochs=1),
    "linear-hexa-deepcluster": _probe("HEXA on DeepCluster v2, ImageNet", **_DEEPCLUSTER),
    "linear-hexa-deepcluster-1": _probe("HEXA, Figs. 2 and 5: 1 epoch", **_DEEPCLUSTER, epochs=1),
    "linear-hexa-cifar": _probe(
        "HEXA, CIFAR from an ImageNet network, App. B",
        optimizer="adamax",
        lr=(0.1, 0.01, 0.001),
        epochs=20,
        schedule="step-35-70",
        augment="none",
        size=224,
    ),
    "linear-adco": _probe("AdCo, ImageNet", lr=10.0, final_lr=0.01),
    "linear-adco-places": _probe("AdCo, Places205 (data=folder:PATH)", lr=5.0, schedule="oscillating"),
    "linear-hvs-simsiam": _probe("HVS on SimSiam, ImageNet", optimizer="larc", lr=0.1, batch_size=4096, epochs=90),
    "linear-hvs-simclr": _probe("HVS on SimCLR, ImageNet", lr=0.1, batch_size=4096, epochs=90),
    "linear-hvs-dino": _probe("HVS on DINO, ImageNet", lr=0.001, batch_size=1024, blocks=4),
    "linear-hnssl": _probe(
        "HNSSL, settings not stated: BYOL's", **_BYOL, lr=(0.4, 0.3, 0.2, 0.1, 0.05), batch_size=1024, epochs=80
    ),
    "linear-hnssl-transfer": Protocol(
        "lbfgs", {**_LBFGS, "c": _BYOL_COSTS}, "HNSSL, transfer, settings not stated: BYOL's (--data SET)"
    ),
    "linear-ppcl": _probe("PPCL, all its tables: the labels of the images that the run trained on", **_PPCL),
    "linear-ppcl-all": _probe("PPCL, as its text says: all labels, whatever the run trained on", **_PPCL, fraction=1.0),
    "svm": Protocol("svm", {"c": COST}, "HEXA, VOC07, C as in PCL's code"),
    "svm-goyal": Protocol("svm", {"c": COSTS}, "HEXA, VOC07, C by threefold cross-validation (Goyal et al.)"),
    "svm-low-shot": Protocol(
        "low-shot",
        {"shots": SHOTS, "draws": 5, "reading": "union", "c": COST},
        "HEXA, VOC07 low-shot, as PCL: k images a class, all seen by every SVM",
    ),
    "svm-low-shot-goyal": Protocol(
        "low-shot",
        {"shots": SHOTS, "draws": 5, "reading": "own", "c": COST},
        "HEXA, VOC07 low-shot, as Goyal et al.: k positives and 19 k negatives a class",
    ),
    "semi-hexa-1": _tuning("HEXA, 1 % of the labels", head_lr=1.0, labels=0.01),
    "semi-hexa-10": _tuning("HEXA, 10 % of the labels", head_lr=0.1, labels=0.1),
    "semi-hexa-100": _tuning("HEXA, all labels", head_lr=0.1),
    "semi-hnssl-1": _tuning(
        "HNSSL, 1 %, settings not stated: BYOL's",
        **_BYOL_FEW, labels=0.01,
    ),
    "semi-hnssl-10": _tuning(
        "HNSSL, 10 %, settings not stated: BYOL's",
        **_BYOL_FEW, labels=0.1,
    ),
    "semi-ppcl": _tuning(
        "PPCL, introduction: 500 labels of CIFAR-10; the settings are ours",
        optimizer="adam", lr=3e-4, epochs=100, weight_decay=0.0, schedule="constant", labels=0.01,
    ),
    "finetune-hexa": _tuning(
        "HEXA, CIFAR, App. C",
        optimizer="adamax", lr=(5e-4, 1e-3, 1e-2), weight_decay=0.0, schedule="step-35-70", size=224,
    ),
    "finetune-hvs-vit": _tuning(
        "HVS, transfer of ViT-S",
        {"cifar10": {"lr": 7.5e-6}, "cifar100": {"lr": 7.5e-6}, "food101": {"epochs": 100}},
        **_HVS_TUNED, lr=5e-5,
    ),
    "finetune-hvs-resnet": _tuning(
        "HVS, transfer of ResNet-50; 7e-5 on iNaturalist",
        {
            "cifar100": {"lr": 5e-6},
            "flowers102": {"lr": 5e-4},
            "food101": {"lr": 5e-6, "epochs": 100},
        },
        **_HVS_TUNED, lr=7.5e-6,
    ),
    "finetune-hnssl": _tuning(
        "HNSSL, transfer, settings not stated: BYOL's without its decays (--data SET)",
        **_BYOL, lr=tuple(10 ** (p / 2) for p in range(-8, -1)), epochs=None, updates=20000, weight_decay=0.0,
    ),
    **{
        name: Protocol("detection", DETECTION[name], used_by, "scenes")
        for name, used_by in (
            ("detection", "hardlab: Faster R-CNN on a few built-in scenes"),
            ("segmentation", "hardlab: Mask R-CNN on a few built-in scenes"),
            ("detection-voc", "HEXA, AdCo, VOC07+12, as MoCo: Faster R-CNN, R50-C4, 24k iterations"),
            ("detection-voc-hexa", "HEXA, as its App. B says: R50-FPN, the backbone frozen, 15 epochs"),
            ("detection-voc-hvs", "HVS, VOC07+12: the same with half the batch, 48k"),
            ("segmentation-coco-2x", "AdCo, COCO, as MoCo: Mask R-CNN, R50-C4, 180k"),
            ("segmentation-coco-hvs", "HVS, COCO: Mask R-CNN, R50-C4, half the batch, 90k"),
        )
    },
}  # fmt: skip
# settings of all protocols that say where to evaluate; None = as in the run
PLACE: Mapping[str, Any] = dict.fromkeys(("data", "size", "network", "fraction"))
# types of the settings whose published value is None
UNSET = (*PLACE, "head_lr", "listing", "epochs")
_Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
_Sides = Annotated[tuple[Pixels, ...], Field(min_length=1)]
_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Rates = Annotated[tuple[Rate, ...], Field(min_length=1)]
_Costs = Annotated[tuple[Positive, ...], Field(min_length=1)]
_ELSEWHERE = "data=cifar10, size=224, network=backbone, fraction=0.1"
# types of settings; several values, where the type also allows one, are a grid to choose from
TYPES: Mapping[str, Any] = {
    "data": str,
    "size": Pixels,
    "network": str,
    "fraction": PositiveShare,
    "ks": _Counts,
    "temperature": Annotated[float, real(0.002, 1e3)],  # exp(1/T) leaves float64 below
    "c": Positive | _Costs,
    "tolerance": Tolerance,
    "max_iter": Count,
    "shots": _Counts,
    "draws": Many,
    "reading": Literal["union", "own"],
    "optimizer": Literal["sgd", "nesterov", "lars", "larc", "adam", "adamw", "adamax"],
    "lr": Rate | _Rates,
    "head_lr": Rate,
    "final_lr": RateOrZero,
    "weight_decay": Decay,
    "momentum": Momentum,
    "batch_size": Count,
    "epochs": Count | _Counts,
    "updates": Count,
    "schedule": Literal["constant", "cosine", "oscillating", "step-60-80", "step-35-70", "fifth-60-80"],
    "augment": Literal["none", "rrc-flip"],
    "blocks": Layers,
    "labels": PositiveShare,
    "listing": str,
    "train": _Names,
    "test": _Names,
    "images": Natural,
    "test_images": Natural,
    "side": PixelsOrNone,
    "objects": Annotated[int, whole(0, 16)],
    "predict": Literal["boxes", "masks"],
    "neck": Literal["c4", "fpn"],
    "res5_norm": Literal["bn", "none"],
    "tuned": Literal["all", "heads"],
    "roi_size": Few,
    "rois": Many,
    "pre_nms": Many,
    "post_nms": Many,
    "anchors": _Sides,
    "scales": _Sides,
    "max_side": Pixels,
    "iterations": Count,
    "steps": tuple[Natural, ...],
    "warmup": Natural,
    "recalls": Annotated[int, whole(2, 10_001)],
    "small": Positive,
}


def find(name: str) -> Protocol:
    """The protocol of this name; HardlabError with the nearest name for an unknown one."""
    if name not in PROTOCOLS:
        raise unknown("evaluation protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def settings(name: str, overrides: Mapping[str, Any], data: str = "") -> dict[str, Any]:
    """The settings of a protocol on a data set: the published ones, replaced by ``overrides``.

    Every protocol has those of ``PLACE`` too; None means as in the run. Raises HardlabError for an unknown protocol or
    setting, or a value of the wrong type.
    """
    protocol = find(name)
    published = {**PLACE, **protocol.settings, **protocol.by_data.get(data, {})}
    resolved = dict(published)
    for option, value in overrides.items():
        if option not in published:
            raise unknown("option", option, published, f"Protocol '{name}'")
        if protocol.needs == "scenes" and option in ("data", "size", "fraction"):
            raise HardlabError(f"protocol '{name}' has sets of its own: set train, test, side or images, not {option}.")
        if value is None and published[option] is None:
            continue
        resolved[option] = numbers.fit(f"option {option} of protocol '{name}'", TYPES[option], value)
    return resolved


def check_backbone(name: str, backbone: str) -> None:
    """Refuse a backbone, by name, that this protocol's networks cannot be built on. Raises HardlabError."""
    if find(name).kind == "detection" and not backbones.has_stages(backbone):
        raise HardlabError(
            f"Protocol '{name}' builds a detector on the stages of a backbone, and {backbone} has none: use a ResNet "
            "or tiny."
        )


def describe() -> str:
    """The protocols, who uses them, and their settings: two lines each, and one per data set with its own settings."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        lines += [f"{name}: {protocol.used_by}", f"    {_plainly(protocol.settings)}"]
        lines += [f"    on {data}: {_plainly(changed)}" for data, changed in protocol.by_data.items()]
    return "\n".join([*lines, f"Every protocol takes {_ELSEWHERE} as well, to be measured elsewhere."])


def _plainly(settings: Mapping[str, Any]) -> str:
    choices = {k: v if isinstance(v, tuple) else (v,) for k, v in settings.items() if v is not None}
    words = {k: [v if isinstance(v, str) else f"{v:g}" for v in vs] for k, vs in choices.items()}
    return ", ".join(f"{k}={v[0]}" if len(v) == 1 else f"{k}=[{', '.join(v)}]" for k, v in words.items())


def on_features(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a protocol with these settings needs only frozen features."""
    needs = find(name).needs
    return needs == "features" or (needs == "views" and options["augment"] == "none")
