"""The experiment as a user runs it: every printed line, the results file, the plot, determinism, leakage."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, Run, call, epoch_lines, make_table, real_data, write_tables

import rnagen


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Run once with a plot and results; return the run and its folder."""
    folder = tmp_path_factory.mktemp("plotted")
    files = write_tables(folder, make_table())
    return call(*files, *QUICK, "--plot", folder, "--results", folder / "results.json"), folder


def test_every_printed_line_is_in_its_place(plotted: tuple[Run, Path]) -> None:
    run, folder = plotted
    assert run.code == 0, run.err
    epoch = r"Epoch \d+/2 - loss: [\d.]+ - accuracy: [\d.]+ - val_loss: [\d.]+ - val_accuracy: [\d.]+\n"
    names = [f"{prefix}{name}" for prefix in ("", "val_") for name in ("loss", "kl", "xent", "mse", "corr")]
    generator_epoch = r"Epoch \d/4 - " + " - ".join(rf"{name}: -?[\d.]+" for name in names) + "\n"
    table = "".join(rf"# epochs = {e}: [\d.]+ vs [\d.]+ \(same steps on real data: [\d.]+\)\n" for e in range(1, 21))
    expected = (
        rf"Data: {folder.name}/rnaseq.tsv: 72 samples, 20 genes, 3 types\n"
        r"Top 3 types: 72 samples in 72 groups: each sample its own\n"
        r"Split by groups: 36 training samples \(3 of them to validate\), 36 test samples\n"
        rf"\nTrain a type classifier:\n({epoch}){{2}}"
        r"\nEvaluate on test data:\nloss: [\d.]+ - accuracy: [\d.]+\n"
        r"\nTrain conditional autoencoder:\n"
        r"Factor model: 3 latent dimensions, the pooled covariance counts as [\d.]+ samples beside a type's own\n"
        rf"Before training - val_loss: -?[\d.]+\n({generator_epoch}){{4}}(Kept the weights .*: lowest val_loss\n)?"
        r"\nGenerate 50 RNAseq samples:\nDone in [\d.]+ seconds \([\d.]+ samples/s\)\.\n"
        rf"\nTrain a type classifier with synthetic data:\n36 \+ 50 = 86 samples\n({epoch}){{2}}"
        r"\nEvaluate again on original test data:\nloss: [\d.]+ - accuracy: [\d.]+\n"
        r"Test accuracy change: ([+-][\d.]+%|n/a) \([\d.]+ -> [\d.]+\)\n"
        r"Same training steps on real data alone: [\d.]+ \(synthetic data adds [+-][\d.]+ points\)\n"
        r"\nPlot test accuracy using models trained with and without synthetic data:\n"
        rf"training time: before vs after\n{table}"
        r"Written to .*test-accuracy-comparison-3-types\.png and test-accuracy-comparison-3-types\.csv\n"
    )
    assert re.fullmatch(expected, run.out), run.out
    assert run.err == ""


def test_results_hold_what_was_printed(plotted: tuple[Run, Path]) -> None:
    run, folder = plotted
    results = json.loads((folder / "results.json").read_text())
    accuracy = results["accuracy"]
    assert f"({accuracy['real']:.4f} -> {accuracy['augmented']:.4f})" in run.out
    assert f"on real data alone: {accuracy['same_steps']:.4f} " in run.out
    assert (results["train_samples"], results["test_samples"], results["workers"]) == (36, 36, 1)
    data = results["data"]
    assert re.fullmatch("[0-9a-f]{64}", data.pop("sha256"))
    name = f"{folder.name}/rnaseq.tsv"
    assert data == {"name": name, "simulated": False, "samples": 72, "genes": 20, "types": 3, "groups": 72}
    assert results["arguments"]["n_samples"] == 50
    assert results["arguments"]["seed"] == 2021
    assert {"rnagen", "python", "tensorflow", "keras", "numpy"} <= set(results["versions"])
    assert results["generator"]["model"] == "cvae"
    printed = [line for line in epoch_lines(run.out) if "kl" in line]
    assert [{k: round(v, 4) for k, v in epoch.items()} for epoch in results["generator"]["history"]] == printed
    assert results["sampling"]["n"] == 50
    assert results["sampling"]["samples_per_second"] == pytest.approx(50 / results["sampling"]["seconds"])


