"""A soak in small; ``python tests/faults/soak.py`` is the one of an hour."""

from __future__ import annotations

import pytest
from soak import Use, grown, soak


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_short_runs_one_after_the_other_leave_nothing_behind(cases, monkeypatch, count):
    monkeypatch.setenv("HARDLAB_DATA", "elsewhere")  # put back after it
    number, before, after = soak(cases(10, 300), lambda line: None)
    assert grown(before, after) == []
    count("2 short runs of a soak", number)


def test_growth_of_each_kind_is_seen():
    before = Use(500.0, 10, 4, 1, 20)
    assert grown(before, before._replace(memory=540.0)) == []
    for name, now in {"memory": 560.0, "handles": 11, "threads": 5, "python_threads": 2, "files": 21}.items():
        assert [line.split(":")[0] for line in grown(before, before._replace(**{name: now}))] == [name]
