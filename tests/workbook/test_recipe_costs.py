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
    for name in ("byol", "simsiam"):  # at the rung that was measured, simply images by images/s
        assert hours[name] == pytest.approx(200 * 50_000 / measured[name]["images_per_s"] / 3600, rel=0.01)
    book = costs.calculated()
    row = book["rungs"]["gpu"]["ppcl"]
    alone = costs.gpu_hours(recipes.recipe("ppcl", "gpu"), row["images"], row["flops"])
    assert hours["ppcl"] == pytest.approx(alone + hours["gan"])  # with its parent's


def test_the_command_alone_lists_the_first_rung_that_is_recorded():
    alone, gpu = (CliRunner().invoke(cli.cli, ["costs", *words]) for words in ([], ["--rung", "gpu"]))
    assert alone.exit_code == 0 and alone.output == gpu.output and "dino-resnet50" in alone.output
    assert CliRunner().invoke(cli.cli, ["costs", "--rung", "smoke"]).exit_code == 2


@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_recipes_that_calculate_the_same_take_the_same_hours(rung):
    """The same method and strategies at the same number of operations, whether a variant was measured or not."""
    rows = costs.calculated()["rungs"][rung]
    alike = {}
    for name, row in rows.items():
        run = recipes.recipe(name, rung)
        hours = costs.gpu_hours(run, 1e6, row["flops"])
        key = (run.method.name, frozenset(s.name for s in run.hard), row["flops"])
        assert hours == pytest.approx(alike.setdefault(key, hours), rel=1e-9), name
    assert len(alike) < len(rows) - 10  # there are such recipes
    own = {name: costs.rate(recipes.recipe(name, rung)) for name in rows}
    for variant, base in (
        ("simsiam-iou-30-35", "simsiam"), ("hnssl-literal", "hnssl"), ("adco-renorm", "adco"), ("moco-mochi", "moco"),
        ("dino-iou-10-80", "dino"), ("simclr-sas", "simclr"), ("dino-multicrop-hvs", "dino-hvs"),
        ("adco-queue", "moco"),
    ):  # fmt: skip
        assert own[variant] == own[base]
    rates = costs.calculated()["rates"]
    assert own["simsiam"] == rates["simsiam"] and min(rates["moco"], rates["adco-queue"]) < own["moco"] < max(
        rates["moco"], rates["adco-queue"]
    )
    assert own["vicreg"] == costs.calculated()["usual"]  # of which no recipe was measured


def test_decoding_takes_the_hours_of_the_recorded_decoder_on_one_core():
    race = json.loads((GPU.parents[1] / "results.json").read_text())["input"]
    pair = next(r["value"] for r in race["rows"] if r["name"] == "the decoder alone, 2 threads")
    assert costs.calculated()["decoder"]["images_per_s"] == pair / 2, "run `python -m benchmarks.recipe_costs`"
    paper, gpu = ({row["recipe"]: row for row in costs.table(rung)} for rung in ("paper", "gpu"))
    assert paper["moco"]["decoding_hours"] == pytest.approx(200 * 1_281_167 / (pair / 2) / 3600)
    assert gpu["moco"]["decoding_hours"] is None  # images in memory are decoded once


def test_recorded_costs_that_are_damaged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "CALCULATED", tmp_path / "costs.json")
    for content in ("{", "[]", '{"rungs": {"paper": {"moco": {}}}, "rates": {}, "decoder": {}}'):
        (tmp_path / "costs.json").write_text(content)
        costs.calculated.cache_clear()
        with pytest.raises(HardlabError, match=r"'.*costs\.json' cannot be read, it is damaged"):
            costs.calculated()
    costs.calculated.cache_clear()
