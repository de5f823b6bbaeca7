"""Intervals hold what they promise; strong classifiers, the choice among them, and what the verdict says of it."""

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import interval_coverage

import rnagen
from rnagen import Gain, Samples


def make_samples(counts: tuple[int, ...], genes: int, seed: int = 0, spread: float = 1.0) -> Samples:
    """Return samples of Gaussian types with means of their own, the same for every number of rows."""
    means = np.random.default_rng(99).normal(0, spread, (len(counts), genes))
    y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    x = means[y] + np.random.default_rng(seed).normal(size=(len(y), genes))
    return Samples(x.astype(np.float32), y)


def rows(y: np.ndarray, groups: np.ndarray) -> Samples:
    """Return test samples of which nothing but type and group is known."""
    return Samples(np.empty((len(y), 0), np.float32), y, groups)


def right_or_wrong(
    trainings: int, groups: int, training_sd: float, group_sd: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw whether two arms are right (trainings, rows), rows in pairs that share a group; the true gain is 0."""
    group = np.repeat(np.arange(groups), 2)
    shared = rng.normal(1, 1, 2 * groups)
    arms = [
        rng.normal(0, training_sd, (trainings, 1)) + rng.normal(0, group_sd, groups)[group] + shared for _ in range(2)
    ]
    return *(arm + rng.normal(0, 0.5, arm.shape) > 0 for arm in arms), group


@pytest.mark.parametrize("trainings", [2, 5])
@pytest.mark.parametrize(("training_sd", "group_sd"), [(0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.5, 1.0), (0.1, 0.5)])
def test_interval_covers_whichever_noise_dominates(trainings: int, training_sd: float, group_sd: float) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        arm, control, group = right_or_wrong(trainings, 60, training_sd, group_sd, rng)
        low, high = rnagen.gain_interval(arm, control, rows(group % 3, group)).interval
        held += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.995


def test_interval_of_test_samples_alone_misses_the_noise_of_training() -> None:
    """What this is for: five trainings on one test set, told apart by which samples they were tested on, mislead."""
    rng = np.random.default_rng(2)
    alone = together = 0
    for _ in range(200):
        arm, control, group = right_or_wrong(5, 200, 0.5, 0.0, rng)
        for trained in (False, True):
            low, high = rnagen.gain_interval(arm, control, rows(group % 3, group), trained=trained).interval
            together += trained and low <= 0 <= high
            alone += not trained and low <= 0 <= high
    assert alone < 130 < 180 < together


def test_interval_of_trained_networks_covers_no_gain_and_a_known_one() -> None:
    table = interval_coverage.coverage(25, trainings=5, true_trainings=20, fresh_rows=5_000, seed=3)
    assert set(table) == {
        (kind, epochs, measure)
        for kind in ("0", "known")
        for epochs in (2, 20)
        for measure in ("accuracy", "balanced accuracy")
    }
    for kind, found in table.items():
        assert len(found) == 25
        assert sum(interval_coverage.holds(*pair) for pair in found) >= 20, kind
    assert np.mean([gain.mean for _, gain in table["known", 20, "accuracy"]]) > 0.02


def test_gain_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [30, 10, 4])
    arm, control = rng.random((2, 5, 44)) < 0.7
    for balanced in (False, True):
        expected = []
        for ours, theirs in zip(arm, control, strict=True):
            both = [balanced_accuracy_score(y, np.where(right, y, 9)) for right in (ours, theirs)]
            expected.append(both[0] - both[1] if balanced else ours.mean() - theirs.mean())
        gain = rnagen.gain_interval(arm, control, rows(y, np.arange(44)), balanced)
        assert gain.mean == pytest.approx(np.mean(expected))
        assert gain.interval[0] < gain.mean < gain.interval[1]
        assert gain.p_value is None


def test_differences_between_types_are_no_noise() -> None:
    """The split draws samples within types: that one type gains and another loses does not widen the interval."""
    y = np.repeat([0, 1], 100)
    control = np.zeros((5, 200), bool)
    control[:, 100:] = True
    gain = rnagen.gain_interval(~control, control, rows(y, np.arange(200)))
    assert gain.mean == pytest.approx(0)
    assert gain.interval[1] < 0.01


def test_copies_of_a_group_add_nothing() -> None:
    rng = np.random.default_rng(5)
    arm, control = rng.random((2, 4, 50)) < 0.7
    y = np.arange(50) % 2
    once = rnagen.gain_interval(arm, control, rows(y, np.arange(50)))
    arm, control, y, group = (np.repeat(part, 10, axis=-1) for part in (arm, control, y, np.arange(50)))
    assert rnagen.gain_interval(arm, control, rows(y, group)).interval == pytest.approx(once.interval)


def test_interval_of_one_training_is_unknown_unless_nothing_is_trained() -> None:
    arm, control = np.random.default_rng(0).random((2, 1, 40)) < 0.7
    y = np.zeros(40, int)
    assert rnagen.gain_interval(arm, control, rows(y, np.arange(40))).interval is None
    assert rnagen.gain_interval(arm, control, rows(y, np.arange(40)), trained=False).interval is not None


def test_one_set_of_predictions_is_held_against_every_training() -> None:
    rng = np.random.default_rng(0)
    arm, control = rng.random((5, 40)) < 0.8, rng.random((1, 40)) < 0.7
    y = np.zeros(40, int)
    gain = rnagen.gain_interval(arm, control, rows(y, np.arange(40)))
    assert gain == rnagen.gain_interval(arm, np.tile(control, (5, 1)), rows(y, np.arange(40)))


@pytest.mark.parametrize("y", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 2]])
def test_interval_without_any_spread_is_not_a_point(y: list[int]) -> None:
    right = np.ones((5, 4), bool)
    same = rnagen.gain_interval(right, right, rows(np.array(y), np.arange(4)))
    assert same.mean == 0
    assert same.interval[0] < 0 < same.interval[1]
    every = rnagen.gain_interval(right, ~right, rows(np.array(y), np.arange(4)), balanced=True)
    assert every.mean == pytest.approx(1)
    assert 0 < every.interval[0] < every.interval[1] == 1


def test_between_splits_is_the_corrected_t_test() -> None:
    gains = np.array([0.01, 0.03, 0.02, 0.05, 0.04])
    gain = rnagen.between_splits(gains, 0.5)
    error = math.sqrt((1 / 5 + 1) * gains.var(ddof=1))  # Nadeau and Bengio (2003): n_test / n_train is 1
    assert gain.interval == pytest.approx((0.03 - 2.776445 * error, 0.03 + 2.776445 * error))
    assert gain.p_value == pytest.approx(0.158, abs=0.001)


def test_between_splits_needs_repeats() -> None:
    assert rnagen.between_splits(np.array([0.1]), 0.25) == Gain(0.1, None)
    four = rnagen.between_splits(np.array([0.1, 0.2, 0.1, 0.2]), 0.25)
    assert four.interval is not None
    assert four.p_value is None
    assert rnagen.between_splits(np.zeros(5), 0.25) == Gain(0.0, (0.0, 0.0), 1.0)
    assert rnagen.between_splits(np.full(5, 0.25), 0.25) == Gain(0.25, None)


def test_lda_is_bayes_rule_of_a_known_covariance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    means, y = rng.normal(0, 2, (3, 4)), np.repeat([0, 1, 2], [3000, 900, 100]).astype(np.int32)
    x = means[y] + rng.normal(size=(len(y), 4)) @ root
    found = rnagen.fit_lda(Samples(x, y), types=3, setting=None).predict(x)
    density = np.stack([multivariate_normal(mean, root.T @ root).pdf(x) for mean in means], axis=1)
    expected = density / density.sum(axis=1, keepdims=True)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98
    assert np.abs(found - expected).mean() < 0.02


@pytest.mark.parametrize("types", [2, 3])
def test_logistic_regression_is_that_of_sklearn(types: int) -> None:
    samples = make_samples((40, 20, 10)[:types], 8)
    model = LogisticRegression(C=0.1, class_weight="balanced").fit(samples.x, samples.y)
    found = rnagen.fit_logistic_regression(samples, types, 0.1).predict(samples.x)
    np.testing.assert_allclose(found, model.predict_proba(samples.x), atol=0.02)


def test_principal_components_lose_nothing_for_a_ridge_penalty() -> None:
    samples = make_samples((20, 20, 20), 100, spread=0.3)
    model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-6).fit(samples.x, samples.y)
    fresh = make_samples((50, 50, 50), 100, seed=1, spread=0.3).x
    found = rnagen.fit_logistic_regression(samples, 3, 0.1)
    assert found.weights.shape == (100, 3)
    np.testing.assert_allclose(found.predict(fresh), model.predict_proba(fresh), atol=0.02)


@pytest.mark.parametrize("genes", [6, 200, 1500])
@pytest.mark.parametrize(
    ("fit", "setting"),
    [(rnagen.fit_lda, None), (rnagen.fit_lda, 0.8), (rnagen.fit_logistic_regression, 0.1)],
)
@pytest.mark.parametrize("counts", [(12, 1, 12), (1, 1, 1), (12, 0, 12), (0, 9, 0), (1, 0, 2)])
def test_types_of_one_row_or_none(fit: Callable, setting: float | None, genes: int, counts: tuple[int, ...]) -> None:
    probability = fit(make_samples(counts, genes), 3, setting).predict(make_samples((20, 20, 20), genes, seed=1).x)
    assert probability.shape == (60, 3)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    present = np.array(counts) > 0
    assert not probability[:, ~present].any()
    truth = np.repeat([0, 1, 2], 20)
    seen = present[truth]
    if genes > 6:
        assert (probability.argmax(axis=1) == truth)[seen].mean() > 0.8


def test_bayes_rule_takes_equal_priors() -> None:
    rare_and_common = make_samples((10, 90), 5)
    factors = rnagen.fit_gaussian(rare_and_common, 2, None, seed=0)
    x = make_samples((30, 30), 5, seed=1).x
    density = np.exp(factors.log_density(x).astype(float))
    np.testing.assert_allclose(factors.predict(x), density / density.sum(axis=1, keepdims=True), rtol=1e-6)


def test_best_is_chosen_on_folds_that_no_candidate_saw() -> None:
    samples = make_samples((12, 12, 1), 5)
    groups = np.array([f"patient{i // 2}" for i in range(24)] + ["lone"])
    x = samples.x.tolist()
    seen = []

    class Memory:
        def predict(self, unseen: np.ndarray) -> np.ndarray:
            training = seen[-1]
            held_out = [x.index(row) for row in unseen.tolist()]
            assert len(training) + len(held_out) == 25
            assert not {groups[x.index(row)] for row in training} & set(groups[held_out])
            assert x[24] in training  # a type that cannot be held out
            return np.eye(3)[np.zeros(len(unseen), int)]

    def memorise(part: Samples) -> Memory:
        seen.append(part.x.tolist())
        return Memory()

    candidates = {"memory": memorise, "LDA": lambda part: rnagen.fit_lda(part, 3, None)}
    scores = rnagen.choose_best_on_inner_folds(candidates, replace(samples, groups=groups), seed=0)
    assert list(scores) == ["LDA", "memory"]
    assert scores["LDA"] > 0.8
    assert scores["memory"] == 0.5  # one of the two types that are scored
    assert scores == rnagen.choose_best_on_inner_folds(candidates, replace(samples, groups=groups), seed=0)


def test_nothing_to_hold_out_leaves_the_order() -> None:
    samples = replace(make_samples((4, 4), 5), groups=np.array(["a"] * 4 + ["b"] * 4))
    candidates = {"first": lambda part: None, "second": lambda part: None}
    scores = rnagen.choose_best_on_inner_folds(candidates, samples, seed=0)
    assert list(scores) == ["first", "second"]
    assert all(math.isnan(score) for score in scores.values())


def test_setting_follows_the_data() -> None:
    """Where types differ along one direction of small variance, shrinking hides it; where rows are few, it helps."""
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(2, dtype=np.int32), 200)
    x = rng.normal(0, 10, (400, 1)) * np.ones(5) + rng.normal(0, 0.1, (400, 5))
    x[:, 0] += 0.3 * y

    def choose(samples: Samples, types: int) -> float | None:
        settings = rnagen.LDA_SHRINKAGE
        fits = {setting: functools.partial(rnagen.fit_lda, types=types, setting=setting) for setting in settings}
        every_row = replace(samples, groups=np.arange(len(samples)))
        return next(iter(rnagen.choose_best_on_inner_folds(fits, every_row, seed=0)))

    assert choose(Samples(x, y), 2) is None
    assert choose(make_samples((6,) * 6, 300, spread=0.3), 6) in rnagen.LDA_SHRINKAGE


def test_fit_is_a_percentile_among_held_out_samples() -> None:
    rng = np.random.default_rng(0)
    members = rng.normal(-300, 10, 5000)
    for n in (10, 40, 3000):
        percentile = rnagen.fit_percentile(members, rng.normal(-300, 10, n))
        assert ((percentile >= 0) & (percentile <= 100)).all()
        assert (percentile < rnagen.MIN_FIT_PERCENTILE).mean() < 0.06
        order = np.argsort(members)
        assert (np.diff(percentile[order]) >= -1e-9).all()
        assert rnagen.fit_percentile(np.array([-400.0]), rng.normal(-300, 10, n)) < rnagen.MIN_FIT_PERCENTILE
    assert np.abs(np.sort(percentile) - np.linspace(0, 100, 5000)).max() < 6


HELPED, HARMED, UNCLEAR = Gain(0.03, (0.01, 0.05)), Gain(-0.03, (-0.05, -0.01)), Gain(0.01, (-0.02, 0.04))
SCORES = {"LDA": 0.9, "this cvae": 0.89, "real": 0.8}


@pytest.mark.parametrize(
    ("helped", "difference", "expected"),
    [
        (HELPED, HELPED, ("helped the network: +3.00 (+1.00..+5.00)", "this cvae beats LDA", "Use this cvae.")),
        (HARMED, HARMED, ("did harm", "LDA on real samples alone is as good or better", "Use LDA,")),
        (HELPED, Gain(0.001, (-0.004, 0.006)), ("helped", "LDA on real samples alone is as good", "Use LDA,")),
        (
            UNCLEAR,
            UNCLEAR,
            ("Inconclusive whether synthetic", "Inconclusive whether this cvae", "Use LDA, the best on"),
        ),
        (Gain(0.1, None), UNCLEAR, ("Inconclusive", "+10.00 (interval unavailable)", "Use LDA, the best on")),
    ],
)
def test_verdict(helped: Gain, difference: Gain, expected: tuple[str, ...]) -> None:
    words = rnagen.verdict(rnagen.Comparison({}, {}, SCORES, "LDA", "this cvae", helped, difference))
    assert all(part in words for part in expected), words
    assert len(words.split(". ")) == 3


def test_verdict_without_synthetic_samples() -> None:
    words = rnagen.verdict(rnagen.Comparison({}, {}, {"LDA": 0.9, "real": 0.8}, "LDA", "", None, None))
    assert words == "No synthetic samples were added. Use LDA, the best on inner folds of the training samples."


def test_the_verdict_over_splits_is_on_one_pair_of_classifiers() -> None:
    """Each split has another best classifier; the pair compared is the best by mean scores, in every split."""
    rng = np.random.default_rng(0)
    y, groups = np.repeat([0, 1], 30), np.arange(60).astype(str)
    names = ("copies", "LDA", "logistic regression", "this cvae", "LDA, with synthetic")
    fold_scores = [(0.5, 0.9, 0.6, 0.7, 0.8), (0.5, 0.3, 0.7, 0.8, 0.6)]  # on average: 0.5, 0.6, 0.65, 0.75, 0.7
    splits, once = [], tuple({*names} - {"copies", "this cvae"})
    for scores in fold_scores:
        predicted = {name: np.where(rng.random((2, 1, 60)) < 0.8, y, 1 - y) for name in names}
        on_folds = dict(zip(names, scores, strict=True))
        splits.append(rnagen.Split(rows(y, groups), predicted, 1, once, on_folds))
    found = rnagen.compare_classifiers(splits, 0.5)
    assert list(found.fold_scores)[:2] == ["this cvae", "LDA, with synthetic"]
    assert (found.alone, found.synthetic) == ("logistic regression", "this cvae")
    expected = [split.gain("this cvae", "logistic regression", balanced=True).mean for split in splits]
    assert found.difference.mean == pytest.approx(np.mean(expected))
    words = rnagen.verdict(found)
    assert "this cvae" in words and "logistic regression" in words
