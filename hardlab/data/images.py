"""The data sets of scikit-learn and torchvision, read by their own loaders; one sentence says what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from hardlab.data.base import Absent, Missing, Source, choose, data_root, offline
from hardlab.types import HardlabError


def digits(split: str, root: str | None, size: int | None) -> Source:
    """The 1,797 real handwritten digits of scikit-learn: 8x8 grey, scaled from 0..16 to 0..255, three equal channels.

    size: resized bilinearly to this side (32). split: train (four fifths of each class) or test, fixed for good.
    """
    choose("split of digits", split, ("train", "test"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise HardlabError("digits come with scikit-learn, which is not installed") from e
    bunch = load_digits()
    rows = _halves(bunch.target, split, 0.8)
    grey = np.round(bunch.images[rows] * (255 / 16)).astype(np.uint8)
    side = (size or 32,) * 2
    drawn = [Image.fromarray(g).resize(side, Image.Resampling.BILINEAR).convert("RGB") for g in grey]
    pixels = np.stack([np.asarray(image) for image in drawn])
    return Source(
        tuple(str(n) for n in bunch.target_names), bunch.target[rows].astype(np.int64), [str(i) for i in rows], pixels
    )


def _halves(targets: np.ndarray, split: str, share: float) -> np.ndarray:
    """Rows of a fixed stratified split: ``share`` of each class is train, the rest test."""
    rng = np.random.default_rng(0)
    chosen = []
    for c in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == c))
        cut = math.ceil(share * len(rows))
        chosen.append(rows[:cut] if split == "train" else rows[cut:])
    return np.sort(np.concatenate(chosen))


# errors that torchvision raises for missing or damaged files
_FAILURES = (RuntimeError, OSError, ValueError, AssertionError)


def open_set(name: str, cls: Callable[..., Any], root: str | None, expected: str, **options: Any) -> Any:
    """Open a torchvision data set from disk, or download it if allowed; HardlabError says what is missing.

    expected: the files that should be in the data root, for the message.
    """
    where = data_root(root)
    missing = f"{name} was not found or is damaged: put {expected} under {where}"
    try:
        return cls(where, **options)
    except ImportError as e:
        raise HardlabError(f"{name} needs the package {e.name}") from e
    except _FAILURES as e:
        if "Scipy is not found" in str(e):  # a RuntimeError in one of torchvision's sets, an ImportError in the others
            raise HardlabError(f"{name} needs the package scipy") from e
        if offline():
            raise Absent(f"{missing}, or unset HARDLAB_OFFLINE to download it") from e
    try:
        where.mkdir(parents=True, exist_ok=True)
        return cls(where, download=True, **options)
    except _FAILURES as e:
        raise Missing(f"{missing} (the download failed: {e})") from e


def own_split(name: str, split: str, allowed: Mapping[str, str]) -> str:
    """The set's own name for one of our splits; HardlabError for an unknown split."""
    return allowed[choose(f"split of {name}", split, tuple(allowed))]


def _array(data: Any, labels: Any, classes: Any, split: str) -> Source:
    pixels = np.asarray(data)
    if pixels.ndim == 3:  # grey
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    return Source(
        tuple(map(str, classes)), np.asarray(labels, np.int64), [f"{split}/{i}" for i in range(len(pixels))], pixels
    )


def _listed(files: Any, labels: Any, classes: Any, top: Path) -> Source:
    paths = [Path(f) for f in files]
    names = [p.relative_to(top).as_posix() for p in paths]
    return Source(tuple(map(str, classes)), np.array(labels, np.int64), names, paths=paths)


def cifar10(split: str, root: str | None, size: int | None) -> Source:
    """CIFAR-10: 50,000 train and 10,000 test images of 32x32, 10 classes; ``cifar-10-batches-py/`` in the data root."""
    train = choose("split of cifar10", split, ("train", "test")) == "train"
    d = open_set("cifar10", datasets.CIFAR10, root, "cifar-10-batches-py/", train=train)
    return _array(d.data, d.targets, d.classes, split)


def cifar100(split: str, root: str | None, size: int | None) -> Source:
    """CIFAR-100: 50,000 train and 10,000 test images of 32x32, 100 classes; ``cifar-100-python/`` in the data root."""
    train = choose("split of cifar100", split, ("train", "test")) == "train"
    d = open_set("cifar100", datasets.CIFAR100, root, "cifar-100-python/", train=train)
    return _array(d.data, d.targets, d.classes, split)


