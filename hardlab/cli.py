"""The command line. Exit status: 0 done, 1 failed, 2 wrong usage, 75 stopped on request and able to continue."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

# each command imports what it needs inside its function, and torch only after all checks that do not need it, so that
# help, lists and refusals answer at once; tests/test_quick.py names what they may not load


def _known_rung(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    from hardlab import recipes, registry

    with usage():
        if value is not None and value not in recipes.RUNGS:
            raise registry.unknown("rung", value, recipes.RUNGS)
    return value


def _few_threads(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    from hardlab import config

    with usage():
        return config.threads(value, option.opts[0])


class _Path(click.Path):
    """A path that is not empty, because an empty one (an unset variable) would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("It is empty: name a file or a folder.", param, ctx)
        return super().convert(os.path.expanduser(value), param, ctx)  # no shell expands the tilde of --runs=~/runs


PATH = _Path(path_type=Path)
RUNS = click.option("--runs", "runs_dir", type=PATH, default=Path("runs"), show_default=True,
                    help="Folder of the runs.")  # fmt: skip
ROOT = click.option("--root", type=PATH, default=None,
                    help="Folder of the data sets; default: HARDLAB_DATA, else your cache.")  # fmt: skip
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
THREADS = click.option("--threads", type=int, default=None, callback=_few_threads,
                       help="CPU threads; default: all cores.")  # fmt: skip
CODE = click.option("--code", multiple=True, type=PATH, metavar="FILE",
                    help="Load your own methods and strategies from this file; repeatable.")  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
DRY = click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
RUNG = click.option("--rung", default="smoke", show_default=True, callback=_known_rung,
                    help="smoke, cpu, gpu or paper.")  # fmt: skip


HERE = Path("figures/data")  # the collected tables of a checkout or of a folder of one's own


def _collected() -> Path:
    """The tables of the current folder, else those that come with hardlab."""
    package = Path(__file__).resolve().parent
    known = (HERE, package / "tables", package.parent / HERE)  # the second of a wheel, the third of a checkout
    return next((folder for folder in known if any(folder.glob("*.csv"))), HERE)


def _tables(text: str) -> Any:
    return click.option("--data", "data_dir", type=PATH, default=None,
                        callback=lambda context, option, value: value or _collected(),
                        help=f"{text} Default: {HERE}, else those that come with hardlab.")  # fmt: skip


@contextmanager
def usage() -> Iterator[None]:
    """Turn every ``HardlabError`` inside into a usage error: exit status 2."""
    from hardlab.errors import HardlabError

    try:
        yield
    except HardlabError as e:
        raise click.UsageError(str(e)) from None
    except OSError as e:
        raise click.UsageError(_of_system(e)) from None


def _of_system(error: OSError) -> str:
    """A sentence on an error of the system, such as a name that is too long, a loop of links, or a full disk."""
    name = str(error.filename or "the output")
    short = name if len(name) <= 120 else f"{name[:90]}...{name[-20:]}"
    return f"'{short}' cannot be used ({error.strerror or error})."


def _load(code: Sequence[Path]) -> None:
    """Register the methods and strategies that these files define."""
    if code:
        from hardlab import registry

        with usage():
            for path in code:
                registry.check_file(path)
            from hardlab import build

            for path in code:
                build.load(path)


def _echo(as_json: bool, plain: str, value: Any) -> None:
    click.echo(json.dumps(value, indent=1, default=str) if as_json else plain)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hardlab")
def cli() -> None:
    """Which examples are hard for a self-supervised model, and does training on them help?

    Exit status: 0 done, 1 failed, 2 wrong usage, 75 stopped on request (the same command continues).
    """
    from hardlab import config

    with usage():
        config.environment()


