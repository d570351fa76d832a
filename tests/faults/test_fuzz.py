"""Row 11 and 9, by random input: folders, tables and annotations are read, or refused in one sentence."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hardlab.analysis import schema
from hardlab.data import load
from hardlab.types import HardlabError

SEED = 20_261_127


def sentence(error: HardlabError) -> None:
    """One line, not empty, without the words of a traceback."""
    message = str(error)
    assert message and "\n" not in message and "Traceback" not in message, message


def picture(rng: random.Random, kind: str = "PNG") -> bytes:
    size = rng.choice([(1, 1), (7, 5), (33, 40)])
    mode = rng.choice(["RGB", "L", "RGBA", "P", "1"] if kind == "PNG" else ["RGB", "L", "CMYK"])
    sink = io.BytesIO()
    Image.new(mode, size, 1).save(sink, kind)
    return sink.getvalue()


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut, overwritten in places, or with something in front."""
    way = rng.randrange(4)
    if way == 0:
        return content[: rng.randrange(len(content) + 1)]
    if way == 1:
        return rng.randbytes(rng.randrange(9)) + content
    out = bytearray(content)
    for _ in range(rng.randrange(1, 9)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


NAMES = ["a", "b c", "ü", ".hidden", "__MACOSX", "x'y\"", "n\nl", "-r", "é" * 60, "日本", "%s{0}", "\udcff"]
SUFFIXES = [".png", ".jpg", ".JPEG", ".txt", "", ".gif", ".png.part"]


def plant(rng: random.Random, top: Path) -> None:
    """Classes of images and of what else lies about in folders."""
    for split in rng.sample(["train", "val", "test", "other"], rng.randrange(1, 4)):
        for _ in range(rng.randrange(4)):
            at = top / split / rng.choice(NAMES)
            at = at / rng.choice(NAMES) if rng.random() < 0.2 else at
            if at.is_symlink() or any(p.exists() and not p.is_dir() for p in (at, at.parent)):
                continue
            at.mkdir(parents=True, exist_ok=True)
            for _ in range(rng.randrange(4)):
                put(rng, at / (rng.choice(NAMES)[:40] + rng.choice(SUFFIXES)), top)


def put(rng: random.Random, file: Path, top: Path) -> None:
    if os.path.lexists(file):
        return
    way = rng.random()
    if way < 0.6:
        file.write_bytes(picture(rng, rng.choice(["PNG", "JPEG"])))
    elif way < 0.8:
        file.write_bytes(damaged(rng, picture(rng)))
    elif way < 0.85:
        os.mkfifo(file)
    elif way < 0.95:
        file.symlink_to(rng.choice([top, file.parent, Path("nowhere"), Path("/dev/zero")]))
    else:
        file.mkdir()


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_random_folders_are_read_or_refused_in_one_sentence(tmp_path, cases, count):
    read = 0
    for case in range(cases(40, 10_000)):
        rng = random.Random(SEED + case)
        top = tmp_path / "top"
        plant(rng, top)
        broken = rng.choice(["error", "skip"])
        try:
            images = load(f"folder:{top}", rng.choice(["train", "val", "test"]), on_broken=broken, broken_share=1.0)
            index = [i for batch in images.all(4) for i in batch.index.tolist()]
            assert index == list(range(len(images.targets))) and len(images.names) == len(images.targets) > 0
            assert images.targets.max() < len(images.classes) and len(images.digest()) == 64
            read += 1
        except HardlabError as e:
            sentence(e)
        shutil.rmtree(top, ignore_errors=True)
    assert read > case / 20, "hardly a folder was read: what was planted tests nothing"
    count("11 random folders", case + 1)


ODD = ["", "nan", "inf", "-1", "1e400", "abc", '"', ",", "\0", "é", "1,2", "9" * 40, "{}", "None", "\r"]


def table(rng: random.Random, name: str, columns: list[str]) -> bytes:
    """Rows of a table with one thing or several wrong."""
    kinds = schema.TABLES["costs" if name == schema.RUNS else name]
    series = schema.SERIES.get(name, ()) if "setting" not in columns else ()
    lines = [list(columns)]
    for at in range(rng.randrange(4)):
        many = rng.randrange(1, 4)
        cells = {c: "abc"[at % 3] if kinds[c] == schema.TEXT else str(rng.randrange(9)) for c in columns}
        cells |= {c: " ".join(str(rng.randrange(9)) for _ in range(many)) for c in series}
        lines.append(list(cells.values()))
    for _ in range(rng.randrange(3)):
        line = rng.choice(lines)
        if rng.random() < 0.5 and line:
            line[rng.randrange(len(line))] = rng.choice(ODD)
        else:
            line[:] = line[: rng.randrange(len(line) + 1)] if rng.random() < 0.5 else [*line, rng.choice(ODD)]
    content = "\n".join(",".join(line) for line in lines).encode() + b"\n"
    return damaged(rng, content) if rng.random() < 0.4 else content


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_random_tables_are_read_or_refused_in_one_sentence_that_names_the_file(tmp_path, cases, count):
    names, read = sorted(schema.TABLES), 0
    runs = "\n".join([",".join(schema.WHO), *(f"cpu,shapes,moco,00000000,hvs,moco,0,{run}" for run in "abc")]).encode()
    for case in range(cases(200, 10_000)):
        rng = random.Random(SEED + case)
        name = rng.choice(names)
        whole = name == schema.CONFIGS or rng.random() < 0.3  # as in an earlier version
        columns = schema.columns(name) if whole else schema.stored(name)
        (tmp_path / f"{name}.csv").write_bytes(table(rng, name, columns))
        (tmp_path / "runs.csv").write_bytes(runs if rng.random() < 0.7 else table(rng, schema.RUNS, list(schema.WHO)))
        try:
            frame = schema.read(tmp_path, name)
            assert isinstance(frame, pd.DataFrame) and set(schema.columns(name)) <= set(frame.columns)
            for column, kind in schema.TABLES[name].items():
                if kind in (schema.NUMBER, schema.WHOLE) and len(frame):
                    assert pd.api.types.is_numeric_dtype(frame[column]), (column, frame[column].tolist())
            read += 1
        except HardlabError as e:
            sentence(e)
            assert f"{name}.csv" in str(e) or "runs.csv" in str(e)
    assert read > case / 20
    count("9 random tables", case + 1)


VALUES = [None, "", "x", -1, 0, 1, 1.5, 1e300, [], {}, [[]], [None], True, "12", [1, 2, 3], -0.0, 10**30, {"a": 1}]
SQUARE = [10, 10, 30, 10, 30, 40, 10, 40]


def listing() -> dict[str, list[dict[str, object]]]:
    box = {"bbox": [10, 10, 20, 30], "segmentation": [SQUARE]}
    packed = {"size": [60, 80], "counts": [0, 240, 4560]}
    return {
        "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "cat"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (1, 2)],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 3, **copy.deepcopy(box)},
            {"id": 12, "image_id": 1, "category_id": 90, "bbox": [0, 0, 4, 60], "iscrowd": 1, "segmentation": packed},
            {"id": 13, "image_id": 2, "category_id": 90, **copy.deepcopy(box)},
        ],
    }


