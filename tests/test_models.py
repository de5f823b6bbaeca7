"""The networks, the training loop and the sampler against closed forms."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import rnagen

GENES, TYPES = 12, 3
UNIT = (np.full(GENES, 0.12, np.float32), np.full(GENES, 0.5, np.float32))
NO_FLOOR = np.full(GENES, -np.inf, np.float32)


@pytest.fixture(scope="module")
def samples() -> rnagen.Samples:
    """Return standardised samples of three types that share two factors."""
    rnagen.start_tensorflow()
    rng = np.random.default_rng(0)
    y = rng.integers(TYPES, size=150).astype(np.int32)
    x = rng.normal(size=(TYPES, GENES))[y] + rng.normal(size=(150, 2)) @ rng.normal(0, 0.7, (2, GENES))
    x += rng.normal(0, 0.3, x.shape)
    return rnagen.Samples(((x - x.mean(0)) / x.std(0)).astype(np.float32), y)


def autoencoder(kind: str, samples: rnagen.Samples, seed: int = 1) -> rnagen.CVAE:
    """Return a network as it is before training, its last layers made to matter."""
    factors = rnagen.fit_start(kind, replace(samples, groups=np.arange(len(samples))), TYPES, 4, 1)
    rng = rnagen.stream(seed, "generator weights")
    network = rnagen.CVAE(kind, factors, NO_FLOOR, UNIT, rng)
    for stack in (network.encoder, network.decoder):
        kernel = stack.layers[-1].kernel
        kernel.assign(rng.normal(0, 0.1, kernel.shape))
    return network


def classifier_trainer(learning_rate: float = 0.001, batch_size: int = 64) -> rnagen.Trainer:
    """Return what trains a classifier of its own on batches of 64."""
    network = rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "classifier weights"))
    return rnagen.Trainer(network, GENES, batch_size, learning_rate)


def start(trainer: rnagen.Trainer, samples: rnagen.Samples, **options: object) -> rnagen.Trainer:
    """Begin a training whose weights and order depend on nothing else."""
    weights = rnagen.initial_weights(trainer.network.network, rnagen.stream(1, "weights"))
    trainer.start(samples, weights, rnagen.stream(2, "order"), **options)
    return trainer


# ---- losses and metrics ----


@pytest.mark.parametrize("kind", ["cvae", "vae", "ae"])
def test_loss_and_metrics_equal_their_closed_forms(kind: str, samples: rnagen.Samples) -> None:
    x, y = samples.x, samples.y
    network = autoencoder(kind, samples)
    network.log_noise.assign(np.linspace(-0.5, 0.3, GENES).astype(np.float32))
    noise = np.random.default_rng(1).normal(size=(len(y), 4)).astype(np.float32)
    loss, totals = network.loss_and_totals(x, y, noise)
    metrics = network.metrics(totals.numpy().astype(float))
    assert len(totals) == network.n_totals
    assert float(loss) / len(y) == pytest.approx(metrics["loss"])

    centres = network.factors.means[y]
    latent, log_variance = network.encode(x - centres, y)
    latent, kl = latent.numpy().astype(float), 0.0
    if kind != "ae":
        sd = np.exp(log_variance.numpy().astype(float) / 2)
        kl = (latent**2 + sd**2 - 1) / 2 - np.log(sd)  # the closed form for two Gaussians
        draws = latent[:1] + sd[:1] * np.random.default_rng(2).normal(size=(200_000, 4))
        log_ratio = stats.norm.logpdf(draws, latent[0], sd[0]) - stats.norm.logpdf(draws)
        assert log_ratio.mean(0).sum() == pytest.approx(kl[0].sum(), abs=0.02)  # and what it stands for
        kl = kl.sum(1).mean()
        latent = latent + sd * noise
    expected = centres + network.decode(latent.astype(np.float32), y).numpy()
    surprise = -stats.norm.logpdf(x, expected, np.exp(network.log_noise.numpy())).sum(1).mean()
    real, drawn = x * UNIT[0] + UNIT[1], expected * UNIT[0] + UNIT[1]
    clipped = np.clip(drawn, 1e-6, 1 - 1e-6)
    closed = {
        "loss": surprise + kl,
        "kl": kl,
        "xent": -(real * np.log(clipped) + (1 - real) * np.log(1 - clipped)).mean(),
        "mse": ((real - drawn) ** 2).mean(),
        "corr": np.corrcoef(real.ravel(), drawn.ravel())[0, 1],
    }
    assert list(metrics) == list(closed)
    assert metrics == pytest.approx(closed, rel=1e-4, abs=1e-5)


def test_totals_of_parts_add_up_to_those_of_the_whole(samples: rnagen.Samples) -> None:
    """As they must where workers take a share of each batch each."""
    network = autoencoder("cvae", samples)
    noise = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)
    whole = [network.loss_and_totals(samples.x, samples.y, noise)]
    parts = [
        network.loss_and_totals(samples.x[rows], samples.y[rows], noise[rows])
        for rows in (slice(70), slice(70, 71), slice(71, 150))
    ]
    for found in (0, 1):
        np.testing.assert_allclose(sum(part[found] for part in parts), whole[0][found], rtol=1e-4)


def test_evaluation_in_chunks_is_evaluation(samples: rnagen.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    network = autoencoder("cvae", samples)
    whole = network.evaluate(samples, rnagen.stream(1, "evaluation"))
    monkeypatch.setattr(rnagen, "EVALUATION_ROWS", 64)
    assert network.evaluate(samples, rnagen.stream(1, "evaluation")) == pytest.approx(whole, rel=1e-5)


def test_a_classifiers_metrics_and_probabilities(samples: rnagen.Samples) -> None:
    network = rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "classifier weights"))
    logits = network.network(samples.x * UNIT[0] + UNIT[1]).numpy().astype(float)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(network.predict(samples.x), chance, rtol=1e-4)
    found = network.evaluate(samples, rnagen.stream(1, "evaluation"))
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == samples.y).mean())
    assert found["loss"] == pytest.approx(-np.log(chance[np.arange(150), samples.y]).mean(), rel=1e-5)


def test_initial_weights_are_glorots() -> None:
    network = rnagen.dense_stack(300, (200,), 100, rnagen.stream(1, "weights"))
    hidden, hidden_bias, output, output_bias = (weight.numpy() for weight in network.trainable_variables)
    for kernel, bias in ((hidden, hidden_bias), (output, output_bias)):
        limit = math.sqrt(6 / sum(kernel.shape))
        assert 0.99 * limit < abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.01)
        assert not bias.any()


# ---- the training loop ----


def test_a_step_is_adams_on_the_mean_loss(samples: rnagen.Samples) -> None:
    network, twin = autoencoder("cvae", samples), autoencoder("cvae", samples)
    trainer = rnagen.Trainer(network, GENES, 128, 0.003)
    trainer.start(samples, network.copy_weights(), rnagen.stream(1, "order"))
    trainer.advance(3)  # 128 and 22 rows, then 128 of a new order

    optimizer = keras.optimizers.Adam(0.003)
    rng = rnagen.stream(1, "order")
    batches = []
    for count in (2, 1):
        order = rnagen.mix_epoch(150, 150, rng)
        noise = rng.standard_normal((150 if count == 2 else 128, 4), dtype=np.float32)
        batches += [(order[start : start + 128], noise[start : start + 128]) for start in range(0, 128 * count, 128)]
    assert [len(order) for order, _ in batches] == [128, 22, 128]
    for order, noise in batches:
        with tf.GradientTape() as tape:
            loss = twin.loss_and_totals(samples.x[order], samples.y[order], noise)[0] / len(order)
        optimizer.apply_gradients(zip(tape.gradient(loss, twin.weights), twin.weights, strict=True))
    for ours, theirs in zip(network.weights, twin.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-4)


def test_epoch_metrics_are_of_every_row_once(samples: rnagen.Samples) -> None:
    trainer = start(classifier_trainer(learning_rate=0.0), samples)
    assert trainer.steps_per_epoch == 3
    still = trainer.advance(3)  # at learning rate 0 an epoch's metrics are an evaluation's
    assert still == pytest.approx(trainer.network.evaluate(samples, rnagen.stream(1, "evaluation")), rel=1e-5)


def test_stops_do_not_change_training(samples: rnagen.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, found = classifier_trainer(), []
    for stops, steps_per_call in (((9,), 100), ((1, 4, 3, 1), 100), ((9,), 2)):
        monkeypatch.setattr(rnagen, "STEPS_PER_CALL", steps_per_call)
        start(trainer, samples)
        taken: list[int] = []
        for steps in stops:
            trainer.advance(steps, taken.append)
        assert sum(taken) == trainer.steps == 9
        assert max(taken) <= min(steps_per_call, trainer.steps_per_epoch)
        found.append(trainer.network.copy_weights())
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_training_starts_again_as_if_new(samples: rnagen.Samples) -> None:
    """One graph serves trainings on tables of any length, and the optimiser forgets the last one."""
    other = rnagen.Samples(samples.x[:90] * 2, samples.y[:90])
    used, fresh = start(classifier_trainer(0.01), samples), start(classifier_trainer(0.01), other)
    used.advance(7)
    start(used, other)
    assert (used.rows, used.steps, used.steps_per_epoch) == (90, 0, 2)
    assert used.advance(5) == fresh.advance(5)
    for one, new in zip(used.network.copy_weights(), fresh.network.copy_weights(), strict=True):
        np.testing.assert_array_equal(one, new)


def test_training_shares_the_memory_of_its_rows(samples: rnagen.Samples) -> None:
    """There may be no room for a copy: what happens to the rows happens to those in training."""
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("a GPU has memory of its own")
    first, second = (rnagen.aligned_array(*samples.x.shape) for _ in range(2))
    first[:] = second[:] = samples.x
    trainer = start(classifier_trainer(0.01), rnagen.Samples(first, samples.y))
    assert trainer.advance(2)["loss"] < 100
    first[:] = 1e9
    assert trainer.advance(2)["loss"] > 1e6
    start(trainer, rnagen.Samples(second, samples.y))
    assert trainer.advance(2)["loss"] < 100
    second[:] = 1e9
    assert trainer.advance(2)["loss"] > 1e6


@pytest.mark.parametrize("layout", ["as numpy has it", "unaligned", "every other column"])
def test_any_array_becomes_a_tensor(layout: str) -> None:
    wide = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    unaligned = rnagen.aligned_array(8, 10)[1:]
    unaligned[:] = wide
    x = {"as numpy has it": wide, "unaligned": unaligned, "every other column": wide[:, ::2]}[layout]
    np.testing.assert_array_equal(rnagen.shared_tensor(x).numpy(), x)


def test_joined_samples_are_one_table_that_training_can_share(samples: rnagen.Samples) -> None:
    both = samples.take(samples.y == 1).join(samples.take(np.array([3, 5])))
    assert len(both) == (samples.y == 1).sum() + 2
    np.testing.assert_array_equal(both.x[-2:], samples.x[[3, 5]])
    np.testing.assert_array_equal(both.y[-2:], samples.y[[3, 5]])
    assert (both.x.dtype, both.y.dtype) == (np.float32, np.int32)
    assert both.x.ctypes.data % 64 == 0


@pytest.mark.parametrize(("rows", "n_real"), [(10, 10), (11, 3), (100, 7), (100, 50), (100, 80), (5, 1), (2, 1)])
def test_real_rows_are_half_of_an_epoch_at_least(rows: int, n_real: int) -> None:
    """However many synthetic ones there are: a network forgets the real rows otherwise."""
    shown = np.zeros(rows, int)
    for number in range(40):
        order = rnagen.mix_epoch(rows, n_real, rnagen.stream(number, "order"))
        assert len(order) == rows
        counts = np.bincount(order, minlength=rows)
        real, synthetic = counts[:n_real], counts[n_real:]
        assert real.sum() == max(n_real, math.ceil(rows / 2))
        assert 1 <= real.min() <= real.max() <= real.min() + 1  # as often as each other
        assert synthetic.max(initial=0) <= 1
        shown += counts
    if 0 < rows - n_real < rows:
        assert shown[n_real:].min() > 0  # each synthetic row has its turn
    first, second = (rnagen.mix_epoch(rows, n_real, rnagen.stream(seed, "order")) for seed in (1, 1))
    np.testing.assert_array_equal(first, second)


def test_training_is_shown_the_real_share(samples: rnagen.Samples) -> None:
    """Twenty real rows among 150: at learning rate 0 an epoch's accuracy is that of rows half of which are real."""
    trainer = start(classifier_trainer(learning_rate=0.0, batch_size=50), samples, n_real=20)
    assert (trainer.rows, trainer.n_real, trainer.steps_per_epoch) == (150, 20, 3)
    found = trainer.advance(3)
    order = rnagen.mix_epoch(150, 20, rnagen.stream(2, "order"))
    assert (order < 20).sum() == 75
    shown = rnagen.Samples(samples.x[order], samples.y[order])
    assert found == pytest.approx(trainer.network.evaluate(shown, rnagen.stream(1, "evaluation")), rel=1e-5)


