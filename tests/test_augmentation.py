"""The answer and what it rests on: trainings, controls, comparisons, repeats, seeds, and cohorts of few samples."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, Run, call, make_table, read_files, real_data, results_of, write_tables
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score

import rnagen

ROWS = (
    "real",
    "real, same steps",
    "copies",
    "SMOTE",
    "gaussian",
    "this cvae",
    "logistic regression",
    "logistic regression, with synthetic",
    "LDA",
    "LDA, with synthetic",
    "Bayes rule",
)
COMPARISON = ("--compare", "--classifier_epochs", 4)


@dataclass
class Watched:
    """A run with what was seen inside it: streams as (seed, name, block), trainings, and what was reported."""

    run: Run
    folder: Path
    streams: list[tuple[int, str, int]] = field(default_factory=list)
    trainings: list[tuple[rnagen.Samples, list[np.ndarray], int | None]] = field(default_factory=list)
    events: list[object] = field(default_factory=list)

    @property
    def results(self) -> dict:
        return results_of(self.folder / "results.json")


@pytest.fixture(scope="module")
def watched(hard: list[object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run the experiment of one split with every comparison, and watch."""
    seen = Watched(Run(1, "", ""), tmp_path_factory.mktemp("watched"))
    make_stream, start, tell = rnagen.stream, rnagen.Trainer.start, rnagen.Terminal.__call__

    def stream(seed: int, name: str, block: int = 0) -> np.random.Generator:
        seen.streams.append((seed, name, block))
        return make_stream(seed, name, block)

    def start_watched(self: rnagen.Trainer, samples: rnagen.Samples, weights: list, *more: Any, **named: Any) -> None:
        if isinstance(self.network, rnagen.Classifier):
            n_real = named.get("n_real", more[1] if len(more) > 1 else None)
            seen.trainings.append((rnagen.Samples(samples.x.copy(), samples.y.copy()), weights, n_real))
        start(self, samples, weights, *more, **named)

    def tell_watched(self: rnagen.Terminal, event: object) -> None:
        seen.events.append(event)
        tell(self, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rnagen, "stream", stream)
        patch.setattr(rnagen.Trainer, "start", start_watched)
        patch.setattr(rnagen.Terminal, "__call__", tell_watched)
        more = ["--seed", 2022, "--results", seen.folder / "results.json", "--output", seen.folder / "s.tsv"]
        seen.run = call(*hard, *QUICK, *COMPARISON, *more)
    assert seen.run.code == 0, seen.run.err
    yield seen


