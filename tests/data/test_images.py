"""torchvision's sets and COCO, read by the real loading code from tiny fakes in each set's format on disk."""

import gzip
import json
import os
import pickle
import struct
import urllib.error
from xml.sax.saxutils import escape

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as tv
from PIL import Image

from hardlab.data import SETS, load
from hardlab.types import HardlabError


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HARDLAB_OFFLINE", "1")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root whose files pass for the real ones, whatever their checksums."""
    for module in ("cifar", "mnist", "stl10", "svhn", "flowers102"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5=None: os.path.isfile(path),
        )
    return tmp_path / "sets"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def jpeg(path, height=60, width=80, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(3, 4, 3, seed=seed)).resize((width, height), Image.Resampling.BILINEAR).save(path)


def first(data, rows):
    """The pixels of some rows as (n,H,W,3)."""
    return next(data.batches(torch.tensor([rows]))).raw.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("name", "folder", "key"),
    [("cifar10", "cifar-10-batches-py", "labels"), ("cifar100", "cifar-100-python", "fine_labels")],
)
def test_cifar_batches_give_their_pixels_labels_and_class_names(root, name, folder, key):
    (root / folder).mkdir(parents=True)
    classes = [f"class {i}" for i in range(10 if name == "cifar10" else 100)]
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    meta, names_key = "batches.meta", "label_names"
    if name == "cifar100":
        files, meta, names_key = {"train": ["train"], "test": ["test"]}, "meta", "fine_label_names"
    images, labels = {}, {}
    for split, batches in files.items():
        images[split] = noise(2 * len(batches), 3, 32, 32, seed=len(split))
        labels[split] = np.arange(2 * len(batches)) % 7
        for i, batch in enumerate(batches):
            part = slice(2 * i, 2 * i + 2)
            content = {"data": images[split][part].reshape(2, -1), key: labels[split][part].tolist()}
            (root / folder / batch).write_bytes(pickle.dumps(content))
    (root / folder / meta).write_bytes(pickle.dumps({names_key: classes}))
    for split in files:
        data = load(name, split, root=root)
        assert data.in_memory and data.classes == tuple(classes)
        np.testing.assert_array_equal(data.pixels, images[split])
        assert data.targets.tolist() == labels[split].tolist()


def test_fashionmnist_is_grey_on_three_channels_and_as_large_as_the_crops_of_the_recipes(root):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = noise(6, 28, 28)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 6, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 6) + bytes([9, 8, 7, 6, 5, 4]))
    data = load("fashionmnist", "test", root=root, size=28)
    assert data.pixels.shape == (6, 3, 28, 28) and data.targets.tolist() == [9, 8, 7, 6, 5, 4]
    for channel in range(3):
        np.testing.assert_array_equal(data.pixels[:, channel], images)
    assert load("fashionmnist", "test", root=root).pixels.shape == (6, 3, 32, 32)
    (raw / "t10k-images-idx3-ubyte").write_bytes(gzip.compress(b"not an image file"))
    with pytest.raises(HardlabError, match="fashionmnist was not found or is damaged"):
        load("fashionmnist", "test", root=root)


def test_stl10_has_an_unlabeled_split_with_the_label_minus_one(root):
    top = root / "stl10_binary"
    top.mkdir(parents=True)
    images = {split: noise(n, 3, 96, 96, seed=n) for split, n in (("train", 4), ("test", 3), ("unlabeled", 5))}
    for split, array in images.items():
        (top / f"{split}_X.bin").write_bytes(array.transpose(0, 1, 3, 2).tobytes())  # columns first, as MATLAB writes
    (top / "train_y.bin").write_bytes(bytes([1, 10, 3, 4]))
    (top / "test_y.bin").write_bytes(bytes([2, 2, 5]))
    for split, targets in (("train", [0, 9, 2, 3]), ("test", [1, 1, 4]), ("unlabeled", [-1] * 5)):
        data = load("stl10", split, root=root)
        np.testing.assert_array_equal(data.pixels, images[split])
        assert data.targets.tolist() == targets and len(data.classes) == 10
    both = load("stl10", "train+unlabeled", root=root)
    assert both.targets.tolist() == [0, 9, 2, 3] + [-1] * 5
    assert load("stl10", "unlabeled", root=root, fraction=0.4).targets.tolist() == [-1] * 2


