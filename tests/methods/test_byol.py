"""BYOL against lightly's loss and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity
from steps import after, falls, rendered

from hardlab import nets
from hardlab.methods.byol import BYOL
from hardlab.types import HardlabError, Progress


def byol(**options):
    torch.manual_seed(0)
    return BYOL(nets.Tiny(width=4), **({"dim": 8, "hidden": 16} | options))


def test_byol_loss_is_lightlys_and_its_target_takes_no_gradient():
    net = byol()
    out = net(rendered(torch.randn(6, 2, 3, 16, 16)))
    expected = 2 + (NegativeCosineSimilarity()(out.q[0], out.t[1]) + NegativeCosineSimilarity()(out.q[1], out.t[0]))
    assert out.loss.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(t.requires_grad for t in out.t.values())
    for i in range(6):
        p, z = F.normalize(out.q[0][i].detach(), dim=0), F.normalize(out.t[1][i], dim=0)
        r, s = F.normalize(out.q[1][i].detach(), dim=0), F.normalize(out.t[0][i], dim=0)
        assert out.loss[i].item() == pytest.approx(float(((p - z) ** 2).sum() + ((r - s) ** 2).sum()) / 2, abs=1e-5)


def test_tau_goes_along_half_a_cosine_from_its_start_to_its_end():
    net = byol(start=0.9, end=1.0)
    for done, expected in ((0, 0.9), (5, 0.95), (10, 1.0)):
        net.before_step(Progress(done, 10, 0, 2))
        assert net.tau == pytest.approx(expected)


@pytest.mark.parametrize("average", ["parameters", "all"])
def test_byols_target_follows_by_the_formula_its_buffers_where_asked(average):
    net = byol(start=0.9, end=0.9, average=average)
    twin = torch.nn.Sequential(net.twin, net.twin_projector)
    online = torch.nn.Sequential(net.backbone, net.projector)
    before = [p.data.clone() for p in twin.parameters()]
    out = net(rendered(torch.randn(6, 2, 3, 16, 16)))
    with torch.no_grad():
        for p in online.parameters():
            p += torch.randn_like(p)
    buffers = [b.clone() for b in twin.buffers()]
    net.after_step(after(net, out))
    for a, p, q in zip(before, online.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(q, 0.9 * a + 0.1 * p, atol=1e-6)
    for a, p, q in zip(buffers, online.buffers(), twin.buffers(), strict=True):
        if a.is_floating_point():
            assert torch.allclose(q, 0.9 * a + 0.1 * p if average == "all" else a, atol=1e-6)


def test_impossible_shares_of_byols_target_are_refused():
    with pytest.raises(HardlabError, match=r"start=0.9, end=0.5"):
        byol(start=0.9, end=0.5)


def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again():
    falls(byol())
