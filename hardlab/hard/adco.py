"""AdCo (arXiv 2011.08435): the negatives are a second player, vectors that climb the loss the network descends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from hardlab import ranks, transfer
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player, Step
from hardlab.needs import Setting
from hardlab.negatives import Borrowed, LastQueries, Negatives
from hardlab.numbers import Count, Decay, Momentum, RateOrZero, real
from hardlab.types import HardlabError, Progress
from hardlab.views import Look

SIZE = 65536  # negatives, where the method has no queue
_COLDEST = 1 / 70  # |cos| <= 1, so above it exp(cos / temperature) needs no shift: 1e8 terms still fit a float32
_TILE, _TILE_GPU = 2**20, 2**22  # similarities at once: on a CPU 4 MiB stay in its cache, and threads meet seldom


class KeysOfOthers(Negatives):
    """The other images' keys of the batch, as in AdCo's code: (N,N), -inf at an own key."""

    mixes = True

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.T).masked_fill(torch.eye(len(q), dtype=torch.bool, device=q.device), -torch.inf)


class Known(torch.autograd.Function):
    """A value (N,) or () with a precomputed gradient with respect to x, (N,D) or of x's shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        if outer[0].ndim:
            return outer[0][:, None] * grad, None, None
        # the bank's gradient fills a lasting buffer; on a CPU, a product would be one more copy of it
        known = transfer.on_host(outer[0]) and bool(outer[0] == 1)
        return grad if known else outer[0] * grad, None, None


