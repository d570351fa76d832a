"""Sets with several objects an image, PASCAL VOC and COCO: annotations are read, refused, or dropped and counted."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torchvision import datasets

from hardlab.data.base import Missing, Source, cached, data_root, file_list, nearest, opened, shown
from hardlab.data.images import open_set, own_split
from hardlab.types import HardlabError

Size = tuple[int, int]  # height, width
Outline = list[np.ndarray] | dict[str, Any] | None  # polygons (2k,) of x, y in turn, or run lengths, or none


_FEW = 0.01  # share of images of another size than their annotation says; voc2012 has one
_MOST = 10**5  # pixels: drawing a polygon takes memory by its length


class ImageObjects(NamedTuple):
    """The objects of one image: labels (n,), boxes (n,4), a flag (n,), the size that the annotation states, outlines.

    called: the name of each object in messages.
    """

    labels: np.ndarray
    boxes: np.ndarray
    flags: np.ndarray
    size: Size | None
    outlines: list[Outline]
    called: list[str]


def _with_objects(
    classes: list[str], names: list[str], paths: list[Path], images: list[ImageObjects], flag: str, dropped: list[str]
) -> Source:
    """A source whose label is the class of the largest object (-1: no object), with ``multi_hot`` for all classes.

    flag: the name of the flag of objects that do not count (difficult, crowd); such an object gives the label only if
    the image has no other. The source has masks if every object has an outline.
    """
    targets = np.full(len(images), -1, np.int64)
    multi_hot = np.zeros((len(images), len(classes)), np.int8)
    for i, o in enumerate(images):
        if not len(o.labels):
            continue
        x0, y0, x1, y1 = o.boxes.T
        area = (x1 - x0) * (y1 - y0)
        counts = ~o.flags
        targets[i] = o.labels[np.argmax(np.where(counts, area, area - area.max() - 1) if counts.any() else area)]
        multi_hot[i, o.labels[~counts]] = -1
        multi_hot[i, o.labels[counts]] = 1
    outlined = [outline is not None for o in images for outline in o.outlines]
    if any(outlined) and not all(outlined):
        which = next(c for o in images for c, outline in zip(o.called, o.outlines) if outline is None)
        dropped = [*dropped, f"the masks of all objects, because {which} has no outline"]

    def annotate(i: int) -> dict[str, np.ndarray]:
        o = images[i]
        height, width = _size_of(paths[i], o.size)
        out = {"labels": o.labels, "boxes": o.boxes, flag: o.flags, "full": np.array([height, width])}
        if all(outlined) and flag == "crowd":
            out["masks"] = _masks(o, height, width)
        return out

    return Source(
        tuple(classes), targets, names, paths=paths, multi_hot=multi_hot, annotate=annotate, dropped=tuple(dropped)
    )


def _size_of(path: Path, stated: Size | None) -> Size:
    """Height and width of the file; HardlabError if the annotation states another size, which would stretch boxes."""
    try:
        size = _header(path)
    except Exception as e:  # foreign bytes can make a decoder raise nearly anything
        raise HardlabError(f"broken image {shown(path)}: {e or type(e).__name__}") from e
    return _same(path, stated, size)


def _same(path: Path, stated: Size | None, size: Size) -> Size:
    if stated is not None and stated != size:
        raise _OtherSize(
            f"{shown(path)} is {size[1]} x {size[0]} pixels, but its annotation says {stated[1]} x {stated[0]}: "
            "its boxes belong to another image."
        )
    return size


class _OtherSize(HardlabError):
    """The size of an image is not the one that its annotation states."""


def _left_out(images: Sequence[str], count: int, dropped: list[str]) -> None:
    """Record the images of another size, which are left out like broken ones; HardlabError if there are many."""
    if len(images) > _FEW * count:
        raise HardlabError(f"{images[0]} {len(images)} of {count} images have this fault.")
    dropped += [f"the image and its objects, because {why}" for why in images]


def _header(path: Path) -> Size:
    with opened(path) as image:
        return image.size[1], image.size[0]


def _sizes(paths: Sequence[Path]) -> list[Size | None]:
    """Heights and widths from the files' headers, None for unreadable files; cached in the data root."""

    def header(path: Path) -> Size:
        try:
            return _header(path)
        except Exception:  # decoding reports broken files or leaves them out
            return 0, 0

    def read() -> dict[str, np.ndarray]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return {"sizes": np.array(list(pool.map(header, paths)), np.int64).reshape(-1, 2)}

    def fits(kept: dict[str, np.ndarray]) -> bool:
        return kept["sizes"].shape == (len(paths), 2) and kept["sizes"].dtype == np.int64

    sizes = cached(data_root() / "sizes" / f"{file_list(paths)}.npz", read, fits)["sizes"].tolist()
    return [(height, width) if height else None for height, width in sizes]