def _completed_recipe(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Recipes that begin like this, for the shell."""
    from hardlab import recipes

    return [name for name in recipes.RECIPES if name.startswith(incomplete)]


@cli.command()
@click.argument("recipe", required=False, shell_complete=_completed_recipe)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@RUNG
@RUNS
@ROOT
@DEVICE
@THREADS
@JSON
@DRY
@click.option("--protocol", "protocols", multiple=True,
              help="Then evaluate with this protocol, as `hardlab evaluate` does; repeatable.")  # fmt: skip
@click.option("--pixels", is_flag=True, help="With --protocol: run the same protocols on raw pixels too.")
@click.option("--anew", is_flag=True, help="Start over; move an existing run to RUNS/.replaced.")
@click.option("--devices", type=click.IntRange(1, 1024), default=1, show_default=True,
              help="Train in this many processes together, each with a GPU of its own or its share of the cores "
              "(docs/ranks.md).")  # fmt: skip
@click.option("--list", "list_", is_flag=True, help="List the recipes and exit.")
@click.option("--data", "folder", type=PATH, default=None,
              help="Train on all images of this folder, with or without classes and splits, with settings derived from "
              "it (docs/data.md).")  # fmt: skip
@CODE
def pretrain(
    recipe: str | None,
    overrides: tuple[str, ...],
    folder: Path | None,
    rung: str,
    runs_dir: Path,
    root: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    dry_run: bool,
    protocols: tuple[str, ...],
    pixels: bool,
    anew: bool,
    devices: int,
    list_: bool,
    code: tuple[Path, ...],
) -> None:
    """Train a recipe.

    A finished run is reused; a stopped one continues exactly where it stopped. If the images have changed since, both
    are refused; --anew starts a new run.

    Example: `hardlab pretrain simsiam-hvs --rung cpu seed=1 hard.hvs.draws=8`
    """
    from hardlab import compatible, config, data, files, recipes

    _load(code)
    if list_:
        summaries = {name: (make.__doc__ or "").splitlines()[0] for name, make in recipes.RECIPES.items()}
        wide = max(map(len, summaries))
        lines = [f"{name:{wide}}  {text.removeprefix(f'{name}: ')}" for name, text in summaries.items()]
        lines.append("The later edition of HVS calls it HVP: '-hvp' in a name stands for '-hvs'.")
        _echo(as_json, "\n".join(lines), summaries)
        return
    if recipe is None:
        raise click.UsageError("Name a recipe; `hardlab pretrain --list` lists them.")
    with usage():
        given = config.settings(overrides, ("recipe", "rung"))
        run = recipes.recipe(recipe, rung, None if folder else given)
        config.device(device)
        if folder is not None:
            data.check_folder(f"folder:{folder}")
            from hardlab import own_images

            fitted = own_images.fit(run, folder, given)
            run = run.with_(fitted.settings | given)
            click.echo("\n".join(fitted.lines), err=True)
        if protocols:
            from hardlab.evaluate import published

            for name in protocols:
                published.settings(name, {})
                published.check_backbone(name, run.backbone.name)
        elif pixels:
            raise click.UsageError("--pixels needs --protocol: name a protocol.")
        compatible.check(run)
        data.check_folder(run.data.name)
        files.check_folder(runs_dir / run.id)
        from hardlab import build, execution, machine

        machine.alone()
        build.check(run)
        execution.check(run.execution, build.device(device), devices)
        if devices > 1:
            from hardlab import process

            process.check_devices(run, devices, device)
    if dry_run:
        from hardlab import run_folder
        from hardlab.evaluate import runner

        with usage():
            images = build.check_images(run, root)
            manifest = None if anew else run_folder.manifest(runs_dir / run.id)
            if manifest and images is not None and (run.data.on_broken == "error" or images.in_memory):
                run_folder.check_images(run.id, manifest.get("data", {}), images)
            runner.check(run, protocols, root=root)
        rest = f", then evaluate it by {', '.join(protocols)}" if protocols else ""
        rest += "" if images is not None else f"; {run.data.name} would be downloaded first"
        _echo(as_json, f"would train {run.id}{rest}\n{run.model_dump_json(indent=1)}", run.model_dump(mode="json"))
        return
    import torch

    from hardlab import process, run_folder, train

    machine.keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    if devices > 1:
        path = process.together(run, runs_dir, devices, root=root, device=device, threads=threads, anew=anew, code=code)
    else:
        path = train.train(run, runs_dir, root=root, device=device, anew=anew)
    _echo(as_json, str(path), run_folder.manifest(path))
    if folder is not None:
        click.echo(f"Which images and views are hard, and why: `hardlab explore {path}`", err=True)
    if protocols:
        from hardlab.evaluate.runner import evaluate_run

        rows = evaluate_run(path, protocols, pixels=pixels, root=root, device=device)
        click.echo(_rows_as_text(rows), err=as_json)


@cli.command("evaluate")
@click.argument("run", nargs=-1, type=PATH)
@click.option("--protocol", "protocols", multiple=True, default=("knn", "linear-lbfgs"), show_default=True,
              help="Evaluate by this protocol; repeatable.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Override a published setting, e.g. epochs=10, network=student, size=224.")  # fmt: skip
@click.option("--data", default=None, help="Evaluate on this data set instead of the run's own.")
@click.option("--checkpoint", default="newest", show_default=True,
              help="newest, a step number, or all; rows of the latter two go to curves.jsonl.")  # fmt: skip
@click.option("--pixels", is_flag=True, help="Run the same protocols on raw pixels too.")
@click.option("--list", "list_", is_flag=True, help="List the protocols with their published settings and exit.")
@click.option("--anew", is_flag=True, help="Set rows that were measured on other images than are there now aside.")
@CODE
@ROOT
@DEVICE
@THREADS
@JSON
@DRY
def evaluate_runs(
    run: tuple[Path, ...],
    protocols: tuple[str, ...],
    settings: tuple[str, ...],
    data: str | None,
    checkpoint: str,
    pixels: bool,
    list_: bool,
    anew: bool,
    code: tuple[Path, ...],
    root: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Evaluate the networks of runs.

    The results are printed and appended to the results.jsonl of each run.

    Example: `hardlab evaluate runs/<id> --protocol linear --data cifar100 --set epochs=10`
    """
    from hardlab import compatible, config
    from hardlab.checkpoint import check_step
    from hardlab.data import SETS, check_folder, path_of
    from hardlab.evaluate import published
    from hardlab.registry import unknown

    _load(code)
    if list_:
        _echo(as_json, published.describe(), {name: p.settings for name, p in published.PROTOCOLS.items()})
        return
    if not run:
        raise click.UsageError("Name the folder of a run; `hardlab evaluate --list` lists the protocols.")
    if checkpoint not in ("newest", "all") and not checkpoint.isdecimal():
        raise click.UsageError(f"--checkpoint must be newest, all or a step number, not '{checkpoint}'.")
    with usage():
        options = config.parse(settings) | ({} if data is None else {"data": data})
        for name in protocols:
            published.settings(name, options)
        asked = options.get("data")
        if asked is not None and path_of(asked) is None and asked not in SETS:
            raise unknown("data set", asked, [*SETS, "folder:PATH", "pack:PATH"])
        check_folder(asked or "")
        for path in run:  # a wrong last name is reported before the first run is measured
            trained, _ = config.read_run(path)
            for name in protocols:
                published.check_backbone(name, trained.backbone.name)
                compatible.check_network(trained, published.settings(name, options)["network"])
            if checkpoint.isdecimal():
                check_step(path, int(checkpoint))
        if config.device(device).startswith("cuda"):
            from hardlab import build

            build.device(device)
    if dry_run:
        from hardlab.evaluate import runner

        with usage():
            for path in run:
                runner.check_run(path, protocols, options=options, which=checkpoint, root=root)
        names = [str(path) for path in run]
        todo = {"runs": names, "protocols": list(protocols), "settings": options, "checkpoint": checkpoint,
                "pixels": pixels}  # fmt: skip
        _echo(as_json, f"would evaluate {', '.join(names)} by {', '.join(protocols)}", todo)
        return
    import torch

    from hardlab.evaluate.runner import evaluate_run, unknown_images

    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    checkpoints: Any = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    for path in run:
        rows += evaluate_run(
            path,
            protocols,
            options=options,
            pixels=pixels,
            checkpoints=checkpoints,
            root=root,
            device=device,
            anew=anew,
        )
        if silent := unknown_images(path):
            click.echo(
                f"{path.name}: its rows of {', '.join(silent)} do not say on which images they were measured; "
                "evaluate them again to know.", err=True,
            )  # fmt: skip
    _echo(as_json, _rows_as_text(rows), rows)


def _rows_as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per result, in columns."""
    columns = ("run", "step", "data", "features", "protocol", "metric")
    wide = {c: max((len(str(r.get(c, ""))) for r in rows), default=0) for c in columns}
    return "\n".join(
        "  ".join([*(f"{r.get(c, '')!s:{wide[c]}}" for c in columns if wide[c]), f"{r['value']:.4f}"]) for r in rows
    )


@cli.command("costs")
@click.argument("recipe", required=False, shell_complete=_completed_recipe)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--rung", default=None, callback=_known_rung,
              help="smoke, cpu, gpu or paper.  [default: gpu, with RECIPE smoke]")  # fmt: skip
@click.option("--card", default=80.0, show_default=True, type=click.FloatRange(min=0), metavar="GB",
              help="With RECIPE: the memory of a GPU to compare with.")  # fmt: skip
@JSON
def show_costs(recipe: str | None, overrides: tuple[str, ...], rung: str | None, card: float, as_json: bool) -> None:
    """Calculate GPU memory and GPU-hours of recipes.

    Without RECIPE, list those of all recipes of rung gpu, or of rung paper with --rung paper.

    E.g. `hardlab costs dino-resnet50 --rung paper backbone.recompute=true`. Memory is that of torch's tensors at the
    peak of a step: cuDNN's workspaces and the CUDA context add to it. Hours are at rates measured on one GPU, without
    the reading and decoding of images.
    """
    from hardlab import compatible, config, recipes
    from hardlab.workbook import recipe_costs as costs

    with usage():
        if recipe is None:
            rows = costs.table(rung or next(iter(costs.calculated()["rungs"])))
            wide = max(len(row["recipe"]) for row in rows)
            lines = [
                f"{'recipe':{wide}}  {'batch':>5}  {'peak, GB':>8}  {'GPU-hours':>9}  {'decoding, core-hours':>20}"
            ]
            for row in rows:
                cores = "-" if row["decoding_hours"] is None else f"{row['decoding_hours']:.3g}"
                numbers = f"{row['batch']:5}  {row['peak_gb']:8.1f}  {row['gpu_hours']:9.3g}  {cores:>20}"
                lines.append(f"{row['recipe']:{wide}}  {numbers}")
            lines.append(f"Memory is calculated. {costs.conditions()}")
            _echo(as_json, "\n".join(lines), rows)
            return
        run = recipes.recipe(recipe, rung or "smoke", config.settings(overrides, ("recipe", "rung")))
        compatible.check(run)
        from hardlab.workbook import memory

        cost = memory.calculate(run)
    images = run.epochs * memory.count(run)
    hours, device = costs.gpu_hours(run, images, cost.flops), costs.calculated()["device"]
    verdict = f"{'fits' if cost.peak <= card * 1e9 else 'does not fit'} a card of {card:g} GB"
    lines = [f"{name:38} {value / 1e9:8.2f} GB" for name, value in zip(costs.PARTS.values(), cost)]
    lines += [
        f"{'peak of a step':38} {cost.peak / 1e9:8.2f} GB, {verdict}",
        f"{images} images of {cost.flops / 1e9:.4g} GFLOP are {hours:.3g} GPU-hours of one {device}.",
        costs.conditions(),
    ]
    facts = cost._asdict() | {"peak": cost.peak, "fits": cost.peak <= card * 1e9, "gpu_hours": hours}
    _echo(as_json, "\n".join(lines), facts)


@cli.command("bench", short_help="Measure the training steps of a recipe on this machine.")
@click.argument("recipe", shell_complete=_completed_recipe)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@RUNG
@DEVICE
@THREADS
@click.option(
    "--compare",
    default=None,
    metavar="KEY=A,B,...",
    help="Measure each value of a setting and say which is fastest, e.g. channels_last=true,false.",
)
@click.option("--profile", is_flag=True, help="Also print where the time of a step goes.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Steps of a turn.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=7, show_default=True, help="Turns of each value.")
@click.option("--out", type=PATH, default=None, help="Append the results to bench.jsonl in this folder.")
@JSON
@DRY
def bench_recipe(
    recipe: str,
    overrides: tuple[str, ...],
    rung: str,
    device: str,
    threads: int | None,
    compare: str | None,
    profile: bool,
    steps: int,
    rounds: int,
    out: Path | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Measure the training steps of a recipe on this machine.

    Images/s of the unchanged trainer with a 95 % interval over turns, and peak memory, on the built-in images unless
    data=NAME is given. Exit status 1 if something could not be measured.

    Example: `hardlab bench simsiam-hvs --profile --compare execution=eager,compile`
    """
    from hardlab import config, data, files
    from hardlab.workbook import bench

    with usage():
        given = config.settings(overrides, ("recipe", "rung"))
        config.device(device)
        compared = None if compare is None else bench.comparison(compare)
        entered = bench.contestants(recipe, rung, given, bench.WARM + steps * rounds, compared, profile)
        data.check_folder(entered[0].run.data.name)
        if out is not None:
            files.check_folder(out)
    if dry_run:
        turns = f"{rounds} turns of {steps} steps"
        _echo(as_json, "\n".join(f"would measure {turns}: {e.name}" for e in entered), [e.run.id for e in entered])
        return
    bench.measure(entered, device, threads, steps, rounds)
    if out is not None:
        bench.write(out, entered)
    _echo(as_json, bench.describe(entered), bench.rows(entered))
    sys.exit(1 if any(e.error for e in entered) else 0)


@cli.group("data", short_help="Pack a folder of images for training, or check a pack.")
def handle_data() -> None:
    """Pack an image folder into a few large files for training, or check such a pack."""


@handle_data.command("pack")
@click.argument("folder", type=PATH)
@click.argument("out", type=PATH)
@click.option("--skip-broken", is_flag=True, help="Leave broken images out, up to 1 %, instead of stopping.")
@click.option("--threads", type=int, default=None, callback=_few_threads,
              help="Images decoded at once; default: one a core.")  # fmt: skip
@click.option("--shards", default=None, type=click.IntRange(min=1), metavar="MB",
              help="For object stores: the images in litdata's chunks of this size instead of one file.")  # fmt: skip
@JSON
@DRY
def pack_data(
    folder: Path, out: Path, skip_broken: bool, threads: int | None, shards: int | None, as_json: bool, dry_run: bool
) -> None:
    """Pack FOLDER into OUT, to train with data=pack:OUT.

    The same images, labels and digest as data=folder:FOLDER, decoded faster (docs/data.md). The same command goes on
    where an interrupted one stopped.
    """
    from hardlab import files
    from hardlab.errors import HardlabError

    with usage():
        if not os.path.isdir(folder):
            raise HardlabError(f"There is no folder '{folder}' of images to pack.")
        files.check_folder(out)
        from hardlab.data import packs
        from hardlab.workbook import run_list

        if shards:
            packs.litdata()
        planned = packs.plan(folder, out)
        size = run_list.readable(planned.bytes)
        each = {split: len(source.targets) for split, source in planned.sources.items()}
        if dry_run:
            would = {"would_write": str(out), "images": each, "bytes": planned.bytes}
            _echo(as_json, f"would pack {planned.total} images, {size}, into {out}", would)
            return

    def say(line: str) -> None:
        click.echo(line, err=True)

    about = packs.write(folder, out, skip_broken=skip_broken, workers=threads, say=say)
    if shards:
        about = packs.shard(out, shards, say)
    _echo(as_json, _packed(out, about), about)


@handle_data.command("check")
@click.argument("pack", type=PATH)
@JSON
def check_data(pack: Path, as_json: bool) -> None:
    """Read every byte of PACK and compare it with what was packed."""
    from hardlab.errors import HardlabError

    with usage():
        if not os.path.isdir(pack):
            raise HardlabError(f"There is no pack '{pack}': `hardlab data pack FOLDER {pack}` makes one.")
    from hardlab.data import packs

    about = packs.check(pack)
    _echo(as_json, f"{_packed(pack, about)}, all as packed", about)


def _packed(path: Path, about: Mapping[str, Any]) -> str:
    from hardlab.workbook import run_list

    count, size = (sum(split[key] for split in about["splits"].values()) for key in ("images", "bytes"))
    return f"{path}: {count} images, {run_list.readable(size)}"


@cli.command("watch")
@click.argument("run", nargs=-1, required=True, type=PATH)
@click.option("--tensorboard", "events", type=PATH, default=None, metavar="FOLDER",
              help="Also write their numbers as events that `tensorboard --logdir FOLDER` shows.")  # fmt: skip
def watch_runs(run: tuple[Path, ...], events: Path | None) -> None:
    """Draw the curves of runs in the terminal while they train.

    The curves are loss, spread of the predictions and kNN; alarms about the health of a run are printed below them.
    """
    from hardlab import files, live

    with usage():
        if events is not None:
            files.check_folder(events)
        live.check(run)
    live.watch(run, events=events)


@cli.command("lab", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTER OPTION]...")
def open_lab(options: tuple[str, ...]) -> None:
    """Open JupyterLab on the notebooks.

    All options are passed on to JupyterLab, as in `hardlab lab --no-browser --port 8890`.
    """
    from importlib.util import find_spec

    from hardlab.workbook import execute

    notebooks = execute.notebooks()
    if not notebooks:
        raise click.UsageError("This is not a checkout of hardlab, which holds the notebooks: clone it first.")
    if find_spec("jupyterlab") is None:
        raise click.UsageError("JupyterLab is not installed: install the extra 'workbook'.")
    root = execute.NOTEBOOKS.parent
    defaults = {"--ServerApp.root_dir": root, "--LabApp.default_url": f"/lab/tree/{notebooks[0].relative_to(root)}"}
    named = {option.partition("=")[0] for option in options}  # Jupyter takes the same option only once
    words = [f"{name}={value}" for name, value in defaults.items() if name not in named]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *words, *options])


