"""A configuration is strict, says what is wrong, and has a stable identity."""

import copy

import pytest

from hardlab import build, config, recipes
from hardlab.types import HardlabError


@pytest.mark.parametrize("rung", recipes.RUNGS)
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_makes_a_run_at_every_rung(name, rung):
    run = recipes.recipe(name, rung)
    assert (run.recipe, run.rung) == (name, rung)
    assert config.make(run.model_dump(mode="json")) == run
    build.look(run)
    assert recipes.RECIPES[name].__doc__


def test_the_identity_depends_on_every_setting_and_on_nothing_else():
    run = recipes.recipe("simsiam-hvs")
    assert run.id == recipes.recipe("simsiam-hvs").id
    others = [{"seed": 1}, {"optim.lr": 0.5}, {"hard.hvs.draws": 8}, {"method.dim": 64}, {"data.fraction": 0.2}]
    ids = {run.with_(o).id for o in others} | {run.id}
    assert len(ids) == len(others) + 1


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["optim.learning_rate=1"], "learning_rate"),
        (["optim.lrr=1"], "Did you mean 'lr'"),
        (["sed=1"], "Did you mean 'seed'"),
        (["method.temprature=1"], "Did you mean|Allowed"),
        (["hard.hvs.views=8"], "Allowed: .*draws"),
        (["hard.hsv.draws=8"], "Did you mean 'hvs'"),
        (["data.name=shape"], "Did you mean 'shapes'"),
        (["backbone=resnet"], "Allowed"),
        (["augment=simclr_cifr"], "Did you mean 'simclr_cifar'"),
        (["augment.sizes=32"], "Did you mean 'size'"),
        (["epochs=-1"], "epochs=-1"),
        (["epochs=many"], "many"),
        (["data.fraction=2"], "data.fraction=2"),
        (["seed"], "key=value"),
        (["optim.name=adagrad"], "adagrad"),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence_before_anything_runs(pairs, words):
    with pytest.raises(HardlabError, match=words) as e:
        build.look(recipes.recipe("simsiam-hvs", "smoke", config.parse(pairs)))
    assert "\n" not in str(e.value)


def test_values_arrive_with_their_types():
    run = recipes.recipe(
        "simsiam-hvs",
        "smoke",
        config.parse(["optim.lr=1e-3", "hard.hvs.update_bn=false", "hard.hvs.probe_size=null", "data.classes=[a, b]"]),
    )
    assert run.optim.lr == 0.001
    assert run.hard[0].options["update_bn"] is False
    assert run.hard[0].options["probe_size"] is None
    assert run.data.classes == ("a", "b")


def test_unknown_recipes_and_rungs_name_the_nearest():
    with pytest.raises(HardlabError, match=r"Did you mean 'simsiam-hvs'.*--code FILE"):
        recipes.recipe("simsiam-hsv")
    with pytest.raises(HardlabError, match="Did you mean 'smoke'"):
        recipes.recipe("simsiam", "smok")


def test_a_run_with_another_method_than_its_recipes_is_named_after_its_method_and_strategies():
    def named(name, *pairs):
        return recipes.recipe(name, "smoke", config.parse(pairs)).id.rpartition("-smoke-")[0]

    assert named("simsiam", "method=vicreg") == named("simsiam", "method.name=vicreg", "method.options={}") == "vicreg"
    assert named("simsiam-hvs-static", "method=byol", "seed=1") == "byol-hvs"
    assert named("simsiam", "method=moco", "hard=[hcl, hvs]") == "moco-hcl-hvs"
    assert named("simsiam", "method=simsiam", "method.dim=64") == "simsiam"  # the same one with other options
    assert named("simsiam", "method=vicreg", "recipe=mine") == "mine"
    sas = recipes.recipe("simclr-sas")
    assert sas.with_({"parent.method": "vicreg"}).parent.recipe == "vicreg"
    given = sas.parent.with_({"method": "byol", "recipe": "mine"}).model_dump(mode="json")
    changed = sas.with_({"parent": given})
    assert (changed.recipe, changed.parent.recipe) == ("simclr-sas", "mine")
    assert config.make(changed.model_dump(mode="json")) == changed


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("simsiam hard=[hvs]", "simsiam-hvs", "simsiam-hvs"),
        ("simsiam hard=[hvs] hard.hvs.draws=3 epochs=2", "simsiam-hvs epochs=2 hard.hvs.draws=3", "simsiam-hvs"),
        ("simsiam hard=[hvs] hard.hvs.draws=8", "simsiam-hvs-8", "simsiam-hvs-8"),
        ("moco hard=[adversarial] method.temperature=0.5", "hexa-moco method.temperature=0.5", "hexa-moco"),
        ("moco-adversarial data=digits", "hexa-moco data=digits", "hexa-moco"),
        ("hexa-moco hard=[adversarial,hvs]", "moco-adversarial-hvs", "hexa-moco-hvs"),
        ("hexa-moco seed=2 hard=[]", "moco seed=2", "moco"),
        ("moco hard=[hvs,adversarial]", "moco-hvs hard=[hvs,adversarial]", "moco-hvs-adversarial"),
        ("simclr hard=[double]", "simclr-double", "simclr-dd"),
        ("adco-queue hard=[adversarial]", "adco-queue-adversarial", "adco-queue-adversarial"),
    ],
)
def test_one_training_has_one_id_by_whichever_strategies_and_recipe_it_is_asked_for(first, second, name):
    one, other = (recipes.recipe(door[0], "smoke", config.parse(door[1:])) for door in (first.split(), second.split()))
    assert one.id == other.id
    assert one.recipe == name


