"""SimCLR-DD: twice the real images in a step."""

from __future__ import annotations

import torch
from steps import looked
from toy import images

from hardlab import nets
from hardlab.hard.double import Double
from hardlab.methods.simclr import SimCLR
from hardlab.types import Progress
from hardlab.views import PRESETS, Look


def doubled(data, at, seed=0, x=False):
    torch.manual_seed(seed)
    look = Look(PRESETS["simclr_cifar"][0].but(size=16), (0.5,) * 3, (0.25,) * 3)
    hard = Double()
    hard.on_start(data, 4)
    first = next(data.batches(torch.arange(4)[None]))
    out = []
    for progress in at:
        hard.before_step(progress)
        v = look.views(first, 2, torch.Generator().manual_seed(1))
        out.append(looked(hard, SimCLR(nets.Tiny(width=4), dim=8), look.render(v) if x else v, look).views)
    return look, out


def test_a_doubled_step_has_twice_the_images_each_a_group_of_its_own_and_the_batch_unchanged():
    data = images()
    look, (v,) = doubled(data, [Progress(0, 6, 0, 2)])
    assert torch.equal(v.group, torch.arange(8))
    assert torch.equal(v.index[:4], torch.arange(4))
    assert torch.equal(v.raw, data.pixels[v.index])
    first = next(data.batches(torch.arange(4)[None]))
    assert torch.equal(v.params[:4], look.views(first, 2, torch.Generator().manual_seed(1)).params)
    assert SimCLR(nets.Tiny(width=4), dim=8)(look.render(v)).loss.shape == (8,)
    assert doubled(data, [Progress(0, 6, 0, 2)], x=True)[1][0].x.shape == (8, 2, 3, 16, 16)


def test_the_further_images_are_each_seen_once_an_epoch_in_an_order_that_a_resumed_run_finds_again():
    data = images()
    steps = [Progress(i, 6, i // 3, 2) for i in range(6)]
    rows = [v.index[4:] for v in doubled(data, steps)[1]]
    for epoch in (rows[:3], rows[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert not torch.equal(torch.cat(rows[:3]), torch.cat(rows[3:]))
    resumed = [v.index[4:] for v in doubled(data, steps[4:])[1]]
    assert all(torch.equal(a, b) for a, b in zip(rows[4:], resumed, strict=True))
