"""``Images``, the form of every data set, in memory or decoded batch by batch; and the folder of its files."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import re
import stat
import tempfile
import threading
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode  # the import registers the decoder

from hardlab.files import read_arrays
from hardlab.numbers import ordered
from hardlab.types import Batch, HardlabError

T = TypeVar("T")

SMALL_SIDE = 96  # images up to this side are held in memory ...
SMALL_BYTES = 2 * 1024**3  # ... as long as the whole set stays below this
_BLOCK = 4096  # bytes of a block of files that are not read as a whole
_DECODER = 2  # part of the cache key: raise it when a change of `decode` changes pixels
_AHEAD = 2  # batches that threads decode or gather while one is used
_PROBES = 32  # headers read to guess whether a folder holds small images of one size

Annotate = Callable[[int], dict[str, np.ndarray]]


def nearest(name: object, allowed: Iterable[str]) -> str:
    """Suggest the closest of ``allowed``: ``"; did you mean 'x'?"``, or "" if there is none."""
    by_lower = {a.lower(): a for a in allowed}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.0)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def choose(what: str, name: str, allowed: Sequence[str]) -> str:
    """Return ``name``; HardlabError with the nearest of ``allowed`` if it is none of them."""
    if name in allowed:
        return name
    raise HardlabError(f"unknown {what} {name!r}: allowed are {', '.join(allowed)}{nearest(name, allowed)}")


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: line ends, and bytes that are no characters, are written as escapes."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)[1:-1]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets and caches: the argument, else ``HARDLAB_DATA``, else the user's cache.

    The user's cache is ``$XDG_CACHE_HOME/hardlab`` or ``~/.cache/hardlab``. The folder need not exist.
    """
    if root is not None:
        return Path(os.path.expanduser(root))
    if named := os.environ.get("HARDLAB_DATA"):
        return Path(os.path.expanduser(named))
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache) / "hardlab" if cache else Path(os.path.expanduser("~")) / ".cache" / "hardlab"


def place(device: str | torch.device) -> torch.device:
    """Where pixels are to lie; HardlabError for a device that holds none, or is not here."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", str(device)):
        raise HardlabError(f"images cannot lie on the device {str(device)!r}: use cpu, cuda or cuda:0")
    made = torch.device(device)
    if made.type == "cuda" and (made.index or 0) >= torch.cuda.device_count():
        raise HardlabError(f"device '{device}' is not available, torch sees {torch.cuda.device_count()} GPUs here")
    return made


_STAYS: ContextVar[bool] = ContextVar("_STAYS", default=False)


@contextmanager
def staying_offline() -> Iterator[None]:
    """Download nothing inside."""
    before = _STAYS.set(True)
    try:
        yield
    finally:
        _STAYS.reset(before)


def offline() -> bool:
    """Whether downloads are forbidden: inside ``staying_offline``, or by ``HARDLAB_OFFLINE`` (unless empty or 0)."""
    return _STAYS.get() or os.environ.get("HARDLAB_OFFLINE", "") not in ("", "0")


class Missing(HardlabError):
    """A data set is missing."""


class Absent(Missing):
    """A data set is missing, and downloads are forbidden."""


def cached(
    path: Path, make: Callable[[], dict[str, np.ndarray]], fits: Callable[[dict[str, np.ndarray]], bool]
) -> dict[str, np.ndarray]:
    """Read the arrays in ``path`` (.npz), or make them and cache them there.

    The file is written atomically. It is made again if it is damaged or ``fits`` rejects its arrays, and not cached if
    it cannot be written.
    """
    try:
        arrays = read_arrays(path)
        if fits(arrays):
            return arrays
    except (HardlabError, LookupError, AttributeError):
        pass
    arrays = make()
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as f:
            scratch = f.name
            np.savez(f, **arrays)  # type: ignore[arg-type]
        os.replace(scratch, path)
    except OSError:  # a read-only or full disk costs time on the next load, but does not end this run
        if scratch is not None and os.path.exists(scratch):
            os.unlink(scratch)
    return arrays


class Encoded(NamedTuple):
    """An encoded image in memory.

    name: for messages. content: (n,) uint8, the bytes of its file. shape: height and width of its pixels.
    quick: whether torchvision's decoder for JPEG gives the same pixels as ``decode`` of the file.
    """

    name: str
    content: np.ndarray
    shape: tuple[int, int]
    quick: bool


class Pack(ABC):
    """N encoded images in one file, read in any order from several threads.

    lengths: (N,) int64, bytes of each. shapes: (N,2) int64, height and width of each.
    key: a digest of the pack and of its rows, for caches.
    """

    lengths: np.ndarray
    shapes: np.ndarray
    key: str

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def __getitem__(self, row: int) -> Encoded:
        """A row, its bytes checked on the first read. Raises HardlabError."""

    @abstractmethod
    def read(self, row: int, start: int, count: int) -> bytes:
        """Bytes of a row, unchecked. Raises HardlabError if the pack ends before them."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Pack:
        """The pack reduced to ``rows``, in that order."""


