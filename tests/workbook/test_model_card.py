"""The card of a run: its numbers against rows made here, and its claims against the committed tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from run_folders import folder_of

from hardlab.analysis import claims, schema
from hardlab.types import HardlabError
from hardlab.workbook import model_card
from hardlab.workbook.pages import ROOT

DATA = ROOT / "figures" / "data"


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_results_stand_beside_the_interval_over_the_seeds_of_the_same_arm_alone(tmp_path: Path) -> None:
    own = folder_of(tmp_path, "simsiam-hvs", 0, 0.3)
    for recipe, seed, value in (("simsiam-hvs", 1, 0.4), ("simsiam-hvs", 2, 0.5), ("simsiam", 0, 0.9)):
        folder_of(tmp_path, recipe, seed, value)
    folder_of(tmp_path, "simsiam-hvs", 3, 0.8, state="stopped")
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t for 2 degrees of freedom
    (line,) = [x for x in section(model_card.card(own, tmp_path), "Results").splitlines() if x.startswith("| knn")]
    assert line == (
        f"| knn | top1@k=20 | shapes (test) | backbone | 0.3000 | 0.4000 ({0.4 - half:.4f} to {0.4 + half:.4f}) | 3 |"
    )


def test_the_card_says_what_was_trained_on_what_and_for_how_long(tmp_path: Path) -> None:
    alarm = {"step": 9, "rule": "collapse", "sentence": "At step 9 all | images are one."}
    data = {"name": "folder:/home/somebody/photos", "split": "train", "count": 7, "digest": "abc"}
    card = model_card.card(folder_of(tmp_path, "simsiam-hvs", 0, None, health=[alarm], data=data), tmp_path)
    front = yaml.safe_load(card.split("---")[1])
    assert {"simsiam", "hvs"} <= set(front["tags"])
    assert "7 images of the folder photos" in card and "somebody" not in card
    training = section(card, "Training")
    assert "| cost | 3.0 minutes |" in training and "0123 (with changes)" in training
    assert "At step 9 all \\| images are one." in training
    assert "was not evaluated" in section(card, "Results") and "no claim was judged" in section(card, "Claims")
    assert "Yawen Wu" in section(card, "Citation")


def test_the_claims_are_those_whose_verdict_counts_the_run(tmp_path: Path) -> None:
    verdicts = claims.verdicts(DATA)
    run = next(names.split()[0] for names in verdicts["runs"] if names)
    about = schema.read_manifests(DATA)[run]
    (tmp_path / run).mkdir()
    (tmp_path / run / "manifest.json").write_text(json.dumps(about | {"state": "done"}))
    text = section(model_card.card(tmp_path / run, DATA), "Claims")
    named = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert named == {r.id for r in verdicts.itertuples() if run in r.runs.split()} != set()
    assert all(r.verdict in text for r in verdicts.itertuples() if r.id in named)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match=r"manifest\.json"):
        model_card.card(tmp_path, DATA)
