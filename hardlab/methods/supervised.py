"""Supervised cross-entropy on the labels, the reference for self-supervision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab.data import Images
from hardlab.methods.base import Method, Step
from hardlab.types import HardlabError


class Supervised(Method):
    """A linear classifier on the pooled features of one view per image; an image without a label has loss 0.

    ``on_start`` makes the classifier, because its width is the number of classes.
    """

    pairs = ((0, 0),)
    slots = 1
    indexed = True

    def on_start(self, images: Images, batch_size: int) -> None:
        if images.multi_hot is not None or bool((images.targets < 0).any()):
            raise HardlabError(
                f"Supervised training on {images.name}: it needs one label an image, which this set does not have."
            )
        device = next(self.backbone.parameters()).device
        self.head = nn.Linear(self.features, len(images.classes), device=device)
        self.labels: Tensor
        self.register_buffer("labels", images.targets.to(device), persistent=False)

    def query(self, x: Any) -> Tensor:
        return self.head(self.pooled(x))  # (N,classes)

    def target(self, x: Any, index: Tensor | None) -> Tensor:
        assert index is not None
        return torch.where(index < 0, -1, self.labels[index])  # (N,)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        return F.cross_entropy(q, t, reduction="none", ignore_index=-1)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        return (q.argmax(1) == t).float()

    def logs(self, step: Step) -> Mapping[str, float]:
        """accuracy: on the batch, before the step."""
        return {"accuracy": float(self.accuracy(step.out.q, step.out.t).mean())}
