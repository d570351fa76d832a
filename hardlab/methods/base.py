"""The base class of self-supervised methods: a predictor of pseudo-labels with a loss per sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from hardlab import ranks
from hardlab.data import Images
from hardlab.needs import no_crops
from hardlab.negatives import Negatives
from hardlab.types import Candidates, Drawn, Out, Progress, Rendered
from hardlab.views import Look

START = Progress(0, 1, 0, 1)


@dataclass(eq=False)
class Step:
    """A training step that passes through all hooks; each hook reads what earlier ones wrote.

    method: the learner.
    look: draws and renders views.
    drawn: the views of the batch as drawn.
    at: the progress of the run.
    low: whether networks compute in bf16.
    views: the current views, after the strategies so far have chosen, added to or rendered them.
    out: the result of the forward pass.
    terms: name -> loss (n,), ``base`` first.
    made: further forms of the views by the name of the strategy that offers them, each made on first use.
    kept: strategy -> values for its own later hooks.
    numbers: ``<strategy>.<name>`` -> number, on the device until logged.
    rates: player -> learning rate.
    seen: the candidates of a selection, for the view log.
    """

    method: Method
    look: Look
    drawn: Drawn
    at: Progress = START
    low: bool = False
    views: Drawn = field(init=False)
    out: Out = field(init=False)
    terms: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, Callable[[], Rendered]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Tensor | float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    seen: Candidates | None = None
    _means: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.views = self.drawn

    def autocast(self) -> torch.autocast:
        """A new autocast context with the precision of the networks."""
        # a context that also ran without gradient has cached weights that cut the graph
        return torch.autocast(self.drawn.raw.device.type, torch.bfloat16, enabled=self.low)

    def release(self) -> None:
        """Let go of the graph once every player has used it; later hooks read the same numbers."""
        self.out = self.out.detached()
        self.views = self.out.views
        self.terms = {name: t.detach() for name, t in self.terms.items()}
        self.numbers = {key: x.detach() if isinstance(x, Tensor) else x for key, x in self.numbers.items()}

    def means(self) -> dict[str, Tensor]:
        """Term -> its mean () over the rows of all ranks, on the device, without terms that have no rows."""
        if self._means is None:
            own = {name: t.detach().mean() for name, t in self.terms.items() if len(t)}
            self._means = dict(zip(own, ranks.averaged(list(own.values())), strict=True))  # type: ignore[arg-type]
        return self._means


class Player(NamedTuple):
    """A network or tensor that is optimised by an objective and an optimiser of its own.

    name: in metrics and checkpoints.
    params: the tensors that it optimises.
    opt: the optimiser of ``params``.
    objective: scalar to minimise (negate it to ascend).
    times: training step -> number of optimiser steps to take then, 0 = not due.
    joint: whether it differentiates the learner's graph, so that its gradients are computed before any player moves;
        the objective of any other player builds its own graph, after the learner's step.
    """

    name: str
    params: list[Tensor]
    opt: Optimizer
    objective: Callable[[Step], Tensor]
    times: Callable[[int], int] = lambda step: 1
    joint: bool = False


class Method(nn.Module):
    """Backbone and heads; ``forward`` is pure, and state changes only in ``after_step`` and ``on_epoch``.

    backbone: (N,3,S,S) -> (N,D) pooled features, with ``dim`` = D.
    pairs: (predicting slot, slot whose label is predicted); slot -1 is the un-augmented image.
    slots: number of large views.
    locals: number of small crops, set by ``multi_crop``.
    joint: whether all slots go through a network as one batch (one per size), so that they share BN statistics.
    shared: whether prediction and label come out of one pass (``both``).
    vectors: whether labels lie in the space of the predictions, so that distances between the two mean something.
    grouped: whether ``loss`` takes rows of one group as positives of each other.
    indexed: whether labels belong to rows of the data set, so that an image with index -1 has none.
    mixes_rows: whether the loss of a row depends on the others of the batch, as with negatives or correlations from it.
    negatives: those of a contrastive loss, with its ``temperature`` and the ``dim`` of its vectors.
    negatives_from: the "batch", the "memory" of earlier batches, or "" without negatives.
    evaluated: the names of ``networks``, which messages need without a network.
    SMALL: options that make it small enough for tests, and that draw no random numbers for a single image.
    NETWORK: the backbone that tests give it: the one that it is made for, if there is one.
    """

    pairs: Sequence[tuple[int, int]] = ((0, 1), (1, 0))
    slots = 2
    locals = 0
    joint = False
    shared = False
    vectors = False
    grouped = False
    indexed = False
    negatives_from: Literal["", "batch", "memory"] = ""
    mixes_rows = False
    evaluated: Sequence[str] = ("backbone",)
    SMALL: Mapping[str, Any] = {}
    NETWORK = "tiny"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features: int = cast(int, backbone.dim)
        self.negatives: Negatives | None = None

    @property
    def borrowed(self) -> bool:
        """Whether a strategy has replaced the negatives by its own."""
        return self.negatives is not None and self.negatives.borrowed

    @property
    def plain(self) -> bool:
        """Whether a pair contains the un-augmented image, slot -1."""
        return any(min(pair) < 0 for pair in self.pairs)

    # -------------------------------------------------------------------------------- set-up, before the first step

    @staticmethod
    def check_options(*args: Any, **options: Any) -> None:
        """Refuse options, by name, that exclude each other. Raises HardlabError.

        Read from the source and called before torch is loaded, as ``check_run``: both use nothing that needs it.
        """

    @staticmethod
    def check_run(*args: Any, **options: Any) -> None:
        """Refuse, with a ``HardlabError``, a ``needs.Setting`` that does not go with these options, by name."""

    def multi_crop(self, local: int) -> None:
        """Use ``local`` small crops beside the large views, or refuse with a ``HardlabError``."""
        if local:
            raise no_crops(type(self).__name__, local)

    def check_batch(self, batch_size: int) -> None:
        """Refuse, with a ``HardlabError`` and without data, a batch size that does not work."""

    def check_look(self, look: Look) -> None:
        """Refuse, with a ``HardlabError``, images that are rendered by this look."""

    def on_start(self, images: Images, batch_size: int) -> None:
        """Called once, before training and restoring a checkpoint, to make tensors sized by the data; or refuse."""

    def constant_rate(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate is not scheduled."""
        return ()

    def players(self) -> list[Player]:
        """Further players, which optimise parameters of their own."""
        return []

    def networks(self) -> Mapping[str, nn.Module]:
        """The networks whose pooled features can be evaluated; first the one of the paper's main result."""
        return {"backbone": self.backbone}

    # ------------------------------------------------------------------------------------------------ one forward

    def pooled(self, x: Tensor | Sequence[Tensor], net: nn.Module | None = None) -> Tensor:
        """Images, or a list of them by size -> features (N,D) of ``net`` (the backbone), by one pass per size."""
        net = self.backbone if net is None else net
        return net(x) if isinstance(x, Tensor) else torch.cat([net(part) for part in x])

    def query(self, x: Any) -> Tensor:
        """Predict: images (N,3,S,S), or a list of them by size -> (N,D), with gradient."""
        return self.both(x, None)[0]

    def target(self, x: Any, index: Tensor | None) -> Tensor:
        """Compute pseudo-labels: images and their rows (N,) in the data set -> (N,...)."""
        return self.both(x, index)[1]

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prediction and label of the same pixels; methods that share the pass override this."""
        return self.query(x), self.target(x, index)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        """The loss (N,) of predictions (N,D) and pseudo-labels (N,...). group: (N,) groups of positives."""
        raise TypeError(f"{type(self).__name__} defines no per-sample loss")

    def candidates(self, n: int, local: int = 0) -> Sequence[tuple[int, ...]]:
        """The tuples of slots that a selection may choose from ``n`` large and ``local`` small views: all pairs."""
        return list(combinations(range(n), self.slots))

    def embed(
        self, v: Rendered, q_slots: Iterable[int], t_slots: Iterable[int], joint: bool | None = None
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Predictions (B,D) of ``q_slots`` and labels of ``t_slots``, each slot encoded once.

        joint: one batch of all slots (shared BN statistics) or one forward per slot; None = as the method does.
        Labels that come with the views are not computed again, unless prediction and label share a pass.
        """
        q_wanted, t_wanted = sorted(set(q_slots)), sorted(set(t_slots))
        joint = self.joint if joint is None else joint
        if not self.shared:
            known = {i: v.labels[i] for i in t_wanted if i in v.labels}
            left = [i for i in t_wanted if i not in known]
            q = by_slot(self.query, v, q_wanted, joint)
            t = by_slot(lambda x: self.target(x, v.index.repeat(_rows(x) // len(v.index))), v, left, joint)
            return q, known | t
        rows = by_slot(lambda x: self.both(x, v.index.repeat(_rows(x) // len(v.index))), v,
                        sorted({*q_wanted, *t_wanted}), joint)  # fmt: skip
        return {i: rows[i][0] for i in q_wanted}, {i: rows[i][1] for i in t_wanted}

    def score(
        self,
        q: Mapping[int, Tensor],
        t: Mapping[int, Tensor],
        pick: Sequence[int] | None = None,
        group: Tensor | None = None,
        known: dict[tuple[int, int], Tensor] | None = None,
    ) -> Tensor:
        """The mean loss (B,) over the method's pairs, for the slots ``pick`` instead of 0, 1, ...

        known: cache of losses (B,) by pair of slots, for many picks with common pairs.
        """
        known = {} if known is None else known

        def at(i: int) -> int:
            return i if pick is None or i < 0 else pick[i]

        device = next(iter(q.values())).device.type
        with torch.autocast(device, enabled=False):  # similarities in float32 even if the network ran in bf16
            for a, b in ((at(a), at(b)) for a, b in self.pairs):
                if (a, b) not in known:
                    known[a, b] = self._rows(_full(q[a]), _full(t[b]), group)
        return torch.stack([known[at(a), at(b)] for a, b in self.pairs]).mean(0)

    @property
    def mixes(self) -> bool:
        """Whether the loss of a row depends on the others of the batch, by itself or by its negatives."""
        return self.mixes_rows or (self.negatives is not None and self.negatives.mixes)

    def _rows(self, q: Tensor, t: Tensor, group: Tensor | None) -> Tensor:
        """``loss`` of this rank's rows, among the rows of all ranks where rows mix."""
        if ranks.size() == 1 or not self.mixes:
            return self.loss(q, t, group)
        every = ranks.whole(q), ranks.whole(t), None if group is None else ranks.whole(group)
        with ranks.alone():
            loss = self.loss(*every)
        return ranks.own(loss)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        """Whether the own label ranks first, (N,D), (N,...) -> (N,) in [0,1]; by default among the batch's labels."""
        similarity = F.normalize(q, dim=1) @ F.normalize(t, dim=1).T
        return (similarity.argmax(1) == torch.arange(len(q), device=q.device)).float()

    @torch.no_grad()
    def accuracy(self, q: Mapping[int, Tensor], t: Mapping[int, Tensor]) -> Tensor:
        """The top-1 accuracy (B,) on pseudo-labels: the share of the method's pairs whose own label ranks first."""
        with torch.autocast(next(iter(q.values())).device.type, enabled=False):
            return torch.stack([self.right(_full(q[a]), _full(t[b])) for a, b in self.pairs]).mean(0)

    def forward(self, v: Rendered) -> Out:
        """The predictions, labels and losses (B,) of a step; changes no state but BN statistics."""
        q, t = self.embed(v, (a for a, _ in self.pairs), (b for _, b in self.pairs))
        return Out(v, q, t, self.score(q, t, group=v.positives))

    # ------------------------------------------------------------------------------------------- where state changes

    def before_step(self, at: Progress) -> None:
        """Set this step's scheduled numbers (temperatures, EMA coefficients), functions of ``at`` alone."""

    def after_step(self, step: Step) -> None:
        """Update state after the optimiser steps: EMA, queue, centre, bank."""

    def catch_up(self) -> None:
        """Set averaged networks to the networks that they follow, for a strategy that restarts them."""

    def on_epoch(self, at: Progress, images: Images, look: Look) -> None:
        """Called before each epoch, e.g. for k-means."""

    def still(self, at: Progress) -> Iterable[nn.Parameter]:
        """Parameters that do not change in this step (their gradients are dropped)."""
        return ()

    # ------------------------------------------------------------------------------------------ logs and snapshots

    def logs(self, step: Step) -> Mapping[str, float]:
        """Numbers for ``metrics.jsonl`` at a logged step."""
        return {}

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Arrays to save in ``snapshots/`` at a checkpoint, such as banks or images of fixed latents."""
        return {}


def _rows(x: Tensor | Sequence[Tensor]) -> int:
    return len(x) if isinstance(x, Tensor) else sum(map(len, x))


def _full(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def by_slot(f: Callable[[Any], Any], v: Rendered, slots: Sequence[int], joint: bool) -> dict[int, Any]:
    """``f`` of each slot's pixels, by one call per slot, or by one call for all with one batch per size."""
    if not joint:
        return {i: f(v.slot(i)) for i in slots}
    if not slots:
        return {}
    pixels = [v.slot(i) for i in slots]
    sizes = [torch.cat(list(same)) for _, same in groupby(pixels, key=lambda x: x.shape[-1])]
    out = f(sizes[0] if len(sizes) == 1 else sizes)
    if isinstance(out, tuple):
        return dict(zip(slots, zip(*(part.chunk(len(slots)) for part in out), strict=True), strict=True))
    return dict(zip(slots, out.chunk(len(slots)), strict=True))


@torch.no_grad()
def ema(twin: nn.Module, net: nn.Module, keep: float, buffers: bool = False) -> None:
    """twin <- keep * twin + (1 - keep) * net, parameters only or buffers too. MoCo (arXiv 1911.05722), Eq. 2.

    Tensors are matched by name; those that only ``net`` has (a strategy's second set of norms) are skipped.
    """
    old, new = dict(twin.named_parameters()), dict(net.named_parameters())
    torch._foreach_lerp_(list(old.values()), [new[name] for name in old], 1 - keep)
    moved = dict(net.named_buffers()) if buffers else {}
    for name, buffer in twin.named_buffers() if buffers else ():
        if buffer.is_floating_point():
            buffer.lerp_(moved[name], 1 - keep)
        else:
            buffer.copy_(moved[name])


def twin_of(net: nn.Module) -> nn.Module:
    """A copy of ``net`` without gradient: the initial momentum network."""
    return copy.deepcopy(net).requires_grad_(False)