def test_svhn_counts_the_label_ten_as_zero(root):
    root.mkdir()
    images = noise(32, 32, 3, 5)
    scipy.io.savemat(root / "train_32x32.mat", {"X": images, "y": np.array([[10], [1], [2], [10], [9]])})
    data = load("svhn", root=root)
    np.testing.assert_array_equal(data.pixels, images.transpose(3, 2, 0, 1))
    assert data.targets.tolist() == [0, 1, 2, 0, 9]


def test_flowers102_follows_the_lists_of_its_matlab_files(root):
    top = root / "flowers-102"
    for i in range(1, 7):
        jpeg(top / "jpg" / f"image_{i:05d}.jpg", seed=i)
    scipy.io.savemat(top / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 4, 5, 102]])})
    scipy.io.savemat(top / "setid.mat", {"trnid": [[6, 1]], "valid": [[2, 3]], "tstid": [[5, 4]]})
    data = load("flowers102", root=root, max_side=96)
    assert data.targets.tolist() == [101, 0] and len(data.classes) == 102
    np.testing.assert_array_equal(first(data, [0])[0], np.array(Image.open(top / "jpg/image_00006.jpg")))
    assert load("flowers102", "test", root=root).targets.tolist() == [4, 3]


def test_food101_follows_its_json_lists(root):
    top = root / "food-101"
    (top / "meta").mkdir(parents=True)
    (top / "meta" / "train.json").write_text(json.dumps({"b": ["b/1", "b/2"], "a": ["a/7"]}))
    for name in ("b/1", "b/2", "a/7"):
        jpeg(top / "images" / f"{name}.jpg", height=100, seed=ord(name[0]))
    data = load("food101", root=root)
    assert data.classes == ("a", "b") and data.targets.tolist() == [1, 1, 0] and not data.in_memory
    np.testing.assert_array_equal(first(data, [2])[0], np.array(Image.open(top / "images/a/7.jpg")))


def test_pets_trains_on_its_trainval_list(root):
    top = root / "oxford-iiit-pet"
    (top / "annotations").mkdir(parents=True)
    (top / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nyorkshire_terrier_3 2 2 1\n")
    for name in ("Abyssinian_1", "yorkshire_terrier_3"):
        jpeg(top / "images" / f"{name}.jpg")
    data = load("pets", root=root)
    assert data.classes == ("Abyssinian", "Yorkshire Terrier") and data.targets.tolist() == [0, 1]
    assert len(first(data, [0, 1])) == 2


def test_cars_reads_labels_that_count_from_one(root):
    top = root / "stanford_cars"
    (top / "devkit").mkdir(parents=True)
    kind = [("class", "u1"), ("fname", "O")]
    annotations = np.array([(2, "00001.jpg"), (1, "00002.jpg")], dtype=kind)
    scipy.io.savemat(top / "devkit" / "cars_train_annos.mat", {"annotations": annotations})
    scipy.io.savemat(top / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "BMW"], dtype=object)})
    for i in (1, 2):
        jpeg(top / "cars_train" / f"{i:05}.jpg")
    data = load("cars", root=root)
    assert data.classes == ("Acura", "BMW") and data.targets.tolist() == [1, 0]
    assert len(first(data, [1, 0])) == 2


