"""Image folders ``<split>/<class>/*``: any of them, ImageNet's, and the CIFAR-10 archive of JPEG files."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hardlab.data.base import Missing, Source, data_root, nearest, shown
from hardlab.types import HardlabError

# what may be an image: where Pillow cannot read one of them, it is broken and not merely absent
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
            ".pnm", ".tga", ".jp2", ".jxl", ".avif", ".heic", ".heif")  # fmt: skip
SPLITS = ("train", "val", "test")
_OTHER = {"test": "val", "val": "test"}  # which folder stands in where a split is missing
_NOT_OURS = ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
             "lost+found")  # fmt: skip
ARCHIVE = "cifar10-jpeg.tar.xz"
_CHECKOUT = Path(__file__).resolve().parents[2]


def folder(split: str, root: str | None, size: int | None) -> Source:
    """Images in ``<root>/<split>/<class>/**``, or ``<root>/<split>/*`` without labels; split train, val or test.

    val and test stand in for each other where only one exists. Classes are the sorted names of the folders with images,
    of all splits together, so that a label means the same in each; rows are sorted by path. Folders and files that
    begin with a dot are not read; links to folders elsewhere are followed, each folder once.
    """
    if root is None:
        raise HardlabError("which folder? call load('folder:<path>') or load('folder', root=<path>)")
    return read_folder(Path(os.path.expanduser(root)), split)


def read_folder(root: Path, split: str) -> Source:
    """The source of one split of an image folder."""
    present = [s for s in SPLITS if os.path.isdir(root / s)]
    if not present:
        state = "holds none of the folders" if os.path.isdir(root) else "does not exist; expected there:"
        raise Missing(f"{root} {state} train/<class>/, val/<class>/, test/<class>/")
    if split not in SPLITS:
        raise HardlabError(f"unknown split {split!r} of {root}: it has {', '.join(present)}{nearest(split, present)}")
    there = split if split in present else _OTHER.get(split, split)
    if there not in present:
        raise HardlabError(f"{root} has no split {split!r}: it has {', '.join(present)}")
    files = sorted(_images_under(root / there))
    if not files:
        raise HardlabError(f"{root / there} holds no image ({', '.join(SUFFIXES)})")
    names = {_class_of(f) for f in files if "/" in f}
    # of every split: a class that is missing in one of them must not shift the labels there
    for other in present:
        if other != there:
            more = {c: _class_of(c) for c in _entries(root / other)[0]}
            names |= {name for c, name in more.items() if name not in names and _holds_images(root / other, c)}
    classes = sorted(names)
    for name in classes:
        if name != name.encode(errors="replace").decode():  # which no table of results could hold
            raise HardlabError(f"the name of the class {shown(name)} in {shown(root)} is not UTF-8: rename it")
    label = {c: i for i, c in enumerate(classes)}
    targets = [label[_class_of(f)] if "/" in f else -1 for f in files]
    return Source(tuple(classes), np.array(targets, np.int64), files, paths=[root / there / f for f in files])


def _class_of(file: str) -> str:
    """The class of a file ``class/...``: one, whether an accent is part of its letter or, as on a Mac, beside it."""
    return unicodedata.normalize("NFC", file.split("/", 1)[0])


def _entries(where: Path) -> tuple[list[str], list[str]]:
    """Names of the folders that people put into ``where``, those of its own first and links after, and of its images.

    What begins with a dot (``.ipynb_checkpoints``, ``._x.jpg``) and ``__MACOSX`` is a program's. HardlabError for a
    folder that cannot be read, whose images would be missing without a word.
    """
    folders: list[str] = []
    links: list[str] = []
    images: list[str] = []
    try:
        with os.scandir(where) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _NOT_OURS:
                    continue
                if os.path.isdir(entry.path):  # False for a link to itself, where entry.is_dir() raises
                    (links if entry.is_symlink() else folders).append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    images.append(entry.name)
    except OSError as e:
        raise HardlabError(f"the folder {shown(where)} cannot be read: {e.strerror}") from e
    return sorted(folders) + sorted(links), images


def _holds_images(top: Path, name: str) -> bool:
    """Whether a folder of ``top`` holds an image, at any depth."""
    return next(_walk(top, name, {os.path.realpath(top)}), None) is not None


def _images_under(top: Path) -> list[str]:
    return list(_walk(top, "", set()))


def _walk(top: Path, below: str, seen: set[str]) -> Iterator[str]:
    """Images under ``top/below``, as paths below ``top``.

    ``seen`` holds the folders that were walked: each is walked once, whatever links lead to it. A link to a folder that
    holds ``top``, or that lies in it, leads to nothing that is not in the data already.
    """
    where = os.path.realpath(top / below)
    home = os.path.realpath(top)
    if where in seen or (below and os.path.commonpath([where, home]) == where):
        return
    if below and (top / below).is_symlink() and os.path.commonpath([where, home]) == home:
        return
    seen.add(where)
    folders, images = _entries(top / below)
    for name in images:
        yield f"{below}/{name}" if below else name
    for name in folders:
        yield from _walk(top, f"{below}/{name}" if below else name, seen)


def imagenet(split: str, root: str | None, size: int | None) -> Source:
    """ImageNet as folders ``train/<wnid>/`` and ``val/<wnid>/`` under the data root or its subfolder imagenet.

    Never downloaded: its licence asks for a registration. ImageNet-100: ``classes=`` a file with its 100 wnids.
    """
    where = data_root(root)
    for top in (where / "imagenet", where):
        if any(os.path.isdir(top / s) for s in SPLITS):
            return read_folder(top, split)
    raise Missing(f"imagenet was not found: put train/<wnid>/*.JPEG and val/<wnid>/*.JPEG under {where / 'imagenet'}")


def cifar10_jpeg(split: str, root: str | None, size: int | None) -> Source:
    """CIFAR-10 as JPEG files, ``train|test/<class>/NNNN.jpg``, from an unpacked folder or from ``cifar10-jpeg.tar.xz``.

    root: the archive, the unpacked folder, or a folder that holds either; without it they are looked for in the data
    root and in ``shared/data`` beside the checkout. The archive is unpacked once, into the data root.
    """
    unpacked = data_root() / "cifar10-jpeg"
    if root is not None:
        given = Path(os.path.expanduser(root))
        folders, archives = [given, given / "cifar10-jpeg"], [given / ARCHIVE]
        if given.is_file():
            folders, archives = [], [given]
    else:
        folders, archives = [], [data_root() / ARCHIVE, _CHECKOUT.parent / "shared" / "data" / ARCHIVE]
    for top in [*folders, unpacked]:
        if os.path.isdir(top / "train"):
            return read_folder(top, split)
    for archive in archives:
        if archive.is_file():
            _unpack(archive, unpacked)
            return read_folder(unpacked, split)
    raise Missing(f"cifar10-jpeg was not found: put {ARCHIVE} into {archives[0].parent}, or say root=<archive>")


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
    """Unpack beside the target and rename: a target that exists is whole, whoever else unpacks at the same time.

    Nothing stays of an archive without images in ``train/<class>/``, at its top or in the one folder at its top.
    """
    if target.is_dir() and not (target / "train").is_dir():
        raise HardlabError(f"{target} has no train/ folder, so {archive} cannot be unpacked there: remove it.")
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.part-")
        with tarfile.open(archive) as tar:
            for member in tar:  # by hand: tarfile's own filters came with Python 3.11.4
                _extract(tar, member, Path(scratch).resolve())
        top = Path(scratch)
        if not (top / "train").is_dir() and len(inner := _entries(top)[0]) == 1:
            top /= inner[0]
        if not (top / "train").is_dir() or not any("/" in f for f in _images_under(top / "train")):
            raise HardlabError(f"{archive} holds no images in train/<class>/, so it is not {target.name}.")
        os.chmod(top, 0o755)  # mkdtemp makes it private
        os.rename(top, target)
    except (OSError, tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as e:
        if not (target / "train").is_dir():  # else somebody was faster
            raise HardlabError(f"cannot unpack {archive} to {target}: {e}") from e
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