@cli.group()
def nb() -> None:
    """List the notebooks, or run one without a browser."""


@nb.command("list")
@JSON
def nb_list(as_json: bool) -> None:
    """List the notebooks and their parameters."""
    from hardlab.workbook import execute, parameters

    declared_by_notebook = {path.stem: parameters.schema(path) for path in execute.notebooks()}
    lines = []
    for name, declared in declared_by_notebook.items():
        lines += [name, *(f"    {key}: {p.type} = {p.default!r}" for key, p in declared.items())]
    _echo(
        as_json,
        "\n".join(lines),
        {n: {k: p._asdict() for k, p in ps.items()} for n, ps in declared_by_notebook.items()},
    )


@nb.command("run")
@click.argument("name")
@click.argument("assigned", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=PATH, default=Path("out/notebooks"), show_default=True,
              help="Folder of the executed notebook.")  # fmt: skip
@click.option("--force", is_flag=True, help="Run it again if it has run with these parameters before.")
@JSON
@DRY
def nb_run(name: str, assigned: tuple[str, ...], out: Path, force: bool, as_json: bool, dry_run: bool) -> None:
    """Check the parameters of a notebook, then run it.

    Example: `hardlab nb run 01_pretrain recipe=simsiam-hvs rung=smoke`
    """
    from hardlab import config, files
    from hardlab.workbook import execute, parameters

    with usage():
        path = execute.find(name)
        values = parameters.check(path, dict(parameters.split(assigned)))
        if values.get("overrides"):
            values["overrides"] = [config.from_here(pair) for pair in values["overrides"]]
        resolved = {k: p.default for k, p in parameters.schema(path).items()} | values
        _check_parameters(path, resolved)
        files.check_folder(out)
    if dry_run:
        _echo(
            as_json,
            f"would run {path.stem} with {resolved} into {out}",
            {"notebook": str(path), "parameters": resolved},
        )
        return
    result = execute.execute(
        path, values, out_dir=out, force=force, echo=lambda text: click.echo(text, nl=False, err=True)
    )
    _echo(as_json, result.describe(), asdict(result))
    sys.exit(result.status)


