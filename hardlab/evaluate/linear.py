"""Linear probes on frozen features: the published recipes, and the converged optimum of the same objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, Adamax, AdamW, Optimizer

from hardlab import numbers
from hardlab.evaluate.features import check_features, largest
from hardlab.optim import LARC, LARS
from hardlab.registry import unknown
from hardlab.types import HardlabError


def _steps(done: float, factor: float, *at: float) -> float:
    """``factor`` once for each share of the epochs that is behind."""
    return factor ** sum(done >= a - 1e-9 for a in at)  # 7 / 20 is a little below 0.35


def _larc(groups: list[dict[str, Any]], lr: float, decay: float) -> Optimizer:
    return LARC([{**group, "weight_decay": decay} for group in groups], lr)


# name -> (parameter groups, learning rate, weight decay) -> optimiser
OPTIMIZERS: Mapping[str, Callable[[list[dict[str, Any]], float, float], Optimizer]] = {
    "sgd": lambda groups, lr, decay: SGD(groups, lr, momentum=0.9, weight_decay=decay),
    "nesterov": lambda groups, lr, decay: SGD(groups, lr, momentum=0.9, weight_decay=decay, nesterov=True),
    "lars": lambda groups, lr, decay: LARS(groups, lr, weight_decay=decay),
    "larc": _larc,
    "adam": lambda groups, lr, decay: Adam(groups, lr, weight_decay=decay),
    "adamw": lambda groups, lr, decay: AdamW(groups, lr, weight_decay=decay),
    "adamax": lambda groups, lr, decay: Adamax(groups, lr, weight_decay=decay),
}
# name -> function from the share of epochs done, in [0,1), to a factor of the learning rate, set once per epoch
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "oscillating": lambda done: 0.5 * (1 + math.cos(math.pi * done * 100 / 12)),  # AdCo: T_max = 12 of 100 epochs
    "step-60-80": lambda done: _steps(done, 0.1, 0.6, 0.8),
    "step-35-70": lambda done: _steps(done, 0.1, 0.35, 0.7),  # epochs 7 and 14 of 20
    "fifth-60-80": lambda done: _steps(done, 0.2, 0.6, 0.8),  # epochs 12 and 16 of 20
}
# orders (rows of each batch) -> features (B,D) of a fresh view of those rows
Fresh = Callable[[Sequence[Tensor]], Iterable[Tensor]]
Penalty = float | Tensor  # one for all columns, or (D,)
_SMALLEST, _GREATEST = 1e-6, 1e6  # features within these limits need no scaling
_SHORT = 1e-3  # an optimum counts as reached if the gradient of the whitened features is not larger
_TILE = 2**20  # numbers in a tile of features: 4 MiB, still in cache when the gradient reads it again


class Probe(NamedTuple):
    """A trained linear classifier: scores of f (N,D) are ``f @ weight.T + bias``.

    weight: (C,D).
    bias: (C,).
    top1, top5: accuracy on the test features after each epoch (``lbfgs``: at the optimum); top5 is empty below 6
        classes.
    objective: final mean cross entropy on the training features plus the penalty, if there is one.
    steps: number of updates.
    """

    weight: Tensor
    bias: Tensor
    top1: list[float]
    top5: list[float]
    objective: float
    steps: int


@torch.no_grad()
def linear_probe(
    train_f: Tensor,
    train_y: Tensor,
    test_f: Tensor,
    test_y: Tensor,
    *,
    seed: int = 0,
    optimizer: str = "sgd",
    lr: float = 30.0,
    batch_size: int = 256,
    epochs: int = 100,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    final_lr: float = 0.0,
    fresh: Fresh | None = None,
) -> Probe:
    """Train a linear classifier by minibatches; weights start at N(0, 0.01²), the bias at 0.

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). The defaults are the public ones for CIFAR (moco's colab
    notebook, PatrickHua/SimSiam, hvp): SGD with momentum 0.9, rate ``lr * batch_size / 256``, no decay, cosine.
    final_lr: the end of the schedule instead of 0, scaled like ``lr``. fresh: returns an epoch's features of newly
    augmented views; None = the cached ``train_f``. seed: decides everything random. Raises HardlabError if the probe
    diverges, or the features are too small to train on.
    """
    classes = check_features(train_f, train_y, test_f, test_y)
    seed, epochs, batch_size, lr = check_training(optimizer, schedule, seed, epochs, batch_size, lr)
    weight_decay = numbers.fit("weight_decay", numbers.Decay, weight_decay)
    final_lr = numbers.fit("final_lr", numbers.RateOrZero, final_lr)
    if 0 < (top := largest(train_f)) < _SMALLEST:
        raise HardlabError(f"no training feature exceeds {top:.1g}, too little for a probe to learn from: scale them.")
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a GPU sees the same numbers
    device = train_f.device
    weight = torch.empty(classes, train_f.shape[1]).normal_(0, 0.01, generator=generator).to(device)
    bias = torch.zeros(classes, device=device)
    rate = lr * batch_size / 256
    opt = OPTIMIZERS[optimizer]([{"params": [weight, bias]}], rate, weight_decay)
    top1: list[float] = []
    top5: list[float] = []
    steps = 0
    for epoch in range(epochs):
        for group in opt.param_groups:
            group["lr"] = rate * (final_lr / lr + (1 - final_lr / lr) * SCHEDULES[schedule](epoch / epochs))
        order = torch.randperm(len(train_f), generator=generator).to(device).split(batch_size)
        for rows, f in zip(order, fresh(order) if fresh else (train_f[rows] for rows in order)):
            _, grad_w, grad_b = _cross_entropy(f.float(), train_y[rows], weight, bias)
            weight.grad, bias.grad = grad_w / len(rows), grad_b / len(rows)
            opt.step()
            steps += 1
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise HardlabError(
                f"the linear probe diverged in epoch {epoch + 1} at lr={lr}: lower it or scale the features."
            )
        accuracy(test_f, test_y, weight, bias, top1, top5)
    return Probe(weight, bias, top1, top5, _objective(train_f, train_y, weight, bias, 0.0)[0], steps)


def check_training(
    optimizer: str, schedule: str, seed: int, epochs: int, batch_size: int, lr: float
) -> tuple[int, int, int, float]:
    """Convert the numbers to their types; HardlabError for settings with which a classifier cannot be trained."""
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS, "A classifier")
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES, "A classifier")
    return (
        numbers.fit("seed", numbers.Seed, seed),
        numbers.fit("epochs", numbers.Count, epochs),
        numbers.fit("batch_size", numbers.Count, batch_size),
        numbers.fit("lr", numbers.Rate, lr),
    )


def held_out(labels: Tensor, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """Split rows into those to train on and those to choose a setting on: ``share`` of each class, at least one of two.

    labels (N,). Both results are ascending and the same at every call. Raises HardlabError if nothing can be held out.
    """
    out = []
    for c in labels.unique():
        rows = (labels == c).nonzero()[:, 0]
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        # evenly over the class: sets are often sorted, and a few adjacent rows would be a poor sample
        out.append(rows[torch.arange(count, device=rows.device) * len(rows) // max(1, count)])
    chosen = torch.cat(out).sort().values
    if not len(chosen):
        raise HardlabError("each class has one labelled image: none can be held out to choose a learning rate on.")
    rest = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    rest[chosen] = False
    return rest.nonzero()[:, 0], chosen


def lbfgs(
    train_f: Tensor,
    train_y: Tensor,
    test_f: Tensor,
    test_y: Tensor,
    *,
    c: float = 1.0,
    tolerance: float = 1e-5,
    max_iter: int = 1000,
) -> Probe:
    """Multinomial logistic regression at its optimum: full batch, nothing random.

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). Minimises mean cross entropy + |weight|² / (2 c N), the
    objective of scikit-learn's ``LogisticRegression(C=c)``, until no entry of the gradient that L-BFGS sees exceeds
    ``tolerance`` or float32 shows no progress. Raises HardlabError if that takes more than ``max_iter`` iterations,
    float32 stops short of the optimum, or features are so small that the penalty leaves only the class frequencies.

    L-BFGS works on centred, whitened features. The objective is unchanged, because the bias absorbs the mean and the
    penalty applies to the weight of the original features; whitening only improves the conditioning. Columns of another
    order of magnitude than 1, or far from 0, are scaled and shifted for the computation, and so is their penalty.
    """
    classes = check_features(train_f, train_y, test_f, test_y)
    train_f, test_f = train_f.detach(), test_f.detach()  # L-BFGS asks for its loss with gradients on
    c = numbers.fit("c", numbers.Inverse, c)
    tolerance = numbers.fit("tolerance", numbers.Tolerance, tolerance)
    max_iter = numbers.fit("max_iter", numbers.Count, max_iter)
    common = 1 / (c * len(train_f))
    penalty: Penalty = common
    frame = _frame(train_f, common)
    if frame is not None:
        penalties = common / frame.scale.square()  # the penalty of the weight in the frame
        if penalties.min() > 1e6:
            raise HardlabError(
                f"the regression learned nothing but the class frequencies: the penalty of c={c} is too strong for "
                f"features of at most {largest(train_f):.1g}; raise c or scale them."
            )
        penalty = penalties.clamp(max=1e12).float()
    mean, root = _metric(train_f, 10 * penalty, frame)
    inner = torch.zeros(classes, len(mean), device=train_f.device)  # the weight of the whitened features
    offset = torch.zeros(classes, device=train_f.device)

    def given() -> tuple[Tensor, Tensor]:  # weight and bias of the features as given
        weight = torch.linalg.solve_triangular(root, inner, upper=False, left=False)
        return weight, offset - weight @ mean

    def closure() -> float:
        weight, bias = given()
        value, grad_w, grad_b = _objective(train_f, train_y, weight, bias, penalty, frame)
        centred = grad_w - grad_b[:, None] * mean
        whitened = torch.linalg.solve_triangular(root.T, centred, upper=True, left=False)
        inner.grad, offset.grad = whitened.contiguous(), grad_b
        return value

    opt = LBFGS(
        [inner, offset],
        max_iter=max_iter,
        max_eval=4 * max_iter,
        tolerance_grad=tolerance,
        tolerance_change=1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    opt.step(closure)
    steps, passes = opt.state[inner]["n_iter"], opt.state[inner]["func_evals"]
    weight, bias = given()
    value = closure()
    assert inner.grad is not None
    if (steps >= max_iter or passes >= 4 * max_iter) and inner.grad.abs().max() > tolerance:
        raise HardlabError(
            f"the regression did not converge in {steps} iterations: raise max_iter or tolerance, or lower c={c}."
        )
    if not (reached := float(inner.grad.abs().max())) <= max(_SHORT, tolerance):
        raise HardlabError(
            f"the regression did not converge: float32 rounding stops it at a gradient of {reached:.1g}; "
            "standardise the features."
        )
    top1: list[float] = []
    top5: list[float] = []
    accuracy(test_f, test_y, weight, bias, top1, top5, frame)
    if frame is not None:
        exact = weight / frame.scale
        weight, bias = exact.float(), (bias - exact @ frame.shift).float()
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise HardlabError(f"weights overflow float32 for features of at most {largest(train_f):.1g}: scale them.")
    return Probe(weight, bias, top1, top5, value, steps)


class _Frame(NamedTuple):
    """The transform (x - shift) / scale of columns of features: both (D,) float64, scale powers of two."""

    shift: Tensor
    scale: Tensor


def _frame(x: Tensor, penalty: float) -> _Frame | None:
    """The frame for features (N,D) that need one in float32; None for all others."""
    low, high = (side.double() for side in x.aminmax(dim=0))
    middle, reach = low / 2 + high / 2, high / 2 - low / 2
    shifted = bool((middle.abs()[reach > 0] > 100 * reach[reach > 0]).any())
    size = torch.maximum(low.abs(), high.abs())
    top = float(size.max())
    if not shifted and (_SMALLEST <= top <= _GREATEST or top == 0) and penalty > 1e-15:
        return None
    size = reach if shifted else size
    shift = middle if shifted else torch.zeros_like(middle)
    return _Frame(shift, torch.where(size > 0, torch.exp2(size.clamp_min(1e-300).log2().round()), 1.0))


def _metric(x: Tensor, ridge: Penalty, frame: _Frame | None = None) -> tuple[Tensor, Tensor]:
    """Mean (D,) of features (N,D) and lower Cholesky root (D,D) of their covariance + ridge, from some of the rows.

    Only the path of the optimiser depends on them, not the optimum. ridge is ten times the penalty, because the
    curvature of the cross entropy is about a tenth of the covariance. frame: as in ``_framed``.
    """
    d = x.shape[1]
    sample = x[:: max(1, len(x) // max(4096, 4 * d))]
    mean = torch.zeros(d, device=x.device)
    for tile in sample.split(max(1, _TILE // d)):
        mean += _framed(tile, frame).sum(0) / len(sample)
    cov = torch.zeros(d, d, device=x.device)
    for tile in sample.split(max(1, _TILE // d)):
        centred = _framed(tile, frame) - mean
        cov.addmm_(centred.T, centred, alpha=1 / len(sample))
    cov.diagonal().add_(ridge)
    if frame is not None:  # a column that does not change has next to no penalty either
        cov.diagonal().clamp_(min=1e-8)
    spread = cov.diagonal().sqrt()
    correlation = cov / torch.outer(spread, spread)
    correlation.diagonal().add_(1e-5)  # a sample in float32 cannot resolve its smallest eigenvalues
    return mean, spread[:, None] * torch.linalg.cholesky(correlation)


def _objective(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: Penalty, frame: _Frame | None = None
) -> tuple[float, Tensor, Tensor]:
    """Mean cross entropy + penalty/2 |weight|² on (N,D) features, with the gradients (C,D) and (C,)."""
    loss = torch.zeros((), dtype=torch.float64, device=x.device)
    grad_w, grad_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for tile, true in _tiles(x, y, len(bias), frame):
        part, part_w, part_b = _cross_entropy(tile, true, weight, bias)
        loss, grad_w, grad_b = loss + part, grad_w.add_(part_w), grad_b.add_(part_b)
    value = loss / len(x) + 0.5 * (penalty * weight.double().square()).sum()
    return float(value), grad_w.div_(len(x)).add_(penalty * weight), grad_b.div_(len(x))


def _cross_entropy(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed cross entropy of (N,D) features with its gradients (C,D), (C,): softmax minus one-hot, times features."""
    log_p = torch.addmm(bias[:, None], weight, x.T).log_softmax(0)  # (C,N): few classes would make slow, short rows
    true = y[None]
    loss = -log_p.gather(0, true).sum(dtype=torch.float64)
    error = log_p.exp_()  # in place: the logarithm is not needed any more
    error.scatter_add_(0, true, error.new_full((1, 1), -1.0).expand_as(true))
    return loss, error @ x, error.sum(1)


