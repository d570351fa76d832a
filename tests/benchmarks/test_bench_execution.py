"""The rows on how networks run, and the page that shows them."""

from __future__ import annotations

import json

import pytest

from benchmarks import bench_execution as benchmark
from hardlab.workbook import pages

ROW = {
    "device": "a card", "threads": 2, "recipe": "simsiam", "rung": "gpu", "settings": {"execution": "graphs"},
    "network": "resnet18", "precision": "bf16", "batch": 512, "images_per_s": 20000.4, "interval": [19000, 21000],
    "ratio": 1.234, "ratio_interval": [1.2, 1.27], "first_steps_s": 30.2, "peak_memory_mb": 2600.4,
    "seconds": {"data": 0.01, "model": 0.03},
}  # fmt: skip


def test_the_page_is_what_the_rows_say():
    rows = benchmark.read(benchmark.KEPT)
    assert benchmark.PAGE.read_text() == benchmark.page(benchmark.PAGE.read_text(), rows)
    text = benchmark.page("before {}\n{} after".format(*pages.marks(benchmark.MARKS)), [ROW])
    assert (
        "| simsiam, gpu | resnet18, bf16 | 512 | `execution=graphs` | 20000 (19000 to 21000) | 1.23 (1.20 to 1.27) |"
        in text
    )
    assert "| simsiam, gpu | 40.0 | data 25.0 %, model 75.0 % |" in text
    assert text.startswith("before") and text.endswith(" after") and benchmark.page(text, [ROW]) == text


def test_the_page_says_which_targets_the_recorded_gpu_missed():
    book = json.loads(benchmark.RATES.read_text())
    assert benchmark.PAGE.read_text() == pages.between(
        benchmark.PAGE.read_text(), benchmark.TARGETS, benchmark.targets(book)
    )
    rates = {"simsiam": 100.0, "lightly": 10.0, "simsiam-hvs": 50.0, "moco": 101.0, "adco": 100.0}
    rows = [{"rate": f"gpu/{name}", "recipe": name, "images_per_s": x} for name, x in rates.items()]
    rows[0]["seconds"] = {"step": 3.0, "total": 4.0}
    lines = benchmark.targets({"device": "a card", "commit": "0" * 40, "rows": rows})
    ends = [line.split(" | ", 1)[1] for line in lines[2:]]
    assert ends == ["10.00 | at least 5 |  |", "2.00 | at most 1.55 | missed |", "1.01 | at most 1.02 |  |",
                    "0.75 | at least 0.9 | missed |"]  # fmt: skip


def test_a_later_row_of_the_same_device_and_setting_replaces_the_earlier_one():
    other = ROW | {"settings": {"execution": "eager"}}
    failed = {key: ROW[key] for key in ("recipe", "rung", "settings")} | {"error": "no library"}
    newer = ROW | {"images_per_s": 1.0}
    assert benchmark.merged([ROW, other], [newer, failed]) == [newer, other]
    elsewhere = ROW | {"device": "Zen"}
    assert benchmark.merged([elsewhere], [ROW]) == [elsewhere, ROW]


@pytest.mark.parametrize("on_a_cpu", [False, True])
def test_every_contestant_is_a_run_that_is_possible_and_is_compared_with_the_first_of_its_group(on_a_cpu):
    groups = benchmark.entered(on_a_cpu, steps=40)
    assert [len({contestant.group for contestant in group}) for group in groups] == [1] * len(groups)
    assert len({group[0].group for group in groups}) == len(groups)
    assert all(contestant.run.data.name == "shapes" for group in groups for contestant in group)
