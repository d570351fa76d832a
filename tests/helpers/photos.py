"""Images with structure, and the parameters of their views."""

from __future__ import annotations

import torch
from torch import Tensor

from hardlab.views import Look

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int, h: int, w: int) -> Tensor:
    """(n,3,h,w) uint8 with structure, and with pixels at 0, at 255 and with equal channels."""
    x = torch.nn.functional.interpolate(torch.rand(n, 3, h // 4, w // 4), (h, w), mode="bilinear") * 380 - 60
    x[:, :, : h // 8] = x[:, :1, : h // 8]
    return x.round().clamp(0, 255).to(torch.uint8)


def draw(look: Look, n: int, h: int, w: int, views: int = 2, seed: int = 0) -> Tensor:
    return look.draw(torch.tensor([[h, w]]).expand(n, 2), views, rng(seed))