def test_plot_and_its_numbers_agree(plotted: tuple[Run, Path]) -> None:
    run, folder = plotted
    table = json.loads((folder / "results.json").read_text())["plot"]
    for row in table:
        line = f"# epochs = {row['epochs']}: {row['real']:.4f} vs {row['augmented']:.4f} (same steps on real data: "
        assert f"{line}{row['same_steps']:.4f})" in run.out
    rows = list(csv.reader((folder / "test-accuracy-comparison-3-types.csv").open()))
    columns = ["Epochs", "trained w/o synthetic data", "trained w/ synthetic data", "same steps w/o synthetic data"]
    assert rows[0] == columns
    keys = ("epochs", "real", "augmented", "same_steps")
    assert [[float(cell) for cell in row] for row in rows[1:]] == [[row[key] for key in keys] for row in table]
    assert (folder / "test-accuracy-comparison-3-types.png").read_bytes().startswith(b"\x89PNG")
    assert table[1]["real"] == json.loads((folder / "results.json").read_text())["accuracy"]["real"]


def test_curves_equal_trainings_of_their_own(plotted: tuple[Run, Path], tmp_path: Path) -> None:
    _, folder = plotted
    table = json.loads((folder / "results.json").read_text())["plot"]
    path = tmp_path / "results.json"
    files = ["--rnaseq", folder / "rnaseq.tsv", "--types", folder / "types.tsv"]
    assert call(*files, *QUICK, "--classifier_epochs", 7, "--results", path).code == 0
    assert {"epochs": 7, **json.loads(path.read_text())["accuracy"]} == table[6]


def comparable(results: dict) -> dict:
    """Return results without what may differ between equal runs: timings and where things are."""
    for entry, names in {"generator": ["seconds"], "sampling": ["seconds", "samples_per_second"]}.items():
        for name in names:
            del results[entry][name]
    del results["arguments"]["results"]
    return results


