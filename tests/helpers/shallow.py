"""A backbone of one convolution for tests of what is around a network, which passes through it many times."""

from __future__ import annotations

from torch import nn

from hardlab import nets
from hardlab.numbers import Units


class Shallow(nets.Tiny):
    """One convolution and its norm; a test puts it in the place of ``nets.Tiny``, which has its outputs."""

    def __init__(self, width: Units = 32) -> None:
        super().__init__(width)
        self.stem = nn.Sequential(nn.Conv2d(3, self.dim, 3, 2, bias=False), nn.BatchNorm2d(self.dim), nn.ReLU())
        self.body = nn.Sequential()
