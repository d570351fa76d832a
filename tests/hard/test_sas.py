"""SAS and the order of images: against a search over subsets, and through a run that is stopped."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run

from hardlab import train
from hardlab.hard.base import Hard
from hardlab.hard.sas import SAS, _shares
from hardlab.types import HardlabError


def value(s, kept):
    return sum(float(s[i, j]) for j in kept for i in range(len(s)) if i not in kept)


@pytest.mark.parametrize("pick", ["alike", "unlike"])
def test_each_greedy_choice_is_the_best_next_one_by_the_function_of_the_paper(pick):
    z = F.normalize(torch.randn(9, 3, dtype=torch.double), dim=1)
    s = z @ z.T
    kept, sign = [], 1 if pick == "alike" else -1
    for _ in range(4):
        kept.append(max((i for i in range(9) if i not in kept), key=lambda i: sign * value(s, [*kept, i])))
    assert SAS(pick=pick).subset(z, 4).tolist() == kept


def test_alike_comes_near_the_best_of_all_subsets_and_unlike_near_the_worst():
    z = F.normalize(torch.randn(8, 3, dtype=torch.double) + 1, dim=1)
    s = z @ z.T
    every = [value(s, kept) for kept in itertools.combinations(range(8), 3)]
    alike, unlike = (value(s, SAS(pick=p).subset(z, 3).tolist()) for p in ("alike", "unlike"))
    assert alike >= 0.95 * max(every)
    assert unlike < sorted(every)[len(every) // 4]


def test_the_shares_of_the_classes_add_up():
    assert _shares([10, 20, 30], 30) == [5, 10, 15]
    assert sum(_shares([7, 3, 11, 1], 11)) == 11
    assert all(a <= b for a, b in zip(_shares([7, 3, 11, 0], 20), [7, 3, 11, 0], strict=True))


def session(pick="alike", share=0.5, **more):
    run = small_run("simclr", **{"batch_size": 16, **more})
    run = run.with_({"hard": [{"name": "sas", "options": {"classes": 4, "pick": pick, "share": share}}]})
    return train.open(run, device="cpu")


@pytest.mark.parametrize("pick", ["alike", "random"])
def test_an_epoch_has_as_many_batches_of_the_kept_images_alone_and_no_image_twice_in_one(pick):
    s = session(pick)
    batches = [b.index.tolist() for b in s.batches()]
    assert len(batches) == s.per_epoch and {len(b) for b in batches} == {16}
    kept = set(s.hard[0].rows.tolist())
    assert len(kept) == round(0.5 * len(s.data))
    assert set(itertools.chain(*batches)) <= kept
    assert all(len(set(b)) == 16 for b in batches)
    assert [b.index.tolist() for b in s.batches()] == batches
    s.done += s.per_epoch
    assert [b.index.tolist() for b in s.batches()] != batches


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(HardlabError, match="less than a batch of 16"):
        session(share=0.01)


def test_orders_of_two_strategies_go_one_after_the_other_and_a_baseline_changes_nothing():
    class Turned(Hard):
        def order(self, rows, epoch, images, look):
            return rows.flip(0)

    s = train.open(small_run("simsiam"), device="cpu")
    plain = [b.index.tolist() for b in s.batches()]
    s.hard = [Hard(), Turned()]
    assert [b.index.tolist() for b in s.batches()] == plain[::-1]
    s.hard = [Turned(), Turned()]
    assert [b.index.tolist() for b in s.batches()] == plain


def test_the_recipe_takes_its_proxy_from_its_parent_and_goes_on_exactly(tmp_path, monkeypatch):
    run = small_run("simclr-sas", **{"batch_size": 16, "parent.epochs": 1, "parent.batch_size": 16})
    train.train(run.parent, tmp_path / "parts", device="cpu", say=lambda line: None)  # which the stop is not for
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 3)
    assert same(learned(whole), learned(parts)) and rows(whole) == rows(parts)
    assert (learned(whole)["hard"][0]["rows"] >= 0).all()
