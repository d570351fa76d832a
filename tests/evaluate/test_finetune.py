"""Fine-tuning against a plain loop; what it leaves alone; which labels it may see."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardlab import data
from hardlab.evaluate.features import AUGMENTS, Rendered, extract
from hardlab.evaluate.finetune import Part, finetune
from hardlab.evaluate.linear import SCHEDULES, held_out, linear_probe
from hardlab.evaluate.published import PROTOCOLS
from hardlab.nets import Tiny, split_bn
from hardlab.types import HardlabError
from hardlab.views import PRESETS, Look

LOOK = Look(PRESETS["eval"], (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def sets():
    return data.load("shapes", "train", count=260), data.load("shapes", "test", count=80)


def net(width=8):
    torch.manual_seed(0)
    return Tiny(width=width).to(memory_format=torch.channels_last)


def whole(images):
    return Part(images, torch.arange(len(images)))


def test_fine_tuning_equals_a_plain_loop_with_two_rates_and_one_schedule(sets):
    train, test = sets
    part = Part(train, torch.arange(0, 260, 3))
    settings = {"lr": 0.02, "head_lr": 0.5, "batch_size": 32, "epochs": 3, "augment": "none", "size": 16}
    tuned = finetune(net(), LOOK, part, whole(test), seed=5, **settings)
    g = torch.Generator().manual_seed(5)
    peer, head = net().train(), nn.Linear(32, 10)
    nn.init.normal_(head.weight, 0, 0.01, generator=g)
    nn.init.zeros_(head.bias)
    pixels = LOOK.plain(train.pixels, torch.full((260, 2), 32), 16).contiguous(memory_format=torch.channels_last)
    rates, top1 = ({"params": peer.parameters(), "lr": 0.0025}, {"params": head.parameters(), "lr": 0.0625}), []
    opt = torch.optim.SGD(rates, 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: [1, 1, 0.2][epoch] if epoch < 3 else 1)
    for _ in range(3):
        for rows in part.rows[torch.randperm(len(part.rows), generator=g)].split(32):
            opt.zero_grad()
            F.cross_entropy(head(peer(pixels[rows])), train.targets[rows]).backward()
            opt.step()
        schedule.step()
        f, y = extract(peer, test, LOOK, size=16)
        top1.append(float((head(f).argmax(1) == y).float().mean()))
        peer.train()
    torch.testing.assert_close(tuned.head.weight, head.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tuned.net.state_dict(), peer.eval().state_dict(), rtol=1e-3, atol=1e-5)
    assert tuned.top1 == pytest.approx(top1)


def test_the_given_network_stays_as_it_is_bit_for_bit_and_so_does_the_global_random_state(sets):
    model = net().eval()
    model.stem[0].weight.requires_grad_(False)  # as an averaged network's are
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    tuned = finetune(model, LOOK, whole(sets[0]), whole(sets[1]), epochs=1, size=16)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and not model.stem[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(tuned.net.stem[0].weight, model.stem[0].weight)
    assert not torch.equal(tuned.net.stem[1].running_mean, model.stem[1].running_mean)


def test_one_seed_gives_one_result_and_another_seed_another(sets):
    one, same, other = (
        finetune(net(), LOOK, Part(sets[0], torch.arange(64)), whole(sets[1]), seed=s, epochs=1, size=16).head.weight
        for s in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_network_of_split_norms_is_tuned_as_its_plain_twin_whatever_the_size_of_the_last_batch(sets):
    settings = {"epochs": 1, "batch_size": 16, "augment": "none", "size": 16}
    part = Part(sets[0], torch.arange(27))  # the last batch has 11 images, no multiple of 8
    split = split_bn(net(), 8)
    tuned = finetune(split, LOOK, part, whole(sets[1]), **settings)
    plain = finetune(net(), LOOK, part, whole(sets[1]), **settings)
    assert tuned.loss == plain.loss and tuned.top1 == plain.top1
    assert type(split.stem[1]).__name__ == "SplitBN"  # the given network stays as it is


def test_the_semi_supervised_schedule_falls_fivefold_after_12_and_16_of_20_epochs():
    np.testing.assert_allclose([SCHEDULES["fifth-60-80"](e / 20) for e in range(20)], [1] * 12 + [0.2] * 4 + [0.04] * 4)
    np.testing.assert_allclose([SCHEDULES["step-35-70"](e / 20) for e in range(20)], [1] * 7 + [0.1] * 7 + [0.01] * 6)
    for share, head in (("1", 1.0), ("10", 0.1), ("100", 0.1)):
        settings = PROTOCOLS[f"semi-hexa-{share}"].settings
        assert (settings["labels"], settings["head_lr"], settings["lr"], settings["weight_decay"]) == (
            int(share) / 100,
            head,
            0.01,
            5e-4,
        )
        assert (settings["optimizer"], settings["epochs"], settings["batch_size"]) == ("sgd", 20, 256)


def test_adcos_places_schedule_is_torchs_cosine_with_a_period_of_24_epochs():
    opt = torch.optim.SGD([torch.zeros(1)], 1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=12)
    for epoch in range(100):
        assert SCHEDULES["oscillating"](epoch / 100) == pytest.approx(opt.param_groups[0]["lr"], abs=1e-6)
        opt.step()
        peer.step()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "sdg"}, "'sdg'.*'sgd'"),
        ({"augment": "rrc"}, "'rrc'"),
        ({"head_lr": 0.0}, "head_lr must be a finite number above 0"),
        ({"lr": 1e12, "epochs": 2}, "diverged"),
    ],
)
def test_impossible_settings_of_fine_tuning_are_refused_in_one_sentence(sets, settings, sentence):
    with pytest.raises(HardlabError, match=sentence):
        finetune(net(), LOOK, whole(sets[0]), whole(sets[1]), size=16, **settings)


def test_one_class_or_other_classes_cannot_be_learned(sets):
    one = Part(sets[0], (sets[0].targets == 1).nonzero()[:, 0])
    with pytest.raises(HardlabError, match="2 classes are needed"):
        finetune(net(), LOOK, one, whole(sets[1]))
    with pytest.raises(HardlabError, match="different classes"):
        finetune(net(), LOOK, whole(sets[0]), whole(data.load("digits", "test")))


def test_the_probe_on_augmented_views_learns_from_fresh_crops_through_the_frozen_network(sets):
    model, (train, test) = net().train(), sets
    before = copy.deepcopy(model.state_dict())
    halves = *extract(model, train, LOOK), *extract(model, test, LOOK)
    inputs = []

    def encode(x):
        inputs.append(x)
        return model(x)

    fresh = Rendered("rrc-flip", LOOK, 16, "whole", 3).features(encode, train)
    probe = linear_probe(*halves, epochs=2, batch_size=100, lr=1.0, fresh=fresh)
    assert [tuple(x.shape) for x in inputs] == [(100, 3, 16, 16), (100, 3, 16, 16), (60, 3, 16, 16)] * 2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.training
    look, g = Look(AUGMENTS["rrc-flip"].but(size=16), LOOK.mean, LOOK.std), torch.Generator().manual_seed(3)
    order = torch.Generator().manual_seed(0)
    torch.empty(10, 32).normal_(generator=order)  # the weights come first
    rows = torch.randperm(260, generator=order)[:100]
    batch = next(train.batches(rows[None]))
    torch.testing.assert_close(inputs[0], look.apply(batch.raw, look.draw(batch.sizes, 1, g))[:, 0])
    assert probe.weight.shape == (10, 32) and probe.steps == 6


def test_a_probe_with_plain_views_is_the_probe_on_cached_features(sets):
    model, (train, test) = net().eval(), sets
    halves = *extract(model, train, LOOK), *extract(model, test, LOOK)
    fresh = Rendered("none", LOOK, None, "whole", 0).features(model, train)
    cached, through = (linear_probe(*halves, epochs=2, lr=1.0, fresh=f) for f in (None, fresh))
    torch.testing.assert_close(cached.weight, through.weight, rtol=1e-4, atol=1e-6)


def test_the_published_test_crop_is_the_central_seven_eighths():
    raw = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    sizes = torch.tensor([[64, 48], [40, 32]])
    x = LOOK.central(raw, sizes, 16)
    for i, (top, left, side) in enumerate([(11, 3, 42), (6, 2, 28)]):
        part = raw[i : i + 1, :, top : top + side, left : left + side]
        torch.testing.assert_close(
            x[i : i + 1], LOOK.plain(part, torch.tensor([[side, side]]), 16), atol=1e-5, rtol=1e-5
        )


def test_features_of_some_rows_are_those_of_all(sets):
    rows = torch.tensor([7, 3, 250, 11])
    whole_f, whole_y = extract(net(), sets[0], LOOK)
    f, y = extract(net(), sets[0], LOOK, rows=rows, batch_size=3)
    torch.testing.assert_close(f, whole_f[rows])
    assert torch.equal(y, whole_y[rows])


def test_a_tenth_of_each_class_is_held_out_to_choose_a_rate():
    labels = torch.tensor([0] * 40 + [1] * 5 + [2])
    rest, kept = held_out(labels)
    assert sorted([*rest.tolist(), *kept.tolist()]) == list(range(46))
    assert torch.bincount(labels[kept], minlength=3).tolist() == [4, 1, 0]
    with pytest.raises(HardlabError, match="none can be held out"):
        held_out(torch.arange(3))


@pytest.mark.slow
def test_fine_tuning_learns_digits():
    train, test = data.load("digits"), data.load("digits", "test")
    tuned = finetune(net(8), LOOK, whole(train), whole(test), lr=0.3, batch_size=64, epochs=5, augment="none", size=16)
    assert tuned.top1[-1] > 0.8  # chance is 0.1
    assert tuned.loss[-1] < tuned.loss[0]


def test_a_test_class_that_no_training_image_shows_is_refused_as_by_the_other_protocols(sets):
    train, test = (copy.copy(images) for images in sets)
    train.targets = train.targets.clamp(max=7)
    with pytest.raises(HardlabError, match=f"the test class {train.classes[8]}, {train.classes[9]} never occurs"):
        finetune(net(), LOOK, whole(train), whole(test), epochs=1, size=16)