def _known(path: Path, stated: Size | None, size: Size | None) -> Size | None:
    """The size of an image from its annotation or its file; HardlabError if the two differ."""
    return stated if size is None else _same(path, stated, size)


def _fault(box: Iterable[float], size: Size | None) -> str:
    """Why an object with this box (x0, y0, x1, y1) is invisible; empty if it is visible."""
    x0, y0, x1, y1 = box
    description = f"its box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if not (x1 > x0 and y1 > y0):
        return f"{description} has no area"
    if x1 <= 0 or y1 <= 0 or (size is not None and (x0 >= size[1] or y0 >= size[0])):
        return f"{description} lies outside the image" + (f" of {size[1]} x {size[0]} pixels" if size else "")
    right, bottom = (x1, y1) if size is None else (min(x1, size[1]), min(y1, size[0]))
    if right - max(x0, 0) < 1 or bottom - max(y0, 0) < 1:
        return f"{description} shows less than a pixel"
    return ""


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MOST:
        raise HardlabError(f"{what} is {_short(value)}, not a number of pixels.")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------------------------------- VOC


# fmt: off
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on


def _voc_objects(path: str, image: Path, size_of_file: Size | None, dropped: list[str]) -> ImageObjects:
    """The objects of an annotation; ``dropped`` gains a sentence for each without area in the image. HardlabError."""
    place = f"{shown(path)} is not a VOC annotation"
    try:
        if not Path(path).is_file():
            raise OSError("it is not a file")
        tree = ElementTree.parse(path).getroot()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as e:
        raise HardlabError(f"{place}: {e}") from e
    if tree.tag != "annotation":
        raise HardlabError(f"{place}: it begins with <{tree.tag}>, not <annotation>.")

    def number(element: ElementTree.Element, what: str, owner: str) -> float:
        text = element.findtext(what)
        if text is None:
            raise HardlabError(f"{place}: {owner} has no {what}.")
        try:
            value: Any = float(text)
        except ValueError:
            value = text
        return _number(f"{place}: {what} of {owner}", value)

    size = None
    if tree.find("size") is not None:
        height, width = (number(tree, f"size/{side}", "the image") for side in ("height", "width"))
        if height or width:  # some tools write zeros where they do not know
            size = int(height), int(width)
            if min(size) < 1 or size != (height, width):
                raise HardlabError(f"{place}: an image cannot be {width:g} x {height:g} pixels.")
    size = _known(image, size, size_of_file)
    labels, boxes, difficult, called = [], [], [], []
    for i, o in enumerate(tree.findall("object"), 1):
        name, owner = o.findtext("name", "").strip(), f"object {i}"
        if name not in VOC_CLASSES:
            raise HardlabError(f"{place}: {owner} has the unknown class {name!r}{nearest(name, VOC_CLASSES)}")
        flag = o.findtext("difficult", "0").strip()
        if flag not in ("0", "1"):
            raise HardlabError(f"{place}: difficult of {owner} is {flag!r}, not 0 or 1.")
        x0, y0, x1, y1 = (number(o, f"bndbox/{c}", owner) for c in ("xmin", "ymin", "xmax", "ymax"))
        # VOC counts pixels from 1 and includes the last; here they count from 0 and the end is exclusive
        box = (x0 - 1, y0 - 1, x1, y1)
        if why := _fault(box, size):
            dropped.append(f"{owner} ({name}) of {shown(path)}: {why}")
            continue
        labels.append(VOC_CLASSES.index(name))
        boxes.append(box)
        difficult.append(flag == "1")
        called.append(f"{owner} of {shown(path)}")
    return _image_objects(labels, boxes, difficult, size, [None] * len(labels), called)


