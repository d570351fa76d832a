"""Image folders ``<split>/<class>/*``: any of them, ImageNet's, and the CIFAR-10 archive of JPEG files."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from hardlab.data.base import Source, data_root, nearest
from hardlab.types import HardlabError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
SPLITS = ("train", "val", "test")
_OTHER = {"test": "val", "val": "test"}  # which folder stands in where a split is missing
ARCHIVE = "cifar10-jpeg.tar.xz"
_CHECKOUT = Path(__file__).resolve().parents[2]


def folder(split: str, root: str | None, size: int | None) -> Source:
    """Images in ``<root>/<split>/<class>/**``, or ``<root>/<split>/*`` without labels; split train, val or test.

    val and test stand in for each other where only one exists. Classes are the sorted folder names of all splits
    together, so that a label means the same in each; rows are sorted by path.
    """
    if root is None:
        raise HardlabError("which folder? say load('folder:<path>') or load('folder', root=<path>)")
    return read_folder(Path(root).expanduser(), split)


def read_folder(root: Path, split: str) -> Source:
    """The source of one split of an image folder."""
    present = [s for s in SPLITS if (root / s).is_dir()]
    if not present:
        state = "holds none of the folders" if root.is_dir() else "does not exist; expected there:"
        raise HardlabError(f"{root} {state} train/<class>/, val/<class>/, test/<class>/")
    if split not in SPLITS:
        raise HardlabError(f"unknown split {split!r} of {root}: it has {', '.join(present)}{nearest(split, present)}")
    there = split if split in present else _OTHER.get(split, split)
    if there not in present:
        raise HardlabError(f"{root} has no split {split!r}: it has {', '.join(present)}")
    # of every split: a class that is missing in one of them must not shift the labels there
    classes = sorted({d.name for s in present for d in os.scandir(root / s) if d.is_dir()})
    files = sorted(_images_under(root / there))
    if not files:
        raise HardlabError(f"{root / there} holds no image ({', '.join(SUFFIXES)})")
    label = {c: i for i, c in enumerate(classes)}
    targets = [label[f.split("/", 1)[0]] if "/" in f else -1 for f in files]
    return Source(tuple(classes), np.array(targets, np.int64), files, paths=[root / there / f for f in files])


def _images_under(top: Path) -> list[str]:
    found = []
    for where, _, names in os.walk(top, followlinks=True):
        below = Path(where).relative_to(top)
        found += [(below / n).as_posix() for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    return found


def imagenet(split: str, root: str | None, size: int | None) -> Source:
    """ImageNet as folders ``train/<wnid>/`` and ``val/<wnid>/`` under the data root or its subfolder imagenet.

    Never downloaded: its licence asks for a registration. ImageNet-100: ``classes=`` a file with its 100 wnids.
    """
    where = data_root(root)
    for top in (where / "imagenet", where):
        if any((top / s).is_dir() for s in SPLITS):
            return read_folder(top, split)
    raise HardlabError(
        f"imagenet was not found: put train/<wnid>/*.JPEG and val/<wnid>/*.JPEG under {where / 'imagenet'}"
    )


def cifar10_jpeg(split: str, root: str | None, size: int | None) -> Source:
    """CIFAR-10 as JPEG files, ``train|test/<class>/NNNN.jpg``, from an unpacked folder or from ``cifar10-jpeg.tar.xz``.

    root: the archive, the unpacked folder, or a folder that holds either; without it they are looked for in the data
    root and in ``shared/data`` beside the checkout. The archive is unpacked once, into the data root.
    """
    unpacked = data_root() / "cifar10-jpeg"
    if root is not None:
        given = Path(root).expanduser()
        folders, archives = [given, given / "cifar10-jpeg"], [given / ARCHIVE]
        if given.is_file():
            folders, archives = [], [given]
    else:
        folders, archives = [], [data_root() / ARCHIVE, _CHECKOUT.parent / "shared" / "data" / ARCHIVE]
    for top in [*folders, unpacked]:
        if (top / "train").is_dir():
            return read_folder(top, split)
    for archive in archives:
        if archive.is_file():
            _unpack(archive, unpacked)
            return read_folder(unpacked, split)
    raise HardlabError(f"cifar10-jpeg was not found: put {ARCHIVE} into {archives[0].parent}, or say root=<archive>")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """One file or folder; tarfile.TarError for what is neither, and for one that would lie outside ``into``."""
    path = (into / member.name).resolve()
    source = tar.extractfile(member) if member.isfile() else None
    if not path.is_relative_to(into) or (source is None and not member.isdir()):
        raise tarfile.TarError(f"'{member.name}' is no file or folder of the archive's own")
    (path if source is None else path.parent).mkdir(parents=True, exist_ok=True)
    if source is not None:
        with source, open(path, "wb") as sink:
            shutil.copyfileobj(source, sink)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside the target and rename: a target that exists is whole, whoever else unpacks at the same time."""
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.part-")
        with tarfile.open(archive) as tar:
            for member in tar:  # by hand: tarfile's own filters came with Python 3.11.4
                _extract(tar, member, Path(scratch).resolve())
        os.chmod(scratch, 0o755)  # mkdtemp makes it private
        os.rename(scratch, target)
    except (OSError, tarfile.TarError, EOFError) as e:
        if not (target / "train").is_dir():  # else somebody was faster
            raise HardlabError(f"cannot unpack {archive} to {target}: {e}") from e
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
