"""Augmentations as data: the distribution of a view's parameters, and the papers' presets; `views` draws from them."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from hardlab.errors import HardlabError
from hardlab.numbers import Pixels, Positive, PositiveShare, Share, Strength, ordered, reason, shown

PARAMS = (
    "image_h", "image_w", "top", "left", "height", "width", "flip", "brightness", "contrast", "saturation", "hue",
    "order", "gray", "sigma", "solarize",
)  # fmt: skip
COLOUR = slice(7, 15)


class Augment(BaseModel, frozen=True, extra="forbid"):
    """The distribution of one view's parameters. Raises HardlabError.

    size: pixels of a side of the output.
    crop: ``first`` (before the appearance), ``last`` (after it, HNSSL's order) or ``none`` (the whole image).
    scale, ratio: area share and aspect ratio of the crop.
    interpolation: ``bilinear`` or ``bicubic``.
    jitter: strengths of brightness, contrast, saturation and hue, as in torchvision's ColorJitter; hue at most 0.5.
    flip, jitter_p, gray, blur, solarize: probabilities, each drawn per sample.
    sigma: range of the blur, in pixels of the image it blurs.
    kernel: taps of the blur, odd; None = a tenth of the size, made odd.
    threshold: the value from which solarize inverts.
    """

    size: Pixels
    crop: Literal["first", "last", "none"] = "first"
    scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Share = 0.5
    jitter: tuple[Strength, Strength, Strength, Strength] = (0.8, 0.8, 0.8, 0.2)
    jitter_p: Share = 0.8
    gray: Share = 0.2
    blur: Share = 0.0
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    kernel: Pixels | None = None
    solarize: Share = 0.0
    threshold: Share = 128 / 256

    @model_validator(mode="wrap")
    @classmethod
    def _plainly(cls, data: Any, handler: Any) -> Augment:
        for key, value in data.items() if isinstance(data, dict) else ():
            ordered(f"augmentation: {key}", value)
        try:
            augment: Augment = handler(data)
        except ValidationError as error:
            first = error.errors()[0]
            name, fields = str(first["loc"][0] if first["loc"] else data), sorted(cls.model_fields)
            similar = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {similar[0]}? " if similar and similar[0] != name else ""
            raise HardlabError(
                f"augmentation: {name} = {shown(first['input'])}: {reason(error)}; {hint}"
                f"the fields are {', '.join(fields)}"
            ) from None
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(augment, name)
            augment._require(low <= high, name, "two numbers, low <= high")
        augment._require(augment.jitter[3] <= 0.5, "jitter", "four strengths, hue at most 0.5")
        augment._require(augment.kernel is None or augment.kernel % 2, "kernel", "odd, or None")
        return augment

    def but(self, **changes: Any) -> Augment:
        """The same augmentation with some fields changed (checked, unlike ``model_copy``)."""
        return Augment(**(self.model_dump() | changes))

    def _require(self, ok: object, name: str, allowed: str) -> None:
        if not ok:
            raise HardlabError(f"augmentation: {name} = {getattr(self, name)} is not possible; it must be {allowed}")


def _presets() -> dict[str, tuple[Augment, ...]]:
    strong, mild = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1)
    simclr = Augment(size=224, jitter=strong, blur=0.5)
    moco = Augment(size=224, scale=(0.2, 1.0), jitter=mild, blur=0.5)
    cifar = {"size": 32, "blur": 0.0, "jitter": mild}
    dino = Augment(size=224, scale=(0.4, 1.0), interpolation="bicubic", jitter=(0.4, 0.4, 0.2, 0.1))
    presets = {
        "simclr": (simclr,),
        "simclr_cifar": (simclr.but(**cifar),),  # strength s = 0.5
        "moco": (moco,),
        "moco_cifar": (simclr.but(**cifar),),  # MoCo's notebook: torchvision's default area
        "simsiam": (moco.but(kernel=9),),  # HVS's code blurs with nine taps
        "simsiam_cifar": (moco.but(**cifar),),
        "hvs_simclr": (simclr.but(kernel=23),),
        "dino_global": (dino.but(blur=1.0), dino.but(blur=0.1, solarize=0.2)),
        "dino_local": (dino.but(size=96, scale=(0.05, 0.4), blur=0.5),),
        "byol": (
            dino.but(scale=(0.08, 1.0), blur=1.0, kernel=23),
            dino.but(scale=(0.08, 1.0), blur=0.1, kernel=23, solarize=0.2),
        ),
        "supervised": (simclr.but(jitter_p=0.0, gray=0.0, blur=0.0),),
        "supervised_cifar": (simclr.but(size=32, jitter_p=0.0, gray=0.0, blur=0.0),),
        "deepcluster": (simclr,),
        "deepcluster_8": (simclr.but(scale=(0.14, 1.0)),),
        "deepcluster_local": (simclr.but(size=96, scale=(0.05, 0.14)),),
        "clae": (simclr.but(size=32, blur=0.0),),
        "ppcl": (simclr.but(**cifar),),
        "hnssl": (Augment(size=224, crop="last", scale=(0.8, 1.0), blur=0.1, sigma=(1.5, 1.5), kernel=3),),
        "eval": (Augment(size=32, crop="none", flip=0.0, jitter_p=0.0, gray=0.0),),
    }
    # AdCo's five queries; at CIFAR's size a seventh of the pixels, in steps of four
    areas = [(224, 32, 1.0), (192, 28, 0.86), (160, 24, 0.715), (128, 20, 0.571), (96, 16, 0.429)]
    presets["adco_crops"] = tuple(moco.but(size=size, scale=(0.2 * high, high)) for size, _, high in areas)
    presets["adco_crops_cifar"] = tuple(
        simclr.but(**(cifar | {"size": small, "scale": (0.2 * high, high)})) for _, small, high in areas
    )
    return presets


PRESETS = _presets()
