"""Transfers between host and device: what may be read at once, and numbers on the device of a tensor."""

from __future__ import annotations

import pytest
import torch

from hardlab.transfer import constant, on_host


def test_only_values_on_the_host_may_be_read() -> None:
    assert on_host(torch.zeros(2))
    assert not on_host(torch.zeros(2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_numbers_take_the_type_and_the_device_of_the_tensor_beside_them(dtype: torch.dtype) -> None:
    like, values = torch.zeros(1, dtype=dtype), [3, 1, 2]
    assert torch.equal(constant(values, like), like.new_tensor(values))
    assert constant(values, like).dtype == dtype
    assert constant(values, torch.zeros(1, device="meta")).device.type == "meta"
