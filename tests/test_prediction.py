"""New samples are typed by a classifier to keep, and those of no type, or on another scale, are told."""

import math
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, TYPES, Run, call, make_table, results_of, write_tables

import rnagen


@pytest.fixture(scope="module")
def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return samples to learn from, and others of the same types that nothing has seen."""
    table = make_table(rows=40)
    unseen = np.arange(len(table)) % 40 >= 30
    return table[~unseen], table[unseen]


@pytest.fixture(scope="module")
def model(cohort: tuple[pd.DataFrame, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved generator of the samples to learn from."""
    folder = tmp_path_factory.mktemp("model")
    run = call(*write_tables(folder, cohort[0]), *QUICK, "--save_model", folder / "m.safetensors")
    assert run.code == 0, run.err
    return folder / "m.safetensors"


def type_by_model(model: Path, table: pd.DataFrame, *more: object) -> Run:
    table.to_csv("new.tsv", sep="\t")
    return call("--load_model", model, "--predict", "new.tsv", "out.tsv", *more)


def check(out: pd.DataFrame, new: pd.DataFrame) -> None:
    """Check that a table of predictions is whole, consistent and right."""
    assert out.columns.tolist() == ["Sample", "type", "probability", "fit", *sorted(TYPES)]
    assert out["Sample"].tolist() == new.index.tolist()
    probabilities = out[sorted(TYPES)]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(probabilities.max(axis=1), out["probability"], atol=1e-5)
    assert probabilities.idxmax(axis=1).tolist() == out["type"].tolist()
    assert (out["type"].to_numpy() == new["type"].to_numpy()).mean() > 0.9
    assert out["fit"].between(0, 100).all()
    assert out["fit"].median() > 5


@pytest.mark.parametrize(("suffix", "test_fraction"), [(".tsv", 0.5), (".parquet", 0)])
def test_the_best_classifier_types_new_samples(
    suffix: str, test_fraction: float, cohort: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    learned, new = cohort
    new.drop(columns="type").to_parquet("new.parquet")
    out = Path(f"out{suffix}")
    more = ("--predict", "new.parquet", out, "--results", "r.json")
    more += ("--trainings", 2) if test_fraction else ("--test_fraction", 0)
    run = call(*write_tables(tmp_path, learned), "-m", "gaussian", "-n", 50, "-d", 3, *more)
    assert run.code == 0, run.err
    found = results_of("r.json")["predict"]
    on_folds = f"balanced accuracy {found['score']:.4f} on inner folds of the training samples"
    assert f"\nClassifier: {found['classifier']}: the best of all, {on_folds}\n" in run.out
    assert f"Typed 30 samples of new.parquet, written to {out}\n" in run.out
    written = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out, sep="\t")
    check(written, new)
    assert found["type_counts"] == written["type"].value_counts().to_dict()
    assert found["path"] == str(out) and 0.5 < found["score"] <= 1


def test_a_saved_generator_types_by_its_bayes_rule(model: Path, cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    new = cohort[1]
    run = type_by_model(model, new.drop(columns="type"), "--results", "r.json")
    assert run.code == 0, run.err
    assert "\nClassifier: Bayes rule of the saved generator\n" in run.out
    check(pd.read_csv("out.tsv", sep="\t"), new)
    found = results_of("r.json")["predict"]
    assert found["classifier"] == "Bayes rule" and found["score"] is None


def test_genes_are_matched_by_name(model: Path, cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """In any order, in rows or in columns; missing ones are taken at their mean, unknown ones left out."""
    new = cohort[1].drop(columns="type")
    assert type_by_model(model, new).code == 0
    plain = pd.read_csv("out.tsv", sep="\t")
    shuffled = new[new.columns[::-1]].assign(unknown=9.0)
    assert type_by_model(model, shuffled, "--overwrite").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("out.tsv", sep="\t"), plain)
    assert type_by_model(model, new.T, "--overwrite").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("out.tsv", sep="\t"), plain)
    anndata.AnnData(new.astype(np.float32)).write_h5ad("new.h5ad")
    assert call("--load_model", model, "--predict", "new.h5ad", "out.csv").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("out.csv"), plain, rtol=1e-3)
    run = type_by_model(model, new.iloc[:, 3:], "--overwrite")
    assert "rnagen: 3 of 20 genes are missing in new.tsv and taken at their mean\n" in run.err
    assert (pd.read_csv("out.tsv", sep="\t")["type"] == plain["type"]).mean() > 0.9