def test_sun397_is_split_in_fixed_halves_of_each_class(root):
    (root / "SUN397").mkdir(parents=True)
    (root / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/b/bar/indoor\n")
    for place, n in (("a/abbey", 6), ("b/bar/indoor", 4)):
        for i in range(n):
            jpeg(root / "SUN397" / place / f"sun_{place[0]}{i}.jpg", height=100 + i)
    train, test = load("sun397", root=root), load("sun397", "test", root=root)
    assert train.classes == ("abbey", "bar/indoor")
    assert torch.bincount(train.targets).tolist() == torch.bincount(test.targets).tolist() == [3, 2]
    assert not set(train.names) & set(test.names) and len({*train.names, *test.names}) == 10


def voc_xml(width, height, objects):
    boxes_xml = "".join(
        f"<object><name>{escape(name)}</name><difficult>{hard}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, hard, x0, y0, x1, y1 in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{boxes_xml}</annotation>"


@pytest.fixture
def voc(root):
    scenes = {
        "000001": [("dog", 0, 1, 1, 20, 20), ("person", 0, 11, 6, 80, 60), ("cat", 1, 1, 1, 80, 60)],
        "000002": [("car", 1, 5, 5, 40, 40)],
    }
    for year in ("2007", "2012"):
        top = root / "VOCdevkit" / f"VOC{year}"
        for folder in ("ImageSets/Main", "Annotations"):
            (top / folder).mkdir(parents=True)
        for split in ("trainval", "train", "val"):
            (top / "ImageSets" / "Main" / f"{split}.txt").write_text("000001\n000002\n")
        for name, objects in scenes.items():
            jpeg(top / "JPEGImages" / f"{name}.jpg")
            (top / "Annotations" / f"{name}.xml").write_text(voc_xml(80, 60, objects))
    return root


@pytest.mark.parametrize(("name", "split"), [("voc2007", "train"), ("voc2007", "val"), ("voc2012", "test")])
def test_voc_gives_the_largest_object_every_class_present_and_boxes(voc, name, split):
    data = load(name, split, root=voc)
    dog, person, cat, car = (data.classes.index(c) for c in ("dog", "person", "cat", "car"))
    assert len(data.classes) == 20 and list(data.classes) == sorted(data.classes)
    assert data.targets.tolist() == [person, car], "a difficult object counts where there is no other"
    assert data.multi_hot.shape == (2, 20) and data.multi_hot.ne(0).sum() == 4
    assert data.multi_hot[0, [dog, person, cat]].tolist() == [1, 1, -1] and data.multi_hot[1, car] == -1
    scene = data.scene(0)
    assert scene["image"].shape == (3, 60, 80)
    assert scene["labels"].tolist() == [dog, person, cat] and scene["difficult"].tolist() == [False, False, True]
    assert scene["boxes"].tolist() == [[0, 0, 20, 20], [10, 5, 80, 60], [0, 0, 80, 60]], "from 0, end exclusive"


def test_boxes_follow_the_image_when_it_is_shrunk_or_fitted(voc):
    shrunk = load("voc2007", root=voc, max_side=40).scene(0)
    assert shrunk["image"].shape == (3, 30, 40)
    assert shrunk["boxes"].tolist() == [[0, 0, 10, 10], [5, 2.5, 40, 30], [0, 0, 40, 30]]
    fitted = load("voc2007", root=voc, size=30).scene(0)  # the middle 60 of 80 columns, at half scale
    assert fitted["image"].shape == (3, 30, 30)
    assert fitted["boxes"].tolist() == [[0, 0, 5, 10], [0, 2.5, 30, 30], [0, 0, 30, 30]]
    few = load("voc2007", root=voc, size=30, classes=["cat", "person"])
    assert len(few) == 1 and few.targets.tolist() == [1]
    assert few.multi_hot.tolist() == [[-1, 1]] and few.scene(0)["labels"].tolist() == [1, 0]


def test_a_voc_annotation_that_cannot_be_read_is_named(voc):
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000002.xml"
    for text in ("<annotation>", voc_xml(80, 60, [("unicorn", 0, 1, 1, 5, 5)])):
        path.write_text(text)
        with pytest.raises(HardlabError, match=r"000002\.xml is not a VOC annotation"):
            load("voc2007", root=voc)


def test_coco_gives_the_largest_object_every_class_present_and_boxes(root):
    content = {
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 60, "width": 80},
            {"id": 3, "file_name": "a.jpg", "height": 60, "width": 80},
            {"id": 9, "file_name": "c.jpg", "height": 60, "width": 80},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0},
            {"image_id": 7, "category_id": 90, "bbox": [5.5, 4, 40, 20], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 80, 60], "iscrowd": 1},
            {"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]},
        ],
    }
    for i, name in enumerate("abc"):
        jpeg(root / "coco" / "val2017" / f"{name}.jpg", seed=i)
    listing = root / "coco" / "annotations" / "instances_val2017.json"
    listing.parent.mkdir()
    listing.write_text(json.dumps(content))
    for place in (root, root / "coco"):
        data = load("coco", "val", root=place)
        assert data.classes == ("person", "toothbrush")
        assert data.targets.tolist() == [0, 1, -1], "in the order of ids; a crowd gives no label; no object, no label"
        assert data.multi_hot.tolist() == [[1, 0], [1, 1], [0, 0]]
        scene = data.scene(1)
        assert scene["boxes"].tolist() == [[0, 0, 10, 10], [5.5, 4, 45.5, 24], [0, 0, 80, 60]]
        assert scene["crowd"].tolist() == [False, False, True]
        assert data.scene(2)["boxes"].shape == (0, 4)
    np.testing.assert_array_equal(first(data, [1])[0], np.array(Image.open(root / "coco/val2017/b.jpg")))
    listing.write_text("{}")
    with pytest.raises(HardlabError, match="not a listing of COCO instances"):
        load("coco", "val", root=root)


