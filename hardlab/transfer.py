"""Transfers between host and device that do not synchronise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_WITHOUT_VALUES: ContextVar[bool] = ContextVar("_WITHOUT_VALUES", default=False)


@contextmanager
def without_values() -> Iterator[None]:
    """Inside, no value is on the host: tensors have shapes alone, and stand for those of a GPU (`workbook.memory`)."""
    before = _WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        _WITHOUT_VALUES.reset(before)


def on_host(x: Tensor) -> bool:
    """Whether the values of ``x`` can be read at once; reading from a GPU waits until it has done all earlier work.

    If False, code must use shapes that do not depend on values.
    """
    return x.device.type == "cpu" and not _WITHOUT_VALUES.get()


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """Numbers as a tensor with the device and type of ``like``; ``like.new_tensor(values)`` would synchronise."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def sent(x: Tensor, like: Tensor) -> Tensor:
    """A tensor of the host on the device of ``like``, by memory from which a GPU copies while the host goes on."""
    return (x.pin_memory() if like.is_cuda else x).to(like.device, non_blocking=True)
