"""What a run counts, against sums by hand."""

import numpy as np
import pytest
import torch

from hardlab import health, meters


def test_sums_of_an_epoch_are_those_of_python_floats_bit_for_bit():
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 1e3
    epoch, total = meters.Epoch(), 0.0
    for value in values:
        epoch.add({"base": value})
        total += float(value)
    assert epoch.means() == {"base": total / 500}
    assert epoch.dump() == {"term:base": total, "steps": 500.0}


def test_a_term_that_is_missing_in_some_steps_counts_as_nothing_in_them():
    epoch = meters.Epoch()
    epoch.add({"base": torch.tensor(1.0), "mined": torch.tensor(6.0)})
    epoch.add({"base": torch.tensor(2.0)})
    assert epoch.means() == {"base": 1.5, "mined": 3.0}


def test_what_is_dumped_and_restored_goes_on_as_if_nothing_had_happened():
    whole, parts = meters.Epoch(), meters.Epoch()
    for i in range(6):
        if i == 3:
            saved, parts = parts.dump(), meters.Epoch()
            assert all(type(x) is float for x in saved.values())
            parts.restore(saved)
        for epoch in (whole, parts):
            epoch.add({"base": torch.tensor(0.1 * i)})
    assert whole.dump() == parts.dump()
    assert meters.Epoch().dump() == {}


def test_seconds_go_to_their_part_and_to_the_total(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr(meters.time, "perf_counter", lambda: float(next(clock)))
    epoch = meters.Epoch()
    with epoch.time("views"):
        pass
    assert list(epoch.around("data", [1, 2])) == [1, 2]
    assert dict(epoch.seconds) == {"views": 0.5, "data": 1.5, "total": 2.0}  # a third look finds no more data


@pytest.mark.parametrize(
    ("loss", "grad", "word"), [(1.0, 1.0, None), (torch.nan, 1.0, "loss"), (1.0, torch.inf, "gradient")]
)
def test_the_watch_remembers_the_first_number_that_is_none(loss, grad, word):
    watch, rows = health.Watch(), torch.tensor([7, 8, 9, 10, 11])
    assert watch.complaint() is None
    watch.note("learner", 3, torch.tensor(1.0), [torch.ones(2), None], rows)
    watch.note("stn", 4, torch.tensor(loss), [None, torch.tensor([1.0, grad])], rows + 1)
    watch.note("learner", 5, torch.tensor(torch.nan), [torch.ones(1)], rows)
    complaint = watch.complaint()
    if word is None:
        assert (
            complaint
            == "The loss of the learner is not finite at step 6 (images [7, 8, 9, 10]...); nothing of it was saved."
        )
    else:
        assert complaint.startswith(f"The {word} of the stn is not finite at step 5 (images [8, 9, 10, 11]...)")
