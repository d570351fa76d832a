"""Views of an image: what is drawn (a row of parameters per view) and what it looks like (pixels, given the row).

Drawing and rendering are apart, so that a view can be logged, chosen, recoloured, rendered smaller or differentiated
through. The distribution is torchvision's (``RandomResizedCrop``, ``ColorJitter``, ...), the pixels are those of
``torchvision.transforms.v2.functional`` on float images; both are computed for a whole batch at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError, model_validator
from torch import Tensor

from hardlab.types import Batch, HardlabError, Views

PARAMS = (
    "image_h", "image_w", "top", "left", "height", "width", "flip", "brightness", "contrast", "saturation", "hue",
    "order", "gray", "sigma", "solarize",
)  # fmt: skip
COLOUR = slice(7, 15)
_AT = {name: i for i, name in enumerate(PARAMS)}
_FACTORS = slice(7, 11)

_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
_ORDERS = torch.tensor(list(permutations(range(4))))  # (24,4) over brightness, contrast, saturation, hue
_HUE_AT = (_ORDERS == 3).int().argmax(1)  # (24,) how many of the three blends come before hue
_BLENDS = _ORDERS[_ORDERS != 3].view(24, 3)  # (24,3) the blends in their order
_LUMA = (0.2989, 0.587, 0.114)
_TILE = 64 * 3 * 32 * 32  # values of one tile: small enough to stay in a core's cache from crop to normalisation


class Augment(BaseModel, frozen=True, extra="forbid"):
    """The distribution of one view.

    size: pixels of a side of the output. crop: ``first`` (before the appearance), ``last`` (after it, HNSSL's order)
    or ``none`` (the whole image). scale, ratio: area share and aspect ratio of the crop. jitter: strengths of
    brightness, contrast, saturation, hue, as in torchvision's ColorJitter. flip, jitter_p, gray, blur, solarize:
    probabilities, each drawn per sample. sigma: range of the blur in output pixels. kernel: taps of the blur; None =
    a tenth of the size, made odd. threshold: pixels from here on are inverted by solarize. Raises HardlabError.
    """

    size: int
    crop: Literal["first", "last", "none"] = "first"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    jitter_p: float = 0.8
    gray: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int | None = None
    solarize: float = 0.0
    threshold: float = 128 / 256

    @model_validator(mode="wrap")
    @classmethod
    def _plainly(cls, data: Any, handler: Any) -> Augment:
        try:
            made: Augment = handler(data)
        except ValidationError as error:
            first = error.errors()[0]
            name, fields = str(first["loc"][0] if first["loc"] else data), sorted(cls.model_fields)
            near = difflib.get_close_matches(name, fields, 1)
            said = f"did you mean {near[0]}? " if near and near[0] != name else ""
            raise HardlabError(
                f"augmentation: {name} = {first['input']!r}: {first['msg']}; {said}the fields are {', '.join(fields)}"
            ) from None
        for name in ("flip", "jitter_p", "gray", "blur", "solarize", "threshold"):
            made._require(0 <= getattr(made, name) <= 1, name, "between 0 and 1")
        made._require(made.size >= 1, "size", "at least 1 pixel")
        made._require(0 < made.scale[0] <= made.scale[1] <= 1, "scale", "two shares, 0 < low <= high <= 1")
        made._require(0 < made.ratio[0] <= made.ratio[1] < math.inf, "ratio", "two numbers, 0 < low <= high")
        made._require(0 < made.sigma[0] <= made.sigma[1] < math.inf, "sigma", "two numbers, 0 < low <= high")
        made._require(all(0 <= s < math.inf for s in made.jitter), "jitter", "four strengths of at least 0")
        made._require(made.jitter[3] <= 0.5, "jitter", "four strengths, hue at most 0.5")
        made._require(made.kernel is None or made.kernel > 0 and made.kernel % 2, "kernel", "odd, or None")
        return made

    def but(self, **changes: Any) -> Augment:
        """The same augmentation with some fields changed (checked, unlike ``model_copy``)."""
        return Augment(**(self.model_dump() | changes))

    def _require(self, ok: object, name: str, allowed: str) -> None:
        if not ok:
            raise HardlabError(f"augmentation: {name} = {getattr(self, name)} is not possible; it must be {allowed}")


def _presets() -> dict[str, tuple[Augment, ...]]:
    strong, mild = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1)
    simclr = Augment(size=224, jitter=strong, blur=0.5)
    moco = Augment(size=224, scale=(0.2, 1.0), jitter=mild, blur=0.5)
    cifar = {"size": 32, "blur": 0.0, "jitter": mild}
    dino = Augment(size=224, scale=(0.4, 1.0), interpolation="bicubic", jitter=(0.4, 0.4, 0.2, 0.1))
    presets = {
        "simclr": (simclr,),
        "simclr_cifar": (simclr.but(**cifar),),  # strength s = 0.5
        "moco": (moco,),
        "moco_cifar": (simclr.but(**cifar),),  # MoCo's notebook: torchvision's default area
        "simsiam": (moco.but(kernel=9),),  # HVS's code blurs with nine taps
        "simsiam_cifar": (moco.but(**cifar),),
        "hvs_simclr": (simclr.but(kernel=23),),
        "dino_global": (dino.but(blur=1.0), dino.but(blur=0.1, solarize=0.2)),
        "dino_local": (dino.but(size=96, scale=(0.05, 0.4), blur=0.5),),
        "deepcluster": (simclr,),
        "deepcluster_8": (simclr.but(scale=(0.14, 1.0)),),
        "deepcluster_local": (simclr.but(size=96, scale=(0.05, 0.14)),),
        "clae": (simclr.but(size=32, blur=0.0),),
        "ppcl": (simclr.but(**cifar),),
        "hnssl": (Augment(size=224, crop="last", scale=(0.8, 1.0), blur=0.1, sigma=(1.5, 1.5), kernel=3),),
        "eval": (Augment(size=32, crop="none", flip=0.0, jitter_p=0.0, gray=0.0),),
    }
    areas = {224: (0.2, 1.0), 192: (0.172, 0.86), 160: (0.143, 0.715), 128: (0.114, 0.571), 96: (0.086, 0.429)}
    return presets | {f"adco_{size}": (moco.but(size=size, scale=area),) for size, area in areas.items()}


PRESETS = _presets()


def _between(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return low + (high - low) * u


class Look:
    """Draws and renders views.

    augment: slot i draws from entry i % len; the entries may differ in what is drawn, not in how it is rendered
    (size, crop, interpolation, kernel, threshold), because a chosen view may move to another slot.
    mean, std: (3,) of pixels in [0,1]. Raises HardlabError.
    """

    def __init__(self, augment: Augment | Sequence[Augment], mean: Sequence[float], std: Sequence[float]) -> None:
        self.augment = (augment,) if isinstance(augment, Augment) else tuple(augment)
        if not self.augment:
            raise HardlabError("a look needs at least one augmentation, got none")
        for name in ("size", "crop", "interpolation", "kernel", "threshold"):
            found = sorted({str(getattr(a, name)) for a in self.augment})
            if len(found) > 1:
                raise HardlabError(f"the views of one look must share `{name}`, got {found}; make one look for each")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise HardlabError(f"mean {mean} and std {std} must be three numbers each, std above 0")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        # one row per entry: everything that `draw` needs, so that slots with different distributions draw at once
        self._table = torch.tensor(
            [
                [*a.scale, math.log(a.ratio[0]), math.log(a.ratio[1]), *a.ratio, a.crop == "none", a.flip]
                + [max(0.0, 1 - s) for s in a.jitter[:3]] + [-a.jitter[3]] + [1 + s for s in a.jitter[:3]] + [a.jitter[3]]
                + [a.jitter_p, a.gray, a.blur, *a.sigma, a.solarize]
                for a in self.augment
            ]
        )  # fmt: skip

    def draw(self, sizes: Tensor, views: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the parameters of ``views`` views of each image.

        sizes: (B,2) true height and width. Returns (B,V,P) float32 on the device of ``sizes``, columns ``PARAMS``.
        The numbers come from ``generator``, on its own device. Raises HardlabError.
        """
        if sizes.ndim != 2 or sizes.shape[1] != 2 or sizes.is_floating_point():
            raise HardlabError(f"sizes must be (B,2) whole numbers, got {tuple(sizes.shape)} {sizes.dtype}")
        if sizes.device.type == "cpu" and len(sizes) and sizes.min() < 1:  # on a GPU, looking would stall the queue
            raise HardlabError(f"an image of {sizes[sizes.amin(1).argmin()].tolist()} pixels has no view; at least 1 x 1")
        if views < 1:
            raise HardlabError(f"views = {views} is not possible; draw at least 1")
        u = self._uniform(len(sizes), views, 2 * _TRIES + 3, generator, sizes.device)
        look = self._rows(views, sizes.device)
        h, w = sizes.float()[:, None, :].expand(-1, views, -1).unbind(-1)  # (B,V)
        area = (h * w)[..., None] * _between(u[..., :_TRIES], look[..., 0:1], look[..., 1:2])
        aspect = _between(u[..., _TRIES : 2 * _TRIES], look[..., 2:3], look[..., 3:4]).exp()
        height, width = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()  # (B,V,tries)
        fits = (width > 0) & (width <= w[..., None]) & (height > 0) & (height <= h[..., None])
        fits &= look[..., 6:7] == 0
        first = fits.int().argmax(-1, keepdim=True)
        fits, height, width = (t.gather(-1, first)[..., 0] for t in (fits, height, width))
        # torchvision's way out after ten misses: the largest central crop of an allowed aspect ratio
        narrow, wide = (w / h < look[..., 4]) & ~(look[..., 6] > 0), (w / h > look[..., 5]) & ~(look[..., 6] > 0)
        height = torch.where(fits, height, torch.where(narrow, (w / look[..., 4]).round(), h))
        width = torch.where(fits, width, torch.where(wide, (h * look[..., 5]).round(), w))
        top = torch.where(fits, u[..., -3] * (h - height + 1), (h - height) / 2).floor()
        left = torch.where(fits, u[..., -2] * (w - width + 1), (w - width) / 2).floor()
        flip = (u[..., -1] < look[..., 7]).float()
        boxes = torch.stack((h, w, top, left, height, width, flip), -1)
        return torch.cat((boxes, self._appearance(len(sizes), views, generator, sizes.device)), -1)

    def apply(self, raw: Tensor, params: Tensor, size: int | None = None) -> Tensor:
        """Render views: crop, flip, resize, jitter, gray, blur, solarize, normalise.

        raw: (B,3,H,W) uint8, or float in [0,1] (a gradient flows to it). params: (B,V,P). size: another resolution than
        the augmentation's. Returns (B,V,3,S,S) float, each slot contiguous. Raises HardlabError.
        """
        size = self.augment[0].size if size is None else size
        if size < 1:
            raise HardlabError(f"size = {size} is not possible; it must be at least 1 pixel")
        if raw.ndim != 4 or raw.shape[1] != 3 or not (raw.dtype == torch.uint8 or raw.is_floating_point()):
            raise HardlabError(f"raw must be (B,3,H,W) uint8 or float, got {tuple(raw.shape)} {raw.dtype}")
        if params.ndim != 3 or params.shape[0] != len(raw) or params.shape[2] != len(PARAMS):
            raise HardlabError(f"params must be ({len(raw)},V,{len(PARAMS)}), got {tuple(params.shape)}")
        host = params.detach().cpu()  # the one look at values: which rows need hue, gray, blur, solarize
        far = host[..., 2:4] + host[..., 4:6]
        if ((host[..., 2:4] < 0) | (host[..., 4:6] < 1) | (far > host[..., :2])).any() or (
            host[..., :2] > torch.tensor(raw.shape[2:])
        ).any():
            raise HardlabError(f"a crop box leaves its image (the batch is {tuple(raw.shape[2:])} pixels)")
        step = max(1, _TILE // (3 * size * size * max(1, params.shape[1])))
        if raw.requires_grad or raw.device.type != "cpu":
            step = max(1, len(raw))
        tiles = [
            self._tile(raw[at : at + step], params[at : at + step], host[at : at + step], size)
            for at in range(0, max(1, len(raw)), step)
        ]
        return torch.cat(tiles, 1).transpose(0, 1)

    def views(self, batch: Batch, n: int, generator: torch.Generator | None = None) -> Views:
        """``n`` views of each image of the batch, drawn and not rendered; every image is a group of its own."""
        params = self.draw(batch.sizes, n, generator)
        group = torch.arange(len(batch.index), device=batch.index.device)
        return Views(batch.raw, batch.sizes, batch.index, group, params)

    def render(self, v: Views) -> Views:
        """The same views with pixels; a no-op where they are rendered."""
        return v if v.x is not None else replace(v, x=self.apply(v.raw, v.params))

    def plain(self, raw: Tensor, sizes: Tensor, size: int | None = None) -> Tensor:
        """(B,3,S,S) whole images, resized and normalised, without augmentation."""
        params = torch.zeros(len(raw), 1, len(PARAMS), device=raw.device)
        params[:, 0, 0:2] = params[:, 0, 4:6] = sizes.to(params)
        params[..., 7:10] = 1
        return self.apply(raw, params, size)[:, 0]

    def recolour(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B,V,P) with a fresh appearance (jitter, gray, blur, solarize) and the same crops and flips."""
        fresh = params.clone()
        fresh[..., COLOUR] = self._appearance(len(params), params.shape[1], generator, params.device)
        return fresh

    def _rows(self, views: int, device: torch.device) -> Tensor:
        return self._table[torch.arange(views) % len(self._table)].to(device, non_blocking=True)  # (V,K)

    @staticmethod
    def _uniform(b: int, v: int, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.rand(b, v, n, generator=generator, device=generator.device if generator else device).to(device)

    def _appearance(self, b: int, v: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(B,V,8) the columns ``COLOUR``."""
        u, look = self._uniform(b, v, 10, generator, device), self._rows(v, device)
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device)
        factors = torch.where(u[..., :1] < look[..., 16:17], _between(u[..., 1:5], look[..., 8:12], look[..., 12:16]), neutral)
        order = (u[..., 5:6] * 24).floor()
        gray = (u[..., 6:7] < look[..., 17:18]).float()
        sigma = torch.where(u[..., 7:8] < look[..., 18:19], _between(u[..., 8:9], look[..., 19:20], look[..., 20:21]), 0.0)
        return torch.cat((factors, order, gray, sigma, (u[..., 9:10] < look[..., 21:22]).float()), -1)

    def _tile(self, raw: Tensor, params: Tensor, host: Tensor, size: int) -> Tensor:
        """Render some images: raw (b,3,H,W), params and host (b,V,P) -> (V,b,3,S,S)."""
        b, v, look = len(raw), params.shape[1], self.augment[0]
        dtype = raw.dtype if raw.is_floating_point() else torch.float32
        p, host, unit = params.flatten(0, 1).to(dtype), host.flatten(0, 1), 1.0 if raw.is_floating_point() else 1 / 255
        kernel = look.kernel or max(3, size // 10 // 2 * 2 + 1)
        cubic = look.interpolation == "bicubic"
        down = _resample(p[:, 2], p[:, 4], raw.shape[2], size, cubic)  # (b*V,S,H)
        across = _resample(p[:, 3], p[:, 5], raw.shape[3], size, cubic, p[:, 6]).transpose(1, 2)  # (b*V,W,S)
        if look.crop == "last":
            # padding is put to 0, so that it adds nothing to the mean of contrast
            rows, columns = (torch.arange(n, device=raw.device) < p[:, i, None] for i, n in enumerate(raw.shape[2:]))
            whole = (raw.to(dtype) * unit).repeat_interleave(v, 0) * (rows[:, :, None] & columns[:, None, :])[:, None]
            x = _appear(whole.transpose(0, 1).contiguous(), p, host, p[:, :2], kernel, look.threshold)
            x = torch.stack([torch.bmm(torch.bmm(down, c), across) for c in x])
        else:
            wide = raw.permute(0, 2, 1, 3).to(dtype, memory_format=torch.contiguous_format).flatten(2)  # (b,H,3W)
            half = torch.bmm((down * unit).view(b, v * size, -1), wide).view(b * v, size, 3, -1)
            x = torch.stack([torch.bmm(half[:, :, c], across) for c in range(3)])  # (3,b*V,S,S)
            if cubic:
                x = x.clamp(0, 1)  # as the 8-bit pipelines do: the cubic kernel overshoots
            area = torch.full((len(p), 2), float(size), device=raw.device, dtype=dtype)
            x = _appear(x, p, host, area, kernel, look.threshold)
        if cubic and look.crop == "last":
            x = x.clamp(0, 1)
        mean, std = (torch.tensor(t, device=raw.device, dtype=dtype).view(3, 1, 1, 1) for t in (self.mean, self.std))
        x = x.sub_(mean).div_(std)
        return x.view(3, b, v, size, size).permute(2, 1, 0, 3, 4)


def _resample(
    start: Tensor, length: Tensor, n: int, size: int, cubic: bool, flip: Tensor | None = None
) -> Tensor:
    """Weights (N,S,n) that turn ``n`` source pixels into ``size`` pixels of the crop [start, start + length).

    Antialiased triangle or cubic (a = -0.5) kernel, normalised over the pixels inside the crop, as ATen does.
    """
    scale = (length / size)[:, None]
    centre = (torch.arange(size, device=start.device, dtype=start.dtype) + 0.5) * scale  # (N,S) in the crop's pixels
    if flip is not None:
        centre = torch.where(flip[:, None] > 0, length[:, None] - centre, centre)
    pixel = torch.arange(n, device=start.device, dtype=start.dtype) + 0.5 - start[:, None]  # (N,n)
    inside = ((pixel > 0) & (pixel < length[:, None])).to(start.dtype)
    d = (pixel[:, None, :] - centre[:, :, None]).abs_().div_(scale.clamp_min(1.0)[:, :, None])  # (N,S,n)
    if cubic:
        near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
        weight = torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
    else:
        weight = (1 - d).clamp_(min=0)
    weight *= inside[:, None, :]
    return weight.div_(weight.sum(-1, keepdim=True))


def _appear(x: Tensor, p: Tensor, host: Tensor, extent: Tensor, kernel: int, threshold: float) -> Tensor:
    """Colour jitter in each sample's order, gray, blur, solarize; x (3,N,h,w), of which ``extent`` (N,2) is image."""
    shape = x.shape
    x = x.flatten(2)  # (3,N,h*w)

    def rows(mask: Tensor) -> Tensor:
        return mask.nonzero()[:, 0].to(x.device, non_blocking=True)

    order = host[:, _AT["order"]].long()
    hue, hue_at = host[:, _AT["hue"]], _HUE_AT[order]
    if (host[:, _FACTORS] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any():
        blends = _BLENDS[order].to(x.device, non_blocking=True)  # (N,3)
        factors = p[:, 7:10].gather(1, blends)
        pixels = extent.prod(1, keepdim=True)
        for at in range(4):
            x = _on(x, rows((hue_at == at) & (hue != 0)), lambda some, i: _hue(some, p[i, _AT["hue"], None]))
            if at < 3:
                f, kind = factors[:, at, None], blends[:, at, None]
                gray = _luma(x)  # (N,h*w)
                mean = gray.sum(1, keepdim=True) / pixels * (1 - f) * (kind == 1)
                x = (x * f).add_(torch.addcmul(mean, gray, (1 - f) * (kind == 2))).clamp_(0, 1)
    x = _on(x, rows(host[:, _AT["gray"]] > 0), lambda some, i: _luma(some).expand_as(some))
    blurred = rows(host[:, _AT["sigma"]] > 0)
    if len(blurred):
        sigma, ends = p[blurred, _AT["sigma"]], extent[blurred]
        down, across = (_blur(sigma, ends[:, i], shape[2 + i], kernel) for i in range(2))
        x = _on(
            x, blurred, lambda some, i: torch.stack(
                [torch.bmm(torch.bmm(down, c.unflatten(1, shape[2:])), across.mT).flatten(1) for c in some]
            )
        )  # fmt: skip
    x = _on(x, rows(host[:, _AT["solarize"]] > 0), lambda some, i: torch.where(some >= threshold, 1 - some, some))
    return x.unflatten(2, shape[2:])


def _on(x: Tensor, rows: Tensor, change: Any) -> Tensor:
    """x (3,N,P) with ``change`` done to some rows only."""
    return x.index_copy(1, rows, change(x.index_select(1, rows), rows)) if len(rows) else x


def _luma(x: Tensor) -> Tensor:
    return (x[0] * _LUMA[0]).add_(x[1], alpha=_LUMA[1]).add_(x[2], alpha=_LUMA[2])


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of (3,N,P) by ``shift`` (N,1) of a full circle."""
    r, g, b = x
    high = torch.maximum(torch.maximum(r, g), b)
    span = high - torch.minimum(torch.minimum(r, g), b)
    over = 1 / torch.where(span > 0, span, 1.0)
    sector = torch.where(r == high, (g - b) * over, torch.where(g == high, (b - r) * over + 2, (r - g) * over + 4))
    sector = sector + 6 * shift
    # channel = v - v s clamp(min(k, 4 - k), 0, 1) with k = (n + sector) mod 6 and n = 5, 3, 1 for red, green, blue
    out = []
    for n in (5, 3, 1):
        k = (sector + n).remainder(6)
        out.append(high - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(out)


def _blur(sigma: Tensor, length: Tensor, n: int, kernel: int) -> Tensor:
    """(N,n,n) matrices of a Gaussian of ``kernel`` taps on the first ``length`` pixels, mirrored at both ends."""
    tap = torch.arange(kernel, device=sigma.device) - kernel // 2
    weight = torch.softmax(-0.5 * (tap / sigma[:, None]) ** 2, 1)  # (N,K)
    last = (length.long() - 1)[:, None, None]
    at = (torch.arange(n, device=sigma.device)[:, None] + tap).abs() % (2 * last).clamp_min(1)  # (N,n,K)
    at = torch.minimum(torch.where(at > last, 2 * last - at, at), last)
    return sigma.new_zeros(len(sigma), n, n).scatter_add_(2, at, weight[:, None].expand(-1, n, -1))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two crop boxes, in pixels of the source image: (...,P),(...,P) -> (...)."""
    low, high = torch.maximum(a[..., 2:4], b[..., 2:4]), torch.minimum(_far(a), _far(b))
    both = (high - low).clamp_min(0).prod(-1)
    return both / (a[..., 4:6].prod(-1) + b[..., 4:6].prod(-1) - both)


def _far(p: Tensor) -> Tensor:
    return p[..., 2:4] + p[..., 4:6]


def centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of the centres of two crops in image diagonals (HVS's text; its code takes the top-left corners)."""
    apart = (a[..., 2:4] + a[..., 4:6] / 2) - (b[..., 2:4] + b[..., 4:6] / 2)
    return apart.norm(dim=-1) / a[..., :2].norm(dim=-1)


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the four jitter factors, a view without jitter counting as 1,1,1,0 (HVS)."""
    return (a[..., _FACTORS] - b[..., _FACTORS]).norm(dim=-1)