def _check_parameters(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook would refuse later. values: all of its parameters by name."""
    from hardlab import compatible, config, files, recipes
    from hardlab import data as sets
    from hardlab.errors import HardlabError
    from hardlab.evaluate import published
    from hardlab.workbook import execute

    if config.device(values.get("device", "auto")).startswith("cuda"):
        from hardlab import build

        build.device(values["device"])
    config.threads(values.get("threads"))
    rung = values.get("rung", recipes.RUNGS[0])
    if "seed" in values and "recipe" in values:  # it trains
        files.check_folder(path.parent / values.get("runs_dir", "."))
        given = config.parse(values.get("overrides", []))
        run = recipes.recipe(values["recipe"], rung, given)
        compatible.check(run)
        sets.check_folder(run.data.name)
        if given or run.data.name not in sets.BUILT_IN:  # other runs can be trained, so torch is not needed
            from hardlab import build

            build.check(run)
            build.check_images(run)
        return
    _known_rung(click.get_current_context(), click.Option(["--rung"]), rung)
    names = [values["recipe"]] if "recipe" in values else values.get("recipes", [])
    for name in names:
        recipes.recipe(name, rung)
    for protocol in values.get("protocols", ()):
        published.settings(protocol, config.parse(values.get("settings", [])))
    # tables may come from runs elsewhere; a default path is relative to the notebook's own folder
    if path.parent == execute.NOTEBOOKS and "data_dir" not in values:
        from hardlab.analysis.catalog import Catalog

        folder = path.parent / values["runs_dir"]
        runs = Catalog(folder).runs
        finished = runs[(runs["rung"] == rung) & (runs["state"] == "done")]
        if not len(finished[finished["recipe"].isin(names)] if names else finished):
            example = names[0] if names else "RECIPE"
            raise HardlabError(
                f"There is no finished run of rung {rung}{' of ' + ', '.join(names) if names else ''} in '{folder}': "
                f"`hardlab pretrain {example} --rung {rung}` makes one."
            )


@cli.command("figures")
@click.argument("name", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Draw every figure.")
@click.option("--data", "given_dir", type=PATH, default=None,
              help=f"Folder of the tables. Default: {HERE}, else, without --from, those that come with hardlab."
              )  # fmt: skip
@click.option("--out", type=PATH, default=Path("figures"), show_default=True, help="Folder of the figures.")
@click.option("--from", "runs_dir", type=PATH, default=None,
              help="First collect the tables in --data from the finished runs in this folder.")  # fmt: skip
@click.option("--add", is_flag=True, help="With --from: keep the rows of runs that are not in that folder.")
@click.option("--list", "list_", is_flag=True, help="List the figures and exit.")
@ROOT
@JSON
@DRY
def draw_figures(
    name: tuple[str, ...],
    all_: bool,
    given_dir: Path | None,
    out: Path,
    runs_dir: Path | None,
    add: bool,
    list_: bool,
    root: Path | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Draw figures and published tables from the collected tables.

    Published tables are also written as LaTeX and HTML. For figures given by NAME, the commands are printed whose runs
    fill their gaps; --dry-run prints only those.

    Example: `hardlab figures hvs_f3`
    """
    from hardlab import figures, files

    if list_:
        _echo(as_json, "\n".join(figures.FIGURES), list(figures.FIGURES))
        return
    with usage():
        names = list(figures.FIGURES) if all_ else [figures.find(n) for n in name]
    if add and runs_dir is None:
        raise click.UsageError("--add keeps the existing rows when --from RUNS collects new ones: give --from too.")
    if not names:
        raise click.UsageError("Name a figure, or --all; `hardlab figures --list` lists them.")
    if runs_dir is not None and not runs_dir.is_dir():
        raise click.UsageError(f"There is no folder of runs '{runs_dir}'.")
    # what is collected goes into the current folder, never into the package's tables
    data_dir = given_dir or (HERE if runs_dir else _collected())
    if dry_run:
        if runs_dir is None:
            _there(data_dir)
        with usage():
            files.check_folder(out)
        first = f"collect {data_dir} from {runs_dir}, then " if runs_dir else ""
        gaps = {n: figures.gaps(n, data_dir) for n in names}
        todo = {"figures": names, "data": str(data_dir), "out": str(out), "from": runs_dir and str(runs_dir)}
        _echo(as_json, f"would {first}draw {', '.join(names)} into {out}\n{_gaps(gaps)}".strip(), todo | {"gaps": gaps})
        return
    if runs_dir is not None:
        from hardlab.analysis import tables

        files.check_folder(out)  # before collecting, which takes minutes
        tables.collect(runs_dir, data_dir, root=root, add=add)
    _there(data_dir)
    drawn = [str(p) for n in names for write in (figures.draw, figures.write_markup) for p in write(n, data_dir, out)]
    missing = "" if all_ or as_json else _gaps({n: figures.gaps(n, data_dir) for n in names})
    _echo(as_json, "\n".join([*drawn, *([missing] if missing else [])]), drawn)


def _there(data_dir: Path) -> None:
    """Raise ``UsageError`` if the folder has no tables."""
    if not any(data_dir.glob("*.csv")):
        raise click.UsageError(
            f"There are no tables in '{data_dir}'; `hardlab figures --all --from RUNS` collects them."
        )


def _gaps(gaps: dict[str, list[str]]) -> str:
    """The commands that fill each figure's gaps; RUN stands for the run that the preceding command made."""
    lines = [[f"{name} has gaps; these fill them:", *commands] for name, commands in gaps.items() if commands]
    return "\n".join("\n  ".join(block) for block in lines)


@cli.command("claims")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--paper", default=None, help="Show one paper only: hexa, hvs, hnssl, adco or ppcl.")
@click.option("--verdict", default=None, help="Show only verdicts that begin with this, e.g. reproduced or needs.")
@click.option("--why", is_flag=True, help="Show the reason for each verdict, and its runs.")
@click.option("--freeze", default=None, metavar="REASON", help="Record changed tests, with this reason.")
@_tables("Folder of the collected tables.")
@JSON
def judge_claims(
    ids: tuple[str, ...],
    paper: str | None,
    verdict: str | None,
    why: bool,
    freeze: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Print the papers' claims and their verdicts.

    Without an ID, all claims are printed. Verdicts are computed from the collected tables by the rules in
    docs/verdicts.md: a 95 % interval over seeds against the claim's threshold, corrected for the number of claims.
    """
    from hardlab import registry
    from hardlab.analysis import claims

    with usage():
        if paper is not None and paper not in claims.PAPERS:
            raise registry.unknown("paper", paper, claims.PAPERS)
        if verdict is not None and not any(v.startswith(verdict) for v in claims.VERDICTS):
            raise registry.unknown("verdict", verdict, claims.VERDICTS)
        for name in set(ids) - {c.id for c in claims.load()}:
            raise registry.unknown("claim", name, [c.id for c in claims.load()])
    if freeze is not None:
        moved = claims.freeze(freeze, datetime.now(UTC))
        _echo(as_json, f"{len(moved)} tests were noted: {', '.join(moved) or 'none'}", {"frozen": moved})
        return
    _there(data_dir)
    verdicts = claims.verdicts(data_dir)  # all claims, since each is corrected for the others
    verdicts = verdicts[
        verdicts["paper"].isin([paper] if paper else claims.PAPERS) & (verdicts["id"].isin(ids) | (not ids))
    ]
    verdicts = verdicts[verdicts["verdict"].str.startswith(verdict or "")]
    rows = verdicts.astype(object).where(verdicts.notna(), None).to_dict("records")
    _echo(as_json, claims.describe(verdicts, why=why), rows)


@cli.command("explore")
@click.argument("run", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, default=None, help="Default: explorer.html in the folder of the first RUN.")
@click.option("--open", "open_", is_flag=True, help="Open the page in the browser too.")
@ROOT
@JSON
def explore_runs(run: tuple[Path, ...], out: Path | None, open_: bool, root: Path | None, as_json: bool) -> None:
    """Show which images and views are hard for runs, and why.

    Writes one HTML page about up to five runs, which needs no network, and prints its path. Its panels are candidates,
    negatives, generated pairs, attacks, and methods side by side.
    """
    from hardlab import files
    from hardlab.errors import HardlabError

    written = out or run[0] / "explorer.html"
    with usage():
        for path in run:
            if not (path / "manifest.json").exists():  # which needs no torch
                raise HardlabError(f"{path} is not a run: it has no manifest.json.")
        files.check_folder(written.parent)
    from hardlab.workbook import explorer

    page = explorer.explore(*run, root=root)
    page.write(written)
    if open_:
        click.launch(str(written))
    _echo(as_json, str(written), {"written": str(written), "panels": list(page.data), "missing": page.missing})


@cli.command("report")
@RUNG
@click.option("--out", type=PATH, default=None, help="Default: out/RUNG, or out/reports with --paper.")
@click.option("--readme", is_flag=True, help="Rewrite README.md's generated blocks and docs/results.md.")
@click.option("--paper", default=None, help="Write a reproduction report of one paper, as HTML and LaTeX.")
@click.option("--single-file", is_flag=True, help="Put figures, notebooks and tables into the page, to send it alone.")
@_tables("With --paper: the collected tables.")
@JSON
@DRY
def build_report(
    rung: str,
    out: Path | None,
    readme: bool,
    paper: str | None,
    single_file: bool,
    data_dir: Path,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Write the HTML report of a rung, or of one paper.

    The report of a paper, as with `hardlab report --paper hvs`, follows the outline of reproducibility tracks.
    """
    if single_file and (readme or paper is not None):
        raise click.UsageError("--single-file is for the report of a rung: give it without --paper and --readme.")
    if paper is not None:
        from hardlab import registry
        from hardlab.figures import ITEMS

        with usage():
            if readme:
                raise click.UsageError("--paper and --readme write different things: give one of them.")
            if paper not in ITEMS:
                raise registry.unknown("paper", paper, ITEMS)
        _there(data_dir)
        folder = out or Path("out") / "reports"
        targets = [str(folder / f"report-{paper}.{suffix}") for suffix in ("html", "tex")]
        if not dry_run:
            from hardlab.workbook import paper_report

            paper_report.build(paper, data_dir, folder)
        _echo(as_json, ("would write " if dry_run else "") + ", ".join(targets), {"written": targets})
        return
    folder = out or Path("out") / rung
    if not readme and not next((folder / "runs").glob("*/manifest.json"), None):
        raise click.UsageError(f"There is nothing to report in '{folder}': its folder runs/ holds no run.")
    if dry_run:
        target = "README.md, docs/results.md" if readme else str(folder / "report.html")
        _echo(as_json, f"would write {target}", {"would_write": target})
        return
    if readme:
        from hardlab.workbook import pages

        written = ", ".join(map(str, pages.write()))
    else:
        from hardlab.workbook import report

        written = str(report.build(folder, single_file=single_file))
    _echo(as_json, written, {"written": written})


@cli.group("runs")
def handle_runs() -> None:
    """List, show, compare or delete the runs of a folder."""


def _completed_run(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of runs that begin like this, for the shell."""
    folder = Path(context.params.get("runs_dir") or "runs")
    return sorted(p.parent.name for p in folder.glob("*/manifest.json") if p.parent.name.startswith(incomplete))


@handle_runs.command("list")
@click.option("--recipe", default=None, help="Only runs of this recipe.")
@click.option(
    "--state", "states", multiple=True, help="Only runs in this state: running, done, stopped, failed, damaged."
)
@click.option("--sort", type=click.Choice(["name", "started", "size"]), default="name", show_default=True,
              help="Sort the runs by this.")  # fmt: skip
@RUNS
@JSON
def list_runs(recipe: str | None, states: tuple[str, ...], sort: str, runs_dir: Path, as_json: bool) -> None:
    """List runs with their state, accuracy and size on disk."""
    from hardlab.workbook import run_list

    with usage():
        _known_states(states)
        entries = run_list.listed(runs_dir)
    entries = [e for e in entries if recipe in (None, e.config.get("recipe")) and (not states or e.state in states)]
    keys = {"name": lambda e: e.path.name, "size": lambda e: -e.size, "started": lambda e: e.about.get("started", "")}
    entries.sort(key=keys[sort])
    _echo(as_json, run_list.table(entries), [run_list.summary(e) for e in entries])


def _known_states(states: Sequence[str]) -> None:
    from hardlab import files, registry
    from hardlab.workbook import run_list

    for state in states:
        if state not in (*files.STATES, run_list.DAMAGED):
            raise registry.unknown("state", state, (*files.STATES, run_list.DAMAGED))


@handle_runs.command("show")
@click.argument("run", shell_complete=_completed_run)
@RUNS
@JSON
def show_run(run: str, runs_dir: Path, as_json: bool) -> None:
    """Show one run: settings, health, results, files by size.

    RUN is the name of a run, the beginning of its name, or a path.
    """
    from hardlab.workbook import run_list

    with usage():
        entry = run_list.find(runs_dir, run)
        text = run_list.describe(entry, entry.path.parent)
    _echo(as_json, text, {**run_list.summary(entry), "fault": entry.fault, "manifest": entry.about})


@handle_runs.command("compare")
@click.argument("run", nargs=-1, required=True, shell_complete=_completed_run)
@RUNS
@JSON
def compare_runs(run: tuple[str, ...], runs_dir: Path, as_json: bool) -> None:
    """Compare the settings and results of two or more runs.

    Only the settings in which they differ are shown.
    """
    from hardlab.workbook import run_list

    if len(run) < 2:
        raise click.UsageError("Name two runs or more to compare.")
    with usage():
        entries = [run_list.find(runs_dir, name) for name in run]
        text = run_list.compared(entries)
        _echo(as_json, text, {"runs": [e.path.name for e in entries], **run_list.compare(entries)})


@handle_runs.command("prune")
@click.argument("run", nargs=-1, shell_complete=_completed_run)
@click.option(
    "--state", "states", multiple=True, help="Also delete runs in this state: stopped, failed, done or damaged."
)
@click.option("--older", default=0.0, show_default=True, type=click.FloatRange(min=0),
              help="With --state: only runs that ended at least this many days ago.")  # fmt: skip
@click.option("--weights", is_flag=True, help="Delete checkpoints and features alone; rows, logs and views stay.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@RUNS
@JSON
@DRY
def prune_runs(
    run: tuple[str, ...],
    states: tuple[str, ...],
    older: float,
    weights: bool,
    yes: bool,
    runs_dir: Path,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Delete runs, after asking.

    A run under way stays, and so does a parent that another run needs.
    """
    from hardlab.workbook import run_list

    if not run and not states:
        raise click.UsageError("Name the runs to delete, or a --state; `hardlab runs list` lists them.")
    with usage():
        _known_states(states)
        if "running" in states:
            raise click.UsageError("A run under way is not deleted: stop it first.")
        plan = run_list.plan_pruning(runs_dir, run, states, older, weights)
    content = "checkpoints and features" if weights else "everything"
    lines = [f"{name}  {run_list.readable(size)}" for name, size in plan.deleted.items()]
    lines += [f"{name}  stays: {why}" for name, why in plan.kept.items()]
    total = run_list.readable(sum(plan.deleted.values()))
    result = {"deleted": [] if dry_run else list(plan.deleted), "would_delete": plan.deleted, "kept": plan.kept}
    if dry_run or not plan.deleted:
        lines.append(f"would delete {content} of {len(plan.deleted)} runs, {total}")
        _echo(as_json, "\n".join(lines), {**result, "deleted": []})
        return
    click.echo("\n".join(lines), err=as_json)
    if not yes:
        click.confirm(f"Delete {content} of these {len(plan.deleted)} runs, {total}?", abort=True, err=as_json)
    with usage():
        deleted = run_list.prune(runs_dir, plan)
    _echo(as_json, f"deleted {content} of {len(deleted)} runs, {total}", {**result, "deleted": deleted})


@cli.command("export")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, default=None, help="Default: export/ in the folder of RUN.")
@click.option("--network", default=None, help="One of the method's networks, e.g. student; default: the one evaluated.")
@click.option("--features", type=click.Choice(["npz", "parquet"]), default=None,
              help="Also write the features of all images with their file names.")  # fmt: skip
@click.option("--onnx", is_flag=True, help="Also write the network as ONNX.")
@_tables("The collected tables, for the claims on the card.")
@CODE
@ROOT
@JSON
@DRY
def export_run(
    run: Path,
    out: Path | None,
    network: str | None,
    features: str | None,
    onnx: bool,
    data_dir: Path,
    code: tuple[Path, ...],
    root: Path | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Export the network of a run for torchvision and timm.

    Writes safetensors with the names of torchvision and timm, and a model card. In Python, `hardlab.load(RUN)` is the
    same network, ready to use.
    """
    import importlib.util

    from hardlab import compatible, config, files
    from hardlab.errors import HardlabError

    folder = out or run / "export"
    with usage():
        trained, about = config.read_run(run)
        state = about["state"]
        compatible.check_network(trained, network, every=False)
        if state != "done":
            raise HardlabError(f"{run} is not finished, its state is '{state}': `hardlab pretrain` continues it.")
        for package, extra in [("safetensors", "export"), *[(p, "onnx") for p in ("onnx", "onnxscript") if onnx]]:
            if importlib.util.find_spec(package) is None:
                raise HardlabError(f"{package} is not installed: `pip install 'hardlab[{extra}]'` adds it.")
        files.check_folder(folder)
    if dry_run:
        _echo(as_json, f"would write the network of {run} into {folder}", {"would_write": str(folder)})
        return
    _load(code)
    from hardlab.workbook import export

    with usage():
        written = export.export(
            run, folder, network=network, features=features, onnx=onnx, data_dir=data_dir, root=root
        )  # fmt: skip
    _echo(as_json, "\n".join(map(str, written)), {"written": [str(p) for p in written]})


@cli.command("bundle")
@click.argument("run", nargs=-1, required=True, shell_complete=_completed_run)
@click.option("--out", type=PATH, default=Path("bundle.tar.gz"), show_default=True, help="The archive.")
@click.option("--weights", is_flag=True, help="Pack the last checkpoint of each run too.")
@_tables("The collected tables, whose rows of these runs are packed.")
@RUNS
@JSON
@DRY
def bundle_runs(
    run: tuple[str, ...], out: Path, weights: bool, data_dir: Path, runs_dir: Path, as_json: bool, dry_run: bool
) -> None:
    """Pack runs into one archive.

    It holds manifests, logs, results, view logs, the runs' rows of the tables, model cards, and a citation.
    """
    from hardlab import files
    from hardlab.workbook import bundle, run_list

    with usage():
        paths = [run_list.find(runs_dir, name).path for name in run]
        files.check_folder(out.parent)
        named = bundle.contents(paths, data_dir, weights=weights)
        if dry_run:
            _echo(as_json, "\n".join(["would pack", *named]), {"would_write": str(out), "files": list(named)})
            return
        bundle.write(out, named)
    size = out.stat().st_size
    _echo(as_json, f"{out}  {run_list.readable(size)}, {len(named)} files", {"written": str(out), "files": list(named)})


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def print_completion(shell: str) -> None:
    """Print the completion script of a shell.

    The shell then completes commands, options, recipes and runs. For bash, put `eval "$(hardlab completion bash)"` into
    ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "hardlab", "_HARDLAB_COMPLETE").source())


@cli.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@RUNG
@click.option("--claims", is_flag=True, help="Also train every arm of the claims that this rung can test.")
@click.option("--cores", type=int, default=None, callback=_few_threads,
              help="Steps at a time on this machine; default: 2.")  # fmt: skip
@click.option("--executor", default="local", show_default=True,
              help="local: this machine. slurm: each step is a job of Slurm (docs/cluster.md).")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=None, help="Jobs in Slurm's queue at a time.")
