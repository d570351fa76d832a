"""Packs: the encoded images of a folder in one file for each split, with an index, to be read in any order.

A pack is a folder of three kinds of files. ``SPLIT.images`` holds the bytes of the image files one after the other, in
the order of the rows. ``SPLIT.npz`` is the index: of each image its length, CRC-32, height, width, label, name, and
whether the quick decoder gives its pixels. ``pack.json`` is written last and makes the rest a pack: classes, and for
each split the number of images, bytes, and the sha256 of the index.

For object stores, ``shard`` moves the bytes of ``SPLIT.images`` into litdata's chunks, in a folder ``SPLIT.shards``.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hardlab import files
from hardlab.data.base import Encoded, Missing, Pack, Source, file_list, quick_pixels, shown, to_rgb
from hardlab.data.folders import WHOLE, chosen_split, read_folder, splits
from hardlab.types import HardlabError

FORMAT = 1
WHERE = "HARDLAB_SHARDS"  # the folder or address of the folders ``SPLIT.shards``, if they are not in the pack
SPLIT_FILES = {"train": "train", "val": "val", "test": "test", WHOLE: "all"}  # the beginning of the names of its files
_PIECE = 256  # images between two entries of the journal, which is where an interrupted pack goes on
_BROKEN_SHARE = 0.01  # as the default of ``data.load``
# a row of the journal: crc, length, height, width, and whether the quick decoder gives its pixels; length 0 = left out
_ROW = np.dtype([("crc", "<u4"), ("length", "<i8"), ("height", "<i4"), ("width", "<i4"), ("quick", "?")])


class Rows(Pack):
    """Rows of the images of a split.

    Images are read by position instead of mapped: a file that is cut short meanwhile, or a disk that fails, is then an
    error and does not kill the process.
    """

    def __init__(
        self,
        path: Path | str,
        key: str,
        names: Sequence[str],
        rows: np.ndarray,
        starts: np.ndarray,
        handle: int | None = None,
    ):
        self.path, self.names, self.key = path, names, key
        self.lengths = rows["length"].astype(np.int64)
        self.shapes = np.stack([rows["height"], rows["width"]], 1).astype(np.int64)
        self._rows, self._starts = rows, starts
        self._handle = self._opened(handle)
        self._checked = np.zeros(len(rows), bool)

    def _opened(self, handle: Any) -> Any:
        return os.open(self.path, os.O_RDONLY) if handle is None else os.dup(handle)

    def __del__(self) -> None:
        os.close(self._handle)

    def __getitem__(self, row: int) -> Encoded:
        kept = self._rows[row]
        content = self.read(row, 0, int(kept["length"]))
        if not self._checked[row]:
            if zlib.crc32(content) != kept["crc"]:
                raise files.damaged(self.path, f"the bytes of {shown(self.names[row])} are not those that were packed")
            self._checked[row] = True
        shape = (int(kept["height"]), int(kept["width"]))
        return Encoded(f"{self.path}:{self.names[row]}", _writable(content), shape, bool(kept["quick"]))

    def read(self, row: int, start: int, count: int) -> bytes:
        count = min(count, int(self.lengths[row]) - start)
        content = os.pread(self._handle, count, int(self._starts[row]) + start)
        if len(content) != count:
            raise files.damaged(self.path, f"it ends within {shown(self.names[row])}")
        return content

    def take(self, rows: np.ndarray) -> Rows:
        key = hashlib.sha256(self.key.encode() + np.asarray(rows, np.int64).tobytes()).hexdigest()
        names = [self.names[i] for i in rows]
        return type(self)(self.path, key, names, self._rows[rows], self._starts[rows], self._handle)


class Shards(Rows):
    """Rows of a split in litdata's chunks, of a folder or an object store; the chunks that are needed are kept locally.

    starts: the place of each row in the chunks.
    """

    _handle: tuple[Any, threading.Lock]

    def _opened(self, handle: Any) -> Any:
        if handle is not None:
            return handle
        package = litdata()
        try:
            images = package.StreamingDataset(str(self.path), shuffle=False)
            count = len(images)
        except Exception as e:  # whatever a client of an object store raises
            raise HardlabError(f"The shards {shown(self.path)} cannot be read ({str(e).rstrip('.')}).") from e
        if count <= self._starts.max():
            raise files.damaged(self.path, f"it has {count} images")
        return images, threading.Lock()  # litdata does not say that threads may read at once

    def __del__(self) -> None:
        pass

    def read(self, row: int, start: int, count: int) -> bytes:
        images, alone = self._handle
        try:
            with alone:
                content = bytes(images[int(self._starts[row])])
        except Exception as e:
            raise HardlabError(f"{shown(self.names[row])} cannot be read from {shown(self.path)} ({e}).") from e
        if len(content) != self.lengths[row]:
            raise files.damaged(self.path, f"{shown(self.names[row])} has {len(content)} bytes")
        return content[start : start + count]


def litdata() -> Any:
    """The package. Raises HardlabError where it is missing."""
    try:
        package = import_module("litdata")
        import_module("litdata.streaming")
    except ImportError as e:
        raise HardlabError("Shards need the package litdata: `pip install litdata` (docs/data.md).") from e
    return package


def pack(split: str, root: str | None, size: int | None) -> Source:
    """A pack, which ``hardlab data pack FOLDER OUT`` makes of an image folder: the same images, labels and digest.

    val and test replace each other if only one exists, as in a folder.
    """
    if root is None:
        raise HardlabError("which pack? call load('pack:<path>') or load('pack', root=<path>)")
    return read_pack(Path(os.path.expanduser(root)), split)


def read_pack(root: Path, split: str) -> Source:
    """The source of one split of a pack. Raises HardlabError for a pack that is missing, unfinished or damaged."""
    about = _about(root)
    chosen = chosen_split(root, split, list(about["splits"]))
    kept = about["splits"][chosen]
    images, index = (root / f"{SPLIT_FILES[chosen]}.{end}" for end in ("images", "npz"))
    try:
        size = kept["bytes"] if kept.get("shards") else os.stat(images).st_size
        if size != kept["bytes"]:
            raise files.damaged(images, f"it has {size} bytes instead of {kept['bytes']}")
        if hashlib.sha256(files.content(index)).hexdigest() != kept["index"]:
            raise files.damaged(index, "it is not the index that was written")
    except OSError as e:
        raise HardlabError(f"the pack {shown(root)} is incomplete: {e.filename} cannot be read ({e.strerror}).") from e
    with files.as_expected(index):
        arrays = files.read_arrays(index)
        names, skipped = _split(arrays["names"]), _split(arrays["skipped"])
        rows, targets = arrays["rows"].astype(_ROW, casting="equiv"), arrays["targets"]
        if not len(rows) == len(targets) == len(names) == kept["images"] or int(rows["length"].sum()) != size:
            raise ValueError("its columns differ in length, or from the images")
        if not kept.get("shards"):
            starts = np.cumsum(rows["length"]) - rows["length"]
            packed = Rows(images, about["key"] + chosen, names, rows, starts)
    if kept.get("shards"):
        where = f"{os.environ.get(WHERE) or root}/{SPLIT_FILES[chosen]}.shards"
        packed = Shards(where, about["key"] + chosen, names, rows, np.arange(len(rows)))
    return Source(tuple(about["classes"]), targets, names, pack=packed, skipped=skipped)


def _about(root: Path) -> dict[str, Any]:
    """``pack.json``, with the types of its values checked."""
    path = root / "pack.json"
    if not path.exists():
        if (root / "unfinished.json").exists():
            begun = files.read_json(root / "unfinished.json")
            source = begun.get("folder", "FOLDER") if isinstance(begun, dict) else "FOLDER"
            raise HardlabError(
                f"The pack {shown(root)} is unfinished: `hardlab data pack {source} {root}` finishes it."
            )
        raise Missing(
            f"{shown(root)} is no pack: `hardlab data pack FOLDER {shown(root)}` makes one of an image folder."
        )
    about: Any = files.read_json(path)
    with files.as_expected(path):
        if about["format"] != FORMAT:
            raise HardlabError(f"{shown(path)} has format {about['format']}, and this hardlab reads format {FORMAT}.")
        texts = (about["key"], *about["classes"], *(of["index"] for of in about["splits"].values()))
        if not all(isinstance(t, str) for t in texts) or not about["splits"].keys() <= SPLIT_FILES.keys():
            raise ValueError("its key, classes or splits are not those of a pack")
        checked: dict[str, Any] = about
    return checked


# ---------------------------------------------------------------------------------------------- writing


class Planned(NamedTuple):
    """What ``write`` does: the sources by split, their number of files and bytes, and a digest of the list of files."""

    sources: dict[str, Source]
    total: int
    bytes: int
    stamp: str


def plan(folder: Path, out: Path) -> Planned:
    """Read which files a pack of ``folder`` would hold. Raises HardlabError if it cannot be made in ``out``."""
    root = Path(os.path.realpath(folder))
    sources = {s: read_folder(root, "train" if s == WHOLE else s) for s in splits(root) or [WHOLE]}
    paths = [p for source in sources.values() for p in source.paths or ()]
    stamp = file_list(paths, FORMAT, *(tuple(s.names) for s in sources.values()))
    if (out / "pack.json").exists() and _about(out)["key"] != stamp:
        raise HardlabError(f"{shown(out)} holds a pack of other images: name another folder, or delete it.")
    ours = ("pack.json", "unfinished.json")
    if os.path.isdir(out) and os.listdir(out) and not any((out / name).exists() for name in ours):
        raise HardlabError(f"{shown(out)} holds other files: name a folder that does not exist yet.")
    files.check_folder(out)
    return Planned(sources, len(paths), sum(os.path.getsize(p) for p in paths if os.path.exists(p)), stamp)


def write(
    folder: Path, out: Path, *, skip_broken: bool = False, workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Pack an image folder, or go on where an interrupted call stopped; returns the content of ``pack.json``.

    Every image is decoded once: a broken one ends the call, or with ``skip_broken`` is left out, up to 1 % of them.
    A finished pack of the same files stays as it is; if the files of an unfinished one have changed, it starts over.

    workers: number of threads; None = a thread for each core. say: prints progress lines. Raises HardlabError.
    """
    planned = plan(folder, out)
    files.make_folder(out)
    with _alone(out):
        if (out / "pack.json").exists():
            say(f"{out} is already packed.")
            return _about(out)
        begun = {"folder": str(folder), "key": planned.stamp}
        before = files.read_json(out / "unfinished.json") if (out / "unfinished.json").exists() else begun
        if not isinstance(before, dict) or before.get("key") != planned.stamp:
            say(f"The images have changed since {out} was begun: it starts over.")
            for path in (
                out / f"{name}.{end}" for name in SPLIT_FILES.values() for end in ("images", "journal", "npz")
            ):
                path.unlink(missing_ok=True)
        files.write_atomic(out / "unfinished.json", json.dumps(begun).encode())
        try:
            with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
                made = {s: _write_split(s, v, out, skip_broken, pool, say) for s, v in planned.sources.items()}
        except OSError as e:
            raise HardlabError(f"{out} cannot be written ({e.strerror}): the same command goes on.") from e
        classes = next(iter(planned.sources.values())).classes
        about = {"format": FORMAT, "key": planned.stamp, "classes": list(classes), "splits": made}
        files.write_atomic(out / "pack.json", (json.dumps(about, indent=1) + "\n").encode())
        for path in (out / "unfinished.json", *out.glob("*.journal")):
            path.unlink()
    return about


