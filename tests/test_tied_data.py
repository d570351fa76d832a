"""A run and the images that it was trained on: nothing goes on, is found again or is measured on other ones."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from resuming import learned, same, stopping_at
from small_runs import small_run

from hardlab import build, checkpoint, config, data, files, meters, process, recipes, run_folder, stopping, train
from hardlab.analysis import hardness, negatives, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.cli import cli
from hardlab.errors import HardlabError
from hardlab.evaluate.runner import evaluate_run
from hardlab.run_folder import OtherImages
from hardlab.workbook import plan, workflow

QUICK = {"epochs": 3, "batch_size": 8, "augment.size": 24, "precision": "auto"}
REFUSED = r"was trained on other images than folder:/.*/pictures holds now .*--anew"


def quiet(line):
    pass


def fill(folder, count=12, start=0, side=32):
    """Images of two classes, both splits."""
    rng = np.random.default_rng(start)
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for i in range(start, start + count):
                pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{i:03}.bmp")
    return folder


@pytest.fixture
def pictures(tmp_path):
    return fill(tmp_path / "pictures")


def on(folder, name="simsiam-hvs", **more):
    return small_run(name, **QUICK | {"data": {"name": f"folder:{folder}"}} | more)


def repaint(file):
    """Another picture of the same name and length."""
    with Image.open(file) as old:
        new = 255 - np.asarray(old)
    Image.fromarray(new).save(file)


def test_a_run_whose_folder_grew_does_not_go_on_and_nothing_of_it_is_touched(pictures, tmp_path, monkeypatch):
    run, folder = on(pictures), tmp_path / "runs"
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(2))
    with pytest.raises(stopping.Stopped):
        train.train(run, folder, say=quiet)
    monkeypatch.undo()
    before = {p: p.read_bytes() for p in (folder / run.id).rglob("*") if p.is_file() and p.name != "manifest.json"}
    digest = run_folder.manifest(folder / run.id)["data"]["digest"]
    fill(pictures, 10, start=50)
    with pytest.raises(OtherImages, match=rf"{run.id} {REFUSED}") as error:
        train.train(run, folder, say=quiet)
    assert "44 images, not 24" in str(error.value) and "\n" not in str(error.value)
    assert run_folder.manifest(folder / run.id)["data"]["digest"] == digest
    assert before == {p: p.read_bytes() for p in before}


def test_the_checkpoint_itself_knows_its_images_where_the_manifest_is_lost(pictures, tmp_path, monkeypatch):
    run, folder = on(pictures), tmp_path / "runs"
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(2))
    with pytest.raises(stopping.Stopped):
        train.train(run, folder, say=quiet)
    monkeypatch.undo()
    (folder / run.id / "manifest.json").unlink()
    repaint(pictures / "train" / "a" / "000.bmp")
    with pytest.raises(OtherImages, match=REFUSED):
        train.train(run, folder, say=quiet)


@pytest.mark.parametrize("side", [32, 120], ids=["held in memory", "read from files"])
def test_a_finished_run_is_neither_found_again_nor_measured_once_its_images_changed(side, tmp_path):
    pictures = fill(tmp_path / "pictures", side=side)
    run, folder = on(pictures), tmp_path / "runs"
    path = train.train(run, folder, say=quiet)
    assert train.train(run, folder, say=quiet) == path == process.launch(run, folder)
    assert evaluate_run(path, ["knn"])
    kept = (path / "results.jsonl").read_bytes()
    repaint(pictures / "train" / "b" / "003.bmp")  # as long as before
    for again in (
        lambda: train.train(run, folder, say=quiet),
        lambda: process.launch(run, folder),
        lambda: evaluate_run(path, ["knn"]),
        lambda: evaluate_run(path, ["knn"], options={"fraction": 0.5}),
        lambda: run_folder.open_whole(path),
        lambda: hardness.losses(path, [0, 1]),
    ):
        with pytest.raises(OtherImages, match=rf"{path.name} {REFUSED}"):
            again()
    assert (path / "results.jsonl").read_bytes() == kept
    other = fill(tmp_path / "others")
    assert evaluate_run(path, ["knn"], options={"data": f"folder:{other}"})  # another set is no business of the run's


def test_images_in_their_own_place_again_are_the_same_images(pictures, tmp_path):
    run, folder = on(pictures), tmp_path / "runs"
    path = train.train(run, folder, say=quiet)
    shutil.copytree(pictures, tmp_path / "copy")  # other times
    shutil.rmtree(pictures)
    lines = []
    assert train.train(run, folder, say=lines.append) == path
    assert "could not be compared" in lines[0]  # gone is not other, and is said
    (tmp_path / "copy").rename(pictures)
    assert train.train(run, folder, say=lines.append) == path and len(lines) == 3
    shutil.rmtree(pictures)
    assert evaluate_run(path, ["knn"], options={"data": "digits", "size": 32})


@pytest.mark.slow
def test_anew_starts_a_new_run_and_keeps_the_old_one_aside(pictures, tmp_path):
    run, folder = on(pictures), tmp_path / "runs"
    path = train.train(run, folder, say=quiet)
    old = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    fill(pictures, 4, start=50)
    lines = []
    assert train.train(run, folder, say=lines.append, anew=True) == path
    aside = folder / ".replaced" / f"{run.id}-1"
    assert str(aside) in lines[0]
    assert old == {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()}
    assert run_folder.manifest(path)["data"]["count"] == 32
    assert list(Catalog(folder).manifests) == [run.id]  # the old one is in nobody's table
    expected = train.train(run, tmp_path / "elsewhere", say=quiet)
    assert same(learned(path), learned(expected))
    train.train(run, folder, say=quiet, anew=True)  # asked for again it is done again, and both are kept
    assert sorted(p.name for p in (folder / ".replaced").iterdir()) == [f"{run.id}-1", f"{run.id}-2"]


def test_anew_of_what_was_never_trained_is_a_first_run(tmp_path):
    run = recipes.recipe("simsiam-hvs", "smoke", QUICK | {"data": {"name": "digits"}, "epochs": 0, "augment.size": 8})
    assert train.train(run, tmp_path, say=quiet, anew=True) == tmp_path / run.id
    assert not (tmp_path / ".replaced").exists()


def test_the_option_is_on_the_command_line(pictures, tmp_path):
    words = ["pretrain", "simsiam", f"data=folder:{pictures}", "backbone=tiny", "epochs=1", "batch_size=8"]
    words += ["augment.size=24", "data.fraction=1", "--runs", str(tmp_path / "runs")]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    fill(pictures, 4, start=50)
    with pytest.raises(OtherImages):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert CliRunner().invoke(cli, [*words, "--anew"], catch_exceptions=False).exit_code == 0
    (aside,) = (tmp_path / "runs" / ".replaced").iterdir()
    assert json.loads((aside / "manifest.json").read_text())["data"]["count"] == 24


def test_a_parent_on_other_images_is_refused_and_trained_anew_with_its_child(pictures, tmp_path):
    small = {"data": {"name": f"folder:{pictures}"}, "batch_size": 8, "epochs": 0, "parent.epochs": 0}
    run = recipes.recipe("ppcl", "smoke", small | {"parent.batch_size": 8})
    folder = tmp_path / "runs"
    train.train(run, folder, say=quiet)
    fill(pictures, 4, start=50)
    with pytest.raises(OtherImages, match=run.parent.id):
        train.train(run, folder, say=quiet)
    path = train.train(run, folder, say=quiet, anew=True)
    counts = {run_folder.manifest(p)["data"]["count"] for p in (path, folder / run.parent.id)}
    assert counts == {32}
    train.train(run, folder, say=quiet, anew=True)
    asides = sorted(p.name for p in (folder / ".replaced").iterdir())
    assert asides == sorted([f"{run.id}-1", f"{run.id}-2", f"{run.parent.id}-1"])  # a parent that fits is kept


def test_a_built_in_set_that_is_drawn_otherwise_is_other_images_too(tmp_path, monkeypatch):
    run = recipes.recipe("simsiam", "smoke", QUICK | {"data": {"name": "digits"}, "epochs": 0, "augment.size": 8})
    path = train.train(run, tmp_path, say=quiet)
    real = data.load
    monkeypatch.setattr(build.data, "load", lambda *a, **k: real(*a, **(k | {"size": 9})))
    with pytest.raises(OtherImages):
        train.train(run, tmp_path, say=quiet)
    with pytest.raises(OtherImages):
        evaluate_run(path, ["knn"])


def test_the_negatives_of_a_run_are_not_laid_beside_other_images(tmp_path, pictures):
    run = on(pictures, "moco", **{"method.queue": 16, "epochs": 1})
    path = train.train(run, tmp_path / "runs", say=quiet)
    step = run_folder.manifest(path)["steps_done"]
    assert len(negatives.reals(path, step, 5).vectors)
    repaint(pictures / "train" / "b" / "003.bmp")
    with pytest.raises(OtherImages):
        negatives.reals(path, step, 5)


def test_a_folder_has_one_name_however_it_is_spelled_and_two_folders_have_two(pictures, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(pictures)
    there = tmp_path / "elsewhere"
    fill(there / "pictures", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spelled = ["pictures", "./pictures/", "elsewhere/../pictures", str(pictures), "link", "~/pictures"]
    ids = {on(name).id for name in spelled}
    assert len(ids) == 1
    monkeypatch.chdir(there)
    assert on("pictures").id not in ids
    again = config.make(json.loads(on("pictures").model_dump_json()))
    monkeypatch.chdir("/")
    assert again.data.name == f"folder:{there / 'pictures'}" and config.make(again.model_dump()).id == again.id


def test_the_workbook_does_not_take_a_run_of_other_images_for_done(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = config.from_here("data=folder:pictures")
    assert pair == f"data=folder:{pictures}" and config.from_here("epochs=2") == "epochs=2"
    path = train.train(on(pictures, epochs=0), tmp_path / "out" / "runs", say=quiet)
    (path / "evaluated.txt").touch()
    steps = [
        plan.Step(
            "a",
            "run",
            "a",
            "a",
            (),
            (),
            (f"runs/{path.name}/evaluated.txt",),
            trains=(plan.Training(path.name, "simclr", 1),),
        )
    ]
    workflow._check_folders(steps, tmp_path / "out")
    fill(pictures, 4, start=50)
    with pytest.raises(OtherImages, match=REFUSED):
        workflow._check_folders(steps, tmp_path / "out")


def test_a_run_that_saved_nothing_yet_starts_on_the_images_that_are_there(pictures, tmp_path):
    run, folder = on(pictures), tmp_path / "runs"
    held = run_folder.Folder(folder, run)
    held.begin(build.device("cpu"), "fp32", {"name": "x", "count": 1, "digest": "0" * 64}, None, {})
    held.close()
    assert run_folder.manifest(train.train(run, folder, say=quiet))["data"]["count"] == 24


def test_the_digest_of_files_is_of_what_they_hold_and_is_read_once(tmp_path, monkeypatch):
    pictures = fill(tmp_path / "pictures", side=120)
    read = []
    real = data.base._content
    monkeypatch.setattr(data.base, "_content", lambda *a: read.append(1) or real(*a))
    first = data.load(f"folder:{pictures}").digest()
    assert data.load(f"folder:{pictures}").digest() == first and len(read) == 1
    os.utime(pictures / "train" / "a" / "000.bmp", (1, 1))
    assert data.load(f"folder:{pictures}").digest() == first and len(read) == 2
    repaint(pictures / "train" / "a" / "000.bmp")
    assert data.load(f"folder:{pictures}").digest() != first


def test_a_damaged_manifest_is_no_reason_to_lose_a_run_and_stays_beside_the_new_one(pictures, tmp_path, monkeypatch):
    run = on(pictures)
    whole = train.train(run, tmp_path / "whole", say=quiet)
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(2))
    with pytest.raises(stopping.Stopped):
        train.train(run, tmp_path / "runs", say=quiet)
    monkeypatch.undo()
    path, lines = tmp_path / "runs" / run.id, []
    (path / "manifest.json").write_bytes(b'{"id": ')
    with pytest.raises(files.DamagedFile, match=r"manifest.json"):
        run_folder.manifest(path)
    assert train.train(run, tmp_path / "runs", say=lines.append) == path
    assert "manifest.json" in lines[0] and (path / "manifest.json.damaged").read_bytes() == b'{"id": '
    assert run_folder.manifest(path)["state"] == "done" and same(learned(path), learned(whole))
    assert checkpoint.newest(path / "checkpoints")[2] == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_files_that_are_too_many_to_read_are_known_by_blocks_of_each(share, tmp_path, monkeypatch):
    pictures = fill(tmp_path / "large", side=200)
    file = pictures / "train" / "b" / "003.bmp"
    monkeypatch.setattr(data.base, "SMALL_BYTES", 1000)
    first = data.load(f"folder:{pictures}").digest()
    assert data.load(f"folder:{pictures}").digest() == first
    content, was = bytearray(file.read_bytes()), file.stat()
    content[round(share * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))  # as a copy that keeps times
    assert data.load(f"folder:{pictures}").digest() != first


def test_of_a_large_set_no_more_is_read_than_its_blocks_and_of_a_small_one_all(tmp_path):
    for i, size in enumerate((5, 4096, 100_000, 300_000)):
        (tmp_path / str(i)).write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    paths = [str(tmp_path / str(i)) for i in range(4)]
    whole = hashlib.sha256(b"".join(hashlib.sha256(Path(p).read_bytes()).digest() for p in paths)).digest()
    assert data.base._content(paths, None).tobytes() == whole
    assert data.base._content(paths, 100).tobytes() == whole  # 100 blocks hold all of each
    parts = []
    for p in paths:
        content = Path(p).read_bytes()
        starts = [0, (len(content) - 4096) // 2, len(content) - 4096]
        h = hashlib.sha256(str(len(content)).encode() + b"".join(content[s : s + 4096] for s in starts))
        parts.append(h.digest() if len(content) > 3 * 4096 else hashlib.sha256(content).digest())
    assert data.base._content(paths, 3).tobytes() == hashlib.sha256(b"".join(parts)).digest()


def test_two_folders_of_one_name_have_rows_of_their_own_and_the_same_images_elsewhere_have_one(tmp_path, pictures):
    path = train.train(on(pictures), tmp_path / "runs", device="cpu", say=quiet)
    called = []
    for n, side in enumerate((32, 48)):
        fill(tmp_path / str(n) / "birds", side=side)
        called += [
            r["data"] for r in evaluate_run(path, ["knn"], options={"data": f"folder:{tmp_path / str(n)}/birds"})
        ]
    assert len(set(called)) == 2 and all(re.fullmatch(r"folder:birds-[0-9a-f]{8}", name) for name in called)
    rows = (path / "results.jsonl").read_text().splitlines()
    assert {json.loads(row)["data"] for row in rows} == set(called)
    shutil.copytree(tmp_path / "0" / "birds", tmp_path / "2" / "birds")
    evaluate_run(path, ["knn"], options={"data": f"folder:{tmp_path}/2/birds"})
    assert len((path / "results.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.parametrize("digest", [[1], "x", "", True, 7, {}, "0" * 63, "z" * 64])
def test_a_digest_that_is_none_is_damage_and_not_other_images(digest, pictures):
    images = data.load(f"folder:{pictures}")
    with pytest.raises(HardlabError, match="is damaged: its digest is") as e:
        run_folder.check_images("a-run", {"digest": digest}, images)
    assert not isinstance(e.value, OtherImages)


def test_a_finished_run_whose_images_are_there_and_cannot_be_read_is_not_handed_back(pictures, tmp_path):
    run, folder = on(pictures), tmp_path / "runs"
    train.train(run, folder, say=quiet)
    (pictures / "train" / "b" / "003.bmp").write_bytes(b"")
    for again in (train.train, process.launch):
        with pytest.raises(HardlabError, match=r"broken image .*003\.bmp"):
            again(run, folder)
    shutil.rmtree(pictures / "train")
    (pictures / "train" / "b").mkdir(parents=True)
    with pytest.raises(HardlabError, match="holds no image"):
        train.train(run, folder, say=quiet)


@pytest.mark.parametrize("what", ["folder", "class"])
def test_a_name_that_no_manifest_can_hold_is_refused_before_it_is_trained_on(what, pictures, tmp_path):
    odd = os.fsdecode(b"\xff")
    if what == "folder":
        pictures = pictures.rename(tmp_path / odd)
        given = {"data.name": f"folder:{pictures}"}
    else:
        for split in ("train", "test"):
            (pictures / split / "a").rename(pictures / split / odd)
        given = {"data.name": f"folder:{pictures}", "data.classes": [odd, "b"]}
    with pytest.raises(HardlabError, match="is not UTF-8"):
        recipes.recipe("simsiam", "smoke", QUICK | given)


def test_an_evaluation_is_tied_to_the_test_images_that_the_rows_beside_it_were_measured_on(pictures, tmp_path):
    path = train.train(on(pictures, epochs=0), tmp_path / "runs", say=quiet)
    (first,) = {json.dumps(row["images"]) for row in evaluate_run(path, ["knn"])}
    both = [data.load(f"folder:{pictures}", split, device="cpu").digest() for split in ("train", "test")]
    assert [json.loads(first)[split] for split in ("train", "test")] == [digest[:16] for digest in both]
    before = (path / "results.jsonl").read_bytes()
    repaint(pictures / "test" / "a" / "000.bmp")
    refused = r"was evaluated on other test images than .* holds now \(digest .*--anew"
    for names in (["knn"], ["linear-lbfgs"]):
        with pytest.raises(OtherImages, match=refused) as error:
            evaluate_run(path, names)
        assert "\n" not in str(error.value) and (path / "results.jsonl").read_bytes() == before
    answer = CliRunner().invoke(cli, ["evaluate", str(path), "--protocol", "linear-lbfgs", "--anew"])
    assert answer.exit_code == 0, answer.output
    rows = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]
    assert {row["protocol"] for row in rows} == {"linear-lbfgs"} and all(
        row["images"]["test"] != both[1] for row in rows
    )
    assert (path / "results.jsonl.replaced").read_bytes() == before
    assert evaluate_run(path, ["knn"]), "all rows are of the same images again"


def test_rows_of_an_earlier_version_stay_and_are_told(pictures, tmp_path):
    path = train.train(on(pictures, epochs=0), tmp_path / "runs", say=quiet)
    evaluate_run(path, ["knn", "svm"])
    rows = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images"]
    (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = CliRunner().invoke(cli, ["evaluate", str(path), "--protocol", "knn"])
    assert answer.exit_code == 0 and "its rows of svm do not say on which images" in answer.output
    rows = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]
    assert {row["protocol"] for row in rows if "images" in row} == {"knn"}


def test_a_run_does_not_go_on_with_other_test_images_than_those_that_monitored_it(pictures, tmp_path, monkeypatch):
    run, folder = on(pictures, **{"logs.monitor_every": 1}), tmp_path / "runs"
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(7))
    with pytest.raises(stopping.Stopped):
        train.train(run, folder, say=quiet)
    monkeypatch.undo()
    known = run_folder.manifest(folder / run.id)["data"]["test_digest"]
    file = pictures / "test" / "b" / "001.bmp"
    kept = file.read_bytes()
    repaint(file)
    with pytest.raises(OtherImages, match=r"was monitored on other test images than .* holds now .*--anew"):
        train.train(run, folder, say=quiet)
    file.write_bytes(kept)
    path = train.train(run, folder, say=quiet)
    assert run_folder.manifest(path)["data"]["test_digest"] == known
    repaint(file)
    with pytest.raises(OtherImages, match="was monitored on other test images"):
        evaluate_run(path, ["knn"])
    assert evaluate_run(path, ["knn"], anew=True)


def test_the_workbook_does_not_take_an_evaluation_of_other_test_images_for_done(pictures, tmp_path):
    path = train.train(on(pictures, epochs=0), tmp_path / "out" / "runs", say=quiet)
    evaluate_run(path, ["knn"])
    (path / "evaluated.txt").touch()
    trains = (plan.Training(path.name, "simclr", 1),)
    steps = [plan.Step("a", "run", "a", "a", (), (), (f"runs/{path.name}/evaluated.txt",), trains=trains)]
    workflow._check_folders(steps, tmp_path / "out")
    repaint(pictures / "test" / "a" / "002.bmp")
    with pytest.raises(OtherImages, match="was evaluated on other test images"):
        workflow._check_folders(steps, tmp_path / "out")


FOREIGN = ("metrics.jsonl", "results.jsonl", "views/*.parquet", "snapshots/*.npz", "checkpoints/*.pt")


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    """Two finished, evaluated runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("neighbours")
    images = fill(folder / "pictures", 8)
    paths = [
        train.train(on(images, "adco", seed=seed, **{"logs.views_every": 1}), folder / "runs", say=quiet)
        for seed in (0, 1)
    ]
    for path in paths:
        evaluate_run(path, ["knn"])
    return paths


