"""SimSiam against a loop and lightly's loss."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from steps import rendered

from hardlab import nets
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam


def test_simsiam_loss_is_lightlys_negative_cosine_on_the_mean_and_has_no_gradient_to_the_label():
    net = SimSiam(nets.Tiny(width=4), layers=2, dim=16, hidden=4)
    x = torch.randn(6, 2, 3, 16, 16)
    out = net(rendered(x))
    expected = sum(NegativeCosineSimilarity()(out.q[a], out.t[b]) for a, b in net.pairs) / 2
    assert out.loss.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(t.requires_grad for t in out.t.values())
    for i in range(6):
        p, z = out.q[0][i].detach(), out.t[1][i]
        r, s = out.q[1][i].detach(), out.t[0][i]
        one = -(float(p @ z) / float(p.norm() * z.norm()) + float(r @ s) / float(r.norm() * s.norm())) / 2
        assert out.loss[i].item() == pytest.approx(one, abs=1e-5)


def test_simsiam_views_have_their_own_batch_statistics_and_simclr_views_share_them():
    x = torch.randn(6, 2, 3, 16, 16)
    x[:, 1] = 3 * x[:, 1] + 1
    for kind, together in ((SimSiam, False), (SimCLR, True)):
        torch.manual_seed(0)
        net = kind(nets.Tiny(width=4), dim=8)
        q = net.embed(rendered(x), (0, 1), (0, 1))[0]
        alone = net.query(x[:, 0])
        joined = net.query(torch.cat([x[:, 0], x[:, 1]]))[:6]
        assert torch.allclose(q[0], joined if together else alone, atol=1e-5)
        assert not torch.allclose(q[0], alone if together else joined, atol=1e-3)


def test_the_predictors_rate_is_constant_by_default_and_follows_the_schedule_on_request():
    assert set(SimSiam(nets.Tiny(width=4), dim=8, hidden=4).constant_rate())
    assert not set(SimSiam(nets.Tiny(width=4), dim=8, hidden=4, fix_predictor_rate=False).constant_rate())
