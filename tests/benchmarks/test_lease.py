"""The lease of a GPU: its plan, what a second lease goes on from, and the whole in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from left_by_runs import finished

from benchmarks import lease
from benchmarks.lease import LeaseError, Line
from hardlab.workbook.archive import pack, units
from hardlab.workbook.job_queue import Job

ROOT = Path(__file__).resolve().parents[2]


def job(name: str, images: int = 1000, *, parent: str | None = None, weight: int = 1) -> Job:
    return Job(name, name, "cpu/simsiam", images, {}, ("knn",), parent, weight)


def test_a_line_of_several_recipes_and_seeds_gives_whole_pairs_first() -> None:
    entries = lease.read_queue("# a comment\n\na,b cpu seed=1..2 parent.seed={seed} epochs=3 -- linear\nc gpu\n")
    assert entries == [
        Line("a", "cpu", ("seed=1", "parent.seed=1", "epochs=3"), ("linear",)),
        Line("b", "cpu", ("seed=1", "parent.seed=1", "epochs=3"), ("linear",)),
        Line("a", "cpu", ("seed=2", "parent.seed=2", "epochs=3"), ("linear",)),
        Line("b", "cpu", ("seed=2", "parent.seed=2", "epochs=3"), ("linear",)),
        Line("c", "gpu", ("seed=0",), ("knn", "linear-lbfgs")),
    ]


@pytest.mark.parametrize("line", ["simsiam", "simsiam cpu 3", "simsiam cpu seed=a"])
def test_a_line_that_cannot_be_read_is_told_by_its_number(line: str) -> None:
    with pytest.raises(LeaseError, match="line 2"):
        lease.read_queue(f"moco cpu\n{line}\n")


def test_merged_archives_give_the_runs_back_and_the_next_lease_skips_them(tmp_path: Path) -> None:
    finished(tmp_path / "there", "a")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "throughput.json").write_text('{"rows": []}')
    archives = [tmp_path / "out" / "lease-1.tar.gz"]
    pack(archives, units(tmp_path / "there", tmp_path / "logs", ["a"]), limit=10**6)
    assert lease.merge(archives, tmp_path / "here", tmp_path / "brought", tmp_path / "kept") == ["a"]
    assert (tmp_path / "here/a/views/views.parquet").read_bytes() == (
        tmp_path / "there/a/views/views.parquet"
    ).read_bytes()
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["a"]
    assert (tmp_path / "brought" / "throughput.json").exists()

    args = lease.parser().parse_args(
        ["run", "--out", f"{tmp_path}/o", "--work", f"{tmp_path}/w", "--brought", f"{tmp_path}/brought"]
    )
    again = lease.Lease(args)
    gan = Job("gan", "gan", "cpu/gan", 1, {})
    left = again.undone([gan, job("a", parent="gan"), job("b", parent="gan"), Job("idle", "idle", "cpu/gan", 1, {})])
    assert [j.id for j in left] == ["gan", "b"]  # the weights of a parent do not come back
    finished(tmp_path / "w" / "runs", "b")  # by an earlier call on this machine
    assert again.undone([gan, job("b", parent="gan"), job("c")]) == [job("c")]


def test_the_rates_of_a_device_are_kept_with_their_parts_and_a_rehearsals_are_not(tmp_path: Path) -> None:
    table = {"device": "NVIDIA X1", "rehearsal": False, "rows": [{"rate": "cpu/a", "images_per_s": 5.0}, {"rate": "b"}]}
    parts = {"device": "NVIDIA X1", "rows": [{"rate": "cpu/a", "seconds": {"step": 0.25}}]}
    (tmp_path / "throughput-parts.json").write_text(json.dumps(parts))
    for rehearsal in (True, False):
        (tmp_path / "throughput.json").write_text(json.dumps(table | {"rehearsal": rehearsal}))
        lease.keep_rates(tmp_path, tmp_path / "kept")
        assert (tmp_path / "kept").exists() is not rehearsal
    rows = json.loads((tmp_path / "kept" / "nvidia-x1.json").read_text())["rows"]
    assert rows == [{"rate": "cpu/a", "images_per_s": 5.0, "seconds": {"step": 0.25}}, {"rate": "b"}]


def test_a_run_whose_rows_are_committed_is_not_made_again(tmp_path: Path) -> None:
    table = tmp_path / "evaluation.csv"
    assert lease.collected([job("a")], table) == set()
    table.write_text('run,protocol,options\na,knn,"{""k"": 1, ""b"": 2}"\na,linear,{}\nb,linear,{}\n')
    assert lease.collected([job("a"), job("b"), job("c"), Job("gan", "gan", "cpu/gan", 1, {})], table) == {"a"}


def test_merging_keeps_a_run_that_has_more_rows(tmp_path: Path) -> None:
    finished(tmp_path / "there", "a")
    ours = finished(tmp_path / "here", "a", ("knn", "linear"))
    (tmp_path / "logs").mkdir()
    pack([tmp_path / "a.tar.gz"], units(tmp_path / "there", tmp_path / "logs", ["a"]), limit=10**6)
    lease.merge([tmp_path / "a.tar.gz"], tmp_path / "here", tmp_path / "brought")
    assert (ours / "results.jsonl").read_text().count("\n") == 2
    assert (ours / "checkpoints").is_dir()


def test_an_archive_with_a_foreign_path_is_refused_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for name in ("../runs/a/x", "etc/x"):
        with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "x", "runs/good/x")
            tar.add(tmp_path / "x", name)
        with pytest.raises(LeaseError, match="no lease packs"):
            lease.merge([tmp_path / "bad.tar.gz"], tmp_path / "here", tmp_path / "brought")
        assert not list((tmp_path / "here").iterdir())


def test_the_commit_is_written_where_the_machine_could_not_ask(tmp_path: Path) -> None:
    run = finished(tmp_path, "a")
    lease.stamp(run / "manifest.json", "abc-dirty")
    assert json.loads((run / "manifest.json").read_text()) == {"state": "done", "commit": "abc", "dirty": True}
    lease.stamp(run / "manifest.json", "other")
    assert json.loads((run / "manifest.json").read_text())["commit"] == "abc"


def test_preparing_refuses_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match="no archive"):
        lease.prepare(tmp_path / "none.tar.xz", tmp_path / "lease")
    assert not (tmp_path / "lease").exists()


def test_what_travels_is_weighed_in_mebibytes_and_too_much_is_refused_with_what_to_leave_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(3 * 2**20))
    sizes = {"site": 8.25, "the checkout": lease.size_mib([tmp_path])}
    lines: list[str] = []
    lease.weigh(sizes, 11.5, [tmp_path / "a.png"], lines.append)
    assert lines == ["     8.2 MiB  site", "     3.0 MiB  the checkout", "    11.2 MiB  in all, of 11.5"]
    with pytest.raises(LeaseError, match=r"11.2 MiB are more than the 11 MiB .* the 1 pictures of figures/ \(3.0 MiB"):
        lease.weigh(sizes, 11.0, [tmp_path / "a.png"], lines.append)
    with pytest.raises(LeaseError, match="the largest part"):
        lease.weigh(sizes, 11.0, [], lines.append)


def test_what_is_brought_stays_without_bytecode_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PYTHON", f"{sys.version_info.major}.{sys.version_info.minor}")
    (tmp_path / "brought" / "site" / "carried").mkdir(parents=True)
    (tmp_path / "brought" / "site" / "carried" / "__init__.py").write_text("here = __file__\n")
    for _ in range(2):
        env = lease.environment(tmp_path / "brought", tmp_path / "work")
        subprocess.run([sys.executable, "-c", "import carried"], env=env, check=True)
        assert [p.name for p in (tmp_path / "brought").rglob("*")] == ["site", "carried", "__init__.py"]
    assert list((tmp_path / "work" / "site" / "carried").glob("__pycache__/*.pyc"))


@pytest.fixture
def mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the daemon's command on PATH, which writes down how it was called."""
    command, calls = tmp_path / "bin" / lease.Sharing.COMMAND, tmp_path / "calls"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nif [ "$1" = -d ]; then echo "start $CUDA_MPS_PIPE_DIRECTORY" >> {calls}; exit ${{REFUSE:-0}}; fi\n'
        f'read line; echo "$line" >> {calls}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    return calls


