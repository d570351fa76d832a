"""Input of ImageNet's size: images/s of a pack against torchvision's ImageFolder and webdataset; ``run()`` gives rows.

The pictures are drawn (`benchmarks.pictures`): 500 x 375 pixels and 110 kB, as ImageNet's are. Every contestant has two
workers and reads from the page cache. The peers decode, crop to 224 pixels, flip and normalise, as their documentation
shows for ImageNet; hardlab decodes and leaves the rest to the device. The limit is the decoder alone: two threads that
decode the same bytes and do nothing else. Run as ``python -m benchmarks.bench_input [rounds [images]]``.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
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
from benchmarks.timing import Ratio, Seconds, interleaved
from hardlab import data, machine, session
from hardlab.data import packs
from hardlab.data.base import quick_pixels

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


def _pack(out: Path) -> Callable[[], None]:
    images = data.load(f"pack:{out}", workers=WORKERS)
    epoch = iter(range(10**6))

    def turn() -> None:
        for _ in images.batches(session.epoch_order(0, next(epoch), len(images), BATCH)):
            pass

    return turn


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
        "hardlab": _pack(out),
        "ImageFolder": _image_folder(top),
        "webdataset": _web_dataset(top),
        **_decoders(out),
    }
    seconds, _ = interleaved(turns, rounds)
    ours = seconds["hardlab"]

    def row(name: str, peer: str, ratio: float, of: Seconds, target: float | None = None) -> dict[str, Any]:
        assert isinstance(ratio, Ratio)
        ok = None if target is None else bool(ratio >= target)
        return {"name": name, "value": count / of, "unit": "images/s", "peer": peer} | {
            "ratio": ratio, "target": target, "ok": ok,
        }  # fmt: skip

    limit = seconds["torchvision"]
    return [
        row("input of 500 x 375 px, 2 workers", "ImageFolder, DataLoader", seconds["ImageFolder"] / ours, ours, TARGET),
        row("input of 500 x 375 px, 2 workers", "webdataset", seconds["webdataset"] / ours, ours, TARGET),
        row("input, share of the decoder alone", "torchvision's decoder, the limit", limit / ours, ours),
        row("the decoder alone, 2 threads", "Pillow's", seconds["Pillow"] / limit, limit),
        row("the decoder alone, 2 threads", "Pillow's at half the scale", seconds["Pillow, half"] / limit, limit),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run(*(int(a) for a in sys.argv[1:])):
        print(json.dumps(row | {"interval": getattr(row["ratio"], "interval", None)}))
