"""Detection and instance segmentation: networks, training, average precision, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou, roi_align

from hardlab import recipes
from hardlab.data import load, shapes
from hardlab.data.scenes import Scenes, flipped, without_crowd
from hardlab.evaluate.average_precision import AveragePrecision, score
from hardlab.evaluate.detection import detect, rate, tune
from hardlab.evaluate.detectors import detector, stages
from hardlab.evaluate.published import DETECTION, PROTOCOLS
from hardlab.evaluate.runner import evaluate_run
from hardlab.nets import Tiny
from hardlab.train import train
from hardlab.types import HardlabError

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
QUICK = {"iterations": 2, "batch_size": 2, "warmup": 1, "steps": (), "images": 4, "test_images": 4} | SMALL


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setitem(shapes.SPLITS, "train", 12)
    monkeypatch.setitem(shapes.SPLITS, "test", 8)


def scenes(masks=True, count=12):
    return Scenes([load("shapes", size=64, objects=3, count=count)], masks=masks)


def net(seed=0):
    torch.manual_seed(seed)
    return Tiny(width=8)


def examples(n=2, masks=True):
    data = scenes(masks)
    pixels, targets = zip(*(data[i] for i in range(n)))
    return list(pixels), [t | {"masks": t["masks"].to(torch.uint8)} for t in targets]


# ---------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(("neck", "predict"), [("c4", "boxes"), ("c4", "masks"), ("fpn", "masks")])
def test_every_layer_of_the_backbone_gets_a_gradient_and_no_weight_is_a_copy(neck, predict):
    backbone = net()
    anchors = (8, 16, 32) if neck == "c4" else (8, 16, 32, 64)
    model = detector(backbone, 10, neck=neck, predict=predict, **SMALL | {"anchors": anchors}, **PIXELS)
    losses = model.train()(*examples())
    wanted = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert set(losses) == wanted | ({"loss_mask"} if predict == "masks" else set())
    sum(losses.values()).backward()
    missing = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []
    model.eval().roi_heads.detections_per_img = 3
    found = model([torch.rand(3, 50, 64)])[0]
    assert set(found) == {"boxes", "labels", "scores"} | ({"masks"} if predict == "masks" else set())
    if predict == "masks":
        assert found["masks"].shape[1:] == (1, 50, 64)


def test_resnet_50_c4_proposes_on_1024_channels_and_ends_in_res5_with_a_norm_on_its_output():
    with torch.device("meta"):
        net = resnet50(weights=None)
        model = detector(net, 20)
    parts = stages(net)
    assert [p is q for p, q in zip(parts[1:], (net.layer2, net.layer3, net.layer4))] == [True] * 3
    assert model.backbone.out_channels == 1024 and model.roi_heads.stride == 16
    assert isinstance(model.roi_heads.box_head[1], nn.BatchNorm2d) and model.roi_heads.box_head[1].num_features == 2048
    assert model.roi_heads.box_predictor.cls_score.out_features == 21
    small = resnet18(weights=None)
    assert detector(small, 20, res5_norm="none").roi_heads.box_head is small.layer4
    assert model.rpn.pre_nms_top_n() == 12000 and model.eval().rpn.pre_nms_top_n() == 6000


def test_building_a_detector_moves_no_statistic_and_leaves_the_mode():
    backbone = net().train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    detector(backbone, 10, **SMALL)
    assert backbone.stem[1].training and all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_the_c4_heads_give_the_losses_and_boxes_of_torchvisions_heads_around_the_same_parts():
    class Pool(nn.Module):
        def forward(self, features, boxes, _):
            return roi_align(features["0"], boxes, 4, 1 / 4, aligned=True)

    class Head(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, x):
            return self.part(x).mean((2, 3))

    ours = detector(net(), 10, **SMALL, **PIXELS).roi_heads
    theirs = RoIHeads(Pool(), Head(ours.box_head), ours.box_predictor, 0.5, 0.5, 8, 0.25, None, 0.05, 0.5, 100)
    g = torch.Generator().manual_seed(1)
    features = {"0": torch.randn(2, 16, 16, 16, generator=g)}
    corner = torch.rand(2, 9, 2, generator=g) * 40
    boxes = list(torch.cat([corner, corner + 5 + torch.rand(2, 9, 2, generator=g) * 20], 2))
    _, targets = examples()
    out = []
    for heads in (ours, theirs):
        torch.manual_seed(3)
        losses = heads.train()(features, list(boxes), [(64, 64)] * 2, targets)[1]
        found = heads.eval()(features, list(boxes), [(64, 64)] * 2)[0]
        out.append((losses, found))
    assert out[0][0].keys() == out[1][0].keys()
    for name, value in out[1][0].items():
        torch.testing.assert_close(out[0][0][name], value)
    # the running statistics moved once more in between, so boxes are compared anew
    again = [h.eval()(features, list(boxes), [(64, 64)] * 2)[0] for h in (ours, theirs)]
    for a, b in zip(*again):
        torch.testing.assert_close(a, b)


def test_with_tuned_heads_the_backbone_neither_learns_nor_moves_its_statistics():
    backbone = net()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    model = detector(backbone, 10, tuned="heads", **SMALL, **PIXELS)
    head = model.rpn.head.cls_logits.weight.clone()
    tune(model, scenes(), torch.Generator().manual_seed(0), iterations=2, batch_size=2, lr=0.1, steps=(), warmup=0)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert not torch.equal(head, model.rpn.head.cls_logits.weight)


# ---------------------------------------------------------------------------------------------- scenes, training


def test_scenes_of_several_sets_follow_each_other_with_labels_from_one():
    a, b = load("shapes", size=64, objects=3, count=12), load("shapes", "test", size=64, objects=2)
    both = Scenes([a, b])
    assert len(both) == 20
    pixels, target = both[13]
    assert torch.equal(pixels, b.scene(1)["image"] / 255) and torch.equal(target["labels"], b.scene(1)["labels"] + 1)
    assert torch.equal(Scenes([a, b], rows=[13])[0][0], pixels)
    assert [len(batch) for batch in both.batches([[0, 1, 2], [19]])] == [3, 1]


def test_a_mirrored_scene_keeps_its_boxes_around_its_masks_and_mirrored_twice_is_itself():
    pixels, target = scenes()[3]
    x, t = flipped(pixels, target)
    for box, mask in zip(t["boxes"], t["masks"]):
        rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    x, t = flipped(x, t)
    assert torch.equal(x, pixels) and torch.equal(t["boxes"], target["boxes"])


def test_crowds_are_left_out_of_training_and_difficult_objects_are_not():
    target = {"boxes": torch.rand(3, 4), "crowd": torch.tensor([False, True, False])}
    assert torch.equal(without_crowd(target)["boxes"], target["boxes"][[0, 2]])
    target = {"boxes": torch.rand(3, 4), "difficult": torch.tensor([False, True, False])}
    assert without_crowd(target) is target


def test_the_rate_warms_up_over_100_steps_and_falls_at_18k_and_22k():
    o = {k: DETECTION["detection-voc"][k] for k in ("lr", "steps", "warmup")}
    wanted = {0: 2e-5, 50: 0.02 * (0.001 + 0.999 * 0.5), 100: 0.02, 17999: 0.02, 18000: 2e-3, 22000: 2e-4, 23999: 2e-4}
    assert {step: rate(step, **o) for step in wanted} == pytest.approx(wanted)


def test_the_published_settings_are_those_of_the_papers():
    keys = ("iterations", "batch_size", "lr", "steps", "neck", "res5_norm", "tuned")
    common = ("c4", "bn", "all")
    assert [DETECTION["detection-voc"][k] for k in keys] == [24000, 16, 0.02, (18000, 22000), *common]
    assert [DETECTION["detection-voc-hvs"][k] for k in keys] == [48000, 8, 0.01, (36000, 44000), *common]
    assert [DETECTION["segmentation-coco-2x"][k] for k in keys] == [180000, 16, 0.02, (120000, 160000), *common]
    assert [DETECTION["segmentation-coco-hvs"][k] for k in keys] == [90000, 8, 0.01, (60000, 80000), *common]
    fpn = [DETECTION["detection-voc-hexa"][k] for k in keys]
    assert fpn == [31033, 8, 0.05, (24827,), "fpn", "bn", "heads"]
    assert pytest.approx((15, 12), abs=0.001) == (31033 * 8 / 16551, 24827 * 8 / 16551)  # epochs of trainval 07+12
    assert {k: DETECTION[k]["warmup"] for k in DETECTION if "-" in k} == {
        "detection-voc": 100, "detection-voc-hvs": 100, "detection-voc-hexa": 1000,
        "segmentation-coco-2x": 1000, "segmentation-coco-hvs": 1000,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_detection_leaves_the_backbone_alone_repeats_itself_and_says_what_it_used(name):
    backbone, state = net(), torch.get_rng_state()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    torch.set_rng_state(state)
    a = detect(backbone, seed=1, **PIXELS, **DETECTION[name] | QUICK)
    assert torch.equal(torch.get_rng_state(), state), "torch's global numbers are left as they were"
    b = detect(backbone, seed=1, **PIXELS, **DETECTION[name] | QUICK)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert a == b and (a.n_train, a.n_test, len(a.losses)) == (4, 4, 2)
    masks = {"mask-AP", "mask-AP50", "mask-AP75", "mask-AP_S"} if name == "segmentation" else set()
    assert set(a.metrics) == {"AP", "AP50", "AP75", "AP_S"} | masks
    assert all(0 <= v <= 1 for v in a.metrics.values())
    assert detect(backbone, seed=2, **PIXELS, **DETECTION[name] | QUICK).losses != a.losses


def test_every_setting_is_a_protocol_and_its_rows_are_kept(tmp_path):
    assert {name for name, p in PROTOCOLS.items() if p.needs == "scenes"} == set(DETECTION)
    few = {"data.fraction": 1, "backbone.width": 8, "epochs": 0, "batch_size": 4}
    run = train(recipes.recipe("untrained", "smoke", few), tmp_path, device="cpu")
    rows = evaluate_run(run, ["detection"], options=QUICK | {"steps": []}, device="cpu")
    assert {r["metric"] for r in rows} == {"AP", "AP50", "AP75", "AP_S"}
    assert all((r["data"], r["n_train"], r["n_test"]) == ("shapes", 4, 4) for r in rows)
    assert [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()] == rows
    with pytest.raises(HardlabError, match="'detection' has sets of its own: set train, test, side or images"):
        evaluate_run(run, ["detection"], options={"data": "digits"})


@pytest.mark.slow
def test_a_detector_learns_a_handful_of_scenes_by_heart():
    torch.manual_seed(0)
    data = scenes(count=4)
    options = {**SMALL, "roi_size": 8, "rois": 32, "pre_nms": 400, "post_nms": 100, "predict": "masks"}
    model = detector(net(), 10, **options, **PIXELS)
    before = score(model, data)
    tune(model, data, torch.Generator().manual_seed(0), iterations=160, batch_size=4, lr=0.02, steps=(140,), warmup=20)
    after = score(model, data)
    assert before["AP50"] < 0.05 and after["AP50"] > 0.4 and after["mask-AP50"] > 0.3, (before, after)


# ---------------------------------------------------------------------------------------------- average precision


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
    wanted = {}
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
                wanted[prefix + name] = run.stats[i]
    assert ap.compute() == pytest.approx(wanted, abs=1e-12)
    assert 0.05 < wanted["AP"] < 0.95 and wanted["AP_S"] != wanted["AP"]


# ---------------------------------------------------------------------------------------------- COCO's masks


@pytest.fixture
def coco(tmp_path):
    said = {
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
        (tmp_path / "coco" / split).mkdir(parents=True)
        for i in (1, 2):
            Image.fromarray(np.full((60, 80, 3), 90 * i, np.uint8)).save(tmp_path / "coco" / split / f"{i}.jpg")
        listing = tmp_path / "coco" / "annotations" / f"instances_{split}.json"
        listing.parent.mkdir(exist_ok=True)
        listing.write_text(json.dumps(said))
    return tmp_path


def test_polygons_and_run_lengths_of_coco_become_masks_at_the_size_of_the_image(coco):
    masks = load("coco", "val", root=coco).scene(0)["masks"]
    wanted = torch.zeros(2, 60, 80, dtype=torch.bool)
    wanted[0, 10:40, 10:30] = wanted[1, :, :4] = True
    assert torch.equal(masks, wanted)
    half = load("coco", "val", root=coco, max_side=40).scene(0)
    assert half["masks"].shape == (2, 30, 40) and half["masks"][0].sum() == 150
    square = load("coco", "val", root=coco, size=30).scene(0)  # half the size, less 5 columns on either side
    assert square["masks"][0].nonzero().amin(0).tolist() == [5, 0] and square["masks"][0].sum() == 150
    assert square["boxes"][0].tolist() == [0, 5, 10, 20]
    assert load("coco", "val", root=coco).scene(1)["masks"].shape == (0, 60, 80)


def test_scenes_in_cocos_format_can_be_learned_and_scored(coco):
    options = DETECTION["segmentation-coco-hvs"] | QUICK | {"images": 0, "test_images": 0, "iterations": 1}
    got = detect(net(), root=coco, **PIXELS, **options)
    assert (got.n_train, got.n_test) == (1, 2), "a scene without an object teaches nothing, but can be got wrong"
    assert set(got.metrics) == {"AP", "AP50", "AP75", "AP_S", "mask-AP", "mask-AP50", "mask-AP75", "mask-AP_S"}


# ---------------------------------------------------------------------------------------------- refusals


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": ("shapes",)}, "named SET/SPLIT"),
        ({"train": ()}, "at least one set of scenes"),
        ({"neck": "c5"}, "value of neck 'c5'.*'c4'"),
        ({"neck": "fpn"}, "pyramid of 4 levels takes one anchor size each"),
        ({"anchors": ()}, "anchors of a detector must be"),
        ({"train": ("digits/train",)}, "digits has no boxes: load 'shapes'"),
        ({"images": 13}, "13 training scenes were asked for, but there are 12"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"lr": 1e9, "iterations": 9, "warmup": 0}, "diverged in iteration"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        detect(net(), **PIXELS, **DETECTION["detection"] | QUICK | options)


def test_a_set_without_boxes_is_refused(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(HardlabError, match="folder has no boxes: load 'shapes'"):
        Scenes([load(f"folder:{tmp_path}", "train")])


def test_a_backbone_without_stages_is_refused():
    with pytest.raises(HardlabError, match="A ViT has no stages for a detector: use a ResNet or tiny"):
        detect(ViT(), **PIXELS, **DETECTION["detection"] | QUICK)


def test_masks_that_a_set_does_not_have_are_refused(coco):
    listing = coco / "coco" / "annotations" / "instances_val2017.json"
    said = json.loads(listing.read_text())
    for one in said["annotations"]:
        del one["segmentation"]
    listing.write_text(json.dumps(said))
    data = load("coco", "val", root=coco)
    assert len(Scenes([data])) == 2
    with pytest.raises(HardlabError, match="coco has no masks: predict boxes there"):
        Scenes([data], masks=True)


def test_average_precision_without_an_object_is_not_defined():
    ap = AveragePrecision()
    ap.add(found(boxes(A), [0.9]), true(boxes(A), crowd=[True]))
    with pytest.raises(HardlabError, match="no image of the test set has a box that counts"):
        ap.compute()