@pytest.fixture(scope="module")
def repeated(hard: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Return a run of two splits with every comparison, and the folder of its files."""
    folder = tmp_path_factory.mktemp("repeated")
    more = ["--repeats", 2, "--plot", folder, "--results", folder / "results.json"]
    return call(*hard, *QUICK, *COMPARISON, *more), folder


# ---- trainings and controls ----


def arms_of(watched: Watched) -> dict[str, list[tuple[rnagen.Samples, list[np.ndarray]]]]:
    """Return the trainings of the experiment's own arms: real samples, copies of these, and synthetic samples."""
    real = watched.trainings[0][0]
    arms: dict[str, list] = {"real": [], "copies": [], "synthetic": []}
    for samples, weights, n_real in watched.trainings:
        if len(samples) not in (len(real), len(real) + 50) or not np.array_equal(samples.x[: len(real)], real.x):
            continue  # one of an inner fold
        assert n_real in (len(real), None)
        added = samples.x[len(real) :]
        copied = (added[:, None] == real.x[None]).all(2).any(1)
        name = "real" if not len(added) else "copies" if copied.all() else "synthetic"
        arms[name].append((samples, weights))
    return arms


def test_every_training_draws_its_own_rows_and_copies_are_of_the_same_types(watched: Watched) -> None:
    arms = arms_of(watched)
    n_real = len(arms["real"][0][0])
    assert len(arms["real"]) == len(arms["copies"]) == 2
    ours = arms["synthetic"][:2]  # then come SMOTE and the Gaussian, two trainings each
    assert len(arms["synthetic"]) == 6
    of_types = [{tuple(samples.y[n_real:].tolist()) for samples, _ in arm} for arm in (arms["copies"], ours)]
    assert of_types[0] == of_types[1]
    assert len(of_types[0]) == 2  # each training draws its own types
    for first, second in (arms["copies"], ours):
        assert not np.array_equal(first[0].x[n_real:], second[0].x[n_real:])
    for samples, _ in arms["copies"]:  # of real samples of the type that they stand for
        real = {tuple(row): label for row, label in zip(samples.x[:n_real].tolist(), samples.y[:n_real], strict=True)}
        added = zip(samples.x[n_real:].tolist(), samples.y[n_real:], strict=True)
        assert all(real[tuple(row)] == label for row, label in added)
    first, second = (samples.x[n_real:] for samples, _ in ours)
    assert not (first[:, None] == second[None]).all(2).any()


def test_arms_share_their_weights_training_by_training(watched: Watched) -> None:
    starts = [{tuple(weights[0].ravel()[:5].tolist()) for _, weights in arm} for arm in arms_of(watched).values()]
    assert len(starts[0]) == 2
    assert starts[0] == starts[1] == starts[2]


def test_one_seed_reaches_everything(watched: Watched) -> None:
    """Inner folds, principal components and what they choose included: nothing has a seed of its own."""
    seeds = {seed for seed, _, _ in watched.streams}
    assert seeds == {2022}
    names = {name for _, name, _ in watched.streams}
    for name in ("split", "validation", "classifier weights", "classifier order", "generator weights", "copies",
                 "inner folds", "classifier folds", "principal components", "SMOTE", "evaluation"):  # fmt: skip
        assert name in names
    drawn = [stream for stream in watched.streams if stream[1].startswith(("training ", "output "))]
    assert len(set(drawn)) == len(drawn)  # for the experiment and for files, each once
    for name in ("training 0 types", "training 0 rows", "training 1 types", "training 1 rows", "output rows"):
        assert name in names


def test_two_seeds_have_different_folds_and_directions(hard: list[object]) -> None:
    dataset = rnagen.prepare_dataset(read_files(hard), 0.5, "none", 1)
    streams = [rnagen.stream(seed, "inner folds") for seed in (1, 1, 2)]
    fold = [rnagen.inner_folds(dataset.train.y, dataset.train.groups, 5, rng).tolist() for rng in streams]
    assert fold[0] == fold[1] != fold[2]
    held = [rnagen.hold_out_folds(dataset.train, 5, 4, seed)[0].held.y for seed in (1, 2)]
    loadings = [rnagen.fit_factor_model(dataset.train, 5, 4, seed).loadings for seed in (1, 1, 2)]
    assert len(held[0])
    np.testing.assert_array_equal(loadings[0], loadings[1])
    assert not np.array_equal(loadings[0], loadings[2])


def test_what_is_reported_comes_in_order(watched: Watched) -> None:
    names = []
    for event in watched.events:
        name = event.what if isinstance(event, rnagen.Started) else type(event).__name__
        if not names or names[-1] != name:
            names.append(name)
    assert names == [
        *("real", "Progress", "ArmScores"),
        *("cvae", "FactorModel", "Progress", "TrainedGenerator"),
        *("sampling", "Sampling", "augmented", "Progress", "ArmScores"),
        "Progress",  # of --output
    ]
    scores = [event for event in watched.events if isinstance(event, rnagen.ArmScores)]
    accuracy = watched.results["accuracy"]
    assert [one.accuracy.mean for one in scores] == [accuracy["real"]["mean"], accuracy["augmented"]["mean"]]
    epochs = [event for event in watched.events if isinstance(event, rnagen.Progress) and "accuracy" in event.metrics]
    assert [event.epoch for event in epochs] == [1, 2, 3, 4] * 2  # of the first training only
    assert {event.epochs for event in epochs} == {4}
    written = [event for event in watched.events if isinstance(event, rnagen.Progress) and not event.epochs][-1]
    assert (written.steps, written.all_steps) == (50, 50)


# ---- comparison ----


def test_comparison_is_printed_and_kept(watched: Watched) -> None:
    out, results = watched.run.out, watched.results
    rows = results["compare"]
    assert tuple(row["name"] for row in rows) == ROWS
    lines = out[out.index("\nCompare classifiers (gain in balanced accuracy over\n") :].splitlines()[1:]
    assert max(map(len, lines[:14])) <= 84  # of two trainings, whose intervals are the widest
    for line, row in zip(lines[3:14], rows, strict=True):
        fold = results["inner_folds"].get(row["name"])
        figures = [row["accuracy"], row["balanced_accuracy"], *([] if fold is None else [fold])]
        assert line.startswith(row["name"])
        assert line[35:].split()[: len(figures)] == [f"{figure:.4f}" for figure in figures]
        gain = row["gain"]
        assert gain["measure"] == "balanced_accuracy"
        assert gain["mean"] == pytest.approx(row["balanced_accuracy"] - rows[2]["balanced_accuracy"])
        assert gain["p_value"] is None  # of one split there is none
        low, high = gain["interval"]
        assert low <= gain["mean"] <= high
        points = f"{100 * gain['mean']:+.2f} ({100 * low:+.2f}..{100 * high:+.2f})"
        assert line.endswith(points) == (row["name"] != "copies")
        assert 0 <= row["macro_f1"] <= 1
    accuracy = results["accuracy"]
    for name, key in (("real", "real"), ("copies", "same_steps"), ("this cvae", "augmented")):
        assert rows[ROWS.index(name)]["accuracy"] == pytest.approx(accuracy[key]["mean"])


def test_the_verdict_is_said_in_words_and_kept(watched: Watched) -> None:
    results = watched.results
    words = results["verdict"]
    assert words in " ".join(watched.run.out.split())
    assert 1 <= words.count(". ") + 1 <= 3  # sentences
    folds = results["inner_folds"]
    used = re.search(r"\. Use (.+)\.$", words)[1]
    assert any(used.startswith(name) for name in folds)
    assert list(folds.values()) == sorted(folds.values(), reverse=True)
    assert set(folds) <= set(ROWS)


def test_intervals_of_one_comparison_tell_trainings_from_what_has_none(watched: Watched) -> None:
    rows = {row["name"]: row["gain"]["interval"] for row in watched.results["compare"]}
    for low, high in rows.values():
        assert low < high
    low, high = rows["this cvae"]
    assert -1 < low < high < 1


def test_gaussian_is_a_generator_too(hard: list[object]) -> None:
    settings = ["-n", 50, "-d", 3, "-m", "gaussian", "--trainings", 2, "--compare", "--results", "r.json"]
    run = call(*hard, *settings)
    assert run.code == 0, run.err
    assert "\nTrain Gaussian of each type:\nFactor model: 3 latent dimensions, each type's covariance shrunk" in run.out
    assert [row["name"] for row in results_of("r.json")["compare"]][5] == "this gaussian"
    assert results_of("r.json")["generator"]["history"] == []


def test_scores_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([0, 1, 3], 90, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(90) < 0.7, y, rng.choice([0, 1, 2, 3], 90))
    scores = rnagen.score_predictions(predicted, y)
    known = predicted != 2  # a type that the test samples do not have counts as wrong, and is no class of its own
    assert scores["accuracy"] == pytest.approx((predicted == y).mean())
    recall = np.mean([(predicted[y == label] == label).mean() for label in (0, 1, 3)])
    assert scores["balanced_accuracy"] == pytest.approx(recall)
    assert scores["macro_f1"] == pytest.approx(f1_score(y, predicted, labels=[0, 1, 3], average="macro"))
    only_known = rnagen.score_predictions(predicted[known], y[known])
    assert only_known["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[known], predicted[known]))


def test_copies_and_smote_are_of_the_types_asked_for() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [7, 3, 1]).astype(np.int32)
    real = rnagen.Samples((rng.normal(size=(11, 4)) + 10 * y[:, None]).astype(np.float32), y)
    labels = np.array([2, 0, 1, 1, 0, 2, 1, 0, 0])
    copies = rnagen.draw_copies(real, labels, rng)
    smote = rnagen.draw_smote(real, labels, 3, rng)
    for both in (copies, smote):
        np.testing.assert_array_equal(both.x[:11], real.x)
        np.testing.assert_array_equal(both.y, np.concatenate([y, labels]))
        assert (np.abs(both.x[11:] - 10 * labels[:, None]) < 5).all()
    assert (copies.x[11:, None] == real.x[None]).all(2).any(1).all()
    between = ~(smote.x[11:, None] == real.x[None]).all(2).any(1)
    assert between[labels != 2].any()
    assert not between[labels == 2].any()  # a type of one sample has no neighbours
    for x, label in zip(smote.x[11:], labels, strict=True):  # on a line between two samples of the type
        of_type = real.x[y == label]
        assert (x >= of_type.min(0) - 1e-5).all()
        assert (x <= of_type.max(0) + 1e-5).all()
    alone = rnagen.Samples(real.x[:7], y[:7])
    assert len(rnagen.draw_smote(alone, np.zeros(4, int), 1, rng)) == 11


# ---- repeats and the learning curve ----


def test_repeats_are_the_runs_of_their_seeds(repeated: tuple[Run, Path], watched: Watched) -> None:
    run, folder = repeated
    assert run.code == 0, run.err
    results = results_of(folder / "results.json")
    repeats = results["repeats"]
    assert repeats["n"] == 2
    assert repeats["accuracy"][0] == results["accuracy"]
    assert repeats["accuracy"][1] == watched.results["accuracy"]  # which had the next seed
    second = repeats["accuracy"][1]
    real, same_steps, augmented = (second[name]["mean"] for name in ("real", "same_steps", "augmented"))
    figures = f"{real:.4f} -> {augmented:.4f}, same steps on real data {same_steps:.4f}"
    assert f"Repeat 2/2: {figures} ({100 * second['gain']['mean']:+.2f} points)\n" in run.out
    assert run.out.count("Train conditional autoencoder:") == 1  # the others are one line each
    assert run.out.count("Repeat ") == 1


def test_intervals_between_splits_are_those_of_nadeau_and_bengio(repeated: tuple[Run, Path], watched: Watched) -> None:
    run, folder = repeated
    results = results_of(folder / "results.json")
    repeats = results["repeats"]
    gains = [accuracy["gain"]["mean"] for accuracy in repeats["accuracy"]]
    # half of the samples test: n_test / n_train is 1
    half = stats.t.ppf(0.975, 1) * np.sqrt((1 / 2 + 1) * np.var(gains, ddof=1))
    assert repeats["gain"]["measure"] == "accuracy"
    assert repeats["gain"]["mean"] == pytest.approx(np.mean(gains))
    assert repeats["gain"]["interval"] == pytest.approx([np.mean(gains) - half, np.mean(gains) + half])
    assert repeats["gain"]["p_value"] is None  # two splits say too little for one
    mean, low, high = (100 * end for end in (np.mean(gains), *repeats["gain"]["interval"]))
    said = f"Over 2 splits synthetic data adds {mean:+.2f} ({low:+.2f}..{high:+.2f}) points of accuracy\n"
    assert said in run.out
    assert "95% interval between splits" in run.out
    assert "\nCompare classifiers over 2 splits (gain in balanced accuracy over\n" in run.out
    assert tuple(row["name"] for row in results["compare"]) == ROWS
    for row, one in zip(results["compare"], watched.results["compare"], strict=True):
        first = 2 * row["balanced_accuracy"] - one["balanced_accuracy"]  # of the other split
        assert 0 <= first <= 1
        spread = 2 * (row["gain"]["mean"] - one["gain"]["mean"])  # between the gains of the two splits
        if abs(spread) > 1e-9:
            half = stats.t.ppf(0.975, 1) * np.sqrt(1.5 * spread**2 / 2)
            assert row["gain"]["interval"][1] == pytest.approx(min(row["gain"]["mean"] + half, 1))


def test_plot_of_repeats_has_bands_between_splits(repeated: tuple[Run, Path]) -> None:
    run, folder = repeated
    results = results_of(folder / "results.json")
    table = results["plot"]
    rows = list(csv.DictReader((folder / "test-accuracy-comparison-5-types.csv").open()))
    for row, entry in zip(rows, table, strict=True):
        for name in ("real", "same_steps", "augmented"):
            assert entry[f"{name}_low"] <= entry[name] <= entry[f"{name}_high"]
            assert float(row[f"{name}_low"]) == entry[f"{name}_low"]
    accuracy = results["repeats"]["accuracy"]
    for name in ("real", "same_steps", "augmented"):
        means = [one[name]["mean"] for one in accuracy]
        assert table[3][name] == pytest.approx(np.mean(means))
        half = stats.t.ppf(0.975, 1) * np.sqrt(1.5 * np.var(means, ddof=1))
        assert table[3][f"{name}_high"] == pytest.approx(min(np.mean(means) + half, 1))
        assert table[3][f"{name}_low"] >= 0
    assert f"# epochs = 4: {table[3]['real']:.4f} vs {table[3]['augmented']:.4f} (same" in run.out


def test_five_repeats_have_a_p_value(tables: list[object]) -> None:
    fast = ["-m", "gaussian", "-n", 50, "-d", 3, "--trainings", 1, "--repeats", 5, "--results", "r.json"]
    run = call(*tables, *fast)
    assert run.code == 0, run.err
    repeats = results_of("r.json")["repeats"]
    gains = np.array([accuracy["gain"]["mean"] for accuracy in repeats["accuracy"]])
    assert len(gains) == repeats["n"] == 5
    found = re.search(r"Over 5 splits synthetic data adds .* points of accuracy, p (<?[\d.]+)\n", run.out)[1]
    error = np.sqrt((1 / 5 + 1) * gains.var(ddof=1))
    p_value = 2 * stats.t.sf(abs(gains.mean()) / error, 4)
    assert repeats["gain"]["p_value"] == pytest.approx(p_value)
    assert found == (f"{p_value:.3f}" if p_value >= 0.001 else "<0.001")


def test_smaller_training_sets_are_nested_and_tested_alike(tables: list[object]) -> None:
    cohort = read_files(tables)
    parts = {n: rnagen.split_cohort(cohort, 0.5, 7, n) for n in (2, 5, None)}
    for n, (training, test) in parts.items():
        assert np.bincount(np.unique(training.types, return_inverse=True)[1]).tolist() == [n or 12] * 3
        assert test.samples.tolist() == parts[None][1].samples.tolist()
    assert set(parts[2][0].samples) < set(parts[5][0].samples) < set(parts[None][0].samples)
    run = call(*tables, "-m", "gaussian", "-n", 50, "--trainings", 1, "--train_per_type", 4)
    assert run.code == 0, run.err
    assert "Split by groups: 12 training samples" in run.out
    assert "\nTraining samples limited to 4 per type\n" in run.out


# ---- temperature ----


def test_temperature_is_the_spread_around_the_types_mean(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[:, :-1] += 10  # far from 0, which no value lies under
    keep = ["--test_fraction", 0, "--save_model", "m.safetensors"]
    assert call(*write_tables(tmp_path, table), "-e", 4, "-b", 32, "-d", 3, *keep).code == 0
    drawn = {}
    for heat in (0.5, 1, 2):
        draw = ["--per_type", "brain=800", "--temperature", heat, "--output", f"{heat}.parquet"]
        assert call("--load_model", "m.safetensors", *draw).code == 0
        drawn[heat] = pd.read_parquet(f"{heat}.parquet").filter(like="G")
    for heat in (0.5, 2):
        np.testing.assert_allclose(drawn[heat].std() / drawn[1].std(), heat, rtol=0.01)
        assert (abs(drawn[heat].mean() - drawn[1].mean()) < 0.2 * drawn[1].std() + 0.01).all()


def test_training_is_at_temperature_1_5_unless_asked_and_files_at_1(
    tables: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, float] = {}
    draw = rnagen.Sampler.draw

    def watch(self: rnagen.Sampler, labels: np.ndarray, seed: int, purpose: str, temperature: float = 1.0,
              *more: object) -> object:  # fmt: skip
        used[purpose] = temperature
        return draw(self, labels, seed, purpose, temperature, *more)

    monkeypatch.setattr(rnagen.Sampler, "draw", watch)
    fast = ["-m", "gaussian", "-n", 50, "-d", 3, "--trainings", 1, "--output", "s.tsv", "--overwrite"]
    for asked, in_training, in_files in (([], 1.5, 1), (["--temperature", 1.2], 1.2, 1.2)):
        used.clear()
        run = call(*tables, *fast, *asked, "--results", "r.json")
        assert run.code == 0, run.err
        assert used == {"training 0": in_training, "output": in_files}
        results = results_of("r.json")
        assert results["augmentation"] == {"n_samples": 50, "temperature": in_training}
        assert results["output"]["temperature"] == in_files


# ---- cohorts that leave little to learn from ----


def shapes() -> dict[str, pd.DataFrame]:
    """Return cohorts by what is odd about them."""
    rng = np.random.default_rng(0)
    alone = make_table(rows=12).iloc[:26]  # 12 liver, 12 kidney, 2 brain
    every = make_table(rows=1, types=tuple(f"t{i}" for i in range(6)))
    wide = make_table(rows=5, genes=1500)
    flat = make_table()
    flat.loc[flat["type"] == "brain", ["G1", "G2"]] = 3.0
    flat["G3"] = flat["type"].map({"liver": 1.0, "kidney": 2.0, "brain": 3.0})  # constant within every type
    twice = pd.concat([make_table(rows=6)] * 3)
    twice.index = pd.Index([f"D{i}" for i in range(len(twice))], name="Sample")
    few = make_table(rows=2)
    few["G0"] = rng.normal(size=6)
    return {
        "two rows of a type": alone,
        "one row of a type": alone.iloc[:25],
        "as many types as rows": every,
        "two rows of every type": few,
        "a hundred times more genes than rows": wide,
        "constant genes within a type": flat,
        "duplicated rows": twice,
    }


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(shape, "cvae") for shape in shapes() if shape != "as many types as rows"]
    + [("constant genes within a type", "vae"), ("two rows of a type", "ae")]
    + [(shape, "gaussian") for shape in ("one row of a type", "two rows of every type")],
)
def test_odd_cohorts_train_and_draw_finite_rows(shape: str, kind: str, tmp_path: Path) -> None:
    table = shapes()[shape]
    epochs = [] if kind == "gaussian" else ["-e", 2]
    keep = ["--test_fraction", 0, "-n", 40, "--output", "s.tsv"]
    run = call(*write_tables(tmp_path, table), *epochs, "-m", kind, *keep)
    assert run.code == 0, run.err
    assert "Traceback" not in run.err
    drawn = pd.read_csv("s.tsv", sep="\t", index_col=0)
    assert list(drawn.columns) == ["type", *table.columns.drop("type")]
    assert np.isfinite(drawn.drop(columns="type").to_numpy(float)).all()
    if shape == "two rows of every type" or shape.startswith("one row"):
        assert "types with one or two training samples" in run.err
    if shape == "constant genes within a type":
        means, real = drawn.groupby("type")["G3"], table.groupby("type")["G3"].first()
        assert (abs(means.mean() - real) < (0.5 if kind == "vae" else 0.1)).all()  # the VAE learns no type's mean
        assert means.std().max() < (0.5 if kind == "vae" else 0.05)


