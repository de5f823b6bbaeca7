"""Settings chosen by inner validation, peers, repeats, and cohorts that leave little to learn from."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, Run, call, make_table, real_data, write_tables
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

import rnagen

CHOICE = r"Augmentation: (.*): balanced accuracy ([\d.]+) on (\d+) held-out training samples \((.*)\)\n"


def results_of(path: str) -> dict:
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments that name a cohort of ten rows a type, in which a model of the types helps."""
    folder = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(3)
    label = np.repeat(np.arange(8), 10)
    values = rng.normal(0, 0.45, (8, 300))[label] + rng.normal(size=(80, 3)) @ rng.normal(0, 1, (3, 300))
    table = pd.DataFrame(values + rng.normal(0, 1, values.shape), columns=[f"G{i}" for i in range(300)]).round(4)
    table.index = pd.Index([f"S{i}" for i in range(80)], name="Sample")
    table["type"] = [f"t{i}" for i in label]
    return write_tables(folder, table)


@pytest.fixture(scope="module")
def harmful(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments that name two types of equal means and covariances, which no Gaussian tells apart."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1, 1], 400)
    lone = np.where(rng.random(400) < 0.5, 0, sign * 2**0.5)  # as wide as the sign
    label = np.repeat([0, 1], 200)
    values = np.where(label == 0, sign, lone)[:, None] * rng.uniform(0.9, 1.1, 15) + rng.normal(0, 0.1, (400, 15))
    table = pd.DataFrame(values, columns=[f"G{i}" for i in range(15)]).round(4)
    table.index = pd.Index([f"S{i}" for i in range(400)], name="Sample")
    table["type"] = [f"t{i}" for i in label]
    return write_tables(tmp_path_factory.mktemp("harmful"), table)


# ---- settings chosen by inner validation ----


def test_what_helps_is_chosen_said_and_kept(few: list[object]) -> None:
    auto = ["--n_samples", "auto", "--temperature", "auto"]
    run = call(*few, "-e", 1, "--test_fraction", 0, *auto, "--results", "r.json", "--output", "s.parquet",
               "--save_model", "m.safetensors")  # fmt: skip
    assert run.code == 0, run.err
    chosen, score, rows, others = re.search(CHOICE, run.out).groups()
    results = results_of("r.json")
    entry = results["augmentation"]
    assert int(rows) == 80
    assert entry["n_samples"] == 10_000
    assert chosen == f"10000 samples at temperature {entry['temperature']:g}"
    scores = [choice["balanced_accuracy"] for choice in entry["choices"]]
    score_of_chosen = scores[entry["chosen"]]
    assert max(scores) - 0.05 < score_of_chosen > scores[0] + 0.05  # what is chosen beats no synthetic samples
    assert float(score) == pytest.approx(score_of_chosen, abs=1e-4)
    assert f"no synthetic samples: {scores[0]:.4f}" in others
    assert results["generator"]["seconds"] >= entry["seconds"] > 0
    assert results["output"]["n"] == 10_000
    assert results["output"]["temperature"] == entry["temperature"]
    assert call("--load_model", "m.safetensors", *auto, "--output", "again.parquet").code == 0
    assert Path("s.parquet").read_bytes() == Path("again.parquet").read_bytes()
    plain = call("--load_model", "m.safetensors", "--output", "plain.parquet", "-n", 30)
    assert plain.code == 0
    assert len(pd.read_parquet("plain.parquet")) == 30


def test_where_synthetic_rows_do_harm_none_are_recommended(harmful: list[object]) -> None:
    arguments = (
        *harmful,
        "-e",
        1,
        "--test_fraction",
        0.3,
        "-n",
        "auto",
        "--results",
        "r.json",
        "--classifier_epochs",
        250,
    )
    run = call(*arguments, "--output", "s.tsv")
    assert run.code == 0, run.err
    assert run.out.count("Augmentation: no synthetic samples: balanced accuracy ") == 1
    assert "\n280 + 0 = 280 samples\n" in run.out
    results = results_of("r.json")
    assert results["augmentation"]["n_samples"] == results["sampling"]["n"] == results["output"]["n"] == 0
    assert results["accuracy"]["augmented"] == results["accuracy"]["same_steps"] > 0.6
    scores = [choice["balanced_accuracy"] for choice in results["augmentation"]["choices"]]
    assert scores[0] > max(scores[1:])  # harm was there to be seen
    assert Path("s.tsv").read_text().split() == ["Sample", "type", *(f"G{i}" for i in range(15))]


def test_an_empty_table_has_its_header(harmful: list[object]) -> None:
    run = call(*harmful, "-e", 1, "--test_fraction", 0, "-n", "auto", "--temperature", 1, "--output", "s.parquet")
    assert run.code == 0, run.err
    table = pd.read_parquet("s.parquet")
    assert list(table.columns) == ["Sample", "type", *(f"G{i}" for i in range(15))]
    assert len(table) == 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make choices fast, and poor."""
    monkeypatch.setattr(rnagen, "CHOICE_STEPS", (5, 10))
    monkeypatch.setattr(rnagen, "CHOICE_FOLDS", 2)
    monkeypatch.setattr(rnagen, "DEFAULT_SAMPLES", 200)


@pytest.mark.usefixtures("short")
def test_what_is_set_by_hand_is_not_chosen(few: list[object]) -> None:
    run = call(*few, "-e", 1, "-n", 20, "--results", "r.json")  # temperature is chosen for the experiment
    assert re.search(CHOICE, run.out)[1].startswith("20 samples at temperature ")
    assert {choice["n_samples"] for choice in results_of("r.json")["augmentation"]["choices"]} == {20}
    run = call(*few, "-e", 1, "--per_type", "t0=3", "--results", "r.json")
    assert re.search(CHOICE, run.out)[1].startswith("samples as asked at temperature ")
    run = call(*few, "-e", 1, "-n", 20, "--temperature", 1.2, "--results", "r.json")
    assert "Augmentation:" not in run.out
    assert results_of("r.json")["augmentation"] == {"n_samples": 20, "temperature": 1.2}
    run = call(*few, "-e", 1, "--test_fraction", 0, "--output", "s.csv", "--results", "r.json")
    assert "Augmentation:" not in run.out
    assert results_of("r.json")["output"]["temperature"] == 1


def test_of_temperatures_that_cannot_be_told_apart_the_highest_is_taken() -> None:
    types = np.repeat([0, 1], 50)
    right, one_wrong, two_wrong, wrong = types.copy(), types.copy(), types.copy(), 1 - types
    one_wrong[5], two_wrong[:2] = 1, 1
    some, none = rnagen.Order(10), rnagen.Order(0)
    choices = [(none, 1.0), (some, 1.0), (some, 1.5), (some, 2.0)]
    take = lambda *rows, best: rnagen.hottest_of_equals(choices, np.array(rows)[:, None], types, np.arange(100), best)  # noqa: E731
    assert take(right, one_wrong, two_wrong, wrong, best=1) == 2  # one row more is within a standard error
    assert take(right, right, wrong, wrong, best=1) == 1
    assert take(right, right, right, right, best=0) == 0  # no synthetic samples stay none
    assert take(wrong, wrong, right, right, best=2) == 3


def test_temperature_is_the_spread_around_the_types_mean(tables: list[object]) -> None:
    call(*tables, *QUICK, "--test_fraction", 0, "--save_model", "m.safetensors")
    drawn = {}
    for heat in (0.5, 1, 2):
        assert call("--load_model", "m.safetensors", "--per_type", "brain=800", "--temperature", heat, "--output",
                    f"{heat}.parquet").code == 0  # fmt: skip
        drawn[heat] = pd.read_parquet(f"{heat}.parquet").filter(like="G")
    for heat in (0.5, 2):
        np.testing.assert_allclose(drawn[heat].std() / drawn[1].std(), heat, rtol=0.01)
        assert (abs(drawn[heat].mean() - drawn[1].mean()) < 0.2 * drawn[1].std() + 0.01).all()


# ---- repeats, peers, learning curve ----


@pytest.fixture(scope="module")
def compared(few: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Return a run with every comparison, and the folder of its files."""
    folder = tmp_path_factory.mktemp("compared")
    more = ["--compare", "--repeats", 3, "--plot", folder, "--results", folder / "r.json", "--classifier_epochs", 4]
    return call(*few, *QUICK, *more), folder


def test_ladder_is_printed_and_kept(compared: tuple[Run, Path]) -> None:
    run, folder = compared
    assert run.code == 0, run.err
    ladder = json.loads((folder / "r.json").read_text())["compare"]
    names = ["real", "real, same steps", "copies", "SMOTE", "gaussian", "this cvae"]
    assert [rung["name"] for rung in ladder] == names
    lines = run.out[
        run.out.index("\nCompare over 3 repeats (gain in points of balanced accuracy over the same steps):\n") :
    ].splitlines()[2:]
    for line, rung in zip(lines[1:7], ladder, strict=True):
        assert len(line) < 80
        figures = [rung[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")]
        assert line.startswith(f"{rung['name']:22s} " + " ".join(f"{figure:8.4f}" for figure in figures))
        assert rung["gain"]["mean"] == pytest.approx(rung["balanced_accuracy"] - ladder[1]["balanced_accuracy"])
        low, high = rung["gain"]["interval"]
        assert low <= rung["gain"]["mean"] <= high
    assert re.match("Synthetic data (helped|did harm|did not help here): ", lines[7])


def test_repeats_are_the_runs_of_their_seeds(compared: tuple[Run, Path], few: list[object]) -> None:
    run, folder = compared
    repeats = json.loads((folder / "r.json").read_text())["repeats"]
    gains = []
    for number, accuracy in enumerate(repeats["accuracy"]):
        if number == 1:  # one stands for all
            call(*few, *QUICK, "--classifier_epochs", 4, "--seed", 2022, "--results", "one.json")
            assert results_of("one.json")["accuracy"] == accuracy
        gains.append(accuracy["augmented"] - accuracy["same_steps"])
        if number:
            figures = f"{accuracy['real']:.4f} -> {accuracy['augmented']:.4f}"
            assert f"Repeat {number + 1}/3: {figures}, same steps on real data {accuracy['same_steps']:.4f}" in run.out
    half = stats.t.ppf(0.975, 2) * np.std(gains, ddof=1) / 3**0.5
    mean, low, high = (100 * (np.mean(gains) + end) for end in (0, -half, half))
    said = f"Over 3 repeats synthetic data adds {mean:+.2f} ({low:+.2f}..{high:+.2f}) points of accuracy, 95% interval"
    assert said in run.out
    assert repeats["gain"]["p_value"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert run.out.count("Train conditional autoencoder:") == 1  # the others are one line each


def test_plot_of_repeats_has_bands(compared: tuple[Run, Path]) -> None:
    run, folder = compared
    table = json.loads((folder / "r.json").read_text())["plot"]
    rows = list(csv.DictReader((folder / "test-accuracy-comparison-8-types.csv").open()))
    for row, entry in zip(rows, table, strict=True):
        for name in ("real", "same_steps", "augmented"):
            assert entry[f"{name}_low"] <= entry[name] <= entry[f"{name}_high"]
            assert float(row[f"{name}_low"]) == entry[f"{name}_low"]
    accuracy = json.loads((folder / "r.json").read_text())["repeats"]["accuracy"]
    assert table[3]["augmented"] == pytest.approx(np.mean([one["augmented"] for one in accuracy]))
    assert f"# epochs = 4: {table[3]['real']:.4f} vs {table[3]['augmented']:.4f} (same" in run.out


def test_one_comparison_has_intervals_over_test_rows(few: list[object]) -> None:
    settings = ["-n", 50, "-d", 3, "--temperature", 1, "-m", "gaussian"]
    run = call(*few, *settings, "--compare", "--results", "r.json")
    assert "\nTrain Gaussian of each type:\nFactor model: 3 latent dimensions, each type's covariance shrunk" in run.out
    assert "\nCompare (gain in points of balanced accuracy over the same steps):\n" in run.out
    ladder = results_of("r.json")["compare"]
    assert ladder[-1]["name"] == "this gaussian"
    assert ladder[2]["gain"]["interval"][0] < ladder[2]["gain"]["interval"][1]


def test_gains_by_row_average_to_the_gain_in_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    types = rng.choice([0, 1, 3], 90, p=[0.7, 0.2, 0.1])
    one, other = (np.where(rng.random(90) < share, types, 2) for share in (0.8, 0.6))
    gain = rnagen.balanced_gains(one, other, types, rng.integers(40, size=90)).mean()  # whatever the groups
    scores = [balanced_accuracy_score(types, predicted) for predicted in (one, other)]
    assert gain == pytest.approx(scores[0] - scores[1])
    assert rnagen.score_predictions(one, types)["balanced_accuracy"] == pytest.approx(scores[0])


def test_interval_of_no_difference_is_no_difference() -> None:
    assert rnagen.interval(np.zeros(9)) == {"mean": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert rnagen.interval(np.array([0.2, 0.1 + 0.1, 0.2])) == {
        "mean": pytest.approx(0.2),
        "interval": None,
        "p_value": None,
    }
    values = np.array([0.1, 0.3, -0.1, 0.2])
    found = rnagen.interval(values)
    half = stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert found["interval"] == pytest.approx([values.mean() - half, values.mean() + half])


def ladder_of(ours: list[float], peer: float) -> list[dict]:
    gain = lambda mean, low, high: {"gain": {"mean": mean, "interval": [low, high]}}  # noqa: E731
    return [{}, {}, {"name": "copies", **gain(peer, peer, peer)}, {"name": "this cvae", **gain(*ours)}]


@pytest.mark.parametrize(
    ("ours", "peer", "says"),
    [
        ([0.02, 0.01, 0.03], 0.0, "Synthetic data helped: +2.00 points"),
        ([-0.02, -0.03, -0.01], -0.1, "Synthetic data did harm: -2.00 points"),
        ([0.01, -0.01, 0.03], 0.0, "Synthetic data did not help here: +1.00 points cannot be told from chance"),
        ([0.02, 0.01, 0.03], 0.03, "; copies did as well or better (+3.00)"),
    ],
)
def test_the_verdict_is_said_in_words(ours: list[float], peer: float, says: str) -> None:
    assert says in rnagen.verdict(ladder_of(ours, peer), 100)
    assert rnagen.verdict(ladder_of(ours, peer), 0).startswith("No synthetic samples were added")


def test_smaller_training_sets_are_nested_and_tested_alike(tables: list[object]) -> None:
    cohort = rnagen.read_cohort(tables[1], tables[3], None)
    parts = {n: rnagen.split_cohort(cohort, 0.5, 7, n) for n in (2, 5, None)}
    for n, (training, _, test) in parts.items():
        assert np.bincount(np.unique(training.types, return_inverse=True)[1]).tolist() == [n or 12] * 3
        assert test.samples.tolist() == parts[None][2].samples.tolist()
    assert set(parts[2][0].samples) < set(parts[5][0].samples) < set(parts[None][0].samples)
    run = call(*tables, *QUICK, "--train_per_type", 4)
    assert "Split by groups: 12 training samples" in run.out
    assert "\nTraining samples limited to 4 a type\n" in run.out


# ---- cohorts that leave little to learn from ----


def shapes() -> dict[str, pd.DataFrame]:
    """Return cohorts by what is odd about them."""
    rng = np.random.default_rng(0)
    alone = make_table(rows=12).iloc[:26]  # 12 liver, 12 kidney, 2 brain
    every = make_table(rows=1, types=tuple(f"t{i}" for i in range(6)))
    wide = pd.concat([make_table(rows=5, genes=1500), make_table(rows=0)], axis=1).dropna(axis=1)
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


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("shape", "model"),
    [(shape, "cvae") for shape in shapes()]
    + [("as many types as rows", "vae"), ("constant genes within a type", "vae"), ("two rows of a type", "ae")]
    + [(shape, "gaussian") for shape in ("one row of a type", "as many types as rows", "two rows of every type")],
)
def test_odd_cohorts_train_and_draw_finite_rows(shape: str, model: str, tmp_path: Path) -> None:
    table = shapes()[shape]
    auto = ["-n", "auto", "--temperature", "auto"] if model == "cvae" else ["-n", 40]
    epochs = [] if model == "gaussian" else ["-e", 2]
    run = call(*write_tables(tmp_path, table), *epochs, "-m", model, "--test_fraction", 0, *auto, "--output", "s.tsv")
    assert run.code == 0, run.err
    assert "Traceback" not in run.err
    drawn = pd.read_csv("s.tsv", sep="\t", index_col=0)
    assert list(drawn.columns) == ["type", *table.columns.drop("type")]
    assert np.isfinite(drawn.drop(columns="type").to_numpy(float)).all()
    if shape == "as many types as rows" or shape == "two rows of every type" or shape.startswith("one row"):
        assert run.err.startswith("rnagen: "), run.err  # a warning
    if shape == "constant genes within a type" and len(drawn):
        own, real = drawn.groupby("type")["G3"], table.groupby("type")["G3"].first()
        assert (abs(own.mean() - real) < (0.5 if model == "vae" else 0.1)).all()  # the VAE learns no type's mean
        assert own.std().max() < (0.5 if model == "vae" else 0.05)


# ---- real cohorts ----


@pytest.mark.parametrize("name", ["ccle_rnaseq_types"])
def test_synthetic_rows_help_on_few_samples(name: str) -> None:
    run = call(*real_data(name), "-k", 23, "-n", "auto", "--classifier_epochs", 20, "--compare", "--results", "r.json")
    assert run.code == 0, run.err
    ladder = {rung["name"]: rung for rung in results_of("r.json")["compare"]}
    assert ladder["this cvae"]["gain"]["mean"] > 0.02
    assert results_of("r.json")["generator"]["seconds"] < 30


# ---- usage ----


def test_one_group_of_training_samples_is_not_divided(tmp_path: Path) -> None:
    table = make_table()
    table.index = pd.Index([f"{'ab'[i % 2]}-{i}" for i in range(len(table))], name="Sample")
    run = call(*write_tables(tmp_path, table), "-e", 1, "-n", 20, "--group_regex", "^(.)-")
    assert run.code == 0, run.err
    assert "cannot be divided: nothing is chosen by inner validation" in run.err


def test_auto_needs_a_choice_in_the_model_file(tables: list[object]) -> None:
    call(*tables, *QUICK, "--save_model", "m.safetensors")
    for flag in ("--temperature", "--n_samples"):
        run = call("--load_model", "m.safetensors", "--output", "s.tsv", flag, "auto")
        assert f"{flag} auto: none was chosen when m.safetensors was saved; give a number" in run.error(1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--temperature", "0"], "argument --temperature: '0' is neither auto nor a number from 0.01 to 10"),
        (["--temperature", "warm"], "argument --temperature: 'warm' is neither auto nor a number from 0.01 to 10"),
        (["-n", "some"], "argument -n/--n_samples: 'some' is not a whole number from 1 to 1000000000, or auto"),
        (["-n", "auto", "--balance"], "say how many samples in one way"),
        (["-m", "gaussian", "-e", "3"], "argument --epochs: is for the autoencoders"),
        (["--test_fraction", "0", "--output", "s.tsv", "--compare"], "argument --compare: needs test samples"),
        (["--test_fraction", "0", "--output", "s.tsv", "--repeats", "3"], "argument --repeats: needs test samples"),
        (["--train_per_type", "0"], "argument --train_per_type: '0' is not a whole number from 1"),
    ],
)
def test_wrong_usage_in_one_line(tables: list[object], arguments: list[str], says: str) -> None:
    assert says in call(*tables, *arguments).error(2)
