"""Time training steps of the CVAE and of the classifier in rnagen's loop and in Keras fit, set up well and not at all.

    python tests/benchmarks/training_step.py [--rounds 9] [--genes 942]

Networks, losses, metrics, batches and optimiser are the same everywhere. `fit` is set up with many steps in one graph
call and one thread for an operation, with and without XLA, and, for reference, left as it comes. Each loop has a
process of its own, and each round times ten epochs of each, in turn. The classifier is timed alone and in two
trainings side by side, as rnagen runs them; a step then takes the time over the steps of both.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import keras_fit
import numpy as np
import tensorflow as tf

import rnagen

TYPES, LATENT, BATCHES, EPOCHS = 20, 32, 50, 10
TUNED = {"fit": keras_fit.FitSettings(jit=False), "fit by XLA": keras_fit.FitSettings(jit=True)}
LOOPS = {"rnagen": None, **TUNED, "untuned fit": keras_fit.FitSettings(steps_per_execution=1, threads=0)}
CVAE_BATCH = rnagen.ModelConfig().batch_size
TASKS = {  # network, its batch and rate, trainings side by side
    "CVAE": ("CVAE", CVAE_BATCH, rnagen.PEAK_RATE, 1),
    "classifier": ("classifier", rnagen.CLASSIFIER_BATCH, rnagen.CLASSIFIER_RATE, 1),
    "classifier, two trainings side by side": ("classifier", rnagen.CLASSIFIER_BATCH, rnagen.CLASSIFIER_RATE, 2),
}


def make_network(kind: str, genes: int) -> rnagen.Network:
    """Return the network that all loops train, with as many latent dimensions as the simulated cohort asks for."""
    unit_scale = np.full(genes, 0.15, np.float32), np.full(genes, 0.5, np.float32)
    if kind == "classifier":
        return rnagen.Classifier(TYPES, unit_scale, rnagen.stream(1, "weights"))
    factors = rnagen.fit_factor_model(make_samples(500, genes), TYPES, LATENT, 1)
    return rnagen.CVAE("cvae", factors, np.full(genes, -np.inf, np.float32), unit_scale, rnagen.stream(1, "weights"))


def make_samples(rows: int, genes: int) -> rnagen.Samples:
    """Return random samples."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, genes), dtype=np.float32)
    return rnagen.Samples(x, (np.arange(rows) % TYPES).astype(np.int32), np.arange(rows))


def make_training(task: str, loop: str, genes: int) -> Callable[[], object]:
    """Return what trains for EPOCHS more, in rnagen's loop or in fit; its graph is there."""
    kind, batch, rate, _ = TASKS[task]
    network, samples = make_network(kind, genes), make_samples(BATCHES * batch, genes)
    if loop == "rnagen":
        trainer = rnagen.Trainer(network, genes, batch, rate)
        trainer.start(samples, network.copy_weights(), rnagen.stream(1, "order"))
        trainer.advance(1)
        return lambda: trainer.advance(BATCHES * EPOCHS)
    build = keras_fit.compile_classifier if kind == "classifier" else keras_fit.compile_generator
    model = build(network, LOOPS[loop])
    model.fit(samples.x, samples.y, batch, verbose=0)
    return lambda: model.fit(samples.x, samples.y, batch, EPOCHS, verbose=0)


def serve(loop: str, genes: int) -> None:
    """Answer each task named on stdin by milliseconds a step."""
    rnagen.start_tensorflow()
    trainings = {task: [make_training(task, loop, genes) for _ in range(TASKS[task][-1])] for task in TASKS}
    with ThreadPoolExecutor() as pool:
        for task in map(str.strip, sys.stdin):
            start = time.perf_counter()
            for done in [pool.submit(training) for training in trainings[task]]:
                done.result()
            steps = BATCHES * EPOCHS * len(trainings[task])
            print(1000 * (time.perf_counter() - start) / steps, flush=True)


def time_steps(rounds: int, genes: int) -> dict[str, dict[str, list[float]]]:
    """Return the milliseconds a step of each round, by task and loop."""
    processes = {}
    for loop, settings in LOOPS.items():
        threads = str(settings.threads) if settings else "1"  # rnagen's own
        processes[loop] = subprocess.Popen(
            [sys.executable, "-c", f"import training_step; training_step.serve({loop!r}, {genes})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
            env=os.environ | {"TF_NUM_INTRAOP_THREADS": threads},
        )
    times: dict[str, dict[str, list[float]]] = {task: {loop: [] for loop in LOOPS} for task in TASKS}
    for number in range(rounds + 1):
        for task, (loop, process) in itertools.product(TASKS, processes.items()):
            print(task, file=process.stdin, flush=True)
            taken = float(process.stdout.readline())
            times[task][loop] += [taken] if number else []  # the first is warm-up
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return times


def peak_flops() -> float:
    """Measure the machine's rate of float32 matrix multiplication."""
    matrix = tf.random.normal((2048, 2048))
    product = tf.function(lambda: matrix @ matrix)
    product()
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        rates.append(2 * 2048**3 / (time.perf_counter() - start))
    return max(rates)


def step_flops(genes: int) -> int:
    """Return the floating-point operations of the matrix products of a step of the CVAE."""
    encoder = (genes + TYPES, *rnagen.HIDDEN_ENCODER, 2 * LATENT)
    decoder = (LATENT + TYPES, *rnagen.HIDDEN_DECODER, genes)
    networks = (encoder, decoder, (genes, LATENT), (LATENT, genes))
    weights = sum(a * b for sizes in networks for a, b in itertools.pairwise(sizes))
    first = (genes + TYPES) * encoder[1] + genes * LATENT  # need no gradient of their input
    return CVAE_BATCH * 2 * (3 * weights - first)


def measure(rounds: int = 9, genes: int = 942) -> None:
    times = time_steps(rounds, genes)
    for task, loops in times.items():
        medians = {loop: statistics.median(taken) for loop, taken in loops.items()}
        best, other = sorted(TUNED, key=medians.get)
        harness.table_row(
            f"training step of the {task}, {TASKS[task][1]} rows of {genes} genes",
            f"{medians['rnagen']:.2f} ms, {harness.ratio(loops['rnagen'], loops[best])} of the {medians[best]:.2f} ms "
            f"of Keras `fit` with {LOOPS[best]}; with jit_compile={LOOPS[other].jit} {medians[other]:.2f} ms; "
            f"untuned ({LOOPS['untuned fit']}) {medians['untuned fit']:.2f} ms",
        )
    os.environ["TF_NUM_INTRAOP_THREADS"] = "0"
    rnagen.start_tensorflow()
    flops, peak = step_flops(genes), peak_flops()
    harness.table_row(
        f"training step of the CVAE, {CVAE_BATCH} rows of {genes} genes, of the matrix-multiply peak",
        f"{1000 * flops / statistics.median(times['CVAE']['rnagen']) / peak:.0%} of {peak / 1e9:.0f} GFLOP/s in "
        f"float32, {flops / 1e6:.0f} MFLOP a step",
    )


if __name__ == "__main__":
    harness.run(measure)
