"""SynCo against a loop over its six kinds."""

from __future__ import annotations

import pytest
import torch
from synthetic import Fixed, drawn, moco, nearest, unit

from hardlab.hard.synco import SynCo


def test_synco_equals_a_loop_over_its_six_kinds(monkeypatch):
    method = moco(
        SynCo(hard=5, interpolated=2, extrapolated=2, mixed=2, noised=2, perturbed=2, adversarial=2, sigma=0.3,
              delta=0.2, eta=0.1, warmup_epochs=0)
    )  # fmt: skip
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    rows = [torch.randint(5, (4, 2)) for _ in range(7)]
    shares = [torch.rand(4, 2, 1, dtype=torch.double) for _ in range(3)]
    noise = torch.randn(4, 2, 6, dtype=torch.double)
    Fixed(monkeypatch, rows, shares, noise)
    actual = drawn(SynCo, method, q, k)
    for n in range(4):
        hard = nearest(method, q[n], 5)
        made = []
        for s in range(2):
            alpha = float(shares[0][n, s, 0]) * 0.5
            made.append(alpha * q[n] + (1 - alpha) * hard[rows[0][n, s]])
        for s in range(2):
            beta = 1 + float(shares[1][n, s, 0]) * 0.5
            made.append(q[n] + beta * (hard[rows[1][n, s]] - q[n]))
        for s in range(2):
            gamma = float(shares[2][n, s, 0])
            made.append((1 - gamma) * hard[rows[2][n, s]] + gamma * hard[rows[3][n, s]])
        made += [hard[rows[4][n, s]] + 0.3 * noise[n, s] for s in range(2)]
        for kind, strength in ((5, 0.2), (6, 0.1)):
            for s in range(2):
                x = hard[rows[kind][n, s]].clone().requires_grad_()
                (grad,) = torch.autograd.grad(q[n] @ x, x)
                made.append(x.detach() + strength * (grad if kind == 5 else grad.sign()))
        assert actual[n].tolist() == pytest.approx([float(q[n] @ h / h.norm()) for h in made], abs=1e-9)
