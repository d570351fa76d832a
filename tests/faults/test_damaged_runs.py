"""Every file of a run, damaged at random: one sentence that names it, or an older or new one in its place.

A few hundred cases; with ``HARDLAB_FAULTS=long`` more than 10,000. Each test tells how many cases it ran.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from small_runs import small_run

from hardlab import build, checkpoint, data, files, run_folder, train
from hardlab.analysis import claims, gan, negatives, tables, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.errors import HardlabError
from hardlab.evaluate import results
from hardlab.evaluate.runner import evaluate_run
from hardlab.figures import published_table
from hardlab.workbook import progress, report

LONG = os.environ.get("HARDLAB_FAULTS") == "long"
LOGS = {"logs.views_every": 1, "logs.views_rows": 8}
VALUES = [None, "x", "", -1, 0, 1e308, math.nan, True, [], {}, [1], {"a": 1}, 2**70, "\udcff"]


def cases(short: int, long: int) -> range:
    return range(long if LONG else short)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with all of its files, in a folder of runs of its own."""
    folder = tmp_path_factory.mktemp("runs")
    path = train.train(small_run(**LOGS), folder, say=lambda line: None)
    evaluate_run(path, ["knn"])
    evaluate_run(path, ["knn"], checkpoints="all")
    return path


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "runs" / whole.name)


def harmed(content: bytes, rng: random.Random) -> bytes:
    """The bytes cut, emptied, flipped, overwritten, or with others put between them."""
    at, kind = rng.randrange(len(content)), rng.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return b""
    if kind == 2:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    block = rng.randbytes(rng.randrange(1, 64))
    if kind == 3:
        return content[:at] + block + content[at + len(block) :]
    if kind == 4:
        return content[:at] + block + content[at:]
    return rng.randbytes(rng.randrange(1, 200))


