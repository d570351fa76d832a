"""One batch judged by several trained methods."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from hardlab import checkpoint, run_folder
from hardlab.analysis import hardness, schema, shared_batch, tables
from hardlab.analysis.catalog import Catalog
from hardlab.types import HardlabError

AS_IT_IS = shared_batch._as_it_is


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank that one epoch fills is an option of its own; here it stands for the recipe."""
    monkeypatch.setattr(shared_batch, "_as_it_is", lambda manifest: True)


@pytest.mark.usefixtures("small_counts")
def test_the_panel_is_what_two_systems_find_hard_on_one_batch(trained: dict[str, Path], tmp_path: Path):
    catalog = Catalog(trained["adco"].parent)
    table = shared_batch.judge(catalog, batch=24, draws=4)
    _, _, _, images = run_folder.open_whole(trained["adco"])
    rows = np.linspace(0, len(images) - 1, 24).round().astype(int)
    loss = {name: hardness.losses(path, rows, draws=4) for name, path in trained.items()}
    panel = hardness.panel(loss, rows)
    shown = table.hardness.pivot_table(index="tile", columns="recipe", values="percentile")
    index = table.hardness.drop_duplicates("tile").set_index("tile")["index"]
    assert len(shown) == shared_batch.SHOWN and shown["adco"].tolist() == pytest.approx(
        panel.loc[index, "adco"].tolist()
    )
    means = panel.mean(axis=1)
    order = means.loc[index].to_numpy()
    assert (np.diff(order) >= 0).all() and (order[0], order[-1]) == (means.min(), means.max())
    labels = [images.classes[images.targets[i]] for i in index]
    assert table.hardness.drop_duplicates("tile")["label"].tolist() == labels
    # the strip is the images themselves, of the size of the set
    batch = next(iter(images.batches(torch.tensor(index.to_numpy())[None])))
    assert (table.pixels == np.concatenate([p.permute(1, 2, 0).numpy() for p in batch.raw], axis=1)).all()
    rho = table.transfer.set_index(["recipe", "other"])
    both = rho.loc[("simsiam-hvs", "adco")]
    assert both["rho"] == pytest.approx(stats.spearmanr(panel["adco"], panel["simsiam-hvs"]).statistic)
    own = [max(0, rho.loc[(name, name), "rho"]) for name in trained]
    assert both["ceiling"] == pytest.approx((own[0] * own[1]) ** 0.5) and len(rho) == 3


def test_a_run_with_other_options_does_not_stand_for_its_system(trained: dict[str, Path]):
    assert AS_IT_IS(run_folder.manifest(trained["simsiam-hvs"])) and not AS_IT_IS(run_folder.manifest(trained["adco"]))
    assert set(shared_batch._with_weights(Catalog(trained["adco"].parent))["recipe"]) == {"simsiam-hvs"}


def alone(folder: Path, run: Path) -> Catalog:
    """A folder of runs with a single one."""
    folder.mkdir()
    (folder / run.name).symlink_to(run)
    return Catalog(folder)


@pytest.mark.usefixtures("small_counts")
def test_rows_of_a_system_without_weights_here_stay_and_those_of_the_others_are_measured_anew(trained, tmp_path: Path):
    small = {"batch": 24, "draws": 4}
    both = Catalog(trained["adco"].parent)
    first = shared_batch.judge(both, **small)
    marked = first._replace(hardness=first.hardness.assign(percentile=42.0), transfer=first.transfer.assign(rho=0.125))
    adco = alone(tmp_path / "adco", trained["adco"])
    again = shared_batch.judge(adco, before=marked, manifests=both.manifests, **small)
    rows, fresh = (t.set_index(["recipe", "tile"])["percentile"] for t in (again.hardness, first.hardness))
    assert rows.loc["adco"].tolist() == fresh.loc["adco"].tolist() != [42] * shared_batch.SHOWN
    assert rows.loc["simsiam-hvs"].tolist() == [42] * shared_batch.SHOWN
    assert set(zip(again.hardness["tile"], again.hardness["index"], strict=True)) == set(
        zip(first.hardness["tile"], first.hardness["index"], strict=True)
    )
    assert (again.pixels == first.pixels).all()
    rho, before = (t.set_index(["recipe", "other"])["rho"] for t in (again.transfer, first.transfer))
    assert rho["adco", "adco"] == before["adco", "adco"] and len(rho) == 3
    assert rho["simsiam-hvs", "adco"] == rho["simsiam-hvs", "simsiam-hvs"] == 0.125
    # other images, or another batch of them, cannot stand beside these: all stays as it was
    name, other = trained["simsiam-hvs"].name, {"data": {"digest": "f" * 64}}
    elsewhere = {**both.manifests, name: both.manifests[name] | other}
    for stays in (
        shared_batch.judge(adco, before=marked, manifests=elsewhere, **small),
        shared_batch.judge(adco, before=marked, manifests=both.manifests, batch=32, draws=4),
    ):
        assert stays.pixels is None
        pd.testing.assert_frame_equal(stays.hardness, marked.hardness)
        pd.testing.assert_frame_equal(stays.transfer, marked.transfer)


@pytest.mark.slow
@pytest.mark.usefixtures("small_counts")
def test_what_was_measured_together_stays_where_another_machine_adds_rows(trained: dict[str, Path], tmp_path: Path):
    for name, path in trained.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).symlink_to(path)
    tables.collect(trained["adco"].parent, tmp_path / "out")
    names = ("hardness.csv", "transfer.csv", "hardness_pixels.png")
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    assert b"simsiam-hvs" in first["hardness.csv"]
    tables.collect(tmp_path / "adco", tmp_path / "out", add=True)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == first
    tables.collect(tmp_path / "adco", tmp_path / "out")  # one system alone has nothing to be compared with
    assert not schema.read(tmp_path / "out", "hardness").size and not (tmp_path / "out" / names[2]).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small_counts")
def test_a_checkpoint_of_another_version_is_left_out_and_said(trained: dict[str, Path], tmp_path: Path):
    copy = shutil.copytree(trained["adco"], tmp_path / trained["adco"].name)
    (tmp_path / trained["simsiam-hvs"].name).symlink_to(trained["simsiam-hvs"])
    state, path, _ = checkpoint.newest(copy / "checkpoints")
    state["method"]["no_longer_there"] = torch.zeros(1)
    path.unlink()
    checkpoint.save(copy / "checkpoints", checkpoint.named(path)[0], state, keep=1)
    with pytest.raises(HardlabError, match="another version"):
        hardness.losses(copy, range(8))
    assert not len(shared_batch.judge(Catalog(tmp_path)).hardness)
