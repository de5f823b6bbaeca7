"""The experiment as a user runs it: every printed line, the results file, the plot, determinism, leakage."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, Run, call, epoch_lines, make_table, read_files, real_data, results_of, write_tables
from safetensors.numpy import load_file

import rnagen

ARMS = ("real", "same_steps", "augmented")


@pytest.fixture(scope="module")
def cohort_files(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments that name a small cohort."""
    return write_tables(tmp_path_factory.mktemp("cohort"), make_table())


@pytest.fixture(scope="module")
def plotted(cohort_files: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Run once with a plot and results; return the run and its folder."""
    folder = tmp_path_factory.mktemp("plotted")
    return call(*cohort_files, *QUICK, "--plot", folder, "--results", folder / "results.json"), folder


def test_every_printed_line_is_in_its_place(plotted: tuple[Run, Path], cohort_files: list[object]) -> None:
    run, _ = plotted
    assert run.code == 0, run.err
    epoch = r"Epoch \d+/2 - loss: [\d.]+ - accuracy: [\d.]+ - val_loss: [\d.]+ - val_accuracy: [\d.]+\n"
    evaluation = r"loss: \d+\.\d{4} - accuracy: \d\.\d{4} \(sd \d\.\d{4} over 2 trainings\)\n"
    names = [f"{prefix}{name}" for prefix in ("", "val_") for name in ("loss", "kl", "xent", "mse", "corr")]
    generator_epoch = r"Epoch \d/4 - " + " - ".join(rf"{name}: -?[\d.]+" for name in names) + "\n"
    table = "".join(rf"# epochs = {e}: [\d.]+ vs [\d.]+ \(same steps on real data: [\d.]+\)\n" for e in range(1, 21))
    expected = (
        rf"Data: {cohort_files[1].parent.name}/rnaseq.tsv: 72 samples, 20 genes, 3 types\n"
        r"Types: brain 24, kidney 24, liver 24\n"
        r"Top 3 types: 72 samples in 72 groups: each sample its own\n"
        r"Split by groups: 36 training samples \(3 of them to validate\), 36 test samples\n"
        rf"\nTrain a type classifier:\n({epoch}){{2}}"
        rf"\nEvaluate on test data:\n{evaluation}"
        r"\nTrain conditional autoencoder:\n"
        r"Factor model: 3 latent dimensions, the pooled covariance counts as 3 samples beside a type's own\n"
        rf"Before training - val_loss: -?[\d.]+\n({generator_epoch}){{4}}(Kept the weights .*: lowest val_loss\n)?"
        r"\nGenerate 50 RNAseq samples:\nDone in [\d.]+ seconds \([\d.]+ samples/s\)\.\n"
        rf"\nTrain a type classifier with synthetic data:\n36 \+ 50 = 86 samples\n({epoch}){{2}}"
        rf"\nEvaluate again on original test data:\n{evaluation}"
        r"Test accuracy change: ([+-][\d.]+%|n/a) \([\d.]+ -> [\d.]+\)\n"
        r"Same training steps on real data alone: [\d.]+ \(synthetic data adds [+-][\d.]+ points\)\n"
        r"95% interval of that gain, on this one split: [+-][\d.]+ to [+-][\d.]+ points\n"
        r"\nPlot test accuracy using models trained with and without synthetic data:\n"
        rf"training time: before vs after\n{table}"
        r"Written to .*test-accuracy-comparison-3-types\.png and test-accuracy-comparison-3-types\.csv\n"
    )
    assert re.fullmatch(expected, run.out), run.out
    assert run.err == ""


def test_results_hold_what_was_printed(plotted: tuple[Run, Path], cohort_files: list[object]) -> None:
    run, folder = plotted
    results = results_of(folder / "results.json")
    accuracy = results["accuracy"]
    assert list(accuracy) == [*ARMS, "gain"]
    for name in ARMS:
        values = accuracy[name]["values"]
        assert len(values) == 2
        assert accuracy[name]["mean"] == pytest.approx(np.mean(values))
        assert accuracy[name]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert all(36 * value == pytest.approx(round(36 * value)) for value in values)  # of the test samples
    real, same_steps, augmented = (accuracy[name]["mean"] for name in ARMS)
    for name in ("real", "augmented"):
        scores = accuracy[name]
        assert f" - accuracy: {scores['mean']:.4f} (sd {scores['sd']:.4f} over 2 trainings)\n" in run.out
    assert f"Test accuracy change: {augmented / real - 1:+.2%} ({real:.4f} -> {augmented:.4f})" in run.out
    gain = accuracy["gain"]
    assert gain["mean"] == pytest.approx(augmented - same_steps)
    assert f"on real data alone: {same_steps:.4f} (synthetic data adds {100 * gain['mean']:+.2f} points)" in run.out
    low, high = gain["interval"]
    assert low < gain["mean"] < high
    assert f"of that gain, on this one split: {100 * low:+.2f} to {100 * high:+.2f} points\n" in run.out
    assert (results["train_samples"], results["test_samples"], results["workers"]) == (36, 36, 1)
    data = results["data"]
    assert re.fullmatch("[0-9a-f]{64}", data.pop("sha256"))
    assert data.pop("type_column")
    assert data == {
        "name": f"{cohort_files[1].parent.name}/rnaseq.tsv",
        "simulated": False,
        "samples": 72,
        "genes": 20,
        "types": 3,
        "groups": 72,
        "type_counts": {"brain": 24, "kidney": 24, "liver": 24},
        "notes": [],
    }
    assert results["arguments"]["n_samples"] == 50
    assert results["arguments"]["seed"] == 2021
    assert {"rnagen", "python", "tensorflow", "keras", "numpy"} <= set(results["versions"])
    assert results["augmentation"] == {"n_samples": 50, "temperature": 1.5}
    generator = results["generator"]
    assert generator["model"] == "cvae"
    assert generator["latent_dim"] == 3
    printed = [line for line in epoch_lines(run.out) if "kl" in line]
    assert [{k: round(v, 4) for k, v in epoch.items()} for epoch in generator["history"]] == printed
    losses = [float(re.search(r"Before training - val_loss: (-?[\d.]+)", run.out)[1])]
    losses += [epoch["val_loss"] for epoch in printed]
    assert losses[generator["epoch"]] == min(losses)
    assert results["sampling"]["n"] == 50
    assert results["sampling"]["samples_per_second"] == pytest.approx(50 / results["sampling"]["seconds"])


def test_plot_and_its_numbers_agree(plotted: tuple[Run, Path]) -> None:
    run, folder = plotted
    results = results_of(folder / "results.json")
    table = results["plot"]
    for row in table:
        line = f"# epochs = {row['epochs']}: {row['real']:.4f} vs {row['augmented']:.4f} (same steps on real data: "
        assert f"{line}{row['same_steps']:.4f})" in run.out
    rows = list(csv.DictReader((folder / "test-accuracy-comparison-3-types.csv").open()))
    columns = {
        "epochs": "Epochs",
        "real": "trained w/o synthetic data",
        "augmented": "trained w/ synthetic data",
        "same_steps": "same steps w/o synthetic data",
    }
    ends = [f"{name}_{end}" for name in ARMS for end in ("low", "high")]
    assert list(rows[0])[:4] == list(columns.values())
    assert set(list(rows[0])[4:]) == set(ends)
    keys = columns | {end: end for end in ends}
    found = [{key: float(row[column]) for key, column in keys.items()} for row in rows]
    assert found == [{key: row[key] for key in keys} for row in table]
    assert (folder / "test-accuracy-comparison-3-types.png").read_bytes().startswith(b"\x89PNG")
    for name in ARMS:  # asked for are two epochs; the band is one sd of the trainings to each side
        scores, row = results["accuracy"][name], table[1]
        assert row[name] == scores["mean"]
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(
            (scores["mean"] - scores["sd"], scores["mean"] + scores["sd"])
        )


def test_curves_equal_trainings_of_their_own(plotted: tuple[Run, Path], cohort_files: list[object]) -> None:
    table = results_of(plotted[1] / "results.json")["plot"]
    assert call(*cohort_files, *QUICK, "--classifier_epochs", 7, "--results", "results.json").code == 0
    accuracy = results_of("results.json")["accuracy"]
    assert {name: accuracy[name]["mean"] for name in ARMS} == {name: table[6][name] for name in ARMS}


def comparable(results: dict) -> dict:
    """Return results without what may differ between equal runs: timings and where things are."""
    for entry, names in {"generator": ["seconds"], "sampling": ["seconds", "samples_per_second"]}.items():
        for name in names:
            del results[entry][name]
    for name in ("results", "plot"):
        del results["arguments"][name]
    return results


def test_same_seed_same_results_other_seed_others(plotted: tuple[Run, Path], cohort_files: list[object]) -> None:
    folder = plotted[1]
    found = [comparable(results_of(folder / "results.json"))]
    for seed in (2021, 6):
        Path(f"{seed}").mkdir()
        run = call(*cohort_files, *QUICK, "--seed", seed, "--plot", f"{seed}", "--results", f"{seed}/results.json")
        assert run.code == 0, run.err
        found.append(comparable(results_of(f"{seed}/results.json")))
    assert found[0] == found[1]
    assert found[0]["generator"]["history"] != found[2]["generator"]["history"]
    assert found[0]["plot"] != found[2]["plot"]
    name = "test-accuracy-comparison-3-types.csv"
    assert (folder / name).read_bytes() == Path("2021", name).read_bytes() != Path("6", name).read_bytes()


def test_one_training_has_no_interval_and_is_the_first_of_several(
    plotted: tuple[Run, Path], cohort_files: list[object]
) -> None:
    run = call(*cohort_files, *QUICK, "--trainings", 1, "--plot", "--results", "one.json")
    assert run.code == 0, run.err
    assert "over 1 training" not in run.out
    assert "(sd " not in run.out
    assert "95% interval" not in run.out
    assert "The interval of that gain is unavailable: one training does not tell its noise (--trainings)\n" in run.out
    several, one = results_of(plotted[1] / "results.json"), results_of("one.json")
    for name in ARMS:
        assert one["accuracy"][name]["values"] == several["accuracy"][name]["values"][:1]
        assert one["accuracy"][name]["mean"] == one["accuracy"][name]["values"][0]
    assert one["accuracy"]["gain"]["interval"] is None
    assert set(one["plot"][0]) == {"epochs", *ARMS}  # no bands
    assert epoch_lines(run.out) == epoch_lines(plotted[0].out)  # those of the first training
    header = Path("test-accuracy-comparison-3-types.csv").read_text().splitlines()[0]
    assert header.count(",") == 3


def test_training_never_sees_test_rows(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[3, 4] = np.nan
    found = []
    for name in ("plain", "altered"):
        folder = tmp_path / name
        folder.mkdir()
        files = write_tables(folder, table)
        run = call(*files, *QUICK, "--save_model", folder / "m.safetensors")
        assert run.code == 0, run.err
        model = load_file(folder / "m.safetensors")
        del model["likelihoods"]  # of held-out samples, for --predict
        found.append((run.out.split("Evaluate on test")[0], epoch_lines(run.out), run.err, model))
        _, test = rnagen.split_cohort(read_files(files), 0.5, 2021)
        held_out = list(test.samples)
        table.loc[held_out, table.columns[:-1]] = 40 - 2 * table.loc[held_out].iloc[:, :-1]
    (plain, *trained), (altered, *also) = found
    assert plain.replace("plain", "altered") == altered
    assert trained[0] == also[0]
    assert trained[1].replace("plain", "altered") == also[1]
    assert trained[2].keys() == also[2].keys()
    assert all(trained[2][name].tobytes() == also[2][name].tobytes() for name in trained[2])  # NaN included


@pytest.mark.parametrize("kind", ["cvae", "vae", "ae", "gaussian"])
def test_rows_of_a_type_lie_nearest_its_real_rows(kind: str, tmp_path: Path) -> None:
    cohort = read_files(write_tables(tmp_path, make_table(rows=40)))
    dataset = rnagen.prepare_dataset(cohort, 0.5, "none", 1)
    rnagen.start_tensorflow()
    trained = rnagen.train_generator(rnagen.ModelConfig(kind, 4, 25, 32), dataset, 1)
    assert len(trained.history) == (0 if kind == "gaussian" else 25)
    sampler = trained.sampler
    labels = rnagen.SamplingPlan(600).labels(sampler.types, sampler.counts, 1, "output")
    drawn = np.concatenate(list(sampler.draw(labels, 1, "output")))
    assert drawn.shape == (600, 20)
    y = dataset.test.y
    real = dataset.preprocessing.restore(dataset.test.x, y, rnagen.stream(1, "test"))
    means = np.array([real[y == label].mean(0) for label in range(3)])
    share = [
        (((rows[:, None] - means) ** 2).sum(2).argmin(1) == codes).mean()
        for rows, codes in ((drawn, labels), (real, y))
    ]
    assert share[0] > share[1] - 0.05
    assert set(labels) == {0, 1, 2}
    spread = drawn[labels == 0].std(0) / real[y == 0].std(0)
    assert 0.6 < np.median(spread) < 1.6  # neither collapsed to the mean nor blown up


def test_classifier_learns_and_control_takes_as_many_steps(cohort_files: list[object]) -> None:
    run = call(*cohort_files, *QUICK, "--classifier_epochs", 60)
    lines = [line for line in epoch_lines(run.out) if "accuracy" in line]
    assert lines[59]["val_accuracy"] == 1.0
    assert lines[-1]["val_accuracy"] == 1.0
    assert re.search(r"Same training steps on real data alone: 1\.0000", run.out)


def test_simulated_figure_never_takes_a_real_ones_place(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rnagen.simulate_cohort
    monkeypatch.setattr(rnagen, "simulate_cohort", lambda seed: whole(300, 30, 5, seed))
    run = call("--data", "simulated", "-k", 3, *QUICK, "--plot")
    assert run.code == 0, run.err
    assert run.out.startswith("Data: simulated cohort: 300 samples, 30 genes, 5 types\nTypes: type_")
    assert sorted(path.name for path in Path().iterdir()) == [
        "test-accuracy-comparison-3-types-simulated.csv",
        "test-accuracy-comparison-3-types-simulated.png",
    ]
    assert call("--data", "simulated", "-k", 3, *QUICK, "--plot", "mine.pdf").code == 0
    assert Path("mine-simulated.pdf").read_bytes().startswith(b"%PDF")
    assert Path("mine-simulated.csv").exists()


def test_the_ten_most_frequent_types_are_printed_with_their_counts(tmp_path: Path) -> None:
    table = make_table(rows=6, types=tuple(f"t{i:02d}" for i in range(12))).iloc[:-1]  # the last has one sample less
    run = call(*write_tables(tmp_path, table), "-m", "gaussian", "-n", 10, "--trainings", 1, "--results", "r.json")
    assert run.code == 0, run.err
    printed = run.out[run.out.index("Types: ") : run.out.index("Top 12 types")]
    first_ten = ", ".join(f"t{i:02d} 6" for i in range(10))
    assert " ".join(printed.split()) == f"Types: {first_ten} and 2 more"
    assert max(map(len, printed.splitlines())) <= 80
    counts = results_of("r.json")["data"]["type_counts"]
    assert list(counts.items())[-1] == ("t11", 5)
    assert sum(counts.values()) == 71


def test_counts_are_trained_as_logs_and_come_back_as_counts(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[:, :-1] = np.round(np.exp2(table.iloc[:, :-1])) - 1
    files = write_tables(tmp_path, table)
    run = call(*files, "-e", 4, "-d", 3, "--test_fraction", 0, "--output", "s.parquet", "--per_type", "brain=300")
    assert run.code == 0, run.err
    assert (
        "Transform: log2(CPM + 1), each sample by its own depth: whole numbers look like counts; synthetic" in run.out
    )
    plain = call(*files, "-m", "gaussian", "-n", 20, "--trainings", 1, "--transform", "none")
    assert plain.code == 0, plain.err
    assert "Transform:" not in plain.out
    drawn = rnagen.read_cohort(rnagen.TableConfig(Path("s.parquet"))).expression
    assert (drawn == np.round(drawn)).all()
    assert drawn.min() >= 0
    cohort = read_files(files)
    ratio = np.log2(drawn + 1).mean(0) / np.log2(cohort.expression[cohort.types == "brain"] + 1).mean(0)
    assert 0.8 < np.median(ratio) < 1.25


def test_unused_latent_is_said(cohort_files: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "UNUSED_LATENT", 1e6)
    run = call(*cohort_files, *QUICK)
    assert run.code == 0
    assert "the latent is unused" in run.err


def test_one_gene_one_latent_one_row_batches(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(rows=4, genes=1))
    run = call(*files, "-e", 1, "-d", 1, "-b", 1, "-n", 1, "--test_fraction", 0.25)
    assert run.code == 0, run.err
    assert "too few training samples to set any aside" in run.err


@pytest.mark.parametrize("name", ["tcga_mirna_31types", "ccle_rnaseq_types"])
def test_real_cohort(name: str) -> None:
    run = call(*real_data(name), "--results", "results.json")
    assert run.code == 0, run.err
    results = results_of("results.json")
    assert results["data"]["name"] == f"{name}/rnaseq.tsv.gz"
    assert results["data"]["types"] == 20
    kept = [line for line in run.out.splitlines() if line.startswith("Kept the weights of epoch")]
    epoch = int(re.search(r"\d+", kept[0])[0]) if kept else 0
    assert results["generator"]["history"][epoch - 1]["val_kl"] > 5
    assert results["accuracy"]["augmented"]["mean"] > results["accuracy"]["same_steps"]["mean"] - 0.06


def test_twenty_types_at_most_unless_asked_for(tmp_path: Path) -> None:
    names = tuple(f"t{i:02d}" for i in range(22))
    cohort = read_files(write_tables(tmp_path, make_table(rows=3, types=names)))
    assert len(set(rnagen.keep_top_types(cohort, None).types)) == 20
    assert set(rnagen.keep_top_types(cohort, 3).types) == {"t00", "t01", "t02"}


# ---- nothing fails between training and writing ----


def test_versions_are_those_of_the_modules(plotted: tuple[Run, Path]) -> None:
    """Distributions have other names (tensorflow-cpu), and looking these up must not end a run that has trained."""
    import keras
    import tensorflow as tf

    versions = results_of(plotted[1] / "results.json")["versions"]
    assert versions["tensorflow"] == tf.__version__
    assert versions["keras"] == keras.__version__
    assert versions["numpy"] == np.__version__
    assert versions["rnagen"] == rnagen.__version__


def test_results_do_not_depend_on_package_metadata(cohort_files: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    run = call(*cohort_files, "-m", "gaussian", "-n", 20, "--trainings", 1, "--results", "r.json")
    assert run.code == 0, run.err
    json.loads(Path("r.json").read_text())


def test_a_balanced_table_needs_no_rows_and_everything_else_still_works(cohort_files: list[object]) -> None:
    """No synthetic samples: nothing is drawn, and no figure, table or comparison trips over that."""
    more = ["--balance", "--output", "o.tsv", "--compare", "--plot", "--trainings", 2, "--results", "r.json"]
    run = call(*cohort_files, "-m", "gaussian", *more)
    assert run.code == 0, run.err
    assert "\n36 + 0 = 36 samples\n" in run.out
    assert "No synthetic samples were added." in run.out
    results = results_of("r.json")
    assert results["accuracy"]["gain"]["mean"] == 0
    assert results["sampling"]["n"] == results["output"]["n"] == 0
    assert results["accuracy"]["real"]["values"] == results["accuracy"]["augmented"]["values"]
    assert Path("o.tsv").read_text().split() == ["Sample", "type", *(f"G{i}" for i in range(20))]


def test_what_an_epoch_says_opens_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar of a training closes with its last step; the metrics that follow leave none behind."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Screen())
    terminal = rnagen.Terminal()
    terminal(rnagen.Progress(12, 24))
    assert terminal.bar is not None
    for event in (rnagen.Progress(12, 24), rnagen.Progress(0, 24, 1, 1, {"loss": 1.0})):
        terminal(event)
    assert terminal.bar is None
