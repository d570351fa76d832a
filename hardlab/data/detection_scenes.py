"""Scenes for a detector: pixels in [0,1], boxes, labels and masks from one or several sets, in batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hardlab.data import Images, load
from hardlab.types import HardlabError

Target = dict[str, Tensor]
Example = tuple[Tensor, Target]  # pixels (3,H,W) in [0,1]; boxes, labels from 1, other annotations


class Scenes:
    """Scenes of one or several sets in sequence, in the form that a detector takes.

    Example i: pixels (3,H,W) float32 in [0,1]; boxes (n,4), labels (n,) from 1 on, and masks (n,H,W), difficult (n,),
    crowd (n,) if the set has them. rows: the scenes to use; None = all. Raises HardlabError if a set has no boxes,
    lacks masks that ``masks`` asks for, or has other classes than the first one.
    """

    def __init__(self, sets: Sequence[Images], *, masks: bool = False, rows: Sequence[int] | None = None) -> None:
        self.sets, self.classes = list(sets), sets[0].classes
        self.masks = masks
        for images in sets:
            if images.classes != self.classes:
                raise HardlabError(f"{images.name} has other classes than {sets[0].name}: one detector needs the same.")
            known = images.scene(0)
            if masks and "masks" not in known:
                raise HardlabError(f"{images.name} has no masks: predict boxes there, or use 'shapes' or 'coco'.")
        self.starts = list(itertools.accumulate((len(s) for s in sets), initial=0))
        self.rows = range(self.starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        row = self.rows[i]
        which = next(k for k, start in enumerate(self.starts[1:]) if row < start)
        scene = self.sets[which].scene(row - self.starts[which])
        return scene.pop("image").float() / 255, scene | {"labels": scene["labels"] + 1}

    def labelled(self) -> list[int]:
        """The rows, over all sets, of scenes with an object."""
        targets = torch.cat([s.targets for s in self.sets])
        return torch.nonzero(targets >= 0)[:, 0].tolist()

    def batches(self, order: list[list[int]]) -> Iterator[tuple[Example, ...]]:
        """The examples of each list of indices; worker processes decode them if the sets are not in memory."""
        workers = 0 if all(s.in_memory for s in self.sets) else min(8, os.cpu_count() or 1)
        loader = DataLoader(
            _ErrorsAsValues(self),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=tuple,
            generator=torch.Generator(),
        )
        for batch in loader:
            for example in batch:
                if isinstance(example, HardlabError):
                    raise example
            yield batch


class _ErrorsAsValues(Dataset):
    """Scenes that return errors as values: an exception from a worker process would carry its traceback."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __getitem__(self, i: int) -> Example | HardlabError:
        try:
            return self.scenes[i]
        except HardlabError as e:
            return e


def open_scenes(
    names: Sequence[str],
    root: str | os.PathLike[str] | None,
    max_side: int,
    side: int,
    objects: int,
    dry: bool = False,
) -> list[Images]:
    """Load the sets named "name/split"; HardlabError for another form of name. dry: as in ``data.load``."""
    sets = []
    for name in names:
        what, slash, split = name.rpartition("/")
        if not slash:
            raise HardlabError(f"scenes are named SET/SPLIT, like voc2007/test, not {name!r}.")
        options: dict[str, Any] = {"objects": objects} if objects and what == "shapes" else {}  # of others, as they are
        sets.append(load(what, split, root=root, max_side=max_side, size=side or None, dry=dry, **options))
    if not sets:
        raise HardlabError("name at least one set of scenes, like voc2007/test.")
    return sets


def without_crowd(target: Target) -> Target:
    """The target without crowds."""
    if "crowd" not in target:
        return target
    single = ~target["crowd"]
    return {name: value[single] for name, value in target.items()}


def flipped(pixels: Tensor, target: Target) -> Example:
    """A scene's mirror image, left and right exchanged."""
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    width = pixels.shape[2]
    out = target | {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
    if "masks" in target:
        out["masks"] = target["masks"].flip(2)
    return pixels.flip(2), out