def test_same_seed_same_results_other_seed_others(tables: list[object], tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"{number}.json"
        assert call(*tables, *QUICK, "--seed", seed, "--results", path).code == 0
        found.append(comparable(json.loads(path.read_text())))
    assert found[0] == found[1]
    assert found[0]["generator"]["history"] != found[2]["generator"]["history"]


def test_training_never_sees_test_rows(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[3, 4] = np.nan
    found = []
    for name in ("plain", "altered"):
        folder = tmp_path / name
        folder.mkdir()
        files = write_tables(folder, table)
        path = tmp_path / f"{name}.json"
        run = call(*files, *QUICK, "--results", path)
        found.append((run.out.split("Evaluate on test")[0], epoch_lines(run.out), run.err))
        cohort = rnagen.read_cohort(files[1], files[3], None)
        _, _, test = rnagen.split_cohort(cohort, 0.5, 2021)
        table.loc[list(test.samples), table.columns[:-1]] = 1000 - 9 * table.loc[list(test.samples)].iloc[:, :-1]
    assert found[0][1:] == found[1][1:]
    assert found[0][0].replace("plain", "altered") == found[1][0]


@pytest.mark.parametrize("model", ["cvae", "vae", "ae", "gaussian"])
def test_rows_of_a_type_lie_nearest_its_real_rows(model: str, tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(rows=40))
    cohort = rnagen.read_cohort(files[1], files[3], None)
    tables = rnagen.prepare_tables(cohort, 0.5, "none", 1)
    generator, entry = rnagen.train_generator(model, 4, 25, 32, tables, 1)
    assert len(entry["history"]) == (0 if model == "gaussian" else 25)
    synthesiser = rnagen.Synthesiser(generator, tables.preprocessing, cohort.genes, tables.types, tables.counts())
    label = rnagen.Order(600).labels(synthesiser.types, synthesiser.counts, 1, "output")
    drawn = np.concatenate(list(synthesiser.draw(label, 1, "output")))
    assert drawn.shape == (600, 20)
    real, real_label = tables.test
    real = tables.preprocessing.restore(real)
    means = np.array([real[real_label == t].mean(0) for t in range(3)])
    share = [
        (((rows[:, None] - means) ** 2).sum(2).argmin(1) == types).mean()
        for rows, types in ((drawn, label), (real, real_label))
    ]
    assert share[0] > share[1] - 0.05
    assert set(label) == {0, 1, 2}
    spread = drawn[label == 0].std(0) / real[real_label == 0].std(0)
    assert 0.6 < np.median(spread) < 1.6  # neither collapsed to the mean nor blown up


def test_classifier_learns_and_control_takes_as_many_steps(tables: list[object]) -> None:
    run = call(*tables, *QUICK, "--classifier_epochs", 60)
    lines = [line for line in epoch_lines(run.out) if "accuracy" in line]
    assert lines[59]["val_accuracy"] == 1.0
    assert lines[-1]["val_accuracy"] == 1.0
    assert re.search(r"Same training steps on real data alone: 1\.0000", run.out)


def test_simulated_figure_never_takes_a_real_ones_place(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rnagen.simulate_cohort
    monkeypatch.setattr(rnagen, "simulate_cohort", lambda seed: whole(300, 30, 5, seed))
    run = call("--data", "simulated", "-k", 3, *QUICK, "--plot")
    assert run.code == 0, run.err
    assert run.out.startswith("Data: simulated cohort: 300 samples, 30 genes, 5 types\n")
    assert sorted(path.name for path in Path().iterdir()) == [
        "test-accuracy-comparison-3-types-simulated.csv",
        "test-accuracy-comparison-3-types-simulated.png",
    ]
    assert call("--data", "simulated", "-k", 3, *QUICK, "--plot", "mine.pdf").code == 0
    assert Path("mine-simulated.pdf").read_bytes().startswith(b"%PDF")
    assert Path("mine-simulated.csv").exists()


def test_counts_are_trained_as_logs_and_come_back_as_counts(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[:, :-1] = np.round(np.exp2(table.iloc[:, :-1])) - 1
    files = write_tables(tmp_path, table)
    run = call(*files, *QUICK)
    assert "Transform: log2(x + 1), values look like counts or TPM; synthetic samples come in" in run.out
    assert "Transform:" not in call(*files, *QUICK, "--transform", "none").out
    cohort = rnagen.read_cohort(files[1], files[3], None)
    tables = rnagen.prepare_tables(cohort, 0.5, "auto", 1)
    generator, _ = rnagen.train_generator("cvae", 3, 40, 32, tables, 1)
    synthesiser = rnagen.Synthesiser(generator, tables.preprocessing, cohort.genes, tables.types, tables.counts())
    drawn = np.concatenate(list(synthesiser.draw(np.zeros(300, int), 1, "output")))
    assert (drawn == np.round(drawn)).all()
    assert drawn.min() >= 0
    ratio = np.log2(drawn + 1).mean(0) / np.log2(cohort.expression[cohort.types == "brain"] + 1).mean(0)
    assert 0.8 < np.median(ratio) < 1.25


def test_unused_latent_is_said(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "UNUSED_LATENT", 1e6)
    run = call(*tables, *QUICK)
    assert run.code == 0
    assert "the latent is unused" in run.err


def test_one_gene_one_latent_one_row_batches(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(rows=4, genes=1))
    run = call(*files, "-e", 1, "-d", 1, "-b", 1, "-n", 1, "--test_fraction", 0.25)
    assert run.code == 0, run.err
    assert "too few training samples to set any aside" in run.err


@pytest.mark.parametrize("name", ["tcga_mirna_31types", "ccle_rnaseq_types"])
def test_real_cohort(name: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    run = call(*real_data(name), "--results", path)
    assert run.code == 0, run.err
    results = json.loads(path.read_text())
    assert results["data"]["name"] == f"{name}/rnaseq.tsv.gz"
    assert results["data"]["types"] == 20
    kept = [line for line in run.out.splitlines() if line.startswith("Kept the weights of epoch")]
    epoch = int(re.search(r"\d+", kept[0])[0]) if kept else 0
    assert results["generator"]["history"][epoch - 1]["val_kl"] > 5
    assert results["accuracy"]["augmented"] > results["accuracy"]["same_steps"] - 0.06


def test_twenty_types_at_most_unless_asked_for(tmp_path: Path) -> None:
    names = tuple(f"t{i:02d}" for i in range(22))
    cohort = rnagen.read_cohort(*write_tables(tmp_path, make_table(rows=3, types=names))[1::2], None)
    assert len(set(rnagen.keep_top_types(cohort, None).types)) == 20
    assert set(rnagen.keep_top_types(cohort, 3).types) == {"t00", "t01", "t02"}
