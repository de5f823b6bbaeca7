"""Time one worker against two on this machine: the main job, and its generator's training.

    python tests/benchmarks/workers.py [--rounds 3] [--batch_size 128]

Two workers share the cores that one has for itself, so this is what sharing costs, not what it gains.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness


def cluster(count: int) -> list[str]:
    """Return a TF_CONFIG for each of that many workers on free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    tasks = ({"type": "worker", "index": index} for index in range(count))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def train(count: int, arguments: list[str], folder: Path) -> tuple[float, float, float]:
    """Run the main job on so many workers; return its seconds, its generator's, and the last val_loss."""
    start = time.perf_counter()
    command = [sys.executable, harness.SCRIPT, *arguments, "--results", "results.json"]
    workers = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=os.environ | {"TF_CONFIG": own})
        for own in (cluster(count) if count > 1 else [""])
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}")
    seconds = time.perf_counter() - start
    generator = json.loads((folder / "results.json").read_text())["generator"]
    return seconds, generator["seconds"], generator["history"][-1]["val_loss"]


def measure(rounds: int = 3, batch_size: int = 128) -> None:
    arguments = ["-k", "10", "-n", "10000", "--data", "simulated", "-b", str(batch_size)]
    times: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for count, taken in times.items():
                taken.append(train(count, arguments, Path(folder)))
    for number, what in enumerate(("main job", "its generator's training")):
        one, two = ([taken[number] for taken in times[count]] for count in times)
        harness.table_row(
            f"two workers on one machine, {what}",
            f"{statistics.median(two):.1f} s, {harness.ratio(two, one)} times one worker's "
            f"{statistics.median(one):.1f} s",
        )
    differences = [abs(shared[2] / alone[2] - 1) for alone, shared in zip(times[1], times[2], strict=True)]
    harness.table_row("last val_loss of two workers against one, relative difference", f"{max(differences):.0e}")


if __name__ == "__main__":
    harness.run(measure)