def places(tree, above=()):
    """The way to every value of nested tables and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in pairs:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(tree, rng: random.Random, values=VALUES):
    """A copy of nested tables in which one value is another one, or missing."""
    tree = copy.deepcopy(tree)
    *way, last = rng.choice(list(places(tree)))
    node = tree
    for key in way:
        node = node[key]
    if isinstance(node, dict) and rng.random() < 0.3:
        del node[last]
    elif isinstance(node, dict | list):
        node[last] = rng.choice(values)
    return tree


def spoken(work, *names: str) -> bool:
    """Whether the work was refused, which it may be in one sentence only, and which names one of the files."""
    try:
        work()
    except HardlabError as e:
        message = str(e)
        assert "\n" not in message.strip() and "weights_only" not in message, message
        assert not names or any(name in message for name in names), message
        return True
    return False


def seal(folder: Path, step: int, content: bytes) -> Path:
    """A checkpoint whose name matches its bytes, whatever they are."""
    for old in folder.glob(f"step-{step:08d}-*"):
        old.unlink()
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def test_a_checkpoint_of_any_content_falls_back_on_the_one_before(path, record_property, monkeypatch):
    folder, run = path / "checkpoints", small_run(**LOGS)
    images = build.images(run)  # once: drawing them anew would be most of each case
    monkeypatch.setattr(build, "images", lambda *where, **how: images)
    newest = checkpoint.listed(folder)[0]
    step, content = checkpoint.named(newest)[0], newest.read_bytes()
    state = torch.load(io.BytesIO(content), weights_only=True)
    stopped = json.loads((path / "manifest.json").read_text()) | {"state": "stopped"}
    (path / "manifest.json").write_text(json.dumps(stopped))
    others = [*VALUES, torch.zeros(3), torch.zeros(3, dtype=torch.uint8), torch.zeros((), dtype=torch.complex64)]
    count = back = 0
    for seed in cases(60, 10_000):
        rng, sink = random.Random(seed), io.BytesIO()
        if seed % 2:
            torch.save(changed(state, rng, others), sink)
        seal(folder, step, sink.getvalue() if seed % 2 else harmed(content, rng))
        spoken(lambda: run_folder.open_run(path))
        held, lines = run_folder.Folder(path.parent, run), []
        try:
            session = train.open(run, held, say=lines.append)
            assert session.done == step or any(f"step-{step:08d}" in line for line in lines)
            back += session.done != step
            if session.done < session.total:
                train.step(session, next(session.batches()))
            session.dump()
        finally:
            held.close()
        count += 1
    record_property("cases", count)
    assert back > count / 2


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_not_measured_by_an_older_one(path):
    step = checkpoint.named(checkpoint.listed(path / "checkpoints")[0])[0]
    seal(path / "checkpoints", step, b"")
    with pytest.raises(HardlabError, match="An older checkpoint cannot stand in for it"):
        evaluate_run(path, ["knn"])


def readers(path: Path) -> list:
    """Everything that reads the small files of a run."""
    folder = path.parent
    return [
        lambda: run_folder.manifest(path),
        lambda: run_folder.metrics(path, "epoch"),
        lambda: run_folder.open_run(path),
        lambda: Catalog(folder).runs,
        lambda: Catalog(folder).results,
        lambda: Catalog(folder).curves,
        lambda: Catalog(folder).done,
        lambda: [
            make(tables.Sources(Catalog(folder)), about)
            for about in Catalog(folder).done.to_dict("records")
            for make in (tables._curves, tables._epochs, tables._costs)
        ],
        lambda: progress.trained_share(path),
        lambda: progress.seconds_per_step(folder),
    ]


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "results.jsonl", "curves.jsonl"])
def test_a_small_file_of_a_run_is_refused_by_name_or_read(name, path, record_property):
    file = path / name
    content, refused, count = file.read_bytes(), 0, 0
    lines = content.splitlines() if name.endswith("l") else [content]
    for seed in cases(40, 2500):
        rng = random.Random(seed)
        if seed % 2:
            at = rng.randrange(len(lines))
            line = json.dumps(changed(json.loads(lines[at]), rng)).encode()
            file.write_bytes(b"\n".join([*lines[:at], line, *lines[at + 1 :]]) + b"\n")
        else:
            file.write_bytes(harmed(content, rng))
        refused += max([spoken(read, name, str(path)) for read in readers(path)])
        count += 1
    record_property("cases", count)
    assert refused > count / 4


def test_a_report_is_made_or_refused_by_name_whatever_a_manifest_holds(path, record_property):
    file = path / "manifest.json"
    tree, count = json.loads(file.read_text()), 0
    for seed in cases(12, 300):
        file.write_text(json.dumps(changed(tree, random.Random(seed))))
        spoken(lambda: report.build(path.parent.parent), "manifest.json")
        count += 1
    record_property("cases", count)


def test_a_damaged_log_does_not_keep_a_run_from_going_on_and_stays_beside_the_new_one(path, record_property):
    run, file = small_run(**LOGS), path / "metrics.jsonl"
    about = json.loads((path / "manifest.json").read_text()) | {"state": "running"}  # the log of a done run is sealed
    (path / "manifest.json").write_text(json.dumps(about))
    content, last, count = file.read_bytes(), max(r["step"] for r in run_folder.metrics(path)), 0
    held = run_folder.Folder(path.parent, run)
    for seed in cases(60, 2500):
        rng = random.Random(seed)
        lines = content.splitlines(keepends=True)
        if seed % 2:  # of another kind, or without what it must have
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode() + b"\n"
        now = b"".join(lines) if seed % 2 else harmed(content, rng)
        file.write_bytes(now)
        if held.rewind(last):
            assert file.with_name("metrics.jsonl.damaged").read_bytes() == now
        run_folder.metrics(path)
        whole = set(content.splitlines())
        assert whole & set(now.splitlines()[: now.count(b"\n")]) <= set(file.read_bytes().splitlines())
        count += 1
    held.close()
    record_property("cases", count)


def test_a_segment_of_the_view_log_is_refused_by_name_or_read_as_it_was(path, record_property):
    segment = viewlog.segments(path)[-1]
    content, before, count, refused = segment.read_bytes(), viewlog.read(path), 0, 0
    footer = int.from_bytes(content[-8:-4], "little")
    for seed in cases(80, 2500):
        rng = random.Random(seed)
        if seed % 2:  # behind a whole footer
            at = rng.randrange(4, len(content) - 8 - footer)
            now = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        else:
            now = harmed(content, rng)
        segment.write_bytes(now)
        if spoken(lambda: viewlog.read(path), segment.name):
            refused += 1
        elif seed % 2:
            assert viewlog.read(path).equals(before)
        count += 1
    record_property("cases", count)
    assert refused > count / 2
    pq.write_table(pq.ParquetFile(io.BytesIO(content)).read().drop(["loss"]), segment)
    assert spoken(lambda: viewlog.read(path), segment.name)


@pytest.mark.parametrize(
    ("kind", "arrays", "read"),
    [
        ("method", {"negatives": (8, 4), "queries": (6, 4), "query_rows": (6,), "ages": (8,)}, negatives.banks),
        ("generated", {"g": (2, 3, 4, 4), "g_ema": (2, 3, 4, 4), "frechet": ()}, gan.shots),
    ],
)
def test_a_snapshot_is_refused_by_name_or_read(kind, arrays, read, tmp_path, record_property):
    file = tmp_path / "snapshots" / f"{kind}-00000010.npz"
    file.parent.mkdir()
    types = {"query_rows": np.int64, "g": np.uint8, "g_ema": np.uint8}
    held = {name: np.ones(shape, types.get(name, np.float32)) for name, shape in arrays.items()}
    np.savez_compressed(file, **held)
    content, count, refused = file.read_bytes(), 0, 0
    assert len(read(tmp_path)) == 1
    for seed in cases(80, 1000):
        rng = random.Random(seed)
        if seed % 2:
            other = [np.zeros(3), np.zeros((8, 4), complex), np.array("x"), np.zeros((2, 0)), np.zeros((8, 5))]
            name = rng.choice(list(held))
            now = {k: v for k, v in held.items() if k != name or rng.random() < 0.7}
            np.savez(file, **(now | ({name: rng.choice(other)} if name in now else {})))
        else:
            file.write_bytes(harmed(content, rng))
        refused += spoken(lambda: read(tmp_path), file.name, str(tmp_path))
        count += 1
    record_property("cases", count)
    assert refused > count / 4


def test_damaged_features_are_made_again(path, record_property):
    shutil.rmtree(path / "features")  # also those of older checkpoints, which nothing here reads
    expected, count = evaluate_run(path, ["knn"]), 0
    kept = sorted((path / "features").glob("*.npz"))
    for seed in cases(6, 60):
        rng, file = random.Random(seed), kept[seed % len(kept)]
        content = file.read_bytes()
        if seed % 3 == 2:
            name, other = rng.choice([("f", np.zeros((3, 2), np.float32)), ("g", np.zeros(3)), ("f", np.array("x"))])
            np.savez(file, **{name: other})
        else:
            file.write_bytes(harmed(content, rng))
        assert [r["value"] for r in evaluate_run(path, ["knn"])] == [r["value"] for r in expected]
        count += 1
    record_property("cases", count)


def test_a_damaged_cache_of_a_data_set_is_made_again(monkeypatch, tmp_path, record_property):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path))
    digest, count = data.load("shapes", count=16).digest(), 0
    (file,) = (tmp_path / "shapes").iterdir()
    content = file.read_bytes()
    for seed in cases(20, 200):
        file.write_bytes(harmed(content, random.Random(seed)))
        assert data.load("shapes", count=16).digest() == digest
        count += 1
    record_property("cases", count)


def test_results_are_added_to_a_whole_file_or_none(path, record_property):
    file = path / "results.jsonl"
    content, row, count = file.read_bytes(), json.loads(file.read_text().splitlines()[0]), 0
    for seed in cases(60, 1000):
        now = harmed(content, random.Random(seed))
        file.write_bytes(now)
        if spoken(lambda: results.append_rows(file, [row]), file.name):
            assert file.read_bytes() == now
        count += 1
    record_property("cases", count)


@pytest.mark.parametrize("module", [claims, published_table])
def test_a_broken_description_is_refused_in_one_sentence(module, tmp_path, record_property):
    load, source = module.load, module.SOURCE
    file, text = tmp_path / source.name, source.read_text(encoding="utf-8")
    tree, count = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), 0
    for seed in cases(6, 120):
        rng = random.Random(seed)
        if seed % 2:
            file.write_text(yaml.safe_dump(changed(tree, rng, VALUES[:-1])), encoding="utf-8")
        else:
            file.write_bytes(harmed(text.encode(), rng))
        spoken(lambda: load.__wrapped__(file))
        count += 1
    for content in (b"", b"\xff", b"[", b"1", b"measures: 1", b"measures: {}\nclaims: {}", b"a: [1"):
        file.write_bytes(content)
        assert spoken(lambda: load.__wrapped__(file), file.name)
    record_property("cases", count)


def test_the_marker_of_a_notebook_may_be_anything(tmp_path, record_property):
    nb = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "a.ipynb").write_text(json.dumps(nb))
    marker, count = tmp_path / "a.done.json", 0
    content = json.dumps({"state": "done", "seconds": 3.5, "key": "k"}).encode()
    for seed in cases(20, 200):
        marker.write_bytes(harmed(content, random.Random(seed)))
        assert report._about_notebook(tmp_path / "a.ipynb", tmp_path, False)["state"] in ("done", "damaged") or seed
        count += 1
    marker.write_bytes(content)
    (tmp_path / "a.ipynb").write_bytes(b"{")
    assert report._about_notebook(tmp_path / "a.ipynb", tmp_path, False)["state"] == "damaged"
    record_property("cases", count)


STEP = {"kind": "step", "step": 3, "epoch": 0, "loss": 1.0}
EPOCH = {**STEP, "kind": "epoch", "terms": {}, "seconds": {"total": 1.0}}
ALARM = {"kind": "health", "step": 3, "epoch": 0, "rule": "collapse", "sentence": "It has collapsed."}
MEASURED = {
    "protocol": "knn",
    "metric": "top1",
    "value": 0.5,
    "features": "backbone",
    "data": "digits",
    "split": "test",
}


@pytest.mark.parametrize(
    ("file", "line"),
    [("metrics.jsonl", STEP), ("metrics.jsonl", EPOCH), ("metrics.jsonl", ALARM), ("results.jsonl", MEASURED),
     ("curves.jsonl", MEASURED)],
)  # fmt: skip
def test_a_line_that_lacks_what_it_must_have_is_refused_by_its_number(file, line, tmp_path):
    file = tmp_path / file

    def read(*lines):
        file.write_text("".join(json.dumps(x) + "\n" for x in lines))
        return files.read_lines(file)

    assert read(line, line) == [line, line]
    for key in line:
        with pytest.raises(files.DamagedFile, match=rf"Line 2 of '.*{file.name}' is damaged: '{key}' is missing"):
            read(line, {k: v for k, v in line.items() if k != key})


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("metrics.jsonl", {**EPOCH, "seconds": None}, "seconds is null, not numbers"),
        ("metrics.jsonl", {**STEP, "kind": "stage"}, 'kind is "stage", not step, epoch, health'),
        ("metrics.jsonl", {**STEP, "generated.loss_real": "high"}, 'generated.loss_real is "high", not a number'),
        ("results.jsonl", {**MEASURED, "value": math.nan}, "value is NaN, not a finite number"),
        ("curves.jsonl", {**MEASURED, "value": math.inf}, "value is Infinity, not a finite number"),
    ],
)
def test_what_is_of_another_kind_is_named_with_its_value(file, line, reason, tmp_path):
    file = tmp_path / file
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(files.DamagedFile, match=rf"{file.name}' is damaged: {re.escape(reason)}"):
        files.read_lines(file)


HALF = "half of a pair: \udcff"


@pytest.mark.parametrize("at", [("versions", "numpy"), ("commit",), ("config", "recipe"), ("data", HALF)])
def test_half_of_a_surrogate_pair_anywhere_in_a_manifest_is_refused_by_name(at, path):
    file = path / "manifest.json"
    tree = json.loads(file.read_text())
    *way, last = at
    node = tree
    for key in way:
        node = node[key]
    node[last] = HALF
    for text in (json.dumps(tree).encode(), json.dumps(tree, ensure_ascii=False).encode(errors="surrogatepass")):
        file.write_bytes(text)
        for read in (lambda: Catalog(path.parent).runs, lambda: run_folder.manifest(path)):
            assert spoken(read, "manifest.json")
    whole = {**json.loads(json.dumps(tree).replace("\\udcff", "")), "error": "\U0001f600 is a whole one"}
    file.write_text(json.dumps(whole))  # as a pair, escaped
    assert run_folder.manifest(path) == whole


@pytest.mark.parametrize(
    "changes", [{"recipe": {"a": 1}}, {"rung": []}, {"seed": [1]}, {"method": {"name": [1]}}, {"method": "moco"}]
)
def test_a_configuration_of_other_types_is_refused_by_the_name_of_its_manifest(changes, path):
    file = path / "manifest.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "config": {**about["config"], **changes}}))
    for read in (lambda: Catalog(path.parent).done, lambda: Catalog(path.parent).results):
        assert spoken(read, "manifest.json")


def test_a_manifest_can_be_read_whatever_bytes_the_names_of_files_are_of(tmp_path):
    held = run_folder.Folder(tmp_path, small_run(**LOGS))
    held.begin(torch.device("cpu"), "fp32", {"skipped_first": [os.fsdecode(b"br\xffken \xc3\xa9.png")]}, None, {})
    held.close()
    assert run_folder.manifest(held.path)["data"]["skipped_first"] == ["br?ken é.png"]


def no_file(kind: str, path: Path) -> None:
    path.unlink()
    {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda p: p.symlink_to(p.name),
     "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)  # fmt: skip


@pytest.mark.timeout(120)  # who opens a pipe as a file waits for good, deaf to Ctrl-C while it trains
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_what_is_no_file_is_refused_by_name_and_not_waited_for(kind, path, record_property, monkeypatch):
    run, count = small_run(**LOGS), 0
    halves = {split: build.images(run, split) for split in ("train", "test")}
    monkeypatch.setattr(build, "images", lambda run, split="train", *where, **how: halves[split])
    uses = {
        "train": lambda: train.train(run, path.parent, device="cpu", say=lambda line: None),
        "evaluate": lambda: evaluate_run(path, ["knn"], checkpoints="all"),
        "collect": lambda: tables.collect(path.parent, path.parent / "tables"),
        "views": lambda: viewlog.read(path),
        "report": lambda: report.build(path.parent.parent),
        "progress": lambda: progress.trained_share(path),
    }
    read_by = {
        "manifest.json": list(uses), "metrics.jsonl": ["collect", "progress"], "results.jsonl": ["evaluate", "collect"],
        "curves.jsonl": ["evaluate", "collect"], "lock": ["train"], "checkpoints": ["train", "evaluate"],
        "views": ["views", "collect"], "features": ["evaluate"],
    }  # fmt: skip
    whole = shutil.copytree(path, path.parent.parent / "whole")
    for file, readers_of_it in read_by.items():
        for use in uses if LONG else readers_of_it if kind == "pipe" else readers_of_it[:1]:
            shutil.rmtree(path.parent)
            shutil.copytree(whole, path)
            at = path / file
            no_file(kind, sorted(at.iterdir())[-1] if at.is_dir() else at)
            spoken(uses[use])
            count += 1
    record_property("cases", count)


@pytest.mark.parametrize("name", ["manifest.json", "results.jsonl", "curves.jsonl", "checkpoints", "features"])
def test_a_file_of_another_run_is_not_taken_for_the_runs_own(name, path):
    run = small_run(**LOGS, seed=1)
    other = train.train(run, path.parent.parent / "other", device="cpu", say=lambda line: None)
    evaluate_run(other, ["knn"])
    evaluate_run(other, ["knn"], checkpoints="all")
    expected = [r["value"] for r in evaluate_run(path, ["knn"])]
    ours, theirs = (
        sorted((folder / name).iterdir()) if "." not in name else [folder / name] for folder in (path, other)
    )
    for file, by in zip(ours, theirs, strict=name == "features"):
        shutil.copy(by, file if name == "features" else file.with_name(by.name))
        if name == "checkpoints":
            file.unlink()
    if name == "features":
        assert [r["value"] for r in evaluate_run(path, ["knn"])] == expected
    elif name == "checkpoints":
        assert spoken(lambda: evaluate_run(path, ["knn"]), "it belongs to another run")
    else:
        assert spoken(lambda: [Catalog(path.parent).results, Catalog(path.parent).curves], name)
    if name == "manifest.json":
        assert spoken(lambda: evaluate_run(path, ["knn"]), name)
        lines = []
        train.train(small_run(**LOGS), path.parent, device="cpu", say=lines.append)
        assert any(f"it is that of {other.name}" in line for line in lines)
        assert run_folder.manifest(path)["seed"] == 0 and (path / "manifest.json.damaged").exists()


def test_a_folder_of_a_run_may_be_renamed(path):
    copy = path.rename(path.parent / "kept for the paper")
    assert evaluate_run(copy, ["knn"]) and len(Catalog(copy.parent).results)
