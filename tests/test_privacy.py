"""Differential privacy: accounting, sensitivities, an attack on a tiny generator, and that nothing else gets out."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import call
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm

import rnagen

DELTA = 1e-5


def cohort(patients: int = 90, genes: int = 12, types: int = 2, seed: int = 0, repeated: int = 0) -> rnagen.Cohort:
    """Draw log2 expression of patients who take turns in type; the first few have a second sample of the next type."""
    rng = np.random.default_rng(seed)
    of_sample = np.concatenate([np.arange(patients), np.arange(repeated)])
    y = np.concatenate([np.arange(patients), np.arange(repeated) + 1]) % types
    means = np.random.default_rng(5).normal(8, 2, (types, genes))
    values = np.maximum(means[y] + rng.normal(size=(len(y), genes)), 0).astype(np.float32)
    samples = np.array([f"{seed}-S{row}" for row in range(len(y))])
    names = np.array([f"G{gene}" for gene in range(genes)])
    labels = np.array([f"type {label}" for label in y])
    groups = np.array([f"{seed}-P{patient}" for patient in of_sample])
    return rnagen.Cohort("cohort", False, values, samples, names, labels, groups, "")


def no_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tiny cohort through that noise would drown."""
    monkeypatch.setattr(rnagen, "MIN_MU_PATIENTS", 0)
    monkeypatch.setattr(rnagen, "MIN_MU_ALL", 0)
    monkeypatch.setattr(rnagen, "MAX_CENTRE_NOISE", 1e9)


# ---- accounting


@pytest.mark.parametrize("epsilon", [0.1, 1, 4, 10, 50])
@pytest.mark.parametrize("delta", [1e-7, DELTA, 1e-2])
def test_mu_agrees_with_dp_accounting(epsilon: float, delta: float) -> None:
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    mu = rnagen.gaussian_mu(epsilon, delta)
    exact = accounting.pld.privacy_loss_mechanism.GaussianPrivacyLoss(1 / mu).get_delta_for_epsilon(epsilon)
    assert exact == pytest.approx(delta, rel=1e-3)
    assert exact <= delta


def test_composition_agrees_with_dp_accounting() -> None:
    """All releases of a fit, composed by privacy loss distributions, spend the stated epsilon."""
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    mechanism = rnagen.Mechanism(rnagen.gaussian_mu(2, DELTA), rnagen.PRIVATE_SHARES, np.arange(9).astype(str))
    accountant = accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    for mu in mechanism.mus.values():
        accountant.compose(accounting.GaussianDpEvent(1 / mu))
    assert accountant.get_epsilon(DELTA) == pytest.approx(2, rel=0.01)


@given(st.floats(0.05, 60), st.floats(1e-9, 0.1))
def test_mu_solves_the_equation_of_delta(epsilon: float, delta: float) -> None:
    mu = rnagen.gaussian_mu(epsilon, delta)
    direct = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert direct <= delta * (1 + 1e-6)
    assert rnagen.gaussian_delta(mu * 1.00001, epsilon) > delta
    assert rnagen.least_epsilon(mu, delta) == pytest.approx(epsilon, abs=0.11)


def test_shares_add_up_and_the_ceiling_is_that_of_two_normals() -> None:
    _, _, fit = rnagen.fit_private(cohort(600), None, 10, DELTA, "none")
    assert math.hypot(*fit.releases.values()) == pytest.approx(fit.mu)
    draws = np.random.default_rng(0).normal(size=(2, 400_000))
    assert np.mean(draws[0] + fit.mu > draws[1]) == pytest.approx(fit.attack_ceiling, abs=0.003)


# ---- sensitivity: along the same transcript of releases, no replaced patient moves a statistic by more than stated