@pytest.mark.parametrize("kind", ["cvae", "vae", "gaussian"])
def test_as_many_types_as_samples(kind: str) -> None:
    """No table says that of itself: types that all differ are taken for no types. A split can leave it."""
    rng = np.random.default_rng(0)
    samples = rnagen.Samples(rng.normal(size=(6, 20)).astype(np.float32), np.arange(6, dtype=np.int32))
    factors = rnagen.fit_start(kind, replace(samples, groups=np.arange(6)), 6, None, 1)
    generator = rnagen.Generator(kind, factors, np.full(20, -np.inf, np.float32))
    drawn = generator.draw(samples.y, rnagen.stream(1, "rows"), generator.location_scale(1.5))
    assert drawn.shape == (6, 20)
    assert np.isfinite(drawn).all()


def test_one_training_sample_of_each_type_and_every_comparison(tmp_path: Path) -> None:
    table = make_table(rows=4)
    more = ["--compare", "--train_per_type", 1, "--trainings", 2, "-n", 20, "--results", "r.json"]
    run = call(*write_tables(tmp_path, table), "-m", "gaussian", *more)
    assert run.code == 0, run.err
    assert "types with one or two training samples" in run.err
    names = [row["name"] for row in results_of("r.json")["compare"]]
    assert names[:3] == ["real", "real, same steps", "copies"]
    assert "Use " in results_of("r.json")["verdict"]
    assert "inner folds" not in results_of("r.json")["verdict"]  # which one sample of each type does not make


