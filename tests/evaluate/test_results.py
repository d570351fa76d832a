"""Files of results: each measurement once, whole or as before."""

from __future__ import annotations

import json
import threading

import pytest

from hardlab.evaluate.results import append_rows
from hardlab.types import HardlabError


def row(value=0.5, **other):
    return {
        "protocol": "knn",
        "features": "backbone",
        "metric": "top1@k=20",
        "value": value,
        "data": "digits",
        "split": "test",
        "options": {"a": 1},
    } | other


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_replaces_the_earlier_one_of_the_same_measurement_and_no_other(tmp_path):
    path = tmp_path / "runs" / "results.jsonl"
    others = [
        row(metric="top1@k=10"),
        row(protocol="linear"),
        row(features="pixels"),
        row(options={"a": 2}),
        row(seed=1),
        row(data="shapes"),
    ]
    append_rows(path, [row(0.1), *others])
    append_rows(path, [row(0.9, cost_s=3.0)])
    assert read(path) == [*others, row(0.9, cost_s=3.0)]


def test_options_match_whatever_their_order(tmp_path):
    path = tmp_path / "results.jsonl"
    append_rows(path, [row(0.1, options={"a": 1, "b": 2})])
    append_rows(path, [row(0.2, options={"b": 2, "a": 1})])
    assert [r["value"] for r in read(path)] == [0.2]


def test_a_failed_write_leaves_the_old_rows_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    append_rows(path, [row(0.1)])
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HardlabError, match="No space left on device"):
        append_rows(path, [row(0.2)])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(HardlabError, match="nothing was written"):
        append_rows(tmp_path / "results.jsonl", [row(0.1), row(value)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["{broken", "3", "[]"])
def test_a_damaged_file_is_named_with_its_line_and_kept(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(HardlabError, match=r"Line 2 of .*results\.jsonl"):
        append_rows(path, [row(0.2)])
    assert path.read_text().endswith(line + "\n")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HardlabError, match=r"results\.jsonl cannot be opened"):
        append_rows(tmp_path / "file" / "results.jsonl", [row()])


def test_rows_added_at_the_same_time_are_all_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    threads = [threading.Thread(target=append_rows, args=(path, [row(seed=i)])) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(r["seed"] for r in read(path)) == list(range(12))