def accuracy(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    top1: list[float],
    top5: list[float],
    frame: _Frame | None = None,
) -> None:
    """Append the accuracy on (Q,D) features to ``top1``, and to ``top5`` if there are more than 5 classes.

    frame: as in ``_framed``. Raises HardlabError if scores overflow float32, because infinities cannot be ranked.
    """
    hits1 = hits5 = 0
    for tile, true in _tiles(x, y, len(bias), frame):
        scores = torch.addmm(bias, tile, weight.T)  # (T,C)
        if not scores.isfinite().all():
            raise HardlabError("a classifier diverged: the scores of test features are beyond float32; scale them.")
        hits1 += int((scores.argmax(1) == true).sum())
        if len(bias) > 5:
            hits5 += int((scores.topk(5, dim=1).indices == true[:, None]).sum())
    top1.append(hits1 / len(x))
    if len(bias) > 5:
        top5.append(hits5 / len(x))


def _framed(x: Tensor, frame: _Frame | None) -> Tensor:
    """Features (N,D) in float32, transformed by the frame if there is one."""
    return x.float() if frame is None else ((x.double() - frame.shift) / frame.scale).float()


def _tiles(x: Tensor, y: Tensor, classes: int, frame: _Frame | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """(N,D) features and (N,) labels, a few rows at a time; frame: as in ``_framed``."""
    rows = max(1, _TILE // max(x.shape[1], classes))
    for tile, true in zip(x.split(rows), y.split(rows)):
        yield _framed(tile, frame), true
