"""Several workers: real processes on this machine that train one model, and what happens when one goes wrong."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, call, epoch_lines, make_table, write_tables

import rnagen

SCRIPT = Path(rnagen.__file__)
SECONDS = 90  # that any of these processes may take, on a machine that is busy


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def cluster(ports: list[int], index: int) -> str:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def slurm_step(tasks: int, index: int) -> dict[str, str]:
    """Return what Slurm tells one task of a step on this machine."""
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": str(tasks)}
    step |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": str(tasks)}
    step |= {"no_proxy": "localhost"}  # which gRPC would look for behind the proxy that the tests set
    return step | {"SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_PROCID": str(index)}


@contextlib.contextmanager
def workers(*arguments: list[object], slurm: bool = False) -> Iterator[list[subprocess.Popen]]:
    """Start a worker with each of these lists of arguments, in folders of their own, and see them ended."""
    ports = free_ports(len(arguments))
    started = []
    try:
        for index, own in enumerate(arguments):
            folder = Path(f"worker{index}")
            folder.mkdir(exist_ok=True)
            with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
                command = [sys.executable, str(SCRIPT), *map(str, own)]
                own = slurm_step(len(arguments), index) if slurm else {"TF_CONFIG": cluster(ports, index)}
                started.append(subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | own, cwd=folder))
        yield started
    finally:
        for one in started:
            one.kill()
            one.wait()


def said(index: int) -> tuple[str, str]:
    return Path(f"worker{index}/out").read_text(), Path(f"worker{index}/err").read_text()


def error_of(index: int) -> str:
    """Return the one line that a worker ended with."""
    lines = said(index)[1].splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("count", [2, 3])
def test_several_workers_train_the_model_of_one(count: int, tables: list[object]) -> None:
    arguments = [*tables, *QUICK, "--results", "r.json"]
    if count == 2:  # all that is written, and a choice to agree on
        keep = ["--output", "s.tsv", "--save_model", "m.safetensors", "--report", "report", "--plot", "plot.png"]
        arguments = [*tables, *QUICK[:-2], "--temperature", 1.5, *keep, "--results", "r.json"]
    one = call(*arguments)
    assert one.code == 0, one.err
    with workers(*[arguments] * count, slurm=count == 3) as started:
        assert [worker.wait(SECONDS) for worker in started] == [0] * count, [said(index) for index in range(count)]
    own, theirs = (json.loads(Path(name).read_text()) for name in ("r.json", "worker0/r.json"))
    assert (own["workers"], theirs["workers"]) == (1, count)
    for ours, same in zip(own["generator"]["history"], theirs["generator"]["history"], strict=True):
        assert same["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-4)
        assert same["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert theirs["accuracy"] == pytest.approx(own["accuracy"], abs=0.03)
    assert len(epoch_lines(said(0)[0])) == len(epoch_lines(one.out))
    written = {path.name for path in Path("worker0").iterdir()}
    assert written == {"out", "err", "r.json"} | (
        {"s.tsv", "m.safetensors", "report", "plot.png", "plot.csv"} if count == 2 else set()
    )
    for index in range(1, count):
        assert said(index) == ("", "")
        assert {path.name for path in Path(f"worker{index}").iterdir()} == {"out", "err"}


def test_a_worker_that_dies_ends_the_others(tables: list[object]) -> None:
    arguments = [*tables, "-e", 10**6, "-n", 50, "-d", 3, "--temperature", 1, "--output", "s.tsv"]
    with workers(arguments, arguments) as (chief, other):
        deadline = time.monotonic() + SECONDS
        while "Epoch 20/" not in said(0)[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        other.kill()
        assert chief.wait(60) == 1
    assert error_of(0).startswith("rnagen: error: worker 0 of 2: another worker has stopped")
    assert {path.name for path in Path("worker0").iterdir()} == {"out", "err"}


@pytest.mark.parametrize("what", ["arguments", "tables"])
def test_workers_must_agree(what: str, tables: list[object], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    others = {"arguments": [*tables, "--seed", 5], "tables": write_tables(tmp_path / "other", make_table(seed=1))}
    with workers([*tables, "--output", "s.tsv"], [*others[what], "--output", "t.tsv"]) as started:
        assert [worker.wait(SECONDS) for worker in started] == [1, 1]
    for index in (0, 1):
        assert f"worker {index} of 2 has other {what} than worker {1 - index}; start all" in error_of(index)
        assert {path.name for path in Path(f"worker{index}").iterdir()} == {"out", "err"}


def test_several_devices_of_one_machine_share_a_batch() -> None:
    """As on several GPUs, which two parts of the CPU stand for."""
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import numpy as np, rnagen
        rnagen.import_tensorflow()
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        rows = np.random.default_rng(0).normal(size=(100, 8)).astype("float32"), np.arange(100, dtype="int32") % 3
        for workers in (rnagen.ALONE, rnagen.Workers(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))):
            model = rnagen.Classifier(3, (np.ones(8, "float32"), np.zeros(8, "float32")), rnagen.stream(0, "weights"))
            training = rnagen.Training(model, rows, 64, 0.01, rnagen.stream(0, "order"), workers)
            print(*(training.advance(training.steps_per_epoch)["loss"] for _ in range(5)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(SCRIPT.parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    one, two = (list(map(float, line.split())) for line in run.stdout.splitlines())
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0]


# ---- bad input ----


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be"),
        ("{}", "'cluster' is missing"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "'task' is missing"),
        (
            '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
            "an address is not HOST:PORT",
        ),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}', "is not among the 2"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": "0"}}', ""),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:2"]}, "task": {"type": "ps", "index": 0}}', "only `chief` and"),
        ('{"cluster": {"worker": 7}, "task": {"type": "worker", "index": 0}}', ""),
    ],
)
def test_malformed_clusters_are_one_line(
    text: str, reason: str, tables: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    line = call(*tables, "--output", "s.tsv").error(1)
    assert line.startswith("rnagen: error: TF_CONFIG: cannot be used (")
    assert reason in line
    assert not Path("s.tsv").exists()


def test_a_cluster_of_one_is_no_cluster(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", cluster(free_ports(1), 0))
    assert call(*tables, *QUICK, "-m", "cvae").code == 0


def test_an_address_in_use_is_one_line(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [*free_ports(1), taken.getsockname()[1]]
        monkeypatch.setenv("TF_CONFIG", cluster(ports, 1))
        line = call(*tables).error(1)
    assert line == (
        f"rnagen: error: worker 1: its address 127.0.0.1:{ports[1]} cannot be used (Address already in use); give it "
        f"another (a new Slurm step has others)"
    )


@pytest.mark.parametrize(
    ("gpus", "index", "left"),
    [("0,1,2,3", 1, "1,3"), ("4,6", 2, "4"), ("5", 1, "5"), ("", 1, ""), (None, 1, None), ("0,1", 4, "0,1")],
)
def test_tasks_of_a_slurm_step_share_the_gpus_of_their_machine(
    gpus: str | None, index: int, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"STEP_NODELIST": "n[8-10]", "STEP_TASKS_PER_NODE": "2(x2),1", "STEP_NUM_TASKS": "5", "PROCID": str(index)}
    for name, value in (step | {"JOB_ID": "7", "STEP_ID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if gpus is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    addresses, found = rnagen.read_cluster(rnagen.slurm_cluster(5, index))
    assert found == index
    assert [address.split(":")[0] for address in addresses] == ["n8", "n8", "n9", "n9", "n10"]
    assert len(set(addresses)) == 5
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert not {*rnagen.read_cluster(rnagen.slurm_cluster(5, index))[0]} & {*addresses}


def test_a_worker_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "JOIN_SECONDS", 1)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    errors: list[str] = []

    def come(index: int) -> None:
        try:
            rnagen.meet(addresses, index)
        except rnagen.RnagenError as error:
            errors.append(str(error))

    two = [threading.Thread(target=come, args=(index,)) for index in (0, 2)]
    [thread.start() for thread in two]
    [thread.join(30) for thread in two]
    assert sorted(errors) == [
        f"worker {index}: not heard from {addresses[1]} in 1 seconds; start all workers at once" for index in (0, 2)
    ]


def test_all_who_come_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(4)]
    come = [threading.Thread(target=rnagen.meet, args=(addresses, index)) for index in range(4)]
    for thread in np.random.default_rng(0).permutation(np.array(come, dtype=object)):
        thread.start()
        time.sleep(0.2)
    [thread.join(30) for thread in come]
    assert not any(thread.is_alive() for thread in come)