def test_fit_keeps_the_best_epoch_and_reports_every_one(samples: rnagen.Samples) -> None:
    network = autoencoder("cvae", samples)
    trainer = rnagen.Trainer(network, GENES, 64, 0.01)
    training, validation = samples.take(np.arange(100)), samples.take(np.arange(100, 150))
    trainer.start(training, network.copy_weights(), rnagen.stream(1, "order"))
    events: list[rnagen.Progress] = []
    history, best = rnagen.fit(trainer, 6, validation, 3, events.append)
    epochs = [event for event in events if event.metrics]
    assert [event.epoch for event in epochs] == list(range(7))  # 0 is before training
    assert {event.epochs for event in epochs} == {6}
    assert set(epochs[0].metrics) == {f"val_{name}" for name in ("loss", "kl", "xent", "mse", "corr")}
    assert [event.metrics for event in epochs[1:]] == history
    losses = [event.metrics["val_loss"] for event in epochs]
    assert best == int(np.argmin(losses))
    assert sum(event.steps for event in events) == 12 == events[0].all_steps
    kept = network.evaluate(validation, rnagen.stream(3, "evaluation"))
    assert kept["loss"] == pytest.approx(min(losses), rel=1e-5)


# ---- generators: test_generators.py has the rest ----


def test_noise_is_as_wide_as_learned(samples: rnagen.Samples) -> None:
    network = autoencoder("cvae", samples)
    network.log_noise.assign(np.linspace(-1, 0.5, GENES).astype(np.float32))
    network.finish(samples, 1)
    np.testing.assert_allclose(network.noise, np.exp(np.linspace(-1, 0.5, GENES)), rtol=1e-5)
    y, location_scale = np.full(rnagen.BLOCK, 1), network.location_scale(1.0)
    with_noise = [network.draw(y, rnagen.stream(1, "block", b), location_scale) for b in range(30)]
    noise, network.noise = network.noise, np.zeros_like(network.noise)
    without = [network.draw(y, rnagen.stream(1, "block", b), location_scale) for b in range(30)]
    residual = np.concatenate(with_noise) - np.concatenate(without)
    np.testing.assert_allclose(residual.std(0), noise * location_scale.noise_scale[1], rtol=0.03)
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.05)