@dataclass
class Source:
    """The result of a data set's function: pixels, paths or a pack, with labels.

    pixels: (N,H,W,3) uint8, or None if ``paths`` names N files or ``pack`` holds N encoded images.
    names: the name of each row, in the digest and in messages.
    targets: (N,) int64, -1 = no label.
    multi_hot: (N,C) int8, 1 present, 0 absent, -1 present only as difficult or crowd (not counted by the VOC protocol).
    annotate: i -> labels (n,), boxes (n,4), other annotations of each object, and full (2,) = height and width of the
        image that the boxes refer to.
    side: the size to which images are fitted by default, None = none.
    dropped: a sentence for each missing object of the annotations, with the reason.
    skipped: names of broken images that were left out before.
    """

    classes: tuple[str, ...]
    targets: np.ndarray
    names: Sequence[str]
    pixels: np.ndarray | None = None
    paths: Sequence[Path] | None = None
    multi_hot: np.ndarray | None = None
    annotate: Annotate | None = None
    side: int | None = None
    dropped: Sequence[str] = ()
    pack: Pack | None = None
    skipped: Sequence[str] = ()


# ---------------------------------------------------------------------------------------------- decoding


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to 8-bit RGB: scale 16-bit grey, drop transparency, keep an animation's first frame.

    ValueError for images of floating-point or 32-bit numbers, which have no agreed range.
    """
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("an image of 32-bit numbers has no agreed range")
    if image.mode.startswith("I"):  # 16-bit grey opens as I;16 or, by format and version, as I
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("a floating-point image has no agreed range")
    if image.mode == "P":  # by way of RGBA, because a palette may hold its transparency as bytes
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode(image: str | os.PathLike[str] | Encoded, max_side: int, size: int | None = None) -> np.ndarray:
    """Read one image, a file or its bytes, as (H,W,3) uint8.

    With ``size`` the largest centred square is resized to size x size, else an image with a side above ``max_side`` is
    shrunk to it (bilinear, antialiased; a JPEG is already decoded at a reduced scale). EXIF rotation is ignored, as by
    torchvision. HardlabError naming the image where it cannot be read.
    """
    try:
        if isinstance(image, Encoded) and image.quick and _shrink(*image.shape, max_side, size) >= 0.5:
            pixels = quick_pixels(image.content)
            if not size and max(image.shape) <= max_side:
                return pixels
            rgb = Image.fromarray(pixels)
        else:
            with opened(image) as file:
                width, height = file.size
                shrink = _shrink(height, width, max_side, size)
                if shrink < 0.5:  # twice the wanted resolution is enough for the resize that follows
                    file.draft(None, (max(1, round(2 * shrink * width)), max(1, round(2 * shrink * height))))
                rgb = to_rgb(file)
        if size:
            rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
        elif max(rgb.size) > max_side:
            rgb.thumbnail((max_side, max_side), Image.Resampling.BILINEAR)
        return np.asarray(rgb)
    except Exception as e:  # foreign bytes can make a decoder raise nearly anything
        path = image.name if isinstance(image, Encoded) else image
        why = str(e).replace(os.fspath(path), shown(path)) or type(e).__name__
        raise HardlabError(f"broken image {shown(path)}: {why}") from e


def quick_pixels(content: np.ndarray) -> np.ndarray:
    """A JPEG as (H,W,3) uint8 by torchvision, in two thirds of Pillow's time. Raises RuntimeError."""
    # not by torchvision.io.decode_jpeg, which warns at every call from 0.29 on
    pixels: Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(content), ImageReadMode.RGB.value, False)
    return pixels.permute(1, 2, 0).numpy()


