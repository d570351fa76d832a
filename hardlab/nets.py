"""Backbones and heads. A backbone maps (N,3,S,S) to pooled features (N,D) and has the attribute ``dim`` = D."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import StochasticDepth

from hardlab import ranks
from hardlab.backbones import check_patches
from hardlab.numbers import Factor, Layers, Momentum, Pixels, Units
from hardlab.types import HardlabError


def _init(net: nn.Module, zero_init_residual: bool) -> None:
    """He initialisation as in torchvision's ResNet; the last BN of a residual block optionally starts at zero."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    if zero_init_residual:
        for m in net.modules():
            if isinstance(m, (BasicBlock, Bottleneck)):
                nn.init.zeros_((m.bn3 if isinstance(m, Bottleneck) else m.bn2).weight)


class Tiny(nn.Module):
    """A three-stage basic-block ResNet for a CPU; ``width=16, blocks=3, stride=1`` is CIFAR's ResNet-20.

    (N,3,S,S) -> (N, 4 * width). stride: of the stem; 2 quarters the cost. recompute: as `recomputing`. He et al. (arXiv
    1512.03385), Sec. 4.2.
    """

    def __init__(
        self,
        width: Units = 32,
        blocks: Layers = 1,
        stride: Factor = 2,
        zero_init_residual: bool = False,
        recompute: bool = False,
    ) -> None:
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
        if recompute:
            recomputing(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))


class WidthResNet(ResNet):
    """torchvision's ResNet with every number of channels times ``width``, its keys unchanged, without a classifier.

    (N,3,S,S) -> (N, 512 * width), or 2048 * width with bottlenecks. All channels grow, as in SimCLR (Sec. 4.1) and
    BYOL; torchvision's ``wide_resnet50_2`` widens the middle of the bottlenecks only. small_images: a 3x3 stem of
    stride 1 and no max-pool (SimCLR, App. B.9). zero_init_residual: the last BN of a block starts at zero.
    recompute: as `recomputing`.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        width: int,
        small_images: bool,
        zero_init_residual: bool,
        recompute: bool,
    ) -> None:
        nn.Module.__init__(self)
        if width < 1:
            raise HardlabError(f"A ResNet of width={width}: the factor of all channels is at least 1.")
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = 64 * width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, 64 * width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        for stage, blocks in enumerate(layers):
            planes = 64 * width * 2**stage
            self.add_module(f"layer{stage + 1}", self._make_layer(block, planes, blocks, stride=1 + (stage > 0)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dim = self.inplanes
        nn.Linear(self.dim, 1000)  # drawn and discarded, so that a seed gives the same weights as in torchvision
        self.fc = nn.Identity()
        _init(self, zero_init_residual)
        if small_images:
            self.conv1 = nn.Conv2d(3, 64 * width, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if recompute:
            recomputing(self)


def resnet18(
    small_images: bool = True, zero_init_residual: bool = False, width: Factor = 1, recompute: bool = False
) -> ResNet:
    """ResNet-18, (N,3,S,S) -> (N, 512 * width); ``small_images`` is the CIFAR stem of SimCLR, App. B.9."""
    return WidthResNet(BasicBlock, [2, 2, 2, 2], width, small_images, zero_init_residual, recompute)


def resnet50(
    small_images: bool = False, zero_init_residual: bool = False, width: Factor = 1, recompute: bool = False
) -> ResNet:
    """ResNet-50, (N,3,S,S) -> (N, 2048 * width)."""
    return WidthResNet(Bottleneck, [3, 4, 6, 3], width, small_images, zero_init_residual, recompute)


def resnet50x2(small_images: bool = False, zero_init_residual: bool = False, recompute: bool = False) -> ResNet:
    """ResNet-50 (2x) of SimCLR and BYOL, (N,3,S,S) -> (N,4096)."""
    return resnet50(small_images, zero_init_residual, 2, recompute)


def resnet50x4(small_images: bool = False, zero_init_residual: bool = False, recompute: bool = False) -> ResNet:
    """ResNet-50 (4x) of SimCLR and BYOL, (N,3,S,S) -> (N,8192)."""
    return resnet50(small_images, zero_init_residual, 4, recompute)


def resnet200(
    small_images: bool = False, zero_init_residual: bool = False, width: Factor = 1, recompute: bool = False
) -> ResNet:
    """ResNet-200, (N,3,S,S) -> (N, 2048 * width); its 2x form is BYOL's largest. He et al. (arXiv 1603.05027)."""
    return WidthResNet(Bottleneck, [3, 24, 36, 3], width, small_images, zero_init_residual, recompute)


