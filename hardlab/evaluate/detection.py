"""Detection and instance segmentation: a backbone tuned inside torchvision's R-CNNs, scored as COCO and VOC score."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.resnet import ResNet
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from hardlab.data import Images, load
from hardlab.nets import Tiny, whole_bn
from hardlab.registry import unknown
from hardlab.types import HardlabError

Target = dict[str, Tensor]
Example = tuple[Tensor, Target]  # pixels (3,H,W) in [0,1]; boxes, labels from 1, and what else the set knows

CHOICES = {"predict": ("boxes", "masks"), "neck": ("c4", "fpn"), "res5_norm": ("bn", "none"), "tuned": ("all", "heads")}

# ---------------------------------------------------------------------------------------------- networks


def stages(net: nn.Module) -> list[nn.Module]:
    """The spatial stages of a backbone, the stem with the first; HardlabError where it has none.

    A ResNet of torchvision gives C2 to C5, ``tiny`` its three stages. The modules are those of ``net``, not copies.
    """
    if isinstance(net, ResNet):
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        return [first, net.layer2, net.layer3, net.layer4]
    if isinstance(net, Tiny):
        blocks = len(net.body) // 3
        return [nn.Sequential(net.stem, *net.body[:blocks]), net.body[blocks : 2 * blocks], net.body[2 * blocks :]]
    raise HardlabError(f"A {type(net).__name__} has no stages for a detector: use a ResNet or tiny as the backbone.")


def _shapes(parts: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """(channels, stride) after each stage; no statistic moves."""
    side, found = 64, []
    x = torch.zeros(1, 3, side, side, device=next(parts[0].parameters()).device)
    with torch.no_grad():
        for part in parts:
            modes = [(m, m.training) for m in part.modules()]
            x = part.eval()(x)
            for m, mode in modes:
                m.training = mode
            found.append((x.shape[1], side // x.shape[2]))
    return found


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
        found = [{"boxes": b, "scores": s, "labels": y} for b, s, y in zip(boxes, scores, labels)]
        if self.has_mask():
            masks = maskrcnn_inference(self.mask_predictor(self._maps(features, boxes)), labels)
            for one, m in zip(found, masks):
                one["masks"] = m
        return found, {}


class Pyramid(nn.Module):
    """A feature pyramid over the stages of a backbone: (N,3,H,W) -> maps "0", "1", ... and "pool", 256 channels."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(parts)
        self.out_channels = 256
        channels = [c for c, _ in _shapes(parts)]
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = OrderedDict()
        for i, stage in enumerate(self.stages):
            x = found[str(i)] = stage(x)
        return self.fpn(found)


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
    """Faster R-CNN, or Mask R-CNN with ``predict="masks"``, around the modules of a backbone.

    neck: "c4" proposes on the second last stage and uses the last one as head, with BN on its output unless
    ``res5_norm="none"`` (MoCo, arXiv 1911.05722, App. B); "fpn" is torchvision's pyramid and two-layer head. tuned:
    "heads" leaves the backbone as it is, BN in eval mode. anchors: sides in pixels, three shapes each; with "fpn" one a
    level. rois: regions an image that the head learns from. scales, max_side: as ``min_size`` and ``max_size`` of
    torchvision. No weights are loaded. HardlabError for a backbone without stages and for options that do not fit.
    """
    for option, given in (("predict", predict), ("neck", neck), ("res5_norm", res5_norm), ("tuned", tuned)):
        if given not in CHOICES[option]:
            raise unknown(f"value of {option}", given, CHOICES[option])
    for option, least in (("anchors", anchors), ("scales", scales), ("roi_size and rois", (roi_size, rois))):
        if not least or min(least) < 1:
            raise HardlabError(f"{option} of a detector must be whole numbers of at least 1, not {list(least)}.")
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
    trunk.out_channels = channels  # type: ignore[assignment]  # where torchvision looks for it
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
    made: dict[str, Any] = {"box_roi_pool": MultiScaleRoIAlign(names, 7, 2), "rpn_anchor_generator": generator}
    if predict == "masks":
        return MaskRCNN(Pyramid(parts), classes + 1, mask_roi_pool=MultiScaleRoIAlign(names, 14, 2), **made, **common)
    return FasterRCNN(Pyramid(parts), classes + 1, **made, **common)


