"""Detection and instance segmentation: training, the protocols, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from detecting import PIXELS, SMALL, net, scenes, write_coco
from torch import nn

from hardlab import recipes
from hardlab.data import shapes
from hardlab.evaluate.average_precision import score
from hardlab.evaluate.detection import detect, rate, tune
from hardlab.evaluate.detectors import detector
from hardlab.evaluate.published import DETECTION, PROTOCOLS
from hardlab.evaluate.runner import evaluate_run
from hardlab.train import train
from hardlab.types import HardlabError

QUICK = {"iterations": 2, "batch_size": 2, "warmup": 1, "steps": (), "images": 4, "test_images": 4} | SMALL


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setitem(shapes.SPLITS, "train", 12)
    monkeypatch.setitem(shapes.SPLITS, "test", 8)


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path)
    return tmp_path


def test_the_rate_warms_up_over_100_steps_and_falls_at_18k_and_22k():
    o = {k: DETECTION["detection-voc"][k] for k in ("lr", "steps", "warmup")}
    expected = {
        0: 2e-5,
        50: 0.02 * (0.001 + 0.999 * 0.5),
        100: 0.02,
        17999: 0.02,
        18000: 2e-3,
        22000: 2e-4,
        23999: 2e-4,
    }
    assert {step: rate(step, **o) for step in expected} == pytest.approx(expected)


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


def test_scenes_in_cocos_format_can_be_learned_and_scored(coco):
    options = DETECTION["segmentation-coco-hvs"] | QUICK | {"images": 0, "test_images": 0, "iterations": 1}
    actual = detect(net(), root=coco, **PIXELS, **options)
    assert (actual.n_train, actual.n_test) == (1, 2), "a scene without an object teaches nothing, but can be got wrong"
    assert set(actual.metrics) == {"AP", "AP50", "AP75", "AP_S", "mask-AP", "mask-AP50", "mask-AP75", "mask-AP_S"}


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": ("shapes",)}, "named SET/SPLIT"),
        ({"train": ()}, "at least one set of scenes"),
        ({"neck": "c5"}, "neck has no value 'c5'.*'c4'"),
        ({"neck": "fpn"}, "pyramid of 4 levels takes one anchor size each"),
        ({"anchors": ()}, "anchors of a detector must be"),
        ({"train": ("digits/train",)}, "digits has no boxes: load 'shapes'"),
        ({"images": 13}, "13 training scenes were requested, but only 12"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"lr": 1e9, "iterations": 9, "warmup": 0}, "diverged in iteration"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        detect(net(), **PIXELS, **DETECTION["detection"] | QUICK | options)


def test_a_backbone_without_stages_is_refused():
    with pytest.raises(HardlabError, match="A ViT has no stages for a detector: use a ResNet or tiny"):
        detect(ViT(), **PIXELS, **DETECTION["detection"] | QUICK)
