"""Views that come together."""

from __future__ import annotations

import torch
from steps import rendered


def test_images_of_different_sizes_are_padded_when_they_come_together():
    a, b = (rendered(torch.ones(2, 1, 3, s, s)) for s in (4, 6))
    a, b = (v.drawn() for v in (a, b))
    both = a.append(b)
    assert both.raw.shape == (4, 3, 6, 6)
    assert both.raw[:2].sum() == 2 * 3 * 16
    assert both.group.tolist() == [0, 1, 2, 3]