def transcript(monkeypatch: pytest.MonkeyPatch, fit: Callable[[], Any], answers: list | None = None) -> list[tuple]:
    """Return (name, statistic, sensitivity) of every release of a fit, whose answers are given, or recorded."""
    asked: list[tuple] = []
    release = rnagen.Mechanism.release

    def record(self: rnagen.Mechanism, name: str, statistic: np.ndarray, sensitivity: float) -> tuple:
        answer = release(self, name, statistic, sensitivity) if answers is None else answers[len(asked)][3]
        asked.append((name, statistic.copy(), sensitivity, answer))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(rnagen.Mechanism, "release", record)
        fit()
    return asked


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["private", "public"]), st.floats(-3, 3), st.booleans())
def test_no_replaced_patient_exceeds_a_sensitivity(seed: int, kind: str, log_size: float, opposite: bool) -> None:
    rng = np.random.default_rng(seed)
    voted = rnagen.vote_on_scale
    with pytest.MonkeyPatch.context() as monkeypatch:
        no_size_limit(monkeypatch)
        monkeypatch.setattr(rnagen, "MAX_SCALE_RATIO", 1e9)
        monkeypatch.setattr(
            rnagen, "vote_on_scale", lambda mechanism, expression: voted(mechanism, expression) and "none"
        )
        training = cohort(60, types=3, seed=seed, repeated=20)
        public = cohort(80, seed=seed + 1) if kind == "public" else None
        rows = training.groups == rng.choice(training.groups)
        tables = []
        for sign in (1, -1):
            values = training.expression.copy()
            noise = rng.normal(size=values[rows].shape)
            values[rows] = np.float32(
                5 + (sign if opposite else 1) * 10**log_size * (np.abs(noise) if opposite else noise)
            )
            values[rows] = np.where(rng.random(values[rows].shape) < 0.1, np.nan, values[rows])
            tables.append(replace(training, expression=values))
        first = transcript(monkeypatch, lambda: rnagen.fit_private(tables[0], public, 20, DELTA, "none"))
        second = transcript(monkeypatch, lambda: rnagen.fit_private(tables[1], public, 20, DELTA, "none"), first)
    assert len(first) == len(second) == (11 if public is None else 5)
    for (name, one, sensitivity, _), (_, other, same, _) in zip(first, second, strict=True):
        assert sensitivity == same, name
        assert np.linalg.norm(one - other) <= sensitivity * (1 + 1e-9), name


def test_sensitivities_are_reached() -> None:
    """They are no larger than need be: patients at opposite ends move mean and sums by all of it."""
    mechanism = rnagen.Mechanism(1, rnagen.PRIVATE_SHARES, np.array(["a", "b", "b"]))
    moved = {}
    for sign in (1, -1):
        rows = np.zeros((3, 2))
        rows[0, 0] = sign * 1e9
        clipped, radius = mechanism.clip("means", rows)
        moved[sign] = mechanism.weights @ clipped
        assert np.linalg.norm(clipped[0]) == pytest.approx(radius)
    assert mechanism.weights.tolist() == [1, 0.5, 0.5]


# ---- nothing else gets out


