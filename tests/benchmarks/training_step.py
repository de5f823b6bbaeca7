"""Time a training step of the CVAE here, by Keras fit, and as a share of this machine's matrix-multiply peak.

    python tests/benchmarks/training_step.py [--rounds 9] [--genes 942] [--batch 128]

The network, batches, optimiser and printed measures are the same in both; each round times one epoch of each, in turn.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

TYPES, LATENT, BATCHES = 20, 10, 50


def fit_model(genes: int, unit: rnagen.Unit):  # noqa: ANN201
    """Return the same network as a Keras model for fit, written as Keras' own VAE example is."""
    import keras
    import tensorflow as tf

    class FitModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.network = rnagen.Autoencoder(
                "cvae", np.zeros((TYPES, genes), np.float32), LATENT, unit, rnagen.stream(1, "weights")
            )
            self.encoder, self.decoder = self.network.encoder, self.network.decoder
            self.log_noise = self.network.log_noise
            self.trackers = [keras.metrics.Mean(name) for name in ("loss", "kl", "xent", "mse", "corr")]

        @property
        def metrics(self) -> list:
            return self.trackers

        def train_step(self, data: tuple) -> dict:
            real, types = data
            with tf.GradientTape() as tape:
                mean, log_variance = self.network.encode(real, types)
                latent = mean + tf.exp(log_variance / 2) * tf.random.normal(tf.shape(mean))
                expected = self.network.decode(latent, types)
                log_noise = self.log_noise.value
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--genes", type=int, default=942)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    rnagen.load_tensorflow()
    rng = np.random.default_rng(0)
    real = rng.standard_normal((BATCHES * args.batch, args.genes), dtype=np.float32)
    types = rng.integers(TYPES, size=len(real)).astype(np.int32)
    unit = (np.full(args.genes, 0.15, np.float32), np.full(args.genes, 0.5, np.float32))

    ours = rnagen.Autoencoder(
        "cvae", np.zeros((TYPES, args.genes), np.float32), LATENT, unit, rnagen.stream(1, "weights")
    )
    training = rnagen.Training(ours, (real, types), args.batch, rnagen.GENERATOR_RATE, rnagen.stream(1, "order"))
    keras_model = fit_model(args.genes, unit)
    epochs = {
        "rnagen": lambda: training.advance(BATCHES),
        "fit": lambda: keras_model.fit(real, types, batch_size=args.batch, verbose=0),
    }
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for epoch in epochs.values():
        epoch()  # traces
    for _ in range(args.rounds):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            times[name].append(1000 * (time.perf_counter() - start) / BATCHES)
    hidden = rnagen.HIDDEN_AUTOENCODER
    weights = sum(
        a * b
        for sizes in ((args.genes + TYPES, *hidden, 2 * LATENT), (LATENT + TYPES, *hidden, args.genes))
        for a, b in itertools.pairwise(sizes)
    )
    first = (args.genes + TYPES) * hidden[0]  # needs no gradient of its input
    flops = args.batch * 2 * (3 * weights - first)
    peak = peak_flops()
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
