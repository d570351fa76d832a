"""Weighted k nearest neighbours on frozen features: exact, tiled, with ties broken by row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab.evaluate.features import check_features
from hardlab.runs import processor
from hardlab.types import HardlabError

KS = (10, 20, 100, 200)  # HVS's appendix, as in DINO
TEMPERATURE = 0.07
_QUERIES, _ROWS = 384, 60_000  # a tile of similarities
_PART = 3_000  # rows of one convolution: what it returns is copied into the tile while it is in the cache
_BLOCKS = (8, 5)  # rows whose maximum is looked at before they are, and such blocks whose maximum is, before they are


def knn(
    train_f: Tensor,
    train_y: Tensor,
    test_f: Tensor,
    test_y: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> dict[int, float]:
    """Top-1 accuracy for each k of ``ks``: neighbours vote with weight exp(cosine / temperature).

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). HardlabError where a k is larger than N. (HVS; Wu et al.
    2018, section 3.4.) Of neighbours equally near the lower row counts as nearer, of classes equally strong the lower
    class wins, so the answer does not depend on tiles or threads.
    """
    classes = check_features(train_f, train_y, test_f, test_y)
    right = dict.fromkeys(_checked(ks, len(train_f), temperature), 0)
    memory = F.normalize(train_f.float(), dim=1)
    tile = _tile(memory, min(len(test_f), _QUERIES))
    for queries, truth in zip(test_f.split(_QUERIES), test_y.split(_QUERIES)):
        for k, scores in _votes(memory, train_y, queries, list(right), temperature, classes, tile).items():
            right[k] += int((scores.argmax(1) == truth).sum())
    return {k: right[k] / len(test_f) for k in ks}


def knn_predict(
    train_f: Tensor,
    train_y: Tensor,
    test_f: Tensor,
    *,
    k: int = 200,
    temperature: float = TEMPERATURE,
    classes: int | None = None,
) -> Tensor:
    """Scores (Q,C) float64: for each class the summed exp(cosine / temperature) of its rows among the k nearest.

    train_f (N,D), train_y (N,), test_f (Q,D). classes: C; None = the largest label of ``train_y`` plus one.
    """
    found = check_features(train_f, train_y, test_f)
    if classes is not None and classes < found:
        raise HardlabError(f"classes={classes} is too few: the training labels go up to {found - 1}.")
    _checked([k], len(train_f), temperature)
    memory = F.normalize(train_f.float(), dim=1)
    tile, parts = _tile(memory, min(len(test_f), _QUERIES)), test_f.split(_QUERIES)
    return torch.cat([_votes(memory, train_y, q, [k], temperature, classes or found, tile)[k] for q in parts])


def neighbours(memory: Tensor, queries: Tensor, k: int, tile: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k rows of ``memory`` (N,D) most similar to each of ``queries`` (Q,D), both of unit length.

    Returns cosines (Q,k), falling, and rows (Q,k) int64; of equal cosines the lower row comes first. Q is at most a
    tile's worth: the caller splits. tile: scratch space, which calls may share (``_tile``).
    """
    tile = _tile(memory, len(queries)) if tile is None else tile
    best = queries.new_empty((len(queries), 0))
    rows = best.long()
    for start in range(0, len(memory), _ROWS):
        value, row = _top(_cosines(memory[start : start + _ROWS], queries, tile), k)
        if len(memory) <= _ROWS:
            return value, row
        # stable, and earlier tiles stand first: the lower row stays ahead where cosines are equal
        best, order = torch.cat([best, value], 1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, row + start], 1).gather(1, order)[:, :k]
        best = best[:, :k]
    return best, rows


def _checked(ks: Sequence[int], n: int, temperature: float) -> list[int]:
    """``ks`` in rising order, once each."""
    if not ks:
        raise HardlabError("ks is empty: name at least one number of neighbours.")
    for k in ks:
        if not 1 <= k <= n:
            raise HardlabError(f"k={k} neighbours cannot be had from {n} training samples: k must be from 1 to {n}.")
    if temperature < 0.002:  # exp(1/T) leaves float64
        raise HardlabError(f"temperature={temperature} is too low: it must be at least 0.002 (published: 0.07).")
    return sorted(set(ks))


def _tile(memory: Tensor, queries: int) -> Tensor:
    """Numbers enough for the similarities of a tile. Made once: new ones are page-faulted in at every use."""
    return memory.new_empty(queries * min(len(memory), _ROWS))