@click.option("--profile", type=PATH, default=None,
              help="Folder of a Snakemake profile: partition, account, limits.")  # fmt: skip
@DRY
def reproduce(
    overrides: tuple[str, ...], rung: str, claims: bool, cores: int | None, executor: str, jobs: int | None,
    profile: Path | None, dry_run: bool,
) -> None:  # fmt: skip
    """Train, evaluate, draw and report what a rung lacks.

    Snakemake runs the missing steps. Overrides, such as epochs=10, apply to all runs.
    """
    from hardlab import compatible, config, data, recipes
    from hardlab.workbook import cluster

    with usage():
        slurm = cluster.chosen(executor, jobs, profile, cores)
    with usage():  # checks the first run only, because checking all takes longer
        run = recipes.recipe("simsiam", rung, config.settings(overrides, ("recipe", "rung", "seed")))
        compatible.check(run)
        data.check_folder(run.data.name)
    from hardlab.workbook import workflow

    sys.exit(workflow.reproduce(rung, overrides, claims=claims, cores=cores or 2, slurm=slurm, dry_run=dry_run))


@cli.command()
@click.argument("plan")
@click.option("--budget", default="6h", show_default=True, help="Time to use: 6h, 1h30m, 90s.")
@click.option("--jobs", type=click.IntRange(1, 256), default=None,
              help="Runs side by side; default: as many as cores and memory allow.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/campaign"), show_default=True,
              help="Folder of its runs, logs, tables and archive.")  # fmt: skip