@pytest.mark.parametrize("kind", ["private", "public"])
def test_output_depends_on_the_table_through_releases_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tables that have nothing in common give the same generator if their releases are answered alike."""
    no_size_limit(monkeypatch)
    monkeypatch.setattr(rnagen, "MAX_SCALE_RATIO", 1e9)  # whose use of a released radius is not what is tested
    monkeypatch.setattr(rnagen, "vote_on_scale", lambda mechanism, expression: "none")
    one = cohort(60, repeated=10)
    values = np.random.default_rng(1).normal(50, 40, one.expression.shape).astype(np.float32).round()
    values[:, 3], values[:, 4] = np.nan, 7  # never measured, constant
    other = replace(one, expression=values, samples=np.char.add(one.samples, "x"))
    public = cohort(70, seed=9) if kind == "public" else None
    fits = []
    answers = transcript(monkeypatch, lambda: fits.append(rnagen.fit_private(one, public, 5, DELTA, "none")))
    transcript(monkeypatch, lambda: fits.append(rnagen.fit_private(other, public, 5, DELTA, "none")), answers)
    for first, second in zip(*fits, strict=True):  # scale, factors, guarantee
        for name, value in vars(first).items():
            np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)


def test_noise_is_standard_normal_and_never_the_same() -> None:
    noise = rnagen.system_normal((1000, 100))
    assert np.isfinite(noise).all()
    assert np.abs([noise.mean(), noise.std() - 1, (noise**4).mean() - 3]).max() < 0.2
    np.random.seed(0)
    first = rnagen.system_normal((5,))
    np.random.seed(0)
    assert not np.isin(first, rnagen.system_normal((5,))).any()


# ---- an attack


def epsilon_found(statistics: tuple[np.ndarray, np.ndarray], delta: float) -> float:
    """Return the 95% lower bound of epsilon that a threshold on a statistic proves (Nasr et al. 2021).

    The first half of the fits chooses threshold and side, the second half counts the attack's errors (Clopper and
    Pearson 1934, 97.5% each).
    """
    half = len(statistics[0]) // 2
    chosen, counted = [s[:half] for s in statistics], [s[half:] for s in statistics]

    def bound(sets: list[np.ndarray], threshold: float, sign: int) -> float:
        hits, alarms = (int((sign * part > sign * threshold).sum()) for part in sets)
        n = len(sets[0])
        power = beta.ppf(0.025, hits, n - hits + 1) if hits else 0
        false = beta.ppf(0.975, alarms + 1, n - alarms) if alarms < n else 1
        return math.log(max(power - delta, 1e-12) / false)

    guesses = [(t, sign) for t in np.quantile(np.concatenate(chosen), np.linspace(0.02, 0.98, 49)) for sign in (1, -1)]
    return max(bound(counted, *max(guesses, key=lambda guess: bound(chosen, *guess))), 0)


def attack(refits: int, epsilon: float, delta: float, public: rnagen.Cohort | None) -> float:
    """Fit to two neighbours again and again; return the epsilon that a discriminant of what is released proves."""
    training = cohort(600, genes=3)
    found = []
    for extreme in (0.0, 20.0):
        values = training.expression.copy()
        values[0] = extreme
        table = replace(training, expression=values)
        fits = (rnagen.fit_private(table, public, epsilon, delta, "none") for _ in range(refits))
        found.append(
            [np.r_[scale.mean + factors.means[0] * scale.sd, scale.mean, scale.sd] for scale, factors, _ in fits]
        )
    features = np.array(found)  # (2, refits, features)
    features = (features - features.mean((0, 1))) / (features.std((0, 1)) + 1e-9)
    half = features[:, : refits // 2].reshape(-1, features.shape[2])
    label = np.repeat([0.0, 1.0], refits // 2)
    direction = np.linalg.lstsq(np.c_[half, np.ones(len(half))], label, rcond=None)[0][:-1]  # Fisher (1936)
    score = features @ direction
    return epsilon_found((score[1], score[0]), delta)


@pytest.mark.parametrize("kind", ["private", "public"])
def test_an_attack_proves_no_more_than_the_stated_epsilon(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    no_size_limit(monkeypatch)
    monkeypatch.setattr(rnagen, "MAX_SCALE_RATIO", 1e9)
    public = cohort(100, genes=3, seed=1) if kind == "public" else None
    monkeypatch.setattr(rnagen, "resolve_transform", lambda expression, asked: "none")
    monkeypatch.setattr(rnagen, "vote_on_scale", lambda mechanism, expression: "none")
    assert attack(1000, 1.0, 0.01, public) <= 1.0


def test_the_attack_finds_a_generator_with_a_tenth_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    no_size_limit(monkeypatch)
    monkeypatch.setattr(rnagen, "MAX_SCALE_RATIO", 1e9)
    system_normal = rnagen.system_normal
    monkeypatch.setattr(rnagen, "system_normal", lambda shape: 0.1 * system_normal(shape))
    assert attack(1000, 1.0, 0.01, cohort(100, genes=3, seed=1)) > 1.5


# ---- what is refused


def refused(*arguments: Any) -> str:
    with pytest.raises(rnagen.RnagenError) as error:
        rnagen.fit_private(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_too_few_patients_whatever_their_samples() -> None:
    small = refused(cohort(20), None, 1.0, DELTA, "none")
    assert "10 training patients" in small and "--public" not in small
    enough = float(small.split("--epsilon ")[2])
    assert rnagen.gaussian_mu(enough, DELTA) * 20 >= rnagen.MIN_MU_ALL
    assert "--public" in refused(cohort(2000, types=20), None, 1.0, DELTA, "none")
    many = cohort(2000)
    rnagen.fit_private(many, None, 4, DELTA, "none")
    one_patient = replace(many, groups=np.where(many.types == "type 1", "P", many.groups))
    assert "and of 1 in 'type 1'" in refused(one_patient, None, 4, DELTA, "none")


def test_too_many_genes_for_the_noise() -> None:
    message = refused(cohort(1200, genes=6000), None, 1.5, DELTA, "none")
    assert "6000" in message and "variance in a public table" in message


def test_size_is_judged_without_values() -> None:
    table = cohort(20)
    other = replace(table, expression=np.full_like(table.expression, np.nan))
    assert refused(table, None, 1.0, DELTA, "none") == refused(other, None, 1.0, DELTA, "none")


@pytest.mark.parametrize(
    ("transform", "change"), [("none", lambda x: x), ("log2", np.exp2), ("cpm", lambda x: np.exp2(x).round())]
)
def test_patients_vote_on_the_scale(transform: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    table = cohort(2000)
    values = change(table.expression)
    values[:20] = -1000.5  # a few cannot overrule the others
    scale, _, _ = rnagen.fit_private(replace(table, expression=values), None, 10, DELTA, "auto")
    assert scale.transform == transform
    if transform != "none":
        assert f"use --transform {transform}" in refused(replace(table, expression=values), None, 10, DELTA, "none")
    assert not scale.whole and scale.floor == 0 and scale.kept.all()


def test_public_tables_that_do_not_fit() -> None:
    training, public = cohort(2000), cohort(200, seed=1)
    rnagen.fit_private(training, public, 4, DELTA, "auto")
    shared = replace(public, groups=np.append(training.groups[:1], public.groups[1:]))
    assert "1 samples or patients" in refused(training, shared, 4, DELTA, "auto")
    fewer = replace(public, genes=public.genes[1:], expression=public.expression[:, 1:])
    assert "lacks 1 of 12 genes (G0)" in refused(training, fewer, 4, DELTA, "auto")
    counts = replace(public, expression=np.exp2(public.expression).round() - 1)
    assert "same units" in refused(training, counts, 4, DELTA, "auto")
    assert "same units" in refused(replace(training, expression=np.exp2(training.expression)), public, 4, DELTA, "none")
    standardised = (training.expression - training.expression.mean(0)) / 10
    assert "same units" in refused(replace(training, expression=standardised), public, 4, DELTA, "none")
    assert "50" in refused(training, cohort(20, seed=3), 4, DELTA, "auto")


def test_public_genes_come_in_any_order() -> None:
    training, public = cohort(2000), cohort(200, seed=1)
    turned = replace(public, genes=public.genes[::-1], expression=public.expression[:, ::-1])
    np.testing.assert_array_equal(
        *(rnagen.fit_private(training, table, 4, DELTA, "auto")[0].mean for table in (public, turned))
    )


# ---- what it is good for


@pytest.mark.parametrize("types", [1, 3])
@pytest.mark.parametrize("kind", ["private", "public"])
def test_plenty_of_samples_are_described_well(kind: str, types: int) -> None:
    training = cohort(6000, types=types)
    public = cohort(500, seed=1) if kind == "public" else None
    scale, factors, _ = rnagen.fit_private(training, public, 20, DELTA, "none")
    model = rnagen.Generator("gaussian", factors, scale.lowest)
    names = np.unique(training.types)
    sampler = rnagen.Sampler(model, scale, training.genes, names, np.full(types, 1))
    labels = np.arange(3000) % types
    drawn = np.concatenate([*sampler.draw(labels, 0, "test")])
    for code, name in enumerate(names):
        real, synthetic = training.expression[training.types == name], drawn[labels == code]
        assert np.abs(real.mean(0) - synthetic.mean(0)).mean() < 0.4
        assert 0.5 < np.median(synthetic.std(0) / real.std(0)) < 2


# ---- by the command line


def write_cohort(path: Path, table: rnagen.Cohort, values: np.ndarray) -> Path:
    """Write a cohort with these values; its ids are the patient's and the number of the sample."""
    ids = pd.Index([f"{group}-{row}" for row, group in enumerate(table.groups)], name="Sample")
    frame = pd.DataFrame(values, ids, table.genes)
    frame["type"] = table.types
    frame.to_csv(path, sep="\t")
    return path