def test_processes_share_the_card_where_the_driver_lets_them_and_the_daemon_ends(mps: Path, tmp_path: Path) -> None:
    sharing = lease.Sharing(tmp_path / "mps")
    more, sentence = sharing.start(dict(os.environ), ["sh", "-c", 'test -d "$CUDA_MPS_PIPE_DIRECTORY"'])
    sharing.end()
    assert more["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "mps") and "share the GPU" in sentence
    assert mps.read_text().splitlines() == [f"start {tmp_path / 'mps'}", "quit -t 5"]


@pytest.mark.parametrize(("refuse", "check"), [("1", "true"), ("0", "false")], ids=["the daemon", "the first process"])
def test_processes_take_turns_where_sharing_fails(refuse: str, check: str, mps: Path, tmp_path: Path) -> None:
    more, sentence = lease.Sharing(tmp_path / "mps").start(os.environ | {"REFUSE": refuse}, [check])
    assert more == {} and "take turns" in sentence
    assert mps.read_text().splitlines()[-1] == "quit -t 5"  # nothing of it stays


def test_the_driver_needs_nothing_that_has_to_be_installed() -> None:
    code = "import sys; sys.modules['torch'] = None; import benchmarks.lease"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


def test_every_line_of_the_queue_is_a_run_and_parents_come_first() -> None:
    from benchmarks import lease_work

    parts = ["untrained,moco,adco,ppcl-simclr cpu", "ppcl-gan,ppcl cpu seed=1 parent.seed={seed}", "simsiam-hvs gpu"]
    parts += ["ppcl-pos,ppcl gpu data.name=cifar10-jpeg data.fraction=0.1 epochs=60 parent.epochs=40"]
    first = lease.read_queue("\n".join(parts))
    for rehearsal in (False, True):
        jobs, refused = lease_work.plan(first, rehearsal, lambda run: round(50_000 * run.data.fraction))
        assert not refused
        ids = [j.id for j in jobs]
        assert all(ids.index(j.parent) < ids.index(j.id) for j in jobs if j.parent)
        assert all(j.protocols == () for j in jobs if j.rate.endswith("/gan"))
        assert any(j.parent for j in jobs)
    shared = [j.id for j in jobs if j.parent]
    assert len(shared) > len({j.parent for j in jobs if j.parent}), "the arms of a seed start from one GAN"


def test_a_line_that_is_no_run_is_refused_and_the_others_are_made() -> None:
    from benchmarks import lease_work

    jobs, refused = lease_work.plan(lease.read_queue("simsiamm cpu\nsimsiam cpu"), False, lambda run: 5000)
    assert [j.rate for j in jobs] == ["cpu/simsiam"]
    assert len(refused) == 1
    assert "simsiam" in refused[0].split("'simsiamm'")[1]
    assert jobs[0].images == 30 * 39 * 128


def test_every_arm_of_the_table_of_rates_can_be_built() -> None:
    from benchmarks import lease_work
    from hardlab import build

    for rung in lease_work.NETWORKS:
        for recipe in lease_work.ARMS:
            for rehearsal in (False, True):
                run = lease_work.arm(rung, recipe, rehearsal, 3 if rehearsal else 61)
                build.check(run)
                per_epoch = int(5000 * run.data.fraction) // run.batch_size
                assert run.epochs * per_epoch >= (3 if rehearsal else 61), (rung, recipe)


def test_operations_of_a_step_are_those_of_the_layers() -> None:
    import torch

    from benchmarks import lease_work

    run = lease_work.arm("cpu", "supervised", True, 2).with_({"backbone.width": 8, "precision": "fp32"})
    counted = lease_work.flops(run, torch.device("cpu"), 2)
    from hardlab import build

    torch.manual_seed(0)
    method = build.method(run)
    total = 0.0

    def hook(layer: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal total
        total += 2 * out[0].numel() * layer.weight[0].numel()

    layers = [m for m in method.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(hook)
    size = build.look(run).augment[0].size
    method.backbone(torch.randn(2, 3, size, size))
    views = build.look(run).augment and method.slots
    # forward, and backward to weights and inputs; the first layer has no gradient to its input
    assert 2.5 * total * views < counted < 3.2 * total * views


@pytest.mark.slow
def test_a_whole_lease_in_small_stops_by_itself_and_a_second_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "queue.txt").write_text("untrained cpu data.name=shapes\nsimsiam cpu seed=3\n")
    command = [sys.executable, "-m", "benchmarks.lease", "run", "--queue", f"{tmp_path}/queue.txt", "--rehearse", "yes"]
    command += ["--brought", f"{tmp_path}/brought", "--budget", "1.5"]
    (tmp_path / "brought").mkdir()

    def hold(name: str, rates: str) -> str:
        start = time.monotonic()
        more = ["--out", f"{tmp_path}/{name}", "--work", f"{tmp_path}/work-{name}", "--rates", rates]
        result = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        assert time.monotonic() - start < 120
        return result.stdout

    report = hold("first", "0.05")
    assert "packages  all there" in report
    assert "rates:" in report or "plan was ended" in report  # what a loaded machine has time for is open
    came = lease.merge(sorted((tmp_path / "first").glob("*.tar.gz")), tmp_path / "runs", tmp_path / "brought")
    done = [line.partition("] done ")[2].split()[0] for line in report.splitlines() if "] done " in line]
    assert sorted(came) == sorted(done)
    assert all((tmp_path / "runs" / run / "results.jsonl").is_file() for run in came)
    if came:
        assert f"{len(came)} runs of earlier calls are skipped" in hold("second", "0")


@pytest.mark.slow
def test_a_lease_that_is_told_to_stop_packs_first(tmp_path: Path) -> None:
    words = ["run", "--out", f"{tmp_path}/out", "--work", f"{tmp_path}/work", "--brought", f"{tmp_path}/brought"]
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / lease.QUEUE).write_text("untrained cpu\n")
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.lease", *words, "--rehearse", "yes"], cwd=ROOT)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == lease.STOPPED
    assert (tmp_path / "out" / "lease-1.tar.gz").exists()
    assert (tmp_path / "out" / "report.txt").exists()


def test_measurements_run_in_turn_within_their_limits_and_their_last_lines_and_logs_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = "import time; print('begun', flush=True); time.sleep(60)"
    (tmp_path / "slow.py").write_text(slow)
    (tmp_path / "fast.py").write_text("import sys; print('rows in', sys.argv[1])")
    made = (("slow", 0.5, f"{tmp_path}/slow.py"), ("fast", 30, f"{tmp_path}/fast.py {{out}}/x"))
    monkeypatch.setattr(lease, "MEASUREMENTS", made)
    (tmp_path / "brought").mkdir()
    words = ["--out", f"{tmp_path}/out", "--work", f"{tmp_path}/work", "--brought", f"{tmp_path}/brought"]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert lease.main(["measure", *words, "--budget", "1"]) == 0
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    text = capsys.readouterr().out
    assert "slow was ended" in text and "slow: begun" in text and f"fast: rows in {tmp_path}/out/x" in text
    assert (tmp_path / "out" / "slow.log").read_text() == "begun\n"
