"""The protocol of the two commands in plain Keras, to compare speed with: compile, fit, evaluate and predict.

    python tests/benchmarks/keras_fit.py TYPES [--plot]

Cohort, split, preprocessing, factor model, networks and losses are rnagen's, and so are the arms and their rows; every
network is trained by `fit`, scored by `evaluate` and decodes by `predict`. They are set up as by someone who cares for
speed: one classifier, compiled once, for all trainings; many steps in one graph call; batches gathered from a table in
memory; and the number of threads that training_step.py found best. Prints the test accuracies, to show that it does
the same work.
"""

import argparse
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness  # noqa: F401  (makes rnagen importable)
import keras
import numpy as np
import tensorflow as tf

import rnagen

SEED = 2021
TRAININGS = rnagen.ExperimentConfig().trainings


@dataclass(frozen=True)
class FitSettings:
    """How fit is set up: steps in one graph call, threads of an operation (0: all cores), and compilation by XLA.

    jit "auto" is Keras' default: on a GPU only.
    """

    steps_per_execution: int = 50
    threads: int = 1
    jit: bool | str = "auto"

    def __str__(self) -> str:
        threads = f"{self.threads or rnagen.CORES} intra-op thread{'s' * (self.threads != 1)}"
        return f"steps_per_execution={self.steps_per_execution}, {threads}, jit_compile={self.jit}"

    def as_compiled(self) -> dict[str, int | bool | str]:
        """Return those that are arguments of `compile`."""
        return {"steps_per_execution": self.steps_per_execution, "jit_compile": self.jit}


class SummedTotals(keras.metrics.Metric):
    """Keeps the totals that rnagen's metrics are made of, over the batches of an epoch."""

    def __init__(self, number: int) -> None:
        super().__init__(name="totals")
        self.totals = self.add_weight(shape=(number,), initializer="zeros", name="totals")

    def update_state(self, totals: tf.Tensor) -> None:
        self.totals.assign_add(totals)

    def result(self) -> dict[str, tf.Tensor]:
        return {"loss": self.totals[1] / self.totals[0], "totals": self.totals.value}


