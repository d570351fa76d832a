"""The exponents of growing costs, and the page and the picture that are made of what was measured."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from benchmarks import bench_growth, growth
from benchmarks.timing import Exponent
from hardlab import recipes

SIZES = [64, 128, 256, 512]
SHARES = [1, 2, 4]


def test_a_fit_recovers_the_exponent_and_the_factor_that_made_the_numbers() -> None:
    for power in (0.5, 1.0, 2.0):
        line = Exponent(SIZES, [[3 * x**power] for x in SIZES])
        assert (line, line.factor) == pytest.approx((power, 3.0))
        assert line.interval == pytest.approx((power, power))


def test_the_interval_of_an_exponent_holds_it_and_is_as_wide_as_the_noise() -> None:
    def noisy(size: float, level: float) -> list[float]:
        at = torch.Generator().manual_seed(int(size))
        return (size**1.2 * (1 + level * torch.randn(9, generator=at))).tolist()

    wide, narrow = (Exponent(SIZES, [noisy(x, level) for x in SIZES]) for level in (0.1, 0.01))
    for line in (wide, narrow):
        assert line.interval[0] < 1.2 < line.interval[1]
    assert wide.interval[1] - wide.interval[0] > 5 * (narrow.interval[1] - narrow.interval[0])


def test_a_machine_that_slows_down_for_all_sizes_does_not_widen_the_interval() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert Exponent(SIZES, [[d * x for d in drift] for x in SIZES]).interval == pytest.approx((1.0, 1.0))


def made(cost, unavoidable=lambda x: 1e6 + 8 * x, values=SIZES) -> dict:
    """Measurements of a quantity whose step costs ``cost``, and whose limit costs half."""
    return {
        "values": list(values),
        "seconds": [[cost(x) * (1 + 0.01 * r) for r in (-1, 0, 1)] for x in values],
        "alone": [[cost(x) / 2] * 3 for x in values],
        "bytes": [2 * int(unavoidable(x)) for x in values],
        "unavoidable": [int(unavoidable(x)) for x in values],
        "own norms": [[1.0, 1.0, 1.0]],
        "others": 0.02,
        "date": "2026-01-02T03:04:05",
        "commit": "0123456789",
        "dirty": False,
    }


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda x: 1e-3 * x, True),
        (lambda x: 1 + 1e-3 * x, True),
        (lambda x: x**1.5, False),
        (lambda x: x + x**2, False),
    ],
)
def test_what_grows_faster_than_its_size_is_marked_and_a_part_that_stays_is_not(cost, expected) -> None:
    assert bench_growth.as_expected(bench_growth.grown("batch", made(cost))) == expected
    book = {"kind": "K", "quantities": {"batch": made(cost)}}
    (row,) = bench_growth.rows(book)
    assert row["ok"] == expected and ("**faster**" in growth.table(book["quantities"])) != expected


def test_pixels_count_by_area() -> None:
    assert bench_growth.grown("pixels", made(lambda side: side**2)).all == pytest.approx(1.0)


def test_two_processes_are_as_good_as_one_if_they_take_as_long_for_twice_the_images() -> None:
    ranks = made(lambda n: 2.0 * n, values=SHARES) | {"alone": [[2.0] * 3, [5.0] * 3, [9.0] * 3]}
    assert bench_growth.efficiency(ranks) == pytest.approx(2 * 2.0 / 4.0)  # 2 shares in 4 s, against 1 in 2 s
    assert bench_growth.efficiency(ranks, 2) == pytest.approx(5.0 / 4.0)
    assert bench_growth.efficiency(ranks, own_norms=True) == pytest.approx(4.0)
    _, row, without = bench_growth.rows({"kind": "K", "quantities": {"ranks": ranks}})
    assert (float(row["ratio"]), row["target"], row["ok"], without["ratio"]) == (1.0, 0.9, True, 4.0)


def test_a_turn_is_repeated_while_others_are_busy_and_the_quietest_counts(monkeypatch) -> None:
    steps, spent, at = itertools.count(1), itertools.chain([0, 9], [9, 12], [12, 18]), itertools.chain(range(0, 60, 10))
    monkeypatch.setattr(bench_growth, "busy", lambda: next(spent))
    monkeypatch.setattr(bench_growth.time, "perf_counter", lambda: next(at))
    monkeypatch.setattr(bench_growth.os, "cpu_count", lambda: 1)
    group = lambda: next(steps)  # noqa: E731  a second of processor time a step
    # three turns of two steps in 10 s, beside others that take 7, 1 and 4 of them
    assert bench_growth.turn_of(group, 2, tries=3) == (5.0, 0.1)


def test_every_panel_shows_what_was_measured_the_fitted_line_the_limit_and_proportional_growth() -> None:
    book = {"batch": made(lambda x: 1e-3 * x**0.8), "queue": made(lambda x: x), "bank": made(lambda x: x)}
    seconds, negatives, memory, _ = growth.figure(book).axes
    points, line, limit, proportional = seconds.lines
    assert list(points.get_ydata()) == pytest.approx([1e-3 * x**0.8 for x in SIZES])
    assert list(line.get_ydata()) == pytest.approx([1e-3 * x**0.8 for x in (64, 512)]) and "0.80" in line.get_label()
    assert list(limit.get_ydata()) == pytest.approx([5e-4 * x**0.8 for x in SIZES]) and limit.get_linestyle() == "--"
    assert list(proportional.get_ydata()) == pytest.approx([1e-3 * 512**0.8 / 8, 1e-3 * 512**0.8])
    assert list(memory.lines[2].get_ydata()) == pytest.approx([1 + 8e-6 * x for x in SIZES])
    assert len(negatives.lines) == 8
    assert growth.picture(book) == growth.picture(book)


def test_the_page_is_what_was_measured_and_keeps_what_stands_around_it() -> None:
    books = {"Processor X": {"batch": made(lambda x: x**0.9), "ranks": made(float, values=SHARES)}}
    text = "a\n<!-- growth:begin -->\nold\n<!-- growth:end -->\nb\n<!-- together:begin -->\n<!-- together:end -->\nc\n"
    page = growth.page(text, books)
    assert (
        "old" not in page and re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->\n", "", page, flags=re.S) == "a\nb\nc\n"
    )
    assert "| images in a batch, B | 64 to 512 | 0.90 (0.90 to 0.90) |" in page
    assert "| Processor X | tiny network | synchronised | 0.50 (" in page
    assert growth.page(page, books) == page


def test_the_page_and_the_pictures_of_this_project_are_what_its_measurements_say() -> None:
    books = bench_growth.known()
    assert growth.PAGE.read_text() == growth.page(growth.PAGE.read_text(), books) and books
    assert {p.name for p in growth.DOCS.glob("growth-*.svg")} == {growth._picture(kind).name for kind in books}


def test_memory_that_cannot_be_avoided_is_that_of_weights_optimiser_and_what_the_backward_pass_needs() -> None:
    def kept_of(batch: int) -> int:
        changes = {"data.name": "shapes", "batch_size": batch, "precision": "fp32", "epochs": 2, "augment.size": 16}
        trained = bench_growth.Trained(recipes.recipe("supervised", "smoke", changes), "cpu")
        trained.step()
        method = trained.session.method
        weights, buffers = (sum(t.nbytes for t in each) for each in (method.parameters(), method.buffers()))
        assert trained.held() == 3 * weights + buffers  # with gradients and momentum
        return bench_growth.Alone(trained).kept()

    kept = kept_of(8)
    assert kept_of(16) == pytest.approx(2 * kept, rel=0.02)
    assert kept > 8 * 3 * 16 * 16 * 4  # the pixels of a view at least


def test_all_values_of_a_quantity_take_turns_with_their_limits(monkeypatch) -> None:
    monkeypatch.setattr(bench_growth, "apart", lambda f, run: run.batch_size)
    what = bench_growth.Quantity("B", "moco", {"cpu": (64, 128)}, lambda n: {"method.queue": n},
                                 {"cpu": {"batch_size": 16, "backbone.width": 4}}, products=2)  # fmt: skip
    monkeypatch.setitem(bench_growth.QUANTITIES, "queue", what)
    measured = bench_growth.quantity("queue", "cpu", 3)
    assert measured["values"] == [64, 128] and measured["bytes"] == [16, 16]
    assert [len(s) for s in measured["seconds"] + measured["alone"]] == [3] * 4
    assert measured["unavoidable"][1] - measured["unavoidable"][0] == 64 * 128 * 4  # one key is 128 numbers