def shard(out: Path, megabytes: int, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Move the images of a pack into litdata's chunks of about ``megabytes``; returns the content of ``pack.json``.

    An interrupted call leaves the pack as it was. Raises HardlabError.
    """
    streaming = litdata().streaming
    about = _about(out)
    with _alone(out):
        for split, kept in about["splits"].items():
            if kept.get("shards"):
                say(f"{split}: its images are in shards already.")
                continue
            images = read_pack(out, "train" if split == WHOLE else split).pack
            assert images is not None
            folder = out / f"{SPLIT_FILES[split]}.shards"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                cache = streaming.Cache(input_dir=str(folder), chunk_bytes=megabytes * 10**6)
                for row in range(len(images)):
                    cache[row] = images[row].content.tobytes()
                cache.done()
                cache.merge()
                kept["shards"] = True
                files.write_atomic(out / "pack.json", (json.dumps(about, indent=1) + "\n").encode())
                (out / f"{SPLIT_FILES[split]}.images").unlink()
            except OSError as e:
                raise HardlabError(f"{out} cannot be written ({e.strerror}): the same command goes on.") from e
    return about


def check(root: Path) -> dict[str, Any]:
    """Read every byte of a pack and compare it with the index; returns ``pack.json``. Raises HardlabError."""
    about = _about(root)
    with ThreadPoolExecutor() as pool:
        for split in about["splits"]:
            packed = read_pack(root, "train" if split == WHOLE else split).pack
            assert packed is not None
            for start in range(0, len(packed), _PIECE):
                for _ in pool.map(packed.__getitem__, range(start, min(start + _PIECE, len(packed)))):
                    pass
    return about


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise HardlabError(f"Another process is packing into {out}: wait for it or stop it.") from None
    finally:
        os.close(handle)


def _write_split(
    split: str, source: Source, out: Path, skip_broken: bool, pool: ThreadPoolExecutor, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the images and the index of one split; returns its entry in ``pack.json``."""
    paths = source.paths or []
    with (
        _appended(out / f"{SPLIT_FILES[split]}.images") as images,
        _appended(out / f"{SPLIT_FILES[split]}.journal") as journal,
    ):
        rows = _kept(images, journal)
        if len(rows):
            say(f"{split}: goes on after {len(rows)} of {len(paths)} images.")
        broken = int((rows["length"] == 0).sum())
        for start in range(len(rows), len(paths), _PIECE):
            piece = np.zeros(len(paths[start : start + _PIECE]), _ROW)
            for i, read in enumerate(pool.map(_read, paths[start : start + _PIECE])):
                if isinstance(read, HardlabError):
                    broken += 1
                    if not skip_broken or broken > max(1, _BROKEN_SHARE * len(paths)):
                        hint = "more than 1 % are" if skip_broken else "--skip-broken leaves such images out"
                        raise HardlabError(f"{read} ({hint}).")
                    continue
                content, piece[i] = read
                images.write(content)
            _synced(images)  # bytes first, so that the journal never promises what is not there
            journal.write(piece.tobytes())
            _synced(journal)
            rows = np.concatenate([rows, piece])
            if start // _PIECE % 40 == 39:
                say(f"{split}: {len(rows)} of {len(paths)} images.")
        size = images.tell()
    good = rows["length"] > 0
    if not good.any():
        raise HardlabError(f"every image of the split {split} is broken.")
    sink = io.BytesIO()
    np.savez(
        sink, rows=rows[good], targets=source.targets[good],
        names=_joined(n for n, ok in zip(source.names, good) if ok),
        skipped=_joined(str(p) for p, ok in zip(paths, good) if not ok),
    )  # fmt: skip
    index = sink.getvalue()
    files.write_atomic(out / f"{SPLIT_FILES[split]}.npz", index)
    return {"images": int(good.sum()), "bytes": size, "index": hashlib.sha256(index).hexdigest()}


def _synced(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _appended(path: Path) -> Any:
    """A file to read and to append to."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _kept(images: Any, journal: Any) -> np.ndarray:
    """The rows of the journal whose bytes are there; both files are cut behind them."""
    written = journal.read()
    rows = np.frombuffer(written[: len(written) // _ROW.itemsize * _ROW.itemsize], _ROW)
    count = 0
    for row in rows:
        content = images.read(int(row["length"])) if row["length"] >= 0 else b""
        if len(content) != row["length"] or zlib.crc32(content) != row["crc"]:
            break
        count += 1
    rows = rows[:count]
    for file, size in ((images, int(rows["length"].sum())), (journal, count * _ROW.itemsize)):
        file.truncate(size)
        file.seek(size)
    return rows.copy()


def _read(path: Path) -> tuple[bytes, Any] | HardlabError:
    """The bytes of an image file with its row, or why it cannot be decoded."""
    try:
        content = files.content(path)
        with Image.open(io.BytesIO(content)) as image:
            jpeg = image.format == "JPEG"
            pixels = np.asarray(to_rgb(image))
        quick = jpeg and _quickly(content, pixels)
        return content, (zlib.crc32(content), len(content), *pixels.shape[:2], quick)
    except Exception as e:  # foreign bytes can make a decoder raise nearly anything
        return HardlabError(f"broken image {shown(path)}: {str(e) or type(e).__name__}")


def _quickly(content: bytes, pixels: np.ndarray) -> bool:
    """Whether torchvision decodes a JPEG to the same pixels as Pillow; of one cut short it does not."""
    try:
        return np.array_equal(quick_pixels(_writable(content)), pixels)
    except RuntimeError:
        return False


def _writable(content: bytes) -> np.ndarray:
    """Bytes as torch wants its memory."""
    return np.frombuffer(bytearray(content), np.uint8)


def _joined(names: Iterable[str]) -> np.ndarray:
    """Names as one array of bytes, each ended by a null, which no file name holds."""
    return np.frombuffer(b"".join(os.fsencode(n) + b"\0" for n in names), np.uint8)


def _split(joined: np.ndarray) -> list[str]:
    return [os.fsdecode(n) for n in joined.tobytes().split(b"\0")[:-1]]
