"""Which runs are an arm, and which may stand together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_runs import write_run
from made_tables import (
    PAPER,
    SEEDS,
    accuracies,
    configured,
    lengths,
    one,
    texts,
)

from hardlab import figures, registry
from hardlab.analysis import arms as rules
from hardlab.analysis import schema
from hardlab.analysis.arms import (
    KNN,
    Arm,
    Book,
    Selection,
    comparable,
    explain_choice,
    first,
    first_of_each,
    gain,
    gains,
    highest_shared,
    linear,
    longest,
    measured,
    named_once,
    next_rung,
    one_with_most,
    preferred,
)
from hardlab.analysis.catalog import Catalog
from hardlab.figures import ppcl, style

pytestmark = pytest.mark.usefixtures("no_data_sets")


def test_runs_of_two_lengths_are_not_taken_together_and_the_shorter_ones_are_named(tmp_path: Path) -> None:
    long, short, shorter = (
        [write_run(tmp_path, "simsiam-hvs", seed, None, changes={"epochs": epochs}).name for seed in seeds]
        for epochs, seeds in ((4, (1, 0, 2)), (2, (0, 1)), (1, (0, 1, 2)))
    )
    one = write_run(tmp_path, "simclr", 0, None, changes={"epochs": 8}).name
    every = Catalog(tmp_path).finished("smoke", ["simsiam-hvs", "simclr"])
    kept = comparable(every)
    assert kept["run"].tolist() == [long[1], long[0], long[2], one]  # three seeds, and the longer of two such lengths
    message = explain_choice(every, kept)
    assert (message["used"] == "yes").tolist() == every["run"].isin(kept["run"]).tolist()
    left_out = message[message["used"] == "no"]
    assert len(left_out) == len([*short, *shorter]) and set(left_out["epochs"]) == {1, 2}
    fewer = comparable(every[every["run"].isin([*long[:1], *short])])
    assert fewer["run"].tolist() == short  # the most seeds come first, then the length


def test_runs_of_other_strategies_or_data_are_not_taken_together(tmp_path: Path) -> None:
    easy = [write_run(tmp_path, "simsiam-hvs", s, None, changes={"hard.hvs.draws": 8}).name for s in (0, 1)]
    plain = [write_run(tmp_path, "simsiam-hvs", s, None).name for s in (0, 1, 2)]
    other = [write_run(tmp_path, "simsiam", s, None, changes={"data.name": "digits"}).name for s in (0, 1, 2)]
    hvs = write_run(tmp_path, "simsiam", 0, None).name
    every = Catalog(tmp_path).finished("smoke", ["simsiam-hvs", "simsiam"])
    assert comparable(every)["run"].tolist() == [*plain, hvs]  # on the data of both recipes
    assert comparable(every[every["run"].isin(easy)])["run"].tolist() == easy
    alone = every[every["recipe"] == "simsiam"]
    assert comparable(alone)["run"].tolist() == other


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """Two seeds of HNSSL as it is and of three others shares kept, with an accuracy of a tenth for each digit."""
    rows: dict[str, list[dict[str, object]]] = {"evaluation": [], "configs": [], "epochs": []}
    # of the same seeds; the settings' names sort against the default
    for setting, tau, value in (("a", None, 0.5), ("b", 0.999, 0.9), ("c", 1.0, 0.1), ("d", 0.5, 0.5)):
        for seed in (0, 1) if tau != 0.5 else (2,):
            run = one("hnssl", seed) | {"setting": setting, "run": f"hnssl-{setting}-s{seed}"}
            where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10"}
            measured = {"protocol": "linear", "metric": "top1-last", "value": value}
            rows["evaluation"].append(run | where | measured)
            rows["configs"] += configured(run, **({} if tau is None else {"method__tau": tau}))
            rows["epochs"] += [run | {"epoch": e, "name": "objective", "value": value} for e in (0, 1)]
    for name, seeds in rows.items():
        pd.DataFrame(seeds, columns=schema.columns(name)).to_csv(tmp_path / f"{name}.csv", index=False)
    shutil.copy(PAPER, tmp_path)
    return tmp_path


def test_the_arms_of_one_set_are_of_the_length_that_most_of_them_have_there_whatever_others_have() -> None:
    arms = ["ppcl-simclr", "ppcl-gan", "ppcl"]
    tenth = accuracies(arms, "cifar10-jpeg 10 %", 10)
    fifth = [accuracies(arms[1:], "cifar10-jpeg 20 %", 5), accuracies(arms[2:], "cifar10-jpeg 20 %", 10, value=0.9)]
    rows = pd.concat([tenth, *fifth])
    ours = Selection(arms, rows, lengths(rows), any_data=True)
    for share, expected in (("10 %", 45), ("20 %", 45)):
        assert ours.values(Arm("ppcl", trained=("CIFAR-10", share)), ppcl.LINEAR).tolist() == [expected] * 2
    assert "on cifar10-jpeg 10 % (10 epochs), cifar10-jpeg 20 % (5 epochs) · " in style.about(ours.frame)


def test_an_option_set_to_its_default_is_no_difference(arms: Path) -> None:
    configs = pd.read_csv(arms / "configs.csv", keep_default_na=False, dtype=str)
    book = Book.of_configs(configs)
    assert book.matching(Arm("hnssl"), {"hnssl-d-s2": "gpu"}) and book.matching(Arm("hnssl"), {"hnssl-a-s0": "gpu"})
    tau = Arm("hnssl", (("method.tau", 0.5),))
    assert [bool(book.matching(tau, {f"hnssl-{s}-s0": "gpu"})) for s in "abc"] == [True, False, False]
    assert [book.changes(f"hnssl-{s}-s0", "gpu", "hnssl") for s in "ab"] == [0, 1]


def test_the_command_for_a_set_that_lacks_an_arm_trains_it_as_those_of_the_same_share_were_trained() -> None:
    short = {"epochs": 1, "optim__warmup_epochs": 0.2, "data__fraction": 1.0}
    whole, tenth = accuracies(["clae"], "cifar10-jpeg", 1), accuracies(["ppcl-dd", "clae"], "cifar10-jpeg 10 %")
    runs = pd.concat([whole, tenth]).drop_duplicates("run")[[*schema.WHO]].to_dict("records")
    configs = [row for run in runs for row in configured(run, **(short if "-1-" in run["run"] else {"epochs": 10}))]
    ours = Selection(["clae", "ppcl-dd"], pd.concat([whole, tenth]), pd.DataFrame(configs), any_data=True)
    asked = Arm("ppcl-dd", trained=("FMNIST", "100 %"))
    want = "epochs=1 optim.warmup_epochs=0.2 data.name=fashionmnist data.fraction=1.0"
    assert ours.command(asked) == f"hardlab pretrain ppcl-dd --rung gpu {want}"
    fifth = ours.command(asked._replace(trained=("CIFAR-10", "10 %")))
    assert fifth == "hardlab pretrain ppcl-dd --rung gpu epochs=10 data.fraction=0.1"


def test_a_figure_shows_the_probe_that_most_of_its_arms_have_and_of_equals_the_papers() -> None:
    where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10", "metric": "top1-last"}
    both = {"linear": 0.3, "linear-hvs-dino": 0.9}
    rows = [one("dino", 0) | where | {"protocol": p, "value": v} for p, v in both.items()]
    rows += [one("dino-hvs", 0) | where | {"protocol": "linear", "value": 0.4}]
    measure, names = linear("linear-hvs-dino"), ("dino", "dino-hvs")
    assert Selection(names, pd.DataFrame(rows)).values(Arm("dino"), measure).tolist() == [30.0]
    rows += [one("dino-hvs", 0) | where | {"protocol": "linear-hvs-dino", "value": 0.8}]
    assert Selection(names, pd.DataFrame(rows)).values(Arm("dino"), measure).tolist() == [90.0]


def test_rows_of_the_built_in_scenes_stay_where_the_accuracies_are_of_other_data() -> None:
    where = {"features": "backbone", "split": "test", "options": "{}"}
    rows = [
        one("adco", s, data) | where | {"protocol": p, "metric": m, "evaluated_on": data, "value": v}
        for s in SEEDS
        for data, p, m, v in (("cifar10", "knn", "top1@k=20", 0.5), ("shapes", "detection", "AP50", 0.1))
    ]
    rows += [rows[0] | one("simclr", 0, "shapes") | {"evaluated_on": "shapes"}]
    ours = Selection(("adco", "simclr"), pd.DataFrame(rows))
    assert ours.values(Arm("adco"), KNN).tolist() == [50.0] * 3
    assert ours.values(Arm("adco"), measured(("detection", "AP50"))).tolist() == [10.0] * 3
    assert not len(ours.values(Arm("simclr"), KNN))  # the set of more runs is shown
    # of as many on both, a real set comes before a built-in one
    rows = [r for r in rows if r["seed"] == 0 and r["protocol"] == "knn"]
    assert Selection(("adco", "simclr"), pd.DataFrame(rows)).rows["data"].unique().tolist() == ["cifar10"]


def test_the_command_that_fills_a_gap_makes_the_run_that_the_figure_looks_for(arms: Path) -> None:
    gaps = figures.gaps("hnssl_t7", arms)
    # the runs that are shown are of 200 epochs, as the recipe's, so that no length is told
    want = "hardlab pretrain hnssl --rung gpu method.tau=0.0 && hardlab evaluate RUN --protocol linear"
    assert gaps == [want]
    wide = Arm("hnssl", wider=2)
    assert wide.overrides("cpu") == {"backbone.width": 2 * recipes_width("tiny")}
    assert wide.overrides("paper") == {"backbone.name": "resnet50x2"}  # as the claims have it
    run = one("hnssl", 0) | {"rung": "cpu"}
    book = Book.of_configs(pd.DataFrame(configured(run, backbone__width=64)))
    assert book.matching(wide, {str(run["run"]): "cpu"}) and not book.matching(
        Arm("hnssl", wider=4), {str(run["run"]): "cpu"}
    )


def test_runs_with_other_options_are_arms_of_their_own_and_never_stand_for_the_recipe(arms: Path) -> None:
    cells = texts(figures.make("hnssl_t7", arms)).split("\n")
    assert {"50.0±0.0", "90.0±0.0", "10.0±0.0"} <= set(cells) and "hnssl method.tau=0.999" in cells
    assert "50.0±0.0" in texts(figures.make("hnssl_t1", arms)).split("\n")  # not those of the name that sorts last
    line = next(x for x in figures.make("hnssl_f2", arms).axes[0].get_lines() if not x.get_label().startswith("_"))
    assert line.get_ydata().tolist() == [0.5, 0.5]


def test_a_run_that_is_there_but_not_measured_is_asked_to_be_evaluated(arms: Path) -> None:
    gaps = figures.gaps("hnssl_t3", arms)
    assert any(g == "hardlab evaluate runs/hnssl-a-s0 runs/hnssl-a-s1 --protocol semi-hnssl-1" for g in gaps)


def recipes_width(network: str) -> int:
    return int(registry.options("backbone", network)["width"].default)


def test_the_example_of_the_page_is_what_the_rule_gives() -> None:
    """docs/arms.md: three seeds of 30 epochs of both arms, one of 10 epochs of the second; then without a seed."""
    runs = [(name, s, 30) for name in ("simsiam", "simsiam-hvs") for s in SEEDS] + [("simsiam-hvs", 0, 10)]
    facts, rows = {}, []
    for name, seed, epochs in runs:
        who = one(name, seed, epochs=epochs) | {"rung": "cpu"}
        facts[str(who["run"])] = {str(r["key"]): str(r["value"]) for r in configured(who, epochs=epochs, seed=seed)}
        rows.append(who)
    book, arms = Book(facts), [Arm("simsiam-hvs"), Arm("simsiam")]

    def pairs(left_out: tuple[str, ...] = ()) -> tuple[int, ...]:
        alike = book.alike(arms)
        values = [{run: 0.5 for run in arm if run not in left_out} for arm in alike]
        return book.paired(alike, values, "cpu")[0].seeds

    def means(left_out: tuple[str, ...] = ()) -> list[list[int]]:
        frame = pd.DataFrame(rows)
        return [arm["seed"].tolist() for arm in book.together(arms, frame[~frame["run"].isin(left_out)])]

    assert pairs() == (0, 1, 2) and means() == [[0, 1, 2], [0, 1, 2]]
    gone = (str(one("simsiam", 2, epochs=30)["run"]),)
    assert pairs(gone) == (0, 1) and means(gone) == [[0, 1, 2], [0, 1]]


def probed(rung: str, data: str, **by: int) -> list[dict[str, object]]:
    """Rows of two recipes by a probe each, of so many seeds; hnssl is not measured by "linear"."""
    rows: list[dict[str, object]] = []
    for probe, seeds in by.items():
        protocol = probe.replace("_", "-")
        for name in ("hnssl", "byol") if protocol != "linear-hnssl" else ("hnssl",):
            for seed in range(seeds):
                run = one(name, seed) | {"rung": rung, "data": data, "run": f"{name}-{rung}-{data}-{seed}"}
                where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": data.split()[0]}
                metric = "top1" if protocol == "linear-lbfgs" else "top1-last"
                rows.append(run | where | {"protocol": protocol, "metric": metric, "value": 0.1 * len(probe)})
    return rows


@pytest.mark.parametrize(
    ("rung", "by", "shown"),
    [
        ("cpu", {"linear": 3, "linear_lbfgs": 1}, "linear-lbfgs"),  # however many seeds the other has
        ("cpu", {"linear": 3, "linear_hnssl": 1}, "linear"),  # without the primary one that of the most arms
        ("paper", {"linear": 3, "linear_lbfgs": 1}, "linear"),
    ],
)
def test_below_the_papers_rung_the_primary_probe_is_shown_where_as_many_arms_have_it(
    rung: str, by: dict[str, int], shown: str
) -> None:
    selection = Selection(("hnssl", "byol"), pd.DataFrame(probed(rung, "cifar10", **by)))
    assert len(selection.values(Arm("byol"), linear("linear-hnssl")))
    assert selection.by == [shown]


def test_a_figure_without_a_selection_takes_the_probe_of_most_recipes_then_the_primary_one_below_rung_paper() -> None:
    rows = pd.DataFrame(
        [{"rung": "cpu", "recipe": r, "protocol": p} for r in ("moco", "byol") for p in ("linear", "linear-lbfgs")]
    )
    assert set(rules.one_protocol(rows)["protocol"]) == {"linear-lbfgs"}
    assert set(rules.one_protocol(rows.assign(rung="paper"))["protocol"]) == {"linear"}
    assert set(rules.one_protocol(rows[:3])["protocol"]) == {"linear"}
    assert not len(rules.one_protocol(rows[:0]))


def test_each_data_set_has_one_probe_of_its_own() -> None:
    rows = probed("cpu", "cifar10 10 %", linear=3, linear_lbfgs=1) + probed("cpu", "fashionmnist", linear=2)
    selection = Selection(("hnssl", "byol"), pd.DataFrame(rows), any_data=True)
    for data, share, n in (("CIFAR-10", "10 %", 1), ("FMNIST", "100 %", 2)):
        assert len(selection.values(Arm("byol", trained=(data, share)), linear("linear-hnssl"))) == n
    assert selection.by == ["linear", "linear-lbfgs"]


def test_the_networks_that_runs_began_as_are_of_their_rung_their_data_and_their_backbone() -> None:
    def facts(name: str, **more: str) -> dict[str, str]:
        return {"recipe": name, "rung": "cpu", "seed": "0", "data.name": "a", "backbone.name": "tiny"} | more

    others = {"rung": "gpu", "data.name": "b", "backbone.name": "wide"}
    runs = {"run": facts("simsiam"), "same": facts("untrained", seed="7", epochs="0"), "trained": facts("moco")}
    runs |= {key: facts("untrained", **{key: value}) for key, value in others.items()}
    assert Book(runs).untrained(["run"]) == ["same"]


def test_one_run_that_stands_for_several_is_the_first_recipes_lowest_seed() -> None:
    rows = pd.DataFrame(
        [("hexa", 1, "a", 9), ("hexa", 0, "c", 9), ("hexa", 0, "b", 9), ("adco", 0, "A", 9), ("adco", 0, "B", 10)],
        columns=["recipe", "seed", "run", "epochs"],
    )
    assert first(rows)["run"] == "b"
    assert first_of_each(rows)["run"].to_dict() == {"hexa": "b", "adco": "A"}
    assert list(first_of_each(rows).index) == ["hexa", "adco"]  # as they stand
    assert longest(rows)["run"].tolist() == ["B"]


def test_of_recipes_of_which_one_is_shown_the_preferred_one_at_the_highest_rung_is_shown(tmp_path: Path) -> None:
    expected, other, seed = (write_run(tmp_path, *arm, None).name for arm in (("adco", 0), ("moco", 0), ("moco", 1)))
    runs, names = Catalog(tmp_path).runs, ("adco-queue", "adco", "moco")
    assert preferred(names, runs) == "adco" and preferred(names, runs[runs["recipe"] == "moco"]) == "moco"
    assert preferred(names, runs.iloc[:0]) == "adco-queue"
    counts = {expected: 1, other: 2, seed: 3}
    assert one_with_most(runs, counts, names)["run"] == expected
    assert one_with_most(runs, counts | {expected: 0}, names)["run"] == seed
    runs.loc[runs["recipe"] == "moco", "rung"] = "cpu"
    assert preferred(names, runs) == "moco" and one_with_most(runs, counts, names)["run"] == seed
    assert one_with_most(runs, counts, names[:1]) is one_with_most(runs, dict.fromkeys(counts, 0), names) is None


def test_a_training_under_two_names_counts_once_for_each_number_and_under_that_of_its_method() -> None:
    same = {"setting": "s", "arm": "standard", "seed": 0, "method": "dino"}
    names = (("stn", "loss"), ("a-first", "loss"), ("dino", "loss"), ("stn", "iou"))
    rows = [{**same, "recipe": r, "name": n} for r, n in names]
    rows.append({**same, "recipe": "stn", "name": "loss", "seed": 1})
    kept = named_once(pd.DataFrame(rows), ["name"])
    assert sorted(zip(kept["recipe"], kept["name"], kept["seed"], strict=True)) == [
        ("dino", "loss", 0), ("stn", "iou", 0), ("stn", "loss", 1),
    ]  # fmt: skip


def test_a_gain_is_of_the_seeds_that_both_have_and_of_one_setting() -> None:
    ours, other = pd.Series({0: 0.5, 1: 0.6, 2: 0.9}), pd.Series({1: 0.4, 0: 0.2, 7: 0.1})
    assert gain(ours, other).to_dict() == pytest.approx({0: 0.3, 1: 0.2})
    columns = ["rung", "data", "method", "setting", "seed", "name", "value"]
    place = ("cpu", "cifar10", "simsiam")
    rows = [(*place, "s", 0, "iou", 0.5), (*place, "s", 1, "iou", 0.6), (*place, "t", 2, "iou", 0.7)]
    peers = [(*place, "s", 0, "iou", 0.2), (*place, "s", 1, "top1", 0.1), (*place, "s", 2, "iou", 0.1)]
    paired = gains(pd.DataFrame(rows, columns=columns), pd.DataFrame(peers, columns=columns), ["name"])
    assert paired[columns].values.tolist() == [[*place, "s", 0, "iou", pytest.approx(0.3)]]


def test_the_next_rung_is_above_the_highest_and_there_is_none_above_the_papers() -> None:
    assert next_rung(["cpu", "smoke", "cpu"]) == "gpu"
    assert next_rung(["cpu", "paper"]) == next_rung([]) == ""


def test_a_run_that_shares_the_parent_of_another_seed_is_no_partner_of_one_that_has_none() -> None:
    given = {
        "own": ("ppcl", {"seed": 1}),
        "shared": ("ppcl", {"seed": 1, "parent.seed": 0}),
        "zero": ("ppcl", {}),
        "plain": ("ppcl-simclr", {"seed": 1}),
    }
    rows = []
    for name, (recipe, options) in given.items():
        rows += configured({"recipe": recipe, "rung": "gpu", "run": name}, **options)
    book = Book.of_configs(pd.DataFrame(rows))
    assert book.matching(Arm("ppcl")) == {"own": {}, "shared": {"parent.seed": 0}, "zero": {}}
    pairs = book.with_partners(book.alike([Arm("ppcl"), Arm("ppcl-simclr")]))
    assert [seeds for (_, changes), seeds in pairs.items() if changes == "{}"] == [{1: (["own"], ["plain"])}]


def test_partners_are_the_seeds_that_every_arm_has_a_run_of_measured_or_not() -> None:
    runs = {"a0": 0, "a1": 1, "a1-again": 1, "b1": 1, "b2": 2, "c1": 1}
    book = Book({name: {"seed": str(seed)} for name, seed in runs.items()})
    usual, longer = ("cpu", "{}"), ("cpu", '{"epochs": 9}')
    one, other = {"a0": usual, "a1-again": usual, "a1": usual}, {"b2": usual, "b1": usual, "c1": longer}
    assert book.with_partners([one, other]) == {usual: {1: (["a1", "a1-again"], ["b1"])}}
    assert book.with_partners([{"a0": usual}, other]) == {usual: {}}


def test_of_what_arms_share_the_highest_rung_comes_first_then_the_fewest_changes() -> None:
    shared = [("smoke", "{}"), ("paper", '{"epochs": 5, "seed": 1}'), ("paper", '{"zeta": 1}'), ("cpu", "{}")]
    assert highest_shared(shared) == ("paper", '{"zeta": 1}')


def test_a_mean_over_seeds_is_of_one_recipe_setting_arm_and_rung() -> None:
    own = {"rung": "cpu", "recipe": "simsiam", "setting": "ab", "arm": "standard"}
    others = [own | {"rung": "gpu"}, own | {"recipe": "simclr"}, own | {"setting": "cd"}, own | {"arm": "hvs"}]
    runs = pd.DataFrame([each | {"run": f"{i}"} for i, each in enumerate([own, *others, own])])
    assert list(rules.same_arm(runs, own)["run"]) == ["0", "5"]
    assert sorted(tuple(group["run"]) for group in rules.each_arm(runs)) == [("0", "5"), ("1",), ("2",), ("3",), ("4",)]
    measured_on = runs.assign(features=["a", "a", "a", "a", "a", "b"])
    assert all(len(group) == 1 for group in rules.each_arm(measured_on, "features"))
