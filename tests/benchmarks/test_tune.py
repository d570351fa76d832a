"""Settings are chosen on training images that a run does not see, and the page is what the rows say."""

import json

import pandas as pd
import pytest

from benchmarks import tune
from hardlab import build, recipes
from hardlab.types import HardlabError


def test_the_images_that_settings_are_chosen_on_are_training_images_that_the_run_does_not_see():
    run = recipes.recipe("simclr", "smoke", {"data.fraction": 0.1})
    own, every, rows = tune.held_out(run)
    tested = {every.names[i] for i in rows.tolist()}
    assert len(own) == 500 and every.split == "train" and len(tested) == 500
    assert not tested & set(own.names)
    assert set(own.names) == set(build.images(run).names)
    assert len(every.targets[rows].unique()) == len(own.classes)
    with pytest.raises(HardlabError, match="trains on all images"):
        tune.held_out(run.with_({"data.fraction": 1.0}))


def test_a_recipe_with_a_strategy_is_no_baseline(tmp_path):
    with pytest.raises(HardlabError, match="has a strategy"):
        tune.tuned(recipes.recipe("simsiam-hvs"), {}, tmp_path)


@pytest.mark.slow
def test_a_row_says_what_was_run_and_raw_pixels_have_one_too(tmp_path):
    given = {"data.fraction": 0.1, "epochs": 1, "backbone.width": 8, "method.queue": 256}
    run = recipes.recipe("moco", "smoke", given)
    row = tune.tuned(run, given, tmp_path)
    assert (row["id"], row["overrides"], row["n_test"], row["steps_done"]) == (run.id, given, 500, 3)
    assert all(0 <= row[probe] <= 100 for probe in tune.PROBES)
    assert [at["step"] for at in row["sides"]] == [3] and row["sides"][0]["norm"] is None
    assert tune.measure(run, None).keys() == {"probe", "knn", "n_test"}
    marks = "".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in ("base", "test", "adco", "sides"))
    made = tune.page(f"a\n{marks}z", [row])
    assert tune.picture([row]).count(b"moco data.fraction=0.1") == 1
    assert "old" not in made and made.startswith("a\n") and made.endswith("z") and f"`{run.id}` |" in made


def test_a_base_method_is_confirmed_by_each_seed_once_against_the_controls_of_its_own_backbone(tmp_path):
    lines, rows = [], []

    def reached(name, seed, value, features="backbone", **given):
        run = recipes.recipe(name, "cpu", given | {"seed": seed})
        lines.append(json.dumps({"id": run.id, "config": run.model_dump(mode="json")}))
        about = {"run": run.id, "recipe": name, "rung": "cpu", "seed": seed, "evaluated_on": run.data.name}
        about |= {"data": "x", "method": "m", "setting": "0", "arm": "a", "split": "test", "options": "{}"}
        for probe, metric in (("linear-lbfgs", "top1"), ("knn", "top1@k=20")):
            rows.append(about | {"protocol": probe, "metric": metric, "features": features, "value": value})

    for seed, gain in enumerate((0.0, 0.01, 0.02)):
        reached("untrained", seed, 0.3 + gain)
        reached("untrained", seed, 0.25, features="pixels")
        reached("moco", seed, 0.5 + gain, precision="bf16")
        reached("byol", seed, 0.31 + gain)
    reached("moco", 0, 0.5, precision="fp32")
    reached("moco", 7, 0.9, epochs=3)  # other settings than the recipe's
    (tmp_path / "manifests.jsonl").write_text("\n".join(lines))
    pd.DataFrame(rows).to_csv(tmp_path / "evaluation.csv", index=False)
    _, _, moco, byol = tune.confirmed(("moco", "byol", "dino"), tmp_path).splitlines()
    assert moco == "| `moco` | 30 | 51 (48.52 to 53.48; 3 seeds) | yes | 51 (48.52 to 53.48; 3 seeds) | yes |"
    assert byol.count("| no |") == 2 and byol.startswith("| `byol` | 30 | 32 ")


def test_the_page_is_what_the_rows_say_and_no_row_of_a_base_method_has_a_strategy():
    rows = tune.known()
    assert tune.PAGE.read_text() == tune.page(tune.PAGE.read_text(), rows)
    assert len({row["id"] for row in rows}) == len(rows) > 3
    for row in rows:
        json.dumps(row)
        if row["recipe"] not in ("pixels", *tune.PART_OF_THE_METHOD) and "adco" not in row["recipe"]:
            assert not recipes.recipe(row["recipe"], row["rung"], row["overrides"]).hard
