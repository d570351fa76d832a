"""BigGAN's networks without classes, DiffAugment, and distances of generated images from real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hardlab import ranks, transfer
from hardlab.backbones import GAN_HALVES, check_gan
from hardlab.data import Images
from hardlab.nets import running_stats_frozen
from hardlab.numbers import Pixels, Units
from hardlab.types import Batch
from hardlab.views import Look

# channels in units of the width, from 4 x 4 pixels on for G, from the image on for D (BigGAN-PyTorch, G_arch, D_arch)
_G = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2)}
_D = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16)}
SHOWN, SAMPLES, CELLS = 64, 1000, 32  # of a report: images kept, images compared, cells of the coverage


# ------------------------------------------------------------------------------------------------------ spectral norm


class SpectralNorm(nn.Module):
    """W / sigma(W), sigma by power iteration with vectors that only ``iterate`` moves (arXiv 1802.05957, Alg. 1).

    torch's own parametrisation moves them in every forward pass in train mode; here a forward pass is pure, so that the
    order and number of passes change nothing. weight: (out,...), read as (out, rest).
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(rows.new_empty(rows.shape[0]).normal_(), dim=0))
        self.register_buffer("v", F.normalize(rows.new_empty(rows.shape[1]).normal_(), dim=0))
        if not weight.is_meta:  # the device `meta` has shapes alone, nothing to iterate on
            self.iterate(weight, 15)

    def forward(self, weight: Tensor) -> Tensor:
        return weight / torch.dot(self.u, weight.flatten(1).mv(self.v))

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """Bring u (out,) and v (rest,) closer to the first singular pair of ``weight``."""
        rows = weight.detach().flatten(1)
        for _ in range(times):
            self.v.copy_(F.normalize(rows.T.mv(self.u), dim=0))
            self.u.copy_(F.normalize(rows.mv(self.v), dim=0))


def spectral(net: nn.Module) -> nn.Module:
    """Put all convolutions and linear layers of ``net`` under spectral norm; returns ``net``."""
    for m in list(net.modules()):
        if isinstance(m, (nn.Conv2d, nn.Linear)) and not parametrize.is_parametrized(m):
            parametrize.register_parametrization(m, "weight", SpectralNorm(m.weight))
    return net


def iterate(net: nn.Module, times: int = 1) -> None:
    """Run power iterations of every spectral norm in ``net``; call it after the weights have moved."""
    for m in net.modules():
        if isinstance(m, parametrize.ParametrizationList):
            cast(SpectralNorm, m[0]).iterate(m.original, times)


def _init(net: nn.Module) -> None:
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(m.weight, 0, 0.02)  # BigGAN-PyTorch's N02, the setting of its CIFAR script


# ----------------------------------------------------------------------------------------------------------- networks


class _Up(nn.Module):
    """BN-ReLU-upsample-conv-BN-ReLU-conv, plus the upsampled input through a 1x1 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.bn1(x)), scale_factor=2))
        return self.conv2(F.relu(self.bn2(h))) + F.interpolate(self.skip(x), scale_factor=2)


class _Down(nn.Module):
    """(ReLU)-conv-ReLU-conv(-pool), plus the input through the same change of shape; the first block has no ReLU."""

    def __init__(self, before: int, after: int, down: bool, first: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if down or before != after else nn.Identity()
        self.first = first
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        # a 1x1 convolution and pooling commute; pooled first is cheaper
        return self.pool(h) + self.skip(self.pool(x))


class Generator(nn.Module):
    """(N,latent) normal numbers -> (N,3,size,size) in [-1,1]; BigGAN (arXiv 1809.11096), App. B, with plain BN.

    size: 32 or 64. width: channel multiplier, 64 as published, less for a CPU. latent: numbers an image starts from.
    """

    def __init__(self, size: int = 32, width: int = 64, latent: int = 128) -> None:
        super().__init__()
        check_gan(size)
        channels = [width * c for c in _G[size]]
        self.latent, self.size = latent, size
        self.start = nn.Linear(latent, 16 * channels[0])
        self.blocks = nn.Sequential(*[_Up(a, b) for a, b in pairwise(channels)])
        self.bn, self.last = nn.BatchNorm2d(channels[-1]), nn.Conv2d(channels[-1], 3, 3, padding=1)
        _init(self)
        spectral(self)

    def forward(self, z: Tensor) -> Tensor:
        x = self.blocks(self.start(z).view(len(z), -1, 4, 4))
        return torch.tanh(self.last(F.relu(self.bn(x))))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents (n,latent) on the device of the network, from torch's generator or the given one.

        Those from torch's are this rank's part of as many for each.
        """
        like = self.bn.weight
        if generator is None:
            return ranks.draw(lambda rows: torch.randn(rows, self.latent, device=like.device), n).to(like)
        return torch.randn(n, self.latent, generator=generator, device=generator.device).to(like)


class Trunk(nn.Module):
    """BigGAN's discriminator before its last layer: (N,3,S,S) in [-1,1] -> (N,D) features, summed over the pixels.

    size: 32 (four blocks of 4 * width channels, D = 4 * width) or 64 (five blocks, D = 16 * width). The caller adds
    spectral norm (``spectral``). BigGAN-PyTorch, BigGAN.py.
    """

    def __init__(self, size: Pixels = 32, width: Units = 64) -> None:
        super().__init__()
        check_gan(size)
        channels = [3, *(width * c for c in _D[size])]
        self.blocks = nn.Sequential(
            *[_Down(a, b, i < GAN_HALVES[size], i == 0) for i, (a, b) in enumerate(pairwise(channels))]
        )
        self.dim = channels[-1]
        _init(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.blocks(x)).sum((2, 3))


