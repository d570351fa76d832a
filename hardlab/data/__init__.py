"""Data sets by name: built-in (shapes, digits), image folders, and torchvision's."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from hardlab import numbers
from hardlab.errors import HardlabError

if TYPE_CHECKING:
    from hardlab.data.base import Images

__all__ = ["SETS", "Images", "load"]

SETS: dict[str, str] = {
    "shapes": "hardlab.data.shapes:shapes",
    "digits": "hardlab.data.images:digits",
    "folder": "hardlab.data.folders:folder",
    "pack": "hardlab.data.packs:pack",
    "cifar10-jpeg": "hardlab.data.folders:cifar10_jpeg",
    "imagenet": "hardlab.data.folders:imagenet",
    "cifar10": "hardlab.data.images:cifar10",
    "cifar100": "hardlab.data.images:cifar100",
    "fashionmnist": "hardlab.data.images:fashionmnist",
    "stl10": "hardlab.data.images:stl10",
    "svhn": "hardlab.data.images:svhn",
    "flowers102": "hardlab.data.images:flowers102",
    "food101": "hardlab.data.images:food101",
    "pets": "hardlab.data.images:pets",
    "cars": "hardlab.data.images:cars",
    "sun397": "hardlab.data.images:sun397",
    "voc2007": "hardlab.data.annotation_files:voc2007",
    "voc2012": "hardlab.data.annotation_files:voc2012",
    "coco": "hardlab.data.annotation_files:coco",
}
BUILT_IN = ("shapes", "digits")  # drawn, or part of scikit-learn: always available
BY_PATH = ("folder", "pack")  # named with a path: folder:PATH
SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "ell", "hourglass", "bar")
# known without loading the data: training images per class (one number if all classes have as many), pixels of a side
KNOWN: dict[str, tuple[dict[str, int] | tuple[int, int], int]] = {
    "shapes": (dict.fromkeys(SHAPES, 500), 32),
    "digits": (dict(zip("0123456789", (143, 146, 142, 147, 145, 146, 145, 144, 140, 144), strict=True)), 32),
    "cifar10": ((10, 5000), 32),
    "cifar10-jpeg": ((10, 5000), 32),
    "cifar100": ((100, 500), 32),
    "fashionmnist": ((10, 6000), 32),
}


def per_class(name: str, classes: Sequence[str] | None = None) -> list[int] | None:
    """Training images of each class of a set, or of the chosen ones; None where only loading them tells.

    Raises HardlabError for a class that the set does not have, if its names are known.
    """
    counts, _ = KNOWN.get(name, (None, 0))
    if isinstance(counts, dict):
        for chosen in classes or ():
            if chosen not in counts:
                near = difflib.get_close_matches(chosen, counts, n=1, cutoff=0.5)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise HardlabError(f"{name} has no class '{chosen}'.{hint} Allowed: {', '.join(counts)}.")
        return [counts[c] for c in classes or counts]
    return [counts[1]] * len(classes or range(counts[0])) if counts else None


def check_folder(name: str) -> None:
    """Refuse a set ``folder:PATH`` or ``pack:PATH`` that is not there, without loading torch. Raises HardlabError."""
    path = path_of(name)
    if path is not None and path.strip() and not os.path.isdir(os.path.expanduser(path)):
        hint = f" The data set of that name is data={path}." if path in SETS else ""
        kind = "pack" if name.startswith("pack:") else "folder of images"
        raise HardlabError(f"There is no {kind} '{path}'.{hint}")


def __getattr__(name: str) -> Any:
    """Load ``Images`` on first use: it needs torch, the names of the sets do not."""
    if name != "Images":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hardlab.data.base import Images

    return Images


def path_of(name: str) -> str | None:
    """The path in ``folder:PATH`` or ``pack:PATH``; None for the name of another set."""
    kind, colon, path = name.partition(":")
    return path if colon and kind in BY_PATH else None


def load(
    name: str,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    fraction: float = 1.0,
    subset_seed: int = 0,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    device: str = "cpu",
    on_broken: str = "error",
    broken_share: float = 0.01,
    held_out: float = 0.0,
    workers: int = 0,
    max_side: int = 512,
    size: int | None = None,
    dry: bool = False,
    **options: Any,
) -> Images:
    """Load a data set by its name in SETS, or ``folder:<path>`` or ``pack:<path>`` for images of yours (docs/data.md).

    split: "train", "test" or, where the set has one, "val".
    root: the folder of its files; None = ``HARDLAB_DATA``, or else the user's cache. Nothing is downloaded if
        ``HARDLAB_OFFLINE`` is set.
    fraction: share of each class, chosen by ``subset_seed`` alone, before looking for broken images.
    subset_seed: seed of that choice.
    classes: a list of class names, or the path of a text file with one per line; label i is its i-th line.
    device: where images that stay in memory lie.
    on_broken: "error" raises HardlabError naming the path when the image is decoded; "skip" decodes every file once at
        load (cached in the data root), leaves out the broken ones and lists them in ``.skipped``.
    broken_share: the largest share of broken images that "skip" accepts; raises HardlabError above it.
    held_out: share of each class of the training images, at least one of two, that is the test split and never trained
        on; 0 = the set's own test split. It is held out before ``fraction`` is taken, and the same at every call.
    workers: number of processes, or for a pack threads, that decode images which do not stay in memory.
    max_side: the largest side in pixels of an image at the set's own size; larger images are shrunk to it.
    size: fit every image to size x size pixels (centred square); None = the set's own size. Images of one size up to 96
        pixels (below 2 GiB together) stay in memory.
    dry: read only the number, sizes and labels of the images: large ones are not decoded, and a set that would have to
        be downloaded raises ``data.base.Absent``.
    options: those of the set's own function, such as count, seed and objects of "shapes".
    """
    from hardlab.data.base import build, hold_out, nearest, staying_offline

    if not isinstance(name, str):
        raise HardlabError(f"a data set is named by text, such as 'digits' or 'folder:<path>', not by {name!r}")
    if root is not None:
        try:
            root = os.fsdecode(root)
        except TypeError:
            raise HardlabError(f"root={root!r} is no path") from None
    key, path = name, path_of(name)
    if path is not None:
        if root is not None:
            raise HardlabError(f"give the folder once: either as {name!r} or as root={root!r}")
        key, root = name.partition(":")[0], path
        if not root.strip():
            raise HardlabError(f"{name!r} names no folder: write '{key}:<path>'")
    if key not in SETS:
        raise HardlabError(f"unknown data set {name!r}{nearest(name, SETS)} Allowed are {', '.join(SETS)}.")
    if on_broken not in ("error", "skip"):
        raise HardlabError(
            f"on_broken must be 'error' or 'skip', not {on_broken!r}{nearest(on_broken, ('error', 'skip'))}"
        )
    fraction = numbers.fit("fraction", numbers.PositiveShare, fraction)
    subset_seed = numbers.fit("subset_seed", numbers.Seed, subset_seed)
    broken_share = numbers.fit("broken_share", numbers.Share, broken_share)
    held_out = numbers.fit("held_out", numbers.Share, held_out)
    workers = numbers.fit("workers", numbers.Workers, workers)
    max_side = numbers.fit("max_side", numbers.Count, max_side)
    size = numbers.fit("size", numbers.Pixels | None, size)
    module, factory = SETS[key].split(":")
    make = getattr(import_module(module), factory)
    own = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in own:
            allowed = ", ".join(own) or "none"
            raise HardlabError(f"{key} has no option {option!r}: allowed are {allowed}{nearest(option, own)}")
    kinds = get_type_hints(make, include_extras=True)
    options = {k: numbers.fit(f"{k} of {key}", kinds[k], v) for k, v in options.items()}
    with staying_offline() if dry else nullcontext():
        source = make("train" if held_out else split, root, size, **options)
    if held_out:
        source = hold_out(source, held_out, split)
    return build(
        key,
        split,
        source,
        fraction=fraction,
        subset_seed=subset_seed,
        classes=classes,
        device=device,
        on_broken=on_broken,
        broken_share=broken_share,
        workers=workers,
        max_side=max_side,
        size=size,
        dry=dry,
    )
