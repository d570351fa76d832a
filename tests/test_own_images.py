"""A reader's own folder of images: what a run takes of it, and what it says."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hardlab import build, cli, config, data, own_images, recipes
from hardlab.analysis import hardness
from hardlab.errors import HardlabError
from hardlab.workbook import execute


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDLAB_DATA", str(tmp_path / "cache"))


def filled(top: Path, folders: dict[str, int], side: int = 120) -> Path:
    rng = np.random.default_rng(0)
    for folder, count in folders.items():
        (top / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (side, side + 7 * (i % 3), 3), np.uint8)
            Image.fromarray(pixels).save(top / folder / f"{i:02}.png")
    return top


def call(*words):
    return CliRunner().invoke(cli.cli, list(map(str, words)))


LAYOUTS = {
    "classes": ({"cat": 20, "dog": 20}, 36, 4),
    "flat": ({".": 30}, 27, 3),
    "splits": ({"train/cat": 20, "train/dog": 20, "val/cat": 3, "val/dog": 2}, 40, 5),
    "train alone": ({"train/cat": 20, "train/dog": 10}, 27, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_images_of_a_folder_are_trained_on_or_held_out_and_none_twice(tmp_path, layout):
    folders, to_train, to_test = LAYOUTS[layout]
    top = filled(tmp_path / "my photos", folders)
    run = recipes.recipe("simclr-hvs", "smoke")
    run = run.with_(own_images.fit(run, top).settings)
    train, test = (build.images(run, split) for split in ("train", "test"))
    names = [{f"{split}/{name}" if layout == "splits" else name for name in images.names}
             for split, images in (("train", train), ("val", test))]  # fmt: skip
    under = top / "train" if layout == "train alone" else top
    assert names[0] | names[1] == {str(p.relative_to(under)) for p in under.rglob("*.png")}
    assert (len(train), len(test)) == (to_train, to_test) and not names[0] & names[1]
    assert run.batch_size <= len(train) / 4 and run.batch_size & (run.batch_size - 1) == 0
    assert run.epochs * len(train) == pytest.approx(8 * 2000, rel=0.02)  # as the recipe on its own data
    assert train.in_memory and run.data.size == 96


def test_what_is_held_out_does_not_depend_on_the_fraction(tmp_path):
    top = f"folder:{filled(tmp_path / 'x', {'cat': 20, 'dog': 20})}"
    held = set(data.load(top, "test", held_out=0.2).names)
    assert len(held) == 8 and sum(name.startswith("cat") for name in held) == 4
    for fraction in (0.25, 1.0):
        assert not held & set(data.load(top, held_out=0.2, fraction=fraction).names)
    assert set(data.load(top, "test", held_out=0.2).names) == held


def test_a_run_without_held_out_images_keeps_its_name():
    assert "held_out" not in recipes.recipe("ppcl").model_dump_json()
    assert config.make({**recipes.recipe("moco").model_dump(), "seed": 0}).id == recipes.recipe("moco").id
    assert recipes.recipe("moco", "smoke", {"data.held_out": 0.1}).id != recipes.recipe("moco").id


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data nowhere", "There is no folder of images .nowhere."),
        ("--data digits", "The data set of that name is data=digits"),
        ("--data few", "holds 5 images to train on: at least 16"),
        ("--data broken", "2 of .* images of folder are broken"),
        ("--data empty", "holds none of the folders"),
        ("--data only_val", "no train/: there is nothing to train on"),
        ("--data good data=digits", "leave out 'data'"),
        ("--data good batch_size=64", "good has 36 images"),
        ("data=good", "is a folder.* `--data good` takes it"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_dry_run_refuses_exactly_what_the_run_refuses(tmp_path, monkeypatch, words, message, dry):
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "good", {"cat": 20, "dog": 20})
    filled(tmp_path / "few", {".": 6})
    filled(tmp_path / "broken", {".": 30})
    for i in range(2):
        (tmp_path / "broken" / f"{i:02}.png").write_bytes(b"not an image")
    filled(tmp_path / "only_val", {"val/cat": 3})
    (tmp_path / "empty").mkdir()
    result = call("pretrain", "simsiam", *words.split(), *(["--dry-run"] if dry else []))
    assert result.exit_code in (1, 2) and re.search(message, f"{result.output} {result.exception}"), result.output
    assert not list((tmp_path / "runs").glob("*"))


def test_a_folder_without_test_images_says_how_some_are_held_out(tmp_path):
    with pytest.raises(HardlabError, match=r"data\.held_out=0\.1 keeps a tenth"):
        data.load(f"folder:{filled(tmp_path / 'x', {'cat': 4})}", "test")


def test_a_few_lines_say_what_was_taken_and_what_was_left_out(tmp_path, monkeypatch):
    top = filled(tmp_path / "mine", {"cat": 110, "dog": 20}, 40)
    (top / "cat" / "000.jpg").write_bytes(b"not an image")
    run = recipes.recipe("simclr-hvs", "cpu")
    fitted = own_images.fit(run, top, {"epochs": 5})
    text = "\n".join(fitted.lines)
    assert "130 images, 2 classes (cat, dog), 40 x 40 to 54 x 40 pixels" in text
    assert "1 cannot be read and are left out" not in text and "1 cannot be read and is left out: " in text
    assert "000.jpg" in text and "epochs" not in fitted.settings and fitted.settings["logs.checkpoint_every"] <= 5
    unlabelled = own_images.fit(run, filled(tmp_path / "flat", {".": 30}))
    assert unlabelled.settings["logs.monitor_every"] == 0 and "no labels" in unlabelled.lines[0]


def test_a_strategy_that_needs_a_parent_fits_the_parent_too(tmp_path):
    top = filled(tmp_path / "mine", {".": 60})
    run = recipes.recipe("ppcl", "smoke")
    run = run.with_(own_images.fit(run, top).settings)
    assert run.parent.data == run.data and run.parent.batch_size == run.batch_size == 8


def test_one_command_trains_on_a_folder_and_says_which_shows_the_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "mine", {"cat": 20, "dog": 20}, 40)
    words = ("pretrain", "simclr-hvs", "--data", "mine", "epochs=1", "backbone.width=4", "--json")
    planned = call(*words, "--dry-run")
    assert planned.exit_code == 0, planned.output
    result = call(*words)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert manifest["config"] == json.loads(planned.stdout) and manifest["data"]["count"] == 36
    assert f"`hardlab explore {Path('runs') / manifest['id']}`" in result.stderr
    log = hardness.named(Path("runs") / manifest["id"])
    names = data.load("folder:mine", size=40, held_out=0.1).names
    assert all(names[i] == name and (tmp_path / "mine" / name).exists() for i, name in zip(log["index"], log["name"]))


@pytest.mark.slow
def test_the_notebook_runs_on_a_folder_of_a_readers_own(tmp_path):
    filled(tmp_path / "mine", {"cat": 12, "dog": 12}, 40)
    given = {"images_dir": str(tmp_path / "mine"), "runs_dir": str(tmp_path / "runs"), "epochs": "2"}
    result = execute.execute(execute.find("10_your_images"), given, out_dir=tmp_path / "out", report=False)
    assert result.state == "done", result.describe()
    nb = nbformat.read(result.notebook, as_version=4)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    shown = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert sum("data-panel" in text for text in shown) == 1 and any("cat/" in text for text in shown)


def test_the_folder_that_the_package_draws_has_classes_and_is_drawn_once(tmp_path):
    top = own_images.drawn(tmp_path / "pictures", 20)
    files = sorted(p for p in top.rglob("*.png"))
    assert len(files) == 20 and len({p.parent for p in files}) == 10
    files[0].unlink()
    assert own_images.drawn(top, 20) == top and len(list(top.rglob("*.png"))) == 19
