"""The networks, the training loop and the sampler against closed forms."""

import numpy as np
import pytest
from scipy import stats

import rnagen

GENES, TYPES = 12, 3


@pytest.fixture(scope="module")
def rows() -> rnagen.Rows:
    """Return standardised rows of three types that share two factors."""
    rnagen.load_tensorflow()
    rng = np.random.default_rng(0)
    label = rng.integers(TYPES, size=150).astype(np.int32)
    values = rng.normal(size=(TYPES, GENES))[label] + rng.normal(size=(150, 2)) @ rng.normal(0, 0.7, (2, GENES))
    values += rng.normal(0, 0.3, values.shape)
    return ((values - values.mean(0)) / values.std(0)).astype(np.float32), label


UNIT = (np.full(GENES, 0.12, np.float32), np.full(GENES, 0.5, np.float32))


def autoencoder(model: str, rows: rnagen.Rows, seed: int = 1) -> rnagen.Autoencoder:
    means = np.array([rows[0][rows[1] == t].mean(0) for t in range(TYPES)])
    return rnagen.Autoencoder(model, means, 4, UNIT, rnagen.stream(seed, "generator weights"))


@pytest.mark.parametrize("model", ["cvae", "vae", "ae"])
def test_loss_and_measures_equal_their_closed_forms(model: str, rows: rnagen.Rows) -> None:
    genes, types = rows
    network = autoencoder(model, rows)
    network.log_noise.assign(np.linspace(-0.5, 0.3, GENES).astype(np.float32))
    noise = np.random.default_rng(1).normal(size=(len(types), 4)).astype(np.float32)
    measures = network.measures(network.sums(genes, types, noise)[1].numpy().astype(float))

    centres = network.type_means[types]
    latent, log_variance = network.encode(genes - centres, types)
    latent, kl = latent.numpy().astype(float), 0.0
    if model != "ae":
        sd = np.exp(log_variance.numpy().astype(float) / 2)
        kl = (latent**2 + sd**2 - 1) / 2 - np.log(sd)  # the closed form for two Gaussians
        draws = latent[:1] + sd[:1] * np.random.default_rng(2).normal(size=(200_000, 4))
        log_ratio = stats.norm.logpdf(draws, latent[0], sd[0]) - stats.norm.logpdf(draws)
        assert log_ratio.mean(0).sum() == pytest.approx(kl[0].sum(), abs=0.02)  # and what it stands for
        kl = kl.sum(1).mean()
        latent = latent + sd * noise
    expected = centres + network.decode(latent.astype(np.float32), types).numpy()
    surprise = -stats.norm.logpdf(genes, expected, np.exp(network.log_noise.numpy())).sum(1).mean()
    real, drawn = genes * UNIT[0] + UNIT[1], expected * UNIT[0] + UNIT[1]
    clipped = np.clip(drawn, 1e-6, 1 - 1e-6)
    closed = {
        "loss": surprise + kl,
        "kl": kl,
        "xent": -(real * np.log(clipped) + (1 - real) * np.log(1 - clipped)).mean(),
        "mse": ((real - drawn) ** 2).mean(),
        "corr": np.corrcoef(real.ravel(), drawn.ravel())[0, 1],
    }
    assert list(measures) == list(closed)
    assert measures == pytest.approx(closed, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_a_step_is_adams_on_the_mean_loss_however_it_is_sliced(
    cores: int, rows: rnagen.Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    import tensorflow as tf

    monkeypatch.setattr(rnagen, "CORES", cores)
    network, twin = autoencoder("cvae", rows), autoencoder("cvae", rows)
    training = rnagen.Training(network, rows, 128, 0.003, rnagen.stream(1, "order"))
    training.advance(3)  # 128 and 22 rows, then 128 of a new order

    optimizer = keras.optimizers.Adam(0.003)
    rng = rnagen.stream(1, "order")
    batches = []
    for count in (2, 1):
        order = rng.permutation(150)
        noise = rng.standard_normal((150 if count == 2 else 128, 4), dtype=np.float32)
        batches += [(order[start : start + 128], noise[start : start + 128]) for start in range(0, 128 * count, 128)]
    for order, noise in batches:
        with tf.GradientTape() as tape:
            loss = twin.sums(rows[0][order], rows[1][order], noise)[0] / len(order)
        optimizer.apply_gradients(zip(tape.gradient(loss, twin.weights), twin.weights, strict=True))
    for ours, theirs in zip(network.weights, twin.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-4)


def test_epoch_measures_are_of_every_row_once(rows: rnagen.Rows) -> None:
    classifier = rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "classifier weights"))
    training = rnagen.Training(classifier, rows, 64, 0.0, rnagen.stream(1, "order"))
    assert training.steps_per_epoch == 3
    still = training.advance(3)  # at learning rate 0 an epoch's measures are an evaluation's
    assert still == pytest.approx(classifier.evaluate(*rows), rel=1e-5)
    logits = classifier.network(rows[0] * UNIT[0] + UNIT[1]).numpy()
    assert still["accuracy"] == pytest.approx((logits.argmax(1) == rows[1]).mean())
    log_chance = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert still["loss"] == pytest.approx(-log_chance[np.arange(150), rows[1]].mean(), rel=1e-5)