@_tables("Collected tables, which decide what is missing.")
@ROOT
@DEVICE
@DRY
def campaign(
    plan: str,
    budget: str,
    jobs: int | None,
    out: Path,
    data_dir: Path,
    root: Path | None,
    device: str,
    dry_run: bool,
) -> None:
    """Train the runs that open claims lack, the most decisive first.

    PLAN is a rung, or a YAML file of stages with rung, claims, seeds and set (docs/campaign.md). The campaign stops
    when its budget ends; the same command continues it.
    """
    from hardlab import config

    with usage():
        config.device(device)
        seconds = config.budget(budget)
        _there(data_dir)
        from hardlab.workbook import campaign_plan

        stages = campaign_plan.read(plan)
    from hardlab.workbook import campaign as campaigns

    sys.exit(
        campaigns.run(
            stages, budget=seconds, jobs=jobs, out=out, data_dir=data_dir, root=root, device=device, dry_run=dry_run,
            say=click.echo,
        )
    )  # fmt: skip


@cli.command("doctor", short_help="Check this machine, and print what is missing.")
@JSON
@click.option("--matrix", is_flag=True, help="Print which strategy works with which method, or why not.")
@click.option("--parallel", type=click.IntRange(2, 64), default=None, metavar="N",
              help="Train in N processes and in one, and print what is equal (docs/ranks.md).")  # fmt: skip