# -------------------------------------------------------------------------------------------------------- DiffAugment


def diffaugment(x: Tensor) -> Tensor:
    """Translation by up to 1/8 and a cutout of 1/2, drawn per image; (N,3,S,S) -> (N,3,S,S), differentiable.

    DiffAugment (arXiv 2006.10738), the CIFAR policy without colour of BigGAN's script; both leave zeros (mid-gray).
    """
    n, _, h, w = x.shape
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)

    def draw(low: int, high: int) -> Tensor:
        return ranks.draw(lambda rows: torch.randint(low, high + 1, (rows, 1), device=x.device), n)

    def outside(at: Tensor, extent: int) -> Tensor:
        side = int(extent * 0.5 + 0.5)
        start = draw(0, extent - side % 2) - side // 2  # (N,1): a cutout may hang over the border
        return (at < start) | (at >= start + side)

    high, wide = int(h / 8 + 0.5), int(w / 8 + 0.5)
    down = (rows + draw(-high, high) + high)[:, :, None]  # (N,H,1) into the padded image
    across = (columns + draw(-wide, wide) + wide)[:, None]  # (N,1,W)
    padded = F.pad(x, (wide, wide, high, high)).permute(0, 2, 3, 1)
    moved = padded[torch.arange(n, device=x.device)[:, None, None], down, across].permute(0, 3, 1, 2)
    keep = outside(rows, h)[:, :, None] | outside(columns, w)[:, None]  # (N,H,W)
    return moved * keep[:, None]


# --------------------------------------------------------------------------------------------- distances of the images


class Probe(nn.Module):
    """The fixed features of the distances below: a small convolutional network with random weights of seed 0.

    (N,3,S,S) in [-1,1] -> (N,112), the pixel means of its three layers. The same in every run, so that distances of
    different runs compare; a proxy of FID, whose Inception features it is not.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        with torch.random.fork_rng(devices=[]):  # a report consumes none of the run's random numbers
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairwise(widths))
            for layer in self.layers:
                nn.init.kaiming_normal_(cast(nn.Conv2d, layer).weight, nonlinearity="relu")

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        means = []
        for layer in self.layers:
            x = F.relu(layer(x))
            means.append(x.mean((2, 3)))
        return torch.cat(means, 1)


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to rows (N,D) and (M,D): FID (arXiv 1706.08500), Eq. 6.

    The trace of (A B)^1/2 is the sum of the singular values of A^1/2 B^1/2, which needs no root of a product.
    """
    a, b = a.double().cpu(), b.double().cpu()

    def root(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        return vectors * values.clamp_min(0).sqrt() @ vectors.T

    left, right = root(a), root(b)
    cross = torch.linalg.svdvals(left @ right).sum()
    between = (a.mean(0) - b.mean(0)).square().sum()
    return float((between + left.square().sum() + right.square().sum() - 2 * cross).clamp_min(0))


def coverage(real: Tensor, fake: Tensor, cells: int = CELLS) -> float:
    """The overlap, 0 to 1, of the histograms of real and generated images over the cells of some real images.

    real (N,D), fake (M,D). A row falls into the cell of the nearest of the first ``cells`` real rows.
    """
    centres = real[:cells]
    shares = [
        torch.cdist(x, centres).argmin(1).bincount(minlength=len(centres)).double() / len(x) for x in (real, fake)
    ]
    return float(torch.minimum(*shares).sum())


def real_images(raw: Tensor, sizes: Tensor, look: Look, size: int) -> Tensor:
    """Images (B,3,H,W) of a data set -> (B,3,size,size) in [-1,1], without augmentation."""
    x = look.plain(raw, sizes, size)
    mean, std = (transfer.constant(t, x)[:, None, None] for t in (look.mean, look.std))
    return (x * std + mean) * 2 - 1


@torch.no_grad()
def spread(net: Generator, n: int = 32) -> float:
    """Standard deviation of a pixel (-1 to 1) over ``n`` fixed latents, mean over pixels; 0 if all images are equal.

    Changes no state and draws no random numbers.
    """
    with running_stats_frozen(net):
        return float(net(net.sample(n, torch.Generator().manual_seed(0))).std(0).mean())


@torch.no_grad()
def report(
    nets: Mapping[str, Callable[[Tensor], Tensor]], like: Generator, images: Images, look: Look
) -> dict[str, Tensor]:
    """Images by generators from fixed latents, and their distances from the data.

    nets: name -> generator. like: one of them, for latents and size. Returns for every name: ``<name>`` (64,3,S,S)
    uint8, and scalars ``<name>_frechet`` and ``<name>_coverage`` over 1000 images, or all if there are fewer. Changes
    no state and draws no random numbers.
    """
    n = min(SAMPLES, len(images))
    fixed = torch.Generator().manual_seed(0)
    z = like.sample(n, fixed)
    rows = torch.randperm(len(images), generator=fixed)[:n]
    probe = Probe().to(z.device)
    # a batch of the whole sample would be decoded at once
    batches: list[Batch] = [b for part in rows.split(100) for b in images.batches(part[None])]
    real = torch.cat([probe(real_images(b.raw, b.sizes, look, like.size)) for b in batches])
    out = {}
    for name, net in nets.items():
        with running_stats_frozen(cast(nn.Module, net)):
            made = torch.cat([net(part) for part in z.split(SHOWN)])
        fake = probe(made)
        out[name] = ((made[:SHOWN] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        out[f"{name}_frechet"] = torch.tensor(frechet(real, fake))
        out[f"{name}_coverage"] = torch.tensor(coverage(real, fake))
    return out