class Attention(nn.Module):
    """Multi-head self-attention, (N,T,D) -> (N,T,D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (N,heads,T,D/heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))


class DropPath(StochasticDepth):
    """Stochastic depth per row; in several processes, of the rows of the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if ranks.size() == 1 or not self.training or not self.p:
            return super().forward(x)
        ones = [1] * (x.ndim - 1)
        kept = ranks.draw(lambda n: x.new_empty(n, *ones).bernoulli_(1 - self.p), len(x))
        return x * kept / (1 - self.p)


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth per sample, (N,T,D) -> (N,T,D)."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim)))
        self.drop_path = DropPath(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """DINO's vision transformer, with the keys of its code: (N,3,S,S) -> (N,dim), the last [CLS] after the norm.

    DINO (arXiv 2104.14294), Sec. 3.2; vision_transformer.py of its code.

    dim, depth, heads: of the blocks.
    patch: its side in pixels.
    size: image size of the position embedding, which is interpolated (bicubic) for other sizes.
    drop_path: of the last block, falling linearly to 0 at the first; a teacher sets it to 0.
    recompute: as `recomputing`.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, patch: int, size: int, drop_path: float, recompute: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise HardlabError(f"A ViT with drop_path={drop_path}: it is a probability below 1; DINO takes 0.1.")
        check_patches(patch, size)
        self.dim, self.patch, self.side = dim, patch, size // patch
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, patch)))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.side**2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, drop_path * i / max(1, depth - 1)) for i in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for p in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(p, std=0.02)
        for m in self.blocks.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)
        if recompute:
            recomputing(self)

    def positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding (1, 1 + rows * columns, dim) of [CLS] and a grid of patches."""
        if (rows, columns) == (self.side, self.side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].view(1, self.side, self.side, self.dim).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (rows, columns), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT.to(self.pos_embed.dtype)], 1)

    def tokens(self, x: Tensor, masked: Tensor | None = None, fill: Tensor | None = None) -> Tensor:
        """(N,3,S,S) -> (N,1+T,dim): [CLS] and the patches, with their positions.

        masked: (N,T) bool, the patches that ``fill`` (dim,) stands for, before positions are added.
        """
        patches = self.patch_embed(x)  # (N,dim,rows,columns)
        positions = self.positions(*patches.shape[2:])
        flat = patches.flatten(2).mT
        if masked is not None and fill is not None:
            flat = torch.where(masked[..., None], fill.to(flat.dtype), flat)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), flat], 1) + positions

    def every_token(self, x: Tensor, masked: Tensor | None = None, fill: Tensor | None = None) -> Tensor:
        """(N,3,S,S) -> (N,1+T,dim): what the last block makes of [CLS] and of each patch, after the norm."""
        x = self.tokens(x, masked, fill)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last_blocks(self, x: Tensor, n: int) -> Tensor:
        """(N,3,S,S) -> (N, n * dim): the [CLS] of the last n blocks after the norm, which DINO's linear probe reads."""
        tokens, x = [], self.tokens(x)
        for left, block in zip(range(len(self.blocks) - 1, -1, -1), self.blocks, strict=True):
            x = block(x)
            if left < n:
                tokens.append(self.norm(x[:, 0]))
        return torch.cat(tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_blocks(x, 1)


class _Recomputing(nn.Module):
    """A block that keeps its input alone and computes the rest again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return cast(Tensor, super().forward(x))
        contexts = nullcontext(), _AsNow(self)
        return cast(Tensor, checkpoint(super().forward, x, use_reentrant=False, context_fn=lambda: contexts))


class _RecomputingBasicBlock(_Recomputing, BasicBlock):
    pass


class _RecomputingBottleneck(_Recomputing, Bottleneck):
    pass


class _RecomputingTransformerBlock(_Recomputing, Block):
    pass


_RECOMPUTING: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: _RecomputingBasicBlock,
    Bottleneck: _RecomputingBottleneck,
    Block: _RecomputingTransformerBlock,
}


def recomputing(net: nn.Module) -> nn.Module:
    """Let each block of ``net`` keep only its input for the backward pass, in place; returns ``net``.

    The backward pass computes a block's other activations again, with the same random numbers and without moving BN
    statistics, so that gradients are the same bit for bit; a step takes about a third longer. Chen et al. (arXiv
    1604.06174).
    """
    for m in net.modules():
        m.__class__ = _RECOMPUTING.get(type(m), type(m))
    return net


class _AsNow:
    """A context in which ``block`` computes what it computes now, and after which its buffers are as before.

    Until the backward pass, other code may set modes, freeze statistics, or switch the norms between their two sets.
    It may be entered again, for a second backward pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.now = self._states()

    def _states(self) -> list[tuple[nn.Module, dict[str, Any]]]:
        names = ("training", "track_running_stats", "forward")
        return [(m, {n: m.__dict__[n] for n in names if n in m.__dict__}) for m in self.block.modules()]

    @staticmethod
    def _put(states: list[tuple[nn.Module, dict[str, Any]]]) -> None:
        for m, values in states:
            m.__dict__.pop("forward", None)
            m.__dict__.update(values)

    def __enter__(self) -> None:
        self.before, self.buffers = self._states(), [(b, b.clone()) for b in self.block.buffers()]
        self._put(self.now)

    def __exit__(self, *_: object) -> None:
        self._put(self.before)
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        del self.before, self.buffers


def vit_micro(patch: Pixels = 4, size: Pixels = 32, drop_path: Momentum = 0.0, recompute: bool = False) -> ViT:
    """A ViT for tests and a CPU, not a published size: 96 wide, 4 blocks, 3 heads; 32 px in patches of 4."""
    return ViT(96, 4, 3, patch, size, drop_path, recompute)


def vit_tiny(patch: Pixels = 16, size: Pixels = 224, drop_path: Momentum = 0.0, recompute: bool = False) -> ViT:
    """ViT-Ti, (N,3,S,S) -> (N,192); ``patch=4, size=32`` for CIFAR."""
    return ViT(192, 12, 3, patch, size, drop_path, recompute)


def vit_small(patch: Pixels = 16, size: Pixels = 224, drop_path: Momentum = 0.0, recompute: bool = False) -> ViT:
    """ViT-S, (N,3,S,S) -> (N,384)."""
    return ViT(384, 12, 6, patch, size, drop_path, recompute)


def vit_base(patch: Pixels = 16, size: Pixels = 224, drop_path: Momentum = 0.0, recompute: bool = False) -> ViT:
    """ViT-B, (N,3,S,S) -> (N,768)."""
    return ViT(768, 12, 12, patch, size, drop_path, recompute)


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
    """BatchNorm that normalises a batch in ``groups`` groups, image i in group i % groups, as several GPUs would.

    (N,C,H,W) -> (N,C,H,W), N a multiple of groups. The running statistics average those of the groups; in eval mode,
    and in its keys, it is plain BatchNorm. ``SplitBatchNorm`` of MoCo's CIFAR notebook. Several processes share the
    groups out, each of which lies in one of them: every process normalises as many.
    """

    groups: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        n, c, h, w = x.shape
        groups = self.groups // ranks.size()  # row i of a batch is in rank i % size, so a group is in one rank
        assert self.running_mean is not None
        assert self.running_var is not None
        track = self.track_running_stats
        mean = self.running_mean.repeat(groups) if track else None
        var = self.running_var.repeat(groups) if track else None
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        assert self.momentum is not None
        out = F.batch_norm(
            x.reshape(n // groups, groups * c, h, w), mean, var, weight, bias, True, self.momentum, self.eps
        )
        if mean is not None and var is not None:
            self.running_mean.copy_(mean.view(groups, c).mean(0))
            self.running_var.copy_(var.view(groups, c).mean(0))
        return out.view(n, c, h, w)


def split_bn(net: nn.Module, groups: int) -> nn.Module:
    """Replace every BatchNorm2d of ``net`` by a ``SplitBN`` of ``groups`` groups, in place; returns ``net``."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.__class__ = SplitBN
            cast(SplitBN, m).groups = groups
    return net


def whole_bn(net: nn.Module) -> nn.Module:
    """Undo ``split_bn`` in place, so that batches may have any size after pre-training; returns ``net``."""
    for m in net.modules():
        if isinstance(m, SplitBN):
            m.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # the type before split_bn
    return net


class _Normalised(torch.autograd.Function):
    """x (N,C,...) normalised over the rows of all ranks, with their mean (C,) and variance (C,); keeps x alone.

    By the kernels of torch's own norms: sums of one rank's rows, and normalising by given statistics.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        # running statistics that nobody reads: their type is that of the sums, float32 for bf16
        unread = x.new_zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        mean, var = torch.ops.aten.batch_norm_update_stats(x, *unread, 0.0)
        means, variances = ranks.whole(torch.stack([mean, var])[None]).unbind(1)  # (size,C) each
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.size, ctx.offset = eps, ranks.size(), bias is not None
        ctx.mark_non_differentiable(mean, var)
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0], mean, var

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        given = (x, weight, mean, var, None, None, False, ctx.eps, [True, True, True])
        back, *own = torch.ops.aten.native_batch_norm_backward(outer[0], *given)  # as if the statistics were constant
        sums = torch.stack(own)  # (2,C); weights sum up own rows: their gradients are averaged with all others
        dist.all_reduce(sums)  # not by `ranks`: a GPU's backward pass runs in a thread that has joined nobody
        scale = (var + ctx.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        slope, level = sums * (scale * x.shape[1] / (ctx.size * x.numel()))
        back -= torch.native_batch_norm(x, slope, level, mean, var, False, 0.0, ctx.eps)[0]
        return back, None if weight is None else own[0], own[1] if ctx.offset else None, None


class _Synchronised(_BatchNorm):
    """BatchNorm over the rows of all ranks: (N,C,...) -> (N,C,...), N the rows of this one.

    torch's ``SyncBatchNorm`` has no form for a CPU. The mean and the variance of each rank are exchanged, and in the
    backward pass the sums of the gradients. In eval mode and in its keys, it is plain BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        here = self.training or self.running_mean is None
        if ranks.size() == 1 or not here:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.autocast(x.device.type, enabled=False):
            y, mean, var = _Normalised.apply(x, self.weight, self.bias, self.eps)
        self._follow(mean, var, ranks.size() * x.numel() // x.shape[1])
        return y

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        if not (self.training and self.track_running_stats) or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), share)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d):
    pass


class _Synchronised2d(_Synchronised, nn.BatchNorm2d):
    pass


_TOGETHER: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: _Synchronised1d, nn.BatchNorm2d: _Synchronised2d}


def synchronise_bn(net: nn.Module) -> None:
    """Let every BatchNorm of ``net`` normalise over all ranks, in place; norms in groups stay as they are."""
    for m in net.modules():
        m.__class__ = _TOGETHER.get(type(m), type(m))


def check_groups(net: nn.Module) -> None:
    """Refuse norms in groups that the ranks cannot share out. Raises HardlabError."""
    for m in net.modules():
        if isinstance(m, SplitBN) and m.groups % ranks.size():
            raise HardlabError(
                f"Norms in {m.groups} groups do not split over {ranks.size()} processes: take method.groups="
                f"{max(1, round(m.groups / ranks.size())) * ranks.size()} or method.bn=plain."
            )


def average_running_stats(net: nn.Module) -> None:
    """Set the running statistics of norms that see one rank's rows alone to their means over the ranks, in place."""
    if ranks.size() == 1:
        return
    stats = [
        s
        for m in net.modules()
        if isinstance(m, _BatchNorm) and not isinstance(m, _Synchronised)
        for s in (m.running_mean, m.running_var)
        if s is not None
    ]
    for s, of_all in zip(stats, ranks.averaged(stats), strict=True):
        assert of_all is not None
        s.copy_(of_all)


@contextmanager
def running_stats_frozen(net: nn.Module) -> Iterator[None]:
    """Inside, ``net`` uses batch statistics, and none of its BN buffers moves."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True


def give_auxiliary(net: nn.Module, kind: type[nn.Module] = _BatchNorm, momentum: float = 0.1) -> None:
    """Give each norm of ``net`` a second set of BN parameters and statistics, ``<norm>.aux``, if it has none yet.

    It starts as a copy of the main set, whose keys stay the same. Parts of ``net`` without gradient, such as momentum
    networks, keep a single set. kind: the class of norms. momentum: of the second running statistics. AdvProp
    (arXiv 1911.09665), Sec. 4.1.
    """
    trained = [part for part in net.children() if any(p.requires_grad for p in part.parameters())]
    for name, norm in [named for part in trained for named in part.named_modules()]:
        if isinstance(norm, kind) and name.rpartition(".")[2] != "aux" and not hasattr(norm, "aux"):
            second = copy.deepcopy(norm)
            second.momentum = momentum  # type: ignore[assignment]  # every kind of batch norm has one
            norm.aux = second


@contextmanager
def auxiliary(net: nn.Module) -> Iterator[None]:
    """Inside, norms of ``net`` with a second set use it, and the main set does not change."""
    # an attribute of each norm, so that other networks, also those of other threads, are unaffected
    norms = [m for m in net.modules() if "aux" in m._modules and "forward" not in m.__dict__]
    for m in norms:
        m.__dict__["forward"] = m.get_submodule("aux").forward
    try:
        yield
    finally:
        for m in norms:
            del m.__dict__["forward"]


def auxiliary_gap(net: nn.Module) -> float:
    """Mean absolute difference of the two sets' running means over all channels; 0 without second sets."""
    gaps = [
        (m.running_mean - m.aux.running_mean).abs()  # type: ignore[operator, union-attr]
        for m in net.modules()
        if isinstance(m, _BatchNorm) and "aux" in m._modules and m.running_mean is not None
    ]
    return float(torch.cat(gaps).mean()) if gaps else 0.0