def _votes(
    memory: Tensor, labels: Tensor, queries: Tensor, ks: list[int], temperature: float, classes: int, tile: Tensor
) -> dict[int, Tensor]:
    """Class scores (Q,C) for each of the rising ``ks``; one search serves them all."""
    cosine, rows = neighbours(memory, F.normalize(queries.float(), dim=1), ks[-1], tile)
    weight, voted = (cosine.double() / temperature).exp(), labels[rows]  # (Q,K)
    scores, out, done = weight.new_zeros((len(queries), classes)), {}, 0
    for k in ks:
        scores = scores.scatter_add(1, voted[:, done:k], weight[:, done:k])
        out[k], done = scores, k
    return out


@cache
def _by_convolution() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than MKL, which keeps its best for Intel's processors."""
    return torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and "Intel" not in processor()


def _cosines(memory: Tensor, queries: Tensor, tile: Tensor) -> Tensor:
    """Products (N,Q) of all rows, written to ``tile``."""
    out = tile[: len(memory) * len(queries)].view(len(memory), len(queries))
    if memory.device.type != "cpu" or not _by_convolution():
        return torch.mm(memory, queries.T, out=out)
    # a 1x1 convolution with the memory as the image and the queries as the kernels
    kernels = queries[:, :, None, None]
    for rows, part in zip(memory.split(_PART), out.split(_PART)):
        image = rows[None, None].permute(0, 3, 1, 2)  # (1,D,1,n), channels_last without a copy
        part.copy_(F.conv2d(image, kernels).permute(0, 2, 3, 1)[0, 0])  # (1,Q,1,n) -> (n,Q)
    return out


def _top(similar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest k of each column of ``similar`` (N,Q): values (Q,k), falling, and rows; the lower row first."""
    n, columns = len(similar), similar.T
    k, more = min(k, n), min(k + 1, n)  # one more than asked shows a tie across the border
    rows, candidates, bar = _promising(similar, more, _BLOCKS)
    value, at = candidates.topk(more, dim=1)
    row = rows.gather(1, at)
    # among equal values, which come first and which are in at all is topk's whim
    equal = value[:, 1:] == value[:, :-1]
    tied, beyond = equal.any(1).nonzero()[:, 0], equal[:, k - 1 :].nonzero()[:, 0]
    value, row = value[:, :k], row[:, :k]
    value[tied], row[tied] = _in_order(value[tied], row[tied])
    for i in beyond.tolist():
        if bar[i] < value[i, -1]:
            last = rows[i, candidates[i] == value[i, -1]].sort().values
        else:  # some may lie outside
            last = (columns[i] == value[i, -1]).nonzero()[:, 0]
        nearer = int((value[i] > value[i, -1]).sum())
        row[i, nearer:] = last[: k - nearer]
    return value, row


def _promising(values: Tensor, k: int, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (Q,C) among which the k largest of each column of ``values`` (N,Q) are, their values, and a bar (Q,).

    Exact by blocks: the k largest lie in the k blocks of the largest maxima. These blocks are found in the same way,
    by blocks of the next of ``sizes``. No other value is above the bar.
    """
    (n, q), everywhere = values.shape, torch.arange(len(values), device=values.device)
    blocks = n // sizes[0] if sizes else 0
    if blocks <= k:
        return everywhere.expand(q, -1), values.T, values.new_full((q,), -torch.inf)
    # block j = rows j, j + blocks, ...: the maximum runs along contiguous memory; left-over rows always compete
    within, rest = everywhere.split([blocks * sizes[0], n % sizes[0]])
    within = within.view(sizes[0], blocks)
    which, maxima, _ = _promising(values[: within.numel()].view(*within.shape, q).amax(0), k, sizes[1:])
    largest, at = maxima.topk(k, dim=1, sorted=False)
    rows = (which.gather(1, at)[:, None] + within[:, :1]).flatten(1)
    rows = torch.cat([rows, rest.expand(q, -1)], 1) if len(rest) else rows
    return rows, values.T.gather(1, rows), largest.amin(1)


def _in_order(value: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Values (Q,k) falling, of equal ones the lower row first; and their rows."""
    row, order = row.sort(dim=1)
    value, order = value.gather(1, order).sort(dim=1, descending=True, stable=True)
    return value, row.gather(1, order)
