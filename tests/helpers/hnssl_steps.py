"""HNSSL on random views, and the distance of its Eq. 3 written out."""

from __future__ import annotations

import torch
from steps import rendered

from hardlab import nets
from hardlab.methods.hnssl import HNSSL
from hardlab.types import Out

B = 6


def views_of(x, plain=None):
    return rendered(x, plain=plain)


def net(**options):
    torch.manual_seed(0)
    return HNSSL(nets.Tiny(width=4), **options)


def some_views(seed=0, b=B):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 1, 3, 16, 16, generator=g)
    return views_of(x, torch.randn(b, 3, 16, 16, generator=g))


def outcome(q, t):
    """What a step with these predictions and labels hands to a strategy."""
    return Out(some_views(b=len(q)), {0: q}, {-1: t}, torch.zeros(len(q)))


def dissimilarity(t, q):
    """Eq. 3 for one pair, written out."""
    largest = [float(v.detach().abs().max()) + 1e-6 for v in (t, q)]
    return sum((x / largest[0] - y / largest[1]) ** 2 for x, y in zip(t.tolist(), q.tolist(), strict=True))