@pytest.mark.parametrize("files", FOREIGN)
def test_a_file_of_another_run_is_refused_in_one_sentence(files, neighbours, tmp_path):
    runs = tmp_path / "runs"
    for path in neighbours:
        shutil.copytree(path, runs / path.name)
    own, other = (runs / path.name for path in neighbours)
    readers = {
        "metrics.jsonl": lambda: [Catalog(runs).lines(own.name, "metrics.jsonl"), run_folder.metrics(own)],
        "results.jsonl": lambda: [Catalog(runs).results],
        "views/*.parquet": lambda: [viewlog.read(own)],
        "snapshots/*.npz": lambda: [negatives.banks(own)],
        "checkpoints/*.pt": lambda: [run_folder.open_run(own)],
    }
    assert all(len(each) for each in readers[files]())
    foreign = sorted(other.glob(files))
    assert foreign
    for file in sorted(own.glob(files)):
        file.unlink()
    for file in foreign:
        shutil.copy(file, own / file.relative_to(other))
    with pytest.raises(HardlabError) as error:
        readers[files]()
    assert "\n" not in str(error.value)


def test_a_log_of_an_unfinished_run_that_names_another_run_is_refused_and_nothing_of_it_is_touched(
    pictures, neighbours, tmp_path, monkeypatch
):
    run, folder = on(pictures), tmp_path / "runs"
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(2))
    with pytest.raises(stopping.Stopped):
        train.train(run, folder, say=quiet)
    monkeypatch.undo()
    log = folder / run.id / "metrics.jsonl"
    own = log.read_bytes()
    shutil.copy(neighbours[0] / "metrics.jsonl", log)
    foreign = log.read_bytes()
    with pytest.raises(
        HardlabError, match=rf"is the log of the run {neighbours[0].name}, not of {run.id}: put the right"
    ):
        train.train(run, folder, say=quiet)
    assert log.read_bytes() == foreign
    log.write_bytes(own)
    path = train.train(run, folder, say=quiet)
    rows = run_folder.metrics(path)
    assert [row.get("run") for row in rows] == [run.id] + [None] * (len(rows) - 1)


def test_a_finished_log_that_was_cut_is_refused_and_one_without_a_digest_in_the_manifest_is_read(neighbours, tmp_path):
    runs = tmp_path / "runs"
    path = shutil.copytree(neighbours[0], runs / neighbours[0].name)
    log, manifest = path / "metrics.jsonl", path / "manifest.json"
    whole = log.read_bytes().splitlines(keepends=True)
    for left in (whole[:0], whole[:-1]):
        log.write_bytes(b"".join(left))
        for read in (lambda: run_folder.metrics(path), lambda: Catalog(runs).lines(path.name, "metrics.jsonl")):
            with pytest.raises(HardlabError, match="the run wrote another one, of another digest"):
                read()
    about = json.loads(manifest.read_text())
    del about["files"]
    manifest.write_text(json.dumps(about))
    assert run_folder.metrics(path) and Catalog(runs).lines(path.name, "metrics.jsonl")