@click.option("--resume", is_flag=True, help="With --parallel: stop a run and take it up in N processes and in one.")
@click.option("--every", is_flag=True, help="With --parallel: every pair of method and strategy, not each once.")
@DEVICE
def examine_installation(
    as_json: bool, matrix: bool, parallel: int | None, resume: bool, every: bool, device: str
) -> None:
    """Print what this machine has, what hardlab can use, and what is missing."""
    from hardlab.workbook import doctor

    if parallel is None and (resume or every):
        raise click.UsageError(f"--{'resume' if resume else 'every'} needs --parallel N.")
    if parallel is not None:
        from hardlab.workbook import parallel as proof

        rows = proof.prove(parallel, resume, every, device)
        _echo(as_json, proof.describe(parallel, rows), rows)
        sys.exit(0 if all(row["equal"] for row in rows) else 1)
    if matrix:
        pairs = doctor.matrix()
        _echo(as_json, doctor.describe_matrix(pairs), pairs)
        return
    report = doctor.examine()
    _echo(as_json, doctor.describe(report), report)
    sys.exit(0 if doctor.healthy(report) else 1)


@cli.command("race")
@click.option("--peer", "peers", multiple=True, type=click.Choice(["lightly", "stable-pretraining"]),
              default=("lightly",), show_default=True, help="Race against this library; repeatable.")  # fmt: skip
