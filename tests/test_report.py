"""The report: known answers, oracles for its measures and attacks, and what users see of it."""

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
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

import rnagen

NAMES = {
    "looks_real": "ks_median ks_share_beyond mean_agreement variance_agreement correlation_agreement mmd "
    "two_sample_auc precision recall density coverage",
    "behaves_real": "tstr_accuracy tstr_balanced_accuracy tstr_macro_f1 de_overlap_50 de_overlap_100 "
    "de_rank_correlation log_fold_change_correlation",
    "is_private": " ".join(
        [f"{attack}_{kind}" for kind in ("auc", "tpr", "tpr10") for attack in rnagen.ATTACKS]
        + ["copies", "near_copies", "closest_record_median"]
    ),
}
AUCS = [f"{attack}_auc" for attack in rnagen.ATTACKS]
ROWS, GENES = 60, 120  # per type, of 5 types


def draw(seed: int, rows: int = ROWS) -> pd.DataFrame:
    """Draw a cohort of so many rows per type from a distribution that is the same for every seed."""
    shape = np.random.default_rng(0)
    means, modules = shape.normal(0, 0.8, (5, GENES)), shape.normal(0, 0.5, (4, GENES))
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(5), rows)
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


FEW = ("-n", 50, "--temperature", 1, "--trainings", 2)


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
    assert private["likelihood_ratio_attack_auc"]["value"] > 0.95
    assert private["attack_tpr10"]["value"] == 1
    assert private["attack_tpr"]["why"] == "150 non-members for a false-alarm rate of 1%, and 300 are needed"
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
    low, high = report["looks_real"]["two_sample_auc"]["interval"]
    assert low < 0.5 < high
    for attack in rnagen.ATTACKS:
        for name, chance in ((f"{attack}_auc", 0.5), (f"{attack}_tpr10", 0.1)):
            for ends in ("interval", "simultaneous"):
                low, high = report["is_private"][name][ends]
                assert low < chance < high, name
    assert report["is_private"]["copies"] == report["is_private"]["near_copies"] == {"value": 0, "reference": 0}
    assert [verdict["ok"] for verdict in report["verdicts"].values()] == [True, True, None]
    assert (
        "150 non-members for a false-alarm rate of 1%, and 300 are needed" in report["verdicts"]["is_private"]["words"]
    )
    for question, names in NAMES.items():
        assert list(report[question]) == names.split()
        for measure in report[question].values():
            ends = {"interval", "simultaneous"}
            assert measure.keys() == {"value", "why"} or {"value", "reference"} == measure.keys() - ends
        heading, words = rnagen.GROUPS[question]
        assert re.search(rf"\n{heading} +synthetic +real\n", run.out)
        assert f"\n{words}: " in run.out
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
    assert "Is private: inconclusive: the samples that it was trained on" in run.out
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
    monkeypatch.setattr(rnagen, "MAX_REAL", 200)
    monkeypatch.setattr(rnagen, "MAX_RELEASED", 200)
    monkeypatch.setattr(rnagen, "MAX_CORRELATED", 50)
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


def evaluated(cohorts: list[rnagen.Cohort], seed: int) -> tuple[dict, rnagen.Evaluation]:
    """Report on training, test and synthetic samples."""
    return rnagen.evaluate(rnagen.align_for_evaluation(*cohorts, "none", ""), seed)


def test_few_samples_of_many_genes_are_not_told_apart_by_chance() -> None:
    """What standardises or projects rows must not favour those it was fitted to."""
    found: dict[str, list[float]] = {}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        report, _ = evaluated([rows_of(count, 500, rng) for count in (90, 100, 90)], seed)
        measures = {**report["looks_real"], **report["is_private"]}
        for name in (*AUCS, "two_sample_auc", "recall", "coverage", "density"):
            for side in ("value", "reference"):
                found.setdefault(f"{name} {side}", []).append(measures[name][side])
    for name in (*AUCS, "two_sample_auc"):
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
    report, evaluation = evaluated(cohorts, 0)
    assert report["looks_real"]["two_sample_auc"]["reference"] < 0.65
    assert len(evaluation.attacks["synthetic"]["attack"].scores) < 65  # 40 and half of 40
    copies = replace(cohorts[0], expression=cohorts[0].expression + np.float32(0.1))
    report, _ = evaluated([cohorts[0], cohorts[1], copies], 0)
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
    report, evaluation = evaluated([rows_of(count, 30, rng) for count in (60, 30, 60)], 0)
    for name in AUCS:
        entry = report["is_private"][name]
        assert entry["value"] is not None
        assert entry["reference"] is None  # a quarter of the test samples
    assert all(len(line) <= 80 for line in rnagen.format_report(report, evaluation.kinds, "made"))


