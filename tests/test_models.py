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


NO_FLOOR = np.full(GENES, -np.inf, np.float32)


def autoencoder(model: str, rows: rnagen.Rows, seed: int = 1) -> rnagen.Autoencoder:
    """Return a network as it is before training, its last layers made to matter."""
    factors = rnagen.start_factors(model, rows, np.arange(len(rows[1])), TYPES, 4)
    weights = rnagen.stream(seed, "generator weights")
    network = rnagen.Autoencoder(model, factors, NO_FLOOR, UNIT, TYPES, weights)
    for stack in (network.encoder, network.decoder):
        kernel = stack.layers[-1].kernel
        kernel.assign(weights.normal(0, 0.1, kernel.shape))
    return network


@pytest.mark.parametrize("model", ["cvae", "vae", "ae"])
def test_loss_and_measures_equal_their_closed_forms(model: str, rows: rnagen.Rows) -> None:
    genes, types = rows
    network = autoencoder(model, rows)
    network.linear["log_noise"].assign(np.linspace(-0.5, 0.3, GENES).astype(np.float32))
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
    surprise = -stats.norm.logpdf(genes, expected, np.exp(network.linear["log_noise"].numpy())).sum(1).mean()
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
    network.finish(rows)
    latent = network.encode(*rows)[0].numpy()
    covariances = [np.cov(latent[rows[1] == t].T) for t in range(TYPES)]
    counts = np.bincount(rows[1])
    pooled = sum(covariance * n for covariance, n in zip(covariances, counts, strict=True)) / 150
    for one_type, (own, n) in enumerate(zip(covariances, counts, strict=True)):
        np.testing.assert_allclose(network.latent_mean[one_type], latent[rows[1] == one_type].mean(0), atol=1e-5)
        root = network.latent_root[one_type]
        blur = root.T @ root - (own * n + 5 * pooled) / (n + 5)
        if model == "ae":
            np.testing.assert_allclose(blur, 1e-6 * np.eye(4), atol=1e-5)
        else:  # the posterior's own variance
            log_variance = network.encode(*rows)[1].numpy()
            np.testing.assert_allclose(np.diag(blur), np.exp(log_variance).mean(0), rtol=1e-3)


@pytest.mark.parametrize("model", ["cvae", "vae"])
def test_first_rows_do_not_depend_on_how_many_follow(model: str, rows: rnagen.Rows) -> None:
    network = autoencoder(model, rows)
    network.finish(rows)
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


def draws(generator: rnagen.Generator, one_type: int, temperature: float = 1.0, noise: bool = True) -> np.ndarray:
    """Return 30 blocks of rows of a type, raised to the floor."""
    types, placement = np.full(rnagen.BLOCK, one_type), generator.placement(temperature)
    blocks = [generator.draw(types, rnagen.stream(1, "block", b), placement, noise) for b in range(30)]
    return np.maximum(np.concatenate(blocks), generator.floor)


def test_noise_is_as_wide_as_learned(rows: rnagen.Rows) -> None:
    network = autoencoder("cvae", rows)
    network.linear["log_noise"].assign(np.linspace(-1, 0.5, GENES).astype(np.float32))
    network.finish(rows)
    residual = draws(network, 1) - draws(network, 1, noise=False)
    expected = np.exp(np.linspace(-1, 0.5, GENES)) * network.stretch[1]
    np.testing.assert_allclose(residual.std(0), expected, rtol=0.03)
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.05)


@pytest.mark.parametrize("model", ["cvae", "gaussian"])
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_draws_have_the_factor_models_moments(model: str, temperature: float, rows: rnagen.Rows) -> None:
    factors = rnagen.start_factors(model, rows, np.arange(150), TYPES, 3)
    generator = rnagen.Generator(model, factors, NO_FLOOR)
    for one_type in range(TYPES):
        drawn = draws(generator, one_type, temperature)
        loadings = factors.roots[one_type] @ factors.loadings
        covariance = loadings.T @ loadings + np.diag(factors.noise**2)
        covariance *= (temperature * factors.stretch[one_type]) ** 2
        np.testing.assert_allclose(drawn.mean(0), factors.means[one_type], atol=0.05 * temperature)
        np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.06 * temperature**2)