def _image_objects(
    labels: list[int],
    boxes: list[Any],
    flags: list[bool],
    size: Size | None,
    outlines: list[Outline],
    called: list[str],
) -> ImageObjects:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageObjects(np.array(labels, np.int64), corners, np.array(flags, bool), size, outlines, called)


def _voc(year: str, split: str, root: str | None, allowed: Mapping[str, str]) -> Source:
    own = own_split(f"voc{year}", split, allowed)
    expected = f"VOCdevkit/VOC{year}/ (JPEGImages/, Annotations/, ImageSets/Main/{own}.txt)"
    d = open_set(f"voc{year}", datasets.VOCDetection, root, expected, year=year, image_set=own)
    paths, dropped = [Path(p) for p in d.images], list[str]()
    _once((p.name for p in paths), f"the list {own}.txt of voc{year} names {{}} twice.")
    images, kept, other = [], list[Path](), list[str]()
    for annotation, path, size_of_file in zip(d.annotations, paths, _sizes(paths), strict=True):
        try:
            images.append(_voc_objects(annotation, path, size_of_file, dropped))
            kept.append(path)
        except _OtherSize as e:
            other.append(str(e))
    _left_out(other, len(paths), dropped)
    return _with_objects(VOC_CLASSES, [p.name for p in kept], kept, images, "difficult", dropped)


