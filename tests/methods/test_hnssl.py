"""HNSSL against loops over its equations."""

import pytest
import torch
from hnssl_steps import B, dissimilarity, net, outcome, some_views
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import after

from hardlab import build, recipes, registry, run_folder, train
from hardlab.hard.mined import Mined
from hardlab.types import HardlabError


def test_the_loss_of_an_image_is_the_squared_distance_of_its_max_normalised_outputs():
    method, v = net(), some_views()
    out = method(v)
    for i in range(B):
        assert out.loss[i].item() == pytest.approx(0.8 * dissimilarity(out.t[-1][i], out.q[0][i]), rel=1e-4)
    mean = net(reduction="mean")(v).loss * method.features
    assert torch.allclose(mean, out.loss, rtol=1e-5)


def test_the_trained_net_sees_the_augmented_and_the_copy_the_plain_image():
    method, v = net(), some_views()
    out = method(v)
    assert torch.equal(out.q[0], method.backbone(v.slot(0)))
    assert torch.equal(out.t[-1], method.student(v.plain))
    assert not out.t[-1].requires_grad


def test_no_gradient_reaches_the_student_and_all_of_the_teacher_gets_one():
    method, hard = net(), Mined(threshold=1e9)
    out = method(some_views())
    total = out.loss.mean() + hard.terms(after(method, out))["mined"].mean()
    total.backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert all(p.grad is not None for p in method.backbone.parameters())


def test_distances_do_not_depend_on_the_scale_of_a_prediction():
    q, t = torch.rand(7, 9), torch.rand(7, 9)
    scale = torch.rand(7, 1) * 100 + 0.5
    assert torch.allclose(net().loss(q, t), net().loss(scale * q, t), atol=1e-4)
    first = Mined(threshold=99.0).terms(after(net(), outcome(q, t)))["mined"]
    assert torch.allclose(first, Mined(threshold=99.0).terms(after(net(), outcome(scale * q, t)))["mined"], atol=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.999, 1.0])
def test_after_a_step_the_student_keeps_its_share(tau):
    method = net(tau=tau)
    old = [p.clone() for p in method.student.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(torch.randn_like(p))
    method.after_step(after(method, method(some_views())))
    for before, new, teacher in zip(old, method.student.parameters(), method.backbone.parameters(), strict=True):
        assert torch.allclose(new, tau * before + (1 - tau) * teacher, atol=1e-6)
        if tau in (0.0, 1.0):
            assert torch.equal(new, teacher if tau == 0 else before)


def test_the_students_running_statistics_are_those_of_the_plain_images():
    method, v = net(), some_views()
    method(v)
    alone = net()
    alone.student(v.plain)
    assert torch.equal(method.student[0].stem[1].running_mean, alone.student[0].stem[1].running_mean)


def test_with_student_gradient_both_networks_learn_and_nothing_is_averaged():
    method = net(student="gradient")
    out = method(some_views())
    out.loss.mean().backward()
    assert all(p.grad is not None for p in method.student.parameters())
    before = [p.clone() for p in method.student.parameters()]
    with torch.no_grad():
        method.backbone.stem[0].weight.add_(1)
    method.after_step(after(method, out))
    assert all(torch.equal(a, b) for a, b in zip(before, method.student.parameters(), strict=True))


def test_both_networks_can_be_evaluated_and_a_projector_is_none_of_their_business():
    method = net(head="projector")
    assert list(method.networks()) == ["backbone", "student"]
    assert method.networks()["student"].dim == method.features
    assert method(some_views()).q[0].shape == (B, 256)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: net(tau=1.5), "tau=1.5"),
        (lambda: net(alpha1=-1.0), "alpha1=-1"),
        (lambda: Mined(alpha2=-0.1), "alpha2=-0.1"),
        (lambda: Mined(threshold=-1.0), "threshold=-1"),
        (lambda: registry.check("method", "hnssl", {"student": "none"}), "student"),
        (lambda: registry.check("strategy", "mined", {"mine": "top2"}), "mine"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(make, words):
    with pytest.raises(HardlabError, match=words) as e:
        make()
    assert "\n" not in str(e.value)


def quick(name="hnssl", **more):
    whole = {"data.fraction": 1.0, "data.size": 8, "augment.size": 8, "batch_size": 512}
    return small_run(name, **whole | more)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hnssl", "hnssl-student-gradient"])
def test_a_stopped_run_ends_bitwise_like_a_whole_one(name, tmp_path, monkeypatch):
    whole, parts = whole_and_parts(quick(name), tmp_path, monkeypatch, 3)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    row = run_folder.metrics(whole, "step")[-1]
    assert {"d_ii", "feature_std", "distance_to_student", "mined.frac_nonempty", "mined.hard_negatives"} <= row.keys()


def test_without_weight_the_mined_term_changes_no_bit_of_the_networks(tmp_path):
    base = train.train(quick("hnssl-positives"), tmp_path)
    off = train.train(quick(**{"hard.mined.alpha2": 0.0}), tmp_path)
    assert same(learned(base)["method"], learned(off)["method"])


def test_the_arms_differ_from_the_base_in_the_strategy_alone():
    for rung in recipes.RUNGS:
        base = recipes.recipe("hnssl-positives", rung).model_dump()
        for name in ("hnssl", "hnssl-unmined"):
            arm = recipes.recipe(name, rung).model_dump()
            assert {k for k in base if base[k] != arm[k]} == {"recipe", "hard"}
        assert recipes.recipe("hnssl-literal", rung).optim.lr * 160 / 256 == pytest.approx(0.1)


@pytest.mark.parametrize("name", recipes.hnssl.RECIPES)
def test_every_rung_can_be_built(name):
    for rung in recipes.RUNGS:
        run = recipes.recipe(name, rung)
        with torch.device("meta"):
            build.strategies(run, build.method(run))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hnssl", "hnssl-unmined"])
def test_the_loss_falls_within_seconds(name, tmp_path):
    path = train.train(quick(name, epochs=8, batch_size=160), tmp_path)
    total = [row["terms"]["base"] + 0.1 * row["terms"].get("mined", 0.0) for row in run_folder.metrics(path, "epoch")]
    assert sum(total[-3:]) < sum(total[:3])