def fashionmnist(split: str, root: str | None, size: int | None) -> Source:
    """Fashion-MNIST: 60,000 train and 10,000 test grey images of 28x28, 10 classes; ``FashionMNIST/raw/``.

    size: resized bilinearly to this side (32, the crop of every recipe for small images).
    """
    train = choose("split of fashionmnist", split, ("train", "test")) == "train"
    d = open_set(
        "fashionmnist",
        datasets.FashionMNIST,
        root,
        "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
        train=train,
    )
    source = _array(d.data.numpy(), d.targets, d.classes, split)
    source.side = 32
    return source


def stl10(split: str, root: str | None, size: int | None) -> Source:
    """STL-10: 5,000 train, 8,000 test and 100,000 unlabeled images of 96x96; split also "train+unlabeled"."""
    choose("split of stl10", split, ("train", "test", "unlabeled", "train+unlabeled"))
    d = open_set("stl10", datasets.STL10, root, "stl10_binary/", split=split)
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    return _array(d.data.transpose(0, 2, 3, 1), d.labels.astype(np.int64), classes, split)


def svhn(split: str, root: str | None, size: int | None) -> Source:
    """Street View House Numbers, cropped: 73,257 train, 26,032 test, 531,131 extra images of 32x32; ``*_32x32.mat``."""
    choose("split of svhn", split, ("train", "test", "extra"))
    d = open_set("svhn", datasets.SVHN, root, f"{split}_32x32.mat", split=split)
    return _array(d.data.transpose(0, 2, 3, 1), d.labels, range(10), split)


def flowers102(split: str, root: str | None, size: int | None) -> Source:
    """Oxford Flowers: 1,020 train, 1,020 val and 6,149 test images, 102 classes; ``flowers-102/``."""
    choose("split of flowers102", split, ("train", "val", "test"))
    expected = "flowers-102/ (jpg/, imagelabels.mat, setid.mat)"
    d = open_set("flowers102", datasets.Flowers102, root, expected, split=split)
    return _listed(d._image_files, d._labels, d.classes, data_root(root))


def food101(split: str, root: str | None, size: int | None) -> Source:
    """Food-101: 75,750 train and 25,250 test images; ``food-101/``."""
    choose("split of food101", split, ("train", "test"))
    d = open_set("food101", datasets.Food101, root, "food-101/ (images/, meta/)", split=split)
    return _listed(d._image_files, d._labels, d.classes, data_root(root))


def pets(split: str, root: str | None, size: int | None) -> Source:
    """Oxford-IIIT Pets: 3,680 train (its trainval) and 3,669 test images, 37 breeds; ``oxford-iiit-pet/``."""
    own = own_split("pets", split, {"train": "trainval", "test": "test"})
    d = open_set("pets", datasets.OxfordIIITPet, root, "oxford-iiit-pet/ (images/, annotations/)", split=own)
    return _listed(d._images, d._labels, d.classes, data_root(root))


def cars(split: str, root: str | None, size: int | None) -> Source:
    """Stanford Cars: 8,144 train and 8,041 test images, 196 models; ``stanford_cars/``, no longer downloadable."""
    choose("split of cars", split, ("train", "test"))
    expected = "stanford_cars/ (devkit/, cars_train/, cars_test/, cars_test_annos_withlabels.mat)"
    d = open_set("cars", datasets.StanfordCars, root, expected, split=split)
    files, labels = zip(*d._samples)
    return _listed(files, labels, d.classes, data_root(root))


def sun397(split: str, root: str | None, size: int | None) -> Source:
    """SUN397: 108,754 images of 397 places; ``SUN397/``.

    The archive holds no split. Here half of each class is train and half test, fixed once and for all; the papers'
    ten partitions of 50 + 50 images a class are a different choice of images.
    """
    choose("split of sun397", split, ("train", "test"))
    d = open_set("sun397", datasets.SUN397, root, "SUN397/ (ClassName.txt, a/ ... z/)")
    both = sorted(zip(d._image_files, d._labels))  # torchvision's order is the file system's
    rows = _halves(np.array([label for _, label in both]), split, 0.5)
    return _listed([both[i][0] for i in rows], [both[i][1] for i in rows], d.classes, data_root(root))
