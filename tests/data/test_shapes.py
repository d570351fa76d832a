"""The procedural scenes: fixed bytes, honest annotations, and not solvable from raw pixels by a line."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torchvision.ops import masks_to_boxes

from hardlab.data import load
from hardlab.data.shapes import CLASSES, SPLITS, _generate
from hardlab.types import HardlabError


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "data root"))


def test_another_process_with_other_threads_draws_the_same_bytes(tmp_path):
    here = load("shapes", count=140, seed=7).digest()
    code = "from hardlab.data import load; print(load('shapes', count=140, seed=7).digest())"
    env = os.environ | {"HARDLAB_DATA": str(tmp_path / "elsewhere"), "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "5"}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_scene_i_depends_on_neither_the_count_nor_the_place_in_a_chunk():
    few, many = _generate(13, 32, 0, 0, 2), _generate(150, 32, 0, 0, 2)
    for name in few:
        np.testing.assert_array_equal(few[name], many[name][:13])


def test_seeds_and_splits_share_no_image():
    sets = [load("shapes", split, count=50, seed=seed) for split in SPLITS for seed in (0, 1)]
    pictures = {image.tobytes() for data in sets for image in data.pixels.numpy()}
    assert len(pictures) == 200


def test_a_cached_set_equals_a_drawn_one_and_a_damaged_cache_is_drawn_again(tmp_path):
    drawn = load("shapes", count=60)
    (kept,) = (tmp_path / "data root" / "shapes").iterdir()
    assert torch.equal(load("shapes", count=60).pixels, drawn.pixels)
    blob = bytearray(kept.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    kept.write_bytes(blob)
    assert load("shapes", count=60).digest() == drawn.digest()
    kept.write_bytes(blob[:100])
    assert load("shapes", count=60).digest() == drawn.digest()
    assert [p.name for p in kept.parent.iterdir()] == [kept.name], "no scratch file is left"


def test_a_data_root_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "a file" / "below"))
    assert len(load("shapes", count=20)) == 20


def test_every_ten_scenes_hold_every_class_once():
    targets = load("shapes", count=95).targets
    for start in range(0, 90, 10):
        assert sorted(targets[start : start + 10].tolist()) == list(range(10))
    assert torch.bincount(targets).sub(9.5).abs().max() <= 0.5


@pytest.mark.parametrize("objects", [1, 4])
def test_boxes_are_the_tight_bounds_of_masks_that_do_not_overlap(objects):
    data = load("shapes", count=60, size=48, objects=objects)
    several = 0
    for i in range(60):
        scene = data.scene(i)
        n = len(scene["labels"])
        several += n > 1
        assert scene["image"].shape == (3, 48, 48) and torch.equal(scene["image"], data.pixels[i])
        assert scene["masks"].shape == (n, 48, 48) and scene["masks"].any(2).any(1).all()
        assert scene["masks"].sum(0).max() <= 1
        assert torch.equal(scene["boxes"] - torch.tensor([0.0, 0, 1, 1]), masks_to_boxes(scene["masks"]))
        assert scene["labels"][0] == data.targets[i]
    assert several == 0 if objects == 1 else several > 50


def test_the_mask_covers_what_was_painted():
    """Against the definition: a disc of the same area as its mask, and a bar's mask longer than wide."""
    data = load("shapes", count=200, size=64, classes=["disc", "square", "ring"])
    for i, target in enumerate(data.targets):
        scene = data.scene(i)
        x0, y0, x1, y1 = scene["boxes"][0].tolist()
        if min(x0, y0) == 0 or max(x1, y1) == 64:
            continue  # cut by the border
        filled = scene["masks"][0].float().mean().item() * 64 * 64 / ((x1 - x0) * (y1 - y0))
        name = data.classes[target]
        assert {"disc": 0.68 < filled < 0.85, "square": filled > 0.45, "ring": filled < 0.6}[name], (name, filled)
        inside = scene["masks"][0][int((y0 + y1) / 2), int((x0 + x1) / 2)]
        assert bool(inside) == (name != "ring"), "only the ring has a hole"


def test_an_object_differs_from_its_surroundings_and_its_colour_tells_nothing_of_its_class():
    data = load("shapes", count=1000)
    colours, contrast = [], []
    for i in range(1000):
        scene = data.scene(i)
        image, mask = scene["image"].float() / 255, scene["masks"][0]
        colours.append(image[:, mask].mean(1))
        contrast.append((colours[-1] - image[:, ~mask].mean(1)).norm())
    assert torch.stack(contrast).median() > 0.3
    x, y = torch.stack(colours).numpy(), data.targets.numpy()
    probe = LogisticRegression(max_iter=200).fit(x[:500], y[:500])
    assert probe.score(x[500:], y[500:]) < 0.2, "chance is 0.1"


@pytest.mark.slow
def test_a_linear_probe_on_raw_pixels_stays_below_45_percent():
    train, test = load("shapes"), load("shapes", "test")
    x, x_test = (d.pixels.flatten(1).numpy().astype(np.float32) / 255 - 0.5 for d in (train, test))
    for c in (1e-4, 1e-3):
        probe = LogisticRegression(C=c, max_iter=100).fit(x, train.targets.numpy())
        assert probe.score(x_test, test.targets.numpy()) < 0.45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "16 to 96"),
        ({"count": 0}, "from 1 to"),
        ({"objects": 9}, "1 to 4"),
        ({"seed": -1}, "-1"),
        ({"split": "tset"}, "'test'"),
        ({"cuont": 5}, "'count'"),
    ],
)
def test_an_option_out_of_range_is_told_with_its_value(options, message):
    with pytest.raises(HardlabError, match=message):
        load("shapes", **options)


def test_a_scene_of_a_subset_keeps_its_image_and_renumbers_its_labels():
    data = load("shapes", count=100, classes=["star", "disc"], fraction=0.5, objects=3)
    full = load("shapes", count=100, objects=3)
    star, disc = CLASSES.index("star"), CLASSES.index("disc")
    for i in range(len(data)):
        (row,) = (full.pixels == data.pixels[i]).flatten(1).all(1).nonzero().flatten().tolist()
        expected = [{star: 0, disc: 1}[k] for k in full.scene(row)["labels"].tolist() if k in (star, disc)]
        assert data.scene(i)["labels"].tolist() == expected
        assert len(data.scene(i)["boxes"]) == len(data.scene(i)["masks"]) == len(expected)
