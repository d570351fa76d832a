"""Scenes as a detector takes them: pixels, boxes, masks and labels of several sets, mirrored, and refused."""

from __future__ import annotations

import json

import pytest
import torch
from detecting import scenes, write_coco
from PIL import Image

from hardlab.data import load
from hardlab.data.detection_scenes import Scenes, flipped, without_crowd
from hardlab.types import HardlabError


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path)
    return tmp_path


def test_scenes_of_several_sets_follow_each_other_with_labels_from_one():
    a, b = load("shapes", size=64, objects=3, count=12), load("shapes", "test", size=64, objects=2, count=8)
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


def test_polygons_and_run_lengths_of_coco_become_masks_at_the_size_of_the_image(coco):
    masks = load("coco", "val", root=coco).scene(0)["masks"]
    expected = torch.zeros(2, 60, 80, dtype=torch.bool)
    expected[0, 10:40, 10:30] = expected[1, :, :4] = True
    assert torch.equal(masks, expected)
    half = load("coco", "val", root=coco, max_side=40).scene(0)
    assert half["masks"].shape == (2, 30, 40) and half["masks"][0].sum() == 150
    square = load("coco", "val", root=coco, size=30).scene(0)  # half the size, less 5 columns on either side
    assert square["masks"][0].nonzero().amin(0).tolist() == [5, 0] and square["masks"][0].sum() == 150
    assert square["boxes"][0].tolist() == [0, 5, 10, 20]
    assert load("coco", "val", root=coco).scene(1)["masks"].shape == (0, 60, 80)


def test_a_set_without_boxes_is_refused(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(HardlabError, match="folder has no boxes: load 'shapes'"):
        Scenes([load(f"folder:{tmp_path}", "train")])


def test_masks_that_a_set_does_not_have_are_refused(coco):
    listing = coco / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(listing.read_text())
    for one in content["annotations"]:
        del one["segmentation"]
    listing.write_text(json.dumps(content))
    data = load("coco", "val", root=coco)
    assert len(Scenes([data])) == 2
    with pytest.raises(HardlabError, match="coco has no masks: predict boxes there"):
        Scenes([data], masks=True)
