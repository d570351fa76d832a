"""Between host and device: what can be read without waiting, and how numbers get to a device without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def on_host(x: Tensor) -> bool:
    """Whether the values of ``x`` can be read at once; those on a GPU only when it has done all it was given before.

    Where it is False, code takes a way whose shapes do not depend on values.
    """
    return x.device.type == "cpu"


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """Numbers as a tensor on the device of ``like``, of its type; ``like.new_tensor(values)`` would wait there."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
