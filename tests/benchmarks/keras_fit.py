"""The protocol of the two commands in plain Keras: compile, fit, evaluate and predict, to compare speed with.

    python tests/benchmarks/keras_fit.py TYPES [--plot]

Data, split, preprocessing, the factor model and its draws for the inner choice of temperature are rnagen's; every
network is trained by Keras' `fit`, scored by `evaluate` and drawn from by `predict`, with Keras' own threads, for as
many epochs as rnagen trains it. Since `fit` does not stop inside an epoch the control is a training of its own, where
rnagen takes the one on real rows further, and each temperature has a model of its own. It prints the test accuracies,
to see that it does the same work.
"""

import argparse
import contextlib
import io
import os
from typing import Any

import harness  # noqa: F401  (makes rnagen importable)
import numpy as np

import rnagen

SEED = 2021


def generator_model(network: rnagen.Autoencoder) -> Any:
    """Return a CVAE of rnagen as a Keras model for fit and predict, written as Keras' own VAE example is."""
    import keras
    import tensorflow as tf

    scale, offset = network.scale, network.offset

    class FitModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = network.encoder, network.decoder
            self.linear = list(network.linear.values())
            self.trackers = [keras.metrics.Mean(name) for name in ("loss", "kl", "xent", "mse", "corr")]

        @property
        def metrics(self) -> list:
            return self.trackers

        def losses_of(self, real: tf.Tensor, types: tf.Tensor) -> tuple[tf.Tensor, ...]:
            centred = real - tf.gather(network.type_means, types)
            mean, log_variance = network.encode(centred, types)
            latent = mean + tf.exp(log_variance / 2) * tf.random.normal(tf.shape(mean))
            expected = network.decode(latent, types)
            log_noise = network.linear["log_noise"].value
            squares = tf.square((centred - expected) * tf.exp(-log_noise))
            kl = tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - 1 - log_variance, 1) / 2
            loss = tf.reduce_mean(tf.reduce_sum(squares / 2 + log_noise + 0.919, 1) + kl)
            return loss, kl, real * scale + offset, (real - centred + expected) * scale + offset

        def track(self, loss: tf.Tensor, kl: tf.Tensor, real: tf.Tensor, drawn: tf.Tensor) -> dict:
            centred, drawn_centred = real - tf.reduce_mean(real), drawn - tf.reduce_mean(drawn)
            spread = tf.sqrt(tf.reduce_sum(centred**2) * tf.reduce_sum(drawn_centred**2))
            xent = tf.reduce_mean(keras.losses.binary_crossentropy(real, drawn))
            corr = tf.reduce_sum(centred * drawn_centred) / spread
            values = (loss, tf.reduce_mean(kl), xent, tf.reduce_mean((real - drawn) ** 2), corr)
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

        def train_step(self, data: tuple) -> dict:
            with tf.GradientTape() as tape:
                loss, *figures = self.losses_of(*data)
            gradients = tape.gradient(loss, network.weights)
            self.optimizer.apply_gradients(zip(gradients, network.weights, strict=True))
            return self.track(loss, *figures)

        def test_step(self, data: tuple) -> dict:
            return self.track(*self.losses_of(*data))

        def predict_step(self, data: tuple) -> tf.Tensor:
            return network.decode(*data[0])

    model = FitModel()
    model.compile(optimizer=keras.optimizers.Adam(rnagen.GENERATOR_RATE))
    return model


def classifier_model(genes: int, types: int) -> Any:
    """Return rnagen's classifier, compiled."""
    import keras

    network = rnagen.dense_stack(genes, rnagen.HIDDEN_CLASSIFIER, types, rnagen.stream(SEED, "classifier weights"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rnagen.CLASSIFIER_RATE), loss, metrics=["accuracy"])
    return network


