"""Time a training step of the CVAE here, by Keras fit, and as a share of this machine's matrix-multiply peak.

    python tests/benchmarks/training_step.py [--rounds 9] [--genes 942] [--batch 128]

The network, batches, optimiser and printed measures are the same in both; each runs in its own process with its own
thread settings (fit with TensorFlow's defaults), and each round times ten epochs of each, in turn.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import harness
import keras_fit
import numpy as np

import rnagen

TYPES, LATENT, BATCHES, EPOCHS = 20, 32, 50, 10
THREADS = {"rnagen": "1", "fit": "0"}  # rnagen's own setting, and TensorFlow's default: as many as there are cores


def autoencoder(genes: int) -> rnagen.Autoencoder:
    """Return the network that both train, with as many latent dimensions as the simulated cohort asks for."""
    rng = np.random.default_rng(0)
    label = np.arange(500) % TYPES
    rows = (rng.standard_normal((500, genes), dtype=np.float32), label.astype(np.int32))
    factors = rnagen.fit_factors(rows, np.arange(500), TYPES, LATENT)
    unit = (np.full(genes, 0.15, np.float32), np.full(genes, 0.5, np.float32))
    floor = np.full(genes, -np.inf, np.float32)
    return rnagen.Autoencoder("cvae", factors, floor, unit, TYPES, rnagen.stream(1, "weights"))


def epochs_of(part: str, genes: int, batch: int) -> Callable[[], object]:
    """Return EPOCHS of rnagen's loop, or of Keras fit, on the same rows."""
    rnagen.load_tensorflow()
    rng = np.random.default_rng(0)
    real = rng.standard_normal((BATCHES * batch, genes), dtype=np.float32)
    types = rng.integers(TYPES, size=len(real)).astype(np.int32)
    network = autoencoder(genes)
    if part == "fit":
        model = keras_fit.generator_model(network)
        return lambda: model.fit(real, types, batch, EPOCHS, verbose=0)
    training = rnagen.Training(network, (real, types), batch, rnagen.GENERATOR_RATE, rnagen.stream(1, "order"))
    return lambda: training.advance(BATCHES * EPOCHS)


def serve(part: str, genes: int, batch: int) -> None:
    """Time EPOCHS, in ms a step, for each line on stdin."""
    epochs = epochs_of(part, genes, batch)
    epochs()  # traces
    for _ in sys.stdin:
        start = time.perf_counter()
        epochs()
        print(1000 * (time.perf_counter() - start) / (BATCHES * EPOCHS), flush=True)


def peak_flops() -> float:
    """Measure the machine's rate of float32 matrix multiplication."""
    import tensorflow as tf

    matrix = tf.random.normal((2048, 2048))
    product = tf.function(lambda: matrix @ matrix)
    product()
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        rates.append(2 * 2048**3 / (time.perf_counter() - start))
    return max(rates)


def step_flops(genes: int, batch: int) -> int:
    """Return the floating-point operations of the matrix products of a step."""
    encoder = (genes + TYPES, *rnagen.HIDDEN_ENCODER, 2 * LATENT)
    decoder = (LATENT + TYPES, *rnagen.HIDDEN_DECODER, genes)
    networks = (encoder, decoder, (genes, LATENT), (LATENT, genes))
    weights = sum(a * b for sizes in networks for a, b in itertools.pairwise(sizes))
    first = (genes + TYPES) * encoder[1] + genes * LATENT  # need no gradient of their input
    return batch * 2 * (3 * weights - first)


def measure(rounds: int = 9, genes: int = 942, batch: int = 128) -> None:
    processes = {}
    for part, threads in THREADS.items():
        program = f"import training_step; training_step.serve({part!r}, {genes}, {batch})"
        processes[part] = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
            env=os.environ | {"TF_NUM_INTRAOP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    times: dict[str, list[float]] = {part: [] for part in processes}
    for number in range(rounds + 1):
        for part, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            taken = float(process.stdout.readline())
            times[part] += [taken] if number else []  # the first is warm-up
    for process in processes.values():
        process.stdin.close()
        process.wait()

    os.environ["TF_NUM_INTRAOP_THREADS"] = "0"
    rnagen.load_tensorflow()
    flops, peak = step_flops(genes, batch), peak_flops()
    ours, theirs = (statistics.median(times[part]) for part in THREADS)
    what = f"training step of the CVAE, {batch} rows of {genes} genes"
    harness.table_row(
        what,
        f"{ours:.2f} ms, {harness.ratio(times['rnagen'], times['fit'])} of Keras `fit`'s {theirs:.2f} ms",
    )
    harness.table_row(
        f"{what}, of the matrix-multiply peak",
        f"{flops / ours * 1000 / peak:.0%} of {peak / 1e9:.0f} GFLOP/s in float32 (`fit`: "
        f"{flops / theirs * 1000 / peak:.0%}), {flops / 1e6:.0f} MFLOP a step",
    )


if __name__ == "__main__":
    harness.run(measure)