def test_gaussian_shrinks_each_covariance_to_the_pooled_one_by_ledoit_wolf(rows: rnagen.Rows) -> None:
    from sklearn.covariance import ledoit_wolf

    factors = rnagen.fit_gaussians(rows, TYPES, GENES)  # every direction
    genes, types = rows
    counts = np.bincount(types)
    means = np.array([genes[types == t].mean(0) for t in range(TYPES)])
    np.testing.assert_allclose(factors.means, means, atol=1e-5)
    residuals = (genes - means[types]) * np.sqrt(counts / (counts - 1))[types][:, None]
    pooled = residuals.T @ residuals / len(genes)
    np.testing.assert_allclose(factors.loadings.T @ factors.loadings, pooled, atol=1e-4)
    white = residuals @ np.linalg.inv(np.linalg.cholesky(pooled)).T  # the pooled covariance becomes the identity
    for one_type in range(TYPES):
        shrunk, _ = ledoit_wolf(white[types == one_type], assume_centered=True)
        root = np.linalg.cholesky(pooled)
        loadings = factors.roots[one_type] @ factors.loadings
        np.testing.assert_allclose(loadings.T @ loadings, root @ shrunk @ root.T, atol=2e-3)


def test_type_means_shrink_as_far_as_chance_may_have_spread_them() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 300)) * np.repeat([0.0, 1.0], 150)  # half the genes do not differ between types
    counts = np.full(40, 5)
    means = truth + rng.normal(size=truth.shape) / np.sqrt(5)
    shrunk = rnagen.shrink_means(means, np.ones(300), counts)
    ideal = truth.var(0) / (truth.var(0) + 1 / 5)
    slope = np.array([np.cov(shrunk[:, g], means[:, g])[0, 1] / means[:, g].var(ddof=1) for g in range(300)])
    assert slope[:150].mean() < 0.15
    np.testing.assert_allclose(slope[150:].mean(), ideal[150:].mean(), atol=0.02)
    assert ((shrunk - truth) ** 2).mean() < 0.6 * ((means - truth) ** 2).mean()
    wide = rnagen.shrink_means(means, np.ones(300), np.full(40, 10**6))
    np.testing.assert_allclose(wide, means, atol=1e-4)  # means of many rows stay


@pytest.mark.parametrize("height", [-0.5, 0.0, 0.5, 1.0, 3.0, 8.0])
def test_uncensored_normals_have_the_moments_once_raised_to_the_floor(height: float) -> None:
    wide = stats.norm(height, 1.3)
    drawn = np.maximum(wide.rvs(2_000_000, random_state=0), 0)
    mean, sd = rnagen.uncensored(np.array([[drawn.mean() + 5]]), np.array([[drawn.std()]]), np.array([5.0]))
    assert mean[0, 0] - 5 == pytest.approx(height, abs=0.03)
    assert sd[0, 0] == pytest.approx(1.3, abs=0.03)


def test_rows_at_a_floor_keep_mean_and_spread(rows: rnagen.Rows) -> None:
    genes, types = rows
    floor = np.full(GENES, -0.5, np.float32)
    raised = np.maximum(genes, floor)
    factors = rnagen.fit_gaussians((raised, types), TYPES, None)
    generator = rnagen.Generator("gaussian", factors, floor)
    plain = rnagen.Generator("gaussian", factors, NO_FLOOR)
    for one_type in range(TYPES):
        drawn, naive = draws(generator, one_type), np.maximum(draws(plain, one_type), floor)
        target = factors.means[one_type]
        assert abs(drawn.mean(0) - target).max() < 0.05
        assert abs(naive.mean(0) - target).max() > 0.1
        sd = generator.moments[1][one_type] * factors.stretch[one_type]
        reached = target - floor > 0.3 * sd  # nearer the floor no normal spreads as much
        np.testing.assert_allclose(drawn.std(0)[reached], sd[reached], rtol=0.1)
        assert reached.sum() >= 10


