"""Time a training step of the CVAE here, by Keras fit, and as a share of this machine's matrix-multiply peak.

    python tests/benchmarks/training_step.py [--rounds 9] [--genes 942] [--batch 128]

The network, batches, optimiser and printed measures are the same in both; each runs in its own process with its own
thread settings (fit with TensorFlow's defaults), and each round times one epoch of each, in turn.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

TYPES, LATENT, BATCHES = 20, 32, 50


def autoencoder(genes: int, unit: rnagen.Unit) -> rnagen.Autoencoder:
    """Return the network that both train, with as many latent dimensions as the simulated cohort asks for."""
    rng = np.random.default_rng(0)
    label = np.arange(500) % TYPES
    rows = (rng.standard_normal((500, genes), dtype=np.float32), label.astype(np.int32))
    factors = rnagen.fit_factors(rows, np.arange(500), TYPES, LATENT)
    floor = np.full(genes, -np.inf, np.float32)
    return rnagen.Autoencoder("cvae", factors, floor, unit, TYPES, rnagen.stream(1, "weights"))


def fit_model(genes: int, unit: rnagen.Unit):  # noqa: ANN201
    """Return the same network as a Keras model for fit, written as Keras' own VAE example is."""
    import keras
    import tensorflow as tf

    class FitModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.network = autoencoder(genes, unit)
            self.encoder, self.decoder = self.network.encoder, self.network.decoder
            self.linear = list(self.network.linear.values())
            self.trackers = [keras.metrics.Mean(name) for name in ("loss", "kl", "xent", "mse", "corr")]

        @property
        def metrics(self) -> list:
            return self.trackers

        def train_step(self, data: tuple) -> dict:
            real, types = data
            with tf.GradientTape() as tape:
                mean, log_variance = self.network.encode(real, types)  # what is to be learned does not matter here
                latent = mean + tf.exp(log_variance / 2) * tf.random.normal(tf.shape(mean))
                expected = self.network.decode(latent, types)
                log_noise = self.network.linear["log_noise"].value
                squares = tf.square((real - expected) * tf.exp(-log_noise))
                kl = tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - 1 - log_variance, 1) / 2
                loss = tf.reduce_mean(tf.reduce_sum(squares / 2 + log_noise + 0.919, 1) + kl)
            gradients = tape.gradient(loss, self.network.weights)
            self.optimizer.apply_gradients(zip(gradients, self.network.weights, strict=True))
            real, drawn = (values * unit[0] + unit[1] for values in (real, expected))
            centred, drawn_centred = real - tf.reduce_mean(real), drawn - tf.reduce_mean(drawn)
            spread = tf.sqrt(tf.reduce_sum(centred**2) * tf.reduce_sum(drawn_centred**2))
            xent = tf.reduce_mean(keras.losses.binary_crossentropy(real, drawn))
            values = (
                loss,
                tf.reduce_mean(kl),
                xent,
                tf.reduce_mean((real - drawn) ** 2),
                tf.reduce_sum(centred * drawn_centred) / spread,
            )
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = FitModel()
    model.compile(optimizer=keras.optimizers.Adam(rnagen.GENERATOR_RATE))
    return model


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


def tasks(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Return one epoch of rnagen's loop and one of Keras fit, on the same rows."""
    rnagen.load_tensorflow()
    rng = np.random.default_rng(0)
    real = rng.standard_normal((BATCHES * args.batch, args.genes), dtype=np.float32)
    types = rng.integers(TYPES, size=len(real)).astype(np.int32)
    unit = (np.full(args.genes, 0.15, np.float32), np.full(args.genes, 0.5, np.float32))
    ours = autoencoder(args.genes, unit)
    training = rnagen.Training(ours, (real, types), args.batch, rnagen.GENERATOR_RATE, rnagen.stream(1, "order"))
    keras_model = fit_model(args.genes, unit)
    return {
        "rnagen": lambda: training.advance(BATCHES),
        "fit": lambda: keras_model.fit(real, types, batch_size=args.batch, verbose=0),
    }


def serve(args: argparse.Namespace) -> None:
    """Time an epoch of args.part, in ms a step, for each line on stdin; then print the peak."""
    epoch = tasks(args)[args.part]
    epoch()  # traces
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(1000 * (time.perf_counter() - start) / BATCHES, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--genes", type=int, default=942)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--part", choices=("rnagen", "fit"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        serve(args)
        return
    command = [sys.executable, __file__, "--genes", str(args.genes), "--batch", str(args.batch), "--part"]
    threads = {"rnagen": "1", "fit": "0"}  # rnagen's own setting, and TensorFlow's default: as many as there are cores
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parts = {
        part: subprocess.Popen(
            [*command, part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_NUM_INTRAOP_THREADS": threads[part]},
        )
        for part in threads
    }
    times: dict[str, list[float]] = {part: [] for part in parts}
    for number in range(args.rounds + 1):
        for part, process in parts.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            taken = float(process.stdout.readline())
            times[part] += [taken] if number else []  # the first is warm-up
    for process in parts.values():
        process.stdin.close()
        process.wait()

    os.environ["TF_NUM_INTRAOP_THREADS"] = "0"
    rnagen.load_tensorflow()
    encoder = (args.genes + TYPES, *rnagen.HIDDEN_ENCODER, 2 * LATENT)
    networks = (
        encoder,
        (LATENT + TYPES, *rnagen.HIDDEN_DECODER, args.genes),
        (args.genes, LATENT),
        (LATENT, args.genes),
    )
    weights = sum(a * b for sizes in networks for a, b in itertools.pairwise(sizes))
    first = (args.genes + TYPES) * encoder[1] + args.genes * LATENT  # need no gradient of their input
    flops, peak = args.batch * 2 * (3 * weights - first), peak_flops()
    for name, taken in times.items():
        middle = statistics.median(taken)
        share = flops / (middle / 1000) / peak
        print(
            f"{name:7s} {middle:6.2f} ms a step (min {min(taken):.2f}, max {max(taken):.2f}), {share:.0%} of the peak"
        )
    ratios = [a / b for a, b in zip(times["rnagen"], times["fit"], strict=True)]
    print(f"ratio   {statistics.median(ratios):6.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")
    print(
        f"peak    {peak / 1e9:6.0f} GFLOP/s in float32; {flops / 1e6:.0f} MFLOP a step of {args.batch} x {args.genes}"
    )


if __name__ == "__main__":
    main()