# ---- with a generator ----


@pytest.mark.parametrize("model", ["cvae", "vae", "ae", "gaussian"])
def test_every_generator_is_judged_alike_once_saved(model: str, tables: list[object]) -> None:
    steps = QUICK if model != "gaussian" else ("-n", 50, "-d", 3, "--temperature", 1, "--trainings", 2)
    run = call(*tables, *steps, "-m", model, "--save_model", "m.safetensors", "--report", "one", "--results", "r.json")
    assert run.code == 0, run.err
    assert " synthetic, 36 training and 36 test samples" in run.out
    report, results = (json.loads(Path(name).read_text()) for name in ("one/report.json", "r.json"))
    assert {question: list(report[question]) for question in NAMES} == {
        question: names.split() for question, names in NAMES.items()
    }
    assert report["is_private"]["attack_auc"]["value"] is not None
    manifest = report.pop("manifest")
    same = ("arguments", "versions", "workers", "data")
    assert manifest == {name: results[name] for name in same} | {"privacy": None}
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
    assert "Is private: inconclusive: it was trained on other samples than this split" in other.out
    assert "--seed, --test_fraction and" in other.out
    training = rnagen.split_cohort(rnagen.read_cohort(rnagen.TableConfig(*map(Path, tables[1::2]))), 0.5, 2021)[0]
    Path("ids.tsv").write_text("\n".join(f"{sample}\tcolumn" for sample in ["Sample", *training.samples]))
    listed = call("--load_model", "m.safetensors", *tables, *report, "--seed", 5, "--train_ids", "ids.tsv")
    assert listed.code == 0, listed.err
    assert "1 of 37 ids in ids.tsv are of no sample that is reported on" in listed.err
    assert json.loads(Path("report/report.json").read_text())["is_private"]["copies"] == {"value": 0, "reference": 0}


def test_a_saved_generator_is_judged_in_its_own_units(tmp_path: Path) -> None:
    """Its parameters are in the units that it was trained in, whatever the table would ask for."""
    table = make_table(rows=60)
    table.iloc[:, :-1] = np.exp2(table.iloc[:, :-1])
    tables = write_tables(tmp_path, table)
    keep = ("-m", "gaussian", "--transform", "none", "-d", 3, "--trainings", 2, "-n", 50)
    run = call(*tables, *keep, "--save_model", "m.safetensors", "--report", "one")
    assert run.code == 0, run.err
    loaded = call("--load_model", "m.safetensors", *tables, "--report", "two")
    assert loaded.code == 0, loaded.err
    first, second = (json.loads(Path(f"{name}/report.json").read_text()) for name in ("one", "two"))
    assert first["is_private"] == second["is_private"] and first["looks_real"] == second["looks_real"]
    line = call("--load_model", "m.safetensors", *tables, "--report", "d", "--transform", "log2").error(2)
    assert "argument --transform: does not go with --load_model, whose file settles it" in line


def test_counts_are_judged_on_their_log_scale(tmp_path: Path) -> None:
    table = draw(1)
    genes = table.columns[:-1]
    table[genes] = np.exp2(table[genes] + 8).round()
    run = call(*write_tables(tmp_path, table), "-m", "gaussian", *FEW, "--report", "report")
    assert run.code == 0, run.err
    report = json.loads(Path("report/report.json").read_text())
    distance = report["looks_real"]["ks_median"]
    assert distance["value"] < distance["reference"] + 0.05
    changes = report["behaves_real"]["log_fold_change_correlation"]
    assert changes["value"] > changes["reference"] - 0.1 > 0.8