def _shrink(height: int, width: int, max_side: int, size: int | None) -> float:
    """The scale at which an image is shown."""
    return size / min(width, height) if size else max_side / max(width, height)


def opened(path: str | os.PathLike[str] | Encoded) -> Image.Image:
    """Open the image in a file without reading its pixels; OSError for what is no file, such as an endless pipe."""
    if isinstance(path, Encoded):
        return Image.open(io.BytesIO(path.content.tobytes()))
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, a pipe or a device, not a file")
    return Image.open(path)


def _try_decode(images: Sequence[Path] | Pack, i: int, max_side: int, size: int | None) -> np.ndarray | HardlabError:
    image = images[i]  # a row of a damaged pack is no broken image, which might be skipped
    try:
        return decode(image, max_side, size)
    except HardlabError as e:
        return e


def _content(paths: Sequence[str] | Pack, blocks: int | None) -> np.ndarray:
    """The sha256 of the concatenated content of the files, 32 bytes.

    blocks: how many blocks to read of a file that has more, evenly spaced from the first to the last; None = all.
    """

    def digest(size: int, read: Callable[[int, int], bytes]) -> bytes:
        if blocks is None or size <= blocks * _BLOCK:
            return hashlib.sha256(read(0, size)).digest()
        h = hashlib.sha256(str(size).encode())
        for i in range(blocks):
            h.update(read(i * (size - _BLOCK) // (blocks - 1), _BLOCK))
        return h.digest()

    def of_row(i: int) -> bytes:
        try:
            if isinstance(paths, Pack):
                return digest(int(paths.lengths[i]), partial(paths.read, i))
            with open(paths[i], "rb") as f:
                return digest(os.fstat(f.fileno()).st_size, lambda start, count: os.pread(f.fileno(), count, start))
        except (OSError, ValueError):
            return b"-"

    h = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), 4096):  # in pieces, because every queued path takes memory
            for of_file in pool.map(of_row, range(start, min(start + 4096, len(paths)))):
                h.update(of_file)
    return np.frombuffer(h.digest(), np.uint8)


def file_list(paths: Iterable[str | os.PathLike[str]], *options: object) -> str:
    """A digest of a file list: path, length and times of change of each file, and the options."""
    h = hashlib.sha256(repr((_DECODER, options)).encode())
    for path in paths:
        try:
            s = os.stat(path)
            stamp = (s.st_size, s.st_mtime_ns, s.st_ctime_ns)  # unlike mtime, ctime cannot be set back
        except (OSError, ValueError):  # ValueError for a name with a null
            stamp = (-1, -1, -1)
        h.update(os.fsencode(path) + repr(stamp).encode())
    return h.hexdigest()[:32]


def _common_size(paths: Sequence[Path] | Pack, max_side: int) -> tuple[int, int] | None:
    """(width, height) shared by the images of a pack or a sample of the files; None if they differ or are large."""
    if isinstance(paths, Pack):
        sizes = {(int(width), int(height)) for height, width in np.unique(paths.shapes, axis=0)[:2]}
    else:
        sizes = set()
        for path in paths[:: max(1, len(paths) // _PROBES)]:
            try:
                with opened(path) as image:
                    sizes.add(image.size)
            except Exception:  # the decoding pass handles broken files
                continue
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return (width, height) if max(width, height) <= min(SMALL_SIDE, max_side) else None


def _decode_all(paths: Sequence[Path] | Pack, max_side: int, size: int | None, keep: bool) -> dict[str, np.ndarray]:
    """Decode every image: ``pixels`` (n,H,W,3) of the good ones, ``broken`` (m,) rows, ``why`` (m,) messages.

    pixels is missing without ``keep``, or if sizes differ.
    """
    good: list[np.ndarray] = []
    broken: list[int] = []
    why: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), 1024):  # in pieces, so that few decoded images wait in the queue
            piece = range(start, min(start + 1024, len(paths)))
            for i, out in zip(piece, pool.map(lambda i: _try_decode(paths, i, max_side, size), piece)):
                if isinstance(out, HardlabError):
                    broken.append(i)
                    why.append(str(out))
                elif keep:
                    good.append(out)
                    keep = out.shape == good[0].shape
    pixels = np.stack(good) if keep and good else np.zeros((0, 1, 1, 3), np.uint8)
    return {"pixels": pixels, "broken": np.array(broken, np.int64), "why": np.array(why, np.str_)}