def test_held_out_rows_choose_the_latent_dimensions() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), 60).astype(np.int32)
    values = rng.normal(size=(240, 4)) @ rng.normal(0, 1, (4, 50)) + rng.normal(size=(240, 50))
    factors = rnagen.fit_factors((values.astype(np.float32), label), np.arange(240), 4, None)
    assert len(factors.loadings) == 4
    assert factors.pooled_rows >= 16  # the types share one covariance
    within = np.square(factors.loadings).sum(0) + factors.noise**2
    np.testing.assert_allclose(within, values.var(0), rtol=0.1)


def test_a_network_starts_as_the_factor_model(rows: rnagen.Rows) -> None:
    factors = rnagen.fit_factors(rows, np.arange(150), TYPES, 2)
    network = rnagen.Autoencoder("cvae", factors, NO_FLOOR, UNIT, TYPES, rnagen.stream(1, "weights"))
    genes, types = rows
    covariance = factors.loadings.T @ factors.loadings + np.diag(factors.noise**2)
    surprise = -stats.multivariate_normal(np.zeros(GENES), covariance).logpdf(genes - factors.means[types])
    loss = np.mean([network.measures(network.sums(genes, types, n)[1].numpy())["loss"] for n in noises(200)])
    assert surprise.mean() - 0.01 < loss < surprise.mean() + 0.5  # the bound is all but tight


def noises(number: int) -> list[np.ndarray]:
    """Return that many draws of the noise of 150 rows with two latent dimensions."""
    return [np.random.default_rng(n).normal(size=(150, 2)).astype(np.float32) for n in range(number)]


def test_training_restarts_as_if_new(rows: rnagen.Rows) -> None:
    other = (rows[0][:90] * 2, rows[1][:90])
    make = lambda of: rnagen.Training(  # noqa: E731
        rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "weights")), of, 64, 0.01, rnagen.stream(2, "order")
    )
    used, fresh = make(rows), make(other)
    used.advance(7)
    used.restart(other, rnagen.stream(2, "order"))
    assert used.advance(5) == pytest.approx(fresh.advance(5), rel=1e-5)


def test_training_shares_the_memory_of_its_rows(rows: rnagen.Rows) -> None:
    """There may be no room for a copy: what happens to the rows happens to those in training."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("a GPU has memory of its own")
    first, second = (rnagen.room_for(*rows[0].shape) for _ in range(2))
    first[:] = second[:] = rows[0]
    model = rnagen.Classifier(TYPES, UNIT, rnagen.stream(1, "weights"))
    training = rnagen.Training(model, (first, rows[1]), 64, 0.01, rnagen.stream(2, "order"))
    assert training.advance(2)["loss"] < 100
    first[:] = 1e9
    assert training.advance(2)["loss"] > 1e6
    training.release()
    training.restart((second, rows[1]), rnagen.stream(2, "order"))
    assert training.advance(2)["loss"] < 100
    second[:] = 1e9
    assert training.advance(2)["loss"] > 1e6


@pytest.mark.parametrize("layout", ["as numpy has it", "unaligned", "every other column"])
def test_any_array_becomes_a_tensor(layout: str) -> None:
    wide = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    genes = {"as numpy has it": wide, "unaligned": rnagen.room_for(8, 10)[1:], "every other column": wide[:, ::2]}[
        layout
    ]
    np.testing.assert_array_equal(rnagen.shared_tensor(genes).numpy(), genes)


def test_inner_folds_are_stratified_and_keep_groups_whole() -> None:
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=300)
    groups = np.array([f"{t}-{g}" for t, g in zip(types, rng.integers(60, size=300), strict=True)])
    fold = rnagen.inner_folds(types, groups, 4, rng)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    for one_type in range(3):
        held = [len(set(groups[(fold == f) & (types == one_type)])) for f in range(4)]
        assert max(held) - min(held) <= 1


def test_streams_are_independent() -> None:
    draw = lambda *name: rnagen.stream(*name).random(4)  # noqa: E731
    np.testing.assert_array_equal(draw(1, "split"), draw(1, "split"))
    others = [draw(1, "order"), draw(2, "split"), draw(1, "split", 1), draw(1, "split")]
    assert len(np.unique(np.concatenate(others))) == 16