def test_noisy_copies_of_a_real_cohort_are_found(tmp_path: Path) -> None:
    arguments = real_data("tcga_mirna_31types")
    table = pd.read_csv(arguments[1], sep="\t", index_col=0)
    types = pd.read_csv(arguments[3], sep="\t", index_col=0, header=None)[1].reindex(table.index)
    known = table.index[types.isin(types.value_counts().index[:5])]
    training = np.random.default_rng(0).permutation(known)[: len(known) // 2]
    noise = np.random.default_rng(0).normal(0, 0.3, (len(training), table.shape[1]))
    Path("ids.txt").write_text("\n".join(training))
    report, _ = judged((table.loc[training] + noise).assign(type=types), [*arguments, "--train_ids", "ids.txt"])
    assert report["is_private"]["attack_auc"]["value"] > 0.95
    assert report["is_private"]["attack_tpr"]["value"] > 0.5
    assert report["verdicts"]["is_private"]["ok"] is False
    assert report["verdicts"]["behaves_real"]["ok"]


# ---- attacks ----


def cohort_of(table: pd.DataFrame) -> rnagen.Cohort:
    """Return a drawn table as a cohort in which every sample is a group."""
    ids, genes = table.index.to_numpy(str), table.columns[:-1].to_numpy(str)
    expression = table[genes].to_numpy(np.float32)
    return rnagen.Cohort("drawn", False, expression, ids, genes, table["type"].to_numpy(str), ids, "")


def gaussian_of(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Draw so many rows per type from the means and the covariance within types of a table."""
    rng, genes = np.random.default_rng(seed), table.columns[:-1]
    means = table.groupby("type")[genes].mean()
    residuals = table[genes].to_numpy() - means.loc[table["type"]].to_numpy()
    mixing = rng.normal(size=(rows * len(means), len(residuals))) / np.sqrt(len(residuals))
    values = np.repeat(means.to_numpy(), rows, axis=0) + mixing @ residuals
    drawn = pd.DataFrame(values.astype(np.float32), columns=genes).rename(index="N{}".format)
    return drawn.assign(type=np.repeat(means.index.to_numpy(), rows))


def attacked(
    tables: list[pd.DataFrame], seed: int = 0, parameters: rnagen.Parameters = None
) -> dict[str, rnagen.Attack]:
    """Attack the last of training, test and synthetic samples."""
    evaluation = rnagen.align_for_evaluation(*map(cohort_of, tables), "none", "", parameters)
    return rnagen.run_attacks(evaluation, seed)


def test_attacks_on_fresh_draws_hold_chance_in_their_intervals() -> None:
    held = dict.fromkeys(rnagen.ATTACKS, 0)
    for seed in range(40):
        attacks = attacked([draw(3 * seed + 10 + number, rows) for number, rows in enumerate((40, 80, 40))], seed)
        for name, attack in attacks.items():
            _, low, high, *_ = attack.estimate()
            held[name] += low <= 0.5 <= high
    assert min(held.values()) >= 34, held


def test_tracing_falls_with_samples_per_type_and_rises_with_released_rows_to_a_ceiling() -> None:
    test = draw(2, 160)
    found = {}
    for rows in (10, 40, 160):
        training = draw(1, rows)
        for released in (5, 40, 400):
            attacks = attacked([training, test, gaussian_of(training, released, 0)])
            found[rows, released] = attacks["tracing_attack"].estimate()[0]
    assert found[10, 400] > found[40, 400] + 0.05 > found[160, 400] + 0.1
    assert found[10, 5] + 0.03 < found[10, 40] < found[10, 400] + 0.03
    training = draw(1, 10)
    known = training.groupby("type")[[*training.columns[:-1]]].mean()
    few_rows = [training, test, gaussian_of(training, 5, 0)]
    ceiling = attacked(few_rows, 0, (known.to_numpy(), None))["tracing_attack"].estimate()[0]
    assert ceiling == pytest.approx(found[10, 400], abs=0.02)


def test_the_covariance_of_a_generator_is_as_good_as_many_rows() -> None:
    training, test = draw(1, 40), draw(2, 160)
    genes = training.columns[:-1]
    means = training.groupby("type")[genes].mean()
    residuals = training[genes].to_numpy() - means.loc[training["type"]].to_numpy()
    parameters = means.to_numpy(), residuals.T @ residuals / len(residuals) + 0.1**2 * np.eye(len(genes))
    few, many = (gaussian_of(training, rows, 0) for rows in (10, 1000))
    by_rows = [attacked([training, test, table])["likelihood_ratio_attack"].estimate()[0] for table in (few, many)]
    by_parameters = attacked([training, test, few], 0, parameters)["likelihood_ratio_attack"].estimate()[0]
    assert by_parameters > by_rows[0] + 0.05
    assert by_parameters > by_rows[1] - 0.02


def test_attacks_work_in_principal_components_of_many_genes(monkeypatch: pytest.MonkeyPatch) -> None:
    training = draw(1, 20)
    tables = [training, draw(2, 80), gaussian_of(training, 80, 0)]
    genes = attacked(tables)
    monkeypatch.setattr(rnagen, "MANY_GENES", 50)
    components = attacked(tables)
    for name in rnagen.ATTACKS:
        assert components[name].estimate()[0] == pytest.approx(genes[name].estimate()[0], abs=0.03), name
    fresh = attacked([training, draw(2, 80), draw(3, 80)])
    assert all(attack.estimate()[3] < 0.5 for attack in fresh.values())


def test_the_tracing_attack_is_the_plain_formula() -> None:
    """As others measure it: the population's inverse covariance, and the lean of its means, type by type."""
    training = draw(1, 15)
    cohorts = map(cohort_of, (training, draw(2, 80), gaussian_of(training, 50, 0)))
    evaluation = rnagen.align_for_evaluation(*cohorts, "none", "")
    members, test, synthetic = evaluation.kinds.values()
    half = np.random.default_rng(0).permutation(len(test))
    population, others = (test.take(part) for part in np.array_split(half, 2))
    means = {label: population.x[population.y == label].mean(0) for label in range(5)}
    lean = {label: synthetic.x[synthetic.y == label].mean(0) - means[label] for label in range(5)}
    residuals = np.stack([row - means[label] for row, label in zip(population.x, population.y, strict=True)])
    inverse = np.linalg.inv(LedoitWolf().fit(residuals).covariance_)
    expected, scores = [], []
    (released, _), (centre, within) = (rnagen.fit_gaussians(samples, 5) for samples in (synthetic, population))
    for samples in (members, others):
        pairs = zip(samples.x, samples.y, strict=True)
        expected.append(np.array([(row - means[label]) @ inverse @ lean[label] for row, label in pairs]))
        away, towards = samples.x - centre[samples.y], (released - centre)[samples.y]
        scores.append(rnagen.whitened_product(away, towards, within))
    assert rnagen.auc_interval(*scores)[0] == pytest.approx(rnagen.auc_interval(*expected)[0], abs=0.005)
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(scores, expected, strict=True)) > 0.999


def test_a_large_cohort_of_fresh_draws_is_called_private_against_these_attacks() -> None:
    tables = [draw(number, rows) for number, rows in ((1, 400), (2, 800), (3, 400))]
    evaluation = rnagen.align_for_evaluation(*(cohort_of(table.iloc[:, -31:]) for table in tables), "none", "")
    report, _ = rnagen.evaluate(evaluation, 0)
    assert report["verdicts"]["is_private"]["ok"], report["verdicts"]
    assert report["verdicts"]["is_private"]["words"].startswith("yes: against 4 attacks on 2000 released samples: ")
    for attack in rnagen.ATTACKS:
        low, high = report["is_private"][f"{attack}_tpr"]["interval"]
        assert low < 0.01 < high < report["is_private"][f"{attack}_tpr"]["simultaneous"][1] <= 0.03


def test_one_seed_sets_everything() -> None:
    cohorts = [rows_of(60, 30, np.random.default_rng(seed)) for seed in range(3)]
    first, again, other = (evaluated(cohorts, seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first["looks_real"]["ks_median"] == other["looks_real"]["ks_median"]  # where nothing is random
    assert first["looks_real"]["two_sample_auc"] != other["looks_real"]["two_sample_auc"]
    assert first["is_private"]["tracing_attack_auc"] != other["is_private"]["tracing_attack_auc"]


@pytest.mark.parametrize(
    ("value", "ends", "ok"),
    [
        (0.56, (0.51, 0.61), False),
        (0.56, (0.49, 0.63), None),
        (0.54, (0.51, 0.57), True),
        (0.54, (0.47, 0.61), None),
        (0.30, (0.25, 0.35), None),
    ],
)
def test_the_verdict_on_an_attack_is_by_its_simultaneous_interval(value: float, ends: tuple, ok: bool | None) -> None:
    rows = {row.name: row for row in rnagen.MEASURES}
    found = {"value": value, "reference": 0.5, "interval": [value, value], "simultaneous": [*ends]}
    assert rnagen.judge_measure(rows["tracing_attack_auc"], found)[0] is ok


@pytest.mark.parametrize(
    ("value", "ends", "ok"),
    [
        (0.021, (0.012, 0.03), False),
        (0.021, (0.009, 0.03), None),
        (0.015, (0.005, 0.03), True),
        (0.015, (0, 0.031), None),
    ],
)
def test_the_verdict_on_a_share_found(value: float, ends: tuple, ok: bool | None) -> None:
    rows = {row.name: row for row in rnagen.MEASURES}
    found = {"value": value, "reference": 0.01, "interval": [value, value], "simultaneous": [*ends]}
    assert rnagen.judge_measure(rows["likelihood_ratio_attack_tpr"], found)[0] is ok


def test_an_interval_of_a_share_found_covers_the_truth() -> None:
    """At 1% of 300 false alarms, where the threshold is least certain, and where samples have weights."""
    rng = np.random.default_rng(0)
    for distance, uneven in ((0.0, False), (1.0, False), (2.5, False), (1.0, True)):
        truth = stats.norm.sf(stats.norm.isf(0.01) - distance)
        held = []
        for _ in range(150):
            scores = rng.normal(distance, 1, 300), rng.normal(0, 1, 300)
            weights = tuple(rng.choice([0.3, 1.0], 300) if uneven else np.ones(300) for _ in range(2))
            value, low, high = rnagen.share_found(*scores, weights, 0.01)
            assert low <= value <= high
            held.append(low <= truth <= high)
        assert np.mean(held) > 0.91, (distance, uneven)


def test_members_and_others_of_a_type_weigh_the_same() -> None:
    """Members are mostly of one type, which has other scores; that must not look like an attack."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 0, 1], [300, 30, 40, 300])
    member = np.arange(len(y)) < 330
    weights = np.where(member, np.array([40 / 300, 1])[y], np.array([1, 30 / 300])[y])
    attack = rnagen.Attack(rng.normal(size=len(y)) + 3 * y, member, y, weights)
    _, low, high, *_ = attack.estimate()
    assert low < 0.5 < high


# ---- oracles ----

few = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@settings(deadline=None)
@given(few, few)
def test_kolmogorov_smirnov_is_that_of_scipy(some: list[int], others: list[int]) -> None:
    rows = [np.array([part, part], np.float32).T for part in (some, others)]
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
    assert rnagen.mmd(rows, real, 2.5) == pytest.approx(sum(within) - 2 * kernel(rows, real).mean())
    nearest, density = rnagen.nearest_and_density(rows, real, 0.5)
    assert nearest == pytest.approx(across.min(1))
    assert density == pytest.approx(np.log(np.exp(-np.square(across / 0.5) / 2).mean(1)))


def test_contrasts_are_welchs() -> None:
    rng = np.random.default_rng(0)
    genes, types = rng.normal(size=(50, 4)), rng.integers(3, size=50)
    t, change = rnagen.contrasts(rnagen.Samples(genes, types))
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
    chosen = rnagen.match_types([rnagen.Samples(y[:, None], y) for y in (some, others)], rng)
    assert [np.sort(one.y).tolist() for one in chosen] == [[0, 0, 1, 1]] * 2
    assert all((one.x[:, 0] == one.y).all() for one in chosen)


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
