"""The scorer of detectors: average precision as COCO and VOC define it, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.models.detection import FasterRCNN

from hardlab.data.detection_scenes import Scenes, Target
from hardlab.types import HardlabError


class AveragePrecision:
    """Average precision of detections by pycocotools, image by image.

    kinds: "bbox" and "segm". recalls: how many recall levels precision is averaged over: 101 as COCO, 11 as VOC 2007.
    small: area in pixels up to which an object counts for AP_S. Difficult objects are ignored as in VOC, and crowds as
    in COCO: they may be detected, even several times, or missed.
    """

    def __init__(self, kinds: Sequence[str] = ("bbox",), *, recalls: int = 101, small: float = 32.0**2) -> None:
        _pycocotools()
        if recalls < 2:
            raise HardlabError(f"recalls must be at least 2, not {recalls}.")
        self.kinds, self.recalls, self.small = tuple(kinds), recalls, small
        self.images: list[dict[str, int]] = []
        self.true: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, predicted: Target, true: Target) -> None:
        """Add the detections and annotations of one image.

        predicted: boxes (n,4) xyxy, labels (n,), scores (n,), and for "segm" masks (n,H,W) bool. true: boxes, labels,
        and, if known, masks, difficult (m,), crowd (m,). Areas are those of the masks if there are any. Raises
        HardlabError for numbers that are not finite.
        """
        for kind, objects in (("detections", predicted), ("annotations", true)):
            if not all(objects[k].isfinite().all() for k in ("boxes", "scores") if k in objects):
                raise HardlabError(
                    f"the {kind} of image {len(self.images) + 1} hold NaN or infinity, which cannot be scored."
                )
        height, width = true["masks"].shape[1:] if "masks" in true else (1, 1)
        self.images.append({"id": len(self.images) + 1, "height": height, "width": width})
        self.true += self._entries(true, len(self.true))
        self.found += self._entries(predicted, len(self.found))

    def _entries(self, objects: Target, start: int) -> list[dict[str, Any]]:
        from pycocotools import mask as rle

        boxes = objects["boxes"].detach().cpu().double()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # x, y, width, height
        columns = {name: objects[name].tolist() for name in ("scores", "difficult", "crowd") if name in objects}
        out: list[dict[str, Any]] = []
        for i, (box, label) in enumerate(zip(boxes.tolist(), objects["labels"].tolist())):
            entry = {"id": start + i + 1, "image_id": self.images[-1]["id"], "category_id": label, "bbox": box}
            entry["area"] = box[2] * box[3]
            entry["difficult"] = "difficult" in columns and columns["difficult"][i]
            entry["iscrowd"] = int(entry["difficult"] or ("crowd" in columns and columns["crowd"][i]))
            if "scores" in columns:
                entry["score"] = columns["scores"][i]
            if "masks" in objects:
                mask = objects["masks"][i].cpu().numpy().astype(np.uint8)
                entry["segmentation"] = rle.encode(np.asfortranarray(mask))
                entry["covered"] = int(mask.sum())
            out.append(entry)
        return out

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75 and, if there are small objects, AP_S of the boxes; mask-AP, ... of the masks; in [0,1]."""
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
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
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
    """pycocotools' data set, and its evaluation extended by difficult objects; HardlabError if it is missing."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise HardlabError("average precision needs pycocotools: pip install 'hardlab[analysis]'.") from None

    class Evaluation(COCOeval):
        def computeIoU(self, image: int, category: int) -> Any:
            # a difficult object is ignored like a crowd, but overlaps like any other
            difficult = [annotation for annotation in self._gts[image, category] if annotation["difficult"]]
            for annotation in difficult:
                annotation["iscrowd"] = 0
            overlaps = super().computeIoU(image, category)
            for annotation in difficult:
                annotation["iscrowd"] = 1
            return overlaps

    return COCO, Evaluation


@torch.no_grad()
def score(
    model: FasterRCNN, scenes: Scenes, *, batch_size: int = 16, recalls: int = 101, small: float = 32.0**2
) -> dict[str, float]:
    """The average precision of a detector on scenes, as in ``AveragePrecision``; leaves the model in eval mode."""
    device = next(model.parameters()).device
    total = AveragePrecision(("bbox", "segm") if scenes.masks else ("bbox",), recalls=recalls, small=small)
    model.eval()
    order = torch.arange(len(scenes)).split(batch_size)
    for batch in scenes.batches([rows.tolist() for rows in order]):
        for predicted, (_, true) in zip(model([x.to(device) for x, _ in batch]), batch):
            if "masks" in predicted:
                predicted["masks"] = predicted["masks"][:, 0] > 0.5
            total.add(predicted, true)
    return total.compute()
