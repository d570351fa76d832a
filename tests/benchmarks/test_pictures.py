"""The pictures that stand for ImageNet's: the same at every call, of its sizes, and as hard to decode."""

import hashlib
import io

import numpy as np
from PIL import Image

from benchmarks import pictures


def test_pictures_have_imagenet_s_size_and_length_and_are_the_same_at_every_call() -> None:
    drawn = [pictures.jpeg(seed) for seed in range(8)]
    assert drawn[3] == pictures.jpeg(3) and len({hashlib.sha256(d).digest() for d in drawn}) == 8
    sizes = [Image.open(io.BytesIO(d)).size for d in drawn]
    assert {tuple(sorted(s)) for s in sizes} == {(375, 500), (333, 500)}
    assert 95_000 < np.mean([len(d) for d in drawn]) < 120_000  # of ImageNet's training images: 110 kB


def test_the_spectrum_falls_as_that_of_a_photograph() -> None:
    grey = np.asarray(pictures.picture(0, (256, 256)).convert("L"), float)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    octaves = [power[(radius >= r) & (radius < 2 * r)].mean() for r in (0.01, 0.02, 0.04, 0.08)]
    slopes = np.log2(np.array(octaves[1:]) / octaves[:-1])
    assert (slopes < -1).all() and (slopes > -3.5).all()  # 1/f in amplitude is -2 in power


def test_pictures_that_are_there_are_kept(tmp_path) -> None:
    pictures.draw(tmp_path, 2)
    first = next((tmp_path / "train").rglob("*.JPEG"))
    first.write_bytes(b"mine")
    pictures.draw(tmp_path, 3)
    assert first.read_bytes() == b"mine" and len(list(tmp_path.rglob("*.JPEG"))) == 3
