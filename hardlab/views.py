"""Views of images: drawing a row of parameters per view, and rendering the pixels from it.

The two are separate, so that a view can be logged, chosen, recoloured, rendered smaller or differentiated through. The
distribution is torchvision's (``RandomResizedCrop``, ``ColorJitter``, ...), and the pixels are those of
``torchvision.transforms.v2.functional`` on float images; both are computed for a whole batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab import ranks, transfer
from hardlab.augment import COLOUR as COLOUR
from hardlab.augment import PARAMS as PARAMS
from hardlab.augment import PRESETS as PRESETS
from hardlab.augment import Augment as Augment
from hardlab.types import Batch, Drawn, HardlabError, Rendered

_AT = {name: i for i, name in enumerate(PARAMS)}
_FACTORS = slice(7, 11)

_TRIES = 10  # tries before torchvision's RandomResizedCrop gives up
_ORDERS = torch.tensor(list(permutations(range(4))))  # (24,4) over brightness, contrast, saturation, hue
_HUE_AT = (_ORDERS == 3).int().argmax(1)  # (24,) the number of blends before hue
_BLENDS = _ORDERS[_ORDERS != 3].view(24, 3)  # (24,3) the order of the three blends
_NO_HUE, _NO_JITTER = 4, 5  # stages without a change of hue, without jitter
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # brightness, contrast, saturation, hue of a view without jitter
# pixels to render at once: on a CPU they stay in a core's cache from start to end, elsewhere this bounds memory
_TILE, _TILE_GPU = 256 * 32 * 32, 2**25
_LARGE = 128 * 128  # pixels of an image above which a CPU resizes crops one by one, instead of by products of matrices


class Look:
    """Draws and renders views.

    augment: slot i draws from entry i % len; the entries may differ in what is drawn, not in how it is rendered (size,
        crop, interpolation, kernel, threshold), because a chosen view may move to another slot.
    mean, std: (3,) of pixels in [0,1].
    local: the same for the small crops of a multi-crop run, slot V + i taking entry i % len; these may differ in size.

    Raises HardlabError.
    """

    def __init__(
        self,
        augment: Augment | Sequence[Augment],
        mean: Sequence[float],
        std: Sequence[float],
        local: Sequence[Augment] = (),
    ) -> None:
        self.augment = (augment,) if isinstance(augment, Augment) else tuple(augment)
        if not self.augment:
            raise HardlabError("a look needs at least one augmentation, got none")
        for name in ("size", "crop", "interpolation", "kernel", "threshold"):
            values = sorted({str(getattr(a, name)) for a in self.augment})
            if len(values) > 1:
                raise HardlabError(f"the views of one look must share `{name}`, got {values}; make one look for each")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise HardlabError(f"mean {mean} and std {std} must be three numbers each, std above 0")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.interpolation, self.crop = self.augment[0].interpolation, self.augment[0].crop
        self.local = tuple(Look(a, mean, std) for a in local)
        # one row per entry, so that slots with different distributions are drawn at once
        self._boxes = torch.tensor([[*a.scale, *a.ratio, a.flip] for a in self.augment])
        self._colours = torch.tensor(
            [
                [
                    *(*(max(0.0, 1 - s) for s in a.jitter[:3]), -a.jitter[3]),
                    *(*(1 + s for s in a.jitter[:3]), a.jitter[3]),
                    *(a.jitter_p, a.gray, a.blur, *a.sigma, a.solarize),
                ]
                for a in self.augment
            ]
        )

    def draw(self, sizes: Tensor, views: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the parameters of ``views`` views of each image.

        sizes: (B,2) true height and width. Returns (B,V,P) float32 on the device of ``sizes``, columns ``PARAMS``.
        generator: source of the random numbers, on its own device. Raises HardlabError.
        """
        if sizes.ndim != 2 or sizes.shape[1] != 2 or sizes.is_floating_point():
            raise HardlabError(f"sizes must be (B,2) whole numbers, got {tuple(sizes.shape)} {sizes.dtype}")
        if transfer.on_host(sizes) and len(sizes) and sizes.min() < 1:
            small = sizes[sizes.amin(1).argmin()].tolist()
            raise HardlabError(f"an image of {small} pixels (height, width) has no view; 1 x 1 is the least")
        if views < 1:
            raise HardlabError(f"views = {views} is not possible; draw at least 1")
        u = _uniform(len(sizes), views, 2 * _TRIES + 3, generator, sizes.device)
        share_low, share_high, thin, fat, flip = self._rows(self._boxes, views, sizes.device)  # (V,1) each
        h, w = sizes.float()[:, None, :, None].expand(-1, views, -1, -1).unbind(2)  # (B,V,1)
        area = h * w * _between(u[..., :_TRIES], share_low, share_high)
        aspect = _between(u[..., _TRIES : 2 * _TRIES], thin.log(), fat.log()).exp()
        height, width = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()  # (B,V,tries)
        fits = (width > 0) & (width <= w) & (height > 0) & (height <= h)
        first = fits.int().argmax(-1, keepdim=True)
        fits, height, width = (t.gather(-1, first) for t in (fits, height, width))
        # torchvision's fallback after ten misses: the largest central crop with an allowed aspect ratio
        height = torch.where(fits, height, torch.where(w / h < thin, (w / thin).round().clamp_min(1), h))
        width = torch.where(fits, width, torch.where(w / h > fat, (h * fat).round().clamp_min(1), w))
        if self.crop == "none":
            height, width = h, w
        top = torch.where(fits, u[..., -3:-2] * (h - height + 1), (h - height) / 2).floor()
        left = torch.where(fits, u[..., -2:-1] * (w - width + 1), (w - width) / 2).floor()
        flips = (u[..., -1:] < flip).float()
        colour = self._appearance(len(sizes), views, generator, sizes.device)
        return torch.cat((h, w, top, left, height, width, flips, colour), -1)

    def apply(self, raw: Tensor, params: Tensor, size: int | None = None) -> Tensor:
        """Render views: crop, flip, resize, jitter, gray, blur, solarize, normalise.

        raw: (B,3,H,W) uint8, or float in [0,1] (a gradient flows to it). params: (B,V,P). size: another resolution than
        the augmentation's. Returns (B,V,3,S,S) float, each slot contiguous. It does not synchronise, so parameters on a
        GPU are not checked. On a CPU, crops of uint8 images above 128 x 128 pixels are resized to whole levels, bit for
        bit as torchvision resizes uint8. Raises HardlabError.
        """
        return self._render(raw, params, size)

    def _render(self, raw: Tensor, params: Tensor, size: int | None, bare: bool = False) -> Tensor:
        """As ``apply``. bare: the caller knows that no view has jitter, gray, blur or solarize."""
        size = self.augment[0].size if size is None else size
        params = params.detach()
        self._check(raw, params, size)
        b, v = params.shape[:2]
        pixels = _TILE if transfer.on_host(raw) else _TILE_GPU
        source = raw.shape[2] * raw.shape[3]
        large = _is_large(raw) and transfer.on_host(params)
        tile = max(1, pixels // max(size * size, 0 if large and self.crop != "last" else source))
        params = params.transpose(0, 1).flatten(0, 1)  # (V*B,P): slot by slot, so that a slot is contiguous
        dtype = raw.dtype if raw.is_floating_point() else torch.float32
        x = torch.empty(v * b, 3, size, size, dtype=dtype, device=raw.device)
        # pixels keep their precision inside any autocast context
        with _threads(large), torch.autocast(raw.device.type, enabled=False):
            for rows in torch.arange(b * v, device=params.device).split(tile):
                self._tile(x, raw, params, rows, bare, large)
        return x.view(v, b, 3, size, size).transpose(0, 1)

    def views(self, batch: Batch, n: int, generator: torch.Generator | None = None, local: int = 0) -> Drawn:
        """Draw ``n`` views and ``local`` small crops of each image of the batch.

        Every image is its own group. Raises HardlabError.
        """
        if local and not self.local:
            raise HardlabError(f"{local} local crops were asked for, but this run's augmentation has none: set `local`")
        with _threads(_is_large(batch.raw)):
            params = self.draw(batch.sizes, n, generator)
            small = [self._local(i).draw(batch.sizes, 1, generator) for i in range(local)]
        group = ranks.own(torch.arange(ranks.size() * len(batch.index), device=batch.index.device))
        return Drawn(batch.raw, batch.sizes, batch.index, group, params, torch.cat(small, 1) if small else None)

    def render(self, v: Drawn, plain: bool = False, size: int | None = None) -> Rendered:
        """Render the views; a no-op if they are rendered already.

        plain: render the un-augmented images as well. size: another size of the large views than the augmentation's.
        """
        if not isinstance(v, Rendered):
            x = self.apply(v.raw, v.params, size)
            crops = () if v.local_params is None else v.local_params.split(1, 1)
            v = Rendered.of(v, x, [self._local(i).apply(v.raw, p)[:, 0] for i, p in enumerate(crops)])
        if plain and v.plain is None:
            v = replace(v, plain=self.plain(v.raw, v.sizes))
        return v

    def _local(self, i: int) -> Look:
        return self.local[i % len(self.local)]

    def plain(self, raw: Tensor, sizes: Tensor, size: int | None = None) -> Tensor:
        """Whole images (B,3,S,S), resized and normalised, without augmentation."""
        params = torch.zeros(len(raw), 1, len(PARAMS), device=raw.device)
        params[:, 0, 0:2] = params[:, 0, 4:6] = sizes.to(params)
        params[..., 7:10] = 1
        return self._render(raw, params, size, bare=True)[:, 0]

    def central(self, raw: Tensor, sizes: Tensor, size: int | None = None, share: float = 224 / 256) -> Tensor:
        """As ``plain``, of the centred squares with ``share`` of the shorter side: resize to 256, centre crop 224."""
        params = torch.zeros(len(raw), 1, len(PARAMS), device=raw.device)
        params[:, 0, 0:2] = sizes.to(params)
        side = (params[..., 0:2].amin(-1, keepdim=True) * share).round().clamp_min(1)  # (B,1,1)
        params[..., 4:6] = side
        params[..., 2:4] = ((params[..., 0:2] - side) / 2).floor()
        params[..., 7:10] = 1
        return self._render(raw, params, size, bare=True)[:, 0]

    def recolour(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Parameters (B,V,P) with a fresh appearance (jitter, gray, blur, solarize) and the same crops and flips."""
        fresh = params.clone()
        fresh[..., COLOUR] = self._appearance(len(params), params.shape[1], generator, params.device)
        return fresh

    def recoloured(self, v: Drawn, generator: torch.Generator | None = None) -> Drawn:
        """The same views, large and small, each with a fresh appearance."""
        local = v.local_params
        if local is not None:
            crops = [self._local(i).recolour(p, generator) for i, p in enumerate(local.split(1, 1))]
            local = torch.cat(crops, 1) if crops else local
        return replace(v.drawn(), params=self.recolour(v.params, generator), local_params=local)

    def _appearance(self, b: int, v: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Draw the columns ``COLOUR`` (B,V,8)."""
        u = _uniform(b, v, 10, generator, device)
        *ranges, jitter, gray, blur, sharp, soft, solarize = self._rows(self._colours, v, device)
        low, high = torch.cat(ranges[:4], -1), torch.cat(ranges[4:], -1)  # (V,4)
        factors = torch.where(u[..., :1] < jitter, _between(u[..., 1:5], low, high), transfer.constant(_NEUTRAL, u))
        order = (u[..., 5:6] * 24).floor()
        sigma = torch.where(u[..., 7:8] < blur, _between(u[..., 8:9], sharp, soft), 0.0)
        return torch.cat((factors, order, (u[..., 6:7] < gray).float(), sigma, (u[..., 9:] < solarize).float()), -1)

    @staticmethod
    def _rows(table: Tensor, views: int, device: torch.device) -> tuple[Tensor, ...]:
        rows = table[torch.arange(views) % len(table)].to(device, non_blocking=True)
        return rows[:, :, None].unbind(1)

    def _check(self, raw: Tensor, params: Tensor, size: int) -> None:
        if size < 1:
            raise HardlabError(f"size = {size} is not possible; it must be at least 1 pixel")
        pixels = raw.dtype == torch.uint8 or raw.is_floating_point()
        if raw.ndim != 4 or raw.shape[1] != 3 or not len(raw) or not pixels:
            raise HardlabError(f"raw must be (B,3,H,W) uint8 or float, got {tuple(raw.shape)} {raw.dtype}")
        if params.ndim != 3 or params.shape[0] != len(raw) or params.shape[2] != len(PARAMS) or not params.shape[1]:
            raise HardlabError(f"params must be ({len(raw)},V,{len(PARAMS)}), got {tuple(params.shape)}")
        if not transfer.on_host(params):
            return
        image, start, length = params[..., 0:2], params[..., 2:4], params[..., 4:6]
        good = (start >= 0) & (length >= 1) & (start + length <= image) & (image <= torch.tensor(raw.shape[2:]))
        if not good.all():
            bad = dict(zip(PARAMS[:6], params[~good.all(-1)][0, :6].tolist(), strict=True))
            raise HardlabError(f"a crop must lie within its image, and that within {tuple(raw.shape[2:])}; got {bad}")

    def _tile(self, out: Tensor, raw: Tensor, params: Tensor, rows: Tensor, bare: bool, large: bool) -> None:
        """Render ``rows`` (n,) of params (V*B,P) into those of out (V*B,3,S,S); row r is a view of image r % B.

        large: resize each crop by itself; what lies outside the crops is then not even read.
        If the parameters are on the host, each operation runs only for the rows that need it. On a device, reading them
        would take longer than running all operations for all rows.
        """
        size = out.shape[-1]
        look, cubic = self.augment[0], self.interpolation == "bicubic"
        unit = 1.0 if raw.is_floating_point() else 1 / 255
        known = transfer.on_host(params)
        stage = _stage(params[rows])
        if known:  # sorted by the moment when their hue turns, the views that share a pass lie side by side
            stage, order = stage.sort(stable=True)
            rows = rows[order]
        params = params[rows]
        rows = rows.to(raw.device, non_blocking=True)
        p = params.to(out, non_blocking=True)
        images = raw.unbind() if large and look.crop != "last" else ()
        if not images:
            raw = raw.index_select(0, rows % len(raw))
            raw = raw if raw.is_floating_point() else raw.float()
        if not large:
            if known:
                reach = (params[:, 4:6].amax(0) / size).clamp_min(1).tolist()
            else:
                reach = [max(1.0, n / size) for n in raw.shape[2:]]
            down = _resample(p[:, 2], p[:, 4], raw.shape[2], size, reach[0], cubic)  # (n,S,H)
            across = _resample(p[:, 3], p[:, 5], raw.shape[3], size, reach[1], cubic, p[:, 6]).mT  # (n,W,S)

        def crop(x: Tensor) -> Tensor:  # (3,n,H,W) -> (3,n,S,S)
            if large:
                return _resized(x.unbind(1), params, size, self.interpolation)
            x = torch.stack([torch.bmm(torch.bmm(down, c), across) for c in x])
            return x.clamp_(0, 1) if cubic else x  # the cubic kernel overshoots: clamp as 8-bit pipelines do

        def appear(x: Tensor, extent: Tensor) -> Tensor:
            if bare:
                return x
            pixels = extent.prod(1, keepdim=True)
            if known:
                x = _jitter(x, p, stage.bincount(minlength=6).cumsum(0).tolist(), pixels)
            else:
                x = _jitter_all(x, p, stage, pixels)
            return _finish(x, p, params, extent, look.kernel or max(3, size // 10 // 2 * 2 + 1), look.threshold)

        if look.crop == "last":
            inside = [torch.arange(n, device=p.device) < p[:, i, None] for i, n in enumerate(raw.shape[2:])]
            # padding is put to 0, so that it adds nothing to the mean that contrast needs
            x = (raw * unit).transpose(0, 1) * (inside[0][:, :, None] & inside[1][:, None, :])
            x = crop(appear(x, p[:, :2]))
        elif images:
            x = _resized([images[i] for i in (rows % len(images)).tolist()], params, size, self.interpolation)
            x = appear(x, torch.full_like(p[:, :2], size))
        else:
            down = down * unit
            x = appear(crop(raw.transpose(0, 1)), torch.full_like(p[:, :2], size))
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            out[:, channel].index_copy_(0, rows, (x[channel] - mean).div_(std))


def _stage(p: Tensor) -> Tensor:
    """The number (N,) of the three blends before hue: 0 to 3, or ``_NO_HUE`` or ``_NO_JITTER``."""
    stage = _HUE_AT.to(p.device, non_blocking=True)[p[:, _AT["order"]].long()]
    stage = stage.masked_fill(p[:, _AT["hue"]] == 0, _NO_HUE)
    return stage.masked_fill((p[:, _FACTORS] == transfer.constant(_NEUTRAL, p)).all(1), _NO_JITTER)


def _uniform(b: int, v: int, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    at = generator.device if generator else device
    u = ranks.draw(lambda rows: torch.rand(rows, v, n, generator=generator, device=at), b)
    return u.to(device, non_blocking=True)


def _between(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return low + (high - low) * u


def _resample(
    start: Tensor, length: Tensor, n: int, size: int, reach: float, cubic: bool, flip: Tensor | None = None
) -> Tensor:
    """Weights (N,S,n) that turn ``n`` source pixels into ``size`` pixels of the crop [start, start + length).

    Antialiased triangle or cubic (a = -0.5) kernel, normalised over the pixels inside the crop, as ATen does.
    ``reach`` is the largest length / size, at least 1.
    """
    scale, start, length = (length / size)[:, None], start[:, None], length[:, None]
    wide = scale.clamp_min(1.0) * (2 if cubic else 1)  # (N,1) half the kernel's width, in source pixels
    centre = (torch.arange(size, device=start.device, dtype=start.dtype) + 0.5) * scale  # (N,S) in the crop's pixels
    if flip is not None:
        centre = torch.where(flip[:, None] > 0, length - centre, centre)
    # only so many taps per row can differ from 0
    taps = min(n, math.ceil(reach * (4 if cubic else 2)))
    first = (start + (centre - wide + 0.5).floor()).clamp(0, n - taps)[:, :, None]  # (N,S,1)
    pixel = first + torch.arange(taps, device=start.device)
    distance = pixel - start[:, :, None]  # (N,S,taps)
    d = (distance + 0.5 - centre[:, :, None]).abs() / scale.clamp_min(1.0)[:, :, None]
    if cubic:
        near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
        weight = torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
    else:
        weight = (1 - d).clamp_min(0)
    weight = weight * ((distance >= 0) & (distance < length[:, :, None]))
    weight = weight / weight.sum(-1, keepdim=True)
    return weight.new_zeros(len(start), size, n).scatter_(2, pixel.long(), weight)


def _is_large(raw: Tensor) -> bool:
    return raw.shape[2] * raw.shape[3] > _LARGE and transfer.on_host(raw)


@contextmanager
def _threads(large: bool) -> Iterator[None]:
    """One thread of torch for large images: where others decode the next ones, two would wait in every operation."""
    threads = torch.get_num_threads()
    if large:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if large:
            torch.set_num_threads(threads)


def _resized(images: Sequence[Tensor], params: Tensor, size: int, interpolation: str) -> Tensor:
    """Crops of images (3,H,W) by their rows of params (n,P), flipped and resized: (3,n,S,S) floats in [0,1].

    As the products with ``_resample``'s matrices, but no pixel outside a crop is read, and no weight of 0. The kernel
    is torch's own, which rounds uint8 to whole levels after either direction.
    """
    views = []
    for image, box in zip(images, params[:, 2:7].int().tolist(), strict=True):
        top, left, height, width, flip = box
        crop = image[:, top : top + height, left : left + width]
        if crop.dtype != torch.uint8:  # the kernel for floats is slow where a pixel's channels lie side by side
            crop = crop.contiguous()
        view = F.interpolate(crop[None], (size, size), mode=interpolation, antialias=True)[0]
        views.append(view.flip(-1) if flip else view)
    x = torch.stack(views, 1)
    if x.dtype == torch.uint8:
        return x.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    return x.clamp(0, 1) if interpolation == "bicubic" else x


def _jitter(x: Tensor, p: Tensor, ends: list[int], pixels: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in each sample's order, in place.

    x: (3,N,h,w), of which ``pixels`` (N,1) are image; rows sorted by stage, stage i ends at ends[i].
    """
    some = ends[_NO_HUE]
    if not some:
        return x
    flat = x.flatten(2)[:, :some]  # (3,some,h*w)
    blends = _BLENDS.to(p.device, non_blocking=True)[p[:some, _AT["order"]].long()]  # (some,3)
    factors, pixels = p[:some, _FACTORS].gather(1, blends), pixels[:some]
    for at, (start, end) in enumerate(pairwise([0, *ends[:4]])):
        if start < end:
            part = flat[:, start:end]
            turned = _hue(part.clone() if part.requires_grad else part, p[start:end, _AT["hue"], None])
            for channel, values in enumerate(turned):
                flat[channel, start:end] = values
        if at < 3:  # brightness, contrast and saturation blend with black, the mean gray and the gray of each pixel
            f, kind, gray = factors[:, at, None], blends[:, at, None], _luma(flat)
            mean = gray.sum(1, keepdim=True) / pixels * ((1 - f) * (kind == 1))
            flat.mul_(f).add_(torch.addcmul(mean, gray, (1 - f) * (kind == 2))).clamp_(0, 1)
    return x


def _jitter_all(x: Tensor, p: Tensor, stage: Tensor, pixels: Tensor) -> Tensor:
    """As ``_jitter``, for rows in any order with stages (N,) on the device; not in place.

    It applies all blends that may come before hue, then hue, then all that may come after it; for a row whose order
    differs, a blend has no effect.
    """
    flat = x.flatten(2)
    blends = _BLENDS.to(p.device, non_blocking=True)[p[:, _AT["order"]].long()]  # (N,3)
    factors = p[:, _FACTORS].gather(1, blends)
    place = torch.arange(3, device=p.device)
    before = torch.where(place < stage[:, None], factors, 1.0)  # (N,3)
    for part in (before, torch.where(place < stage[:, None], 1.0, factors)):
        for f, kind in zip(part.split(1, 1), blends.split(1, 1), strict=True):
            gray = _luma(flat)
            mean = gray.sum(1, keepdim=True) / pixels * ((1 - f) * (kind == 1))
            flat = (flat * f + torch.addcmul(mean, gray, (1 - f) * (kind == 2))).clamp(0, 1)
        if part is before:
            turned = torch.stack(_hue(flat, p[:, _AT["hue"], None]))
            flat = torch.where((stage < _NO_HUE)[:, None], turned, flat)
    return flat.unflatten(2, x.shape[2:])


def _finish(x: Tensor, p: Tensor, known: Tensor, extent: Tensor, kernel: int, threshold: float) -> Tensor:
    """Apply gray, blur and solarize to the rows that have them: x (3,N,h,w), of which ``extent`` (N,2) is image.

    known: (N,P), the same as ``p``, on the host if it has them; x is then changed in place.
    """
    h, w = x.shape[2:]
    x = x.flatten(2)
    x = _some(x, known[:, _AT["gray"]] > 0, lambda part, rows: _luma(part).expand_as(part))

    def blur(part: Tensor, rows: Tensor) -> Tensor:
        sigma, ends = p[rows, _AT["sigma"]], extent[rows]
        sigma = torch.where(sigma > 0, sigma, 1.0)  # for unchanged rows, which must not spoil a gradient
        down, across = _blur(sigma, ends[:, 0], h, kernel), _blur(sigma, ends[:, 1], w, kernel).mT
        return torch.stack([torch.bmm(torch.bmm(down, c.view(-1, h, w)), across).flatten(1) for c in part])

    x = _some(x, known[:, _AT["sigma"]] > 0, blur)
    x = _some(x, known[:, _AT["solarize"]] > 0, lambda part, rows: torch.where(part >= threshold, 1 - part, part))
    return x.unflatten(2, (h, w))


def _some(x: Tensor, which: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply ``change`` to the rows of x (3,N,P) where ``which`` (N,) is true; in place if the host can read it."""
    if not transfer.on_host(which):
        return torch.where(which[:, None], change(x, torch.arange(len(which), device=which.device)), x)
    rows = which.nonzero()[:, 0].to(x.device, non_blocking=True)
    return x.index_copy_(1, rows, change(x.index_select(1, rows), rows)) if len(rows) else x


def _luma(x: Tensor) -> Tensor:
    return (x[0] * 0.2989).add_(x[1], alpha=0.587).add_(x[2], alpha=0.114)


def _hue(x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the hue of (3,N,P) by ``shift`` (N,1) of a full circle; HSV without a branch per sector."""
    r, g, b = x
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    span = high - low
    # the angle from red in sixths of a circle is 0 to 3, towards green or towards blue
    angle = ((g - r).add_(b).sub_(low) / span.clamp_min(1e-12)).add_(1)
    hue = torch.copysign(angle, g - b) + 6 * shift
    hue = hue - (hue / 6).floor_().mul_(6)  # 0 to 6
    less, more = low - span, torch.add(low, span, alpha=2)
    red = torch.addcmul(less, span, (hue - 3).abs().clamp(1, 2))
    green = torch.addcmul(more, span, (hue - 2).abs().clamp(1, 2), value=-1)
    blue = torch.addcmul(more, span, (hue - 4).abs().clamp(1, 2), value=-1)
    return red, green, blue


def _blur(sigma: Tensor, length: Tensor, n: int, kernel: int) -> Tensor:
    """Matrices (N,n,n) of a Gaussian of ``kernel`` taps on the first ``length`` pixels, mirrored at both ends."""
    tap = torch.arange(kernel, device=sigma.device) - kernel // 2
    weight = torch.softmax(-0.5 * (tap / sigma[:, None]) ** 2, 1)  # (N,K)
    last = (length.long() - 1)[:, None, None]
    at = (torch.arange(n, device=sigma.device)[:, None] + tap).abs() % (2 * last).clamp_min(1)  # (N,n,K)
    at = torch.minimum(torch.where(at > last, 2 * last - at, at), last)
    return sigma.new_zeros(len(sigma), n, n).scatter_add_(2, at, weight[:, None].expand(-1, n, -1))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two crop boxes, in pixels of the source image: (...,P),(...,P) -> (...)."""
    low, high = torch.maximum(a[..., 2:4], b[..., 2:4]), torch.minimum(_far(a), _far(b))
    overlap = (high - low).clamp_min(0).prod(-1)
    return overlap / (a[..., 4:6].prod(-1) + b[..., 4:6].prod(-1) - overlap)


def _far(p: Tensor) -> Tensor:
    return p[..., 2:4] + p[..., 4:6]


def centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of the centres of two crops in image diagonals (HVS's text; its code takes the top-left corners)."""
    offset = (a[..., 2:4] + a[..., 4:6] / 2) - (b[..., 2:4] + b[..., 4:6] / 2)
    return offset.norm(dim=-1) / a[..., :2].norm(dim=-1)


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the four jitter factors, a view without jitter counting as 1,1,1,0 (HVS)."""
    return (a[..., _FACTORS] - b[..., _FACTORS]).norm(dim=-1)