BY_PATIENT = ("--group_regex", r"^(\d+-P\d+)-")
PRIVATE = ("-m", "gaussian", "--epsilon", 10)


@pytest.mark.parametrize(
    "change", [lambda x: x - 20, lambda x: np.exp2(x) + 0.5, lambda x: np.exp2(x).round()], ids=["none", "log2", "cpm"]
)
@pytest.mark.parametrize("public", [False, True])
def test_a_private_model_can_be_drawn_from(
    public: bool, change: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    table, others = cohort(2000), cohort(300, seed=1)
    values = change(table.expression)
    if not public and values.min() < 0:
        values += 20  # log2 from 0 on
    path = write_cohort(tmp_path / "table.tsv", table, values)
    more = ["--public", write_cohort(tmp_path / "public.tsv", others, change(others.expression))] if public else []
    model, drawn = tmp_path / "model.safetensors", tmp_path / "drawn.tsv"
    run = call("--rnaseq", path, *PRIVATE, *more, *BY_PATIENT, "--test_fraction", 0, "--save_model", model)
    assert run.code == 0, run.err
    run = call("--load_model", model, "--output", drawn, "-n", 500)
    assert run.code == 0, run.err
    rows = pd.read_csv(drawn, sep="\t")
    for name, of_type in rows.groupby("type"):
        real = values[table.types == name].mean(0)
        assert np.corrcoef(of_type[table.genes.tolist()].mean(), real)[0, 1] > 0.7


def test_patients_of_the_public_table_are_told_by_group_regex(tmp_path: Path) -> None:
    table, others = cohort(2000), cohort(300, seed=1)
    path = write_cohort(tmp_path / "table.tsv", table, table.expression)
    shared = replace(others, groups=np.append(table.groups[:3], others.groups[3:]))
    public = write_cohort(tmp_path / "public.tsv", shared, others.expression)
    keep = ("--test_fraction", 0, "--save_model", tmp_path / "model.safetensors")
    line = call("--rnaseq", path, *PRIVATE, "--public", public, *BY_PATIENT, *keep).error(1)
    assert "has 6 samples or patients of the private table (0-P0, 0-P0-0" in line


def test_an_unknown_type_is_found_before_anything_is_fitted(tmp_path: Path) -> None:
    table = cohort(2000)
    path = write_cohort(tmp_path / "table.tsv", table, table.expression)
    keep = ("--test_fraction", 0, "--per_type", "nowhere=3", "--output", tmp_path / "drawn.tsv")
    run = call("--rnaseq", path, *PRIVATE, *BY_PATIENT, *keep)
    assert "--per_type nowhere: no such type" in run.error(1)
    assert "Privacy:" not in run.out
