"""Image folders, with or without splits and classes; ImageNet's, and the CIFAR-10 archive of JPEG files."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hardlab.data.base import Missing, Source, choose, data_root, nearest, shown
from hardlab.types import HardlabError

# what may be an image: where Pillow cannot read one of them, it is broken and not merely absent
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
            ".pnm", ".tga", ".jp2", ".jxl", ".avif", ".heic", ".heif")  # fmt: skip
SPLITS = ("train", "val", "test")
WHOLE = "."  # the split of a folder without splits
_OTHER = {"test": "val", "val": "test"}  # the folder that replaces a missing split
_NOT_OURS = ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
             "lost+found")  # fmt: skip
ARCHIVE = "cifar10-jpeg.tar.xz"
_CHECKOUT = Path(__file__).resolve().parents[2]


def folder(split: str, root: str | None, size: int | None) -> Source:
    """Images in ``<root>/<split>/<class>/**``, or ``<root>/<split>/*`` without labels; split train, val or test.

    A folder with none of these splits, ``<root>/<class>/**`` or ``<root>/*``, is a training split as a whole. val and
    test replace each other if only one exists. Classes are the sorted names of the folders with images in any split, so
    that a label means the same in all; rows are sorted by path. Folders and files that begin with a dot are not read;
    links to folders elsewhere are followed, each folder once.
    """
    if root is None:
        raise HardlabError("which folder? call load('folder:<path>') or load('folder', root=<path>)")
    return read_folder(Path(os.path.expanduser(root)), split)


def read_folder(root: Path, split: str) -> Source:
    """The source of one split of an image folder."""
    present = splits(root)
    if not present and os.path.isdir(root) and next(_walk(root, "", set()), None) is not None:
        present = [WHOLE]
    if not present:
        state = "holds none of the folders" if os.path.isdir(root) else "does not exist; expected there:"
        raise Missing(f"{root} {state} train/<class>/, val/<class>/, test/<class>/")
    chosen = chosen_split(root, split, present)
    files = sorted(_images_under(root / chosen))
    if not files:
        raise HardlabError(f"{root / chosen} holds no image ({', '.join(SUFFIXES)})")
    names = {_class_of(f) for f in files if "/" in f}
    # from all splits: a class that is missing in one of them must not shift its labels
    for other in present:
        if other != chosen:
            more = {c: _class_of(c) for c in _entries(root / other)[0]}
            names |= {name for c, name in more.items() if name not in names and _holds_images(root / other, c)}
    classes = sorted(names)
    for name in classes:
        if name != name.encode(errors="replace").decode():  # which no table of results could hold
            raise HardlabError(f"the name of the class {shown(name)} in {shown(root)} is not UTF-8: rename it")
    label = {c: i for i, c in enumerate(classes)}
    targets = [label[_class_of(f)] if "/" in f else -1 for f in files]
    return Source(tuple(classes), np.array(targets, np.int64), files, paths=[root / chosen / f for f in files])


def chosen_split(root: Path, split: str, present: Sequence[str]) -> str:
    """The one of the splits ``present`` that ``split`` means. Raises HardlabError."""
    if list(present) == [WHOLE]:
        if split != "train":
            choose("split", split, SPLITS)
            raise Missing(
                f"{root} has no split {split!r}, only images: data.held_out=0.1 keeps a tenth of them for evaluation."
            )
        return WHOLE
    if split not in (*SPLITS, *present):
        raise HardlabError(f"unknown split {split!r} of {root}: it has {', '.join(present)}{nearest(split, present)}")
    chosen = split if split in present else _OTHER.get(split, split)
    if chosen not in present:
        raise HardlabError(
            f"{root} has no split {split!r}: it has {', '.join(present)}; data.held_out=0.1 keeps a tenth of train"
        )
    return chosen


def splits(root: Path) -> list[str]:
    """Which of train, val and test a folder has."""
    return [s for s in SPLITS if os.path.isdir(root / s)]


def _class_of(file: str) -> str:
    """The class of a file ``class/...``: one, whether an accent is part of its letter or, as on a Mac, beside it."""
    return unicodedata.normalize("NFC", file.split("/", 1)[0])


def _entries(where: Path) -> tuple[list[str], list[str]]:
    """Names of the subfolders of ``where``, real ones before links, and of its images.

    ``__MACOSX`` and names that begin with a dot (``.ipynb_checkpoints``, ``._x.jpg``) are ignored: programs made them.
    Raises HardlabError for a folder that cannot be read, because its images would be missing silently.
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

    seen: the folders that were walked, so that each is walked once even if several links lead to it. A link to a
    folder that contains ``top``, or lies in it, is skipped: it leads to no further images.
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


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: str) -> None:
    """Extract one file or folder; tarfile.TarError for other members, and for a path outside ``into``."""
    path = os.path.normpath(os.path.join(into, member.name))  # no part of it is a link, since none is extracted
    source = tar.extractfile(member) if member.isfile() else None
    if os.path.commonpath([into, path]) != into or (source is None and not member.isdir()):
        raise tarfile.TarError(f"'{member.name}' is no file or folder of the archive's own")
    os.makedirs(path if source is None else os.path.dirname(path), exist_ok=True)
    if source is not None:
        with source, open(path, "wb") as sink:
            shutil.copyfileobj(source, sink)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside the target, then rename, so that an existing target is complete even if two processes unpack it.

    An archive must have images in ``train/<class>/``, at its top or in the only folder at its top; otherwise nothing is
    left behind.
    """
    if target.is_dir() and not (target / "train").is_dir():
        raise HardlabError(f"{target} has no train/ folder, so {archive} cannot be unpacked there: remove it.")
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.part-")
        with tarfile.open(archive) as tar:
            into = os.path.realpath(scratch)
            for member in tar:  # by hand: tarfile's own filters came with Python 3.11.4
                _extract(tar, member, into)
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
