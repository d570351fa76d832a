"""What `hardlab export` writes, read by the libraries that it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import small_run

import hardlab
from hardlab import build, cli, run_folder, train
from hardlab.types import HardlabError
from hardlab.workbook import export


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(small_run("simsiam", backbone="vit_micro", epochs=1), tmp_path_factory.mktemp("runs"))


def invoked(*words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(cli.cli, ["export", *words])
    return answer.exit_code, answer.output


def test_the_code_on_the_card_makes_the_network_from_the_files_beside_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = invoked(str(trained), "--out", str(tmp_path), "--data", str(tmp_path / "none"))
    assert status == 0, output
    assert {Path(line).name for line in output.split()} == {p.name for p in tmp_path.iterdir()}
    card = (tmp_path / "README.md").read_text()
    own, *others = re.findall(r"```python\n(.+?)```", card, re.S)
    assert len(others) == 2 and "torchvision" in others[0] and "timm" in others[1]
    monkeypatch.chdir(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    expected = hardlab.load(trained)(pixels)
    for code in (own.replace(f"runs/{trained.name}", str(trained)), *others):
        space: dict[str, torch.nn.Module] = {}
        exec(code, space)
        torch.testing.assert_close(space["net"](pixels), expected)


def test_weights_and_settings_are_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    export.export(trained, tmp_path)
    run, method, _ = run_folder.open_run(trained)
    weights = load_file(tmp_path / export.WEIGHTS)
    assert weights.keys() == method.backbone.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in method.backbone.state_dict().items())
    with safe_open(tmp_path / export.WEIGHTS, "pt") as opened:
        assert opened.metadata()["run"] == run.id
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["run"], config["dim"], config["image_size"]) == (run.id, 96, 32)
    assert config["pixel_mean"] == list(run.pixel_mean) and config["pixel_std"] == list(run.pixel_std)


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_features_stand_beside_the_names_of_their_images(trained: Path, tmp_path: Path, form: str) -> None:
    export.export(trained, tmp_path, features=form)
    if form == "npz":
        table = dict(np.load(tmp_path / "features.npz"))
    else:
        read = pq.read_table(tmp_path / "features.parquet").to_pydict()
        table = {key: np.array(column) for key, column in read.items()}
    run, method, _ = run_folder.open_run(trained)
    method.eval()
    look = build.look(run)
    at = 0
    for split in ("train", "test"):
        images = build.images(run, split)
        for batch in images.all(40):
            with torch.no_grad():
                features = method.backbone(look.plain(batch.raw, batch.sizes))
            for row, feature in zip(batch.index.tolist(), features.numpy(), strict=True):
                assert table["name"][at + row] == images.names[row] and table["split"][at + row] == split
                assert table["label"][at + row] == images.targets[row]
                assert table["class"][at + row] == images.classes[images.targets[row]]
                np.testing.assert_allclose(table["features"][at + row], feature, rtol=1e-4, atol=1e-5)
        at += len(images)
    assert len(table["name"]) == len(table["features"]) == at


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    half = tmp_path / trained.name
    half.mkdir()
    about = json.loads((trained / "manifest.json").read_text()) | {"state": "running"}
    (half / "manifest.json").write_text(json.dumps(about))
    (half / "checkpoints").symlink_to(trained / "checkpoints")
    out = tmp_path / "out"
    for words, sentence in (
        ([str(half)], "is not finished, its state is 'running'"),
        ([str(tmp_path)], "is not a run"),
        ([str(trained), "--network", "studnt"], "has no network 'studnt'|network 'studnt'"),
        ([str(trained), "--features", "csv"], "csv"),
        ([str(trained), "--out", str(half / "manifest.json" / "x")], "cannot be created"),
    ):
        status, output = invoked(*words, *(["--out", str(out)] if "--out" not in words else []))
        assert status == 2 and re.search(sentence, output), output
    assert not out.exists()
    (half / "manifest.json").write_text(json.dumps(about | {"state": "done"}))
    (half / "checkpoints").unlink()
    with pytest.raises(HardlabError, match="has no checkpoint"):
        export.export(half, out, features="npz")
    assert not out.exists()


def test_without_safetensors_a_sentence_names_the_extra(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, output = invoked(str(trained), "--dry-run")
    assert status == 2 and "hardlab[export]" in output
