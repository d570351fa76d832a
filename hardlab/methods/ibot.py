"""iBOT (arXiv 2111.07832): DINO on the class token, and on patches that the student does not see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses, ranks
from hardlab.backbones import is_vit
from hardlab.methods.base import Step, by_slot, ema, twin_of
from hardlab.methods.dino import DINO, Head, Prototypes
from hardlab.needs import Setting
from hardlab.nets import ViT
from hardlab.numbers import Natural, Share, Temperature, Units, Weight
from hardlab.types import HardlabError, Progress, Rendered

_WORD = 2**32 - 1
ATTEMPTS = 64  # rectangles that a block-wise mask tries in all
FAILURES = 10  # ... and in a row, before the mask is final
ASPECT = math.log(10 / 3)  # of rectangles: 0.3 to 1 / 0.3


def check_vit(has_patches: bool) -> None:
    """Refuse a backbone without patches. Raises HardlabError."""
    if not has_patches:
        raise HardlabError(
            "iBOT masks the patches of a vision transformer, and this backbone has none: take "
            "backbone=vit_micro, vit_tiny, vit_small or vit_base."
        )


class Predictions(dict[int, Tensor]):
    """Slot -> (B,K) of the class token. patch: slot -> the values of its patches."""

    def __init__(self, cls: Mapping[int, Tensor], patch: Mapping[int, Tensor]) -> None:
        super().__init__(cls)
        self.patch = dict(patch)

    def detached(self) -> Predictions:
        """The same numbers without their graph."""
        return Predictions(*({i: x.detach() for i, x in part.items()} for part in (self, self.patch)))


def patches(predictions: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
    """What belongs to the patches, by slot; nothing for predictions or labels that a strategy has put together."""
    return predictions.patch if isinstance(predictions, Predictions) else {}


class IBOT(DINO):
    """DINO's loss of [CLS] plus, for each global crop, the mean cross-entropy of its masked patches.

    The student sees global crops with masked patches, and predicts for them the teacher's output on the unmasked crop.
    The mask of a view follows from its image and its crop, so that a selection trains on the mask that it scored. iBOT,
    Eqs. 1-3, Sec. 3.2; bytedance/ibot, main_ibot.py, loader.py.

    cls_weight, patch_weight: lambda_1, lambda_2.
    patch_temperature: of the teacher on patches, after the warm-up, which is as long as that on [CLS].
    patch_warmup_temperature: of the teacher on patches, at the start of the warm-up.
    patch_head: the prototypes of the patches, ``shared`` with [CLS] or their ``own``.
    shape: of a mask, ``block`` by block (BEiT) or ``random`` patches.
    ratio, spread: a mask has a share of the patches between ratio - spread and ratio + spread.
    unmasked: share of the views without a mask.
    The other options are those of ``DINO``.
    """

    SMALL: Mapping[str, Any] = {"hidden": 16, "bottleneck": 8, "prototypes": 64, "unmasked": 0.0}
    NETWORK = "vit_micro"
    shared = True  # patches are compared during the passes of both networks

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Units = 2048,
        bottleneck: Units = 256,
        prototypes: Units = 8192,
        gain: Literal["fixed", "learned"] = "fixed",
        bn: bool = False,
        temperature: Temperature = 0.1,
        teacher_temperature: Temperature = 0.07,
        teacher_warmup_temperature: Temperature = 0.04,
        teacher_warmup_epochs: Natural = 30,
        momentum: Share = 0.996,
        center_momentum: Share = 0.9,
        freeze_last_layer: Natural = 1,
        cls_weight: Weight = 1.0,
        patch_weight: Weight = 1.0,
        patch_temperature: Temperature = 0.07,
        patch_warmup_temperature: Temperature = 0.04,
        patch_head: Literal["shared", "own"] = "shared",
        shape: Literal["block", "random"] = "block",
        ratio: Share = 0.3,
        spread: Share = 0.2,
        unmasked: Share = 0.5,
    ) -> None:
        check_vit(isinstance(backbone, ViT))
        self.check_options(ratio, spread)
        self.patch_temperatures = (patch_warmup_temperature, patch_temperature)
        super().__init__(
            backbone, hidden, bottleneck, prototypes, gain, bn, temperature, teacher_temperature,
            teacher_warmup_temperature, teacher_warmup_epochs, momentum, center_momentum, freeze_last_layer,
        )  # fmt: skip
        self.mask_token = nn.Parameter(torch.zeros(self.features))
        self.patch_prototypes = Prototypes(bottleneck, prototypes, gain) if patch_head == "own" else None
        self.teacher_patch_prototypes = None if self.patch_prototypes is None else twin_of(self.patch_prototypes)
        self.register_buffer("patch_center", torch.zeros(prototypes))
        self.patch_center: Tensor
        self.cls_weight, self.patch_weight = cls_weight, patch_weight
        self.shape, self.ratio, self.spread, self.unmasked = shape, ratio, spread, unmasked

    @staticmethod
    def check_options(ratio: float, spread: float) -> None:
        if not spread <= ratio <= 1 - spread:
            raise HardlabError(
                f"iBOT with ratio={ratio}, spread={spread}: ratio - spread and ratio + spread are shares of the "
                "patches, from 0 to 1."
            )

    @staticmethod
    def check_run(at: Setting) -> None:
        check_vit(is_vit(at.backbone.name))

    def before_step(self, at: Progress) -> None:
        super().before_step(at)
        self.patch_teacher_now = self.warmed(self.patch_temperatures, at)

    # ------------------------------------------------------------------------------------------------ one forward

    def embed(
        self, v: Rendered, q_slots: Iterable[int], t_slots: Iterable[int], joint: bool | None = None
    ) -> tuple[Predictions, Predictions]:
        """As ``Method.embed``; ``patch`` of the predictions is (B,) the loss on the masked patches of a global crop
        that both see, that of the labels (K,) the teacher's mean logits of its patches."""
        q_wanted, t_wanted = sorted(set(q_slots)), sorted(set(t_slots))
        joint = self.joint if joint is None else joint
        large = v.params.shape[1]
        whole = [i for i in q_wanted if i < large]
        q_cls = by_slot(self.query, v, [i for i in q_wanted if i >= large], joint)
        q_patch: dict[int, Tensor] = {}
        t_cls: dict[int, Tensor] = {}
        t_patch: dict[int, Tensor] = {}
        for slots in [whole] if joint and whole else [[i] for i in whole]:
            masked = self.masks(v, slots)  # (n * B,T)
            u = self._heads(self.backbone, self.head, torch.cat([v.slot(i) for i in slots]), masked)
            q_cls |= _parts(self.head.prototypes(u[:, 0]), slots)
            q_patch |= _parts(u[:, 1:], slots)
        for slots in [t_wanted] if joint and t_wanted else [[i] for i in t_wanted]:
            with torch.no_grad():
                u = self._heads(self.teacher, self.teacher_head, torch.cat([v.slot(i) for i in slots]), None)
                t_cls |= _parts(cast(Head, self.teacher_head).prototypes(u[:, 0]), slots)
                t_patch |= _parts(u[:, 1:], slots)
        compared = {i: self.patch_loss(q_patch[i], t_patch[i], self.masks(v, [i])) for i in q_patch if i in t_patch}
        layer = self.patch_layers()[1]
        with torch.no_grad():  # the mean of the logits is the logit of the mean
            means = {i: layer(u.float().mean((0, 1))[None])[0] for i, u in t_patch.items()}
        return Predictions({i: q_cls[i] for i in q_wanted}, compared), Predictions(t_cls, means)

    def _heads(self, net: nn.Module, head: nn.Module, x: Tensor, masked: Tensor | None) -> Tensor:
        """Images (N,3,S,S) -> (N,1+T,bottleneck): unit vectors of [CLS] and of every patch."""
        tokens = net.every_token(x, masked, None if masked is None else self.mask_token)  # type: ignore[operator]
        return F.normalize(head.mlp(tokens.flatten(0, 1)), dim=1).view(*tokens.shape[:2], -1)  # type: ignore[operator]

    def patch_layers(self) -> tuple[nn.Module, nn.Module]:
        """The prototypes of the patches, of the student and of the teacher."""
        if self.patch_prototypes is not None and self.teacher_patch_prototypes is not None:
            return self.patch_prototypes, self.teacher_patch_prototypes
        return self.head.prototypes, cast(Head, self.teacher_head).prototypes

    def patch_loss(self, q: Tensor, t: Tensor, masked: Tensor) -> Tensor:
        """(B,T,bottleneck) twice, (B,T) bool -> (B,): mean cross-entropy over the masked patches, 0 without any."""
        most = math.floor((self.ratio + self.spread) * masked.shape[1])
        if not most:
            return q.new_zeros(len(q), dtype=torch.float32)
        # as many of each view as the largest mask can have: counting them would make a GPU wait
        weight, rows = masked.float().topk(most, dim=1)  # (B,most)
        q, t = (x.gather(1, rows[..., None].expand(-1, -1, x.shape[2])).flatten(0, 1) for x in (q, t))
        student, teacher = self.patch_layers()
        logits, labels = student(q), teacher(t)
        with torch.autocast(q.device.type, enabled=False):
            p = ((labels.float() - self.patch_center) / self.patch_teacher_now).softmax(1)
            loss = losses.cross_entropy(logits.float() / self.temperature, p).view_as(weight)
            return (loss * weight).sum(1) / weight.sum(1).clamp_min(1)

    def score(
        self,
        q: Mapping[int, Tensor],
        t: Mapping[int, Tensor],
        pick: Sequence[int] | None = None,
        group: Tensor | None = None,
        known: dict[tuple[int, int], Tensor] | None = None,
    ) -> Tensor:
        """(B,) lambda_1 times DINO's loss plus lambda_2 times that of the patches, if they were compared."""
        loss = self.cls_weight * super().score(q, t, pick, group, known)
        patch = patches(q)
        if not patch:
            return loss
        return loss + self.patch_weight * torch.stack([patch[i] for i in (pick or (0, 1))[:2]]).mean(0)

    # -------------------------------------------------------------------------------------------------- the masks

    @torch.no_grad()
    def masks(self, v: Rendered, slots: Iterable[int]) -> Tensor:
        """(n * B,T) bool: the masked patches of global crops, slot by slot; T patches row by row.

        They are a hash of the image's row and its crop (top, left, height, width, flip), which are integers.
        """
        assert isinstance(self.backbone, ViT)
        rows, columns = (side // self.backbone.patch for side in v.x.shape[-2:])
        box = torch.cat([v.params[:, i, 2:7] for i in slots]).long()  # (n * B,5)
        images = v.index.repeat(len(box) // len(v.index))
        state = _hashed(torch.cat([images[:, None], box], 1))
        u = _numbers(state, 2)  # whether there is a mask, and how large
        share = self.ratio + self.spread * (2 * u[:, 1] - 1)
        count = torch.where(u[:, 0] < self.unmasked, 0.0, share * rows * columns)
        if self.shape == "random":
            order = _numbers(_mixed(state + 1), rows * columns).argsort(1).argsort(1)
            return order < count.floor()[:, None]
        return blocks(_numbers(_mixed(state + 1), 4 * ATTEMPTS).view(-1, ATTEMPTS, 4), count, rows, columns)

    # ------------------------------------------------------------------------------------------- where state moves

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if means := patches(step.out.t):
            mean = torch.stack(list(means.values())).mean(0)
            self.patch_center.lerp_(ranks.mean(mean.float()), 1 - self.center_momentum)
        if self.patch_prototypes is not None and self.teacher_patch_prototypes is not None:
            ema(self.teacher_patch_prototypes, self.patch_prototypes, self.keep)

    def still(self, at: Progress) -> Iterable[nn.Parameter]:
        last = [*super().still(at)]
        if last and self.patch_prototypes is not None:
            last += self.patch_prototypes.parameters()
        return last

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """DINO's numbers, and the loss of the patches and the share of them that is masked."""
        views, patch = step.out.views, patches(step.out.q).values()
        return {
            **super().logs(step),
            "patch_loss": float(torch.stack([x.mean() for x in patch]).mean()) if patch else 0.0,
            "masked": float(self.masks(views, (0, 1)).float().mean()),
            "patch_teacher_temperature": self.patch_teacher_now,
        }


def _parts(x: Tensor, slots: list[int]) -> dict[int, Tensor]:
    return dict(zip(slots, x.chunk(len(slots)), strict=True))


def blocks(u: Tensor, count: Tensor, rows: int, columns: int) -> Tensor:
    """Block-wise masks (N, rows * columns) of at most ``count`` (N,) patches, from uniform numbers u (N,tries,4).

    Rectangles of random area and aspect ratio are added while they fit, until ten in a row do not. BEiT (arXiv
    2106.08254), Alg. 1, as in loader.py of iBOT.
    """
    n, tries, _ = u.shape
    mask = torch.zeros(n, rows, columns, dtype=torch.bool, device=u.device)
    at_row, at_column = torch.arange(rows, device=u.device), torch.arange(columns, device=u.device)
    done, failed = torch.zeros(n, device=u.device), torch.zeros(n, device=u.device)
    least = (min(rows, columns) // 3) ** 2
    for area, aspect, down, right in (u[:, i].unbind(1) for i in range(tries)):
        left_over = count - done
        area, aspect = least + (left_over - least) * area, ((2 * aspect - 1) * ASPECT).exp()
        h, w = (area * aspect).clamp_min(0).sqrt().round(), (area / aspect).clamp_min(0).sqrt().round()
        top, left = (down * (rows - h + 1)).floor(), (right * (columns - w + 1)).floor()
        inside = (at_row >= top[:, None]) & (at_row < (top + h)[:, None])
        beside = (at_column >= left[:, None]) & (at_column < (left + w)[:, None])
        new = inside[:, :, None] & beside[:, None] & ~mask
        more = new.flatten(1).sum(1)
        open_ = (done < count) & (failed < FAILURES)
        fits = open_ & (h < rows) & (w < columns) & (more > 0) & (more <= left_over)
        mask |= new & fits[:, None, None]
        done += more * fits
        failed = torch.where(fits, 0, failed + 1)
    return mask.flatten(1)


def _mixed(x: Tensor) -> Tensor:
    """A word of 32 bits for each of x, int64: the finaliser of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 16)


def _hashed(columns: Tensor) -> Tensor:
    """(N,C) whole numbers -> (N,) words that depend on each of them."""
    state = torch.zeros_like(columns[:, 0])
    for column in columns.unbind(1):
        state = _mixed((state * 31 + column + 1) & _WORD)
    return state


def _numbers(state: Tensor, n: int) -> Tensor:
    """(N,) words -> (N,n) numbers in [0, 1)."""
    words = (state[:, None] + 0x9E3779B9 * torch.arange(1, n + 1, device=state.device)) & _WORD
    return (_mixed(words) >> 8).float() / 2**24  # exact in float32