def test_samples_of_no_type_do_not_fit(model: Path, cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    new = cohort[1].drop(columns="type")
    strange = new.iloc[:4] + np.where(np.arange(20) % 2, 3, -3)
    strange.index = [f"strange{i}" for i in range(4)]
    run = type_by_model(model, pd.concat([new, strange]))
    fit = pd.read_csv("out.tsv", sep="\t", index_col="Sample")["fit"]
    assert (fit[strange.index] < rnagen.MIN_FIT_PERCENTILE).all()
    few = (fit < rnagen.MIN_FIT_PERCENTILE).sum()
    assert 4 <= few < 10
    assert f"rnagen: {few} of 34 samples fit any type worse than 99% of held-out ones (column fit)\n" in run.err


def test_types_named_like_other_columns(tmp_path: Path) -> None:
    table = make_table(types=("fit", "type", "other"))
    new = table.drop(columns="type")
    new.to_csv("new.tsv", sep="\t")
    learn = (*write_tables(tmp_path, table), "-m", "gaussian", "--test_fraction", 0, "-n", 200)
    assert call(*learn, "--predict", "new.tsv", "out.tsv").code == 0
    out = pd.read_csv("out.tsv", sep="\t")
    assert out.columns.tolist() == ["Sample", "type", "probability", "fit", "p_fit", "other", "p_type"]
    assert (out["type"].to_numpy() == table["type"].to_numpy()).mean() > 0.9


def test_what_cannot_be_typed_is_one_line(model: Path, cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    new = cohort[1].drop(columns="type")
    line = type_by_model(model, new.iloc[:, :8]).error(1)
    assert "--predict new.tsv: has 8 of the 20 genes that the classifier knows" in line
    line = type_by_model(model, new.rename(columns="ENSG{}".format)).error(1)
    assert "(genes like ['ENSGG0'] against ['G0']), and half are needed; make the names agree" in line
    line = type_by_model(model, np.exp2(new)).error(1)
    assert "--predict new.tsv: is on another scale (" in line
    assert (
        "than what the classifier was trained on (values as they are); give values in the units of that table" in line
    )
    assert not Path("out.tsv").exists()
    Path("out.tsv").write_text("mine")
    assert "--predict out.tsv: exists; name another file" in type_by_model(model, new).error(1)
    assert Path("out.tsv").read_text() == "mine"
    line = call("--load_model", model, "--predict", "new.tsv", "out.xlsx").error(2)
    assert "argument --predict: 'out.xlsx' does not end in .tsv .csv .parquet" in line
    assert "absent.tsv: no such file" in call("--load_model", model, "--predict", "absent.tsv", "o.tsv").error(1)


def test_counts_are_told_from_logs(tmp_path: Path) -> None:
    counts = rnagen.simulate_cohort(300, 40, 3, seed=1, counts=True)
    table = pd.DataFrame(counts.expression, pd.Index(counts.samples, name="Sample"), counts.genes)
    table.assign(type=counts.types).to_parquet("cohort.parquet")
    learn = ("--rnaseq", "cohort.parquet", "-m", "gaussian", "--test_fraction", 0, "-n", 200)
    table.iloc[:20].to_csv("new.csv")
    assert call(*learn, "--predict", "new.csv", "out.csv", "--save_model", "m.safetensors").code == 0
    assert (pd.read_csv("out.csv")["type"].to_numpy() == counts.types[:20]).mean() > 0.7
    np.log2(table.iloc[:20] + 1).to_csv("logs.csv")
    assert "is on another scale" in call("--load_model", "m.safetensors", "--predict", "logs.csv", "x.csv").error(1)


def test_a_generator_without_types_has_no_bayes_rule(cohort: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    steps = ("-m", "vae", "-e", 1, "-d", 2, "--test_fraction", 0, "--save_model", "vae.safetensors")
    assert call(*write_tables(tmp_path, cohort[0]), *steps).code == 0
    line = type_by_model(Path("vae.safetensors"), cohort[1].drop(columns="type")).error(1)
    assert "--predict: a generator of -m vae has no density of each type; use -m cvae or gaussian" in line


def test_one_sample_can_be_typed(model: Path, cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    one = cohort[1].iloc[:1]
    assert type_by_model(model, one.drop(columns="type")).code == 0
    check_one = pd.read_csv("out.tsv", sep="\t")
    assert check_one["type"].tolist() == one["type"].tolist()
    assert not math.isnan(check_one["fit"][0])
