"""What is known of a backbone without building it: settings that make none, and its smallest view; loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardlab.errors import HardlabError
from hardlab.needs import Entry

GAN_HALVES = {32: 2, 64: 4}  # pixels of the images of BigGAN's networks -> blocks of D that halve the resolution


def check_patches(patch: int, size: int) -> None:
    """Refuse a vision transformer whose images hold no patch. Raises HardlabError."""
    if patch < 1 or size < patch:
        raise HardlabError(f"A ViT with patch={patch}, size={size}: an image must hold at least one patch.")


def check_gan(size: int) -> None:
    """Refuse a size of images for which BigGAN has no networks. Raises HardlabError."""
    if size not in GAN_HALVES:
        sizes = " or ".join(map(str, GAN_HALVES))
        raise HardlabError(f"A GAN with size={size}: BigGAN's networks are made for {sizes}.")


def is_vit(name: str) -> bool:
    """Whether a backbone of this name is a vision transformer."""
    return name.startswith("vit_")


def has_stages(name: str) -> bool:
    """Whether a backbone of this name has the spatial stages that a detector takes."""
    return not is_vit(name) and name != "biggan"


def least_view(name: str, options: Mapping[str, Any]) -> int:
    """The side of the smallest image that a backbone takes, in pixels. options: all of them."""
    if is_vit(name):
        return int(options["patch"])
    return 2 ** GAN_HALVES[options["size"]] if name == "biggan" else 1


def last_side(name: str, options: Mapping[str, Any], size: int) -> int | None:
    """The pixels of a side of the last feature map, of views of ``size`` pixels; None without batch norm."""
    if is_vit(name) or name == "biggan":
        return None
    shrinks = 4 * options["stride"] if name == "tiny" else 8 if options["small_images"] else 32
    return -(-size // int(shrinks))  # each layer of stride s makes a side n into n / s, rounded up


def may_be_one(a: Entry, b: Entry) -> bool:
    """Whether weights of one backbone may fit the other; only built networks tell for certain."""
    if a.name != b.name:  # as resnet50 of width 2 and resnet50x2
        return a.name.startswith(b.name) or b.name.startswith(a.name)
    return all(a.options[key] == b.options[key] for key in ("width", "blocks", "patch", "size") if key in a.options)


def check(name: str, options: Mapping[str, Any], view: int, given: Mapping[str, Any]) -> None:
    """Refuse settings that make no network, and views that cannot pass through it. Raises HardlabError.

    options: all of them. view: the side of the smallest view, in pixels. given: the options that the run names.
    """
    if is_vit(name):
        check_patches(options["patch"], options["size"])
    if name == "biggan":
        check_gan(options["size"])
    if view < (least := least_view(name, options)):
        raise HardlabError(
            f"Views of {view} pixels cannot pass through backbone {name} {dict(given)}: it takes at least {least}."
        )