@click.option("--target", type=click.FloatRange(1, 100), default=None,
              help="Accuracy of nearest neighbours in %; default: 38 on a CPU, 45 on a GPU.")  # fmt: skip
@click.option("--budget", default=None, help="Training time of each run; default: 90s on a CPU, 15s on a GPU.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each library.")
@click.option("--until", default=None, metavar="TIME",
              help="Begin no further seed that would end later than this time from now on, such as 75s.")  # fmt: skip
@click.option("--network", type=click.Choice(["tiny", "resnet18"]), default=None,
              help="Default: tiny on a CPU, resnet18 on a GPU.")  # fmt: skip
@click.option("--batch", type=click.IntRange(2, 4096), default=None, help="Default: 128 on a CPU, 512 on a GPU.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True,
              help="Of all libraries; auto: bf16 where it is faster.")  # fmt: skip
@click.option("--out", type=PATH, default=Path("out/race"), show_default=True, help="Folder of the results.")
@ROOT
@DEVICE
@THREADS
@JSON
@DRY
def race_to_accuracy(
    peers: tuple[str, ...], target: float | None, budget: str | None, seeds: int, until: str | None,
    network: str | None, batch: int | None, precision: str, out: Path, root: Path | None, device: str,
    threads: int | None, as_json: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Race other libraries to an accuracy on CIFAR-10.

    Every library trains the same network by the same recipe on this machine; the result is the time and the number of
    images to the target (docs/race.md). Runs in OUT with the same settings are kept.
    """
    import importlib.util

    from hardlab import config, data, files
    from hardlab.errors import HardlabError
    from hardlab.workbook import race

    given: dict[str, Any] = {"network": network, "batch": batch, "target": target, "precision": precision}
    with usage():
        given["budget"] = None if budget is None else config.budget(budget)
        end = None if until is None else config.budget(until)
        config.device(device)
        files.check_folder(out)
        for name in peers:
            if importlib.util.find_spec(name.replace("-", "_")) is None:
                raise HardlabError(f"{name} is not installed: `{race.PEERS[name]}` adds it.")
        if dry_run:
            data.load("cifar10-jpeg", "train", root=root, dry=True)
            named = ", ".join((race.OWN, *dict.fromkeys(peers)))
            _echo(as_json, f"would train {named}, {seeds} runs each, and write {out / race.RUNS}",
                  {"would_write": str(out / race.RUNS)})  # fmt: skip
            return
    import torch

    from hardlab import machine

    machine.alone()
    machine.keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    rows = race.run(
        {key: value for key, value in given.items() if value is not None}, list(dict.fromkeys(peers)), seeds,
        out=out, device=device, root=root, until=end, say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    _echo(as_json, race.describe(rows), race.summary(rows))


@cli.command("check")
@click.argument("file", type=PATH)
@JSON
def check_file(file: Path, as_json: bool) -> None:
    """Test your own methods and strategies against the contracts.

    The exit status is 1 if one of them breaks a contract. Example: `hardlab check my_strategy.py`
    """
    from hardlab import registry

    with usage():
        registry.check_file(file)
        from hardlab import build, contracts

        defined = build.load(file)
    results = {f"{kind} {name}": list(contracts.verdicts(kind, name)) for kind, name in defined}
    lines = []
    for entry, verdicts in results.items():
        lines += [entry, *(f"  {line}" for line in contracts.described(entry.split()[0], verdicts))]
    _echo(as_json, "\n".join(lines), {entry: [v._asdict() for v in verdicts] for entry, verdicts in results.items()})
    sys.exit(1 if any(v.holds is False for verdicts in results.values() for v in verdicts) else 0)


def _leave_garbage() -> None:
    """End without a last search for garbage, which takes a quarter of a second after tables were read.

    Not where torch was loaded: libraries beside it report what was not freed.
    """
    if "torch" not in sys.modules:
        gc.freeze()


def main() -> None:
    """Entry point: one sentence for a known mistake, never a traceback."""
    atexit.register(_leave_garbage)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(1)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except Exception as e:
        from hardlab.errors import HardlabError

        if isinstance(e, HardlabError):
            click.echo(f"hardlab: {e}", err=True)
            sys.exit(1)
        from hardlab.stopping import STOPPED, Stopped

        if isinstance(e, Stopped):
            sys.exit(STOPPED)
        if isinstance(e, OSError):
            if not isinstance(e, BrokenPipeError):  # the reader has closed the pipe
                click.echo(f"hardlab: {_of_system(e)}", err=True)
            sys.exit(1)
        raise
