"""SAS (arXiv 2302.09195): trains on the images that are most similar to the others of their class."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab import ranks
from hardlab.backbones import may_be_one
from hardlab.clusters import check_clusters, kmeans
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.needs import Setting
from hardlab.numbers import Count, PositiveShare
from hardlab.types import HardlabError, Reference
from hardlab.views import Look

NONE = -1


class SAS(Hard):
    """Trains on a share of the images, the same in every epoch, for as many steps as on all.

    The authors' ``sas/subset_dataset.py`` ranks instead: docs/departures.md, Q4.

    share: of the images of each class.
    classes: number of latent classes: clusters by k-means of the features of a proxy, which is the parent's backbone,
        or, without a parent, the initial backbone.
    pick: ``alike`` maximises the similarity of the kept images to those left out (the paper), ``unlike`` minimises it,
        ``random`` keeps any of each class.
    """

    needs: Mapping[str, str] = {"no rows": "leaves images out"}

    def __init__(
        self, share: PositiveShare = 0.5, classes: Count = 10, pick: Literal["alike", "unlike", "random"] = "alike"
    ) -> None:
        super().__init__()
        self.share, self.classes, self.pick = share, classes, pick

    @staticmethod
    def check_run(at: Setting, share: float, classes: int) -> None:
        if at.images is not None:
            kept(share, at.images, at.batch_size)
        check_clusters(f"SAS with classes={classes}", classes, at.images)
        if at.parent is not None and not may_be_one(at.backbone, at.parent.backbone):
            raise other_backbone(at.parent.id)

    def install(self, method: Method) -> None:
        super().install(method)
        self.backbone = Reference(method.backbone)

    def on_start(self, images: Images, batch_size: int) -> None:
        self.rows: Tensor
        self.seed: Tensor
        count = kept(self.share, len(images), batch_size)
        check_clusters(f"SAS with classes={self.classes}", self.classes, len(images))
        self.register_buffer("rows", torch.full((count,), NONE))  # chosen before the first step
        self.register_buffer("seed", torch.randint(2**62, ()))  # seed of the order of the images
        self.batch_size = batch_size
        self.proxy = Reference(copy.deepcopy(self.backbone.to).eval())  # needed once, so not saved

    def start_from(self, parent: str, networks: Mapping[str, Tensor]) -> None:
        head = "backbone."
        state = {k.removeprefix(head): v for k, v in networks.items() if k.startswith(head)}
        proxy = copy.deepcopy(self.backbone.to)
        try:
            proxy.load_state_dict(state)
        except RuntimeError:
            raise other_backbone(parent) from None
        self.proxy = Reference(proxy.eval())

    def order(self, rows: Tensor, epoch: int, images: Images, look: Look) -> Tensor:
        if (self.rows == NONE).any():
            with ranks.alone():
                self.rows.copy_(self.chosen(images, look))
            ranks.same(self.rows)
        generator = torch.Generator().manual_seed((int(self.seed) + epoch) % 2**63)
        kept, whole = self.rows.cpu(), len(self.rows) // self.batch_size * self.batch_size
        parts = [
            kept[torch.randperm(len(kept), generator=generator)[:whole]].view(-1, self.batch_size)
            for _ in range(-(-len(rows) * self.batch_size // whole))
        ]
        return torch.cat(parts)[: len(rows)]

    @torch.no_grad()
    def chosen(self, images: Images, look: Look) -> Tensor:
        """The rows (count,) of the data set to keep, the share of each latent class."""
        proxy = self.proxy.to.to(self.rows.device)
        parts = [proxy(look.plain(b.raw, b.sizes)).float() for b in images.all(self.batch_size)]
        z = F.normalize(torch.cat(parts), dim=1).cpu()
        y = kmeans(z, self.classes, 20)[1]
        members = [(y == c).nonzero()[:, 0] for c in range(self.classes)]
        sizes = _shares([len(m) for m in members], len(self.rows))
        subsets = [m[self.subset(z[m], size)] for m, size in zip(members, sizes, strict=True)]
        return torch.cat(subsets).sort().values

    def subset(self, z: Tensor, size: int) -> Tensor:
        """Choose ``size`` of the unit rows z (N,D), greedily for F(S) = sum of z_i z_j over i outside and j in S."""
        if self.pick == "random":
            return torch.randperm(len(z))[:size]
        s = z @ z.T
        sign = 1.0 if self.pick == "alike" else -1.0
        gain = (s.sum(1) - s.diagonal()) * sign
        out: list[int] = []
        for _ in range(size):
            best = int(gain.argmax())
            out.append(best)
            gain -= 2 * sign * s[best]  # it is no longer outside, so similarity to it does not count
            gain[best] = -torch.inf
        return torch.tensor(out, dtype=torch.long)


def kept(share: float, images: int, batch_size: int) -> int:
    """The number of images that are trained on. Raises HardlabError for fewer than a batch."""
    count = round(share * images)
    if count < batch_size:
        raise HardlabError(
            f"SAS with share={share} keeps {count} of {images} images, less than a batch of {batch_size}."
        )
    return count


def other_backbone(parent: str) -> HardlabError:
    """The refusal of a parent whose backbone does not fit this run's."""
    return HardlabError(f"{parent} has another backbone than this run, so it cannot be the proxy.")


def _shares(sizes: list[int], count: int) -> list[int]:
    """Split ``count`` in proportion to ``sizes``, each part at most its size; the largest remainders round up."""
    exact = [count * size / sum(sizes) for size in sizes]
    out = [int(x) for x in exact]
    for i in sorted(range(len(sizes)), key=lambda i: out[i] - exact[i])[: count - sum(out)]:
        out[i] += 1
    return out
