"""The recorded costs of the recipes, against the recipes as they are and the rates as they were measured."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hardlab import cli, recipes
from hardlab.errors import HardlabError
from hardlab.workbook import recipe_costs as costs

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu" / "nvidia-h200.json"


@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_the_recorded_costs_are_those_of_the_recipes_as_they_are(rung):
    rows = costs.calculated()["rungs"][rung]
    assert rows.keys() == recipes.RECIPES.keys(), "run `python -m benchmarks.recipe_costs`"
    old = [name for name, row in rows.items() if row["hash"] != recipes.recipe(name, rung).hash]
    assert old == [], "their settings have changed: run `python -m benchmarks.recipe_costs`"


def test_gpu_hours_are_the_operations_of_a_training_at_the_measured_rate():
    measured = {r["recipe"]: r for r in json.loads(GPU.read_text())["rows"] if r["rate"].startswith("gpu/")}
    hours = {row["recipe"]: row["gpu_hours"] for row in costs.table("gpu")}
    for name in ("moco", "simsiam"):  # at the rung that was measured, simply images by images/s
        assert hours[name] == pytest.approx(200 * 50_000 / measured[name]["images_per_s"] / 3600, rel=0.01)
    book = costs.calculated()
    row = book["rungs"]["gpu"]["ppcl"]
    alone = costs.gpu_hours("ppcl", row["images"], row["flops"])
    assert hours["ppcl"] == pytest.approx(alone + hours["gan"])  # with its parent's


def test_the_command_alone_lists_the_first_rung_that_is_recorded():
    alone, gpu = (CliRunner().invoke(cli.cli, ["costs", *words]) for words in ([], ["--rung", "gpu"]))
    assert alone.exit_code == 0 and alone.output == gpu.output and "dino-resnet50" in alone.output
    assert CliRunner().invoke(cli.cli, ["costs", "--rung", "smoke"]).exit_code == 2


def test_recorded_costs_that_are_damaged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "CALCULATED", tmp_path / "costs.json")
    for content in ("{", "[]", '{"rungs": {"paper": {"moco": {}}}, "rates": {}}'):
        (tmp_path / "costs.json").write_text(content)
        costs.calculated.cache_clear()
        with pytest.raises(HardlabError, match=r"'.*costs\.json' cannot be read, it is damaged"):
            costs.calculated()
    costs.calculated.cache_clear()