class FitModel(keras.Model):
    """A CVAE of rnagen for fit and predict, written as Keras' own example of a VAE is."""

    def __init__(self, network: rnagen.CVAE) -> None:
        super().__init__()
        self.network, self.encoder, self.decoder = network, network.encoder, network.decoder
        self.linear = [network.recognition, network.loading, network.log_noise]
        self.summed = SummedTotals(network.n_totals)

    def loss_and_totals(self, data: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = data
        loss, totals = self.network.loss_and_totals(x, y, tf.random.normal((tf.size(y), self.network.noise_dim)))
        return loss / tf.cast(tf.size(y), tf.float32), totals

    def train_step(self, data: tuple) -> dict:
        with tf.GradientTape() as tape:
            loss, totals = self.loss_and_totals(data)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.summed.update_state(totals)
        return self.summed.result()

    def test_step(self, data: tuple) -> dict:
        self.summed.update_state(self.loss_and_totals(data)[1])
        return self.summed.result()

    def predict_step(self, data: tuple) -> tf.Tensor:
        return self.network.decode(*data[0])


def compile_generator(network: rnagen.CVAE, settings: FitSettings) -> keras.Model:
    """Return a CVAE of rnagen as a Keras model."""
    model = FitModel(network)
    model.compile(keras.optimizers.Adam(rnagen.PEAK_RATE), **settings.as_compiled())
    return model


def compile_classifier(network: rnagen.Classifier, settings: FitSettings) -> keras.Model:
    """Return rnagen's classifier as a Keras model of standardised genes."""
    scaling = keras.layers.Rescaling(network.scale, network.offset)
    model = keras.Sequential([keras.Input((len(network.scale),)), scaling, *network.network.layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rnagen.CLASSIFIER_RATE), loss, metrics=["accuracy"], **settings.as_compiled())
    return model


def batches(samples: rnagen.Samples, n_real: int) -> tf.data.Dataset:
    """Return an epoch of batches, each time in another order and with other synthetic rows, as rnagen.mix_epoch has it.

    fit's own way with arrays shows every row once.
    """
    x, y, rows = rnagen.shared_tensor(samples.x), tf.constant(samples.y), len(samples)
    shown = max(n_real, math.ceil(rnagen.REAL_SHARE * rows))

    def order(_: tf.Tensor) -> tf.Tensor:
        real = tf.concat([tf.random.shuffle(tf.range(n_real)) for _ in range(math.ceil(shown / n_real))], 0)[:shown]
        synthetic = tf.random.shuffle(tf.range(n_real, rows))[: rows - shown]
        return tf.random.shuffle(tf.concat([real, synthetic], 0))

    index = tf.data.Dataset.range(1).map(order).unbatch().batch(rnagen.CLASSIFIER_BATCH)
    index = index.apply(tf.data.experimental.assert_cardinality(math.ceil(rows / rnagen.CLASSIFIER_BATCH)))
    return index.map(lambda batch: (tf.gather(x, batch), tf.gather(y, batch))).prefetch(tf.data.AUTOTUNE)


def restart(model: keras.Model, number: int) -> None:
    """Give the classifier the weights that this training starts from, and its optimiser none of the last one's state.

    Another model would have to be traced again.
    """
    weights = rnagen.initial_weights(model, rnagen.stream(SEED, "classifier weights", number))
    for variable, values in zip(model.trainable_variables, weights, strict=True):
        variable.assign(values)
    for state in model.optimizer.variables:
        if "learning_rate" not in state.path:
            state.assign(np.zeros(state.shape, state.dtype))


def classify(
    model: keras.Model, dataset: rnagen.Dataset, samples: rnagen.Samples, number: int, epochs: int
) -> list[float]:
    """Train the classifier; return its test accuracy, after each epoch if there are more than the two of the main job.

    The first training is validated after each epoch, as rnagen shows it.
    """
    restart(model, number)
    curve = epochs > rnagen.ExperimentConfig().classifier_epochs
    watched = dataset.test if curve else dataset.monitored if number == 0 else None
    history = model.fit(
        batches(samples, len(dataset.train)),
        epochs=epochs,
        shuffle=False,  # they are already
        validation_data=(watched.x, watched.y) if watched else None,
        validation_batch_size=rnagen.BLOCK,
        verbose=0,
    )
    if curve:
        return history.history["val_accuracy"]
    return [model.evaluate(dataset.test.x, dataset.test.y, rnagen.BLOCK, verbose=0)[1]]


def train_generator(dataset: rnagen.Dataset, settings: FitSettings) -> keras.Model:
    """Train the CVAE and keep the best epoch."""
    config = rnagen.ModelConfig()
    factors = rnagen.fit_start("cvae", dataset.train, len(dataset.types), None, SEED)
    trainer = rnagen.start_network(factors, dataset.train, config, dataset, SEED, rnagen.ALONE)
    model = compile_generator(trainer.network, settings)
    validation = (dataset.validation.x, dataset.validation.y)
    best = keras.callbacks.EarlyStopping("val_loss", patience=config.epochs, mode="min", restore_best_weights=True)
    model.evaluate(*validation, rnagen.BLOCK, verbose=0)
    model.fit(
        dataset.train.x,
        dataset.train.y,
        config.batch_size,
        config.epochs,
        validation_data=validation,
        validation_batch_size=rnagen.BLOCK,
        callbacks=[best],
        verbose=0,
    )
    model.network.finish(dataset.train, SEED)
    return model


def draw_after_real(
    dataset: rnagen.Dataset, model: keras.Model, labels: np.ndarray, rng: np.random.Generator
) -> rnagen.Samples:
    """Return the real samples and then a synthetic one of each type code, through the table's units and back."""
    network, scale = model.network, dataset.preprocessing
    latent = network.latents(labels, rng.standard_normal((len(labels), network.latent_dim), dtype=np.float32))
    drawn = model.predict((latent, labels), rnagen.BLOCK, verbose=0)
    noise = rng.standard_normal(drawn.shape, dtype=np.float32) * network.noise
    placed = network.location_scale(rnagen.TRAINING_TEMPERATURE)
    drawn = drawn * placed.scale[labels] + noise * placed.noise_scale[labels] + placed.location[labels]
    drawn = scale.restore(drawn, labels, rng)
    return dataset.train.join(rnagen.Samples(scale.standardise(drawn), labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", type=int, help="how many of the most frequent types")
    parser.add_argument("--plot", action="store_true", help="score each of 20 epochs, and draw the figure")
    args = parser.parse_args()
    settings = FitSettings()
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(settings.threads)
    cohort = rnagen.keep_top_types(rnagen.simulate_cohort(seed=SEED), args.types)
    dataset = rnagen.prepare_dataset(cohort, 0.5, "auto", SEED)
    rnagen.start_tensorflow()
    train, epochs = dataset.train, rnagen.PLOT_EPOCHS if args.plot else rnagen.ExperimentConfig().classifier_epochs
    weights = rnagen.stream(SEED, "classifier weights")
    network = rnagen.Classifier(len(dataset.types), dataset.preprocessing.unit_scale, weights)
    classifier = compile_classifier(network, settings)
    plan, counts = rnagen.SamplingPlan(10_000), dataset.counts()

    generator = train_generator(dataset, settings)
    arms: dict[str, list[list[float]]] = {"real": [], "control": [], "augmented": []}
    for number in range(TRAININGS):
        labels = plan.labels(dataset.types, counts, SEED, f"training {number}").astype(np.int32)
        rng = rnagen.stream(SEED, "rows and copies", number)
        arms["real"].append(classify(classifier, dataset, train, number, epochs))
        augmented = draw_after_real(dataset, generator, labels, rng)
        arms["augmented"].append(classify(classifier, dataset, augmented, number, epochs))
        arms["control"].append(classify(classifier, dataset, rnagen.draw_copies(train, labels, rng), number, epochs))
    curves = np.array(list(arms.values())).transpose(2, 0, 1)  # (epochs, arms, trainings)
    if args.plot:
        with tempfile.TemporaryDirectory() as folder:
            table = rnagen.accuracy_by_epoch([curves], 0.5)
            rnagen.draw_accuracy(Path(folder, "accuracy.png"), table, cohort.name, "")
    means = zip(arms, curves[-1].mean(1), strict=True)
    print(f"test accuracy after {epochs} epochs: {', '.join(f'{name} {mean:.4f}' for name, mean in means)}")


if __name__ == "__main__":
    main()