def test_other_strategies_rename_a_run_step_by_step_as_at_once_and_options_or_a_given_name_keep_it():
    run = recipes.recipe("simsiam", "smoke")
    stepwise = run.with_({"epochs": 3}).with_({"hard": ["hvs"]}).with_({"seed": 1})
    assert stepwise.id == recipes.recipe("simsiam-hvs", "smoke", {"seed": 1, "epochs": 3}).id
    assert recipes.recipe("hexa-moco", "smoke", {"hard.adversarial.epsilon": 3}).recipe == "hexa-moco"
    assert recipes.recipe("simsiam-hvs-8", "smoke", {"hard": ["hvs"]}).recipe == "simsiam-hvs-8"  # an option alone
    assert run.with_({"hard": ["hvs"], "recipe": "mine"}).recipe == "mine"
    assert run.with_({"recipe": "mine"}).with_({"hard": ["hvs"]}).recipe == "simsiam-hvs"


def test_one_strategy_may_stand_alone_and_what_is_none_is_refused_in_one_sentence():
    assert recipes.recipe("simsiam", "smoke", {"hard": "hvs"}) == recipes.recipe("simsiam", "smoke", {"hard": ["hvs"]})
    with pytest.raises(HardlabError, match="3 is not a strategy"):
        build.spec("strategy", 3)


def test_the_later_edition_of_hvs_names_the_same_recipes():
    for later, early in (("simsiam-hvp", "simsiam-hvs"), ("ibot-hvp", "ibot-hvs"), ("simsiam-hvp-8", "simsiam-hvs-8")):
        assert recipes.recipe(later, "cpu", {"seed": 2}) == recipes.recipe(early, "cpu", {"seed": 2})
    assert recipes.recipe("vicreg-hvp").hard[0].name == "hvs"
    with pytest.raises(HardlabError, match="no recipe 'simsiam-hvpx'"):
        recipes.recipe("simsiam-hvpx")


def test_an_arm_with_hvs_differs_from_its_baseline_in_nothing_else():
    for name in ("simsiam", "simclr"):
        for rung in recipes.RUNGS:
            base, hard = recipes.recipe(name, rung).model_dump(), recipes.recipe(f"{name}-hvs", rung).model_dump()
            assert {k for k in base if base[k] != hard[k]} == {"recipe", "hard"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("6h", 21600.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("90s", 90.0), ("2m10s", 130.0)]
)
def test_a_budget_is_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert config.budget(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "0s", "-1h", "6 hours", "1m1h"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HardlabError, match="no budget"):
        config.budget(text)


def test_what_a_caller_gives_stays_as_it_was_and_two_runs_share_nothing():
    given = {"data": {"name": "digits", "fraction": 0.5}, "backbone": {"name": "tiny", "options": {"width": 4}},
             "hard": [{"name": "hvs", "options": {"draws": 3}}], "method": {"name": "simsiam", "options": {}},
             "augment": {"name": "simsiam_cifar", "options": {}}, "optim": {"name": "sgd", "lr": 0.1}}  # fmt: skip
    kept = copy.deepcopy(given)
    more = {"data.fraction": 0.1, "backbone.width": 8, "hard.hvs.draws": 5, "method.dim": 16, "optim.lr": 0.2,
            "augment.flip": 0.0}  # fmt: skip
    changed = recipes.recipe("simsiam", "smoke", given | more)
    assert given == kept
    assert (
        recipes.recipe("simsiam", "smoke", given).hash == recipes.recipe("simsiam", "smoke", kept).hash != changed.hash
    )
