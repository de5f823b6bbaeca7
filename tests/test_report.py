"""The quality report: known answers, oracles for its measures, and what users see of it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, Run, call, make_table, real_data, write_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

import rnagen

NAMES = {
    "looks_real": "ks_median ks_share_beyond mean_agreement variance_agreement correlation_agreement mmd "
    "two_sample_auc precision recall density coverage",
    "behaves_real": "tstr_accuracy tstr_balanced_accuracy tstr_macro_f1 de_overlap_50 de_overlap_100 "
    "de_rank_correlation log_fold_change_correlation",
    "is_private": "attack_auc density_ratio_attack_auc copies near_copies closest_record_median",
}
ROWS, GENES = 60, 120  # a type; of 5 types


def draw(seed: int) -> pd.DataFrame:
    """Draw a cohort from a distribution that is the same for every seed."""
    shape = np.random.default_rng(0)
    means, modules = shape.normal(0, 0.8, (5, GENES)), shape.normal(0, 0.5, (4, GENES))
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(5), ROWS)
    values = means[label] + rng.normal(size=(len(label), 4)) @ modules + rng.normal(0, 0.5, (len(label), GENES))
    table = pd.DataFrame(values.astype(np.float32), columns=[f"G{i}" for i in range(GENES)])
    table.index = pd.Index([f"S{seed}_{i}" for i in range(len(table))], name="Sample")
    table["type"] = [f"type {i}" for i in label]
    return table


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments that name a cohort, and the half of it that a generator was trained on."""
    folder = tmp_path_factory.mktemp("real")
    table = pd.concat([draw(1), draw(2)])
    table.to_parquet(folder / "real.parquet")
    (folder / "ids.txt").write_text("\n".join(table.index[: len(table) // 2]))
    return ["--rnaseq", folder / "real.parquet", "--train_ids", folder / "ids.txt"]


def judged(synthetic: pd.DataFrame, real: list[object], *more: object) -> tuple[dict, Run]:
    """Write a synthetic table and return the report on it, and the run."""
    synthetic.to_parquet("synthetic.parquet")
    run = call("--report_only", "synthetic.parquet", *real, "--report", "report", *more)
    assert run.code == 0, run.err
    return json.loads(Path("report/report.json").read_text()), run


def within(table: pd.DataFrame, change: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Return the table with the values (rows, genes) of each type changed."""
    genes = table.columns[:-1]
    values = table[genes].to_numpy()
    for name in set(table["type"]):
        own = (table["type"] == name).to_numpy()
        values[own] = change(values[own])
    return pd.DataFrame(values, table.index, genes).assign(type=table["type"])


# ---- known answers ----


def test_training_samples_as_their_own_synthetic_ones(real: list[object]) -> None:
    report, run = judged(draw(1), real)
    private = report["is_private"]
    assert private["attack_auc"]["value"] == 1
    assert private["attack_auc"]["interval"] == [1, 1]
    assert private["density_ratio_attack_auc"]["value"] > 0.95
    assert private["copies"] == {"value": 1, "reference": 0}
    assert private["near_copies"]["value"] == 1
    assert private["closest_record_median"]["value"] < 1e-6 < private["closest_record_median"]["reference"]
    for question in ("looks_real", "behaves_real"):
        for name, measure in report[question].items():
            assert measure["value"] == pytest.approx(measure["reference"], abs=0.02), name
    assert [verdict["ok"] for verdict in report["verdicts"].values()] == [True, True, False]
    assert "exact copies of training samples 1.0000 (at most 0.0000)" in report["verdicts"]["is_private"]["words"]
    assert "Is private: no: membership attack AUC, nearest sample 1.0000 (at most 0.5500)" in run.out


@pytest.fixture(scope="module")
def fresh(real: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Run]:
    """Return the report on fresh draws from the distribution of the real samples, and its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fresh"))
        return judged(draw(3), real)


def test_fresh_draws_pass(fresh: tuple[dict, Run]) -> None:
    report, run = fresh
    for question, name in (
        ("looks_real", "two_sample_auc"),
        ("is_private", "attack_auc"),
        ("is_private", "density_ratio_attack_auc"),
    ):
        low, high = report[question][name]["interval"]
        assert low < 0.5 < high, name
    assert report["is_private"]["copies"] == report["is_private"]["near_copies"] == {"value": 0, "reference": 0}
    assert all(verdict["ok"] for verdict in report["verdicts"].values()), report["verdicts"]
    for question, names in NAMES.items():
        assert list(report[question]) == names.split()
        for measure in report[question].values():
            assert {"value", "reference"} <= measure.keys() <= {"value", "reference", "interval"}
        assert f"\n{rnagen.QUESTIONS[question]}: yes: " in run.out
    assert max(map(len, run.out.splitlines())) <= 80


DAMAGE = {  # what is done to fresh draws, the measures that must show it and which way, the verdict that falls
    "shuffled": (
        lambda own: np.stack([np.random.default_rng(i).permutation(gene) for i, gene in enumerate(own.T)], 1),
        {"correlation_agreement": -0.05, "two_sample_auc": 0.2, "recall": -0.3},
        "looks_real",
    ),
    "collapsed": (
        lambda own: np.tile(own.mean(0), (len(own), 1)),
        {"variance_agreement": -0.5, "ks_median": 0.1, "two_sample_auc": 0.3, "recall": -0.5, "coverage": -0.5},
        "looks_real",
    ),
    "means in one": (
        lambda own: own - own.mean(0),
        {"mean_agreement": -0.5, "tstr_accuracy": -0.5, "log_fold_change_correlation": -0.5, "de_overlap_50": -0.1},
        "behaves_real",
    ),
    "noisy": (
        lambda own: own + np.random.default_rng(0).normal(0, 1, own.shape),
        {"variance_agreement": -0.3, "ks_median": 0.03, "mmd": 0.003, "two_sample_auc": 0.2, "density": -0.5},
        "looks_real",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_moves_what_it_should(damage: str, fresh: tuple[dict, Run], real: list[object]) -> None:
    change, moved, fallen = DAMAGE[damage]
    report, _ = judged(within(draw(3), change), real)
    for name, least in moved.items():
        question = next(question for question, names in NAMES.items() if name in names.split())
        change = report[question][name]["value"] - fresh[0][question][name]["value"]
        assert change * np.sign(least) > abs(least), (name, change)
    assert report["verdicts"][fallen]["ok"] is False
    assert report["verdicts"]["is_private"]["ok"] is not False


def test_noise_on_training_samples_is_a_near_copy(real: list[object]) -> None:
    report, _ = judged(within(draw(1), lambda own: own + np.random.default_rng(0).normal(0, 0.1, own.shape)), real)
    private = report["is_private"]
    assert private["copies"]["value"] == 0
    assert private["near_copies"]["value"] > 0.95
    assert min(private[name]["interval"][0] for name in ("attack_auc", "density_ratio_attack_auc")) > 0.8


def test_the_type_that_fails_comes_first(real: list[object]) -> None:
    synthetic = draw(3)
    bad = (synthetic["type"] == "type 3").to_numpy()
    synthetic.loc[bad, synthetic.columns[:-1]] += 3
    report, run = judged(synthetic, real)
    worst, *others = report["by_type"]
    assert worst["type"] == "type 3"
    assert {entry["type"] for entry in others} == {f"type {i}" for i in (0, 1, 2, 4)}
    assert worst["training"] == worst["test"] == worst["synthetic"] == ROWS
    assert worst["ks_median"]["value"] > 0.5 > worst["ks_median"]["reference"]
    assert worst["tstr_recall"]["value"] < worst["tstr_recall"]["reference"] - 0.5
    assert worst["attack_auc"]["interval"][0] < 0.5 < worst["attack_auc"]["interval"][1]
    assert re.search(r"Worst types.*\n  type 3 ", run.out)


# ---- what is compared ----


def test_without_training_ids_only_privacy_is_missing(real: list[object]) -> None:
    report, run = judged(draw(3), real[:2])
    for measure in report["is_private"].values():
        assert measure["value"] is None
        assert measure["why"].endswith("list their ids in a file for --train_ids")
    assert report["verdicts"]["is_private"]["ok"] is None
    assert report["verdicts"]["looks_real"]["ok"]
    assert all(entry["attack_auc"]["value"] is None for entry in report["by_type"])
    assert run.out.count("the samples that it was trained on are not known") == 2
    assert "None" not in run.out


def test_genes_and_types_may_come_in_another_order_mix_and_number(real: list[object], fresh: tuple[dict, Run]) -> None:
    synthetic = draw(3).iloc[:-30]  # fewer of the last type
    more = synthetic[synthetic["type"] == "type 0"].assign(type="type 9")
    more.index = [f"M{i}" for i in range(len(more))]
    synthetic = pd.concat([synthetic, more]).assign(EXTRA=1.0)
    synthetic = synthetic[["type", *reversed([name for name in synthetic.columns if name != "type"])]]
    report, run = judged(synthetic.drop(columns="G7"), real)
    assert re.search(r"leaves out genes that only one of synthetic.parquet and \S+ has: EXTRA, G7\n", run.err)
    assert "has: type 9\n" in run.err
    assert report["looks_real"]["two_sample_auc"]["interval"][0] < 0.5
    assert report["looks_real"]["ks_median"]["value"] == pytest.approx(
        fresh[0]["looks_real"]["ks_median"]["value"], abs=0.02
    )
    assert {entry["type"] for entry in report["by_type"]} == {f"type {i}" for i in range(5)}


def test_relatives_of_training_samples_are_not_held_out(real: list[object]) -> None:
    run = judged(draw(3), real, "--group_regex", r"_(\d*[0-4])$")[1]  # half of the held-out ones
    assert "150 samples of the groups of training samples are left out" in run.err
    assert "300 synthetic, 300 training and 150 test samples" in run.out


def test_above_a_number_of_rows_some_stand_for_all(real: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "REPORT_ROWS", 200)
    monkeypatch.setattr(rnagen, "REPORT_GENES", 50)
    report, run = judged(draw(1), real)
    for kind in ("training", "test", "synthetic"):
        assert f"the report is on 200 of 300 {kind} samples, drawn at random" in run.err
    assert {entry["training"] for entry in report["by_type"]} == {40}
    assert report["is_private"]["copies"]["value"] == 1  # which are looked for among all training samples
    again, _ = judged(draw(1), real)
    assert {**report, "manifest": 0} == {**again, "manifest": 0}


def test_too_few_samples_leave_cells_empty(tmp_path: Path) -> None:
    table = make_table(rows=6)
    report, run = judged(table.iloc[::2], write_tables(tmp_path, table))
    assert report["looks_real"]["ks_median"] == {"value": None, "why": "9 samples of each kind, and 10 are needed"}
    assert report["behaves_real"]["tstr_accuracy"]["value"] is not None
    assert report["behaves_real"]["de_overlap_50"] == {"value": None, "why": "20 genes, and 51 are needed"}
    assert report["behaves_real"]["log_fold_change_correlation"]["value"] > 0.5
    assert report["verdicts"]["looks_real"]["ok"] is None
    assert "- 9 samples of each kind, and 10 are needed" in run.out
    assert Path("report/report.png").stat().st_size > 10_000


def rows_of(count: int, genes: int, rng: np.random.Generator) -> rnagen.Cohort:
    """Draw a cohort of three types whose genes vary independently."""
    label = np.arange(count) % 3
    values = np.eye(3, genes)[label] + rng.normal(size=(count, genes))
    names = np.array([f"S{number}" for number in rng.permutation(10**6)[:count]])
    columns = np.array([f"G{i}" for i in range(genes)])
    return rnagen.Cohort("made", False, values.astype(np.float32), names, columns, np.array([*"abc"])[label], names, "")


def test_few_samples_of_many_genes_are_not_told_apart_by_chance() -> None:
    """What standardises or projects rows must not favour those it was fitted to."""
    found: dict[str, list[float]] = {}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        trial = rnagen.put_on_trial(*(rows_of(count, 500, rng) for count in (90, 100, 90)), "none", "")
        report, _ = rnagen.judge(trial, seed)
        measures = {**report["looks_real"], **report["is_private"]}
        for name in ("attack_auc", "density_ratio_attack_auc", "two_sample_auc", "recall", "coverage", "density"):
            for side in ("value", "reference"):
                found.setdefault(f"{name} {side}", []).append(measures[name][side])
    for name in ("attack_auc", "density_ratio_attack_auc", "two_sample_auc"):
        assert np.mean(found[f"{name} value"]) == pytest.approx(0.5, abs=0.06), name
        assert np.mean(found[f"{name} reference"]) == pytest.approx(0.5, abs=0.06), name
    for name, margin in (("recall", 0.1), ("coverage", 0.1), ("density", 0.4)):
        assert np.mean(found[f"{name} value"]) == pytest.approx(np.mean(found[f"{name} reference"]), abs=margin), name


def test_replicates_are_one_group() -> None:
    """Technical replicates on one side neither give the side away nor hide a copy."""
    rng = np.random.default_rng(0)
    cohorts = [rows_of(120, 60, rng) for _ in range(3)]
    for number, cohort in enumerate(cohorts):
        again = cohort.take(np.repeat(np.arange(40), 3))
        noise = rng.normal(0, 0.05, again.expression.shape).astype(np.float32)
        samples = np.array([f"{number}.{row}" for row in range(120)])
        cohorts[number] = replace(again, expression=again.expression + noise, samples=samples)
    report, _ = rnagen.judge(rnagen.put_on_trial(*cohorts, "none", ""), 0)
    assert report["looks_real"]["two_sample_auc"]["reference"] < 0.65
    copies = replace(cohorts[0], expression=cohorts[0].expression + np.float32(0.1))
    report, _ = rnagen.judge(rnagen.put_on_trial(cohorts[0], cohorts[1], copies, "none", ""), 0)
    assert report["is_private"]["near_copies"]["value"] > 0.9


def test_copies_of_a_type_that_nobody_else_has_are_found(real: list[object]) -> None:
    table = pd.concat([draw(1), draw(2)])
    mine = table["type"] == "type 0"
    Path("ids.txt").write_text("\n".join(table.index[(np.arange(len(table)) < 300) | mine]))
    synthetic = draw(3)
    synthetic[synthetic["type"] == "type 0"] = draw(1)[draw(1)["type"] == "type 0"].to_numpy()
    report, run = judged(synthetic.infer_objects(), [*real[:2], "--train_ids", "ids.txt"])
    assert "types without training or test samples are looked at for copies only: type 0" in run.err
    assert report["is_private"]["copies"]["value"] == pytest.approx(0.2)
    assert report["verdicts"]["is_private"]["ok"] is False


def test_the_wrong_training_ids_do_not_make_it_private(real: list[object]) -> None:
    report, _ = judged(draw(2), real)
    assert report["is_private"]["attack_auc"]["value"] == 0
    assert report["verdicts"]["is_private"]["ok"] is None
    assert "are the training samples right?" in report["verdicts"]["is_private"]["words"]


def test_odd_names_and_a_single_gene_are_drawn(tmp_path: Path) -> None:
    names = ("_hid", "a$b_{$", "two\nlines " + 30 * "x")
    table = make_table(types=names, genes=2)
    table.to_parquet("real.parquet")
    run = call("--report_only", "real.parquet", "--rnaseq", "real.parquet", "--report", "two")
    assert run.code == 0, run.err
    assert "\n  two lines xxxx" in run.out
    table.drop(columns="G1").to_parquet("real.parquet")
    run = call("--report_only", "real.parquet", "--rnaseq", "real.parquet", "--report", "one")
    assert run.code == 0, run.err
    assert json.loads(Path("one/report.json").read_text())["looks_real"]["correlation_agreement"]["why"].startswith(
        "1 gene"
    )
    assert Path("one/report.png").exists()


def test_without_a_reference_the_value_stands() -> None:
    rng = np.random.default_rng(0)
    trial = rnagen.put_on_trial(*(rows_of(count, 30, rng) for count in (60, 30, 60)), "none", "")
    report, _ = rnagen.judge(trial, 0)
    assert report["is_private"]["attack_auc"]["reference"] is not None
    entry = report["is_private"]["density_ratio_attack_auc"]
    assert entry["value"] is not None
    assert entry["reference"] is None  # a quarter of the test samples
    rnagen.say_report(report, trial, "made")


# ---- with a generator ----


@pytest.mark.parametrize("model", ["cvae", "vae", "ae", "gaussian"])
def test_every_generator_is_judged_alike_once_saved(model: str, tables: list[object]) -> None:
    steps = QUICK if model != "gaussian" else ("-n", 50, "-d", 3, "--temperature", 1)
    run = call(*tables, *steps, "-m", model, "--save_model", "m.safetensors", "--report", "one", "--results", "r.json")
    assert run.code == 0, run.err
    assert "5000 synthetic, 36 training and 36 test samples" in run.out
    report, results = (json.loads(Path(name).read_text()) for name in ("one/report.json", "r.json"))
    assert {question: list(report[question]) for question in NAMES} == {
        question: names.split() for question, names in NAMES.items()
    }
    assert report["is_private"]["attack_auc"]["value"] is not None
    manifest = report.pop("manifest")
    assert manifest == {name: results[name] for name in ("arguments", "versions", "workers", "data")}
    assert results["report"] == report
    loaded = call("--load_model", "m.safetensors", *tables, "--report", "two", "--output", "s.tsv", "-n", 5)
    assert loaded.code == 0, loaded.err
    again = json.loads(Path("two/report.json").read_text())
    assert again.pop("manifest")["arguments"]["load_model"] == "m.safetensors"
    assert again == report
    assert run.out[run.out.index("Is it real?") :].split("Report written")[0] in loaded.out


def test_a_model_of_other_samples_is_not_called_private(tables: list[object]) -> None:
    assert call(*tables, *QUICK, "-m", "cvae", "--save_model", "m.safetensors").code == 0
    report = ["--report", "report"]
    other = call("--load_model", "m.safetensors", *tables, *report, "--seed", 5)
    assert other.code == 0, other.err
    assert "Is private: cannot be told: the samples that it was trained on are not known" in other.out
    training = rnagen.split_cohort(rnagen.read_cohort(*map(Path, tables[1::2]), None), 0.5, 2021)[0]
    Path("ids.tsv").write_text("\n".join(f"{sample}\tcolumn" for sample in ["Sample", *training.samples]))
    listed = call("--load_model", "m.safetensors", *tables, *report, "--seed", 5, "--train_ids", "ids.tsv")
    assert listed.code == 0, listed.err
    assert "1 of 37 ids in ids.tsv are of no sample that is reported on" in listed.err
    assert json.loads(Path("report/report.json").read_text())["is_private"]["copies"] == {"value": 0, "reference": 0}


def test_counts_are_judged_on_their_log_scale(tmp_path: Path) -> None:
    table = draw(1)
    genes = table.columns[:-1]
    table[genes] = np.exp2(table[genes] + 8).round()
    run = call(*write_tables(tmp_path, table), "-m", "gaussian", "-n", 50, "--temperature", 1, "--report", "report")
    assert run.code == 0, run.err
    report = json.loads(Path("report/report.json").read_text())
    distance = report["looks_real"]["ks_median"]
    assert distance["value"] < distance["reference"] + 0.05
    changes = report["behaves_real"]["log_fold_change_correlation"]
    assert changes["value"] > changes["reference"] - 0.1 > 0.8


def test_a_report_on_a_real_cohort_takes_half_a_minute(tmp_path: Path) -> None:
    arguments = real_data("tcga_mirna_31types")
    cohort = rnagen.keep_top_types(rnagen.read_cohort(*arguments[1::2], None), 20)
    training = rnagen.split_cohort(cohort, 0.5, 1)[0]
    noise = np.random.default_rng(0).normal(0, 0.3, training.expression.shape)
    synthetic = pd.DataFrame(training.expression + noise, training.samples, training.genes).assign(type=training.types)
    Path("ids.txt").write_text("\n".join(training.samples))
    report, run = judged(synthetic, [*arguments, "--train_ids", "ids.txt"])
    assert float(re.search(r"in ([\d.]+) seconds\n$", run.out)[1]) < 30
    assert report["is_private"]["attack_auc"]["value"] > 0.95
    assert report["verdicts"]["is_private"]["ok"] is False
    assert report["verdicts"]["behaves_real"]["ok"]


# ---- oracles ----

few = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@settings(deadline=None)
@given(few, few)
def test_kolmogorov_smirnov_is_that_of_scipy(some: list[int], others: list[int]) -> None:
    rows = [(np.array([part, part], np.float32).T, np.zeros(len(part), int)) for part in (some, others)]
    expected = stats.ks_2samp(some, others, method="asymp").statistic
    np.testing.assert_allclose(rnagen.gene_distances(*rows), expected, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_an_auc_lies_in_its_interval(positive: list[int], negative: list[int]) -> None:
    auc, low, high = rnagen.auc_interval(np.array(positive), np.array(negative))
    label = np.repeat([1, 0], [len(positive), len(negative)])
    assert auc == pytest.approx(roc_auc_score(label, positive + negative))
    assert 0 <= low <= auc <= high <= 1


def test_an_interval_of_an_auc_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    found = [rnagen.auc_interval(rng.normal(1, 1, 40), rng.normal(0, 1, 60)) for _ in range(400)]
    assert 0.92 < np.mean([low < truth < high for _, low, high in found]) < 0.98


def test_concordance_is_of_equal_pairs() -> None:
    some = np.random.default_rng(0).normal(size=50)
    assert rnagen.concordance(some, some) == pytest.approx(1)
    assert rnagen.concordance(some, -some) < 0
    assert rnagen.concordance(some, some + some.std()) == pytest.approx(2 / 3)  # Lin 1989
    assert rnagen.concordance(np.ones(3), np.ones(3)) == 1


def test_measures_of_neighbours_and_kernels_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    rows, real = rng.normal(0, 1.5, (40, 3)), rng.normal(0, 1, (30, 3))
    across = cdist(rows, real)
    reach, real_reach = (np.sort(cdist(part, part), 1)[:, rnagen.NEIGHBOURS] for part in (rows, real))
    expected = [
        np.mean([any(across[i, j] <= real_reach[j] for j in range(30)) for i in range(40)]),
        np.mean([any(across[i, j] <= reach[i] for i in range(40)) for j in range(30)]),
        sum(across[i, j] <= real_reach[j] for i in range(40) for j in range(30)) / 40 / rnagen.NEIGHBOURS,
        np.mean([min(across[:, j]) <= real_reach[j] for j in range(30)]),
    ]
    assert rnagen.manifold_measures(rows, real) == pytest.approx(expected)
    kernel = lambda a, b: np.exp(-np.square(cdist(a, b)) / 2.5)  # noqa: E731
    within = [(kernel(part, part).sum() - len(part)) / len(part) / (len(part) - 1) for part in (rows, real)]
    none = np.zeros(0, int)
    assert rnagen.mmd((rows, none), (real, none), 2.5) == pytest.approx(sum(within) - 2 * kernel(rows, real).mean())
    nearest, density = rnagen.near(rows, real, 0.5)
    assert nearest == pytest.approx(across.min(1))
    assert density == pytest.approx(np.log(np.exp(-np.square(across / 0.5) / 2).mean(1)))


def test_contrasts_are_welchs() -> None:
    rng = np.random.default_rng(0)
    genes, types = rng.normal(size=(50, 4)), rng.integers(3, size=50)
    t, change = rnagen.contrasts((genes, types))
    for one_type in range(3):
        own, others = genes[types == one_type], genes[types != one_type]
        expected = stats.ttest_ind(own, others, equal_var=False).statistic
        np.testing.assert_allclose(t[one_type], expected, rtol=0.01)  # the variance has a floor
        np.testing.assert_allclose(change[one_type], own.mean(0) - others.mean(0))


def test_rows_are_chosen_in_proportion_and_alike() -> None:
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], [600, 390, 10])
    assert np.bincount(types[rnagen.thin(types, 100, rng)]).tolist() == [60, 39, 1]
    assert rnagen.thin(types, 5000, rng).tolist() == list(range(1000))
    some, others = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 1, 0, 0])
    chosen = rnagen.match_types((some, others), rng)
    assert [np.sort(own[index]).tolist() for own, index in zip((some, others), chosen, strict=True)] == [
        [0, 0, 1, 1]
    ] * 2


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "d", "--test_fraction", "0", "--output", "s.tsv"], "argument --report: needs test samples"),
        (["--train_ids", "ids.txt"], "argument --train_ids: is for --report_only and --load_model"),
        (["--report_only", "s.tsv", "-m", "vae"], "argument --model: does not go with --report_only"),
        (["--report_only", "s.tsv", "--output", "t.tsv"], "argument --output: does not go with --report_only"),
        (["--report_only", "s.tsv", "--load_model", "m.safetensors", "--report", "d"], "argument --report_only: "),
        (["--load_model", "m.safetensors", "--train_ids", "i", "--output", "s.tsv"], "argument --train_ids: does not"),
        (["--load_model", "m.safetensors", "--report", "d", "-k", "3"], "argument --top_k_types: does not go with"),
    ],
)
def test_wrong_usage_of_reports_is_one_line(arguments: list[str], message: str) -> None:
    assert message in call(*arguments).error(2)