# ---------------------------------------------------------------------------------------------- Images


def _fitted(masks: Tensor, height: int, width: int, scale: Tensor, margin: Tensor) -> Tensor:
    """Masks (n,H,W) bool at the size of the loaded image: resized by ``scale`` (x, y), without the margins (x, y)."""
    tall, wide = (max(1, round(side * by)) for side, by in zip(masks.shape[1:], scale.flip(0).tolist()))
    soft = F.interpolate(masks[:, None].float(), (tall, wide), mode="bilinear", antialias=True)[:, 0]
    left, top = margin.round().int().tolist()
    return soft[:, top : top + height, left : left + width] >= 0.5


class Images(ABC):
    """A data set of N uint8 images with labels, read in any order.

    name, split: of the data set.
    classes: class names in label order.
    targets: (N,) int64, -1 for no label.
    names: the name of each row.
    multi_hot: (N,C) int8 for sets with several labels per image (1, 0, -1 = difficult only), else None.
    in_memory: whether all pixels are on the device.
    skipped: paths of broken images left out under policy "skip".
    dropped: a sentence for each missing object of the set's annotations, with the reason.
    """

    in_memory: bool

    def __init__(
        self,
        name: str,
        split: str,
        source: Source,
        skipped: list[str],
        *,
        label_map: np.ndarray,
        device: str,
        size: int | None,
    ):
        self.name = name
        self.split = split
        self.classes = source.classes
        self.targets = torch.from_numpy(np.ascontiguousarray(source.targets, dtype=np.int64))
        self.names = source.names
        self.multi_hot = None if source.multi_hot is None else torch.from_numpy(source.multi_hot)
        self.skipped = skipped
        self.dropped = list(source.dropped)
        self.device = place(device)
        self._annotate = source.annotate
        self._label_map = label_map  # label in the annotations -> label here, -1 = a class left out
        self._size = size  # side of the square to which every image was fitted
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        where = f"on {self.device}" if self.in_memory else "decoded by batch"
        return f"{self.name}/{self.split}: {len(self)} images, {len(self.classes)} classes, {where}"

    def digest(self) -> str:
        """Hex sha256 of the data in order: pixels, or names and files, with labels and class names; computed once.

        If the files have more than ``SMALL_BYTES`` together, which would take minutes to read, it covers of each file
        the length, the first and last 4096 bytes, and as many blocks between them as that total allows, at least one.
        """
        if self._digest is None:
            self._digest = self._what_is_seen()
        return self._digest

    @abstractmethod
    def _what_is_seen(self) -> str: ...

    @abstractmethod
    def _batches(self, rows: Sequence[Tensor]) -> Iterator[Batch]: ...

    def batches(self, order: Tensor | Sequence[Tensor]) -> Iterator[Batch]:
        """Yield S batches, the rows of ``order``, (S,B) int64 or S tensors of any lengths, in exactly that order.

        ``raw`` is uint8 on the device; images that differ in size are padded with zeros on the right and below.
        Resume by passing the rest of the order. Leaves torch's global random state alone.
        """
        return self._batches(list(order))

    def all(self, batch_size: int) -> Iterator[Batch]:
        """Yield every row once, in order; the last batch may be smaller."""
        return self._batches(list(torch.arange(len(self)).split(batch_size)))

    def scene(self, index: int) -> dict[str, Tensor]:
        """One image with its objects.

        image (3,H,W) uint8; labels (n,) int64; boxes (n,4) float32 x0,y0,x1,y1 in pixels of the loaded (shrunk or
        fitted) image, x1 and y1 exclusive; and, depending on the set, masks (n,H,W) bool, difficult (n,) bool or crowd
        (n,) bool. Objects of other classes, or smaller than a pixel, are left out. Raises HardlabError if the set has
        no annotations.
        """
        if self._annotate is None:
            raise HardlabError(f"{self.name} has no boxes: load 'shapes', 'voc2007', 'voc2012' or 'coco' for scenes")
        out = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in self._annotate(index).items()}
        full_height, full_width = out.pop("full").tolist()
        batch = next(self._batches([torch.tensor([index])]))
        height, width = batch.sizes[0].tolist()
        scale = torch.tensor([width / full_width, height / full_height])
        margin = torch.zeros(2)
        if self._size:  # fitted: the centred square of the original
            scale = torch.full((2,), self._size / min(full_height, full_width))
            margin = (scale * torch.tensor([full_width, full_height]) - self._size) / 2
        if "masks" in out and out["masks"].shape[1:] != (height, width):
            out["masks"] = _fitted(out["masks"], height, width, scale, margin)
        boxes = out["boxes"].float() * scale.repeat(2) - margin.repeat(2)
        out["boxes"] = boxes.clamp(min=torch.zeros(4), max=torch.tensor([width, height] * 2).float())
        out["labels"] = torch.from_numpy(self._label_map)[out["labels"]]
        x0, y0, x1, y1 = out["boxes"].unbind(1)
        visible = (out["labels"] >= 0) & (x1 - x0 >= 1) & (y1 - y0 >= 1)
        return {"image": batch.raw[0, :, :height, :width], **{name: a[visible] for name, a in out.items()}}