def _once(names: Iterable[Any], sentence: str) -> None:
    """Raise HardlabError with the first of ``names`` that occurs more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            raise HardlabError(sentence.format(_short(name)))


def voc2007(split: str, root: str | None, size: int | None) -> Source:
    """PASCAL VOC 2007: train (its trainval, 5,011 images), val (2,510 of them) or test (4,952), 20 classes.

    The label is the class of the largest object; ``multi_hot`` has all; ``scene(i)`` has boxes and difficult flags.
    """
    return _voc("2007", split, root, {"train": "trainval", "val": "val", "test": "test"})


def voc2012(split: str, root: str | None, size: int | None) -> Source:
    """PASCAL VOC 2012: train (5,717 images) or val (5,823), 20 classes; test means val: its labels are secret."""
    return _voc("2012", split, root, {"train": "train", "val": "val", "test": "val"})


# ---------------------------------------------------------------------------------------------- COCO


def coco(split: str, root: str | None, size: int | None) -> Source:
    """COCO 2017: train (118,287 images) or val (5,000), 80 classes; test means val, as the test labels are secret.

    Read from ``coco/`` in the data root (or the data root itself): annotations/instances_{train,val}2017.json and
    {train,val}2017/. Never downloaded (19 GB). An image without objects has the label -1. An image without a size in
    the listing has the size of its file. Left out and counted: objects without area in the image, objects without a
    polygon of three points, and up to a hundredth of the images, if their files differ in size from the listing. Any
    other fault of the listing raises HardlabError with the annotation's id.
    """
    own = own_split("coco", split, {"train": "train2017", "val": "val2017", "test": "val2017"})
    where = data_root(root)
    for top in (where / "coco", where):
        listing = top / "annotations" / f"instances_{own}.json"
        if listing.is_file():
            break
    else:
        raise Missing(
            f"coco was not found: put annotations/instances_{own}.json and {own}/*.jpg under {where / 'coco'}"
        )
    try:
        content = json.loads(listing.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as e:
        raise HardlabError(f"{listing} is not a listing of COCO instances: {e!r}") from e
    try:
        return _listed(content, top / own)
    except _NotCoco as e:
        raise HardlabError(f"{listing} is not a listing of COCO instances: {e}") from e
    except HardlabError as e:
        raise HardlabError(f"{listing}: {e}") from e


class _NotCoco(Exception):
    """The file is not a listing of COCO instances."""


def _entries(content: Any, part: str, needed: tuple[str, ...]) -> list[dict[str, Any]]:
    """The entries of one part of a listing; each ``needed`` key holds a whole number or text that occurs once."""
    if not isinstance(content, dict) or not isinstance(content.get(part), list):
        raise _NotCoco(f"it has no list of {part}.")
    for i, entry in enumerate(content[part]):
        if not isinstance(entry, dict):
            raise _NotCoco(f"entry {i} of {part} is {_short(entry)}.")
        for key in needed:
            value = entry.get(key)
            fits = isinstance(value, str) if key in ("name", "file_name") else isinstance(value, (int, str))
            if not fits or isinstance(value, bool):
                raise _NotCoco(f"{key} of entry {i} of {part} is {_short(value)}.")
    for key in needed:
        _once((e[key] for e in content[part]), f"{key} {{}} occurs twice among its {part}.")
    if not needed:
        return content[part]
    # numbers before texts: they do not compare
    return sorted(content[part], key=lambda e: (isinstance(e[needed[0]], str), e[needed[0]]))


def _listed(content: Any, folder: Path) -> Source:
    categories = _entries(content, "categories", ("id", "name"))
    images = _entries(content, "images", ("id", "file_name"))
    annotations = _entries(content, "annotations", ())
    _once((a["id"] for a in annotations if isinstance(a.get("id"), (int, str))), "annotation {} occurs twice.")
    label = {c["id"]: i for i, c in enumerate(categories)}
    of_image: dict[Any, list[tuple[str, dict[str, Any]]]] = {i["id"]: [] for i in images}
    for i, a in enumerate(annotations):
        called = (
            f"annotation {_short(a['id'])}" if a.get("id") is not None else f"annotation number {i}, without an id,"
        )
        for key, known, what in (("image_id", of_image, "image"), ("category_id", label, "category")):
            if not isinstance(a.get(key), (int, str)) or a[key] not in known:
                raise HardlabError(f"{called} has the {key} {_short(a.get(key))}, but there is no such {what}.")
        of_image[a["image_id"]].append((called, a))
    objects, dropped, names, other = [], list[str](), list[str](), list[str]()
    paths = [folder / image["file_name"] for image in images]
    for image, path, size_of_file in zip(images, paths, _sizes(paths), strict=True):
        try:
            size = _known(path, _stated_size(image), size_of_file)
        except _OtherSize as e:
            other.append(str(e))
            continue
        names.append(image["file_name"])
        labels: list[int] = []
        boxes: list[Any] = []
        crowds: list[bool] = []
        outlines: list[Outline] = []
        named: list[str] = []
        for called, a in of_image[image["id"]]:
            box, crowd, outline, why = _object(called, a, size)
            if why:
                dropped.append(f"{called} of {image['file_name']}: {why}")
                continue
            labels.append(label[a["category_id"]])
            boxes.append(box)
            crowds.append(crowd)
            outlines.append(outline)
            named.append(called)
        objects.append(_image_objects(labels, boxes, crowds, size, outlines, named))
    _left_out(other, len(paths), dropped)
    return _with_objects([c["name"] for c in categories], names, [folder / n for n in names], objects, "crowd", dropped)


def _stated_size(image: dict[str, Any]) -> Size | None:
    sides = [image.get("height"), image.get("width")]
    if all(side is None for side in sides):
        return None
    for name, side in zip(("height", "width"), sides):
        if side is not None and _number(f"{name} of image {_short(image['id'])}", side) not in range(1, _MOST):
            raise HardlabError(f"{name} of image {_short(image['id'])} is {_short(side)}: no image has such a size.")
    return None if None in sides else (int(sides[0]), int(sides[1]))  # type: ignore[arg-type]


def _object(called: str, a: dict[str, Any], size: Size | None) -> tuple[tuple[float, ...], bool, Outline, str]:
    """Corners, crowd flag and outline of an annotation, and why it is dropped, or "". HardlabError if it is invalid."""
    bbox = a.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise HardlabError(f"{called} has the bbox {_short(bbox)}, not [x, y, width, height].")
    x, y, width, height = (_number(f"a number of the bbox of {called}", v) for v in bbox)
    crowd = a.get("iscrowd", 0)
    if crowd not in (0, 1) or not isinstance(crowd, (int, bool)):
        raise HardlabError(f"{called} has iscrowd {_short(crowd)}, not 0 or 1.")
    box = (x, y, x + width, y + height)
    outline, why = _outline(called, a.get("segmentation"))
    if isinstance(outline, dict) and size is not None and not sum(_runs(called, outline, *size)["counts"][1::2]):
        why = "its mask has no pixel"
    if isinstance(outline, list) and not why and not any(_encloses(p, size) for p in outline):
        why = "its polygons enclose nothing of the image"
    return box, bool(crowd), outline, _fault(box, size) or why


def _encloses(polygon: np.ndarray, size: Size | None) -> bool:
    """Whether a polygon (2k,) has an area that reaches into the image."""
    x, y = polygon[0::2], polygon[1::2]
    if x.max() <= 0 or y.max() <= 0 or (size is not None and (x.min() >= size[1] or y.min() >= size[0])):
        return False
    far = np.argmax(np.abs(x - x[0]) + np.abs(y - y[0]))
    return bool(((x - x[0]) * (y[far] - y[0]) != (y - y[0]) * (x[far] - x[0])).any())  # else all on one line


def _outline(called: str, segmentation: Any) -> tuple[Outline, str]:
    """A COCO segmentation, polygons as arrays (a tenth of the memory of lists), and why it shows nothing, or "".

    Polygons of fewer than three points enclose nothing and are left out, as by Detectron2.
    """
    if segmentation is None or segmentation == []:
        return None, ""
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        valid = isinstance(counts, (list, str)) and isinstance(size, list) and len(size) == 2
    else:
        valid = isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation)
    if not valid:
        raise HardlabError(f"{called} has the segmentation {_short(segmentation)}, not polygons or counts and size.")
    if isinstance(segmentation, dict):
        return segmentation, ""
    polygons = []
    for p in segmentation:
        numbers = [_number(f"a coordinate of {called}", v) for v in p]
        if len(numbers) % 2:
            raise HardlabError(f"{called} has a polygon of {len(p)} coordinates: x and y in turn are an even number.")
        if len(numbers) >= 6:
            polygons.append(np.array(numbers, np.float32))
    return polygons, "" if polygons else "none of its polygons has three points"


def _masks(o: ImageObjects, height: int, width: int) -> np.ndarray:
    """Masks (n,H,W) bool, drawn by COCO's own code; HardlabError if pycocotools is missing."""
    try:
        from pycocotools import mask as rle
    except ImportError:
        raise HardlabError("the masks of coco need pycocotools: pip install 'hardlab[analysis]'.") from None
    masks = np.zeros((len(o.outlines), height, width), bool)
    for i, outline in enumerate(o.outlines):
        if isinstance(outline, list):
            runs = rle.merge(rle.frPyObjects([p.astype(float).tolist() for p in outline], height, width))
        else:
            assert outline is not None  # a source has masks only if each object has an outline
            runs = rle.frPyObjects(_runs(o.called[i], outline, height, width), height, width)
        masks[i] = rle.decode(runs)
    return masks


def _runs(called: str, outline: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Run lengths as numbers; HardlabError if they do not fill the image: pycocotools would write beyond it."""
    counts, size = outline["counts"], outline["size"]
    if size != [height, width]:
        raise HardlabError(f"{called} has a mask of size {_short(size)}, but its image is {height} high, {width} wide.")
    numbers = _unpacked(counts) if isinstance(counts, str) else counts
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not whole or sum(numbers) != height * width:
        raise HardlabError(f"{called} has run lengths that do not add up to {height} x {width} pixels.")
    return {"size": size, "counts": numbers}


def _unpacked(text: str) -> list[int]:
    """The run lengths in COCO's compressed text: six bits a character, the sixth says that more follow.

    From the fourth number on each is the difference to the one two before it.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers if not shift else [-1]