DOWNLOADED = sorted(set(SETS) - {"shapes", "digits", "folder", "pack", "imagenet", "cifar10-jpeg", "coco"})


@pytest.mark.parametrize("name", DOWNLOADED)
def test_offline_nothing_is_downloaded_and_the_missing_files_are_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("tried to download"))
    with pytest.raises(HardlabError) as e:
        load(name, root=tmp_path / "empty")
    message = str(e.value)
    assert (
        f"{name} was not found or is damaged: put " in message
        and str(tmp_path / "empty") in message
        and "HARDLAB_OFFLINE" in message
    )
    assert not (tmp_path / "empty").exists(), "nothing is created either"


@pytest.mark.parametrize("name", ["coco", "imagenet"])
def test_sets_that_are_never_downloaded_name_their_files(tmp_path, monkeypatch, name):
    monkeypatch.delenv("HARDLAB_OFFLINE")
    with pytest.raises(HardlabError, match=f"{name} was not found: put .* under {tmp_path}"):
        load(name, root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "stl10", "cars"])
def test_a_download_that_fails_says_so_and_names_the_files(tmp_path, monkeypatch, name):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.delenv("HARDLAB_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(HardlabError, match=f"{name} was not found .*put .* under .*the download failed"):
        load(name, root=tmp_path)


def test_online_a_missing_set_is_downloaded_into_the_data_root(monkeypatch, root):
    def fetch(self):
        where = f"{self.root}/test_32x32.mat"
        scipy.io.savemat(where, {"X": noise(32, 32, 3, 2), "y": np.array([[1], [2]])})

    monkeypatch.delenv("HARDLAB_OFFLINE")
    monkeypatch.setattr(tv.SVHN, "download", fetch)
    assert load("svhn", "test", root=root).targets.tolist() == [1, 2]
    assert (root / "test_32x32.mat").is_file()


@pytest.mark.parametrize("name", DOWNLOADED)
def test_an_unknown_split_names_the_nearest(tmp_path, name):
    with pytest.raises(HardlabError, match="did you mean 'train'"):
        load(name, "trian", root=tmp_path)
