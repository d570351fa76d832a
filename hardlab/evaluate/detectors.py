"""Detectors: a backbone inside torchvision's R-CNNs, with the heads of Detectron2 on C4 or a feature pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.resnet import ResNet
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from hardlab.data.detection_scenes import Target
from hardlab.nets import Tiny
from hardlab.registry import unknown
from hardlab.types import HardlabError

CHOICES = {"predict": ("boxes", "masks"), "neck": ("c4", "fpn"), "res5_norm": ("bn", "none"), "tuned": ("all", "heads")}


def stages(net: nn.Module) -> list[nn.Module]:
    """The spatial stages of a backbone, the stem with the first; HardlabError if it has none.

    A ResNet of torchvision has C2 to C5, ``tiny`` its three stages. The modules are those of ``net``, not copies.
    """
    if isinstance(net, ResNet):
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        return [first, net.layer2, net.layer3, net.layer4]
    if isinstance(net, Tiny):
        blocks = len(net.body) // 3
        return [nn.Sequential(net.stem, *net.body[:blocks]), net.body[blocks : 2 * blocks], net.body[2 * blocks :]]
    raise HardlabError(f"A {type(net).__name__} has no stages for a detector: use a ResNet or tiny as the backbone.")


def _shapes(parts: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """(channels, stride) after each stage, without changing statistics."""
    side, shapes = 64, []
    x = torch.zeros(1, 3, side, side, device=next(parts[0].parameters()).device)
    with torch.no_grad():
        for part in parts:
            modes = [(m, m.training) for m in part.modules()]
            x = part.eval()(x)
            for m, mode in modes:
                m.training = mode
            shapes.append((x.shape[1], side // x.shape[2]))
    return shapes


class C4Heads(RoIHeads):
    """Box and mask branch that share the last stage of the backbone, as Detectron2's ``Res5ROIHeads``.

    Each region is cut out of C4 (aligned, adaptive sampling), goes through res5 and, averaged over its area, into the
    box predictor; the mask predictor reads the same maps of the regions that hold an object.
    """

    def __init__(self, stride: int, roi_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(None, *args, **kwargs)
        self.stride, self.roi_size = stride, roi_size

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def _maps(self, features: Mapping[str, Tensor], boxes: list[Tensor]) -> Tensor:
        return self.box_head(roi_align(features["0"], boxes, self.roi_size, 1 / self.stride, aligned=True))

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        if self.training:
            assert targets is not None
            proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
            maps = self._maps(features, proposals)  # (R,C,h,w)
            box, regression = fastrcnn_loss(*self.box_predictor(maps.mean((2, 3))), labels, deltas)
            losses = {"loss_classifier": box, "loss_box_reg": regression}
            if self.has_mask():
                held = [y > 0 for y in labels]
                losses["loss_mask"] = maskrcnn_loss(
                    self.mask_predictor(maps[torch.cat(held)]),
                    [p[h] for p, h in zip(proposals, held)],
                    [t["masks"] for t in targets],
                    [t["labels"] for t in targets],
                    [m[h] for m, h in zip(matched, held)],
                )
            return [], losses
        logits, regression = self.box_predictor(self._maps(features, proposals).mean((2, 3)))
        boxes, scores, labels = self.postprocess_detections(logits, regression, proposals, image_shapes)
        detections = [{"boxes": b, "scores": s, "labels": y} for b, s, y in zip(boxes, scores, labels)]
        if self.has_mask():
            masks = maskrcnn_inference(self.mask_predictor(self._maps(features, boxes)), labels)
            for detection, m in zip(detections, masks):
                detection["masks"] = m
        return detections, {}


class Pyramid(nn.Module):
    """A feature pyramid over the stages of a backbone: (N,3,H,W) -> maps "0", "1", ... and "pool", 256 channels."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(parts)
        self.out_channels = 256
        channels = [c for c, _ in _shapes(parts)]
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict()
        for i, stage in enumerate(self.stages):
            x = maps[str(i)] = stage(x)
        return self.fpn(maps)


