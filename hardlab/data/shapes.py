"""Procedural scenes: textured objects of ten classes on cluttered backgrounds, with labels, boxes and masks."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from hardlab.data import SHAPES as CLASSES
from hardlab.data.base import Source, cached, choose, data_root
from hardlab.numbers import Count, whole
from hardlab.types import HardlabError

SPLITS = {"train": 5000, "test": 1000}  # split -> images by default
VERSION = 1  # part of the cache key: raise it with any change of a pixel
_CHUNK = 128  # images rendered at once: keeps the working set in the cache
_LINES, _BLOBS, _WAVES, _PLACES = 3, 4, 3, 12
_DRAWS = 512  # uniform numbers reserved for the scene of one image, before its pixel noise

Plane = np.ndarray  # (n,H,W)


class _Draws:
    """The scene's uniform numbers (n,_DRAWS), handed out column by column."""

    def __init__(self, u: np.ndarray):
        self.u, self.used = u, 0

    def __call__(self, low: float = 0.0, high: float = 1.0, k: int = 1) -> np.ndarray:
        """(n,1,1) for one draw, (n,1,1,k) for k of them, uniform in [low, high)."""
        out = self.u[:, self.used : self.used + k]
        self.used += k
        out = (low + (high - low) * out)[:, None, None, :]
        return out[..., 0] if k == 1 else out


def _distances(x: Plane, y: Plane) -> list[Plane]:
    """Signed distance (negative inside, exact near the edge) to each shape of CLASSES, about one unit in radius."""
    r = np.sqrt(x * x + y * y)
    ax, ay = np.abs(x), np.abs(y)
    sector = np.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector) % (2 * sector) - sector)  # folded: 0 at a tip, pi/5 at an inner corner
    inner_x, inner_y = 0.45 * np.cos(sector), 0.45 * np.sin(sector)
    edge = np.hypot(1 - inner_x, inner_y)
    star = ((r * np.cos(angle) - 1) * inner_y + r * np.sin(angle) * (1 - inner_x)) / edge
    return [
        r - 0.85,
        np.abs(r - 0.68) - 0.2,
        np.maximum(ax, ay) - 0.72,
        np.maximum(y, np.abs(x) * 0.75**0.5 - y * 0.5) - 0.5,
        star,
        np.minimum(np.maximum(ax - 0.95, ay - 0.27), np.maximum(ay - 0.95, ax - 0.27)),
        np.maximum(r - 0.92, 0.72 - np.hypot(x - 0.42, y)),
        np.minimum(
            np.maximum(np.abs(x + 0.42) - 0.27, np.abs(y) - 0.85), np.maximum(np.abs(x) - 0.69, np.abs(y - 0.58) - 0.27)
        ),
        np.maximum(ay - 0.82, (ax - ay - 0.06) * 0.5**0.5),
        np.maximum(ax - 0.95, ay - 0.27),
    ]


def _texture(draw: _Draws, x: Plane, y: Plane) -> Plane:
    """A pattern in [0,1] in the object's own coordinates: stripes, checks, dots, rings or a ramp, at random."""
    kind = np.floor(draw(0, 5)).astype(np.int64)
    frequency, phase_x, phase_y = draw(4, 8), draw(0, 6.28), draw(0, 6.28)
    wave_x, wave_y = np.sin(frequency * x + phase_x), np.sin(frequency * y + phase_y)
    patterns = [wave_x, wave_x * wave_y * 2, (wave_x + wave_y) * 1.5 - 1, np.sin(2 * frequency * np.hypot(x, y)), x]
    return np.clip(0.5 + 0.75 * np.choose(kind, patterns), 0, 1)


def _paint(canvas: np.ndarray, alpha: Plane, colour: np.ndarray) -> None:
    canvas += alpha[..., None] * (colour - canvas)


def _colour_near(draw: _Draws, colour: np.ndarray, spread: float) -> np.ndarray:
    return np.clip(colour + draw(-spread, spread, k=3), 0, 1)


def _far_colour(draw: _Draws, colour: np.ndarray) -> np.ndarray:
    """The farthest from ``colour`` of four random colours, so that objects of any class are seldom invisible."""
    options = np.stack([draw(k=3) for _ in range(4)])  # (4,n,1,1,3)
    best = ((options - colour) ** 2).sum(-1).argmax(0)  # (n,1,1)
    return np.take_along_axis(options, best[None, ..., None], 0)[0]