def choose_temperature(tables: rnagen.Tables) -> float:
    """Choose among temperatures as rnagen does, on inner folds of the training rows."""
    genes, types = tables.everything()
    fold = rnagen.inner_folds(types, tables.groups, rnagen.CHOICE_FOLDS, rnagen.stream(SEED, "choice folds"))
    scale, offset = tables.preprocessing.unit
    scores = np.zeros(len(rnagen.CHOICE_TEMPERATURES))
    for number in range(rnagen.folds_for(fold)):
        held = fold == number
        real = rnagen.take_rows((genes, types), ~held)
        counts = np.bincount(real[1], minlength=len(tables.types))
        generator = rnagen.start_generator("cvae", real, tables.groups[~held], tables, None)
        synthesiser = rnagen.Synthesiser(generator, tables.preprocessing, tables.genes, tables.types, counts)
        labels = rnagen.Order(10_000).labels(tables.types, counts, SEED, "choice")
        for choice, temperature in enumerate(rnagen.CHOICE_TEMPERATURES):
            drawn, drawn_types = synthesiser.rows(labels, SEED, "choice", temperature, real)
            drawn = drawn * scale + offset
            model, begun = classifier_model(len(scale), len(tables.types)), 0
            for steps in rnagen.CHOICE_STEPS:
                epochs = round((steps - begun) * rnagen.CLASSIFIER_BATCH / len(drawn))
                model.fit(drawn, drawn_types, rnagen.CLASSIFIER_BATCH, epochs, verbose=0)
                predicted = model.predict(genes[held] * scale + offset, verbose=0).argmax(1)
                scores[choice] += rnagen.score_predictions(predicted, types[held])["balanced_accuracy"]
                begun = steps
    return rnagen.CHOICE_TEMPERATURES[int(scores.argmax())]


def train_and_draw(tables: rnagen.Tables, labels: np.ndarray, temperature: float) -> np.ndarray:
    """Train the CVAE and return standardised rows (rows, genes) of these type indices."""
    import keras

    groups, types = tables.groups[: len(tables.train[1])], len(tables.types)
    factors = rnagen.fit_factors(tables.train, groups, types, None)
    lowest, unit = tables.preprocessing.lowest, tables.preprocessing.unit
    network = rnagen.Autoencoder("cvae", factors, lowest, unit, types, rnagen.stream(SEED, "generator weights"))
    model = generator_model(network)
    best = keras.callbacks.EarlyStopping("val_loss", patience=20, mode="min", restore_best_weights=True)
    model.evaluate(*tables.validation, verbose=0)
    model.fit(*tables.train, 128, epochs=20, validation_data=tables.validation, callbacks=[best], verbose=0)
    network.finish(tables.train)
    offset, stretch = network.placement(temperature)
    rng = np.random.default_rng(SEED)
    latent = network.latents(labels, rng.standard_normal((len(labels), network.latent_dim), dtype=np.float32))
    drawn = model.predict((latent, labels), batch_size=rnagen.BLOCK, verbose=0)
    drawn += rng.standard_normal(drawn.shape, dtype=np.float32) * network.noise
    drawn = drawn * stretch[labels] + offset[labels]
    return tables.preprocessing.standardise(tables.preprocessing.restore(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", type=int, help="how many of the most frequent types")
    parser.add_argument("--plot", action="store_true", help="train for 1 to 20 epochs, scored after each")
    args = parser.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = "0"  # as many as there are cores, TensorFlow's default
    with contextlib.redirect_stdout(io.StringIO()):
        cohort = rnagen.keep_top_types(rnagen.simulate_cohort(seed=SEED), args.types)
        tables = rnagen.prepare_tables(cohort, 0.5, "auto", SEED)
    rnagen.load_tensorflow()
    scale, offset = tables.preprocessing.unit
    scaled = [(genes * scale + offset, types) for genes, types in (tables.train, tables.validation, tables.test)]
    train, validation, test = scaled

    def classify(rows: rnagen.Rows) -> float:
        model = classifier_model(len(scale), args.types)
        epochs = rnagen.PLOT_EPOCHS if args.plot else 2
        model.fit(*rows, rnagen.CLASSIFIER_BATCH, epochs, validation_data=test if args.plot else validation, verbose=0)
        return model.evaluate(*test, verbose=0)[1]

    temperature = choose_temperature(tables)
    real = classify(train)
    labels = rnagen.Order(10_000).labels(tables.types, tables.counts(), SEED, "experiment").astype(np.int32)
    drawn = train_and_draw(tables, labels, temperature) * scale + offset
    augmented = classify((np.concatenate([train[0], drawn]), np.concatenate([train[1], labels])))
    repeated = np.resize(np.random.default_rng(SEED).permutation(len(train[1])), len(train[1]) + len(labels))
    control = classify((train[0][repeated], train[1][repeated]))
    print(f"temperature {temperature:g}, test accuracy {real:.4f}, {augmented:.4f}, same steps on real {control:.4f}")


if __name__ == "__main__":
    main()
