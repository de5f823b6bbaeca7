"""The factor model, the network that starts from it and what both draw, against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import ledoit_wolf

import rnagen

GENES, TYPES, ROWS = 12, 3, 150
UNIT = (np.full(GENES, 0.12, np.float32), np.full(GENES, 0.5, np.float32))
NO_FLOOR = np.full(GENES, -np.inf, np.float32)


@pytest.fixture(scope="module")
def samples() -> rnagen.Samples:
    """Return standardised samples of three types that share two factors."""
    rng = np.random.default_rng(0)
    y = rng.integers(TYPES, size=ROWS).astype(np.int32)
    x = rng.normal(size=(TYPES, GENES))[y] + rng.normal(size=(ROWS, 2)) @ rng.normal(0, 0.7, (2, GENES))
    x += rng.normal(0, 0.3, x.shape)
    return rnagen.Samples(((x - x.mean(0)) / x.std(0)).astype(np.float32), y)


def fit(kind: str, samples: rnagen.Samples, latent: int | None = 3) -> rnagen.Factors:
    types = int(samples.y.max()) + 1
    return rnagen.fit_start(kind, replace(samples, groups=np.arange(len(samples))), types, latent, seed=1)


def network(kind: str, samples: rnagen.Samples, perturbed: bool = True) -> rnagen.CVAE:
    """Return a network before training, its last layers made to matter unless perturbed is False."""
    rng = rnagen.stream(1, "weights")
    model = rnagen.CVAE(kind, fit(kind, samples, 4), NO_FLOOR, UNIT, rng)
    for stack in (model.encoder, model.decoder) if perturbed else ():
        kernel = stack.layers[-1].kernel
        kernel.assign(rng.normal(0, 0.1, kernel.shape))
    return model


def draw(generator: rnagen.Generator, label: int, temperature: float = 1.0, blocks: int = 30) -> np.ndarray:
    """Return blocks of rows of a type, raised to the floor."""
    y, location_scale = np.full(rnagen.BLOCK, label), generator.location_scale(temperature)
    rows = [generator.draw(y, rnagen.stream(1, "block", b), location_scale) for b in range(blocks)]
    return np.maximum(np.concatenate(rows), generator.floor)


def model_covariance(factors: rnagen.Factors, label: int) -> np.ndarray:
    loadings = (factors.roots[label] @ factors.loadings).astype(float)
    return loadings.T @ loadings + np.diag(factors.noise.astype(float) ** 2)


@pytest.mark.parametrize("kind", ["cvae", "gaussian"])
def test_log_density_is_that_of_a_multivariate_normal(kind: str, samples: rnagen.Samples) -> None:
    factors = fit(kind, samples)
    found = factors.log_density(samples.x)
    assert found.shape == (ROWS, TYPES)
    for label in range(TYPES):
        covariance = factors.mean_error[label].astype(float) ** 2 * model_covariance(factors, label)
        expected = stats.multivariate_normal(factors.means[label], covariance).logpdf(samples.x)
        np.testing.assert_allclose(found[:, label], expected, atol=1e-4)
    far = factors.log_density(samples.x + 1e4)
    assert np.isfinite(far).all() and (far < found.min()).all()


@pytest.mark.parametrize("kind", ["cvae", "gaussian"])
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_draws_have_the_types_mean_and_sd_and_the_models_correlations(
    kind: str, temperature: float, samples: rnagen.Samples
) -> None:
    factors = fit(kind, samples)
    generator = rnagen.Generator(kind, factors, NO_FLOOR)
    for label in range(TYPES):
        drawn = draw(generator, label, temperature)
        np.testing.assert_allclose(drawn.mean(0), factors.means[label], atol=0.05 * temperature)
        sd = temperature * factors.mean_error[label] * factors.type_sd[label]
        np.testing.assert_allclose(drawn.std(0), sd, rtol=0.03)
        covariance = model_covariance(factors, label)
        implied = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        np.testing.assert_allclose(np.corrcoef(drawn.T), implied, atol=0.05)


def test_type_sds_are_shrunk_to_the_pooled_one(samples: rnagen.Samples) -> None:
    factors, counts = fit("cvae", samples), np.bincount(samples.y)
    own = np.array([samples.x[samples.y == label].var(0, ddof=1) for label in range(TYPES)])
    pooled = counts @ own / ROWS
    expected = (counts[:, None] * own + 10 * pooled) / (counts[:, None] + 10)
    np.testing.assert_allclose(factors.type_sd, np.sqrt(expected + 0.001), rtol=1e-4)


@pytest.mark.parametrize("kind", ["cvae", "gaussian"])
def test_draws_at_a_floor_keep_mean_and_sd(kind: str, samples: rnagen.Samples) -> None:
    floor = np.full(GENES, -0.2, np.float32)
    factors = fit(kind, rnagen.Samples(np.maximum(samples.x, floor), samples.y))
    generator, plain = (rnagen.Generator(kind, factors, where) for where in (floor, NO_FLOOR))
    for label in range(TYPES):
        drawn, naive = draw(generator, label), np.maximum(draw(plain, label), floor)
        target, sd = factors.means[label], factors.mean_error[label] * factors.type_sd[label]
        assert abs(drawn.mean(0) - target).max() < 0.03
        assert abs(naive.mean(0) - target).max() > 0.05
        reached = target - floor > 0.3 * sd  # nearer the floor no normal spreads as much
        np.testing.assert_allclose(drawn.std(0)[reached], sd[reached], rtol=0.12)
        assert reached.sum() >= 6


@pytest.mark.parametrize("height", [-0.5, 0.0, 0.5, 1.0, 3.0, 8.0])
def test_tobit_moments_hold_once_values_are_raised_to_the_floor(height: float) -> None:
    drawn = np.maximum(stats.norm(height, 1.3).rvs(2_000_000, random_state=0), 0)
    mean, sd = rnagen.tobit_moments(np.array([[drawn.mean() + 5]]), np.array([[drawn.std()]]), np.array([5.0]))
    assert mean[0, 0] - 5 == pytest.approx(height, abs=0.03)
    assert sd[0, 0] == pytest.approx(1.3, abs=0.03)


def test_gaussian_shrinks_each_covariance_to_the_pooled_one_by_ledoit_wolf(samples: rnagen.Samples) -> None:
    factors, x, y = fit("gaussian", samples, GENES), samples.x, samples.y  # every direction
    counts = np.bincount(y)
    means = np.array([x[y == label].mean(0) for label in range(TYPES)])
    np.testing.assert_allclose(factors.means, means, atol=1e-5)
    residuals = (x - means[y]) * np.sqrt(counts / (counts - 1))[y][:, None]
    pooled = residuals.T @ residuals / ROWS
    np.testing.assert_allclose(factors.loadings.T @ factors.loadings, pooled, atol=1e-4)
    root = np.linalg.cholesky(pooled)
    white = residuals @ np.linalg.inv(root).T  # the pooled covariance becomes the identity
    for label in range(TYPES):
        shrunk, _ = ledoit_wolf(white[y == label], assume_centered=True)
        loadings = factors.roots[label] @ factors.loadings
        np.testing.assert_allclose(loadings.T @ loadings, root @ shrunk @ root.T, atol=2e-3)


def test_type_means_shrink_as_far_as_chance_may_have_spread_them() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 300)) * np.repeat([0.0, 1.0], 150)  # half the genes do not differ between types
    means = truth + rng.normal(size=truth.shape) / np.sqrt(5)
    shrunk = rnagen.shrink_means(means, np.ones(300), np.full(40, 5))
    ideal = truth.var(0) / (truth.var(0) + 1 / 5)
    slope = np.array([np.cov(shrunk[:, g], means[:, g])[0, 1] / means[:, g].var(ddof=1) for g in range(300)])
    assert slope[:150].mean() < 0.2
    np.testing.assert_allclose(slope[150:].mean(), ideal[150:].mean(), atol=0.02)
    assert ((shrunk - truth) ** 2).mean() < 0.65 * ((means - truth) ** 2).mean()
    kept = rnagen.shrink_means(means, np.ones(300), np.full(40, 10**6))
    np.testing.assert_allclose(kept, means, atol=1e-4)  # means of many rows stay


def test_a_type_with_few_rows_has_the_pooled_covariance(samples: rnagen.Samples) -> None:
    few = np.flatnonzero(samples.y == 1)[2:]
    rest = samples.take(np.setdiff1d(np.arange(ROWS), few))
    for kind in ("cvae", "gaussian"):
        factors = fit(kind, rest)
        np.testing.assert_array_equal(factors.roots[1], np.eye(3, dtype=np.float32))
        pooled = np.sqrt((factors.type_sd[[0, 2]] ** 2).mean(0))
        np.testing.assert_allclose(factors.type_sd[1], pooled, rtol=0.5)


def test_held_out_rows_choose_the_latent_dimensions() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 60).astype(np.int32)
    x = rng.normal(size=(240, 4)) @ rng.normal(0, 1, (4, 50)) + rng.normal(size=(240, 50))
    factors = fit("cvae", rnagen.Samples(x.astype(np.float32), y), None)
    assert len(factors.loadings) == 4
    np.testing.assert_allclose(np.square(factors.loadings).sum(0) + factors.noise**2, x.var(0), rtol=0.1)


@pytest.mark.parametrize(("latent_sd", "noise_sd"), [(0.0, 0.0), (0.8, 0.0), (0.8, 0.5)])
def test_rows_have_a_radius_where_held_out_rows_prefer_it(latent_sd: float, noise_sd: float) -> None:
    rng = np.random.default_rng(0)
    rows, latent, genes = 600, 8, 60
    y = rng.integers(2, size=rows).astype(np.int32)
    deviate = rng.normal(size=(rows, 1))
    radii = [np.exp(sd * deviate / 2 - sd**2 / 4) for sd in (latent_sd, noise_sd)]
    x = radii[0] * rng.normal(size=(rows, latent)) @ rng.normal(size=(latent, genes))
    x += radii[1] * rng.normal(size=(rows, genes))
    samples = rnagen.Samples(x.astype(np.float32), y)
    factors = fit("cvae", samples, latent)
    np.testing.assert_allclose(factors.radius_sd, [latent_sd, noise_sd], atol=0.21)
    assert factors.radius_sd[0] <= latent_sd + 0.01
    drawn = draw(rnagen.Generator("cvae", factors, np.full(genes, -np.inf, np.float32)), 0, blocks=5)
    log_square, real = (np.log(np.square(rows - rows.mean(0)).sum(1)) for rows in (drawn, x))
    assert log_square.std() == pytest.approx(real.std(), rel=0.15)
    np.testing.assert_allclose(drawn.std(0), factors.mean_error[0] * factors.type_sd[0], rtol=0.08)


def test_first_rows_do_not_depend_on_how_many_follow(samples: rnagen.Samples) -> None:
    factors = fit("cvae", samples)
    for model in (rnagen.Generator("cvae", factors, NO_FLOOR), network("cvae", samples)):
        location_scale = model.location_scale(1.0)
        many, few = (model.draw(samples.y[:rows], rnagen.stream(1, "rows"), location_scale) for rows in (ROWS, 7))
        np.testing.assert_array_equal(many[:7], few)


@pytest.mark.parametrize("kind", ["cvae", "vae", "ae"])
def test_loss_and_metrics_equal_their_closed_forms(kind: str, samples: rnagen.Samples) -> None:
    model, (x, y) = network(kind, samples), (samples.x, samples.y)
    model.log_noise.assign(np.linspace(-0.5, 0.3, GENES).astype(np.float32))
    noise = np.random.default_rng(1).normal(size=(ROWS, 4)).astype(np.float32)
    metrics = model.metrics(model.loss_and_totals(x, y, noise)[1].numpy().astype(float))
    centres = model.factors.means[y]
    latent, log_variance = model.encode(x - centres, y)
    latent, kl = latent.numpy().astype(float), 0.0
    if kind != "ae":
        sd = np.exp(log_variance.numpy().astype(float) / 2)
        kl = ((latent**2 + sd**2 - 1) / 2 - np.log(sd)).sum(1).mean()  # the closed form for two Gaussians
        latent = latent + sd * noise
    expected = centres + model.decode(latent.astype(np.float32), y).numpy()
    surprise = -stats.norm.logpdf(x, expected, np.exp(model.log_noise.numpy())).sum(1).mean()
    real, decoded = (values * UNIT[0] + UNIT[1] for values in (x, expected))
    chance = np.clip(decoded, 1e-6, 1 - 1e-6)
    assert metrics["kl"] == pytest.approx(kl, rel=1e-4)
    assert metrics["loss"] == pytest.approx(surprise + kl, rel=1e-4)
    assert metrics["xent"] == pytest.approx(-(real * np.log(chance) + (1 - real) * np.log(1 - chance)).mean(), rel=1e-4)
    assert metrics["mse"] == pytest.approx(((real - decoded) ** 2).mean(), rel=1e-3)
    assert metrics["corr"] == pytest.approx(np.corrcoef(real.ravel(), decoded.ravel())[0, 1], rel=1e-3)


def test_a_network_starts_as_the_factor_model(samples: rnagen.Samples) -> None:
    model, factors = network("cvae", samples, perturbed=False), fit("cvae", samples, 4)
    covariance = factors.loadings.T @ factors.loadings + np.diag(factors.noise**2)
    centred = samples.x - factors.means[samples.y]
    surprise = -stats.multivariate_normal(np.zeros(GENES), covariance).logpdf(centred).mean()
    rng = np.random.default_rng(0)
    losses = [model.evaluate(samples, rng)["loss"] for _ in range(100)]
    assert surprise - 0.01 < np.mean(losses) < surprise + 0.7  # the bound is all but tight
    model.finish(samples, 1, trained=False)
    np.testing.assert_array_equal(model.latent_root, factors.roots)
    own, start = (draw(one, 1) for one in (model, rnagen.Generator("cvae", factors, NO_FLOOR)))
    np.testing.assert_allclose(own.mean(0), start.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(own.T), np.cov(start.T), atol=0.05)


def test_latents_are_fitted_to_the_encoders_posteriors() -> None:
    rng = np.random.default_rng(0)
    roots = [np.diag([1.6, 0.5]), np.array([[1.0, 0.9], [0.0, 0.4]])]
    y = np.repeat([0, 1], 3000).astype(np.int32)
    z = np.concatenate([rng.normal(size=(3000, 2)) @ root for root in roots])
    x = (z @ rng.normal(size=(2, GENES)) + rng.normal(0, 0.1, (6000, GENES))).astype(np.float32)
    model = rnagen.CVAE("cvae", fit("cvae", rnagen.Samples(x, y), 2), NO_FLOOR, UNIT, rnagen.stream(1, "weights"))
    model.finish(rnagen.Samples(x, y), 1)
    for label, root in enumerate(roots):
        recognised = (x - model.factors.means[label])[y == label] @ model.recognition.numpy()  # a rotation of z
        covariance = model.latent_root[label].T @ model.latent_root[label]
        np.testing.assert_allclose(covariance, np.cov(recognised.T), atol=0.02)
        drawn = draw(model, label)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(x[y == label].T), rtol=0.05, atol=0.1)
        assert np.linalg.det(covariance) > 0 and root.shape == covariance.shape


def test_types_with_few_samples_keep_the_factor_models_latents(samples: rnagen.Samples) -> None:
    few = np.flatnonzero(samples.y == 2)[29:]
    rest = samples.take(np.setdiff1d(np.arange(ROWS), few))
    model = network("cvae", rest)
    start = model.latent_root.copy()
    model.finish(rest, 1)
    kept = [np.array_equal(model.latent_root[label], start[label]) for label in range(TYPES)]
    assert kept == [False, False, True]


@pytest.mark.parametrize("kind", ["vae", "ae"])
def test_without_a_condition_the_latents_carry_the_types(kind: str, samples: rnagen.Samples) -> None:
    model = network(kind, samples, perturbed=False)
    model.finish(samples, 1)
    centres = np.array([draw(model, label).mean(0) for label in range(TYPES)])
    means = np.array([samples.x[samples.y == label].mean(0) for label in range(TYPES)])
    assert np.corrcoef(centres.ravel(), means.ravel())[0, 1] > 0.9


def test_what_a_generator_holds_does_not_grow_with_the_samples(samples: rnagen.Samples) -> None:
    model = network("cvae", samples)
    model.finish(samples, 1)
    sizes = {"types": TYPES, "genes": GENES, "latent": 4}
    held = [(model.factors, rnagen.FACTOR_SHAPES), (model, rnagen.DRAWN_SHAPES)]
    for owner, shapes in held:
        for name, axes in shapes.items():
            tensor = getattr(owner, name)
            assert tensor.shape == tuple(sizes.get(axis, axis) for axis in axes), name
            assert tensor.dtype == np.float32, name


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_the_learning_rate_warms_up_and_decays(steps: int) -> None:
    schedule = rnagen.generator_learning_rate(steps)
    rates = np.array([float(schedule(step)) for step in range(steps + 1)])
    warm_up = max(1, round(steps / 10))
    assert rates.max() <= rnagen.PEAK_RATE * 1.001
    assert rates[warm_up] == pytest.approx(rnagen.PEAK_RATE, rel=1e-3)
    assert (np.diff(rates[:warm_up]) > 0).all() and (np.diff(rates[warm_up:]) < 0).all()
    assert rates[-1] <= rnagen.PEAK_RATE * (1e-6 if steps > 1 else 1.001)
