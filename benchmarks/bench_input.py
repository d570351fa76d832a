"""Input of ImageNet's size: images/s of a pack against torchvision's ImageFolder and webdataset; ``run()`` gives rows.

The pictures are drawn (`benchmarks.pictures`): 500 x 375 pixels and 110 kB, as ImageNet's are. Every contestant has two
workers, reads from the page cache, and gives batches of the same: a random crop of 224 pixels of each image, flipped by
chance and normalised. The peers make it in their workers, as their documentation shows for ImageNet; hardlab decodes in
threads, and makes the views of a whole batch, here on the CPU. The limit is the decoder alone: two threads that decode
the same bytes and do nothing else. Run as ``python -m benchmarks.bench_input [rounds [images]]``.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks import pictures
from benchmarks.timing import Ratio, Seconds, interleaved, skipped
from hardlab import data, machine, session
from hardlab.data import packs
from hardlab.data.base import quick_pixels
from hardlab.types import Batch
from hardlab.views import Augment, Look

try:
    import av  # no peer that hardlab asks for: without it, its row is skipped
except ImportError:
    av = None

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, BATCH, WORKERS, COUNT = 224, 64, 2, 256
TARGET = 1.5


CROP = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


def _image_folder(top: Path) -> Callable[[], None]:
    loader = DataLoader(
        datasets.ImageFolder(top / "train", CROP), BATCH, shuffle=True, num_workers=WORKERS,
        persistent_workers=True, drop_last=True,
    )  # fmt: skip

    def turn() -> None:
        for _ in loader:
            pass

    return turn


def _web_dataset(top: Path) -> Callable[[], None]:
    """A shard a worker, shuffled within a buffer, as webdataset's own example for ImageNet does."""
    files = sorted((top / "train").rglob("*.JPEG"))
    for shard in range(WORKERS):
        with tarfile.open(top / f"shard-{shard}.tar", "w") as tar:
            for i, path in enumerate(files[shard::WORKERS]):
                label = str(int(path.parent.name[1:])).encode()
                for name, content in ((f"{i:06}.jpg", path.read_bytes()), (f"{i:06}.cls", label)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    shards = str(top / f"shard-{{0..{WORKERS - 1}}}.tar")
    images = webdataset.WebDataset(shards, shardshuffle=WORKERS, detshuffle=True).shuffle(200).decode("pil")
    images = images.to_tuple("jpg", "cls").map_tuple(CROP, int).batched(BATCH, partial=False)
    loader = webdataset.WebLoader(images, batch_size=None, num_workers=WORKERS, persistent_workers=True)

    def turn() -> None:
        for _ in loader:
            pass

    return turn


def _pack(out: Path, use: Callable[[Batch], object]) -> Callable[[], None]:
    images = data.load(f"pack:{out}", workers=WORKERS)
    epoch = iter(range(10**6))

    def turn() -> None:
        for batch in images.batches(session.epoch_order(0, next(epoch), len(images), BATCH)):
            use(batch)

    return turn


def _views() -> Callable[[Batch], object]:
    """The crop, flip and norm of ``CROP``, with no other change of a view."""
    look = Look(Augment(size=SIZE, jitter=(0, 0, 0, 0), jitter_p=0, gray=0), MEAN, STD)
    return lambda batch: look.render(look.views(batch, 1))


def _decoders(out: Path) -> dict[str, Callable[[], None]]:
    pack = packs.read_pack(out, "train").pack
    assert pack is not None
    contents = [pack[i].content for i in range(len(pack))]
    files = [content.tobytes() for content in contents]

    def pillow(file: bytes, half: bool = False) -> np.ndarray:
        with Image.open(io.BytesIO(file)) as image:
            if half:
                image.draft(None, (image.width // 2, image.height // 2))
            return np.asarray(image.convert("RGB"))

    codecs = threading.local()

    def pyav(file: bytes) -> np.ndarray:
        if not hasattr(codecs, "mine"):
            codecs.mine = av.CodecContext.create("mjpeg", "r")
            codecs.mine.thread_count = 1
        (frame,) = codecs.mine.decode(av.Packet(file))
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        return pixels

    def turn(decode: Callable[[Any], Any], images: list[Any]) -> Callable[[], None]:
        def decode_all() -> None:
            with ThreadPoolExecutor(WORKERS) as pool:
                for _ in pool.map(decode, images):
                    pass

        return decode_all

    return {
        "torchvision": turn(quick_pixels, contents),
        "Pillow": turn(pillow, files),
        "Pillow, half": turn(lambda file: pillow(file, True), files),
        **({} if av is None else {"PyAV": turn(pyav, files)}),
    }


def run(rounds: int = 7, count: int = COUNT) -> list[dict[str, Any]]:
    """Rows of name, value, unit, peer, ratio, target, ok; 2 threads, medians of interleaved rounds after a warm-up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(WORKERS)
    machine.keep_pages()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(Path(folder), rounds, count)
    finally:
        torch.set_num_threads(threads)


def _run(folder: Path, rounds: int, count: int) -> list[dict[str, Any]]:
    count -= count % (WORKERS * BATCH)  # no contestant drops an image
    top, out = pictures.draw(folder / "pictures", count), folder / "pack"
    packs.write(top, out)
    turns = {
        "hardlab": _pack(out, _views()),
        "hardlab, decoding": _pack(out, lambda batch: None),
        "ImageFolder": _image_folder(top),
        "webdataset": _web_dataset(top),
        **_decoders(out),
    }
    seconds, _ = interleaved(turns, rounds)
    ours, decoding, limit = (seconds[name] for name in ("hardlab", "hardlab, decoding", "torchvision"))

    def row(name: str, peer: str, ratio: float, of: Seconds, target: float | None = None) -> dict[str, Any]:
        assert isinstance(ratio, Ratio)
        ok = None if target is None else bool(ratio >= target)
        return {"name": name, "value": count / of, "unit": "images/s", "peer": peer} | {
            "ratio": ratio, "target": target, "ok": ok,
        }  # fmt: skip

    made, alone = "crops of 224 px from 500 x 375, 2 workers", "the decoder alone, 2 threads"
    best = "torchvision's decoder, the limit"
    return [
        row(made, "ImageFolder, DataLoader", seconds["ImageFolder"] / ours, ours, TARGET),
        row(made, "webdataset", seconds["webdataset"] / ours, ours, TARGET),
        row(made, best, limit / ours, ours),
        row("batches of a pack, only decoded, 2 workers", best, limit / decoding, decoding),
        row(alone, "Pillow's", seconds["Pillow"] / limit, limit),
        row(alone, "Pillow's at half the scale", seconds["Pillow, half"] / limit, limit),
        row(alone, "PyAV's", seconds["PyAV"] / limit, limit)
        if "PyAV" in seconds
        else skipped("the decoder alone against PyAV's", "the package av is missing"),
    ]


if __name__ == "__main__":
    for row in run(*(int(a) for a in sys.argv[1:])):
        print(json.dumps(row | {"interval": getattr(row.get("ratio"), "interval", None)}))
