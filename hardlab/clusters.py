"""Spherical k-means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab.types import HardlabError

TILE = 2**25  # bytes of similarities at once


def check_clusters(what: str, clusters: int, images: int | None) -> None:
    """Refuse more clusters than images, of which the number may not be known yet. Raises HardlabError.

    what: who wants them, for the message.
    """
    if images is not None and clusters > images:
        raise HardlabError(f"{what}: more clusters than the {images} images.")


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """The index of the centroid with the highest dot product; x: (N,D), centroids: (K,D) -> (N,)."""
    rows = max(1, TILE // (4 * len(centroids)))
    return torch.cat([(part @ centroids.T).argmax(1) for part in x.split(rows)])


def kmeans(x: Tensor, k: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Spherical k-means from random rows: unit x (N,D) -> unit centroids (k,D), nearest centroid of each row (N,).

    An empty cluster keeps its centroid. The start is drawn from torch's global generator.
    """
    if len(x) < k:
        raise HardlabError(f"k-means into {k} clusters needs as many images; {len(x)} have an embedding.")
    centroids = x[torch.randperm(len(x))[:k].to(x.device)]
    for _ in range(iterations):
        y = nearest(x, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, y, x)
        some = y.bincount(minlength=k)[:, None] > 0
        centroids = F.normalize(torch.where(some, sums, centroids), dim=1)
    return centroids, nearest(x, centroids)
