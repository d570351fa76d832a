"""Synthetic negatives by hand: fixed draws in place of torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hardlab import nets
from hardlab.methods.moco import MoCo


def unit(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g, dtype=torch.double), dim=1)


def moco(hard, queue=40, dim=6):
    net = MoCo(nets.Tiny(width=4), dim=dim, queue=queue, bn="plain", temperature=0.3).double()
    hard.install(net)
    return net


def drawn(kind, method, q, k):
    """The columns that a strategy adds: (N,S)."""
    plain = q @ method.negatives.stored().T
    both = method.negatives.similarities(q, k)
    assert torch.allclose(both[:, : plain.shape[1]], plain)
    return both[:, plain.shape[1] :]


class Fixed:
    """In place of torch's draws: what a test hands out, in order."""

    def __init__(self, monkeypatch, indices, shares, noise=None):
        self.indices, self.shares = list(indices), list(shares)
        monkeypatch.setattr(torch, "randint", lambda *a, **k: self.indices.pop(0))
        monkeypatch.setattr(torch, "rand", lambda *a, **k: self.shares.pop(0))
        if noise is not None:
            monkeypatch.setattr(torch, "randn", lambda *a, **k: noise)


def nearest(method, q, count):
    keys = method.negatives.stored()
    order = sorted(range(len(keys)), key=lambda j: -float(q @ keys[j]))
    return [keys[j] for j in order[:count]]