def spoil(rng: random.Random, tree: object) -> None:
    """Replace, remove or repeat something at a random place of nested lists and dictionaries, in place."""
    while isinstance(tree, (dict, list)) and tree:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = rng.choice(keys)
        inner = tree[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.85:
            tree = inner
            continue
        way = rng.random()
        if way < 0.7:
            tree[key] = rng.choice(VALUES)
        elif way < 0.9:
            del tree[key]
        elif isinstance(tree, list):
            tree.append(copy.deepcopy(inner))
        return


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_random_listings_of_coco_are_read_or_refused_in_one_sentence(tmp_path, cases, count):
    for folder in ("val2017", "annotations"):
        (tmp_path / folder).mkdir()
    for i in (1, 2):
        Image.fromarray(np.full((60, 80, 3), 90 * i, np.uint8)).save(tmp_path / "val2017" / f"{i}.jpg")
    file, read = tmp_path / "annotations" / "instances_val2017.json", 0
    for case in range(cases(100, 10_000)):
        rng, content = random.Random(SEED + case), listing()
        for _ in range(rng.randrange(1, 4)):
            spoil(rng, content)
        text = json.dumps(content).encode()
        file.write_bytes(damaged(rng, text) if rng.random() < 0.1 else text)
        try:
            images = load("coco", "val", root=tmp_path)
            for i in range(len(images)):
                scene = images.scene(i)
                boxes = scene["boxes"]
                assert len(boxes) == len(scene["labels"]) and (scene["labels"] < len(images.classes)).all()
                assert np.isfinite(boxes.numpy()).all() and (boxes[:, 2:] > boxes[:, :2]).all()
                assert (boxes >= 0).all() and (boxes[:, 0::2] <= 80).all() and (boxes[:, 1::2] <= 60).all()
            read += 1
        except HardlabError as e:
            sentence(e)
    assert read > case / 20
    count("11 random annotations", case + 1)


VOC_SIZE = ["width", "height", "depth"]
VOC_TEXTS = ["", "0", "-1", "1e9", "nan", "inf", "1.5", "x", "dog", "&#233;", " 5 ", "9" * 40, "<b/>"]


def annotation(rng: random.Random) -> bytes:
    """An annotation of VOC with one thing or several wrong."""
    size = dict(zip(VOC_SIZE, ["80", "60", "3"], strict=True))
    objects = []
    for _ in range(rng.randrange(4)):
        x0, y0 = rng.randrange(1, 60), rng.randrange(1, 40)
        box = dict(zip(["xmin", "ymin", "xmax", "ymax"], map(str, [x0, y0, x0 + 20, y0 + 20]), strict=True))
        objects.append({"name": rng.choice(["dog", "cat", "car"]), "difficult": rng.choice("01"), "bndbox": box})
    for _ in range(rng.randrange(3)):
        table = rng.choice([size, *objects, *(o["bndbox"] for o in objects if "bndbox" in o)])
        key = rng.choice(list(table)) if table else ""
        if rng.random() < 0.3:
            table.pop(key, None)
        elif key != "bndbox":
            table[key] = rng.choice(VOC_TEXTS)

    def tags(table: dict[str, object]) -> str:
        return "".join(f"<{k}>{tags(v) if isinstance(v, dict) else v}</{k}>" for k, v in table.items())

    parts = [f"<size>{tags(size)}</size>"] if rng.random() < 0.9 else []
    parts += [f"<object>{tags(o)}</object>" for o in objects]
    text = f"<annotation>{''.join(parts)}</annotation>".encode()
    return damaged(rng, text) if rng.random() < 0.1 else text


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_random_annotations_of_voc_are_read_or_refused_in_one_sentence_that_names_the_file(tmp_path, cases, count):
    top = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (top / folder).mkdir(parents=True)
    for i in (1, 2):
        Image.fromarray(np.full((60, 80, 3), 90 * i, np.uint8)).save(top / "JPEGImages" / f"{i}.jpg")
    (top / "ImageSets" / "Main" / "test.txt").write_text("1\n2\n")
    read = 0
    for case in range(cases(100, 10_000)):
        rng = random.Random(SEED + case)
        for i in (1, 2):
            (top / "Annotations" / f"{i}.xml").write_bytes(annotation(rng))
        try:
            images = load("voc2007", "test", root=tmp_path)
            for i in range(len(images)):
                scene = images.scene(i)
                boxes = scene["boxes"]
                assert len(boxes) == len(scene["labels"]) == len(scene["difficult"])
                assert np.isfinite(boxes.numpy()).all() and (boxes[:, 2:] > boxes[:, :2]).all()
                assert (boxes >= 0).all() and (boxes[:, 0::2] <= 80).all() and (boxes[:, 1::2] <= 60).all()
                assert (images.targets[i] < 0) == (len(boxes) == 0)
            read += 1
        except HardlabError as e:
            sentence(e)
            assert any(f"{i}.{kind}" in str(e) for i in (1, 2) for kind in ("xml", "jpg")), str(e)
    assert read > case / 20
    count("11 random annotations of VOC", case + 1)