def test_bad_input_to_reports_is_one_line(tables: list[object], tmp_path: Path) -> None:
    table = make_table().drop(columns="type")
    table.to_csv("untyped.tsv", sep="\t")
    make_table().add_prefix("X").rename(columns={"Xtype": "type"}).to_csv("genes.tsv", sep="\t")
    make_table(types=("a", "b", "brain")).to_csv("types.tsv", sep="\t")
    make_table().to_csv("good.tsv", sep="\t")
    Path("ids.txt").write_text("nobody\n")
    Path("everyone.txt").write_text("\n".join(table.index))
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("file").write_text("")
    line = call("--report_only", "absent.tsv", *tables).error(1)
    assert line == "rnagen: error: absent.tsv: no such file"
    line = call("--report_only", "untyped.tsv", *tables).error(1)
    assert line == "rnagen: error: untyped.tsv: has no column `type`; add the type of each sample"
    assert "genes.tsv: has no gene of " in call("--report_only", "genes.tsv", *tables).error(1)
    assert "types.tsv: shares fewer than two types with " in call("--report_only", "types.tsv", *tables).error(1)
    ids = ["--report_only", "good.tsv", *tables, "--train_ids"]
    assert "--train_ids ids.txt: names no sample of " in call(*ids, "ids.txt").error(1)
    assert "--train_ids everyone.txt: leaves no sample of " in call(*ids, "everyone.txt").error(1)
    assert "absent.txt: no such file" in call(*ids, "absent.txt").error(1)
    assert "binary: cannot be read as " in call(*ids, "binary").error(1)
    report = ["--report_only", "good.tsv", *tables, "--report"]
    assert "--report file/report.json: cannot be written (Not a directory)" in call(*report, "file").error(1)
    assert "--report no/folder/report.json: cannot be written" in call(*report, "no/folder").error(1)
    Path("folder/report.json").mkdir(parents=True)
    assert "--report folder/report.json: is a directory or device" in call(*report, "folder").error(1)
    assert not list(Path().glob("*/report.png"))


def test_a_failed_report_leaves_no_folder(tables: list[object]) -> None:
    assert call("--report_only", "absent.tsv", *tables, "--report", "report").code == 1
    assert not Path("report").exists()