class Learned(Negatives):
    """K free vectors W as negatives n = W / |W|, beside ``inside``, the batch's own.

    ``loss`` goes over the bank once, in tiles: it gives the loss, its gradient for the queries, and, inside
    ``record``, ``descent``, minus the gradient of the adversary's loss wrt W. vectors: (K,D). AdCo, Eqs. 1, 4-7.
    """

    mixes = True  # the adversary answers to all queries of a batch at once

    def __init__(
        self, size: int, dim: int, inside: Negatives | None, temperature: float, objective: str, wrt: str
    ) -> None:
        super().__init__()
        self.vectors = nn.Parameter(F.normalize(torch.randn(size, dim), dim=1))
        self.inside, self.temperature, self.objective, self.wrt = inside, temperature, objective, wrt
        self.recording = False  # whether losses are those of a step, to which the adversary responds
        self.share = 1.0  # of one loss in that of the step
        self.mass: dict[str, Tensor] = {}  # of the softmax, in the last loss
        self.descent, self.tiles = torch.empty(0), [torch.empty(0)]

    @contextmanager
    def record(self) -> Iterator[None]:
        """Forget the last step's direction and record the losses inside: those of a step's own forward pass.

        Losses computed elsewhere (in a selection or an attack) are not part of the game.
        """
        self.recording, self.value = True, self.vectors.new_zeros(())
        self.fresh = True  # the direction is overwritten, not added to
        try:
            yield
        finally:
            self.recording = False

    def stored(self) -> Tensor:
        return F.normalize(self.vectors.detach(), dim=1)

    def snapshot(self) -> Mapping[str, Tensor]:
        """Up to 4096 negatives, evenly taken, and their norms |W|."""
        w = self.vectors.detach()
        w = w[:: math.ceil(len(w) / 4096)]
        return {"negatives": F.normalize(w, dim=1), "norms": torch.linalg.vector_norm(w, dim=1)}

    def rows(self, q: Tensor) -> int:
        """Vectors of a tile."""
        return max(1, (_TILE if transfer.on_host(q) else _TILE_GPU) // len(q))

    def bank(self, q: Tensor) -> Iterator[Tensor]:
        """The unit vectors, tile by tile: never a copy of the whole bank."""
        for w in self.vectors.detach().split(self.rows(q)):
            yield F.normalize(w, dim=1)

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        """(N,D), (N,D) -> (N,M+K) similarities, those to learned negatives without a gradient."""
        columns = [] if self.inside is None else [self.inside.similarities(q, k)]
        return torch.cat([*columns, *(q @ n.T for n in self.bank(q))], dim=1)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        columns = [] if self.inside is None else [self.inside.similarities(q, k).amax(1)]
        return torch.stack([*columns, *((q @ n.T).amax(1) for n in self.bank(q))]).amax(0)

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        record = self.recording and torch.is_grad_enabled()
        mass, pull, sharp = self.sweep(q.detach(), temperature, record)
        learned = Known.apply(q, mass.log(), pull / (temperature * mass[:, None]))  # (N,)
        own = (q * k).sum(1)
        columns = torch.cat([own[:, None], *([] if self.inside is None else [self.inside.similarities(q, k)])], dim=1)
        batch = torch.logsumexp(columns / temperature, dim=1)
        total = torch.logaddexp(batch, learned)
        loss = total - own / temperature
        if record:
            with torch.no_grad():
                of_all = torch.logaddexp(torch.logsumexp(columns / self.temperature, dim=1), sharp.log())  # (N,)
                self.climb(q, of_all, own)
                p_own = (own / temperature - total).exp()
                p_keys = (batch - total).exp() - p_own
                self.mass = {"own": p_own.mean(), "keys": p_keys.mean(), "negatives": (learned - total).exp().mean()}
                self.mass["negatives_sharp"] = (sharp.log() - of_all).exp().mean()
        return loss

    @torch.no_grad()
    def sweep(self, q: Tensor, temperature: float, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) sum of exp(cos / temperature) over the bank, (N,D) the same sum over the vectors, and (N,) the sum at
        the adversary's temperature, whose exponentials stay in ``tiles`` for ``climb`` where ``keep``."""
        mass, pull, sharp = q.new_zeros(len(q)), torch.zeros_like(q), q.new_zeros(len(q))
        if keep:
            self._room(q)
        scaled, ratio = q / self.temperature, self.temperature / temperature
        for i, n in enumerate(self.bank(q)):
            cold = torch.mm(scaled, n.T, out=self.tiles[i]) if keep else scaled @ n.T
            warm = (cold * ratio).exp_()
            mass += warm.sum(1)
            pull.addmm_(warm, n)
            if keep:
                sharp += cold.exp_().sum(1)
        return mass, pull, sharp

    def climb(self, q: Tensor, of_all: Tensor, own: Tensor) -> None:
        """Write, or add, minus the ascent direction into ``descent``; of_all: (N,) log of the softmax's denominator."""
        if self.objective == "contrastive":
            # dL/dn_k = sum_i p(n_k | q_i) q_i / (N temperature): Eq. 6
            pulls = q * (-self.share / (self.temperature * len(q)) * (-of_all).exp())[:, None]
            self.value += self.share * (of_all - own / self.temperature).mean()
        else:
            pulls = -self.share * q  # dJ/dn_k = sum_i p(q_i | n_k) q_i: Eq. 7
        size = self.rows(q)
        for p, w, out in zip(self.tiles, self.vectors.detach().split(size), self.descent.split(size), strict=True):
            g = p.T @ pulls
            if self.objective == "alternative":
                of_tile = p.sum(0)
                g /= of_tile[:, None]
                self.value += self.share * self.temperature * of_tile.log().sum()
            if self.wrt == "vector":  # through the normalisation: no radial part
                norm = torch.linalg.vector_norm(w, dim=1, keepdim=True)
                radial = torch.linalg.vecdot(w, g)[:, None] / norm.square()
                g = g.addcmul_(w, radial, value=-1).div_(norm)
            if self.fresh:
                out.copy_(g)
            else:
                out.add_(g)
        self.fresh = False

    def _room(self, q: Tensor) -> None:
        """Lasting buffers: fresh memory for them would be page-faulted at every step."""
        parts = self.vectors.detach().split(self.rows(q))
        shapes = [(len(q), len(w)) for w in parts]
        if (
            [t.shape for t in self.tiles] != shapes
            or self.tiles[0].device != q.device
            or self.tiles[0].dtype != q.dtype
        ):
            self.tiles = [q.new_empty(shape) for shape in shapes]
            self.descent = torch.empty_like(self.vectors.detach())


class AdCo(Hard):
    """Replaces a method's queue by as many vectors that are trained to maximise the contrastive loss. AdCo, Eqs. 2-6.

    The vectors move after the network, against the queries from before its step, in the same pass over the bank.

    size: K, the number of vectors; None = the size of the queue that they replace, or 65536 (the paper's K) without
        one.
    temperature: the adversary's, 0.02 in the paper; the network's is the method's. At least 1/70.
    lr, momentum, weight_decay: of the adversary's SGD.
    schedule: of the adversary's rate: ``constant`` (the code) or ``cosine`` (a reading of the text).
    inbatch_keys: whether the keys of the other images are negatives too, as in the code.
    objective: the ``contrastive`` loss, or the ``alternative`` J of Sec. 4.1.
    wrt: gradient for the ``vector`` W (the code) or for the ``unit`` vector n (Eq. 4).
    renorm: whether W is normalised after each step (the text).
    init: ``keys`` of the first steps, after which the key encoder restarts from the network (the code), or ``random``.
    fill_keys: whether the keys of the other images are negatives in those first steps as well; in the code they are
        not.
    """

    owns_loss = borrows = True
    needs: Mapping[str, str] = {"negatives": "learns the negatives of a contrastive loss"}
    SMALL: Mapping[str, Any] = {"size": 64, "init": "random"}

    def __init__(
        self,
        size: Count | None = None,
        temperature: Annotated[float, real(1 / 70, 1e3)] = 0.02,
        lr: RateOrZero = 3.0,
        momentum: Momentum = 0.9,
        weight_decay: Decay = 1e-4,
        schedule: Literal["constant", "cosine"] = "constant",
        inbatch_keys: bool = True,
        objective: Literal["contrastive", "alternative"] = "contrastive",
        wrt: Literal["vector", "unit"] = "vector",
        renorm: bool = False,
        init: Literal["keys", "random"] = "keys",
        fill_keys: bool = True,
    ) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise HardlabError(f"AdCo with size={size}: at least 1 negative; the paper has 65536.")
        if temperature < _COLDEST:
            raise HardlabError(f"AdCo with temperature={temperature}: at least 1/70; the paper has 0.02.")
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise HardlabError(
                f"AdCo with lr={lr}, momentum={momentum}, weight_decay={weight_decay}: rate and decay are at least 0, "
                "momentum is in [0, 1)."
            )
        self.size, self.temperature, self.lr, self.momentum = size, temperature, lr, momentum
        self.weight_decay, self.schedule, self.inbatch_keys = weight_decay, schedule, inbatch_keys
        self.objective, self.wrt, self.renorm, self.init = objective, wrt, renorm, init
        self.fill_keys = fill_keys
        self.filling = 0  # steps whose keys become the first negatives
        self.moves = True
        self.opt: SGD | None = None
        self.queries = LastQueries()

    @staticmethod
    def check_run(at: Setting, size: int | None, init: str) -> None:
        check_temperature(at.method.options.get("temperature", _COLDEST))
        if init == "keys" and at.steps is not None:
            check_filling(size or at.method.options.get("queue", SIZE), at.steps, at.batch_size)

    def install(self, method: Method) -> None:
        super().install(method)
        contrastive: Any = method
        replaced = method.negatives
        assert replaced is not None  # as ``needs`` demands
        check_temperature(contrastive.temperature)
        if method.borrowed:
            raise HardlabError("Another strategy has replaced the negatives of this run: that can be done once.")
        kept = len(replaced.stored())
        batch = KeysOfOthers() if kept else replaced
        size = self.size or kept or SIZE
        self.inside = batch if self.inbatch_keys else None
        inside = self.inside
        self.bank = Learned(size, contrastive.dim, inside, self.temperature, self.objective, self.wrt)
        method.negatives = Borrowed(self.bank)
        self.bank.share = 1.0 if getattr(method, "sums", False) else 1 / len(method.pairs)

    def on_start(self, images: Images, batch_size: int) -> None:
        k, d = self.bank.vectors.shape
        self.batch_size = batch_size
        self.queries.start(batch_size, d)
        if self.init == "keys":
            self.filling = filling(k, batch_size)

    def check_steps(self, steps: int, epochs: int) -> None:
        if self.init == "keys":
            check_filling(len(self.bank.vectors), steps, self.batch_size)

    def before_step(self, at: Progress) -> None:
        self.moves = at.step >= self.filling
        self.bank.inside = self.inside if self.moves or self.fill_keys else None
        share = 0.5 * (1 + math.cos(math.pi * at.share)) if self.schedule == "cosine" else 1.0
        if self.opt is not None:
            self.opt.param_groups[0]["lr"] = self.lr * share

    def around(self, step: Step) -> AbstractContextManager[None]:
        return self.bank.record() if self.moves else nullcontext()

    def players(self, method: Method) -> list[Player]:
        w = self.bank.vectors
        # fused: one pass over the bank, no copies of it
        self.opt = SGD([w], self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)
        moves = lambda step: int(step >= self.filling)  # noqa: E731
        # not joint: the forward pass leaves the gradient, so that nobody keeps the learner's graph for it
        return [Player("negatives", [w], self.opt, self.loss, moves)]

    def loss(self, step: Step) -> Tensor:
        """() what the adversary minimises: minus the contrastive loss at its own temperature."""
        return Known.apply(self.bank.vectors, -self.bank.value, self.bank.descent)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        w, out, at, method = self.bank.vectors, step.out, step.at, step.method
        a, b = method.pairs[0]
        if at.step < self.filling:
            rows = w[at.step * self.batch_size : (at.step + 1) * self.batch_size]
            rows.copy_(ranks.whole(out.t[b])[: len(rows)])
            if at.step + 1 == self.filling:
                method.catch_up()
        elif self.renorm:
            for rows in w.split(4096):
                rows.copy_(F.normalize(rows, dim=1))
        self.queries.note(at.step, ranks.whole(out.q[a]), ranks.whole(out.views.index))

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """norm: mean |W|. mass_*: mean share of the softmax on an image's own key, the other keys of the batch, the
        learned negatives (``sharp``: at the adversary's temperature). cos_nearest: of a negative to its next query."""
        last = self.queries.seen()["queries"]
        near = torch.cat([(n @ last.T).amax(1) for n in self.bank.bank(last)])
        return {
            "norm": float(torch.linalg.vector_norm(self.bank.vectors, dim=1).mean()),
            "cos_nearest": float(near.mean()),
            **{f"mass_{name}": float(x) for name, x in self.bank.mass.items()},
        }

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """The snapshot of the bank, and the queries of the last six batches (Fig. 2)."""
        return {**self.bank.snapshot(), **self.queries.seen()}


def filling(size: int, batch_size: int) -> int:
    """The number of steps whose keys fill ``size`` negatives."""
    return math.ceil(size / batch_size)


def check_filling(size: int, steps: int, batch_size: int) -> None:
    """Refuse negatives that take the whole training to fill. Raises HardlabError."""
    if steps and (fill := filling(size, batch_size)) >= steps:
        raise HardlabError(
            f"hard.adco.size={size} takes {fill} steps to fill and this run has "
            f"{steps}: no negative would learn. Take at most {(steps - 1) * batch_size // 2}, or "
            "hard.adco.init=random."
        )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature of the learner at which float32 cannot hold the exponentials. Raises HardlabError."""
    if temperature < _COLDEST:
        raise HardlabError(f"AdCo on method.temperature={temperature}: at least 1/70; paper: 0.12.")
