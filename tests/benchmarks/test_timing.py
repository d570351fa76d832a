"""The turns of the benchmarks."""

from __future__ import annotations

from benchmarks.timing import interleaved


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds, answers = interleaved({n: lambda n=n: calls.append(n) or n for n in "ab"}, 2)
    assert calls == ["a", "b", "a", "b", "b", "a"] and answers == {"a": "a", "b": "b"}
    assert len(seconds["a"].rounds) == 2
