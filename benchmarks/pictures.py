"""Draws pictures of ImageNet's size, since its images cannot be shipped: the same files at every call.

``python -m benchmarks.pictures FOLDER [COUNT]`` writes FOLDER/train/CLASS/NNNNNN.jpg.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from hardlab.types import HardlabError

CLASSES = 10
SIZES = ((500, 375), (375, 500), (500, 333), (500, 375))  # width x height, of which ImageNet has most
SMOOTH, QUALITY = 0.6, 94  # together they give ImageNet's 110 kB an image


def picture(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture like a photograph to a decoder: a spectrum that falls as 1/f, objects with sharp edges, grain."""
    rng = np.random.default_rng([seed, 2026])
    width, height = size or SIZES[seed % len(SIZES)]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    noise = rng.normal(size=(4, *falling.shape)) + 1j * rng.normal(size=(4, *falling.shape))
    light, *tint = (field / field.std() for field in np.fft.irfft2(noise * falling, s=(height, width)))
    y, x = np.mgrid[:height, :width]
    for _ in range(12):  # ellipses that cover each other, each with its own light
        cy, cx, a = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(10, 120)
        inside = ((y - cy) / a) ** 2 + ((x - cx) / (a * rng.uniform(0.4, 2))) ** 2 < 1
        light = np.where(inside, 0.7 * light + rng.normal(), light)
    rgb = light[..., None] + 0.4 * np.stack(tint, -1)
    rgb = 118 + 48 * rgb + rng.normal(0, 6, (height, width, 1))  # grain, the same in all channels
    image = Image.fromarray(rgb.clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(SMOOTH))


def jpeg(seed: int, size: tuple[int, int] | None = None) -> bytes:
    """The picture as a JPEG with colours at half resolution, as cameras write it."""
    file = io.BytesIO()
    picture(seed, size).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def draw(folder: Path, count: int) -> Path:
    """Write ``count`` pictures to ``folder/train/CLASS``, which are kept if they are there already."""
    for i in range(count):
        path = folder / "train" / f"n{i % CLASSES:08}" / f"{i:06}.JPEG"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(jpeg(i))
            part.replace(path)
    return folder


if __name__ == "__main__":
    try:
        draw(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1024)
    except (HardlabError, OSError, IndexError, ValueError) as e:
        sys.exit(f"pictures: {e}")
