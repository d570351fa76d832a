"""Evaluates a run's networks by named protocols; writes rows to its ``results.jsonl`` and ``curves.jsonl``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hardlab import build, checkpoint, config, data, machine, registry, run_folder
from hardlab.config import Run
from hardlab.data import Images
from hardlab.data.base import Absent, cached, offline
from hardlab.evaluate import features, knn, protocols, published, results
from hardlab.evaluate.features import Crop, Features
from hardlab.evaluate.labels import labelled
from hardlab.evaluate.protocols import Task
from hardlab.files import damaged, read_own_lines
from hardlab.types import HardlabError
from hardlab.views import Look


def monitor(backbone: nn.Module, look: Look, train: Images, test: Images, precision: str = "fp32") -> float:
    """Top-1 in [0,1] of a 20-nearest-neighbour classifier, a cheap measure during training."""
    train_f, train_y = features.extract(backbone, train, look, precision=precision)
    test_f, test_y = features.extract(backbone, test, look, precision=precision)
    return knn.knn(train_f, train_y, test_f, test_y, ks=(20,))[20]


def evaluate_run(
    path: Path,
    names: Sequence[str],
    *,
    options: Mapping[str, Any] | None = None,
    pixels: bool = False,
    checkpoints: int | Literal["newest", "all"] = "newest",
    root: str | Path | None = None,
    device: str = "auto",
    anew: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate a run's network, and raw pixels if asked, by each protocol; returns the rows and adds them to its files.

    names: the protocols.
    options: settings that replace published ones in all protocols; ``network`` names one of the method's networks, or
        ``all``, instead of the first; ``data``, ``size`` and ``fraction`` choose other images.
    pixels: also measure plain pixels by the protocols that need only features.
    checkpoints: ``newest`` adds rows to ``results.jsonl`` and needs a finished run; a step, or ``all`` kept
        checkpoints, adds learning curves to ``curves.jsonl``, which also gets the accuracies by epoch of the
        classifier.

    Unless its protocol says otherwise, a classifier sees the labels of the images that the run trained on; it is tested
    on the whole test split. A row has the digests of both splits. anew: set rows that were measured on other images
    aside. Protocols share features, which are cached in the run's folder by the checkpoint's digest.
    Raises HardlabError, which is ``run_folder.OtherImages`` if the run's own data set has other images than those it
    was trained on, or, without ``anew``, a data set other test or training images than earlier rows of the run.
    """
    machine.alone()
    options = dict(options or {})
    settings = {name: published.settings(name, options) for name in names}  # refuse before reading anything
    steps: list[int | None] = [checkpoints] if isinstance(checkpoints, int) else [None]
    if checkpoints == "all":
        steps = [checkpoint.named(p)[0] for p in reversed(checkpoint.listed(path / "checkpoints"))] or [None]
    on, sets = build.device(device), Sets(root)
    out = []
    for step in steps:
        run, method, about = run_folder.open_run(path, step)
        if step is None and about["state"] != "done":
            raise _unfinished(path, about)
        precision = config.precision_of(about)
        at, digest = checkpoint.named(Path(about["checkpoint"]))
        last = checkpoint.named(checkpoint.listed(path / "checkpoints")[0])[0]
        per_epoch = about["data"].get("count", 0) // run.batch_size
        if at and not per_epoch:
            raise damaged(path / "manifest.json", f"{about['data'].get('count')} images make no step")
        progress = {"step": at, "epoch": at / per_epoch if at else 0.0}
        machine.set_memory_format(method.to(on), on)
        store = Store(path / "features", digest, build.look(run))
        for name, chosen in settings.items():
            if chosen["data"] is None:
                run_folder.check_images(path.name, about["data"], sets.splits(run, None, None, on)[0])
            train, test = sets.splits(run, chosen["data"], chosen["fraction"], on)
            networks: dict[str, nn.Module | None] = dict(_networks(method.networks(), chosen["network"]))
            if pixels and published.on_features(name, chosen):
                networks["pixels"] = None
            for kind, net in networks.items():
                task = _task(kind, net, train, test, chosen["size"], store, precision, root)
                called = _called(chosen["data"], train, test)
                if chosen["data"] is None and not anew:
                    run_folder.check_test_images(path.name, about["data"], test)
                compare(path, called, train, test, own=chosen["data"] is None, anew=anew)
                measured = protocols.run_protocol(name, task, run.seed, **options)
                labels: dict[str, Any] = {"features": kind, "data": measured.data or called, "split": "test"}
                if measured.data is None:  # else the protocol's own scenes
                    labels |= {"images": _images_of(train, test, chosen["data"] is None)}
                labels |= {"run": run.id, "recipe": run.recipe, "rung": run.rung, "precision": precision}
                values = [{**row, **labels} for row in measured.rows]
                curves = [{**row, **labels, **progress} for row in measured.curves]
                if about["state"] == "done" and at == last:
                    results.append_rows(path / "results.jsonl", values)
                if step is not None:
                    values = [row | progress for row in values]
                    curves += values
                if curves:
                    results.append_rows(path / "curves.jsonl", curves, results.CURVE_KEY)
                out += values
    return out


