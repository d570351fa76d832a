"""DeepCluster-v2 (arXiv 2006.09882, App. D): crops predict the k-means cluster of their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import ranks
from hardlab.clusters import check_clusters, kmeans
from hardlab.data import Images
from hardlab.methods.base import Method, Step
from hardlab.needs import Setting
from hardlab.nets import mlp
from hardlab.numbers import Count, Few, Temperature, Units, whole
from hardlab.types import HardlabError, Progress
from hardlab.views import Look

MISSING = -100  # the label of an image without a cluster, which the loss ignores
MEASURED = ("cluster_entropy", "cluster_min", "cluster_max", "empty_clusters", "nmi_labels", "nmi_previous")


class DeepCluster(Method):
    """Mean over the heads h of CE(z C_h^T / tau, y_h[image]) for every crop, with y_h and C_h from k-means.

    Two banks keep the last embeddings of crops 0 and 1 of every image; before each epoch, head h clusters bank h mod 2
    into C_h (spherical k-means), which is fixed until the next epoch. Before epoch 0 a pass without gradient fills the
    banks. Generated images (index -1) have no cluster. facebookresearch/swav, main_deepclusterv2.py.

    hidden, dim: widths of the projector.
    prototypes: K, the number of clusters of each head.
    heads: number of heads.
    temperature: tau.
    iterations: of k-means.
    """

    joint = indexed = True
    pairs: Sequence[tuple[int, int]] = ((0, 0), (1, 0))  # all slots of an image have the same label
    SMALL: Mapping[str, Any] = {"hidden": 64, "prototypes": 20}

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Units = 2048,
        dim: Units = 128,
        prototypes: Annotated[int, whole(2, 65536)] = 3000,
        heads: Few = 3,
        temperature: Temperature = 0.1,
        iterations: Count = 10,
    ) -> None:
        super().__init__(backbone)
        if prototypes < 2 or heads < 1 or iterations < 1:
            raise HardlabError(
                f"DeepCluster with prototypes={prototypes}, heads={heads}, iterations={iterations}: at least 2 "
                "prototypes, 1 head and 1 iteration."
            )
        if temperature <= 0:
            raise HardlabError(f"DeepCluster with temperature={temperature}: it must be above 0.")
        self.projector = mlp(self.features, hidden, dim)
        self.temperature, self.iterations = temperature, iterations
        self.register_buffer("centroids", torch.zeros(heads, prototypes, dim))
        self.register_buffer("measured", torch.zeros(len(MEASURED)))
        self.centroids: Tensor
        self.measured: Tensor
        self.bank: Tensor
        self.assigned: Tensor

    def multi_crop(self, local: int) -> None:
        self.locals = local
        self.pairs = tuple((v, 0) for v in range(2 + local))

    @staticmethod
    def check_run(at: Setting, prototypes: int) -> None:
        check_clusters(f"DeepCluster with prototypes={prototypes}", prototypes, at.images)

    def on_start(self, images: Images, batch_size: int) -> None:
        heads, k, dim = self.centroids.shape
        check_clusters(f"DeepCluster with prototypes={k}", k, len(images))
        at = self.centroids.device
        self.register_buffer("bank", torch.zeros(2, len(images), dim, device=at))
        self.register_buffer("assigned", torch.full((heads, len(images)), MISSING, device=at))
        self.batch_size = batch_size

    def query(self, x: Any) -> Tensor:
        return F.normalize(self.projector(self.pooled(x)).float(), dim=1)  # (N,dim)

    def target(self, x: Any, index: Tensor | None) -> Tensor:
        if index is None:
            raise TypeError("the label of an image is looked up by its row in the data set: give the index")
        return self.assigned[:, index.clamp_min(0)].T.masked_fill(index[:, None] < 0, MISSING)  # (N,heads)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        scores = torch.einsum("nd,hkd->nkh", q, self.centroids) / self.temperature
        return F.cross_entropy(scores, t, ignore_index=MISSING, reduction="none").mean(1)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        return (torch.einsum("nd,hkd->nhk", q, self.centroids).argmax(2) == t).float().mean(1)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        out = step.out
        # a generated image changes nothing: it writes the same as the first image, which is real
        rows = ranks.whole(out.views.index)
        real = (rows >= 0)[:, None]
        index = torch.where(real[:, 0], rows, rows[0])
        for crop in range(2):
            q = ranks.whole(out.q[crop].detach())
            self.bank[crop, index] = torch.where(real, q, q[0])

    @torch.no_grad()
    def on_epoch(self, at: Progress, images: Images, look: Look) -> None:
        """Each rank fills its bank by itself: a pass without gradient, once in a run; and clusters it by itself."""
        with ranks.alone():
            self._cluster(images, look)
        ranks.same(self.bank, self.centroids, self.assigned, self.measured)

    def _cluster(self, images: Images, look: Look) -> None:
        if not self.bank.any():  # at first; a measurement begins in the middle of a run
            for batch in images.all(self.batch_size):
                z, _ = self.embed(look.render(look.views(batch, 2)), (0, 1), ())
                self.bank[:, batch.index] = torch.stack([z[0], z[1]])
        previous = self.assigned.clone()
        for h, centroids in enumerate(self.centroids):
            bank = self.bank[h % 2]
            seen = bank.any(1)
            centres, y = kmeans(bank[seen], len(centroids), self.iterations)
            centroids.copy_(centres)
            self.assigned[h] = MISSING
            self.assigned[h, seen] = y
        self.measured.copy_(self._measure(previous, images.targets.to(previous.device)))

    def _measure(self, previous: Tensor, targets: Tensor) -> Tensor:
        """The numbers ``MEASURED``: means over the heads, and the total number of empty clusters."""
        rows = []
        for y, before in zip(self.assigned, previous, strict=True):
            size = y[y >= 0].bincount(minlength=self.centroids.shape[1]).float()
            entropy = torch.special.entr(size / size.sum()).sum()
            both = (nmi(y, targets), nmi(y, before))
            rows.append(torch.stack([entropy, size.min(), size.max(), (size == 0).sum() * len(self.assigned), *both]))
        return torch.stack(rows).mean(0)

    def logs(self, step: Step) -> Mapping[str, float]:
        top1 = self.right(step.out.q[0].detach(), step.out.t[0]).mean()
        return dict(zip(MEASURED, self.measured.tolist(), strict=True)) | {"pseudo_top1": float(top1)}

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        return {"assigned": self.assigned.int()}


def nmi(a: Tensor, b: Tensor) -> Tensor:
    """Normalised mutual information of two labellings (N,), on the rows that both label (>= 0); 0-dim.

    It is divided by the mean entropy: 0 if no row is labelled, 1 if both have one class. Strehl & Ghosh 2002, with the
    arithmetic mean.
    """
    both = (a >= 0) & (b >= 0)
    a, b = a[both], b[both]
    if not len(a):
        return torch.zeros((), device=a.device)

    def entropy(labels: Tensor) -> Tensor:
        p = labels.unique(return_counts=True)[1].double() / len(labels)
        return torch.special.entr(p).sum()

    h_a, h_b, joint = entropy(a), entropy(b), entropy(a * (b.max() + 1) + b)
    mean = (h_a + h_b) / 2
    return torch.where(mean > 0, (h_a + h_b - joint).clamp_min(0) / mean, 1.0).float()
