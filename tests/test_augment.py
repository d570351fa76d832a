"""The presets of the papers can be drawn and rendered."""

from __future__ import annotations

import pytest
import torch
from photos import MEAN, STD, draw, photos, rng

from hardlab.views import PRESETS, Look


def test_the_eval_preset_is_plain() -> None:
    look, raw = Look(PRESETS["eval"], MEAN, STD), photos(4, 64, 48)
    sizes = torch.tensor([[64, 48], [9, 40], [40, 9], [1, 1]])
    assert torch.equal(look.apply(raw, look.draw(sizes, 1, rng()))[:, 0], look.plain(raw, sizes))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_and_renders(name: str) -> None:
    for augment in PRESETS[name]:
        look = Look(augment, MEAN, STD)
        p = draw(look, 3, 48, 40)
        assert look.apply(photos(3, 48, 40), p, 24).isfinite().all()
        assert augment.size in (16, 20, 24, 28, 32, 96, 128, 160, 192, 224)