# ---- sampling ----


@pytest.mark.parametrize("kind", ["cvae", "vae"])
def test_first_rows_do_not_depend_on_how_many_follow(kind: str, samples: rnagen.Samples) -> None:
    network = autoencoder(kind, samples)
    network.finish(samples, 1)
    types = np.arange(TYPES).astype(str)
    fitted = rnagen.Preprocessing.fit(samples.x, "none", types[samples.y])
    sampler = rnagen.Sampler(network, fitted, np.arange(GENES).astype(str), types, np.ones(TYPES, int))
    drawn = {}
    for count in (7, rnagen.BLOCK, rnagen.BLOCK + 1, 3 * rnagen.BLOCK + 5):
        labels = rnagen.SamplingPlan(count).labels(types, sampler.counts, 4, "output")
        drawn[count] = np.concatenate(list(sampler.draw(labels, 4, "output")))
        assert drawn[count].shape == (count, GENES)
    longest = drawn[3 * rnagen.BLOCK + 5]
    for count, some in drawn.items():
        np.testing.assert_array_equal(some, longest[:count])
    assert len(np.unique(longest, axis=0)) == len(longest)
    for other in (sampler.draw(labels[:50], 5, "output"), sampler.draw(labels[:50], 4, "training 0")):
        assert not (np.concatenate(list(other))[:, None] == longest[None]).all(2).any()
    blocks = list(sampler.draw(labels, 4, "output", blocks=range(1, 3)))
    np.testing.assert_array_equal(np.concatenate(blocks), longest[rnagen.BLOCK : 3 * rnagen.BLOCK])