class Pixels(Images):
    """Images of one size in one (N,3,H,W) uint8 tensor, on the device, or on the host if they are too many."""

    def __init__(self, *args: Any, pixels: np.ndarray, **kwargs: Any):
        super().__init__(*args, **kwargs)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        self.in_memory = tensor.numel() < SMALL_BYTES and max(tensor.shape[2:]) <= SMALL_SIDE
        self.pixels = tensor.to(self.device) if self.in_memory else tensor

    def _what_is_seen(self) -> str:
        h = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode())
        h.update(self.targets.numpy().tobytes())
        for piece in self.pixels.split(4096):
            h.update(piece.cpu().numpy().tobytes())
        return h.hexdigest()

    def _batches(self, rows: Sequence[Tensor]) -> Iterator[Batch]:
        size = torch.tensor(self.pixels.shape[2:]).to(self.device, non_blocking=True)
        if self.in_memory:
            for row in rows:
                index = row.to(self.device, non_blocking=True)
                yield Batch(self.pixels[index], size.expand(len(row), 2), index)
            return
        pool = ThreadPoolExecutor(1, "read")  # training does not wait for pixels to be gathered
        try:
            for raw, index in _ahead(rows, lambda row: pool.submit(self._gathered, row)):
                yield Batch(raw.to(self.device, non_blocking=True), size.expand(len(index), 2),
                            index.to(self.device, non_blocking=True))  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)

    def _gathered(self, row: Tensor) -> tuple[Tensor, Tensor]:
        return _pinned(self.pixels[row], self.device), _pinned(row, self.device)