def test_stops_do_not_change_training(rows: rnagen.Rows) -> None:
    found = []
    for stops in ((), (1, 5, 8)):
        classifier = rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "classifier weights"))
        training = rnagen.Training(classifier, rows, 64, 0.001, rnagen.stream(1, "order"))
        reached: list[int] = []
        training.stops = {stop: lambda: reached.append(training.steps) for stop in stops}  # noqa: B023
        training.advance(9)
        assert tuple(reached) == stops
        found.append([weight.numpy() for weight in classifier.weights])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("model", ["vae", "ae"])
def test_unconditional_latents_are_drawn_from_each_types_gaussian(model: str, rows: rnagen.Rows) -> None:
    network = autoencoder(model, rows)
    network.fit_latents(*rows)
    latent, _ = network.encode(rows[0], rows[1])
    latent = latent.numpy()
    for one_type in range(TYPES):
        own = latent[rows[1] == one_type]
        np.testing.assert_allclose(network.latent_mean[one_type], own.mean(0), atol=1e-5)
        root = network.latent_root[one_type]
        covariance = root.T @ root
        blur = covariance - np.cov(own.T, bias=True)
        if model == "ae":
            pooled = sum(np.cov(latent[rows[1] == t].T, bias=True) * (rows[1] == t).sum() for t in range(TYPES)) / 150
            expected = (np.cov(own.T, bias=True) * len(own) + 5 * pooled) / (len(own) + 5) + 1e-6 * np.eye(4)
            np.testing.assert_allclose(covariance, expected, atol=1e-5)
        else:
            assert (np.diag(blur) > 0.1).all()  # the posterior's own variance, near 1 before training


@pytest.mark.parametrize("model", ["cvae", "vae"])
def test_first_rows_do_not_depend_on_how_many_follow(model: str, rows: rnagen.Rows) -> None:
    network = autoencoder(model, rows)
    network.fit_latents(*rows)
    fitted = rnagen.Preprocessing.fit(rows[0], "none")
    synthesiser = rnagen.Synthesiser(network, fitted, np.arange(GENES), np.arange(TYPES), np.ones(TYPES))
    drawn = {}
    for count in (7, rnagen.BLOCK, rnagen.BLOCK + 1, 3 * rnagen.BLOCK + 5):
        types = rnagen.Order(count).labels(synthesiser.types, synthesiser.counts, 4, "output")
        drawn[count] = np.concatenate(list(synthesiser.draw(types, 4, "output")))
        assert drawn[count].shape == (count, GENES)
    longest = drawn[3 * rnagen.BLOCK + 5]
    for count, some in drawn.items():
        np.testing.assert_array_equal(some, longest[:count])
    assert len(np.unique(longest, axis=0)) == len(longest)
    for other in (synthesiser.draw(types[:50], 5, "output"), synthesiser.draw(types[:50], 4, "experiment")):
        assert not (np.concatenate(list(other))[:, None] == longest[None]).all(2).any()


def test_types_are_uniform_over_all_of_them() -> None:
    labels = lambda number: rnagen.Order(number).labels(np.arange(20), np.ones(20), 1, "output")  # noqa: E731
    types = labels(30_000)
    counts = np.bincount(types)
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(types[:100], labels(100))


def test_drawn_rows_have_the_moments_that_the_decoder_says(rows: rnagen.Rows) -> None:
    network = autoencoder("cvae", rows)
    network.log_noise.assign(np.linspace(-1, 0.5, GENES).astype(np.float32))
    types = np.ones(rnagen.BLOCK, int)
    blocks = [network.draw(types, rnagen.stream(1, "block", b)) for b in range(30)]
    means = [network.draw(types, rnagen.stream(1, "block", b), noise=False) for b in range(30)]
    residual = np.concatenate(blocks) - np.concatenate(means)
    np.testing.assert_allclose(residual.std(0), np.exp(np.linspace(-1, 0.5, GENES)), rtol=0.03)
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.05)


def test_streams_are_independent() -> None:
    draw = lambda *name: rnagen.stream(*name).random(4)  # noqa: E731
    np.testing.assert_array_equal(draw(1, "split"), draw(1, "split"))
    others = [draw(1, "order"), draw(2, "split"), draw(1, "split", 1), draw(1, "split")]
    assert len(np.unique(np.concatenate(others))) == 16
