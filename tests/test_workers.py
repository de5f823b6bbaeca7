"""Several workers: real processes on this machine that train one model, and what happens when one goes wrong."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import QUICK, call, epoch_lines, make_table, write_tables

import rnagen

SCRIPT = Path(rnagen.__file__)
SECONDS = 300  # that any of these processes may take, on a machine that is busy


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def cluster(ports: list[int], index: int) -> dict[str, str]:
    """Return the environment that tells one worker of the others."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}


def slurm_step(tasks: int, index: int) -> dict[str, str]:
    """Return what Slurm tells one task of a step on this machine."""
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": str(tasks)}
    step |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": str(tasks)}
    step |= {"no_proxy": "localhost"}  # which gRPC would look for behind the proxy that the tests set
    return step | {"SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_PROCID": str(index)}


@contextlib.contextmanager
def workers(*started: tuple[list[object], dict[str, str]]) -> Iterator[list[subprocess.Popen]]:
    """Start workers with these commands and environments, in folders of their own, and see them ended."""
    processes = []
    try:
        for index, (command, environment) in enumerate(started):
            folder = Path(f"worker{index}")
            folder.mkdir()
            with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
                line = [sys.executable, *map(str, command)]
                processes.append(
                    subprocess.Popen(line, stdout=out, stderr=err, env=os.environ | environment, cwd=folder)
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(index: int) -> tuple[str, str]:
    return Path(f"worker{index}/out").read_text(), Path(f"worker{index}/err").read_text()


def error_of(index: int) -> str:
    """Return the one line that a worker ended with, which leaves nothing else behind."""
    lines = said(index)[1].splitlines()
    assert len(lines) == 1, lines
    assert {path.name for path in Path(f"worker{index}").iterdir()} == {"out", "err"}
    return lines[0]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments of a short training."""
    return [*write_tables(tmp_path_factory.mktemp("training"), make_table()), *QUICK, "--results", "r.json"]


@pytest.fixture(scope="module")
def alone(training: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """Return what one worker finds in it, and what it prints."""
    results = tmp_path_factory.mktemp("alone") / "r.json"
    run = call(*training[:-1], results)
    assert run.code == 0, run.err
    return json.loads(results.read_text()), run.out


@pytest.mark.parametrize("count", [2, 3])
def test_several_workers_train_the_model_of_one(count: int, training: list[object], alone: tuple[dict, str]) -> None:
    kept = ["--output", "s.tsv", "--save_model", "m.safetensors", "--plot", "plot.png"] if count == 2 else []
    ports = free_ports(count)
    environments = [slurm_step(3, index) if count == 3 else cluster(ports, index) for index in range(count)]
    with workers(*[([SCRIPT, *training, *kept], environment) for environment in environments]) as started:
        assert [worker.wait(SECONDS) for worker in started] == [0] * count, [said(index) for index in range(count)]
    own, theirs = alone[0], json.loads(Path("worker0/r.json").read_text())
    assert (own["workers"], theirs["workers"]) == (1, count)
    for ours, same in zip(own["generator"]["history"], theirs["generator"]["history"], strict=True):
        assert same["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-4, abs=1e-4)
        assert same["loss"] == pytest.approx(ours["loss"], rel=1e-4, abs=1e-4)
    for arm in ("real", "augmented"):
        assert theirs["accuracy"][arm]["mean"] == pytest.approx(own["accuracy"][arm]["mean"], abs=0.03)
    assert len(epoch_lines(said(0)[0])) == len(epoch_lines(alone[1]))
    written = {path.name for path in Path("worker0").iterdir()}
    assert written == {"out", "err", "r.json"} | ({"s.tsv", "m.safetensors", "plot.png", "plot.csv"} if kept else set())
    for index in range(1, count):
        assert said(index) == ("", "")
        assert {path.name for path in Path(f"worker{index}").iterdir()} == {"out", "err"}


@pytest.mark.parametrize(("victim", "number"), [(1, signal.SIGKILL), (0, signal.SIGTERM)])
def test_a_worker_that_ends_ends_the_others(victim: int, number: int, training: list[object]) -> None:
    ports, command = free_ports(2), [SCRIPT, *training, "-e", 10**6, "--output", "s.tsv"]
    with workers((command, cluster(ports, 0)), (command, cluster(ports, 1))) as started:
        deadline = time.monotonic() + SECONDS
        while "Epoch 20/" not in said(0)[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        started[victim].send_signal(number)
        assert started[1 - victim].wait(SECONDS) == 1
        assert started[victim].wait(SECONDS) == (143 if number == signal.SIGTERM else -number)
    assert error_of(1 - victim).startswith(f"rnagen: error: worker {1 - victim} of 2: another worker has stopped")
    if number == signal.SIGTERM:
        assert error_of(victim) == "rnagen: terminated"


@pytest.mark.parametrize("what", ["arguments", "tables"])
def test_workers_must_agree(what: str, training: list[object], tmp_path: Path) -> None:
    other = {
        "arguments": [*training, "--seed", 5],
        "tables": [*write_tables(tmp_path, make_table(seed=1)), *training[4:]],
    }
    ports = free_ports(2)
    with workers(([SCRIPT, *training], cluster(ports, 0)), ([SCRIPT, *other[what]], cluster(ports, 1))) as started:
        assert [worker.wait(SECONDS) for worker in started] == [1, 1]
    for index in (0, 1):
        assert f"worker {index} of 2 has other {what} than worker {1 - index}; start all" in error_of(index)


def test_what_keeps_a_worker_from_joining_is_one_line(training: list[object]) -> None:
    """The others do not come, the first worker does not come, and the address is in use."""
    impatient = "import sys; sys.path.insert(0, sys.argv[1]); import rnagen; rnagen.JOIN_SECONDS = 3; "
    command = ["-c", impatient + "sys.exit(rnagen.main(sys.argv[2:]))", SCRIPT.parent, *training]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chief, second, third, absent = free_ports(4)
        used = taken.getsockname()[1]
        environments = [cluster([chief, second, third], 0), cluster([absent, second], 1), cluster([third, used], 1)]
        with workers(*[(command, environment) for environment in environments]) as started:
            assert [worker.wait(SECONDS) for worker in started] == [1] * 3
    assert error_of(0) == (
        f"rnagen: error: worker 0 of 3: not heard from worker 1 at 127.0.0.1:{second}, worker 2 at 127.0.0.1:{third} "
        f"in 3 seconds; start all of them at once"
    )
    assert error_of(1) == (
        f"rnagen: error: worker 1 of 2: not heard from worker 0 at 127.0.0.1:{absent} in 3 seconds; start all of "
        f"them at once"
    )
    assert error_of(2) == (
        f"rnagen: error: worker 1 of 2 cannot join the others (Could not start gRPC server); start all of them again, "
        f"each with a free address of its own machine in 127.0.0.1:{third}, 127.0.0.1:{used}"
    )


def test_several_devices_of_one_machine_share_a_batch() -> None:
    """As on several GPUs, which two parts of the CPU stand for."""
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import numpy as np, rnagen
        rnagen.start_tensorflow(devices=False)
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
        samples = rnagen.Samples(x, np.arange(100, dtype="int32") % 3)
        for workers in (rnagen.ALONE, rnagen.Workers(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))):
            model = rnagen.Classifier(3, (np.ones(8, "float32"), np.zeros(8, "float32")), rnagen.stream(0, "weights"))
            trainer = rnagen.Trainer(model, 8, 64, 0.01, workers)
            trainer.start(samples, model.copy_weights(), rnagen.stream(0, "order"))
            print(*(trainer.advance(trainer.steps_per_epoch)["loss"] for _ in range(5)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(SCRIPT.parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 0, run.stderr
    one, two = (list(map(float, line.split())) for line in run.stdout.splitlines())
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0]


# ---- bad input ----


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": "0"}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:2"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": 7}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_malformed_clusters_are_one_line(text: str, tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert call(*tables, "--output", "s.tsv").error(1) == (
        f"rnagen: error: TF_CONFIG: {text} is not a cluster with this task in it; unset it, or give "
        f'{{"cluster": {{"worker": ["HOST:PORT", ...]}}, "task": {{"type": "worker", "index": 0}}}}'
    )
    assert not Path("s.tsv").exists()


def test_a_cluster_of_one_is_no_cluster(training: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", cluster(free_ports(1), 0)["TF_CONFIG"])
    assert call(*training, "-e", 1).code == 0
    assert json.loads(Path("r.json").read_text())["workers"] == 1


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
    addresses = rnagen.slurm_cluster(5, index)
    assert [address.split(":")[0] for address in addresses] == ["n8", "n8", "n9", "n9", "n10"]
    assert len(set(addresses)) == 5
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert not {*rnagen.slurm_cluster(5, index)} & {*addresses}
