"""The README's blocks and docs/results.md: their numbers against numbers made here, and that nothing else moves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardlab.analysis import claims, schema
from hardlab.recipes import recipe
from hardlab.types import HardlabError
from hardlab.workbook import pages

DATA = pages.ROOT / "figures" / "data"
PARTS = (pages.TIMES, pages.HEADLINES, pages.RESULTS, pages.CLAIMS)


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    return claims.verdicts(DATA)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "00_x.done.json").write_text('{"state": "done", "seconds": 3.25}')
    blocks = "\n\n".join("{}\nold\n{}".format(*pages.marks(part)) for part in PARTS)
    (folder / "README.md").write_text(
        f"# A\n\n{blocks}\n\n| `00_x` | what it shows | 7 s |\n| `01_y` | not run | – |\nafter\n"
    )
    for _ in range(2):  # writing it again changes nothing
        readme, results = pages.write(folder / "README.md", folder / "results.md", DATA, folder / "notebooks")
        kept = kept if _ else (readme.read_text(), results.read_text())  # noqa: F821
    assert kept == (readme.read_text(), results.read_text())
    return {"readme": kept[0], "results": kept[1]}


def cells(text: str, begins: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {begins}")]


def block(text: str, part: str) -> str:
    begin, end = pages.marks(part)
    assert text.count(begin) == text.count(end) == 1
    return text[text.index(begin) + len(begin) : text.index(end)]


def test_only_what_stands_between_the_marks_is_replaced(written: dict[str, str]) -> None:
    text = written["readme"]
    assert text.startswith("# A\n\n") and text.endswith("after\n") and "old" not in text
    assert "| `00_x` | what it shows | 3 s |\n| `01_y` | not run | – |\n" in text


def test_the_minutes_of_the_whole_workbook_are_those_that_were_measured(written: dict[str, str]) -> None:
    rows = json.loads((pages.ROOT / "benchmarks" / "results.json").read_text())["reproduce"]["rows"]
    wholes = [row for row in rows if row["name"].startswith("make reproduce")]
    lines = [line for line in block(written["readme"], pages.TIMES).splitlines() if line]
    assert len(lines) == len(wholes) > 0
    for line, row in zip(lines, wholes, strict=True):
        assert f" {row['value']:.1f} minutes " in line and line.endswith(f": {row['name'].split(', ', 1)[1]}.")


def test_every_paper_has_a_row_with_its_first_headline_that_was_measured_and_whether_the_scale_can_tell(
    written: dict[str, str], verdicts: pd.DataFrame
) -> None:
    text = block(written["readme"], pages.HEADLINES)
    for paper, name in pages.NAMES.items():
        (row,) = cells(text, name + " ")
        headlines = verdicts[(verdicts["paper"] == paper) & verdicts["headline"] & (verdicts["n"] > 0)]
        r = next(headlines[headlines["verdict"].str.contains("rung").eq(False)].itertuples(), None)
        if r is None:  # nothing was measured: the first headline, and what it needs
            r = next(verdicts[(verdicts["paper"] == paper) & verdicts["headline"]].itertuples())
            assert (row[1], row[3], row[5]) == (r.statement, "–", r.verdict) and r.verdict.startswith("needs")
            continue
        assert (row[1], row[4], row[5]) == (r.statement, r.beside, r.verdict)
        assert (
            float(row[3].split(" ")[0]) == pytest.approx(r.mean, abs=(r.hi - r.lo) / 20)
            and f"{r.n} seeds, rung {r.rung}" in row[3]
        )
    manifests = [json.loads(line) for line in (DATA / "manifests.jsonl").read_text().splitlines()]
    behind = {run for runs in verdicts.loc[verdicts["headline"], "runs"] for run in runs.split()}
    passes = [m["steps_done"] * m["config"]["batch_size"] / 1281167 for m in manifests if m["id"] in behind]
    assert f"{100 * min(passes):.2g} to {100 * max(passes):.2g} % of one epoch of ImageNet" in text


def test_the_arms_stand_under_the_same_probes_beside_the_untrained_network_and_raw_pixels(
    written: dict[str, str], verdicts: pd.DataFrame
) -> None:
    text = block(written["readme"], pages.RESULTS)
    rows = schema.read(DATA, "evaluation")
    rows = rows[(rows["rung"] == "cpu") & (rows["evaluated_on"] == "cifar10-jpeg") & (rows["split"] == "test")]
    rows = rows[(rows["protocol"] == "linear-lbfgs") & (rows["metric"] == "top1")]
    backbones = {name: m["config"]["backbone"]["name"] for name, m in schema.read_manifests(DATA).items()}
    began = rows[(rows["recipe"] == "untrained") & (rows["data"] == "cifar10-jpeg 10 %")]
    began = began[began["run"].map(backbones) == "tiny"]  # that of the arms below; iBOT's transformer has its own
    for name, features in (("untrained network", "backbone"), ("raw pixels", "pixels")):
        (line,) = cells(text, name)
        assert line[1].startswith(f"{100 * began[began['features'] == features]['value'].mean():.4g} (")
    runs = verdicts.set_index("id").loc["hvs-simsiam-linear", "runs"].split()
    hvs = rows[rows["run"].isin(runs) & (rows["recipe"] == "simsiam-hvs")]
    assert any(line[1].startswith(f"{100 * hvs['value'].mean():.4g} (") for line in cells(text, "`simsiam-hvs`"))


def test_every_row_of_a_table_has_a_cell_for_every_column(written: dict[str, str]) -> None:
    for text in written.values():
        for part in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
            assert len({line.count(" | ") for line in part.splitlines()}) == 1, part[:200]


def test_the_minutes_of_an_arm_are_those_of_its_run_at_the_rate_of_a_machine_that_it_has_for_itself(
    tmp_path: Path, verdicts: pd.DataFrame
) -> None:
    results = tmp_path / "results.json"
    row = {"name": "training of simsiam-hvs, rung cpu, a machine, fp32", "value": 25.0}
    skipped = {"name": "training of simsiam, rung cpu, a machine, fp32", "value": None, "skipped": "no memory"}
    results.write_text(json.dumps({"minutes": {"rows": [row, skipped]}}))
    (tmp_path / "gpu").mkdir()
    rates = [{"rate": "cpu/simsiam", "recipe": "simsiam", "images_per_s": 50.0}]
    (tmp_path / "gpu" / "a.json").write_text(json.dumps({"device": "a card", "rows": rates}))
    text = "\n".join(pages.levels(claims.levels(DATA, verdicts), DATA, results))
    assert text.splitlines()[0].endswith(
        "| Minutes a run, alone on: a machine, fp32 | Minutes a run, alone on: a card |"
    )
    minutes = {name: cells(text, f"`{name}` ")[0][-2:] for name in ("simsiam", "simsiam-hvs", "moco")}
    images = 39 * 30 * 128  # batches of a tenth of CIFAR-10, epochs
    assert minutes["simsiam-hvs"] == [f"{images / 25 / 60:.1f}", "–"]
    assert minutes["simsiam"] == ["–", f"{images / 50 / 60:.1f}"]
    assert minutes["moco"] == ["–", "–"]


def test_each_claim_that_the_committed_rows_decide_is_a_row_of_the_readme(
    written: dict[str, str], verdicts: pd.DataFrame
) -> None:
    text = block(written["readme"], pages.CLAIMS)
    assert f"Of {len(claims.load())} claims: " in text
    decided = verdicts[verdicts["verdict"].isin(claims.DECIDED)]
    assert len(decided) and text.count("\n| ") == len(decided) + 2
    for r in decided.itertuples():
        (line,) = [line for line in text.splitlines() if f"| {r.statement} |" in line]
        settings = f", {r.settings}" if r.settings else ""
        assert line.endswith(f"| {r.n}, {r.rung}{settings} | {r.q:.2g} | {r.verdict} |")


def test_the_page_of_results_has_every_claim_once_in_the_section_of_its_paper(
    written: dict[str, str], verdicts: pd.DataFrame
) -> None:
    sections = dict(zip(pages.NAMES, re.split(r"^## .*$", written["results"], flags=re.M)[1:], strict=True))
    for paper, text in sections.items():
        claims = verdicts[verdicts["paper"] == paper]
        assert sorted(row[0].strip("`") for row in cells(text, "`")) == sorted(claims["id"])
        for r in claims[claims["n"] > 0].itertuples():
            (row,) = cells(text, f"`{r.id}`")
            assert row[4].startswith(r.verdict)
            if np.isfinite(r.p_sign):
                assert f"{r.p_sign:.2g} by changes of sign" in row[4]
        runs = {run for names in claims["runs"] for run in names.split()}
        (arms,) = [line for line in text.splitlines() if line.startswith("What was run")] if runs else ("",)
        assert sum(map(int, re.findall(r"` (\d+)", arms))) <= len(runs)
        assert all(f"`{run.partition('-cpu-s')[0]}` " in arms for run in runs if "-cpu-s" in run)
        assert re.search(r"One rung up, at `gpu`, these claims need \d+ runs that see [\d,]+ million images", text)
        assert re.search(r"times as many as so far, about [\d,]+ hours of one NVIDIA", text)
        assert "hardlab pretrain" not in text  # commands are `hardlab claims --why`'s


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"verdict": claims.REPRODUCED, "excluded": "yes"}, "yes; the published size is excluded"),
        ({"verdict": claims.NOT_LEARNED}, "no, a network has to learn first"),
        (
            {"verdict": claims.INCONCLUSIVE, "more_seeds": 2.0, "more_seeds_published": 200.0, "excluded": "yes"},
            "not yet, seeds still needed: 2 for the size seen, 200 or more for the published size"
            "; the published size is excluded",
        ),
        ({"verdict": "needs rung gpu"}, "no, needs rung gpu"),
    ],
)
def test_what_a_scale_can_tell_is_told_from_the_verdict_and_the_seeds(change: dict[str, object], sentence: str) -> None:
    row = {"verdict": "", "excluded": "", "more_seeds": np.nan, "more_seeds_published": np.nan} | change
    assert pages.tells(next(pd.DataFrame([row]).itertuples())) == sentence


def test_one_rung_up_costs_all_seeds_of_each_arm_once_and_the_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {c.id: c for c in claims.load()}
    some = [known[name] for name in ("ppcl-cifar10-10", "ppcl-better-than-gan", "hvs-simsiam-knn")]
    monkeypatch.setattr(claims, "load", lambda: some)
    tenth, images, parents = {"data.fraction": 0.1, "data.name": "cifar10"}, 0, {}
    for name, seeds in (("ppcl", 6), ("ppcl-simclr", 6), ("ppcl-gan", 3)):  # a headline takes six
        for seed in range(seeds):
            run = recipe(name, "gpu", {**tenth, "seed": seed})
            images += run.epochs * (5000 // run.batch_size) * run.batch_size
            if run.parent is not None:
                parents[run.parent.id] = run.parent
    images += sum(parent.epochs * (5000 // parent.batch_size) * parent.batch_size for parent in parents.values())
    sentence = pages.one_rung_up("ppcl", "gpu", images // 7)
    assert sentence.startswith(
        f"One rung up, at `gpu`, these claims need {15 + len(parents)} runs that see {images / 1e6:,.0f} million"
    )
    assert ", 7 times as many" in sentence


BEGIN, END = pages.marks(pages.RESULTS)


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_its_marks_is_refused_and_a_folder_without_tables(tmp_path: Path, text: str) -> None:
    others = "\n".join("{}\n{}".format(*pages.marks(part)) for part in PARTS if part != pages.RESULTS)
    (tmp_path / "README.md").write_text(text + others)
    with pytest.raises(HardlabError, match="results:begin"):
        pages.write(tmp_path / "README.md", tmp_path / "results.md", DATA)
    assert (tmp_path / "README.md").read_text() == text + others and not (tmp_path / "results.md").exists()
    with pytest.raises(HardlabError, match=r"There is no table '.*evaluation.csv'"):
        pages.write(tmp_path / "README.md", tmp_path / "results.md", tmp_path / "nowhere")


def test_what_is_committed_is_what_the_committed_rows_say(tmp_path: Path) -> None:
    readme = shutil.copy(pages.ROOT / "README.md", tmp_path / "README.md")
    pages.write(readme, tmp_path / "results.md", DATA, tmp_path / "nothing")
    assert Path(readme).read_text() == (pages.ROOT / "README.md").read_text(), "run `hardlab report --readme`"
    assert (tmp_path / "results.md").read_text() == (pages.ROOT / "docs" / "results.md").read_text()
