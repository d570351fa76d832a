"""Networks of detectors: torchvision's own parts around the same backbone, and what learns in them."""

from __future__ import annotations

import pytest
import torch
from detecting import PIXELS, SMALL, net, scenes
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from hardlab.evaluate.detection import tune
from hardlab.evaluate.detectors import detector, stages


def examples(n=2, masks=True):
    data = scenes(masks)
    pixels, targets = zip(*(data[i] for i in range(n)))
    return list(pixels), [t | {"masks": t["masks"].to(torch.uint8)} for t in targets]


@pytest.mark.parametrize(("neck", "predict"), [("c4", "boxes"), ("c4", "masks"), ("fpn", "masks")])
def test_every_layer_of_the_backbone_gets_a_gradient_and_no_weight_is_a_copy(neck, predict):
    backbone = net()
    anchors = (8, 16, 32) if neck == "c4" else (8, 16, 32, 64)
    model = detector(backbone, 10, neck=neck, predict=predict, **SMALL | {"anchors": anchors}, **PIXELS)
    losses = model.train()(*examples())
    expected = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert set(losses) == expected | ({"loss_mask"} if predict == "masks" else set())
    sum(losses.values()).backward()
    missing = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []
    model.eval().roi_heads.detections_per_img = 3
    prediction = model([torch.rand(3, 50, 64)])[0]
    assert set(prediction) == {"boxes", "labels", "scores"} | ({"masks"} if predict == "masks" else set())
    if predict == "masks":
        assert prediction["masks"].shape[1:] == (1, 50, 64)


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
        prediction = heads.eval()(features, list(boxes), [(64, 64)] * 2)[0]
        out.append((losses, prediction))
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
