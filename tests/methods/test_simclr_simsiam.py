"""SimCLR and SimSiam against loops, closed forms and lightly's losses."""

import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from steps import rendered
from torch import nn

from hardlab import losses, nets
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam


def unit(n, d, seed):
    return nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_simclr_loss_of_each_sample_equals_a_loop_over_all_other_views():
    b, tau = 7, 0.3
    za, zb = unit(b, 5, 0).double(), unit(b, 5, 1).double()
    z = torch.cat([za, zb])
    anchors = []
    for i in range(2 * b):
        j = (i + b) % (2 * b)
        bottom = sum(math.exp(float(z[i] @ z[a]) / tau) for a in range(2 * b) if a != i)
        anchors.append(-math.log(math.exp(float(z[i] @ z[j]) / tau) / bottom))
    wanted = torch.tensor([(anchors[i] + anchors[i + b]) / 2 for i in range(b)])
    got = SimCLR(nets.Tiny(width=4), dim=5, temperature=tau).score({0: za, 1: zb}, {0: za, 1: zb})
    assert torch.allclose(got, wanted, atol=1e-5)


def test_simclr_loss_is_lightlys_ntxent_on_the_mean():
    za, zb = unit(16, 8, 2), unit(16, 8, 3)
    got = SimCLR(nets.Tiny(width=4), dim=8, temperature=0.2).score({0: za, 1: zb}, {0: za, 1: zb}).mean()
    assert got.item() == pytest.approx(NTXentLoss(temperature=0.2)(za, zb).item(), rel=1e-5)


def test_simsiam_loss_is_lightlys_negative_cosine_on_the_mean_and_has_no_gradient_to_the_label():
    net = SimSiam(nets.Tiny(width=4), layers=2, dim=16, hidden=4)
    x = torch.randn(6, 2, 3, 16, 16)
    out = net(rendered(x))
    wanted = sum(NegativeCosineSimilarity()(out.q[a], out.t[b]) for a, b in net.pairs) / 2
    assert out.loss.mean().item() == pytest.approx(wanted.item(), rel=1e-5)
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


def test_info_nce_of_equal_similarities_is_the_log_of_their_number():
    loss = losses.info_nce(torch.zeros(3), torch.zeros(3, 9), 0.1)
    assert torch.allclose(loss, torch.full((3,), math.log(10)))


def test_masked_columns_take_no_share_of_the_softmax():
    neg = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert losses.info_nce(torch.zeros(1), neg, 1.0).item() == pytest.approx(math.log(3))


def test_the_projector_of_simclr_learns_no_offset_in_its_last_norm():
    net = SimCLR(nets.Tiny(width=4), dim=8)
    assert net.projector[-1].bias.requires_grad is False
    assert torch.count_nonzero(net.projector[-1].bias) == 0


def test_the_predictors_rate_is_constant_by_default_and_follows_the_schedule_on_request():
    assert set(SimSiam(nets.Tiny(width=4), dim=8, hidden=4).constant_rate())
    assert not set(SimSiam(nets.Tiny(width=4), dim=8, hidden=4, fix_predictor_rate=False).constant_rate())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_backbone_keys_are_torchvisions_without_the_classifier(name):
    import torchvision

    ours = set(getattr(nets, name)(small_images=False).state_dict())
    theirs = set(getattr(torchvision.models, name)().state_dict())
    assert theirs - ours == {"fc.weight", "fc.bias"}
    assert ours <= theirs


def test_frozen_running_statistics_leave_every_buffer_as_it_was_and_still_use_the_batch():
    net = nets.Tiny(width=4).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(5, 3, 16, 16) * 4 + 2
    with nets.running_stats_frozen(net):
        y = net(x)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(y, net(x))
    assert not all(torch.equal(before[k], v) for k, v in net.state_dict().items())
