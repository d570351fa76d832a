"""Two correlated batches, on which losses of correlations are held against lightly's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hardlab.methods.base import Method


def two(n: int = 12, d: int = 16) -> tuple[Tensor, Tensor]:
    """Two batches (n,d) with a gradient."""
    # deviations on both sides of 1, where VICReg's hinge is
    scale = torch.linspace(0.5, 1.5, d, dtype=torch.double)
    a = torch.randn(n, d, dtype=torch.double) * scale
    return a.requires_grad_(), (a.detach() + 0.5 * torch.randn(n, d, dtype=torch.double)).requires_grad_()


def is_lightlys(method: Method, reference: nn.Module) -> None:
    """The mean of the rows is lightly's loss, and so is its gradient."""
    a, b = two()
    ours, theirs = method.loss(a, b), reference(a, b)
    assert ours.shape == (12,)
    assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-10)
    for x, y in zip(torch.autograd.grad(ours.mean(), (a, b)), torch.autograd.grad(theirs, (a, b)), strict=True):
        assert torch.allclose(x, y, atol=1e-10)