def test_one_group_of_training_samples_is_not_divided(tmp_path: Path) -> None:
    table = make_table()
    table.index = pd.Index([f"{'ab'[i % 2]}-{i}" for i in range(len(table))], name="Sample")
    regex = ["--group_regex", "^(.)-", "-e", 1, "-n", 20, "--trainings", 2, "--compare"]
    run = call(*write_tables(tmp_path, table), *regex, "--results", "r.json")
    assert run.code == 0, run.err
    assert "72 samples in 2 groups" in run.out
    assert "too few training samples to set any aside" in run.err
    assert "inner folds" not in results_of("r.json")["verdict"]


# ---- real cohorts ----


def test_synthetic_samples_help_a_network_on_few_samples() -> None:
    more = ["-k", 23, "--classifier_epochs", 20, "--compare", "--results", "r.json"]
    run = call(*real_data("ccle_rnaseq_types"), *more)
    assert run.code == 0, run.err
    rows = {row["name"]: row for row in results_of("r.json")["compare"]}
    assert rows["this cvae"]["gain"]["mean"] > 0.02


def test_a_classifier_of_real_samples_alone_is_named_where_it_is_as_good() -> None:
    more = ["--train_per_type", 10, "--classifier_epochs", 20, "--compare", "--results", "r.json"]
    run = call(*real_data("tcga_mirna_31types"), *more)
    assert run.code == 0, run.err
    assert re.search(r"(LDA|Bayes rule) on real samples alone is as good or better", results_of("r.json")["verdict"])
