"""The process that is timed: the trainer, a few steps at a time, and where their time goes."""

from __future__ import annotations

import importlib
import io
import json

import pytest
import torch
from small_runs import small_run

from hardlab import train
from hardlab.workbook import bench_work
from hardlab.workbook.bench_work import Job, Timeline, work


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test lets pass."""
    now = [100.0]
    monkeypatch.setattr(bench_work.time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_each_moment_counts_for_the_innermost_part_alone_and_all_of_them_add_up(clock):
    line = Timeline(torch.device("cpu"))
    clock(50)
    line.start()
    clock(1)
    with line.time("step"):
        clock(2)
        line.enter("optimizer")
        clock(4)
        line.leave()
        clock(8)
    with line.time("views"):
        clock(16)
    with line.time("step"):
        clock(32)
    clock(64)
    assert line.stop() == {"rest": 65, "step": 42, "optimizer": 4, "views": 16}
    assert line.seconds == {"step": 46, "views": 16, "total": 62}  # what a run logs counts the optimiser as the step's
    line.start()
    clock(3)
    assert line.stop() == {"rest": 3}


def seconds_of(name, clock, monkeypatch, **slow):
    """The parts of a step in which the given functions, as "module:class.function", take so many seconds each time."""
    calls = {}
    for place, seconds in slow.items():
        module, _, path = place.partition(":")
        owner, function = path.split(".")
        cls = getattr(importlib.import_module(f"hardlab.{module}"), owner)
        called = getattr(cls, function)

        def taking(*args, _called=called, _place=place, _seconds=seconds, **options):
            calls[_place] = calls.get(_place, 0) + 1
            clock(_seconds)
            return _called(*args, **options)

        monkeypatch.setattr(cls, function, taking)
    session = train.open(small_run(name), device="cpu", say=lambda line: None)
    line = Timeline(session.device)
    line.watch(session)
    batch = next(session.batches())
    line.start()
    train.step(session, batch)
    return line.stop(), calls


@pytest.mark.parametrize(
    ("name", "strategy", "own"),
    [
        ("adco", "adco", "hard.adco:Learned.sweep"),
        ("moco-mochi", "mochi", "hard.mochi:Mixed.make"),
        ("moco-synco", "synco", "hard.synco:SixKinds.make"),
        ("simclr-hcl", "hcl", "hard.hcl:Reweighted.loss"),
    ],
)
def test_the_loss_against_negatives_of_a_strategy_is_a_part_of_that_strategy(name, strategy, own, clock, monkeypatch):
    of_method = {"moco": "negatives:Queue.similarities", "simclr": "negatives:OtherKeys.similarities"}
    inner = {of_method[name.split("-")[0]]: 1} if name != "adco" else {}
    parts, calls = seconds_of(name, clock, monkeypatch, **{own: 100}, **inner)
    assert parts.pop(strategy) == 100 * calls[own] > 0
    assert parts.get("step", 0) == sum(calls[place] for place in inner)
    assert not any(parts[part] for part in parts if part != "step")


def test_what_a_selection_renders_is_a_part_of_the_views(clock, monkeypatch):
    slow = {"views:Look.apply": 100, "hard.hvs:HVS.embed": 1}
    parts, calls = seconds_of("simsiam-hvs", clock, monkeypatch, **slow)
    assert parts["views"] == 100 * calls["views:Look.apply"] > 0
    assert parts["hvs"] == calls["hard.hvs:HVS.embed"] == 1


def answers_of(job, lines, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{n}\n" for n in lines)))
    work(job)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_trainer_takes_as_many_steps_as_it_is_asked_for_in_the_middle_of_the_run(monkeypatch, capsys):
    taken = []
    step = train.step

    def counted(session, batch):
        taken.append((session.done, len(batch.index), session.run.execution))
        return step(session, batch)

    monkeypatch.setattr(train, "step", counted)
    run = small_run("adco", **{"epochs": 4, "logs.checkpoint_every": 10**6})
    job = Job(run.model_dump(mode="json"), "cpu", torch.get_num_threads(), profile=True)
    about, first, second = answers_of(job, [3, 2], monkeypatch, capsys)
    assert taken == [(8 + i, 32, "eager") for i in range(5)]  # of 4 epochs of 4 steps
    assert (about["strategies"], about["players"], about["precision"]) == (["adco"], ["negatives"], "fp32")
    for turn in (first, second):
        assert {"data", "views", "adco", "step", "negatives", "optimizer", "logs"} <= turn["parts"].keys()
        assert sum(turn["parts"].values()) == pytest.approx(turn["seconds"], rel=0.05)
        assert turn["peak_memory_mb"] > 0


def test_a_run_with_a_parent_starts_from_it_and_nothing_is_left_on_the_disk(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = small_run("ppcl").with_({"parent.epochs": 0})
    about, turn = answers_of(Job(run.model_dump(mode="json"), "cpu", None, False), [1], monkeypatch, capsys)
    assert about["strategies"] == ["generated"] and turn["seconds"] > 0 and turn["parts"] == {}
    assert list(tmp_path.iterdir()) == []
