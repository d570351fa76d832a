"""Feature extraction: what goes in is plain pixels, what comes out is the data set's order, nothing is left changed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardlab.evaluate.features import check_features, extract, pixels
from hardlab.types import Batch, HardlabError

MEAN, STD = 0.4, 0.25


@dataclass
class Data:
    """Images in memory; ``shuffled`` hands them out in another order, as a loader with workers may."""

    raw: torch.Tensor
    targets: torch.Tensor
    shuffled: bool = False
    name: str = "fake"
    split: str = "train"

    def __len__(self):
        return len(self.raw)

    def all(self, batch_size):
        order = (
            torch.randperm(len(self), generator=torch.Generator().manual_seed(1))
            if self.shuffled
            else torch.arange(len(self))
        )
        for rows in order.split(batch_size):
            yield Batch(self.raw[rows], torch.full((len(rows), 2), self.raw.shape[-1]), rows)


class Plain:
    """A look that only normalises, and resizes where it is asked to."""

    def plain(self, raw, sizes, size=None):
        x = (raw.float() / 255 - MEAN) / STD
        return x if size is None else F.interpolate(x, size=(size, size))


def data(n=37, shuffled=False):
    g = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g)
    return Data(raw, torch.randint(0, 5, (n,), generator=g), shuffled)


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model(torch.randn(16, 3, 8, 8))  # so that the running statistics are not what they start as
    return model


def test_features_equal_a_loop_over_single_images_with_running_statistics():
    model, d = net(), data()
    f, y = extract(model, d, Plain(), batch_size=10)
    weight, bn = model[0], model[1]
    for i, raw in enumerate(d.raw):
        x = weight((raw.float()[None] / 255 - MEAN) / STD)
        x = (x - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()
        x = x * bn.weight[:, None, None] + bn.bias[:, None, None]
        torch.testing.assert_close(f[i], x.relu().mean((2, 3))[0], rtol=1e-4, atol=1e-6)
    assert torch.equal(y, d.targets)
    assert f.dtype == torch.float32 and not f.requires_grad


@pytest.mark.parametrize("way", ["module", "bound method", "closure"])
def test_weights_and_statistics_are_bit_identical_and_modes_are_restored(way):
    model = net().train()
    model[3].eval()  # a part that was frozen on purpose stays frozen
    encode = {"module": model, "bound method": model.forward, "closure": lambda x: model(x)}[way]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    extract(encode, data(), Plain())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("way", ["module", "closure"])
def test_modes_are_restored_when_the_encoder_fails_half_way(way):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(4, 2, 1)).train()
    with pytest.raises(RuntimeError):
        extract(model if way == "module" else lambda x: model(x), data(), Plain())
    assert all(m.training for m in model.modules())


def test_training_goes_on_in_training_mode_after_an_extraction():
    model = net().train()
    extract(lambda x: model(x), data(), Plain())
    before = model[1].running_mean.clone()
    model(torch.randn(8, 3, 8, 8))
    assert not torch.equal(before, model[1].running_mean)


def test_features_do_not_depend_on_batch_size_or_order():
    model = net()
    one, y1 = extract(model, data(), Plain(), batch_size=37)
    for batch_size, shuffled in ((1, False), (5, True), (36, True)):
        other, y2 = extract(model, data(shuffled=shuffled), Plain(), batch_size=batch_size)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(y1, y2)


def test_the_encoder_sees_channels_last_pixels_of_the_asked_size_without_a_gradient():
    inputs = []

    def encode(x):
        inputs.append((x.shape, x.is_contiguous(memory_format=torch.channels_last), torch.is_grad_enabled()))
        return x.mean((2, 3))

    extract(encode, data(), Plain(), size=4, batch_size=37)
    assert inputs == [((37, 3, 4, 4), True, False)]


def test_bf16_features_are_float32_and_close_to_the_exact_ones():
    model = net()
    exact, _ = extract(model, data(), Plain())
    fast, _ = extract(model, data(), Plain(), precision="bf16")
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.05


def test_pixels_are_the_normalised_image_channel_by_channel():
    d = data()
    f, y = pixels(d, Plain(), batch_size=7)
    assert torch.equal(f, ((d.raw.float() / 255 - MEAN) / STD).reshape(len(d), -1))
    assert torch.equal(y, d.targets)


def test_bad_input_to_the_extraction_is_refused_in_one_sentence():
    with pytest.raises(HardlabError, match="'fp16'"):
        extract(net(), data(), Plain(), precision="fp16")
    with pytest.raises(HardlabError, match="no images"):
        extract(net(), data(0), Plain())
    with pytest.raises(HardlabError, match="at least 1, not 0"):
        extract(net(), data(), Plain(), batch_size=0)
    with pytest.raises(HardlabError, match="pool them first"):
        extract(nn.Conv2d(3, 2, 1), data(), Plain())


F2, Y2 = torch.eye(4), torch.tensor([0, 1, 0, 2])


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ((F2, torch.tensor([0, -1, 0, 2]), F2, Y2), "1 of 4 training samples have no label"),
        ((F2, Y2, F2, -torch.ones(4, dtype=torch.int64)), "4 of 4 test samples have no label"),
        ((F2, Y2, F2, torch.tensor([0, 1, 3, 4])), "test label 3, 4 never occurs"),
        ((F2, Y2, F2[:, :3], Y2), "4 columns and test features 3"),
        ((F2, Y2[:3], F2, Y2), "4 training features came with labels of shape"),
        ((F2[:0], Y2[:0], F2, Y2), "at least 1 sample"),
        ((F2, Y2 * 0 + 1, F2, Y2), "all 4 training samples have the label 1"),
        ((F2 * float("nan"), Y2, F2, Y2), "training features hold NaN"),
        ((F2, Y2, F2 / 0, Y2), "test features hold NaN or infinity"),
    ],
)
def test_features_that_cannot_be_evaluated_are_refused_in_one_sentence(case, sentence):
    with pytest.raises(HardlabError, match=sentence):
        check_features(*case)


def test_a_class_that_the_test_set_lacks_is_no_mistake():
    assert check_features(F2, Y2, F2, torch.zeros(4, dtype=torch.int64)) == 3