def _pinned(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host from which ``device`` can copy while the host goes on."""
    return x.pin_memory() if device.type == "cuda" else x


def _ahead(rows: Iterable[Tensor], begin: Callable[[Tensor], Future[T]]) -> Iterator[T]:
    """The results of ``begin``, in order, of which some are begun before they are needed."""
    begun: deque[Future[T]] = deque()
    for row in rows:
        begun.append(begin(row))
        if len(begun) > _AHEAD:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


class _Rows(Dataset):
    """Decodes a row of the order in a worker; returns errors as values, so that their messages stay intact."""

    def __init__(self, paths: np.ndarray, max_side: int, size: int | None):
        self.paths, self.max_side, self.size = paths, max_side, size

    def __getitem__(self, row: list[int]) -> Batch | HardlabError:
        try:
            return _stacked([decode(os.fsdecode(self.paths[i]), self.max_side, self.size) for i in row], row)
        except HardlabError as e:
            return e


def _stacked(images: Sequence[np.ndarray], row: Sequence[int]) -> Batch:
    """Images (H,W,3) as a batch; a pixel's channels stay side by side, since to part them costs a third of a decode."""
    sizes = np.array([image.shape[:2] for image in images])
    raw = np.zeros((len(images), *sizes.max(0), 3), np.uint8)
    for padded, image in zip(raw, images):
        padded[: image.shape[0], : image.shape[1]] = image
    return Batch(torch.from_numpy(raw).permute(0, 3, 1, 2), torch.from_numpy(sizes), torch.tensor(row))


class Decoded(Images):
    """Images decoded in batches by ``workers`` processes or threads, shrunk to ``max_side`` or fitted to ``size``."""

    in_memory = False

    def __init__(
        self, name: str, split: str, source: Source, skipped: list[str], *, workers: int, max_side: int, **kwargs: Any
    ):
        super().__init__(name, split, source, skipped, **kwargs)
        self.workers, self.max_side = workers, max_side

    def _digest_of(self, files: Sequence[str] | Pack, lengths: Sequence[int], key: Callable[..., str]) -> str:
        """The digest of names, lengths and bytes of encoded images. key: options -> the name under which it is kept."""
        h = hashlib.sha256(repr((self.max_side, self._size, self.classes)).encode())
        h.update(self.targets.numpy().tobytes())
        for name, length in zip(self.names, lengths):
            h.update(f"\n{name}\t{length}".encode("utf-8", "surrogateescape"))
        blocks = None if sum(lengths) < SMALL_BYTES else max(3, SMALL_BYTES // (_BLOCK * len(files)))
        kept = data_root() / "digests" / f"{key(blocks)}.npz"
        of_files = cached(kept, lambda: {"sha256": _content(files, blocks)}, lambda a: a["sha256"].shape == (32,))
        h.update(of_files["sha256"].tobytes())
        return h.hexdigest()


class Files(Decoded):
    """Images in a file each, decoded in processes."""

    def __init__(self, name: str, split: str, source: Source, skipped: list[str], **kwargs: Any):
        super().__init__(name, split, source, skipped, **kwargs)
        assert source.paths is not None
        # an array of bytes: a list of a million str would be copied, page by page, into every worker
        self._rows = _Rows(np.array([os.fsencode(p) for p in source.paths]), self.max_side, self._size)

    def _what_is_seen(self) -> str:
        paths = [os.fsdecode(p) for p in self._rows.paths]
        lengths = [os.path.getsize(p) if os.path.exists(p) else -1 for p in paths]
        return self._digest_of(paths, lengths, partial(file_list, paths))

    def _batches(self, rows: Sequence[Tensor]) -> Iterator[Batch]:
        loader = DataLoader(
            self._rows,
            batch_size=None,  # one row of the order per item
            sampler=[row.tolist() for row in rows],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the default would draw from the global state and break an exact resume
        )
        for batch in loader:
            if isinstance(batch, HardlabError):
                raise batch
            yield Batch(*(t.to(self.device, non_blocking=True) for t in batch))


class Packed(Decoded):
    """Images in a pack, decoded in threads: all work on the same batch, and nothing is copied between processes."""

    def __init__(self, name: str, split: str, source: Source, skipped: list[str], **kwargs: Any):
        super().__init__(name, split, source, skipped, **kwargs)
        assert source.pack is not None
        self._pack = source.pack

    def _what_is_seen(self) -> str:
        return self._digest_of(self._pack, self._pack.lengths.tolist(), partial(file_list, [], self._pack.key))

    def _batches(self, rows: Sequence[Tensor]) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(max(1, self.workers), "decode")
        try:
            for batch in _ahead(rows, lambda row: self._begun(pool, row.tolist())):
                yield Batch(*(t.to(self.device, non_blocking=True) for t in batch))
        finally:
            pool.shutdown(cancel_futures=True)

    def _begun(self, pool: ThreadPoolExecutor, row: list[int]) -> Future[Batch]:
        """Decode a batch in the threads of a pool; the one that decodes its last image puts the batch together."""
        images: list[Any] = [None] * len(row)
        left, lock, batch = len(row), threading.Lock(), Future[Batch]()

        def one(place: int) -> None:
            nonlocal left
            try:
                images[place] = decode(self._pack[row[place]], self.max_side, self._size)
            except BaseException as e:
                images[place] = e
            with lock:
                left -= 1
                last = left == 0
            if not last:
                return
            try:
                for image in images:
                    if isinstance(image, BaseException):
                        raise image
                made = _stacked(images, row)
                batch.set_result(Batch(*(_pinned(t, self.device) for t in made)))
            except BaseException as e:
                batch.set_exception(e)

        for place in range(len(row)):
            pool.submit(one, place)
        return batch


# ---------------------------------------------------------------------------------------------- subsets


def class_list(classes: Sequence[str] | str | os.PathLike[str], known: Sequence[str]) -> list[str]:
    """The class names of a subset, from a list or a text file with one per line.

    In a file, blank lines and # lines are skipped, and text after the first word is ignored if only the first word is a
    class. Raises HardlabError for an unknown class, a class named twice, or no class.
    """
    if isinstance(classes, (str, os.PathLike)):
        try:
            if os.path.exists(classes) and not os.path.isfile(classes):  # a pipe would be waited for
                raise OSError("it is not a file")
            lines = Path(os.path.expanduser(classes)).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise HardlabError(f"cannot read the class list {os.fspath(classes)}: {e}") from e
        names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        names = [_composed(n, known) for n in names]
        names = [n if n in known else n.split()[0] if n.split()[0] in known else n for n in names]
    else:
        names = [_composed(n, known) for n in ordered("classes", classes)]
    for n in names:
        if n not in known:
            listing = f": {shown(', '.join(known))}" if len(known) <= 20 else ""
            raise HardlabError(f"unknown class {n!r} among {len(known)} classes{nearest(n, known)}{listing}")
        if names.count(n) > 1:
            raise HardlabError(f"class {n!r} is named twice in the class list")
    if not names:
        raise HardlabError("the class list is empty: name at least one class")
    return names


def _composed(name: str, known: Sequence[str]) -> str:
    """The name with accents as part of their letters, where a class is called so."""
    composed = unicodedata.normalize("NFC", name) if isinstance(name, str) else name
    return composed if composed in known else name


def stratified(targets: np.ndarray, fraction: float, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
    """Rows, ascending, of a class-balanced subset: round(fraction * n) of each class of n images.

    The choice depends only on the labels, the seed and the fraction; the rows of a smaller fraction are a subset of
    those of a larger one. Raises HardlabError if a class would have no image.
    """
    if not 0 < fraction <= 1:
        raise HardlabError(f"fraction must be above 0 and at most 1, not {fraction}")
    chosen = []
    for c in np.unique(targets):
        rows = np.flatnonzero(targets == c)
        keep = int(fraction * len(rows) + 0.5)
        if keep == 0:
            label = classes[c] if 0 <= c < len(classes) else str(c)
            raise HardlabError(
                f"fraction {fraction} leaves no image of class {label!r}, which has {len(rows)}: "
                f"use at least {0.5 / len(rows):.3g}"
            )
        rng = np.random.default_rng([seed, int(c) + 1])  # +1: the label -1 is a class here
        chosen.append(rng.permutation(rows)[:keep])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def hold_out(source: Source, share: float, split: str) -> Source:
    """The training images without a share of each class, or, for the split test or val, that share.

    A class of n images gives round(share * n) of them, at least 1, and keeps at least 1. Raises HardlabError if nothing
    can be held out.
    """
    choose("split", split, ("train", "test", "val"))
    chosen: list[int] = []
    for c in np.unique(source.targets):
        rows = np.flatnonzero(source.targets == c)
        count = min(max(1, int(share * len(rows) + 0.5)), len(rows) - 1)
        chosen += np.random.default_rng(int(c) + 1).permutation(rows)[:count].tolist()  # +1: -1 is a class here
    if not chosen:
        raise HardlabError(f"held_out={share:g} leaves no image: a class needs at least 2.")
    held = np.sort(np.array(chosen, np.int64))
    return take(source, np.setdiff1d(np.arange(len(source.targets)), held) if split == "train" else held)


def take(source: Source, rows: np.ndarray) -> Source:
    """The source reduced to ``rows``, in that order."""
    annotate = source.annotate
    return Source(
        classes=source.classes,
        targets=source.targets[rows],
        names=[source.names[i] for i in rows],
        pixels=None if source.pixels is None else source.pixels[rows],
        paths=None if source.paths is None else [source.paths[i] for i in rows],
        multi_hot=None if source.multi_hot is None else source.multi_hot[rows],
        annotate=None if annotate is None else lambda i: annotate(int(rows[i])),
        side=source.side,
        dropped=source.dropped,
        pack=None if source.pack is None else source.pack.take(rows),
        skipped=source.skipped,
    )


def only_classes(source: Source, names: Sequence[str]) -> tuple[Source, np.ndarray]:
    """The source with only the classes ``names``, label i = names[i]; and the map old label -> new, -1 = left out."""
    old = [source.classes.index(n) for n in names]
    label_map = np.full(len(source.classes), -1, np.int64)
    label_map[old] = np.arange(len(old))
    has_label = source.targets >= 0
    out = take(source, np.flatnonzero(has_label & (label_map[source.targets] >= 0)))
    out.targets = label_map[out.targets]
    out.classes = tuple(names)
    if out.multi_hot is not None:
        out.multi_hot = np.ascontiguousarray(out.multi_hot[:, old])
    return out, label_map


def build(
    name: str,
    split: str,
    source: Source,
    *,
    fraction: float,
    subset_seed: int,
    classes: Sequence[str] | str | os.PathLike[str] | None,
    device: str,
    on_broken: str,
    broken_share: float,
    workers: int,
    max_side: int,
    size: int | None,
    dry: bool = False,
) -> Images:
    """Turn a source into Images: choose classes and fraction, find broken files, place the pixels.

    dry: do not decode large images, whatever ``on_broken`` says. The other parameters are those of ``data.load``.
    """
    label_map, size = np.arange(len(source.classes)), size or source.side
    if classes is not None:
        source, label_map = only_classes(source, class_list(classes, source.classes))
    if fraction != 1:
        source = take(source, stratified(source.targets, fraction, subset_seed, source.classes))
    if not len(source.targets):
        raise HardlabError(f"{name}/{split} holds no image")
    if source.dropped:
        warnings.warn(
            f"{name}/{split}: {len(source.dropped)} things were left out of the annotations (they are listed in "
            f".dropped), the first: {source.dropped[0]}",
            stacklevel=3,
        )
    common: dict[str, Any] = {"label_map": label_map, "device": device, "size": size}

    if source.pixels is not None:
        pixels = source.pixels
        if size and pixels.shape[1:3] != (size, size):
            fit = [ImageOps.fit(Image.fromarray(p), (size, size), Image.Resampling.BILINEAR) for p in pixels]
            pixels = np.stack([np.asarray(image) for image in fit])
        return Pixels(name, split, source, [], pixels=pixels, **common)

    pack = source.pack
    paths = pack if pack is not None else source.paths or []
    probe = _common_size(paths, max_side) if size is None else (size, size)
    small = probe is not None and max(probe) <= SMALL_SIDE and len(paths) * 3 * probe[0] * probe[1] < SMALL_BYTES
    skipped = list(source.skipped)
    if small or (on_broken == "skip" and not dry and pack is None):  # a pack holds what could be decoded
        options = (max_side, size, small)
        key = file_list(source.paths or [], *options) if pack is None else file_list([], pack.key, *options)
        kept = data_root() / "decoded" / f"{key}.npz"
        decoded = cached(
            kept, lambda: _decode_all(paths, max_side, size, small), lambda a: _whole(a, len(paths), small)
        )
        broken = decoded["broken"]
        _judge(name, [str(w) for w in decoded["why"]], len(paths), on_broken, broken_share)
        if len(broken):
            skipped = [str(paths[i]) for i in broken]
            source = take(source, np.setdiff1d(np.arange(len(paths)), broken))
            if not len(source.targets):
                raise HardlabError(f"every image of {name}/{split} is broken; the first: {decoded['why'][0]}")
        if len(decoded["pixels"]) == len(source.targets):
            return Pixels(name, split, source, skipped, pixels=decoded["pixels"], **common)
    kind = Files if pack is None else Packed
    return kind(name, split, source, skipped, workers=workers, max_side=max_side, **common)


def _whole(arrays: dict[str, np.ndarray], count: int, keep: bool) -> bool:
    """Whether the arrays have the form of ``_decode_all`` for ``count`` files."""
    pixels, broken, why = (arrays[name] for name in ("pixels", "broken", "why"))
    plausible = broken.dtype == np.int64 and len(broken) == len(why) and all(0 <= i < count for i in broken.tolist())
    held = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) in ((0, count - len(broken)) if keep else (0,))
    return bool(plausible and held)


def _judge(name: str, why: list[str], count: int, on_broken: str, share: float) -> None:
    if why and on_broken == "error":
        raise HardlabError(f"{why[0]} (on_broken='skip' leaves such images out and counts them)")
    if len(why) > share * count:
        raise HardlabError(
            f"{len(why)} of {count} images of {name} are broken, more than broken_share={share} allows: {why[0]}"
        )
