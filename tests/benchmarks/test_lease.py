"""The lease of a GPU: its queue, its archives, what a second lease goes on from, and the whole in small."""

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

from benchmarks import lease
from benchmarks.lease import Estimate, Job, LeaseError, Line, Machine, Queue, Unit

ROOT = Path(__file__).resolve().parents[2]


def job(name: str, images: int = 1000, *, parent: str | None = None, weight: int = 1) -> Job:
    return Job(name, name, "cpu/simsiam", images, {}, ("knn",), parent, weight)


def child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], process_group=0)


def queue(
    jobs: list[Job], code: str = "pass", *, places: int = 1, memory_mb: float = 1e6, rate: float = 100.0
) -> Queue:
    estimate = Estimate({"cpu/simsiam": {"images_per_s": rate, "peak_memory_mb": 1000.0}}, overhead=0.0)
    return Queue(jobs, Machine(places, memory_mb), estimate, lambda job: child(code), lambda line: None, grace=2.0)


def finished(folder: Path, name: str, protocols: tuple[str, ...] = ("knn",), **about: object) -> Path:
    """A run as the trainer leaves it, with weights that nobody may pack."""
    run = folder / name
    for part in ("views", "checkpoints", "features"):
        (run / part).mkdir(parents=True)
        (run / part / f"{part}.parquet").write_bytes(os.urandom(20_000))
    (run / "manifest.json").write_text(json.dumps({"state": "done", "commit": "unknown"} | about))
    (run / "metrics.jsonl").write_text('{"kind": "step"}\n')
    (run / "results.jsonl").write_text("".join(json.dumps({"protocol": p}) + "\n" for p in protocols))
    return run


