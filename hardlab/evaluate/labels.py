"""The labelled images of semi-supervised protocols: class-balanced lists of names."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from hardlab.data import Images
from hardlab.data.base import data_root, stratified
from hardlab.types import HardlabError

LISTS = Path(__file__).with_name("lists")  # lists for the built-in sets, <set>-<percent>.txt


def labelled(images: Images, share: float, listing: str | None = None, root: str | Path | None = None) -> Tensor:
    """The rows (N,), ascending, of the images whose labels a protocol may use.

    share: of the labels, 1 = all. listing: a file with a name per line (SimCLR's format: file names without folders).
    None means the repository's list for a whole built-in set, SimCLR's ``1percent.txt`` or ``10percent.txt`` beside
    ImageNet, and for any other set ``share`` of each class, the same images at every call. Raises HardlabError.
    """
    if not 0 < share <= 1:
        raise HardlabError(f"labels={share} is not a share of the labels: it must be above 0 and at most 1.")
    percent = f"{100 * share:g}"
    bundled = LISTS / f"{images.name}-{percent}.txt"
    if listing is not None:
        return _read(images, Path(os.path.expanduser(listing)))
    if share == 1:
        return torch.arange(len(images))
    if bundled.exists() and set(bundled.read_text(encoding="utf-8").split()) <= set(images.names):
        return _read(images, bundled)
    if images.name == "imagenet":
        folder = data_root(root)
        inner = folder / "imagenet"
        return _read(images, (inner if inner.is_dir() else folder) / f"{percent}percent.txt")
    return torch.from_numpy(stratified(images.targets.cpu().numpy(), share, 0, images.classes))


def _read(images: Images, path: Path) -> Tensor:
    try:
        if path.exists() and not path.is_file():  # a pipe would block
            raise OSError("it is not a file")
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise HardlabError(f"the list of labelled images {path} cannot be read ({e}).") from e
    names = [w for w in names if w and not w.startswith("#")]
    row = {name: i for i, name in enumerate(images.names)}
    if not all(w in row for w in names):  # SimCLR's lists leave the folders out
        row |= {os.path.basename(name): i for i, name in enumerate(images.names)}
    for w in names:
        if w not in row:
            raise HardlabError(f"{path.name} names {w!r}, which {images.name}, split {images.split}, does not hold.")
    if not names:
        raise HardlabError(f"the list of labelled images {path} is empty.")
    return torch.tensor(sorted({row[w] for w in names}))
