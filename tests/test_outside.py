"""Methods and strategies of a reader's own: from a file, a notebook cell or an installed package."""

import json
import linecache
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_runs import small_run

import hardlab
from hardlab import build, cli, config, contracts, process, recipes, registry, run_folder, signatures, train
from hardlab.analysis import catalog
from hardlab.config import Spec
from hardlab.hard.base import Hard
from hardlab.hard.hvs import HVS
from hardlab.types import HardlabError

STRATEGY = '''
from hardlab.hard.base import Hard


class Louder(Hard):
    """Adds the loss once more."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weights = {"louder": weight}

    def terms(self, step):
        return {"louder": FACTOR * step.out.loss}
'''
METHOD = '''
from hardlab import losses
from hardlab.methods.base import Method
from hardlab.nets import mlp


class Siamese(Method):
    """SimSiam without a predictor."""

    shared = vectors = True

    def __init__(self, backbone, dim: int = 32) -> None:
        super().__init__(backbone)
        self.head = mlp(self.features, dim)

    def both(self, x, index):
        z = self.head(self.pooled(x))
        return z, z.detach()

    def loss(self, q, t, group=None):
        return losses.cosine(q, t)
'''


pytestmark = pytest.mark.usefixtures("registered")


def written(folder, text, name="my_code.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def louder(tmp_path):
    return written(tmp_path, STRATEGY.replace("FACTOR", "1"))


def smoke(name="simsiam", **more):
    return small_run(name, **{"epochs": 1, "batch_size": 64, **more})


def test_a_file_gives_its_strategy_a_name_a_recipe_and_options_that_are_checked(louder):
    assert build.load(louder) == [("strategy", "louder")]
    run = recipes.recipe("simclr-louder", "smoke", {"hard.louder.weight": 2})
    assert (run.method.name, run.hard[0].name, run.hard[0].options) == ("simclr", "louder", {"weight": 2})
    more = recipes.recipe("moco-mochi-louder", "smoke")
    assert [s.name for s in more.hard] == ["mochi", "louder"] and more.hard[0] == recipes.recipe("moco-mochi").hard[0]
    with pytest.raises(HardlabError, match="Did you mean 'weight'"):
        recipes.recipe("simclr-louder", "smoke", {"hard.louder.wight": 2})


def test_a_method_from_a_file_has_a_recipe_at_every_rung_and_takes_every_strategy_that_goes_with_it(tmp_path):
    build.load(written(tmp_path, METHOD, "other_code.py"))
    for rung in recipes.RUNGS:
        assert recipes.recipe("siamese", rung).method.name == "siamese"
    build.check(recipes.recipe("siamese-hvs", "smoke"))
    assert build.refusal("siamese", recipes.recipe("moco-mochi").hard[0]) is not None


def test_an_edited_class_is_another_run_and_a_configuration_made_before_the_edit_is_refused(louder, tmp_path):
    build.load(louder)
    before = recipes.recipe("simsiam-louder", "smoke")
    assert before.hard[0].source == registry.source("strategy", "louder")
    build.check(before)
    written(tmp_path, STRATEGY.replace("FACTOR", "3"))
    build.load(louder)
    after = recipes.recipe("simsiam-louder", "smoke")
    assert before.hash != after.hash
    build.check(after)
    with pytest.raises(HardlabError, match=f"this run's is {before.hard[0].source}: it has been edited since"):
        build.check(before)


def test_hardlabs_own_code_has_no_digest_so_that_runs_keep_their_names():
    run = recipes.recipe("simsiam-hvs")
    assert run.hard[0].source is None
    assert "source" not in json.dumps(run.model_dump(mode="json"))


def test_hardlab_train_takes_a_strategy_as_made_and_the_manifest_has_its_source(louder, tmp_path):
    build.load(louder)
    made = registry.find("strategy", "louder")
    say = []
    path = hardlab.train(smoke(), tmp_path / "runs", hard=[made(weight=0.25), "hvs"], device="cpu", say=say.append)
    about = run_folder.manifest(path)
    assert about["state"] == "done"
    first, second = about["config"]["hard"]
    assert first == {"name": "louder", "options": {"weight": 0.25}, "source": registry.source("strategy", "louder")}
    assert second == {"name": "hvs", "options": {}}
    last = run_folder.metrics(path, "epoch")[-1]
    assert last["terms"]["louder"] == pytest.approx(last["terms"]["base"])
    assert run_folder.open_run(path)[0].hard[0].name == "louder"


def test_hardlab_train_equals_the_same_run_from_the_registry(tmp_path):
    quiet = {"device": "cpu", "say": lambda line: None}
    by_object = hardlab.train(smoke(), tmp_path / "a", hard=[HVS(draws=3)], **quiet)
    by_name = train.train(smoke(hard=[{"name": "hvs", "options": {"draws": 3}}]), tmp_path / "b", **quiet)
    assert by_object.name == by_name.name
    rows = [[r["terms"] for r in run_folder.metrics(p, "epoch")] for p in (by_object, by_name)]
    assert rows[0] == rows[1]


def test_a_process_of_its_own_trains_the_same_run_from_the_same_file(louder, tmp_path):
    build.load(louder)
    run = smoke(hard=["louder"])
    here = train.train(run, tmp_path / "here", device="cpu", say=lambda line: None)
    there = process.launch(run, tmp_path / "there", device="cpu", threads=1)
    assert here.name == there.name
    rows = [[r["terms"] for r in run_folder.metrics(p, "epoch")] for p in (here, there)]
    assert rows[0] == rows[1] and "louder" in rows[0][0]


def test_a_process_of_its_own_refuses_the_class_of_a_cell_before_it_starts(tmp_path):
    text = STRATEGY.replace("FACTOR", "1")
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(True), "<cell>")
    cell = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), cell)
    run = smoke(hard=[build.spec("strategy", cell["Louder"]).model_dump()])
    with pytest.raises(HardlabError, match=r"'louder' is defined in a cell.*hardlab\.load"):
        process.launch(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_code_is_not_loaded_says_how_to_load_it(louder, tmp_path):
    build.load(louder)
    path = hardlab.train(smoke(), tmp_path / "runs", hard=["louder"], device="cpu", say=lambda line: None)
    del registry.HARD["louder"]
    with pytest.raises(HardlabError, match=r"'louder' is your own code and is not loaded.*--code FILE"):
        run_folder.open_run(path)


def test_a_class_of_a_notebook_cell_is_known_by_its_own_text_alone(tmp_path):
    """In a process of its own, as a cell is: compiled under a name that only linecache knows."""
    script = written(
        tmp_path,
        """
        import linecache, sys
        import hardlab
        from hardlab import build, registry

        CELL = '''
        from hardlab.hard.base import Hard
        class Own(Hard):
            \"\"\"A cell's.\"\"\"
            def logs(self, step):
                return {"one": %s}
        seed = %s
        '''

        def digest(value, seed, i):
            text = CELL % (value, seed)
            name = f"<cell {i}>"
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)
            exec(compile(text, name, "exec"), globals())
            return build.spec("strategy", Own), registry.source("strategy", "own")

        sources = [digest(1, 0, 0), digest(1, 5, 1), digest(2, 0, 2)]
        assert sources[0][0].name == "own"
        print(*[source for _, source in sources])
        """,
        "cell.py",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    one, seed, two = done.stdout.split()
    assert one == seed != two and len(one) == 16


def test_a_run_of_a_script_is_the_run_of_the_same_file_when_it_is_loaded_until_it_is_edited(tmp_path):
    """In a process of its own, as a script is; a decorated first function is compiled in a file of torch's."""
    main = """
    if __name__ == "__main__":
        from hardlab import build, recipes
        hard = [build.spec("strategy", Louder(0.25)).model_dump()]  # as hardlab.train(run, hard=[Louder(0.25)]) does
        print(recipes.recipe("simsiam", "smoke").with_({"hard": hard}).model_dump_json())
    """
    text = STRATEGY.replace("FACTOR", "1").replace("    def __init__", "    @torch.no_grad()\n    def __init__")
    text = "import torch\n" + text + textwrap.dedent(main)
    script = written(tmp_path, text, "script_code.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    build.load(script)
    run = config.make(json.loads(done.stdout))
    assert run.hard[0].options == {"weight": 0.25}
    build.check(run)
    script.write_text(text + "\n# edited\n")
    build.load(script)
    with pytest.raises(HardlabError, match="it has been edited since"):
        build.check(run)


def test_a_class_without_a_text_to_tell_its_versions_apart_by_is_refused():
    bare = type("Bare", (Hard,), {"__module__": "__main__"})
    with pytest.raises(HardlabError, match="The source of Bare cannot be read"):
        signatures.texts(bare)


def test_a_name_that_is_taken_is_refused(tmp_path):
    taken = STRATEGY.replace("class Louder", "class HVS").replace("FACTOR", "1")
    with pytest.raises(HardlabError, match="The strategy 'hvs' already exists"):
        build.load(written(tmp_path, taken, "taken_code.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("import nothing_of_that_name", "cannot be run: ModuleNotFoundError"), ("x = 1", "defines no method or str")],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(text, message, tmp_path):
    with pytest.raises(HardlabError, match=message):
        build.load(written(tmp_path, text, "bad_code.py"))
    with pytest.raises(HardlabError, match="is not a Python file"):
        build.load(tmp_path / "nothing.py")


def test_an_installed_package_is_found_through_its_entry_points(tmp_path):
    """In a process of its own: the tables are made when the registry is loaded."""
    written(tmp_path, STRATEGY.replace("FACTOR", "1"), "a_package.py")
    about = tmp_path / "a_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[hardlab.strategies]\nmuch-louder = a_package:Louder\nhvs = a_package:Louder\nstale = another:Gone\n"
    )
    code = """
import sys
from hardlab import errors, recipes
run = recipes.recipe("simsiam-much-louder", "smoke", {"hard.much-louder.weight": 2})
print(run.hard[0].source, "torch" in sys.modules, recipes.recipe("simsiam-hvs").hard[0].source)
try:
    recipes.recipe("simsiam-stale")
except errors.HardlabError as e:
    print("installed package 'a-package' cannot be used: ModuleNotFoundError" in str(e))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    )
    digest, loaded, own, blamed = done.stdout.split()
    assert len(digest) == 16 and loaded == "False" and own == "None" and blamed == "True"


GONE = [  # how an entry of an installed package can be unusable, and what is said of it
    ("nothing_of_that_name:Gone", "ModuleNotFoundError"),
    ("nothing_of_that_name.inner:Gone", "ModuleNotFoundError"),
    ("stale_code:Gone", "AttributeError"),
    ("slip_code:Gone", "SyntaxError"),
]


@pytest.fixture
def packaged(monkeypatch, tmp_path):
    """Makes an entry of an installed package; two modules are there, without what the entries name."""
    monkeypatch.syspath_prepend(tmp_path)
    written(tmp_path, "x = 1", "stale_code.py")
    written(tmp_path, "def", "slip_code.py")

    def add(kind, name, path):
        monkeypatch.setitem(registry.TABLES[kind], name, path)
        monkeypatch.setitem(registry._packages, (kind, name), "a-package")

    return add


@pytest.mark.parametrize(("path", "error"), GONE)
@pytest.mark.parametrize("kind", ["method", "strategy"])
def test_an_entry_of_a_package_that_cannot_be_imported_is_refused_with_the_packages_name(kind, path, error, packaged):
    packaged(kind, "gone", path)
    message = rf"The {kind} 'gone' \({path}\) of the installed package 'a-package' cannot be used: {error}"
    for ask in (registry.find, registry.options):
        with pytest.raises(HardlabError, match=message):
            ask(kind, "gone")
    with pytest.raises(HardlabError, match=message):
        recipes.recipe("gone" if kind == "method" else "simsiam-gone")


def test_an_entry_that_cannot_be_imported_does_not_harm_the_others(louder, packaged, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "METHODS", {"simsiam": registry.METHODS["simsiam"]})
    monkeypatch.setattr(registry, "HARD", {"mochi": registry.HARD["mochi"]})
    monkeypatch.setattr(registry, "TABLES", registry.TABLES | {"method": registry.METHODS, "strategy": registry.HARD})
    packaged("method", "gone", "nothing_of_that_name:Gone")
    packaged("strategy", "lost", "stale_code:Lost")
    words = ["pretrain", "simsiam-mochi", "--dry-run", "--runs", str(tmp_path)]
    refused = CliRunner().invoke(cli.cli, words)  # the hint tries every method
    assert refused.exit_code == 2 and "keeps none of its own" in refused.output
    assert "a-package" in build.refusal("gone", Spec(name="mochi"))
    assert "a-package" in build.matrix()["simsiam", "lost"]
    good = CliRunner().invoke(cli.cli, ["check", str(louder)])
    assert good.exit_code == 0, good.output
    assert "refuses It takes steps with gone: The method 'gone'" in good.output


def test_a_run_of_a_strategy_whose_package_is_gone_is_still_told_apart(packaged):
    packaged("strategy", "gone", "nothing_of_that_name:Gone")
    arm = catalog.arm({"epochs": 1, "hard": [{"name": "gone", "options": {"weight": 2}, "source": "a1"}]})
    assert arm == "gone weight=2 source=a1"


# -------------------------------------------------------------------------------------------------- contracts, broken


def broken(tmp_path, change, kind="strategy"):
    """The verdicts that do not hold of STRATEGY or METHOD with one change, with simsiam alone."""
    text = (STRATEGY if kind == "strategy" else METHOD).replace("FACTOR", "1")
    old, new = change
    assert old in text
    ((_, name),) = build.load(written(tmp_path, text.replace(old, new), "broken_code.py"))
    own = contracts.METHOD if kind == "method" else contracts.STRATEGY
    verdicts = [contracts._judged(contracts.sentence(c), c, name) for c in own]
    if kind == "strategy":
        verdicts.append(contracts._judged("steps", contracts.steps_with, name, "simsiam"))
    return [v.detail for v in verdicts if v.holds is False]


HOOK = "    def terms(self, step):\n"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("strategy", ('"""Adds the loss once more."""', "pass"), "it has no docstring"),
        ("strategy", ("weight: float", "weight"), "without a type: weight"),
        ("strategy", (HOOK, f"    def install(self, method):\n        raise ValueError\n\n{HOOK}"), "ValueError"),
        ("strategy", (HOOK, f"    def logs(self, step):\n        return {{'x': float('nan')}}\n\n{HOOK}"), "x is nan"),
        ("strategy", (HOOK, f"    def logs(self, step):\n        return {{'x': 'much'}}\n\n{HOOK}"), "x is 'much'"),
        ("strategy", ("def terms", "def term"), "`term` is no hook: did you mean `terms`?"),
        ("strategy", (HOOK, f"    def after_steps(self, step):\n        pass\n\n{HOOK}"),
         "`after_steps` is no hook: did you mean `after_step`?"),
        ("strategy", (HOOK, f"    def term(self, step):\n        pass\n\n{HOOK}"), None),  # it has the hook as well
        ("strategy", ("def terms", "def addend"), "it does nothing: it overrides none of after_step, "),
        ("method", ("    def loss", "    def on_epochs(self, at, images, look):\n        pass\n\n    def loss"),
         "`on_epochs` is no hook: did you mean `on_epoch`?"),
        ("strategy", ("1 * step.out.loss", "step.out.loss.mean()"),
         "Strategy 'louder': its term 'louder' has shape (); it must be (N,), a loss per image."),
        ("strategy", ("1 * step.out.loss", "step.out.loss[:, None]"), "its term 'louder' has shape (8, 1); it must be"),
        ("strategy", ("1 * step.out.loss", "2.0"), "its term 'louder' is a float; it must be a tensor (N,)"),
        ("method", ("losses.cosine(q, t)", "losses.cosine(q, t).mean()"),
         "Method 'siamese': its loss has shape (); it must be (N,), a loss per image."),
        ("strategy", ("1 * step.out.loss", "step.out.loss * float('nan')"), "loss of the learner is not finite"),
        ("strategy", (HOOK, f"    def snapshot(self, images, look):\n        return {{'x': 1}}\n\n{HOOK}"),
         "snapshot: 'x' is int"),
        ("strategy", (HOOK, f"    def after_step(self, step):\n        self.n = getattr(self, 'n', 0) + 1\n\n{HOOK}"),
         None),
        ("strategy", ('{"louder": 1 * step.out.loss}', "{'louder': step.out.loss * getattr(self, 'n', 1)}\n\n"
                      "    def after_step(self, step):\n        self.n = getattr(self, 'n', 1) + 1"),
         "keep what a step changes in a buffer"),
        ("method", ("losses.cosine(q, t)", "losses.cosine(q, t).mean()"), "has the shape"),
        ("method", ("losses.cosine(q, t)", "losses.cosine(q, t) + q.mean()"), "mixes_rows is False"),
        ("method", ("shared = vectors = True", "shared = vectors = mixes_rows = True"), "mixes_rows is True"),
        ("method", ("mlp(self.features, dim)", "mlp(self.features, dim)\n        self.other = mlp(dim, dim)"),
         "no gradient reaches other.0.weight"),
        ("method", ("z = self.head(self.pooled(x))", "z = self.head(self.pooled(x)); self.head[0].weight.data += 1"),
         "forward changed head.0.weight"),
        ("method", ("losses.cosine(q, t)", "0 * losses.cosine(q, t)"), "the gradient is zero in every weight"),
    ],
)  # fmt: skip
def test_a_broken_contract_is_told(kind, change, message, tmp_path):
    complaints = broken(tmp_path, change, kind)
    assert complaints == [] if message is None else any(message in line for line in complaints), complaints


def test_a_loss_that_is_not_finite_with_some_methods_is_no_refusal_of_them(tmp_path):
    some = "float('nan') if step.method.negatives is not None else 1"
    build.load(written(tmp_path, STRATEGY.replace("FACTOR", f"({some})"), "some_code.py"))
    verdicts = {m: contracts._judged("", contracts.steps_with, "louder", m) for m in ("moco", "simsiam")}
    assert verdicts["simsiam"].holds is True
    assert verdicts["moco"].holds is False and "not finite" in verdicts["moco"].detail


def test_state_that_is_not_saved_is_told_whatever_the_method(tmp_path):
    """A strategy that takes the loss of the method times the number of steps so far, which it does not save."""
    forgetful = "    def after_step(self, step):\n        self.n = getattr(self, 'n', 1) + 1\n\n"
    text = STRATEGY.replace("FACTOR", "getattr(self, 'n', 1)").replace(HOOK, forgetful + HOOK)
    build.load(written(tmp_path, text, "forgetful_code.py"))
    verdicts = {m: contracts._judged("", contracts.steps_with, "louder", m) for m in registry.METHODS}
    assert [m for m, v in verdicts.items() if "keep what a step changes in a buffer" not in v.detail] == []


@pytest.mark.parametrize("hook", ["install(self, method)", "on_start(self, images, batch_size)",
                                  "check_steps(self, steps, epochs)", "views(self, step)"])  # fmt: skip
def test_a_strategy_that_refuses_every_method_fails(hook, tmp_path):
    shy = f"    def {hook}:\n        raise HardlabError('It is not to my taste, thank you.')\n\n{HOOK}"
    text = "from hardlab.types import HardlabError\n" + STRATEGY.replace("FACTOR", "1").replace(HOOK, shy)
    build.load(written(tmp_path, text, "shy_code.py"))
    with pytest.raises(contracts.Broken, match="it steps with no method, with byol: It is not to my taste"):
        contracts.goes_with_some_method("louder")


def test_replacing_negatives_without_saying_so_is_told(tmp_path):
    wrap = (
        "    def install(self, method):\n"
        "        if method.negatives is None:\n"
        "            raise HardlabError('It needs negatives.')\n"
        f"        method.negatives = Around(method.negatives)\n\n{HOOK}"
    )
    text = STRATEGY.replace("FACTOR", "1").replace(HOOK, wrap)
    text = "from hardlab.types import HardlabError\nfrom hardlab.negatives import Around\n" + text
    build.load(written(tmp_path, text, "wrap_code.py"))
    with pytest.raises(contracts.Broken, match="set owns_loss = True"):
        contracts.says_that_it_replaces("louder")


WRAPPER = '''
import torch
from hardlab.hard.base import Hard
from hardlab.negatives import Negatives
from hardlab.types import HardlabError


class Doubled(Negatives):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def similarities(self, q, k):
        kept = self.queue.similarities(q, k)
        return torch.cat([kept, kept.amax(1, keepdim=True)], dim=1)


class Wrapper(Hard):
    """The nearest negative counts twice."""

    owns_loss = True

    def install(self, method):
        if method.negatives is None or not len(method.negatives.stored()):
            raise HardlabError("It takes the nearest of a queue, and there is none.")
        method.negatives = Doubled(method.negatives)
'''


def test_negatives_that_hold_a_queue_answer_for_it_whatever_their_class(tmp_path):
    path = written(tmp_path, WRAPPER, "wrapper_code.py")
    build.load(path)
    contracts.answers_for_what_it_wraps("wrapper")
    contracts.steps_with("wrapper", "moco")
    method = contracts.make("moco")
    queue = method.negatives
    registry.build("strategy", "wrapper", {}).install(method)
    assert torch.equal(method.negatives.stored(), queue.keys) and method.negatives.snapshot().keys() == {
        "negatives",
        "ages",
    }
    keys = torch.nn.functional.normalize(torch.randn(4, method.dim), dim=1)
    method.negatives.enqueue(keys)
    assert torch.equal(queue.keys[:4], keys) and int(queue.next) == 4
    words = ["pretrain", "moco-wrapper", "--code", str(path), "--dry-run", "batch_size=96", "method.queue=1000"]
    refused = CliRunner().invoke(cli.cli, words)
    assert refused.exit_code == 2 and "method.queue=1000 is not a multiple of the 96 keys" in refused.output


SETS = "self.queue = queue"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(SETS, f"{SETS}\n\n    def check(self, batch_size, keys):\n        pass")],
         "moco refuses batches of 3 images, but not with this strategy"),
        ([(SETS, f"{SETS}\n\n    def snapshot(self):\n        return {{}}")],
         "the snapshots of moco no longer have negatives"),
        ([(SETS, "self.hidden = (queue,)"), ("self.queue.", "self.hidden[0].")],  # no module is found in a tuple
         "the snapshots of moco no longer have negatives"),
    ],
)  # fmt: skip
def test_negatives_that_lose_what_a_queue_checks_or_shows_are_told(changes, message, tmp_path):
    text = WRAPPER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    build.load(written(tmp_path, text, "wrapper_code.py"))
    with pytest.raises(contracts.Broken, match=message):
        contracts.answers_for_what_it_wraps("wrapper")


def test_what_is_the_same_with_several_methods_is_told_in_one_line(louder, monkeypatch):
    monkeypatch.setattr(contracts, "STRATEGY", (contracts.strategy_says_what_it_is,))
    names = ("byol", "simsiam", "vicreg")
    monkeypatch.setattr(registry, "METHODS", {name: registry.METHODS[name] for name in names})
    good = CliRunner().invoke(cli.cli, ["check", str(louder)])
    assert good.output.splitlines()[-1] == "  holds   It takes steps with byol, simsiam, vicreg (3 methods)"
    louder.write_text(STRATEGY.replace("FACTOR * step.out.loss", "step.out.loss.mean()"))
    bad = CliRunner().invoke(cli.cli, ["check", str(louder)])
    fault = "Strategy 'louder': its term 'louder' has shape (); it must be (N,), a loss per image."
    line = f"  BROKEN  It takes steps with byol, simsiam, vicreg (3 methods): {fault}"
    assert bad.exit_code == 1 and bad.output.splitlines()[2:] == [line]
    each = json.loads(CliRunner().invoke(cli.cli, ["check", str(louder), "--json"]).output)["strategy louder"]
    assert [v["contract"] for v in each[1:]] == [f"It takes steps with {name}" for name in names]


def test_the_command_says_what_holds_and_ends_with_1_where_something_is_broken(louder, monkeypatch):
    monkeypatch.setattr(contracts, "STRATEGY", (contracts.strategy_says_what_it_is,))
    monkeypatch.setattr(registry, "METHODS", {"simsiam": registry.METHODS["simsiam"]})
    good = CliRunner().invoke(cli.cli, ["check", str(louder)])
    assert good.exit_code == 0, good.output
    assert "strategy louder\n  holds   It is a `Hard`" in good.output and "It takes steps with simsiam" in good.output
    louder.write_text(louder.read_text().replace('"""Adds the loss once more."""', "pass"))
    bad = CliRunner().invoke(cli.cli, ["check", str(louder)])
    assert bad.exit_code == 1 and "BROKEN  It is a `Hard`" in bad.output
    assert CliRunner().invoke(cli.cli, ["check", "nothing.py"]).exit_code == 2


def test_the_command_line_trains_code_from_a_file(louder, tmp_path):
    words = ["pretrain", "simsiam-louder", "--code", str(louder), "--dry-run", "--runs", str(tmp_path)]
    done = CliRunner().invoke(cli.cli, words)
    assert done.exit_code == 0, done.output
    assert '"source": "' in done.output and "louder" in done.output


def test_the_example_of_the_page_on_adding_keeps_its_contracts(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
    examples = [text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "(Hard):" in text]
    for text, name, method in zip(examples, ("confident", "notwins"), ("simclr", "moco"), strict=True):
        assert build.load(written(tmp_path, text, f"{name}_code.py")) == [("strategy", name)]
        for contract in contracts.STRATEGY:
            contract(name)
        contracts.steps_with(name, method)
    for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", page):
        assert recipes.recipe(name, "smoke").hard


def test_the_negatives_of_the_page_on_adding_are_a_loop_over_those_that_are_not_too_near(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
    build.load(written(tmp_path, re.search(r"```python\n# my_negatives.py\n(.*?)```", page, re.S)[1], "page_code.py"))
    method = contracts.make("moco")
    q, k = (torch.nn.functional.normalize(torch.randn(4, method.dim), dim=1) for _ in range(2))
    keys = method.negatives.keys
    keys[0] = q[1]
    registry.build("strategy", "notwins", {"most": 0.95}).install(method)
    for i, loss in enumerate(method.loss(q, k)):
        far = [float(q[i] @ n) for n in keys if float(q[i] @ n) <= 0.95]
        assert len(far) == len(keys) - (i == 1)
        logits = torch.tensor([float(q[i] @ k[i]), *far]) / method.temperature
        assert loss == pytest.approx(float(torch.logsumexp(logits, 0) - logits[0]), rel=1e-5)
