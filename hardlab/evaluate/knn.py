"""Weighted k nearest neighbours on frozen features: exact, tiled, with ties broken by row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab import numbers
from hardlab.evaluate.features import check_features, unit
from hardlab.evaluate.published import KS, TEMPERATURE, TYPES
from hardlab.machine import fast_bfloat16, processor
from hardlab.types import HardlabError

_QUERIES, _ROWS = 384, 60_000  # a tile of similarities
_ROUGH = 16  # with fewer rows per candidate, a rough search saves nothing
_PART = 3_000  # rows of one convolution, so that its result is still in the cache when copied into the tile
_BLOCKS = (8, 5)  # rows per block whose maximum is checked first, and blocks per block of blocks


@torch.no_grad()
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

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). Ties go to the neighbour with the lower row and to the lower
    class, so the result does not depend on tiles or threads. Raises HardlabError if a k is larger than N. HVS; Wu et
    al. 2018, Sec. 3.4.
    """
    classes = check_features(train_f, train_y, test_f, test_y)
    ks = _checked(ks, len(train_f))
    temperature = numbers.fit("temperature", TYPES["temperature"], temperature)
    votes = _votes(train_f, train_y, test_f, sorted(set(ks)), temperature, classes)
    return {k: float((votes[k].argmax(1) == test_y).double().mean()) for k in ks}


@torch.no_grad()
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
    n_classes = check_features(train_f, train_y, test_f)
    if classes is not None and classes < n_classes:
        raise HardlabError(f"classes={classes} is too few: the training labels go up to {n_classes - 1}.")
    _checked([k], len(train_f))
    temperature = numbers.fit("temperature", TYPES["temperature"], temperature)
    return _votes(train_f, train_y, test_f, [k], temperature, classes or n_classes)[k]