def test_samples_to_train_on_are_the_real_ones_and_then_what_would_be_read_back(samples: rnagen.Samples) -> None:
    types = np.arange(TYPES).astype(str)
    fitted = rnagen.Preprocessing.fit(samples.x, "none", types[samples.y])
    factors = rnagen.fit_gaussian(samples, TYPES, 3, 1)
    generator = rnagen.Generator("gaussian", factors, fitted.lowest)
    sampler = rnagen.Sampler(generator, fitted, np.arange(GENES).astype(str), types, np.ones(TYPES, int))
    labels = np.arange(rnagen.BLOCK + 9) % TYPES
    both = sampler.samples_after(samples, fitted, labels, 4, "training 0", 1.5)
    assert both.x.ctypes.data % 64 == 0
    np.testing.assert_array_equal(both.x[:150], samples.x)
    np.testing.assert_array_equal(both.y, np.concatenate([samples.y, labels]))
    drawn = np.concatenate(list(sampler.draw(labels, 4, "training 0", 1.5)))
    np.testing.assert_array_equal(both.x[150:], fitted.standardise(drawn))


def test_types_are_uniform_over_all_of_them() -> None:
    types = np.arange(20).astype(str)
    draw = lambda number: rnagen.SamplingPlan(number).labels(types, np.ones(20, int), 1, "output")  # noqa: E731
    labels = draw(30_000)
    counts = np.bincount(labels)
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(labels[:100], draw(100))


# ---- folds and streams ----


def test_inner_folds_are_stratified_and_keep_groups_whole() -> None:
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=300)
    groups = np.array([f"{t}-{g}" for t, g in zip(types, rng.integers(60, size=300), strict=True)])
    fold = rnagen.inner_folds(types, groups, 4, rng)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    for label in range(3):
        held = [len(set(groups[(fold == f) & (types == label)])) for f in range(4)]
        assert max(held) - min(held) <= 1


def test_streams_are_independent() -> None:
    draw = lambda *name: rnagen.stream(*name).random(4)  # noqa: E731
    np.testing.assert_array_equal(draw(1, "split"), draw(1, "split"))
    others = [draw(1, "order"), draw(2, "split"), draw(1, "split", 1), draw(1, "split")]
    assert len(np.unique(np.concatenate(others))) == 16