# ---------------------------------------------------------------------------------------------- scenes


class Scenes:
    """Scenes of one or several sets, one after the other, as a detector takes them.

    Example i: pixels (3,H,W) float32 in [0,1]; boxes (n,4), labels (n,) from 1 on, and masks (n,H,W), difficult (n,),
    crowd (n,) where the set has them. rows: which scenes; None = all. HardlabError where a set has no boxes, no masks
    though ``masks`` asks for them, or other classes than the first one.
    """

    def __init__(self, sets: Sequence[Images], *, masks: bool = False, rows: Sequence[int] | None = None) -> None:
        self.sets, self.classes = list(sets), sets[0].classes
        self.masks = masks
        for images in sets:
            if images.classes != self.classes:
                raise HardlabError(f"{images.name} has other classes than {sets[0].name}: one detector needs the same.")
            known = images.scene(0)
            if masks and "masks" not in known:
                raise HardlabError(f"{images.name} has no masks: predict boxes there, or use 'shapes' or 'coco'.")
        self.starts = list(itertools.accumulate((len(s) for s in sets), initial=0))
        self.rows = range(self.starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        row = self.rows[i]
        which = next(k for k, start in enumerate(self.starts[1:]) if row < start)
        scene = self.sets[which].scene(row - self.starts[which])
        return scene.pop("image").float() / 255, scene | {"labels": scene["labels"] + 1}

    def labelled(self) -> list[int]:
        """The rows, over all sets, of scenes with an object."""
        targets = torch.cat([s.targets for s in self.sets])
        return torch.nonzero(targets >= 0)[:, 0].tolist()

    def batches(self, order: list[list[int]]) -> Iterator[tuple[Example, ...]]:
        """The examples of each list of indices; decoded by other processes where the sets are not in memory."""
        workers = 0 if all(s.in_memory for s in self.sets) else min(8, os.cpu_count() or 1)
        loader = DataLoader(
            _Told(self), batch_sampler=order, num_workers=workers, collate_fn=tuple, generator=torch.Generator()
        )
        for batch in loader:
            for example in batch:
                if isinstance(example, HardlabError):
                    raise example
            yield batch


class _Told(Dataset):
    """Scenes whose mistakes come back as values: an exception out of another process would bring its traceback."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __getitem__(self, i: int) -> Example | HardlabError:
        try:
            return self.scenes[i]
        except HardlabError as e:
            return e


def _open(
    names: Sequence[str],
    root: str | os.PathLike[str] | None,
    max_side: int,
    side: int,
    objects: int,
    dry: bool = False,
) -> list[Images]:
    """The sets called "name/split"; HardlabError for another form. dry: as of ``data.load``."""
    found = []
    for name in names:
        what, slash, split = name.rpartition("/")
        if not slash:
            raise HardlabError(f"scenes are named SET/SPLIT, like voc2007/test, not {name!r}.")
        own: dict[str, Any] = {"objects": objects} if objects and what == "shapes" else {}  # of others, as they are
        found.append(load(what, split, root=root, max_side=max_side, size=side or None, dry=dry, **own))
    if not found:
        raise HardlabError("name at least one set of scenes, like voc2007/test.")
    return found


def _without_crowd(target: Target) -> Target:
    if "crowd" not in target:
        return target
    single = ~target["crowd"]
    return {name: value[single] for name, value in target.items()}


def _flipped(pixels: Tensor, target: Target) -> Example:
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    width = pixels.shape[2]
    out = target | {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
    if "masks" in target:
        out["masks"] = target["masks"].flip(2)
    return pixels.flip(2), out


# ---------------------------------------------------------------------------------------------- training


def rate(step: int, lr: float, steps: Sequence[int], warmup: int) -> float:
    """Learning rate at ``step``: a tenth after each of ``steps``; before, linear from a thousandth (Detectron2)."""
    factor = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
    return lr * factor * 0.1 ** sum(step >= s for s in steps)


def tune(
    model: FasterRCNN,
    scenes: Scenes,
    generator: torch.Generator,
    *,
    iterations: int,
    batch_size: int,
    lr: float,
    steps: Sequence[int],
    warmup: int,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> list[float]:
    """Train a detector by SGD on scenes and their mirror images; returns the loss of every iteration.

    BN takes the statistics of the batch, which on one device are what SyncBN computes over several. Norm parameters do
    not decay, crowds are left out and difficult objects kept, as in Detectron2. The order and the flips come from
    ``generator``, the sampling of regions from torch's global one. HardlabError where the loss is no number.
    """
    for name, value in (("iterations", iterations), ("batch_size", batch_size)):
        if value < 1:
            raise HardlabError(f"{name} must be at least 1, not {value}.")
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in learned if id(p) in norms], "weight_decay": 0.0},
    ]
    opt = torch.optim.SGD(groups, lr, momentum=momentum)
    wanted = iterations * batch_size
    passes = [torch.randperm(len(scenes), generator=generator) for _ in range(-(-wanted // len(scenes)))]
    order = torch.cat(passes)[:wanted].view(iterations, batch_size)
    device = learned[0].device
    model.train()
    for module in model.modules():  # a stage that is not tuned keeps its statistics as well
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
    losses = []
    for step, batch in enumerate(scenes.batches(order.tolist())):
        for group in opt.param_groups:
            group["lr"] = rate(step, lr, steps, warmup)
        mirrored = torch.rand(batch_size, generator=generator) < 0.5
        seen = [_flipped(x, t) if m else (x, t) for (x, t), m in zip(batch, mirrored.tolist())]
        targets = [{k: v.to(device) for k, v in _without_crowd(t).items()} for _, t in seen]
        if scenes.masks:
            targets = [t | {"masks": t["masks"].to(torch.uint8)} for t in targets]
        else:
            targets = [{k: v for k, v in t.items() if k != "masks"} for t in targets]
        loss = torch.stack(list(model([x.to(device) for x, _ in seen], targets).values())).sum()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise HardlabError(f"the detector diverged in iteration {step + 1} at lr={lr}: lower it.")
        opt.zero_grad()
        loss.backward()
        opt.step()
    return losses


# ---------------------------------------------------------------------------------------------- scores


class AveragePrecision:
    """Average precision of detections by pycocotools, image by image.

    kinds: "bbox" and "segm". recalls: how many recall levels precision is averaged over: 101 as COCO, 11 as VOC 2007.
    small: area in pixels up to which an object counts for AP_S. Difficult objects are ignored as by VOC, crowds as by
    COCO: they can be found, several times, or missed.
    """

    def __init__(self, kinds: Sequence[str] = ("bbox",), *, recalls: int = 101, small: float = 32.0**2) -> None:
        _pycocotools()
        if recalls < 2:
            raise HardlabError(f"recalls must be at least 2, not {recalls}.")
        self.kinds, self.recalls, self.small = tuple(kinds), recalls, small
        self.images: list[dict[str, int]] = []
        self.true: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, found: Target, true: Target) -> None:
        """One image. found: boxes (n,4) xyxy, labels (n,), scores (n,), with "segm" masks (n,H,W) bool. true: boxes,
        labels, and where known masks, difficult (m,), crowd (m,); areas are those of the masks where there are any."""
        for what, objects in (("detections", found), ("annotations", true)):
            if not all(objects[k].isfinite().all() for k in ("boxes", "scores") if k in objects):
                raise HardlabError(
                    f"the {what} of image {len(self.images) + 1} hold NaN or infinity: nothing compares."
                )
        height, width = true["masks"].shape[1:] if "masks" in true else (1, 1)
        self.images.append({"id": len(self.images) + 1, "height": height, "width": width})
        self.true += self._entries(true, len(self.true))
        self.found += self._entries(found, len(self.found))

    def _entries(self, objects: Target, start: int) -> list[dict[str, Any]]:
        from pycocotools import mask as rle

        boxes = objects["boxes"].detach().cpu().double()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # x, y, width, height
        given = {name: objects[name].tolist() for name in ("scores", "difficult", "crowd") if name in objects}
        out: list[dict[str, Any]] = []
        for i, (box, label) in enumerate(zip(boxes.tolist(), objects["labels"].tolist())):
            entry = {"id": start + i + 1, "image_id": self.images[-1]["id"], "category_id": label, "bbox": box}
            entry["area"] = box[2] * box[3]
            entry["difficult"] = "difficult" in given and given["difficult"][i]
            entry["iscrowd"] = int(entry["difficult"] or ("crowd" in given and given["crowd"][i]))
            if "scores" in given:
                entry["score"] = given["scores"][i]
            if "masks" in objects:
                mask = objects["masks"][i].cpu().numpy().astype(np.uint8)
                entry["segmentation"] = rle.encode(np.asfortranarray(mask))
                entry["covered"] = int(mask.sum())
            out.append(entry)
        return out

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75 and, where there are small objects, AP_S of the boxes; mask-AP, ... of the masks; in [0,1]."""
        if not any(not t["iscrowd"] for t in self.true):
            raise HardlabError("no image of the test set has a box that counts: average precision is not defined.")
        out = {}
        for kind in self.kinds:
            prefix = "mask-" if kind == "segm" else ""
            precision = self._precision(kind)  # (IoU thresholds, recalls, classes, areas)
            for name, part in (
                ("AP", precision[..., 0]),
                ("AP50", precision[0, ..., 0]),
                ("AP75", precision[5, ..., 0]),
                ("AP_S", precision[..., 1]),
            ):
                if (part > -1).any():  # -1: a class that has no such object
                    out[prefix + name] = float(part[part > -1].mean())
        return out

    def _precision(self, kind: str) -> np.ndarray:
        coco, evaluation = _pycocotools()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints whatever it does
            sides = []
            for entries in (self.true, self.found):
                side = coco()
                by_mask = [kind == "segm" or (entries is self.true and "covered" in e) for e in entries]
                side.dataset = {
                    "images": self.images,
                    "categories": [{"id": c} for c in sorted({t["category_id"] for t in self.true})],
                    "annotations": [e | {"area": e["covered"]} if m else dict(e) for e, m in zip(entries, by_mask)],
                }
                side.createIndex()
                sides.append(side)
            run = evaluation(*sides, kind)
            run.params.recThrs = np.linspace(0, 1, self.recalls)
            run.params.maxDets = [100]
            run.params.areaRng = [[0, 1e10], [0, self.small]]
            run.params.areaRngLbl = ["all", "small"]
            run.evaluate()
            run.accumulate()
        return run.eval["precision"][..., 0]


def _pycocotools() -> tuple[Callable[[], Any], Callable[..., Any]]:
    """pycocotools' data set and an evaluation that knows difficult objects; HardlabError where it is missing."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise HardlabError("average precision needs pycocotools: pip install 'hardlab[analysis]'.") from None

    class Evaluation(COCOeval):
        def computeIoU(self, image: int, category: int) -> Any:
            # a difficult object is ignored like a crowd, but overlaps like any other
            difficult = [one for one in self._gts[image, category] if one["difficult"]]
            for one in difficult:
                one["iscrowd"] = 0
            overlaps = super().computeIoU(image, category)
            for one in difficult:
                one["iscrowd"] = 1
            return overlaps

    return COCO, Evaluation


@torch.no_grad()
def score(
    model: FasterRCNN, scenes: Scenes, *, batch_size: int = 16, recalls: int = 101, small: float = 32.0**2
) -> dict[str, float]:
    """Average precision of a detector on scenes, as ``AveragePrecision`` gives it; the model ends in eval mode."""
    device = next(model.parameters()).device
    total = AveragePrecision(("bbox", "segm") if scenes.masks else ("bbox",), recalls=recalls, small=small)
    model.eval()
    order = torch.arange(len(scenes)).split(batch_size)
    for batch in scenes.batches([rows.tolist() for rows in order]):
        for found, (_, true) in zip(model([x.to(device) for x, _ in batch]), batch):
            if "masks" in found:
                found["masks"] = found["masks"][:, 0] > 0.5
            total.add(found, true)
    return total.compute()


# ---------------------------------------------------------------------------------------------- the protocol


class Detection(NamedTuple):
    """What ``detect`` gives: metrics in [0,1], scenes learned from and tested on, loss of every iteration, test set."""

    metrics: dict[str, float]
    n_train: int
    n_test: int
    losses: list[float]
    data: str


def detect(
    net: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Detection:
    """Tune a copy of a backbone as a detector and test it; ``net`` stays as it is.

    net: a run's backbone, on the device to use. mean, std: of its pixels. options: all those of an entry of
    ``published.DETECTION``. Everything random comes from ``seed``: the same scenes, regions and new layers for every
    backbone.
    HardlabError for a backbone without stages, sets without boxes or masks, and options that do not fit.
    """
    o = dict(options)
    masks = o["predict"] == "masks"
    opened, labelled = _sets(o, root)
    generator = torch.Generator().manual_seed(seed)
    wanted, tested = o["images"], o["test_images"]
    if wanted:
        labelled = [labelled[i] for i in torch.randperm(len(labelled), generator=generator)[:wanted].tolist()]
    train = Scenes(opened["train"], masks=masks, rows=labelled)
    held_out = Scenes(opened["test"], masks=masks)
    if tested:
        held_out = Scenes(opened["test"], masks=masks, rows=range(min(tested, len(held_out))))
    network = {k: o[k] for k in _NETWORK}
    schedule = {k: o[k] for k in _SCHEDULE}
    devices = [p.device for p in itertools.islice(net.parameters(), 1) if p.device.type == "cuda"]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        copied = whole_bn(copy.deepcopy(net)).requires_grad_(True)
        model = detector(copied, len(train.classes), mean=mean, std=std, **network)
        losses = tune(model, train, generator, **schedule)
        metrics = score(model, held_out, batch_size=o["batch_size"], recalls=o["recalls"], small=o["small"])
    return Detection(metrics, len(train), len(held_out), losses, opened["test"][0].name)


def check(net: nn.Module, root: str | os.PathLike[str] | None = None, **options: Any) -> None:
    """Refuse what ``detect`` would refuse of a backbone, which may be on the device ``meta``, and of the sets.

    ``data.base.Absent`` for sets that would have to be downloaded first.
    """
    stages(net)
    _sets(options, root, dry=True)


def _sets(
    o: Mapping[str, Any], root: str | os.PathLike[str] | None, dry: bool = False
) -> tuple[dict[str, list[Images]], list[int]]:
    """The sets to train and to test on, and the rows of training scenes with an object. HardlabError."""
    opened = {side: _open(o[side], root, o["max_side"], o["side"], o["objects"], dry) for side in ("train", "test")}
    train, test = (Scenes(opened[side], masks=o["predict"] == "masks") for side in ("train", "test"))
    labelled = train.labelled()
    if o["images"] > len(labelled):
        raise HardlabError(
            f"{o['images']} training scenes were asked for, but there are {len(labelled)} with an object."
        )
    if test.classes != train.classes:
        raise HardlabError(f"{opened['test'][0].name} has other classes than {opened['train'][0].name}.")
    return opened, labelled


_NETWORK = (
    "predict", "neck", "res5_norm", "tuned", "roi_size", "rois", "pre_nms", "post_nms", "anchors", "scales", "max_side",
)  # fmt: skip
_SCHEDULE = ("iterations", "batch_size", "lr", "steps", "warmup", "momentum", "weight_decay")
