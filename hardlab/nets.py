"""Backbones and heads. A backbone maps (N,3,S,S) to pooled features (N,D) and carries ``dim`` = D."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from hardlab.types import HardlabError


def _init(net: nn.Module, zero_init_residual: bool) -> None:
    """He initialisation as in torchvision's ResNet; the last BN of a residual block optionally starts at zero."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    if zero_init_residual:
        for m in net.modules():
            if isinstance(m, BasicBlock):
                nn.init.zeros_(m.bn2.weight)


class Tiny(nn.Module):
    """A three-stage basic-block ResNet for a CPU; ``width=16, blocks=3, stride=1`` is CIFAR's ResNet-20.

    (N,3,S,S) -> (N, 4 * width). stride: of the stem; 2 quarters the cost. He et al. (arXiv 1512.03385), Sec. 4.2.
    """

    def __init__(self, width: int = 32, blocks: int = 1, stride: int = 2, zero_init_residual: bool = False) -> None:
        super().__init__()
        if min(width, blocks, stride) < 1:
            raise HardlabError(f"A tiny network with width={width}, blocks={blocks}, stride={stride}: each at least 1.")
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        stages, previous = [], width
        for stage in range(3):
            planes = width * 2**stage
            for block in range(blocks):
                step = 2 if stage > 0 and block == 0 else 1
                change = step != 1 or previous != planes
                shortcut = (
                    nn.Sequential(nn.Conv2d(previous, planes, 1, step, bias=False), nn.BatchNorm2d(planes))
                    if change
                    else None
                )
                stages.append(BasicBlock(previous, planes, step, shortcut))
                previous = planes
        self.body = nn.Sequential(*stages)
        self.dim = previous
        _init(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))


def _torchvision_resnet(name: str, small_images: bool, zero_init_residual: bool) -> ResNet:
    """torchvision's network without its classifier, its keys unchanged; ``small_images``: 3x3 stem, no max-pool."""
    net = getattr(torchvision.models, name)(zero_init_residual=zero_init_residual)
    net.dim = net.fc.in_features
    net.fc = nn.Identity()
    if small_images:
        net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    return net


def resnet18(small_images: bool = True, zero_init_residual: bool = False) -> ResNet:
    """ResNet-18, (N,3,S,S) -> (N,512); ``small_images`` is the CIFAR stem of SimCLR, App. B.9."""
    return _torchvision_resnet("resnet18", small_images, zero_init_residual)


def resnet50(small_images: bool = False, zero_init_residual: bool = False) -> ResNet:
    """ResNet-50, (N,3,S,S) -> (N,2048)."""
    return _torchvision_resnet("resnet50", small_images, zero_init_residual)


def mlp(*dims: int, bn_output: bool = False, affine_output: bool = True, bias_output: bool = True) -> nn.Sequential:
    """Linear-BN-ReLU per hidden layer, then Linear, optionally with a last BN; (N,dims[0]) -> (N,dims[-1])."""
    if min(dims) < 1:
        raise HardlabError(f"A head with layers of {', '.join(map(str, dims))} units: each needs at least 1.")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(dims[:-1]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=bias_output))
    if bn_output:
        layers.append(nn.BatchNorm1d(dims[-1], affine=affine_output))
    return nn.Sequential(*layers)


class SplitBN(nn.BatchNorm2d):
    """BatchNorm whose batch is normalised in ``groups`` groups, image i in group i % groups, as on so many GPUs.

    (N,C,H,W) -> (N,C,H,W), N a multiple of groups. The running statistics take the mean of the groups' own;
    evaluation is plain BatchNorm, and so are the keys. ``SplitBatchNorm`` of MoCo's CIFAR notebook.
    """

    groups: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        n, c, h, w = x.shape
        assert self.running_mean is not None
        assert self.running_var is not None
        track = self.track_running_stats
        mean = self.running_mean.repeat(self.groups) if track else None
        var = self.running_var.repeat(self.groups) if track else None
        weight, bias = self.weight.repeat(self.groups), self.bias.repeat(self.groups)
        assert self.momentum is not None
        out = F.batch_norm(
            x.reshape(n // self.groups, self.groups * c, h, w), mean, var, weight, bias, True, self.momentum, self.eps
        )
        if mean is not None and var is not None:
            self.running_mean.copy_(mean.view(self.groups, c).mean(0))
            self.running_var.copy_(var.view(self.groups, c).mean(0))
        return out.view(n, c, h, w)


def split_bn(net: nn.Module, groups: int) -> nn.Module:
    """Turn every BatchNorm2d of ``net`` into a ``SplitBN`` of ``groups`` groups, in place; returns ``net``."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.__class__ = SplitBN
            cast(SplitBN, m).groups = groups
    return net


@contextmanager
def running_stats_frozen(net: nn.Module) -> Iterator[None]:
    """Batch statistics are used inside, and no BN buffer of ``net`` moves."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True
