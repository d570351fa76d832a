"""Things that show themselves in a notebook: short as HTML and as text, with the numbers that they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_logs import write_log

from hardlab import recipes
from hardlab.analysis import claims, importance, negatives, viewlog
from hardlab.analysis.shown import Shown

MOST = 200_000  # characters of HTML


def of(thing: object) -> tuple[str, str]:
    html = thing._repr_html_()  # type: ignore[attr-defined]
    assert len(html) < MOST and len(repr(thing)) < 20_000
    return html, repr(thing)


def test_what_is_computed_from_a_shown_table_is_a_plain_frame(tmp_path: Path) -> None:
    log = viewlog.read(write_log(tmp_path / "r", 60, 0))
    assert isinstance(log, Shown)
    for made in (log.copy(), log[log["chosen"]], log.assign(x=1), pd.concat([log, log]), log[["loss"]], log.head()):
        assert type(made) is pd.DataFrame


def test_a_view_log_shows_by_epoch_what_was_chosen_and_what_was_there(tmp_path: Path) -> None:
    log = viewlog.read(write_log(tmp_path / "r", 120, 0))
    html, text = of(log)
    assert text.startswith("720 candidate pairs of 120 images at logged steps, from 1 run.")
    chosen = log["loss"][log["chosen"] & (log["epoch"] == 1)].mean()
    assert f">{chosen:.3f}<" in html and html.count("<tr") > 3
    of(viewlog.read(tmp_path / "r", ["loss"]))  # without the columns that make the table


def test_an_importance_shows_the_largest_share_first() -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.random((300, 3)), columns=["little", "much", "none"])
    result = importance.importance(x, 5 * x["much"] + x["little"], trees=4, pairs=True)
    html, text = of(result)
    assert "the largest share is" in text and "of much." in text
    assert html.index(">much<") < html.index(">little<") < html.index(">none<")


def test_a_bank_of_negatives_shows_its_kind_and_counts_each_negative_once() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bank = negatives.Bank(7, vectors[:40], vectors[40:], np.arange(30), np.ones(40), np.arange(40))
    html, text = of(bank)
    assert "of a queue, median age 20" in text and "learned" in of(bank._replace(ages=None))[1]
    counts = [int(cell.split("<")[0]) for cell in html.split('top">')[1:] if cell.split("<")[0].isdigit()]
    assert sum(counts) == 40


@pytest.mark.parametrize("name", ["simsiam", "dino-hvs", "ppcl"])
def test_a_run_shows_its_id_its_parts_and_all_settings_below(name: str) -> None:
    run = recipes.recipe(name, "smoke", {"data.fraction": 0.13})
    html, text = of(run)
    assert run.id in html and run.id in text and "13 % of shapes" in text
    assert "batch_size:" in html and all(spec.name in text for spec in (run.method, *run.hard))


def test_every_claim_shows_its_statement_and_its_test() -> None:
    for claim in claims.load():
        html, text = of(claim)
        assert claim.statement in text and claim.test.name in html
