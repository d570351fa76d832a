"""Small detectors and scenes, for tests of what learns from boxes and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardlab.data import load
from hardlab.data.detection_scenes import Scenes
from hardlab.nets import Tiny

PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SMALL = {
    "anchors": (8, 16, 32),
    "scales": (64,),
    "max_side": 64,
    "roi_size": 4,
    "rois": 8,
    "pre_nms": 60,
    "post_nms": 20,
}


def scenes(masks: bool = True, count: int = 12) -> Scenes:
    return Scenes([load("shapes", size=64, objects=3, count=count)], masks=masks)


def net(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(width=8)


def write_coco(root: Path) -> None:
    """COCO's two halves: an image with a polygon and a crowd, and one with nothing."""
    content = {
        "categories": [{"id": 1, "name": "person"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (1, 2)],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "iscrowd": 0,
             "segmentation": [[10, 10, 30, 10, 30, 40, 10, 40]]},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 60], "iscrowd": 1,
             "segmentation": {"size": [60, 80], "counts": [0, 240, 60 * 76]}},
        ],
    }  # fmt: skip
    for split in ("train2017", "val2017"):
        (root / "coco" / split).mkdir(parents=True)
        for i in (1, 2):
            Image.fromarray(np.full((60, 80, 3), 90 * i, np.uint8)).save(root / "coco" / split / f"{i}.jpg")
        listing = root / "coco" / "annotations" / f"instances_{split}.json"
        listing.parent.mkdir(exist_ok=True)
        listing.write_text(json.dumps(content))