def _background(draw: _Draws, x: Plane, y: Plane, base: np.ndarray) -> np.ndarray:
    """A ramp between two colours under low waves, (n,H,W,3); x and y in [0,1] over the image."""
    angle = draw(0, 6.2832)
    ramp = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)
    canvas = base + ramp[..., None] * (_colour_near(draw, base, 0.45) - base)
    for _ in range(_WAVES):
        wave = np.sin(draw(-14, 14) * x + draw(-14, 14) * y + draw(0, 6.2832))
        canvas = canvas + wave[..., None] * draw(-0.08, 0.08, k=3)
    return canvas


def _clutter(draw: _Draws, canvas: np.ndarray, x: Plane, y: Plane, like: np.ndarray, pixel: float) -> None:
    """Lines and blobs in colours like the objects' and the background's, over ``canvas`` in place."""
    for i in range(_LINES + _BLOBS):
        colour = _colour_near(draw, like if i % 2 else draw(k=3), 0.25)
        px, py = x - draw(), y - draw()
        if i < _LINES:
            angle, half, width = draw(0, 3.1416), draw(0.1, 0.5), draw(0.012, 0.035)
            along = px * np.cos(angle) + py * np.sin(angle)
            across = py * np.cos(angle) - px * np.sin(angle)
            distance = np.maximum(np.abs(along) - half, np.abs(across) - width)
        else:
            distance = np.hypot(px, py * draw(0.6, 1.6)) - draw(0.03, 0.1)
        _paint(canvas, np.clip(0.5 - distance / pixel, 0, 1) * draw(0.5, 1.0), colour)


