"""What `--dry-run` accepts, trains: it refuses what would be refused later, and neither writes nor downloads."""

import json
import re
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from hardlab import build, cli, config, recipes, run_folder, train
from hardlab.data import load
from hardlab.data.base import Absent
from hardlab.types import HardlabError

SCENES = ("--set", "side=16", "--set", "objects=1")  # quickly drawn


def call(*words):
    return CliRunner().invoke(cli.cli, list(map(str, words)))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of small images: one class list without test images, one without labels, one whole."""
    for name, splits in {
        "no_test": {"train": ("a", "b")},
        "no_labels": {"train": ("",), "test": ("",)},
        "whole": {"train": ("a", "b"), "test": ("a", "b")},
        "one_class": {"train": ("a",), "test": ("a",)},
    }.items():
        for split, classes in splits.items():
            for c in classes:
                (tmp_path / name / split / c).mkdir(parents=True)
                for i in range(40):
                    Image.new("RGB", (40, 40), (i, 99, 7)).save(tmp_path / name / split / c / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simsiam data.name=digits batch_size=600", "digits has 577 images at fraction=0.4"),
        ("simsiam data.name=folder:nowhere", "no folder of images '.*nowhere'"),
        ("simsiam data.name=folder:whole batch_size=64", "whole has 32 images"),
        ("simsiam data.name=folder:whole batch_size=16 augment.size=64", "larger than the images of .*whole .40 pix"),
        ("simsiam data.name=folder:no_test batch_size=16 logs.monitor_every=1", "monitor_every=1 needs test images"),
        ("simsiam data.name=folder:no_labels batch_size=16 logs.monitor_every=1", "needs a label per image"),
        ("simsiam data.name=folder:no_test batch_size=16 --protocol knn", "no split 'test'"),
        ("simsiam data.name=folder:no_labels batch_size=16 --protocol knn", "have no label"),
        ("simsiam data.name=folder:no_labels batch_size=16 --protocol svm", "have no label"),
        ("simsiam data.name=folder:one_class batch_size=16 --protocol linear", "needs images of 2 classes"),
        ("simsiam data.name=digits backbone=vit_micro --protocol detection", "builds a detector on the stages"),
        ("simsiam data.name=digits data.classes=[x]", "digits has no class 'x'"),
        ("supervised data.name=folder:no_labels batch_size=16", "needs one label an image"),
        ("deepcluster data.name=digits method.prototypes=600", "more clusters than the 577 images"),
        ("simclr-sas data.name=digits hard.sas.share=0.01", "keeps 6 of 577 images"),
        ("simclr-sas data.name=digits hard.sas.classes=600", "more clusters than the 577 images"),
        ("simclr-sas data.name=digits parent.backbone.width=5", "has another backbone than this run"),
        ("adco hard.adco.size=60000", "takes 469 steps to fill"),
        ("moco-mochi data.name=digits hard.mochi.warmup_epochs=999", "leaves nothing of a run"),
        ("gan pixel_mean=[0,0,0]", "both are 0.5"),
        ("ppcl parent.method.latent=7", "holds no GAN of these sizes"),
        ("simsiam --runs whole/train/a/0.png", "cannot be created .Not a directory"),
    ],
)
def test_a_dry_run_refuses_what_the_data_forbid_in_one_sentence(folders, words, message):
    before = sorted(folders.rglob("*"))
    result = call("pretrain", *words.split(), "--dry-run")
    assert result.exit_code == 2, result.output
    assert re.search(message, result.output), result.output
    assert sorted(folders.rglob("*")) == before


def test_the_monitor_is_refused_before_the_first_step_and_not_after_the_first_epoch(folders):
    run = recipes.recipe("simsiam", "smoke", {"data.name": "folder:no_test", "batch_size": 16, "logs.monitor_every": 1})
    with pytest.raises(HardlabError, match="monitor_every=1 needs test images"):
        train.train(run, folders / "runs", device="cpu")
    assert not (folders / "runs" / run.id).exists()


def test_a_run_whose_parent_cannot_serve_it_is_refused_before_the_parent_is_trained(tmp_path):
    run = recipes.recipe("ppcl", "smoke", config.parse(["data.name=digits", "batch_size=600"]))
    with pytest.raises(HardlabError, match="digits has"):
        train.train(run, tmp_path / "runs", device="cpu")
    assert not list(tmp_path.glob("runs/*"))


def test_a_set_that_would_be_downloaded_is_not_and_offline_it_is_refused(tmp_path, monkeypatch):
    from torchvision import datasets

    def absent(root, download=False, **options):
        if download:
            pytest.fail("it was downloaded")
        raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr(datasets, "CIFAR10", absent)
    monkeypatch.delenv("HARDLAB_OFFLINE", raising=False)
    result = call("pretrain", "simsiam", "data.name=cifar10", "--root", tmp_path, "--dry-run")
    assert result.exit_code == 0 and "cifar10 would be downloaded first" in result.output, result.output
    with pytest.raises(Absent):
        load("cifar10", root=tmp_path, dry=True)
    monkeypatch.setenv("HARDLAB_OFFLINE", "1")
    result = call("pretrain", "simsiam", "data.name=cifar10", "--root", tmp_path, "--dry-run")
    assert result.exit_code == 2 and "cifar10 was not found" in result.output


def test_a_dry_run_decodes_no_large_image(folders, monkeypatch):
    from hardlab.data import base

    for c in "ab":
        for i in range(20):
            Image.new("RGB", (200, 150)).save(folders / "whole" / "train" / c / f"large{i}.png")
    monkeypatch.setattr(base, "_decode_all", lambda *a: pytest.fail("decoded"))
    run = recipes.recipe("simsiam", "smoke", {"data.name": "folder:whole", "batch_size": 16, "data.on_broken": "skip"})
    assert len(build.check_images(run)) == 48


def test_what_a_dry_run_counts_is_what_training_counts(folders):
    for name in ("digits", "shapes", "folder:whole"):
        run = recipes.recipe("simsiam", "smoke", {"data.name": name, "batch_size": 8})
        dry, whole = build.check_images(run), build.images(run)
        assert dry.digest() == whole.digest() and torch.equal(dry.targets, whole.targets)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    top = tmp_path_factory.mktemp("done")
    for split in ("train", "test"):
        for c in "ab":
            (top / "images" / split / c).mkdir(parents=True)
            for i in range(40):
                Image.new("RGB", (32, 32), (i, 99, 7)).save(top / "images" / split / c / f"{i}.png")
    words = {"data.name": f"folder:{top}/images", "data.fraction": 1.0, "batch_size": 16, "epochs": 1}
    run = recipes.recipe("simsiam", "smoke", words | {"backbone.options": {"width": 4}, "method.dim": 16})
    return train.train(run, top / "runs", device="cpu", say=lambda line: None), [f"{k}={v}" for k, v in words.items()]


def test_a_dry_run_of_an_evaluation_refuses_what_is_no_finished_run_or_of_other_images(done, tmp_path):
    path = shutil.copytree(done[0], tmp_path / "run")
    assert call("evaluate", path, "--dry-run").exit_code == 0
    for words, message in {
        ("--checkpoint", "3"): "no checkpoint of step 3",
        ("--data", "folder:nowhere"): "no folder of images 'nowhere'",
        ("--protocol", "detection", *SCENES, "--set", "images=50000"): "50000 training scenes were requested",
    }.items():
        result = call("evaluate", path, *words, "--dry-run")
        assert result.exit_code == 2 and message in result.output, result.output
    about = run_folder.manifest(path)
    (path / "manifest.json").write_text(json.dumps(about | {"state": "stopped"}))
    assert "is not finished" in call("evaluate", path, "--dry-run").output
    about["data"]["digest"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(about))
    assert "was trained on other images" in call("evaluate", path, "--dry-run").output


def test_a_dry_run_refuses_a_run_that_is_there_of_other_images_but_for_a_new_one(done):
    path, words = done
    words = ["pretrain", "simsiam", *words, "backbone.width=4", "method.dim=16", "--runs", path.parent, "--dry-run"]
    assert f"would train {path.name}" in call(*words).output
    file = path / "manifest.json"
    before = file.read_text()
    try:
        about = json.loads(before)
        about["data"]["digest"] = "0" * 64
        file.write_text(json.dumps(about))
        result = call(*words)
        assert result.exit_code == 2 and "was trained on other images" in result.output
        assert call(*words, "--anew").exit_code == 0
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nb run 01_pretrain overrides=batch_size=100000", "batch_size=100000 is larger"),
        ("nb run 01_pretrain overrides=data.name=folder:nowhere", "There is no folder of images"),
        ("nb run 00_quickstart recipe=simsaim", "Did you mean 'simsiam'"),
        (f"nb run 01_pretrain runs_dir={__file__}", "cannot be created"),
        (f"nb run 01_pretrain --out {__file__}/x", "cannot be created"),
        ("nb run 02_evaluate runs_dir=nowhere", "no folder of runs"),
        ("nb run 02_evaluate runs_dir=.", "no finished run of rung smoke"),
        ("nb run 02_evaluate protocols=knnn", "Did you mean 'knn'"),
        ("nb run 02_evaluate settings=epoch=3", "Protocol 'knn' has no option 'epoch'"),
        ("nb run 05_negatives_tsne recipes=adcoo", "Did you mean 'adco'"),
        ("nb run 05_negatives_tsne runs_dir=.", "no finished run of rung smoke of adco-queue, adco"),
        ("nb run 04_fanova recipe=simsiam-hsv", "Did you mean 'simsiam-hvs'"),
        ("reproduce batch_size=100000", "batch_size=100000 is larger"),
        ("reproduce data.name=folder:nowhere", "There is no folder of images"),
        ("figures hvs_f3 --data nowhere", "no tables in 'nowhere'"),
        ("figures hvs_f3 --from nowhere", "no folder of runs 'nowhere'"),
        ("report --out nowhere", "nothing to report in 'nowhere'"),
        ("evaluate nowhere", "no manifest.json"),
    ],
)
def test_every_dry_run_refuses_what_its_command_would(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words.split(), "--dry-run")
    assert result.exit_code != 0 and message in f"{result.output} {result.exception}", result.output
    assert list(tmp_path.iterdir()) == []


def test_a_slip_in_the_last_name_shows_before_the_first_run_is_measured(done):
    before = sorted(p.name for p in done[0].iterdir())
    result = call("evaluate", done[0], "nowhere", "--protocol", "knn")
    assert result.exit_code != 0 and "nowhere is not a run" in result.output
    assert sorted(p.name for p in done[0].iterdir()) == before


LONG = "n" * 300
# pathlib looks for files in a folder of an impossible name since Python 3.13, and finds none
NO_TABLES = "There are no tables in" if sys.version_info >= (3, 13) else "File name too long"
NO_RUNS = "There is nothing to report in" if sys.version_info >= (3, 13) else "File name too long"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "simsiam", "--runs", "/proc/x", "--dry-run"], "cannot be created"),
        (["nb", "run", "01_pretrain", "runs_dir=/proc/x", "--dry-run"], "cannot be created"),
        (["nb", "run", "01_pretrain", "--out", "/proc/x", "--dry-run"], "cannot be created"),
        (["pretrain", "simsiam", "--runs", "loop", "--dry-run"], "Too many levels of symbolic links"),
        (["pretrain", "simsiam", "--runs", "nothing/here", "--dry-run"], "cannot be created"),
        (["pretrain", "simsiam", "--runs", LONG, "--dry-run"], "File name too long"),
        (["pretrain", "simsiam", "--runs", "", "--dry-run"], "It is empty"),
        (["pretrain", "simsiam", "data=folder:", "--dry-run"], "names no folder"),
        (["pretrain", "simsiam", "--code", LONG], "not a Python file"),
        (["evaluate", LONG], "is not a run"),
        (["evaluate", LONG, "--dry-run"], "is not a run"),
        (["evaluate", "loop", "--dry-run"], "is not a run"),
        (["nb", "run", f"{LONG}.ipynb"], "There is no notebook"),
        (["nb", "run", "01_pretrain", "runs_dir="], "runs_dir cannot be ''"),
        (["nb", "run", "01_pretrain", "--out", LONG, "--dry-run"], "File name too long"),
        (["figures", "--all", "--data", LONG], NO_TABLES),
        (["figures", "--all", "--from", LONG], "File name too long"),
        (["claims", "--data", LONG], NO_TABLES),
        (["report", "--out", LONG], NO_RUNS),
        (["check", LONG], "not a Python file"),
    ],
)
def test_a_name_that_no_folder_can_have_ends_in_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("nowhere")
    monkeypatch.setattr(sys, "argv", ["hardlab", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr().err
    assert end.value.code in (1, 2) and message in printed and "Traceback" not in printed, printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loop", "nothing"]


def test_output_that_cannot_be_written_ends_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hardlab", "pretrain", "--list"])
    with open("/dev/full", "w") as full, monkeypatch.context() as m, pytest.raises(SystemExit) as end:
        m.setattr(sys, "stdout", full)
        cli.main()
    assert end.value.code == 1 and "No space left on device" in capsys.readouterr().err


def test_a_dry_run_of_an_evaluation_compares_the_code_and_the_networks_that_the_run_was_trained_with(tmp_path):
    code = tmp_path / "own_simsiam_of_a_reader.py"
    code.write_text("from hardlab.methods.simsiam import SimSiam\n\n\nclass OwnOfAReader(SimSiam):\n    pass\n")
    ((_, name),) = build.load(code)
    words = {"backbone": {"name": "tiny", "options": {"width": 4}}, "batch_size": 16, "epochs": 1, "data": "digits"}
    run = recipes.recipe("simsiam", "smoke", words | {"method": name, "method.dim": 16, "method.hidden": 8})
    path = train.train(run, tmp_path / "runs", device="cpu", say=lambda line: None)
    assert call("evaluate", path, "--code", code, "--dry-run").exit_code == 0
    result = call("evaluate", path, "--code", code, "--set", "network=teacher", "--dry-run")
    assert result.exit_code == 2 and "method has no network 'teacher'" in result.output
    code.write_text(code.read_text() + "    # edited since\n")
    for more in ((), ("--dry-run",)):
        result = call("evaluate", path, "--code", code, *more)
        assert result.exit_code != 0 and "has been edited since" in f"{result.output} {result.exception}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rung="], "There is no rung ''"),
        (["runs_dir=None"], "runs_dir cannot be 'None'"),
        (["runs_dir=null"], "runs_dir cannot be 'null'"),
        (["overrides=[epochs=1"], "overrides cannot be '[epochs=1'"),
        (["overrides=['epochs=1'"], "overrides cannot be"),
    ],
)
def test_a_value_of_a_notebook_that_nobody_means_is_refused(words, message):
    result = call("nb", "run", "01_pretrain", *words, "--dry-run")
    assert result.exit_code == 2 and message in result.output, result.output


def test_a_tilde_is_the_home_wherever_no_shell_expands_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for words in (
        ["pretrain", "simsiam", "--runs=~/file"],
        ["pretrain", "simsiam", "data=folder:~/file"],
        ["nb", "run", "01_pretrain", "runs_dir=~/file"],
        ["nb", "run", "01_pretrain", "--out=~/file"],
    ):
        assert f"{tmp_path}/file" in call(*words, "--dry-run").output.replace("\n", "")
    monkeypatch.delenv("HOME")
    for name in ("~nobody-of-this-name/x", "~"):
        assert call("pretrain", "simsiam", "data=imagenet", "--root", name, "--dry-run").exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