def _images_of(train: Images, test: Images, own: bool) -> dict[str, Any]:
    """What a row says of the images that it was measured on; own: loaded with the settings of the run's data set."""
    return {"own": own} | {"train": train.digest()[:16], "count": len(train), "test": test.digest()[:16]}


def compare(path: Path, called: str, train: Images, test: Images, *, own: bool, anew: bool = False) -> None:
    """Raise ``OtherImages`` if earlier rows of a run on this data set were measured on other images.

    own: the run's data set as its configuration has it, which may resize the images.
    anew: append these rows to ``results.jsonl.replaced`` and ``curves.jsonl.replaced`` instead. Rows of an earlier
    version, which do not say what they were measured on, stay; ``unknown_images`` lists them.
    """
    now = _images_of(train, test, own)

    def other(row: Mapping[str, Any]) -> str:
        """The split whose images differ; "" if none does, as far as the row says."""
        seen = row.get("images")
        if not isinstance(seen, dict) or (row["data"], row["split"], seen.get("own")) != (called, "test", own):
            return ""
        same = {"test": seen.get("test") == now["test"]}
        same["train"] = seen.get("count") != now["count"] or seen.get("train") == now["train"]  # or another share
        return next((split for split, equal in same.items() if not equal), "")

    for name, key in (("results.jsonl", results.KEY), ("curves.jsonl", results.CURVE_KEY)):
        rows = read_own_lines(path, name)
        if differ := [row for row in rows if other(row)]:
            if anew:
                results.append_rows(path / f"{name}.replaced", differ, (*key, "images"))
                results.drop_rows(path / name, lambda row: bool(other(row)))
                continue
            split, then = other(differ[0]), differ[0]["images"]
            raise run_folder.OtherImages(
                f"{path.name} was evaluated on other {split} images than {called} holds now (digest "
                f"{now[split][:8]}, then {str(then.get(split))[:8]}): put the old ones back, or set those rows aside "
                "with `hardlab evaluate --anew` (in Python anew=True)."
            )


def unknown_images(path: Path) -> list[str]:
    """The protocols whose rows in a run's ``results.jsonl`` do not say what images they were measured on."""
    silent = {row["protocol"] for row in read_own_lines(path, "results.jsonl") if "images" not in row}
    scenes = {name for name, protocol in published.PROTOCOLS.items() if protocol.needs == "scenes"}
    return sorted(silent - scenes)


def check_reused(path: Path, run: Run, about: Mapping[str, Any], train: Images, test: Images) -> None:
    """Raise ``OtherImages`` if a run was trained, monitored or evaluated on other images of its own data set."""
    run_folder.check_images(run.id, about["data"], train)
    run_folder.check_test_images(run.id, about["data"], test)
    compare(path, train.name, train, test, own=True)


def check(
    run: Run,
    names: Sequence[str],
    *,
    options: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
) -> None:
    """Refuse protocols that cannot evaluate a run's images, reading as little of them as possible. Raises HardlabError.

    A set that would have to be downloaded first is not checked.
    """
    on, sets = torch.device("cpu"), Sets(root, dry=True)
    for name in names:
        settings, protocol = published.settings(name, dict(options or {})), published.find(name)
        try:
            if protocol.kind == "detection":
                from hardlab.evaluate import detection

                with torch.device("meta"):
                    net = build.method(run).backbone
                detection.check(net, root, **settings)
                continue
            train, test = sets.splits(run, settings["data"], settings["fraction"], on)
        except Absent:
            if offline():
                raise
            continue
        if protocol.kind in ("svm", "low-shot") and train.multi_hot is not None:
            continue
        rows = (
            labelled(train, settings["labels"], settings["listing"], root) if protocol.kind == "tuning" else slice(None)
        )
        for images, labels in ((train, train.targets[rows]), (test, test.targets)):
            if none := int((labels < 0).sum()):
                raise HardlabError(
                    f"{none} of {len(labels)} images of {images.name}, split {images.split}, have no label, so that "
                    f"protocol '{name}' cannot measure them."
                )
        if len(train.targets[rows].unique()) < 2:
            raise HardlabError(f"protocol '{name}' needs images of 2 classes; those of {train.name} are of one.")


def check_run(
    path: Path,
    names: Sequence[str],
    *,
    options: Mapping[str, Any] | None = None,
    which: str = "newest",
    root: str | Path | None = None,
) -> None:
    """Refuse, before measuring anything, what ``evaluate_run`` would refuse for this run. Raises HardlabError."""
    run, about = config.read_run(path)
    if which.isdecimal():
        checkpoint.check_step(path, int(which))
    if which == "newest" and about["state"] != "done":
        raise _unfinished(path, about)
    networks = build.unmade(run)[0].networks()  # of the code that the run was trained with
    for name in names:
        _networks(networks, published.settings(name, dict(options or {}))["network"])
    check(run, names, options=options, root=root)
    at_home = any(published.settings(name, dict(options or {}))["data"] is None for name in names)
    if at_home and run.data.on_broken == "error":
        with suppress(Absent):
            run_folder.check_images(path.name, about["data"], build.images(run, root=root, dry=True))


