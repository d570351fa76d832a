"""VICReg against lightly's loss."""

import pytest
import torch
from correlated import is_lightlys
from lightly.loss import VICRegLoss
from small_runs import small_run
from steps import rendered

from hardlab import nets, recipes, registry, train
from hardlab.methods.barlow import BarlowTwins
from hardlab.methods.vicreg import VICReg


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, VICRegLoss()),
        (
            {"invariance": 10.0, "variance": 3.0, "covariance": 2.0},
            VICRegLoss(lambda_param=10, mu_param=3, nu_param=2),
        ),
    ],
)
def test_the_mean_of_the_rows_is_lightlys_loss_and_so_is_its_gradient(options, reference):
    is_lightlys(VICReg(nets.Tiny(width=4), dim=16, **options), reference)


@pytest.mark.parametrize("kind", [VICReg, BarlowTwins])
def test_a_step_trains_both_branches_through_one_pass_each(kind):
    method = kind(nets.Tiny(width=4), dim=16)
    out = method(rendered(torch.randn(8, 2, 3, 16, 16)))
    assert out.q.keys() == {0} and out.t.keys() == {1}
    assert out.q[0].requires_grad and out.t[1].requires_grad


def test_hvs_says_once_that_its_pick_depends_on_the_batch_where_the_loss_does():
    for name, times in (("vicreg", 1), ("simsiam", 0)):
        lines = []
        run = small_run(name, hard=["hvs"])
        train.open(run, device="cpu", say=lines.append)
        assert len([line for line in lines if "depends on the others of its batch" in line]) == times


@pytest.mark.parametrize("name", ["vicreg", "barlow"])
@pytest.mark.parametrize("rung", recipes.RUNGS)
def test_there_is_a_recipe_at_every_rung_and_the_paper_s_is_8192_wide(name, rung):
    run = recipes.recipe(name, rung)
    assert run.method.name == name
    if rung == "paper":
        assert "dim" not in run.method.options and registry.options("method", name)["dim"].default == 8192
        assert (run.batch_size, run.epochs, run.optim.name) == (2048, 1000, "lars")
