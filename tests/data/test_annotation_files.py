"""Annotations of VOC and COCO: each is read, or refused in one sentence with its name, or dropped and counted."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from hardlab.data import load
from hardlab.types import HardlabError

HEIGHT, WIDTH = 60, 80
SQUARE = [10, 10, 30, 10, 30, 40, 10, 40]


def said():
    """Two images; annotations 11 and 12 of the first, 13 of the second; category ids with gaps."""
    return {
        "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "cat"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], "segmentation": [SQUARE]},
            {"id": 12, "image_id": 1, "category_id": 90, "bbox": [0, 0, 4, 60], "iscrowd": 1,
             "segmentation": {"size": [60, 80], "counts": [0, 240, 4560]}},
            {"id": 13, "image_id": 2, "category_id": 90, "bbox": [5, 5, 9, 9], "segmentation": [SQUARE]},
        ],
    }  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Writes a listing, or any text, and loads it."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for i in (1, 2):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90 * i, np.uint8)).save(tmp_path / "val2017" / f"{i}.jpg")

    def write(listing):
        text = listing if isinstance(listing, str) else json.dumps(listing)
        (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
        return load("coco", "val", root=tmp_path)

    return write


def without(part, index, *keys):
    def change(listing):
        for key in keys:
            del listing[part][index][key]

    return change


def put(part, index, **values):
    return lambda listing: listing[part][index].update(values)


def test_a_sound_listing_drops_nothing_and_says_nothing(coco, recwarn):
    data = coco(said())
    assert data.dropped == [] and not [w for w in recwarn if w.category is UserWarning]
    assert data.scene(0)["labels"].tolist() == [0, 1] and data.scene(0)["masks"].sum((1, 2)).tolist() == [600, 240]


BAD_BOXES = ([], [1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], [1, None, 3, 4], [float("nan"), 2, 3, 4], [1, 2, 1e400, 4],
             [True, 2, 3, 4], 5, "abc", {"x": 1})  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("annotations", 1, "bbox"), "annotation 12 has the bbox None"),
        *((put("annotations", 1, bbox=bad), r"of annotation 12 is|annotation 12 has the bbox") for bad in BAD_BOXES),
        (put("annotations", 1, category_id=4), "annotation 12 has the category_id 4"),
        (without("annotations", 1, "category_id"), "annotation 12 has the category_id None"),
        (put("annotations", 1, category_id=[3]), r"annotation 12 has the category_id \[3\]"),
        (put("annotations", 1, image_id=7), "annotation 12 has the image_id 7"),
        (put("annotations", 1, image_id="1"), "annotation 12 has the image_id '1'"),
        (put("annotations", 1, iscrowd="0"), "annotation 12 has iscrowd '0'"),
        (put("annotations", 1, iscrowd=2), "annotation 12 has iscrowd 2"),
        (put("annotations", 1, id=11), "annotation 11 occurs twice"),
        (put("annotations", 0, segmentation=SQUARE), "annotation 11 has the segmentation"),
        (put("annotations", 0, segmentation="x"), "annotation 11 has the segmentation 'x'"),
        (put("annotations", 0, segmentation=[SQUARE[:7]]), "annotation 11 has a polygon of 7 coordinates"),
        (put("annotations", 0, segmentation=[[*SQUARE, "a", 1]]), "coordinate of annotation 11 is 'a'"),
        (put("annotations", 0, segmentation=[[*SQUARE, 1e8, 1]]), "coordinate of annotation 11 is 1"),
        (put("annotations", 0, segmentation={"counts": [1]}), "annotation 11 has the segmentation"),
        (put("images", 1, height=0), "height of image 2 is 0"),
        (put("images", 1, height=60.5), "height of image 2 is 60.5"),
        (put("images", 1, width="80"), "width of image 2 is '80'"),
        (put("images", 1, width=-80), "width of image 2 is -80"),
        (put("images", 1, id=1), "id 1 occurs twice among its images"),
        (put("images", 1, file_name="1.jpg"), "file_name '1.jpg' occurs twice among its images"),
        (without("images", 1, "file_name"), "file_name of entry 1 of images is None"),
        (without("images", 1, "id"), "id of entry 1 of images is None"),
        (put("categories", 1, id=90), "id 90 occurs twice among its categories"),
        (put("categories", 1, name="brush"), "name 'brush' occurs twice among its categories"),
        (without("categories", 1, "name"), "name of entry 1 of categories is None"),
        (lambda listing: listing.update(annotations=[5]), "entry 0 of annotations is 5"),
        (lambda listing: listing.update(images={"1": {}}), "no list of images"),
        (lambda listing: listing.pop("annotations"), "no list of annotations"),
    ],
)  # fmt: skip
def test_a_fault_of_a_listing_is_one_sentence_that_names_it(coco, change, sentence):
    listing = said()
    change(listing)
    with pytest.raises(HardlabError, match=f"instances_val2017.json.*({sentence})") as e:
        coco(listing)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", "null", '"x"', "{", "[" * 100_000, '{"images": []}'])
def test_a_file_of_another_form_is_no_listing(coco, text):
    with pytest.raises(HardlabError, match=r"instances_val2017\.json is not a listing of COCO instances"):
        coco(text)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bbox": [5, 5, 0, 9]}, "has no area"),
        ({"bbox": [5, 5, 9, -9]}, "has no area"),
        ({"bbox": [80, 5, 9, 9]}, "lies outside the image of 80 x 60 pixels"),
        ({"bbox": [-9, 5, 9, 9]}, "lies outside the image"),
        ({"segmentation": [[1, 1]]}, "none of its polygons has three points"),
        ({"segmentation": [[], [1, 1, 5, 5]]}, "none of its polygons has three points"),
        ({"bbox": [5, 5, 0.4, 9]}, "shows less than a pixel"),
        ({"bbox": [-9, 5, 9.5, 9]}, "shows less than a pixel"),
        ({"bbox": [5, 59.5, 9, 9]}, "shows less than a pixel"),
        ({"segmentation": [[1, 1, 5, 5, 9, 9, 3, 3]]}, "its polygons enclose nothing of the image"),
        ({"segmentation": [[90, 10, 99, 10, 99, 20]]}, "its polygons enclose nothing of the image"),
        ({"segmentation": [[-9, -9, -1, -9, -1, -1]]}, "its polygons enclose nothing of the image"),
        ({"segmentation": {"size": [60, 80], "counts": [4800]}}, "its mask has no pixel"),
    ],
)
def test_what_cannot_be_seen_is_dropped_counted_and_said(coco, change, why):
    listing = said()
    put("annotations", 2, **change)(listing)
    with pytest.warns(UserWarning, match=f"1 things were left out.*annotation 13 of 2.jpg: .*{why}"):
        data = coco(listing)
    assert len(data.dropped) == 1 and why in data.dropped[0]
    assert data.targets.tolist() == [0, -1] and data.multi_hot.tolist() == [[1, -1], [0, 0]]
    assert data.scene(1)["boxes"].shape == (0, 4) and data.scene(1)["masks"].shape == (0, HEIGHT, WIDTH)
    assert len(data.scene(0)["labels"]) == 2


def test_a_polygon_that_encloses_nothing_takes_nothing_from_the_others_of_its_object(coco):
    listing = said()
    put("annotations", 0, segmentation=[[1, 1, 70, 50], SQUARE])(listing)
    assert torch.equal(coco(listing).scene(0)["masks"], coco(said()).scene(0)["masks"])


@pytest.mark.parametrize("missing", [("height",), ("width",), ("height", "width")])
def test_a_size_that_is_not_said_is_that_of_the_file(coco, missing):
    listing = said()
    without("images", 0, *missing)(listing)
    scene, expected = coco(listing).scene(0), coco(said()).scene(0)
    assert all(torch.equal(scene[name], expected[name]) for name in expected)


@pytest.mark.parametrize("size", [(80, 60), (60, 81), (120, 160)])
def test_a_size_unlike_the_files_is_refused_when_the_listing_is_read(coco, size):
    listing = said()
    put("images", 0, height=size[0], width=size[1])(listing)
    with pytest.raises(HardlabError, match=rf"1\.jpg is 80 x 60 .* says {size[1]} x {size[0]}.* 1 of 2 images"):
        coco(listing)


@pytest.mark.parametrize("wrong", [1, 2])
def test_one_image_of_another_size_in_a_hundred_is_left_out_and_counted_two_are_refused(coco, tmp_path, wrong):
    listing = said()
    for i in range(3, 101):
        (tmp_path / "val2017" / f"{i}.jpg").write_bytes((tmp_path / "val2017" / "1.jpg").read_bytes())
        listing["images"].append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
    for i in range(wrong):
        put("images", i, height=WIDTH, width=HEIGHT)(listing)
    if wrong == 2:
        with pytest.raises(HardlabError, match="2 of 100 images"):
            coco(listing)
        return
    with pytest.warns(UserWarning, match=r"the image and its objects, because .*1\.jpg is 80 x 60"):
        data = coco(listing)
    assert len(data) == 99 and len(data.dropped) == 1 and "1.jpg" not in data.names
    assert data.scene(0)["boxes"].tolist() == [[5, 5, 14, 14]]


def test_an_object_outside_the_file_of_an_image_without_a_size_is_dropped_and_counted(coco):
    listing = said()
    without("images", 1, "height", "width")(listing)
    put("annotations", 2, bbox=[5, HEIGHT, 9, 9])(listing)
    with pytest.warns(UserWarning, match=r"annotation 13 of 2\.jpg: its box .* lies outside the image of 80 x 60"):
        data = coco(listing)
    assert len(data.dropped) == 1 and data.targets.tolist()[1] == -1


def test_what_is_read_of_headers_is_read_once(coco, monkeypatch):
    import hardlab.data.annotation_files as module

    coco(said())
    monkeypatch.setattr(module, "_header", lambda path: pytest.fail("read again"))
    assert len(coco(said())) == 2


def test_objects_without_outline_keep_their_boxes_and_cost_the_masks_not_in_silence(coco):
    for value in (None, []):
        listing = said()
        put("annotations", 0, segmentation=value)(listing)
        with pytest.warns(UserWarning, match="the masks of all objects, because annotation 11 has no outline"):
            data = coco(listing)
        assert len(data.scene(0)["labels"]) == 2 and "masks" not in data.scene(0)


@pytest.mark.parametrize("packed", [False, True])
def test_run_lengths_are_those_of_pycocotools_and_others_are_refused(coco, packed):
    mask = pytest.importorskip("pycocotools.mask")
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    pixels[:, 20:60] = True
    text = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    flat = pixels.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    numbers = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    listing = said()
    put("annotations", 1, segmentation={"size": [HEIGHT, WIDTH], "counts": text if packed else numbers})(listing)
    assert np.array_equal(coco(listing).scene(0)["masks"][1].numpy(), pixels)
    texts = (text[:-3], text + "1", "~~~", "a" * 50, "")
    lists = (numbers[:-1], [*numbers, 9], [-1, *numbers], ["1"], [], [1e9])
    for change in ({"size": [WIDTH, HEIGHT]}, *({"counts": c} for c in (texts if packed else lists))):
        broken = copy.deepcopy(listing)
        broken["annotations"][1]["segmentation"] |= change
        with pytest.raises(HardlabError, match="annotation 12 has"):
            coco(broken)


def test_an_image_that_is_missing_is_named_or_counted(coco, tmp_path):
    data = coco(said())
    (tmp_path / "val2017" / "2.jpg").unlink()
    with pytest.raises(HardlabError, match=r"broken image .*2\.jpg"):
        data.scene(1)
    kept = load("coco", "val", root=tmp_path, on_broken="skip", broken_share=0.5)
    assert len(kept) == 1 and len(kept.skipped) == 1 and kept.scene(0)["labels"].tolist() == [0, 1]


# ---------------------------------------------------------------------------------------------- VOC


SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"


def voc_object(name="dog", box=(1, 1, 20, 20), more=""):
    corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


@pytest.fixture
def voc(tmp_path):
    """Writes the annotation of the second of two images, and loads them."""
    top = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (top / folder).mkdir(parents=True)
    (top / "ImageSets" / "Main" / "trainval.txt").write_text("1\n2\n")
    for i in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(top / "JPEGImages" / f"{i}.jpg")
        (top / "Annotations" / f"{i}.xml").write_text(f"<annotation>{SIZE}{voc_object()}</annotation>")

    def write(inner, tag="annotation"):
        (top / "Annotations" / "2.xml").write_text(f"<{tag}>{inner}</{tag}>")
        return load("voc2007", root=tmp_path)

    return write


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        (SIZE + voc_object("dgo"), "object 1 has the unknown class 'dgo'; did you mean 'dog'"),
        (SIZE + "<object><name>dog</name></object>", "object 1 has no bndbox/xmin"),
        (SIZE + voc_object(box=(1, 1, 20)), "object 1 has no bndbox/ymax"),
        (SIZE + voc_object() + voc_object(box=(1, "left", 20, 20)), "bndbox/ymin of object 2 is 'left'"),
        (SIZE + voc_object(box=(1, "nan", 20, 20)), "bndbox/ymin of object 1 is nan"),
        (SIZE + voc_object(box=(1, "inf", 20, 20)), "bndbox/ymin of object 1 is inf"),
        (SIZE + voc_object(box=("", 1, 20, 20)), "bndbox/xmin of object 1 is ''"),
        (SIZE + voc_object(more="<difficult>yes</difficult>"), "difficult of object 1 is 'yes'"),
        ("<size><width>80</width></size>" + voc_object(), "the image has no size/height"),
        ("<size><width>80</width><height>-1</height></size>" + voc_object(), "an image cannot be 80 x -1 pixels"),
        ("<object>", "mismatched tag"),
    ],
)
def test_a_fault_of_a_voc_annotation_is_one_sentence_that_names_it(voc, inner, sentence):
    with pytest.raises(HardlabError, match=rf"2\.xml is not a VOC annotation: .*{sentence}"):
        voc(inner)


def test_xml_of_another_kind_is_no_annotation_without_objects(voc):
    with pytest.raises(HardlabError, match="it begins with <html>"):
        voc("", "html")


@pytest.mark.parametrize("box", [(20, 1, 10, 20), (5, 5, 4, 9), (81, 1, 99, 20), (-30, -30, 0, 0), (5, 5, 4.5, 9)])
def test_a_voc_object_that_cannot_be_seen_is_dropped_counted_and_said(voc, box):
    with pytest.warns(UserWarning, match=r"object 2 \(cat\) of .*2\.xml: its box"):
        data = voc(SIZE + voc_object() + voc_object("cat", box))
    assert len(data.dropped) == 1
    assert data.scene(1)["boxes"].tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height><depth>3</depth></size>"])
def test_a_voc_annotation_without_size_has_that_of_the_file(voc, size):
    assert voc(size + voc_object()).scene(1)["boxes"].tolist() == [[0, 0, 20, 20]]


def test_a_voc_size_unlike_the_files_is_refused_when_the_annotations_are_read(voc):
    with pytest.raises(HardlabError, match=r"2\.jpg is 80 x 60 pixels, but its annotation says 60 x 80"):
        voc(f"<size><width>{HEIGHT}</width><height>{WIDTH}</height></size>" + voc_object())


def test_outlines_that_enclose_something_are_kept_however_they_run(coco):
    listing = said()
    put("annotations", 0, segmentation=[[1, 1, 5, 5], [10, 10, 30, 40, 30, 10, 10, 40]])(listing)  # an hourglass
    put("annotations", 2, segmentation=[[90, 10, 99, 10, 99, 20], [70, 10, 99, 10, 99, 20]])(listing)  # half outside
    data = coco(listing)
    assert data.dropped == [] and all(data.scene(i)["masks"].flatten(1).any(1).all() for i in (0, 1))


def test_a_name_with_a_null_is_a_broken_image_and_a_mark_of_byte_order_is_no_text(coco, tmp_path):
    listing = said()
    put("images", 0, file_name="1\0.jpg")(listing)
    with pytest.raises(HardlabError, match="broken image"):
        coco(listing)
    assert coco("\ufeff" + json.dumps(said())).classes == ("cat", "brush")
    (tmp_path / "classes.txt").write_text("\ufeffbrush\n", encoding="utf-8")
    assert load("coco", "val", root=tmp_path, classes=tmp_path / "classes.txt").classes == ("brush",)