def neighbours(memory: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of ``memory`` (N,D) most similar to each of ``queries`` (Q,D), both of unit length.

    Returns cosines (Q,k), descending, and rows (Q,k) int64; of equal cosines the lower row comes first. If bfloat16
    products are fast, they choose candidates, and queries whose k nearest may be others are searched in full.
    """
    cosine, rows = queries.new_empty((len(queries), k)), queries.new_empty((len(queries), k), dtype=torch.long)
    # allocated once: new memory causes page faults at every use
    tile = memory.new_empty(min(len(queries), _QUERIES) * min(len(memory), _ROWS))
    left = torch.arange(len(queries), device=queries.device)
    if _rough_pays(memory, k):
        left = _nearest_of_rough(memory, queries, tile, cosine, rows)
    for part in left.split(_QUERIES) if len(left) else ():  # split makes one empty part of an empty tensor
        cosine[part], rows[part] = _nearest_of_all(memory, queries[part], k, tile)
    return cosine, rows


def _checked(ks: Sequence[int], n: int) -> list[int]:
    """The values of ``ks``, once each; HardlabError for values that do not fit n training samples."""
    if not ks:
        raise HardlabError("ks is empty: name at least one number of neighbours.")
    values: list[Any] = list(ks)
    for k in values:
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise HardlabError(f"k={k!r} is not a number of neighbours: k must be a whole number from 1 to {n}.")
        if not 1 <= int(k) <= n:
            raise HardlabError(f"k={k} does not fit {n} training samples: k must be from 1 to {n}.")
    return [int(k) for k in dict.fromkeys(values)]


def _votes(
    train_f: Tensor, train_y: Tensor, test_f: Tensor, ks: list[int], temperature: float, classes: int
) -> dict[int, Tensor]:
    """Class scores (Q,C) for each of the rising ``ks``; one search serves them all."""
    memory, queries = unit(train_f), unit(test_f)
    cosine, rows = neighbours(memory, queries, ks[-1])
    weight, voted = (cosine.double() / temperature).exp(), train_y[rows]  # (Q,K)
    scores, out, counted = weight.new_zeros((len(queries), classes)), {}, 0
    for k in ks:
        scores = scores.scatter_add(1, voted[:, counted:k], weight[:, counted:k])
        out[k], counted = scores, k
    return out


def _rough_pays(memory: Tensor, k: int) -> bool:
    return memory.device.type == "cpu" and fast_bfloat16() and len(memory) >= _ROUGH * _spare(k)


def _spare(k: int) -> int:
    """The number of candidates for ``k`` neighbours."""
    return k + k // 2 + 32


def _nearest_of_rough(memory: Tensor, queries: Tensor, tile: Tensor, cosine: Tensor, rows: Tensor) -> Tensor:
    """Fill ``cosine`` and ``rows`` (Q,k) from candidates by bfloat16 products; returns the remaining queries (L,).

    Candidates are multiplied again in float32. A query remains unless its k-th candidate is ahead of all rows that are
    no candidates by more than the error of a bfloat16 product, which comes from rounding the two vectors (by Cauchy and
    Schwarz) and their product. If most of the first queries remain, the others are not tried.
    """
    k, count = cosine.shape[1], _spare(cosine.shape[1])
    mean = memory.mean(0)
    rounded, longest, lost = _rounded(memory, mean)
    summed = 2**-22 * memory.shape[1]  # bound of the rounding error of float32 sums, for unit vectors
    left = []
    for place in torch.arange(len(queries)).split(max(1, min(_QUERIES, 2 * len(tile) // len(memory)))):
        query = queries[place]
        short = query.bfloat16()
        product = tile.view(torch.bfloat16)[: len(memory) * len(query)].view(len(memory), -1)
        candidates, rows_of = _promising(torch.mm(rounded, short.T, out=product), count, _BLOCKS)
        value, at = candidates.topk(count, dim=1, sorted=False)
        near, last = rows_of(at), value.amin(1).float()
        exact = _dot_products(memory, query, near)
        value, at = exact.topk(k + 1, dim=1)  # one more than needed, to detect a tie at the border
        # the mean, taken off above, adds the same to all products of a query
        error = (query - short).norm(dim=1) * longest + short.float().norm(dim=1) * lost + 2**-8 * last.abs()
        left.append(place[last + error + summed + query @ mean >= value[:, k - 1]])
        row = near.gather(1, at)
        tied = (value[:, 1:] == value[:, :-1]).any(1).nonzero()[:, 0]
        value[tied], row[tied] = (v[:, : k + 1] for v in _in_order(exact[tied], near[tied]))
        cosine[place], rows[place] = value[:, :k], row[:, :k]
        if len(left) == 1 and len(left[0]) > len(place) / 2:
            return torch.arange(len(queries))
    return torch.cat(left)


def _rounded(memory: Tensor, mean: Tensor) -> tuple[Tensor, float, float]:
    """Rows (N,D) minus their ``mean`` (D,) in bfloat16, the largest length of a row, and the largest rounding error.

    The mean adds the same to all products of a query; without it, products and their errors are smaller.
    """
    out = torch.empty_like(memory, dtype=torch.bfloat16)
    longest, lost = [], []
    for rows, rounded in zip(memory.split(256), out.split(256)):  # so few that they stay in the cache
        centred = rows - mean
        rounded.copy_(centred)
        longest.append(float(rounded.float().norm(dim=1).max()))
        lost.append(float((centred - rounded).norm(dim=1).max()))
    return out, max(longest), max(lost)


def _dot_products(memory: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
    """Products (Q,C) of each query with its ``rows`` (Q,C), computed as a sampled product, which copies no rows."""
    border = torch.arange(0, rows.numel() + 1, rows.shape[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch calls its CSR layout beta
        pattern = torch.sparse_csr_tensor(
            border, rows.flatten(), queries.new_zeros(rows.numel()), (len(queries), len(memory)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, queries, memory.T, beta=0.0).values().view(rows.shape)


def _nearest_of_all(memory: Tensor, queries: Tensor, k: int, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and rows (Q,k) by float32 products with all rows; the Q queries must fit a tile."""
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


@cache
def _by_convolution() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than MKL, which is slow on other processors than Intel's."""
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
    """The k largest of each column of ``similar`` (N,Q): values (Q,k), descending, and rows; ties: lower row first."""
    n, columns = len(similar), similar.T
    k, more = min(k, n), min(k + 1, n)  # one more than needed, to detect a tie at the border
    candidates, rows = _promising(similar, more, _BLOCKS)
    value, at = candidates.topk(more, dim=1)
    row = rows(at)
    # among equal values, which come first and which are in at all is topk's whim
    equal = value[:, 1:] == value[:, :-1]
    tied, beyond = equal.any(1).nonzero()[:, 0], equal[:, k - 1 :].nonzero()[:, 0]
    value, row = value[:, :k], row[:, :k]
    value[tied], row[tied] = _in_order(value[tied], row[tied])
    for i in beyond.tolist():
        last = (columns[i] == value[i, -1]).nonzero()[:, 0]
        nearer = int((value[i] > value[i, -1]).sum())
        row[i, nearer:] = last[: k - nearer]
    return value, row


def _promising(values: Tensor, k: int, sizes: Sequence[int]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Candidates (Q,C) that contain the k largest of each column of ``values`` (N,Q), and a function to locate them.

    The k largest lie in the k blocks with the largest maxima. The same method finds these blocks, with blocks of the
    next of ``sizes``. The function turns places (Q,M) among the candidates into rows of ``values``.
    """
    n, q = values.shape
    blocks = n // sizes[0] if sizes else 0
    if blocks <= k:
        return values.T, lambda at: at
    # block j = rows j, j + blocks, ...: the maximum runs along contiguous memory; left-over rows always compete
    size, covered = sizes[0], sizes[0] * blocks
    grid = values[:covered].view(size, blocks, q)
    maxima, place = _promising(grid.amax(0), k, sizes[1:])
    block = place(maxima.topk(k, dim=1, sorted=False).indices)
    candidates, chosen = values.new_empty((size * k + n - covered, q)), block.T.contiguous()
    for part, out in zip(grid, candidates.split(k)):
        torch.gather(part, 0, chosen, out=out)
    candidates[size * k :] = values[covered:]

    def rows(at: Tensor) -> Tensor:
        inside = at // k * blocks + block.gather(1, at % k)
        return torch.where(at < size * k, inside, at - size * k + covered)

    return candidates.T, rows


def _in_order(value: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Values (Q,k) in descending order, ties by the lower row first, and their rows."""
    row, order = row.sort(dim=1)
    value, order = value.gather(1, order).sort(dim=1, descending=True, stable=True)
    return value, row.gather(1, order)