def test_a_line_of_several_recipes_and_seeds_gives_whole_pairs_first() -> None:
    found = lease.read_queue("# a comment\n\na,b cpu seed=1..2 parent.seed={seed} epochs=3 -- linear\nc gpu\n")
    assert found == [
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


def test_the_order_is_kept_and_a_run_that_cannot_end_in_time_is_passed_over() -> None:
    q = queue([job("long", 5000), job("first", 1000), job("second", 1000)])
    assert q.next(left=30.0) == q.jobs[1]  # 50 s alone, half as long again beside others
    assert q.next(left=100.0) == q.jobs[0]
    assert q.next(left=10.0) is None
    q.state["first"] = "done"
    assert q.next(left=30.0) == q.jobs[2]


def test_a_run_waits_for_its_parent_and_is_left_where_that_failed() -> None:
    q = queue([job("gan"), job("ppcl", parent="gan"), job("other")], places=3)
    q._start(q.jobs[0])
    assert q.next(1e6) == q.jobs[2]
    q.running[0].process.wait()
    q._reap()
    assert q.next(1e6) == q.jobs[1]
    q.state["gan"] = "failed"
    assert q.next(1e6) == q.jobs[2]


@pytest.mark.parametrize(("places", "memory", "beside"), [(3, 1e6, 3), (12, 5000.0, 2), (1, 1e6, 1), (1, 1.0, 1)])
def test_as_many_run_side_by_side_as_places_and_memory_allow(places: int, memory: float, beside: int) -> None:
    q = queue([job(str(i)) for i in range(6)], "import time; time.sleep(60)", places=places, memory_mb=memory)
    try:
        while (found := q.next(1e6)) is not None:
            q._start(found)
        assert len(q.running) == beside  # 1,300 MB and 600 of its own each, of 85 % of the memory; one always goes
    finally:
        lease.end([c.process for c in q.running], 1.0)


def test_a_heavy_run_takes_several_places_and_nothing_overtakes_it() -> None:
    q = queue([job("a"), job("heavy", weight=4), job("b")], "import time; time.sleep(60)", places=4)
    try:
        q._start(q.jobs[0])
        assert q.next(1e6) is None
    finally:
        lease.end([c.process for c in q.running], 1.0)


def test_the_queue_ends_at_its_deadline_and_ends_what_does_not_listen() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    q = queue([job("deaf", 0), job("late", 10**6)], deaf)
    q.grace = 0.5
    start = time.monotonic()
    q.run(start + 2.0, lambda: False)
    assert time.monotonic() - start < 20
    assert q.state == {"deaf": "stopped"}
    assert not q.running


def test_a_run_that_hangs_is_ended_and_the_next_one_has_its_turn() -> None:
    q = queue([job("hangs"), job("next")], "import time; time.sleep(60)")
    q._start(q.jobs[0])
    q.running[0].late = time.monotonic() - 1
    q._reap()
    assert q.state == {"hangs": "hung"}
    assert q.next(1e6) == q.jobs[1]


def test_a_run_that_fails_is_told_and_does_not_stop_the_others() -> None:
    q = queue([job("a", 0), job("b", 0)], "raise SystemExit(3)")
    q.run(time.monotonic() + 60, lambda: False)
    assert q.state == {"a": "failed", "b": "failed"}


def test_what_ended_here_tells_how_long_the_next_takes() -> None:
    estimate = Estimate({"cpu/a": {"images_per_s": 100.0}, "cpu/b": {"images_per_s": 50.0}}, overhead=10.0)
    a, unknown, elsewhere = (Job("x", "x", rate, 1000, {}) for rate in ("cpu/a", "cpu/c", "gpu/a"))
    assert estimate.alone(a) == 20.0
    assert estimate.alone(unknown) == 30.0  # the slowest of its rung
    assert estimate.seconds(elsewhere) is None
    estimate.learn(a, 60.0)  # three times as long as alone, so does the other
    assert estimate.seconds(a) == pytest.approx(60.0)
    assert estimate.seconds(unknown) == pytest.approx(90.0)


def test_archives_keep_to_their_limit_and_what_has_no_room_is_named(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.bin").write_bytes(os.urandom(40_000))
    found = [Unit(str(i), ((tmp_path / f"{i}.bin", f"runs/{i}/x.bin"),)) for i in range(7)]
    left = lease.pack(tmp_path / "out", found, limit=100_000, count=3)
    archives = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in archives] == ["lease-1.tar.gz", "lease-2.tar.gz", "lease-3.tar.gz"]
    assert all(p.stat().st_size <= 100_000 for p in archives)
    names = []
    for path in archives:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [f"runs/{i}/x.bin" for i in range(6)]
    assert left == ["6"]
    lease.pack(tmp_path / "out", found[:1], limit=100_000, count=3)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["lease-1.tar.gz"]


def test_rows_of_all_runs_come_before_any_view_and_weights_never(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / "runs", name)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("said")
    found = lease.units(tmp_path / "runs", tmp_path / "logs", ["a", "b"])
    assert [u.name for u in found] == ["a", "b", "a.log", "a: views", "b: views"]
    late, early = finished(tmp_path / "more", "x-cpu-s2-ab"), finished(tmp_path / "more", "y-cpu-s0-cd")
    for run in (late, early):
        (run / "snapshots").mkdir()
        (run / "snapshots" / "1.npz").write_text("bank")
    extras = [u.name for u in lease.units(tmp_path / "more", tmp_path / "logs", [late.name, early.name])][3:]
    assert extras == [f"{run}: {kind}" for run in (early.name, late.name) for kind in ("views", "snapshots")]
    names = {name for u in found for _, name in u.files}
    assert not [n for n in names if "checkpoints" in n or "features" in n]
    assert {"runs/a/manifest.json", "runs/a/results.jsonl", "runs/a/views/views.parquet"} <= names


def test_merged_archives_give_the_runs_back_and_the_next_lease_skips_them(tmp_path: Path) -> None:
    finished(tmp_path / "there", "a")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "throughput.json").write_text('{"rows": []}')
    lease.pack(tmp_path / "out", lease.units(tmp_path / "there", tmp_path / "logs", ["a"]), limit=10**6, count=5)
    archives = sorted((tmp_path / "out").iterdir())
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
    mine = finished(tmp_path / "here", "a", ("knn", "linear"))
    (tmp_path / "logs").mkdir()
    lease.pack(tmp_path / "out", lease.units(tmp_path / "there", tmp_path / "logs", ["a"]), limit=10**6, count=1)
    lease.merge([tmp_path / "out/lease-1.tar.gz"], tmp_path / "here", tmp_path / "brought")
    assert (mine / "results.jsonl").read_text().count("\n") == 2
    assert (mine / "checkpoints").is_dir()


