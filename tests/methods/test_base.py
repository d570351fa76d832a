"""What every method inherits: averages of networks, and losses read on other slots, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hardlab import nets
from hardlab.methods.base import ema, twin_of
from hardlab.methods.simsiam import SimSiam


@pytest.mark.parametrize("buffers", [False, True])
def test_an_average_is_that_of_every_parameter_and_of_buffers_where_asked(buffers: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    twin = twin_of(net)
    assert not any(p.requires_grad for p in twin.parameters())
    net(torch.randn(8, 2))
    with torch.no_grad():
        for p in net.parameters():
            p += 1
    before = {k: v.clone() for k, v in twin.state_dict().items()}
    ema(twin, net, 0.9, buffers)
    moving = {k for k, _ in twin.named_parameters()} | ({"1.running_mean", "1.running_var"} if buffers else set())
    for key, now in twin.state_dict().items():
        if key in moving:
            assert torch.allclose(now, 0.9 * before[key] + 0.1 * net.state_dict()[key])
        else:
            counted = key == "1.num_batches_tracked" and buffers  # a count is no average
            assert torch.equal(now, net.state_dict()[key] if counted else before[key])


def test_a_score_on_other_slots_is_the_mean_over_pairs_there_and_known_losses_are_not_computed_again() -> None:
    method = SimSiam(nets.Tiny(width=4), layers=2, dim=8, hidden=4)
    q, t = ({slot: torch.randn(5, 8) for slot in range(3)} for _ in range(2))
    expected = (method.loss(q[2], t[1]) + method.loss(q[1], t[2])) / 2
    known: dict[tuple[int, int], torch.Tensor] = {}
    assert torch.allclose(method.score(q, t, pick=(2, 1), known=known), expected)
    assert known.keys() == {(2, 1), (1, 2)}
    known[2, 1] = torch.zeros(5)
    assert torch.allclose(method.score(q, t, pick=(2, 1), known=known), method.loss(q[1], t[2]) / 2)