def _unfinished(path: Path, about: Mapping[str, Any]) -> HardlabError:
    return HardlabError(f"{path} is not finished, its state is '{about['state']}': its rows would look final.")


def _called(name: str | None, train: Images, test: Images) -> str:
    """The name of a data set in rows; another folder gets its name and a digest, so that folders are distinct."""
    path = None if name is None else data.path_of(name)
    if path is None:
        return train.name
    images = hashlib.sha256(f"{train.digest()} {test.digest()}".encode()).hexdigest()[:8]
    return f"{train.name}:{Path(os.path.expanduser(path)).resolve().name}-{images}"


class Sets:
    """The data sets of an evaluation, each loaded once. root: their folder. dry: as in ``data.load``."""

    def __init__(self, root: str | Path | None, dry: bool = False) -> None:
        self.root, self.dry = root, dry
        self.held: dict[tuple[str | None, float | None], tuple[Images, Images]] = {}

    def splits(self, run: Run, name: str | None, fraction: float | None, on: torch.device) -> tuple[Images, Images]:
        """Training and test images of a run's data set, or of another one; HardlabError if their classes differ."""
        if (name, fraction) not in self.held:
            if name is None:
                evaluated = run if fraction is None else run.with_({"data.fraction": fraction})
                train, test = (build.images(evaluated, split, self.root, on, self.dry) for split in ("train", "test"))
            else:
                workers = min(16, os.cpu_count() or 1)
                share = {"train": 1.0 if fraction is None else fraction, "test": 1.0}
                train, test = (
                    data.load(
                        name,
                        split,
                        root=self.root,
                        fraction=share[split],
                        device=str(on),
                        workers=workers,
                        dry=self.dry,
                    )
                    for split in ("train", "test")
                )
            if train.classes != test.classes:
                raise HardlabError(f"{train.name} has different classes in its test and training splits.")
            self.held[name, fraction] = train, test
        return self.held[name, fraction]


class Store:
    """Features of one checkpoint, in memory and as ``<digest>-<network>-<data>-<split>-<size>-<data's digest>.npz``.

    Plain pixels are not written to files. A damaged file is made again.
    """

    def __init__(self, folder: Path, digest: str, look: Look) -> None:
        self.folder, self.digest, self.look = folder, digest, look
        self.held: dict[tuple[str, Images, int | None, int], Tensor] = {}

    def features(self, kind: str, net: nn.Module | None, images: Images, size: int | None, blocks: int) -> Tensor:
        """Features (N,D) of all ``images`` in order; net None = plain pixels. blocks: of a ViT, side by side."""
        key = (kind, images, size, blocks)
        if key in self.held:
            return self.held[key]
        if net is None:
            self.held[key] = features.pixels(images, self.look, size=size, crop=_crop(images))[0]
            return self.held[key]
        encode = protocols.encoder(net, blocks)
        network = kind if encode is net else f"{kind}.last{blocks}"
        name = re.sub(r"[^\w.]+", "_", images.name)
        pixels = size or self.look.augment[0].size
        file = f"{self.digest}-{network}-{name}-{images.split}-{pixels}-{images.digest()[:8]}.npz"

        def make() -> dict[str, np.ndarray]:
            f = features.extract(encode, images, self.look, size=size, crop=_crop(images))[0].cpu().numpy()
            return {"f": f, "of": np.array(file)}

        def fits(kept: dict[str, np.ndarray]) -> bool:
            f = kept["f"]
            if str(kept.get("of", file)) != file:  # of another network: somebody renamed it
                return False
            return bool(f.ndim == 2 and len(f) == len(images) and f.dtype == np.float32)

        f = torch.from_numpy(cached(self.folder / file, make, fits)["f"])
        self.held[key] = f.to(next(net.parameters()).device)
        return self.held[key]


def _task(
    kind: str,
    net: nn.Module | None,
    train: Images,
    test: Images,
    size: int | None,
    store: Store,
    precision: str,
    root: str | Path | None,
) -> Task:
    def frozen(blocks: int) -> Features:
        halves = []
        for images in (train, test):
            f = store.features(kind, net, images, size, blocks)
            halves.append((f, images.targets.to(f.device)))
        return Features(*halves[0], *halves[1], train.multi_hot, test.multi_hot, train.classes)

    return Task(frozen, net, store.look, train, test, size, _crop(train), precision, root)


def _crop(images: Images) -> Crop:
    """How to crop images: large ones are resized to 256 and cropped to 224, as published; small ones stay whole."""
    return "whole" if images.in_memory else "centre"


def _networks(networks: Mapping[str, nn.Module], name: str | None) -> Mapping[str, nn.Module]:
    """The first network (None), the one of this name, or all."""
    if name is None:
        return dict(list(networks.items())[:1])
    if name != "all" and name not in networks:
        raise registry.unknown("network", name, [*networks, "all"], "This method")
    return networks if name == "all" else {name: networks[name]}