def test_an_archive_with_a_foreign_path_is_refused_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for name in ("../runs/a/x", "etc/x"):
        with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "x", "runs/good/x")
            tar.add(tmp_path / "x", name)
        with pytest.raises(LeaseError, match="no lease packs"):
            lease.merge([tmp_path / "bad.tar.gz"], tmp_path / "here", tmp_path / "brought")
        assert not list((tmp_path / "here").iterdir())


def test_a_run_without_all_its_rows_is_not_done(tmp_path: Path) -> None:
    run = finished(tmp_path, "a", ("knn",))
    assert lease.evaluated(run, ("knn",))
    assert not lease.evaluated(run, ("knn", "linear-lbfgs"))
    (run / "manifest.json").write_text('{"state": "stopped"}')
    assert not lease.evaluated(run, ("knn",))
    assert not lease.evaluated(tmp_path / "none", ())


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
    assert more["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "mps") and "share the card" in sentence
    assert mps.read_text().splitlines() == [f"start {tmp_path / 'mps'}", "quit -t 5"]


@pytest.mark.parametrize(("refuse", "check"), [("1", "true"), ("0", "false")], ids=["the daemon", "the first process"])
def test_processes_take_turns_where_sharing_fails(refuse: str, check: str, mps: Path, tmp_path: Path) -> None:
    more, sentence = lease.Sharing(tmp_path / "mps").start(os.environ | {"REFUSE": refuse}, [check])
    assert more == {} and "take turns" in sentence
    assert mps.read_text().splitlines()[-1] == "quit -t 5"  # nothing of it stays


def test_the_driver_needs_nothing_that_has_to_be_installed() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['hardlab'] = None; import benchmarks.lease"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


def test_every_line_of_the_queue_is_a_run_and_parents_come_first() -> None:
    from benchmarks import lease_work

    lines = lease.read_queue(lease.QUEUE.read_text())
    first = list({(line.recipe, line.rung): line for line in reversed(lines)}.values())[::-1]
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
    (tmp_path / "queue.txt").write_text("untrained cpu\nsimsiam cpu seed=3\n")
    command = [sys.executable, "-m", "benchmarks.lease", "run", "--queue", f"{tmp_path}/queue.txt", "--rehearse", "yes"]
    command += ["--brought", f"{tmp_path}/brought", "--budget", "1.5"]
    (tmp_path / "brought").mkdir()

    def hold(name: str) -> str:
        start = time.monotonic()
        more = ["--out", f"{tmp_path}/{name}", "--work", f"{tmp_path}/work-{name}"]
        told = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0, told.stderr
        assert time.monotonic() - start < 120
        return told.stdout

    said = hold("first")
    assert "packages  all there" in said
    assert "rates:" in said  # how many a loaded machine has time for is open
    came = lease.merge(sorted((tmp_path / "first").glob("*.tar.gz")), tmp_path / "runs", tmp_path / "brought")
    done = [line.partition("] done ")[2].split()[0] for line in said.splitlines() if "] done " in line]
    assert sorted(came) == sorted(done)
    assert all((tmp_path / "runs" / run / "results.jsonl").is_file() for run in came)
    if came:
        assert f"{len(came)} runs of an earlier call are not made again" in hold("second")


@pytest.mark.slow
def test_a_lease_that_is_told_to_stop_packs_first(tmp_path: Path) -> None:
    words = ["run", "--out", f"{tmp_path}/out", "--work", f"{tmp_path}/work", "--brought", f"{tmp_path}/brought"]
    told = subprocess.Popen([sys.executable, "-m", "benchmarks.lease", *words, "--rehearse", "yes"], cwd=ROOT)
    time.sleep(3)
    told.send_signal(signal.SIGTERM)
    assert told.wait(60) == lease.STOPPED
    assert (tmp_path / "out" / "lease-1.tar.gz").exists()
    assert (tmp_path / "out" / "report.txt").exists()
