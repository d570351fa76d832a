"""DINO (arXiv 2104.14294): a student matches the sharpened, centred distribution of its moving average."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from hardlab import losses, ranks
from hardlab.methods.base import Method, Step, ema, twin_of
from hardlab.numbers import Natural, Share, Temperature, Units
from hardlab.types import HardlabError, Progress


class Prototypes(nn.Module):
    """Unit directions times a gain, weight normalisation without bias: (N,dim) -> (N,count).

    gain: ``fixed`` at 1 (``norm_last_layer`` of the code) or ``learned``. DINO, App. C.
    """

    def __init__(self, dim: int, count: int, gain: Literal["fixed", "learned"]) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(count, dim))
        self.gain = nn.Parameter(torch.ones(count, 1), requires_grad=gain == "learned")
        nn.init.trunc_normal_(self.direction, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.gain * F.normalize(self.direction, dim=1))


class Head(nn.Module):
    """Three layers with GELU, l2 normalisation, prototypes: (N,dim) -> (N,prototypes). DINO, App. C."""

    def __init__(
        self, dim: int, hidden: int, bottleneck: int, prototypes: int, gain: Literal["fixed", "learned"], bn: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((dim, hidden), (hidden, hidden)):
            layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if bn else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for m in self.mlp:
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)
        self.prototypes = Prototypes(bottleneck, prototypes, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.mlp(x), dim=1))


class DINO(Method):
    """CE(softmax((t_g - c) / tau_t), softmax(s_v / tau_s)) over all (v, g), v != g, of two global and L local crops.

    The student sees all crops, the teacher (its moving average, without drop-path and gradient) the global ones; crops
    of one size share a pass. DINO, Eqs. 1-4, Alg. 1; facebookresearch/dino, main_dino.py.

    hidden, bottleneck, prototypes: widths of the head's layers.
    gain: of the prototypes, ``fixed`` at 1 (``norm_last_layer`` of the code) or ``learned``.
    bn: whether the head has BN.
    temperature: of the student.
    teacher_temperature: of the teacher, after the warm-up.
    teacher_warmup_temperature: of the teacher at the start, from which it moves linearly.
    teacher_warmup_epochs: length of that warm-up.
    momentum: of the teacher, along a cosine to 1.
    center_momentum: of c, which is updated after the loss.
    freeze_last_layer: epochs with fixed prototypes.
    """

    joint = True
    evaluated = ("teacher", "student")
    SMALL: Mapping[str, Any] = {"hidden": 16, "bottleneck": 8, "prototypes": 64}

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Units = 2048,
        bottleneck: Units = 256,
        prototypes: Units = 65536,
        gain: Literal["fixed", "learned"] = "fixed",
        bn: bool = False,
        temperature: Temperature = 0.1,
        teacher_temperature: Temperature = 0.04,
        teacher_warmup_temperature: Temperature = 0.04,
        teacher_warmup_epochs: Natural = 0,
        momentum: Share = 0.996,
        center_momentum: Share = 0.9,
        freeze_last_layer: Natural = 1,
    ) -> None:
        super().__init__(backbone)
        if min(hidden, bottleneck, prototypes) < 1:
            raise HardlabError(
                f"A DINO head with hidden={hidden}, bottleneck={bottleneck}, prototypes={prototypes}: each at least 1."
            )
        if min(temperature, teacher_temperature, teacher_warmup_temperature) <= 0:
            raise HardlabError(
                f"DINO with temperature={temperature}, teacher_temperature={teacher_temperature}, "
                f"teacher_warmup_temperature={teacher_warmup_temperature}: each must be above 0."
            )
        if not (0 <= momentum <= 1 and 0 <= center_momentum <= 1):
            raise HardlabError(
                f"DINO with momentum={momentum}, center_momentum={center_momentum}: each must be between 0 and 1."
            )
        if min(teacher_warmup_epochs, freeze_last_layer) < 0:
            raise HardlabError(
                f"DINO with teacher_warmup_epochs={teacher_warmup_epochs}, freeze_last_layer={freeze_last_layer}: "
                "a number of epochs is at least 0."
            )
        self.head = Head(self.features, hidden, bottleneck, prototypes, gain, bn)
        self.teacher, self.teacher_head = twin_of(self.backbone), twin_of(self.head)
        for m in self.teacher.modules():
            if isinstance(m, StochasticDepth):
                m.p = 0.0
        self.register_buffer("center", torch.zeros(prototypes))
        self.center: Tensor
        self.temperature, self.center_momentum, self.freeze_last_layer = temperature, center_momentum, freeze_last_layer
        self.momentum, self.teacher_temperatures = momentum, (teacher_warmup_temperature, teacher_temperature)
        self.teacher_warmup_epochs = teacher_warmup_epochs
        self.before_step(Progress(0, 1, 0, 1))

    def multi_crop(self, local: int) -> None:
        self.locals = local
        self.pairs = tuple((v, g) for g in range(2) for v in range(2 + local) if v != g)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"teacher": self.teacher, "student": self.backbone}

    def query(self, x: Any) -> Tensor:
        return self.head(self.pooled(x))

    @torch.no_grad()
    def target(self, x: Any, index: Tensor | None) -> Tensor:
        return self.teacher_head(self.pooled(x, self.teacher))

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        p = F.softmax((t - self.center) / self.teacher_now, dim=1)
        return losses.cross_entropy(q / self.temperature, p)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        return (q.argmax(1) == (t - self.center).argmax(1)).float()

    def candidates(self, n: int, local: int = 0) -> Sequence[tuple[int, ...]]:
        """Crop sets: one even global crop (drawn like the first), one odd one, and as many locals as in training."""
        return CropSets(n, local, self.locals)

    def warmed(self, temperatures: tuple[float, float], at: Progress) -> float:
        """The teacher's temperature in this epoch, from that of the start to that of the end of the warm-up."""
        start, end = temperatures
        share = min(1.0, at.epoch / max(1, self.teacher_warmup_epochs - 1)) if self.teacher_warmup_epochs else 1.0
        return start + (end - start) * share

    def before_step(self, at: Progress) -> None:
        self.teacher_now = self.warmed(self.teacher_temperatures, at)
        self.keep = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * at.share)) / 2

    def after_step(self, step: Step) -> None:
        mean = torch.stack([t.float().mean(0) for t in step.out.t.values()]).mean(0)
        self.center.lerp_(ranks.mean(mean), 1 - self.center_momentum)
        ema(self.teacher, self.backbone, self.keep)
        ema(self.teacher_head, self.head, self.keep)

    def still(self, at: Progress) -> Iterable[nn.Parameter]:
        return self.head.prototypes.parameters() if at.epoch < self.freeze_last_layer else ()

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        logits = (next(iter(step.out.t.values())).float() - self.center) / self.teacher_now
        entropy = losses.cross_entropy(logits, logits.softmax(1)).mean()
        return {
            "teacher_entropy": float(entropy),
            "kl": float(step.out.loss.mean() - entropy),
            "center_norm": float(self.center.norm()),
            "teacher_temperature": self.teacher_now,
            "teacher_momentum": self.keep,
        }


class CropSets(Sequence[tuple[int, ...]]):
    """All sets (even global, odd global, ``keep`` of ``local`` crops) as a sequence that computes its items on demand.

    Items are the slots of ``n`` global and ``local`` small crops; four and sixteen make 51480 sets of 2 + 8.
    """

    def __init__(self, n: int, local: int, keep: int) -> None:
        self.pairs = list(itertools.product(range(0, n, 2), range(1, n, 2)))
        self.n, self.local, self.keep = n, local, keep
        self.groups = math.comb(local, keep)

    def __len__(self) -> int:
        return len(self.pairs) * self.groups

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        pair, rank = divmod(i, self.groups)
        out, slot, left = list(self.pairs[pair]), 0, self.keep
        while left:  # the combination of this rank, in the order of itertools.combinations
            those_with = math.comb(self.local - slot - 1, left - 1)
            if rank < those_with:
                out.append(self.n + slot)
                left -= 1
            else:
                rank -= those_with
            slot += 1
        return tuple(out)