def detector(
    net: nn.Module,
    classes: int,
    *,
    predict: str = "boxes",
    neck: str = "c4",
    res5_norm: str = "bn",
    tuned: str = "all",
    roi_size: int = 14,
    rois: int = 512,
    pre_nms: int = 12000,
    post_nms: int = 2000,
    anchors: Sequence[int] = (32, 64, 128, 256, 512),
    scales: Sequence[int] = (800,),
    max_side: int = 1333,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> FasterRCNN:
    """Faster R-CNN, or Mask R-CNN with ``predict="masks"``, around the modules of a backbone; loads no weights.

    neck: "c4" proposes on the second last stage and uses the last one as head, with BN on its output unless
        ``res5_norm="none"`` (MoCo, arXiv 1911.05722, App. B); "fpn" is torchvision's pyramid and two-layer head.
    tuned: "heads" freezes the backbone, BN in eval mode.
    anchors: sides in pixels, three shapes each; with "fpn" one per level.
    rois: regions per image to train the head on.
    scales, max_side: ``min_size`` and ``max_size`` of torchvision.

    Raises HardlabError for a backbone without stages and for options that do not fit.
    """
    for option, choice in (("predict", predict), ("neck", neck), ("res5_norm", res5_norm), ("tuned", tuned)):
        if choice not in CHOICES[option]:
            raise unknown("value", choice, CHOICES[option], f"Option {option}")
    for option, values in (("anchors", anchors), ("scales", scales), ("roi_size and rois", (roi_size, rois))):
        if not values or min(values) < 1:
            raise HardlabError(f"{option} of a detector must be whole numbers of at least 1, not {list(values)}.")
    parts = stages(net)
    common: dict[str, Any] = {
        "min_size": tuple(scales),
        "max_size": max_side,
        "image_mean": list(mean),
        "image_std": list(std),
        "rpn_pre_nms_top_n_train": pre_nms,
        "rpn_pre_nms_top_n_test": max(1, pre_nms // 2),
        "rpn_post_nms_top_n_train": post_nms,
        "rpn_post_nms_top_n_test": max(1, post_nms // 2),
        "box_batch_size_per_image": rois,
    }
    model = (
        _c4(parts, classes, predict, res5_norm, roi_size, rois, anchors, common)
        if neck == "c4"
        else _fpn(parts, classes, predict, anchors, common)
    )
    if tuned == "heads":
        for part in parts:
            for parameter in part.parameters():
                parameter.requires_grad_(False)
    return model.to(next(net.parameters()).device)


def _c4(
    parts: list[nn.Module],
    classes: int,
    predict: str,
    res5_norm: str,
    roi_size: int,
    rois: int,
    anchors: Sequence[int],
    common: Mapping[str, Any],
) -> FasterRCNN:
    shapes = _shapes(parts)
    (channels, stride), width = shapes[-2], shapes[-1][0]
    trunk = nn.Sequential(*parts[:-1])
    trunk.out_channels = channels  # type: ignore[assignment]  # the attribute that torchvision reads
    head = nn.Sequential(parts[-1], nn.BatchNorm2d(width)) if res5_norm == "bn" else parts[-1]
    predictor = FastRCNNPredictor(width, classes + 1)
    generator = AnchorGenerator((tuple(anchors),), ((0.5, 1.0, 2.0),))
    model = FasterRCNN(trunk, None, rpn_anchor_generator=generator, box_predictor=predictor, **common)
    masks = MaskRCNNPredictor(width, 256, classes + 1) if predict == "masks" else None
    model.roi_heads = C4Heads(
        stride, roi_size, head, predictor, 0.5, 0.5, rois, 0.25, None, 0.05, 0.5, 100, mask_predictor=masks
    )
    return model


def _fpn(
    parts: list[nn.Module], classes: int, predict: str, anchors: Sequence[int], common: Mapping[str, Any]
) -> FasterRCNN:
    levels = len(parts) + 1  # and the pooled one
    if len(anchors) != levels:
        raise HardlabError(f"A pyramid of {levels} levels takes one anchor size each, not {list(anchors)}.")
    generator = AnchorGenerator(tuple((a,) for a in anchors), ((0.5, 1.0, 2.0),) * levels)
    names = [str(i) for i in range(len(parts))]
    modules: dict[str, Any] = {"box_roi_pool": MultiScaleRoIAlign(names, 7, 2), "rpn_anchor_generator": generator}
    if predict == "masks":
        return MaskRCNN(
            Pyramid(parts), classes + 1, mask_roi_pool=MultiScaleRoIAlign(names, 14, 2), **modules, **common
        )
    return FasterRCNN(Pyramid(parts), classes + 1, **modules, **common)
