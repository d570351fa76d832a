"""A data set of a few random images."""

from __future__ import annotations

import numpy as np

from hardlab.data.base import Pixels, Source


def images(n=12, labels=None, size=16):
    labels = np.arange(n) % 3 if labels is None else labels
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    source = Source(tuple("abc"), labels, [str(i) for i in range(n)])
    return Pixels("toy", "train", source, [], label_map=np.arange(3), device="cpu", size=None, pixels=pixels)
