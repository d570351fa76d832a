"""What a folder of runs holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_runs import write_run

from hardlab import recipes
from hardlab.analysis.arms import (
    HVS,
    STANDARD,
    STATIC,
    UNTRAINED,
)
from hardlab.analysis.catalog import Catalog, arm, setting
from hardlab.types import HardlabError

pytestmark = pytest.mark.usefixtures("no_data_sets")


def test_an_arm_is_what_differs_from_the_defaults_and_arms_share_their_setting() -> None:
    runs = {name: recipes.recipe(name, "smoke").model_dump(mode="json") for name in recipes.RECIPES}
    assert arm(runs["simsiam"]) == STANDARD
    assert arm(runs["simsiam-hvs"]) == HVS
    assert arm(runs["simsiam-hvs-static"]) == STATIC
    assert arm(runs["untrained"]) == UNTRAINED
    eight = recipes.recipe("simsiam-hvs", "smoke", {"hard.hvs.draws": 8, "seed": 3}).model_dump(mode="json")
    assert arm(eight) == "hvs draws=8"
    assert setting(eight) == setting(runs["simsiam"]) == setting(runs["simsiam-hvs"])
    assert setting(runs["simsiam"]) != setting(runs["simclr"])
    longer = recipes.recipe("simsiam", "smoke", {"epochs": 99}).model_dump(mode="json")
    assert setting(longer) != setting(runs["simsiam"])


def test_runs_and_results_join_the_manifests_of_all_folders(runs_dir: Path) -> None:
    table = Catalog(runs_dir).runs
    assert len(table) == 6
    assert set(table["state"]) == {"done", "running"}
    rows = Catalog(runs_dir).results
    assert len(rows) == 4 * 3 + 1 + 1
    assert set(rows["evaluated_on"]) == {"shapes"}
    assert rows.loc[rows["state"] == "running", "value"].tolist() == [0.99]


def test_a_second_measurement_replaces_the_first_and_a_cut_off_line_is_no_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, "simsiam", 0, None, backbone_knn=0.5)
    line = (run / "results.jsonl").read_text()
    (run / "results.jsonl").write_text(line + line.replace("0.5", "0.75") + line[:30])
    assert Catalog(tmp_path).results["value"].tolist() == [0.75]
    (run / "results.jsonl").write_text(line[:30] + "\n" + line)
    with pytest.raises(HardlabError, match=r"Line 1 .* is not JSON"):
        assert Catalog(tmp_path).results is not None


def test_finished_runs_are_found_by_recipe_in_the_order_asked_for_and_missing_ones_are_named(tmp_path: Path) -> None:
    for recipe, seed in (("simsiam", 1), ("simclr", 0), ("simsiam", 0)):
        write_run(tmp_path, recipe, seed, None)
    write_run(tmp_path, "moco", 0, None, state="stopped")
    runs = Catalog(tmp_path).finished("smoke", ["simsiam", "simclr"])
    assert runs[["recipe", "seed"]].to_numpy().tolist() == [["simsiam", 0], ["simsiam", 1], ["simclr", 0]]
    with pytest.raises(HardlabError, match=r"no finished run of moco, byol .*`hardlab pretrain moco --rung smoke` and"):
        Catalog(tmp_path).finished("smoke", ["moco", "simclr", "byol"])


def test_arms_that_are_not_needed_may_be_missing_and_are_named_with_their_command(tmp_path: Path) -> None:
    write_run(tmp_path, "simclr", 0, None)
    write_run(tmp_path, "moco", 0, None, state="stopped")
    arms = ["moco", "simclr"]
    assert Catalog(tmp_path).finished("smoke", arms, need=["simclr"])["recipe"].tolist() == ["simclr"]
    assert Catalog(tmp_path).missing("smoke", arms) == {"moco": "hardlab pretrain moco --rung smoke"}
    with pytest.raises(HardlabError, match=r"no finished run of moco in"):
        Catalog(tmp_path).finished("smoke", arms, need=["moco"])


def test_top1_is_one_number_a_protocol_with_its_interval_over_seeds(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, "simsiam", seed, None) for seed in (0, 1)]
    assert len(Catalog(tmp_path).top1([p.name for p in paths])) == 0
    for path, value in zip(paths, (0.5, 0.7), strict=True):
        same = {"protocol": "knn", "data": "shapes", "split": "test"}
        rows = [{**same, "metric": metric, "value": v, "features": features}
                for metric, v, features in (("top1@k=20", value, "backbone"), ("top1@k=200", 0.1, "backbone"),
                                            ("top1@k=20", 0.2, "pixels"))]  # fmt: skip
        (path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (row,) = Catalog(tmp_path).top1([p.name for p in paths], ("method", "arm")).to_dict("records")
    assert (row["method"], row["arm"], row["protocol"], row["n"]) == ("simsiam", "standard", "knn", 2)
    assert row["mean"] == pytest.approx(0.6) and row["lo"] < 0.5 < 0.7 < row["hi"]
    (one,) = Catalog(tmp_path).top1([paths[1].name]).to_dict("records")
    assert one["mean"] == 0.7 and one["n"] == 1


def test_a_strategy_of_a_readers_own_whose_source_was_edited_is_another_arm_whether_it_is_loaded_or_not() -> None:
    made = recipes.recipe("simsiam-hvs", "smoke").model_dump(mode="json")

    def of(source: str) -> str:
        return arm({**made, "hard": [{"name": "louder", "options": {"weight": 0.5}, "source": source}]})

    assert of("0" * 16) == "louder weight=0.5 source=0000000000000000" != of("1" * 16)
    assert arm(made) == "hvs"


@pytest.mark.parametrize("place", ["above", "run"])
def test_a_folder_whose_name_is_no_text_is_refused_in_one_sentence(place: str, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"r\xff")
    if place == "above":
        write_run(odd, "simsiam", 0, None)
    else:
        write_run(tmp_path, "simsiam", 0, None)
        next(tmp_path.iterdir()).rename(odd)
    with pytest.raises(HardlabError, match=r"'.*r\\udcff' of a folder is not UTF-8"):
        _ = Catalog(odd if place == "above" else tmp_path).runs


def test_seeds_that_each_have_a_parent_of_their_own_share_their_setting() -> None:
    settings = {seed: setting(recipes.recipe("ppcl", "cpu", {"seed": seed}).model_dump(mode="json")) for seed in (0, 3)}
    shared = recipes.recipe("ppcl", "cpu", {"seed": 3, "parent.seed": 0}).model_dump(mode="json")
    assert settings[0] == settings[3] != setting(shared)