def _places(draw: _Draws, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres and radii (n,count) of ``count`` objects, in image units, and which objects found a free place."""
    n = len(draw.u)
    cx, cy, radius = np.zeros((n, count)), np.zeros((n, count)), np.zeros((n, count))
    placed = np.zeros((n, count), bool)
    for k in range(count):
        # the first is always the largest; several need to be smaller to find a place
        low, high = (0.3, 0.45) if count == 1 else (0.2, 0.26) if k == 0 else (0.14, 0.2)
        radius[:, k] = draw(low, high)[:, 0, 0]
        for _ in range(1 if k == 0 else _PLACES):
            margin = 0.8 * radius[:, k]
            tx = margin + (1 - 2 * margin) * draw()[:, 0, 0]
            ty = margin + (1 - 2 * margin) * draw()[:, 0, 0]
            separate = np.hypot(tx[:, None] - cx[:, :k], ty[:, None] - cy[:, :k]) > radius[:, k, None] + radius[:, :k]
            free = ~placed[:, k] & (separate | ~placed[:, :k]).all(1)
            cx[free, k], cy[free, k] = tx[free], ty[free]
            placed[:, k] |= free
    return cx, cy, radius, placed


def _render(u: np.ndarray, noise: np.ndarray, kinds: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Render scenes from random numbers: pixels (n,S,S,3) uint8, ids (n,S,S) uint8, labels (n,objects).

    ids: 0 = background, k + 1 = object k. A label is -1 if the object found no free place.
    """
    n, count = kinds.shape
    draw = _Draws(u)
    centres = (np.arange(size) + 0.5) / size
    x, y = centres[None, None, :], centres[None, :, None]
    base = draw(0.1, 0.9, k=3)
    first = _far_colour(draw, base)
    canvas = _background(draw, x, y, base)
    _clutter(draw, canvas, x, y, first, 1 / size)
    ids = np.zeros((n, size, size), np.uint8)
    cx, cy, radius, placed = _places(draw, count)
    for k in range(count):
        colour = first if k == 0 else _far_colour(draw, base)
        turn, aspect, shear = draw(-0.7, 0.7), draw(0.8, 1.25), draw(-0.2, 0.2)
        r = radius[:, k, None, None]
        dx, dy = (x - cx[:, k, None, None]) / r, (y - cy[:, k, None, None]) / r
        ox, oy = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        ox, oy = ox * np.sqrt(aspect) + shear * oy, oy / np.sqrt(aspect)
        distance = np.choose(kinds[:, k, None, None], _distances(ox, oy))
        alpha = np.clip(0.5 - distance * r * size, 0, 1) * placed[:, k, None, None]
        pattern = _texture(draw, ox, oy)[..., None]
        second = _colour_near(draw, colour, 0.5)
        shade = 1 + draw(-0.25, 0.25) * dx + draw(-0.25, 0.25) * dy  # light from one side
        _paint(canvas, alpha, (colour + pattern * (second - colour)) * shade[..., None])
        ids[alpha >= 0.5] = k + 1
    canvas += (noise - 0.5) * draw(0.04, 0.22)[..., None]
    pixels = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels, ids, np.where(placed, kinds, -1)


def _generate(count: int, size: int, seed: int, split: int, objects: int) -> dict[str, np.ndarray]:
    """Generate the arrays of ``count`` scenes.

    Scene i has its own stream of a counter-based generator, so it depends neither on ``count`` nor on the order in
    which scenes are made.
    """

    def stream(use: int, i: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=seed, counter=[0, i, split, use]))

    blocks = [stream(0, b).permutation(len(CLASSES)) for b in range(-(-count // len(CLASSES)))]
    kinds = np.concatenate([*blocks, np.zeros(0, np.int64)])[:count]  # every ten scenes hold every class once
    parts = []
    for start in range(0, count, _CHUNK):
        rngs = [stream(1, i) for i in range(start, min(start + _CHUNK, count))]
        u = np.stack([rng.random(_DRAWS) for rng in rngs])
        more = np.stack([rng.integers(0, len(CLASSES), objects - 1) for rng in rngs])
        noise = np.stack([rng.random((size, size, 3), dtype=np.float32) for rng in rngs])
        parts.append(_render(u, noise, np.column_stack([kinds[start : start + _CHUNK], more]), size))
    pixels, ids, labels = (np.concatenate(p) for p in zip(*parts))
    return {"pixels": pixels, "ids": ids, "labels": labels.astype(np.int8)}


def shapes(
    split: str,
    root: str | None,
    size: int | None,
    *,
    count: Count | None = None,
    seed: Annotated[int, whole(0, 2**64 - 1)] = 0,
    objects: Annotated[int, whole(1, 4)] = 1,
) -> Source:
    """Procedural scenes of ten shapes; colour, texture, place, size and pose are independent of the class.

    split: train (5000 images unless ``count``) or test (1000). size: side in pixels (32), 16 to 96. objects: the most
    objects a scene may hold (1 to 4, without overlap); the label is that of the largest. The arrays are cached in the
    data root; the same seed gives the same bytes. ``scene(i)`` has boxes (tight, x1 and y1 exclusive) and masks.
    """
    choose("split of shapes", split, tuple(SPLITS))
    size = 32 if size is None else size
    count = SPLITS[split] if count is None else count
    if not 16 <= size <= 96:
        raise HardlabError(f"shapes are drawn at a size from 16 to 96 pixels, not {size}")
    name = f"v{VERSION}-{split}-{count}x{size}px-seed{seed}-objects{objects}.npz"
    which = tuple(SPLITS).index(split)

    def fits(kept: dict[str, np.ndarray]) -> bool:
        shapes = {"pixels": (count, size, size, 3), "ids": (count, size, size)}
        return all(kept[k].shape == s for k, s in shapes.items()) and len(kept["labels"]) == count

    made = cached(data_root(root) / "shapes" / name, lambda: _generate(count, size, seed, which, objects), fits)
    ids, labels = made["ids"], made["labels"].astype(np.int64)

    def annotate(i: int) -> dict[str, np.ndarray]:
        present = np.flatnonzero(labels[i] >= 0)
        masks = ids[i][None] == present[:, None, None] + 1
        rows, columns = masks.any(2), masks.any(1)
        lows = [columns.argmax(1), rows.argmax(1)]
        highs = [size - columns[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1)]
        boxes = np.stack(lows + highs, 1).astype(np.float32)
        return {"labels": labels[i][present], "boxes": boxes, "masks": masks, "full": np.array([size, size])}

    names = [f"{split}/{i}" for i in range(count)]
    return Source(CLASSES, labels[:, 0], names, pixels=made["pixels"], annotate=annotate)
