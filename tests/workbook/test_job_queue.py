"""Runs side by side: the order, room, deadlines, and the end of what hangs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from hardlab.workbook.job_queue import Estimate, Job, Machine, Queue, end


def job(name: str, images: int = 1000, *, parent: str | None = None, weight: int = 1) -> Job:
    return Job(name, name, "cpu/simsiam", images, {}, ("knn",), parent, weight)


def child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], process_group=0)


def queue(
    jobs: list[Job], code: str = "pass", *, places: int = 1, memory_mb: float = 1e6, rate: float = 100.0
) -> Queue:
    estimate = Estimate({"cpu/simsiam": {"images_per_s": rate, "peak_memory_mb": 1000.0}}, overhead=0.0)
    return Queue(jobs, Machine(places, memory_mb), estimate, lambda job: child(code), lambda line: None, grace=2.0)


def test_the_order_is_kept_and_a_run_that_cannot_end_in_time_is_passed_over() -> None:
    q = queue([job("long", 5000), job("first", 1000), job("second", 1000)])
    assert q.next(left=30.0) == q.jobs[1]  # 50 s alone, half as long again beside others
    assert q.next(left=100.0) == q.jobs[0]
    assert q.next(left=10.0) is None
    q.state["first"] = "done"
    assert q.next(left=30.0) == q.jobs[2]


def test_a_run_waits_for_its_parent_and_is_left_where_that_failed() -> None:
    q = queue([job("gan"), job("ppcl", parent="gan"), job("other")], places=3)
    q._start(q.jobs[0])
    assert q.next(1e6) == q.jobs[2]
    q.running[0].process.wait()
    q._reap()
    assert q.next(1e6) == q.jobs[1]
    q.state["gan"] = "failed"
    assert q.next(1e6) == q.jobs[2]


@pytest.mark.parametrize(("places", "memory", "beside"), [(3, 1e6, 3), (12, 5000.0, 2), (1, 1e6, 1), (1, 1.0, 1)])
def test_as_many_run_side_by_side_as_places_and_memory_allow(places: int, memory: float, beside: int) -> None:
    q = queue([job(str(i)) for i in range(6)], "import time; time.sleep(60)", places=places, memory_mb=memory)
    try:
        while (started := q.next(1e6)) is not None:
            q._start(started)
        assert len(q.running) == beside  # 1,300 MB and 600 of its own each, of 85 % of the memory; one always goes
    finally:
        end([c.process for c in q.running], 1.0)


def test_a_heavy_run_takes_several_places_and_nothing_overtakes_it() -> None:
    q = queue([job("a"), job("heavy", weight=4), job("b")], "import time; time.sleep(60)", places=4)
    try:
        q._start(q.jobs[0])
        assert q.next(1e6) is None
    finally:
        end([c.process for c in q.running], 1.0)


def test_a_parent_that_is_not_in_the_queue_is_not_waited_for() -> None:
    assert queue([job("ppcl", parent="gan")]).next(1e6) == job("ppcl", parent="gan")


def test_a_run_that_can_go_on_later_is_started_once_no_other_can_end_in_time() -> None:
    q = queue([job("long", 50_000), job("short", 1000)])
    assert q.next(left=30.0) == q.jobs[1]
    q.state["short"] = "done"
    assert q.next(left=30.0) is None
    q.resumes = True
    assert q.next(left=30.0) == q.jobs[0]
    q.estimate.overhead = 40.0
    assert q.next(left=30.0) is None, "it would be asked to stop before its first step"


def test_the_queue_ends_at_its_deadline_and_ends_what_does_not_listen() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    q = queue([job("deaf", 0), job("late", 10**6)], deaf)
    q.grace = 0.5
    start = time.monotonic()
    q.run(start + 2.0, lambda: False)
    assert time.monotonic() - start < 20
    assert q.state == {"deaf": "stopped"}
    assert not q.running


def test_a_run_that_hangs_is_ended_and_the_next_one_has_its_turn() -> None:
    q = queue([job("hangs"), job("next")], "import time; time.sleep(60)")
    q._start(q.jobs[0])
    q.running[0].late = time.monotonic() - 1
    q._reap()
    assert q.state == {"hangs": "hung"}
    assert q.next(1e6) == q.jobs[1]


def test_a_run_that_fails_is_told_and_does_not_stop_the_others() -> None:
    q = queue([job("a", 0), job("b", 0)], "raise SystemExit(3)")
    q.run(time.monotonic() + 60, lambda: False)
    assert q.state == {"a": "failed", "b": "failed"}


def test_what_ended_here_tells_how_long_the_next_takes() -> None:
    estimate = Estimate({"cpu/a": {"images_per_s": 100.0}, "cpu/b": {"images_per_s": 50.0}}, overhead=10.0)
    a, unknown, elsewhere = (Job("x", "x", rate, 1000, {}) for rate in ("cpu/a", "cpu/c", "gpu/a"))
    assert estimate.alone(a) == 20.0
    assert estimate.alone(unknown) == 30.0  # the slowest of its rung
    assert estimate.seconds(elsewhere) is None
    estimate.learn(a, 60.0)  # three times as long as alone, so does the other
    assert estimate.seconds(a) == pytest.approx(60.0)
    assert estimate.seconds(unknown) == pytest.approx(90.0)
