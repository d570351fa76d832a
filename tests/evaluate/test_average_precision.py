"""Average precision against cases by hand, the VOC devkit and pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from hardlab.evaluate.average_precision import AveragePrecision
from hardlab.types import HardlabError


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def found(where, scores, labels=None):
    return {
        "boxes": where,
        "scores": torch.tensor(scores),
        "labels": torch.ones(len(where), dtype=torch.int64) if labels is None else torch.tensor(labels),
    }


def true(where, labels=None, **flags):
    labels = torch.ones(len(where), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return {"boxes": where, "labels": labels, **{k: torch.tensor(v) for k, v in flags.items()}}


A, B, C = (0, 0, 10, 10), (20, 0, 60, 40), (70, 70, 80, 80)


def hand_made(**options):
    """Three objects; hit, miss, hit in the order of the scores: precision 1 up to recall 1/3, 2/3 up to 2/3."""
    ap = AveragePrecision(**options)
    ap.add(found(boxes(A, C), [0.9, 0.8]), true(boxes(A)))
    ap.add(found(boxes(B), [0.7]), true(boxes(B, C)))
    return ap.compute()


def test_average_precision_is_that_of_a_case_done_by_hand():
    coco = hand_made()
    assert coco["AP"] == coco["AP50"] == coco["AP75"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    voc = hand_made(recalls=11)
    assert voc["AP50"] == pytest.approx((4 + 3 * 2 / 3) / 11)
    # the small ones are A and C: one is hit, and so is nothing else, as the hit on the large one does not count
    assert coco["AP_S"] == pytest.approx(51 / 101)
    assert "AP_S" not in hand_made(small=50)


def test_a_box_that_overlaps_by_three_fifths_counts_at_the_first_three_of_ten_thresholds():
    ap = AveragePrecision()
    ap.add(found(boxes((0, 0, 10, 6.1)), [0.5]), true(boxes(A)))
    assert ap.compute()["AP"] == pytest.approx(0.3) and ap.compute()["AP75"] == 0


def test_classes_are_averaged_and_a_class_without_objects_does_not_count():
    ap = AveragePrecision()
    ap.add(found(boxes(A, B, C), [0.9, 0.8, 0.7], [1, 2, 3]), true(boxes(A, C), [1, 2]))
    assert ap.compute()["AP"] == pytest.approx(0.5)


def voc_ap(images, threshold):
    """The VOC devkit's loop for one class: average over 11 recalls, difficult objects ignored."""
    rows = sorted(
        ((s, i, b) for i, (f, _) in enumerate(images) for s, b in zip(f["scores"].tolist(), f["boxes"])),
        key=lambda r: -r[0],
    )
    taken = [torch.zeros(len(t["boxes"]), dtype=torch.bool) for _, t in images]
    hits, misses = [], []
    for _, i, b in rows:
        t = images[i][1]
        overlap = box_iou(b[None], t["boxes"])[0]
        j = int(overlap.argmax())
        if overlap[j] >= threshold and t["difficult"][j]:
            continue
        hit = bool(overlap[j] >= threshold) and not taken[i][j]
        taken[i][j] |= hit
        hits.append(hit)
        misses.append(not hit)
    total = sum(int((~t["difficult"]).sum()) for _, t in images)
    recall = np.cumsum(hits) / total
    precision = np.cumsum(hits) / (np.cumsum(hits) + np.cumsum(misses))
    return sum(max(precision[recall >= r - 1e-9], default=0) for r in np.linspace(0, 1, 11)) / 11


def random_images(seed, n=12, difficult=True):
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        grid = torch.cartesian_prod(torch.arange(3), torch.arange(3)).float() * 40  # objects far apart
        where = grid[torch.randperm(9, generator=g)[:4]]
        objects = torch.cat([where, where + 12 + torch.rand(4, 2, generator=g) * 24], 1)
        wobble = torch.randn(8, 4, generator=g) * 3
        guesses = objects[torch.randint(4, (8,), generator=g)] + wobble
        flags = {"difficult": (torch.rand(4, generator=g) < 0.3).tolist()} if difficult else {}
        out.append((found(guesses, torch.rand(8, generator=g).tolist()), true(objects, **flags)))
    return out


@pytest.mark.parametrize("seed", range(3))
def test_with_11_recalls_it_is_the_ap_of_the_voc_devkit_with_its_difficult_objects(seed):
    images = random_images(seed)
    ap = AveragePrecision(recalls=11)
    for f, t in images:
        ap.add(f, t)
    assert ap.compute()["AP50"] == pytest.approx(voc_ap(images, 0.5), abs=1e-6)
    assert ap.compute()["AP75"] == pytest.approx(voc_ap(images, 0.75), abs=1e-6)


def test_boxes_and_masks_are_scored_as_by_pycocotools_itself():
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    g = torch.Generator().manual_seed(5)
    ap = AveragePrecision(("bbox", "segm"), small=900.0)
    truth, guesses = [], []
    for image, (f, t) in enumerate(random_images(4, difficult=False), 1):
        f["labels"], t["labels"] = (torch.randint(1, 3, (len(x["boxes"]),), generator=g) for x in (f, t))
        t["crowd"] = torch.rand(4, generator=g) < 0.2
        y, x = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(120) + 0.5, indexing="ij")
        for part in (f, t):
            x0, y0, x1, y1 = part["boxes"].T[:, :, None, None]
            part["masks"] = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 < 0.25
        ap.add(f, t)
        for part, rows in ((t, truth), (f, guesses)):
            for i, box in enumerate(part["boxes"].double().tolist()):
                mask = rle.encode(np.asfortranarray(part["masks"][i].numpy().astype(np.uint8)))
                row = {"image_id": image, "category_id": int(part["labels"][i]), "segmentation": mask}
                row["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                if part is t:
                    row |= {"id": len(rows) + 1, "area": float(rle.area(mask)), "iscrowd": int(t["crowd"][i])}
                else:
                    row["score"] = float(f["scores"][i])
                rows.append(row)
    expected = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        sizes = [{"id": i, "height": 120, "width": 120} for i in range(1, 13)]
        coco.dataset = {"images": sizes, "annotations": truth, "categories": [{"id": 1}, {"id": 2}], "info": {}}
        coco.createIndex()
        for kind, prefix in (("bbox", ""), ("segm", "mask-")):
            own = [
                {k: v for k, v in row.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for row in guesses
            ]
            run = COCOeval(coco, coco.loadRes(own), kind)
            run.params.areaRng[1] = [0, 900.0]
            run.evaluate()
            run.accumulate()
            run.summarize()
            for name, i in (("AP", 0), ("AP50", 1), ("AP75", 2), ("AP_S", 3)):
                expected[prefix + name] = run.stats[i]
    assert ap.compute() == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected["AP"] < 0.95 and expected["AP_S"] != expected["AP"]


def test_average_precision_without_an_object_is_not_defined():
    ap = AveragePrecision()
    ap.add(found(boxes(A), [0.9]), true(boxes(A), crowd=[True]))
    with pytest.raises(HardlabError, match="no image of the test set has a box that counts"):
        ap.compute()
