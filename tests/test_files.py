"""Synthetic tables and model files: formats, counts, round trips, and files that lie."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import scipy.sparse
from conftest import QUICK, Run, call, make_table, read_files, results_of, write_tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import rnagen

SCRIPT = Path(rnagen.__file__)
SUFFIXES = tuple(rnagen.WRITERS)
TINY = ("-e", 2, "-b", 32, "-d", 3)  # a generator without the experiment


def read_samples(path: Path, **config: object) -> rnagen.Cohort:
    """Return a table with types as rnagen reads it."""
    return rnagen.read_cohort(rnagen.TableConfig(path, **config))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, pd.DataFrame]:
    """Train once on every sample of a table with a constant and a missing gene; return run, model file and table."""
    folder = tmp_path_factory.mktemp("saved")
    table = make_table()
    table.insert(2, "FLAT", 3.25)
    table.insert(5, "GONE", np.nan)
    files = write_tables(folder, table)
    model = folder / "model.safetensors"
    keep = ["--test_fraction", 0, "--save_model", model, "--output", folder / "first.parquet"]
    return call(*files, "-e", 40, "-d", 3, *keep), model, table


@pytest.fixture(scope="module")
def saved(saved_run: tuple[Run, Path, pd.DataFrame]) -> tuple[Path, pd.DataFrame]:
    """Return the model file and the table that it was trained on."""
    return saved_run[1:]


@pytest.fixture(scope="module")
def saved_gaussian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file that needs no TensorFlow, which takes a process of its own seconds to import."""
    folder = tmp_path_factory.mktemp("gaussian")
    model = folder / "model.safetensors"
    assert (
        call(*write_tables(folder, make_table()), "-m", "gaussian", "--test_fraction", 0, "--save_model", model).code
        == 0
    )
    return model


def read(path: Path) -> pd.DataFrame:
    """Read a synthetic table as its users would, ids as index."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path).set_index("Sample")
    if path.suffix == ".h5ad":
        data = anndata.read_h5ad(path)
        return data.to_df().assign(type=data.obs["type"].astype(str))
    return pd.read_csv(path, sep="," if ".csv" in path.name else "\t", index_col=0)


def test_training_on_every_sample(saved_run: tuple[Run, Path, pd.DataFrame]) -> None:
    run, model, _ = saved_run
    assert run.code == 0, run.err
    assert "Train a type classifier" not in run.out
    assert "Test accuracy" not in run.out
    assert "Split by groups: 72 training samples (6 of them to validate), 0 test samples\n" in run.out
    assert "trained again on all 72 samples" in run.out
    assert "Genes dropped: 1 constant and 1 all missing in the training samples\n" in run.out
    assert run.err.count("share it only where you would share those") == 1
    assert f"Saved the generator to {model}\n" in run.out
    assert "synthetic samples of 22 genes to " in run.out


# ---- tables ----


@pytest.mark.parametrize(("suffix", "parts"), [(".parquet", 3), (".tsv", 2), (".h5ad", 2), (".csv.gz", 5)])
def test_shards_together_are_the_whole_table(saved: tuple[Path, pd.DataFrame], suffix: str, parts: int) -> None:
    draw = ["--load_model", saved[0], "-n", 3000, "--temperature", 1.5, "--results", "r.json"]
    assert call(*draw, "--output", f"whole{suffix}").code == 0
    found, first = [], 1
    for part in range(1, parts + 1):
        run = call(*draw, "--output", f"{part}{suffix}", "--shard", f"{part}/{parts}")
        assert run.code == 0, run.err
        assert f"(part {part} of {parts} of 3000)" in run.out
        entry = results_of("r.json")["output"]
        found.append(read(Path(f"{part}{suffix}")))
        assert entry["shard"] == [part, parts]
        assert (entry["first"], entry["n"]) == (first, len(found[-1]))
        first += entry["n"]
    pd.testing.assert_frame_equal(
        pd.concat(part for part in found if len(part)), read(Path(f"whole{suffix}")), check_exact=True
    )
    assert [len(part) for part in found] == {2: [1024, 1976], 3: [1024, 1024, 952], 5: [0, 1024, 0, 1024, 952]}[parts]


def test_lines_of_shards_are_those_of_the_whole_file(saved_gaussian: Path) -> None:
    draw = ["--load_model", saved_gaussian, "--per_type", "liver=1500", "brain=700"]
    assert call(*draw, "--output", "whole.tsv").code == 0
    parts = []
    for part in (1, 2, 3):
        command = [sys.executable, SCRIPT, *draw, "--output", f"{part}.tsv", "--shard", f"{part}/3"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        parts.append(Path(f"{part}.tsv").read_text().splitlines())
    header, *lines = Path("whole.tsv").read_text().splitlines()
    assert all(part[0] == header for part in parts)
    assert [line for part in parts for line in part[1:]] == lines


def test_files_written_at_once_in_a_folder_keep_out_of_each_others_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shards do, on machines that may give their processes the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    paths = [Path("1.tsv"), Path("2.tsv")]
    with contextlib.ExitStack() as stack:
        for path, beside in [(path, stack.enter_context(rnagen.replacing(path))) for path in paths]:
            beside.write_text(path.name)
    assert [path.read_text() for path in paths] == ["1.tsv", "2.tsv"]
    assert {path.name for path in Path().iterdir()} == {"1.tsv", "2.tsv"}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/2", "a/b", "1/2/3", "1.5/2"])
def test_shards_outside_are_wrong_usage(saved: tuple[Path, pd.DataFrame], text: str) -> None:
    line = call("--load_model", saved[0], "--output", "s.tsv", f"--shard={text}").error(2)
    assert line.startswith(f"rnagen: argument --shard: '{text}' is not I/K with I from 1 to K")
    assert not Path("s.tsv").exists()


def test_shards_are_of_a_saved_generator(tables: list[object]) -> None:
    line = call(*tables, "--output", "s.tsv", "--shard", "1/2").error(2)
    assert line.startswith("rnagen: argument --shard: is for --load_model")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_holds_the_same_rows(saved: tuple[Path, pd.DataFrame], suffix: str) -> None:
    model, table = saved
    path = Path(f"samples{suffix}")
    run = call("--load_model", model, "--output", path)
    assert run.code == 0, run.err
    assert f"Wrote 10000 synthetic samples of 22 genes to {path} in " in run.out
    found, first = read(path), pd.read_parquet(model.parent / "first.parquet").set_index("Sample")
    genes = list(table.columns[:-1])
    assert [name for name in found.columns if name != "type"] == genes
    assert list(found.index) == list(first.index) == [f"synthetic_{i:06d}" for i in range(1, 10_001)]
    assert list(found["type"]) == list(first["type"])
    np.testing.assert_array_equal(found[genes].to_numpy(np.float32), first[genes].to_numpy(np.float32))
    assert (found["FLAT"] == 3.25).all()
    assert found["GONE"].isna().all()
    cohort = read_samples(path)  # rnagen reads back what it writes
    np.testing.assert_array_equal(cohort.expression, first[genes].to_numpy(np.float32))
    assert list(cohort.types) == list(first["type"])
    assert not [beside for beside in Path().iterdir() if beside != path]


def test_parquet_and_h5ad_are_as_their_libraries_write_them(saved: tuple[Path, pd.DataFrame]) -> None:
    model, table = saved
    call("--load_model", model, "--output", "s.parquet", "-n", 20)
    schema = pyarrow.parquet.read_schema("s.parquet")
    assert schema.names == ["Sample", "type", *table.columns[:-1]]
    assert {str(field.type) for field in schema} == {"string", "float"}
    call("--load_model", model, "--output", "s.h5ad", "-n", 20)
    data = anndata.read_h5ad("s.h5ad")
    assert data.X.dtype == np.float32
    assert list(data.obs["type"].cat.categories) == sorted(set(table["type"]))
    data[data.obs["type"] == "liver"].copy().write_h5ad("again.h5ad")
    assert anndata.read_h5ad("s.h5ad", backed="r").shape == (20, 22)


def test_exact_counts(saved: tuple[Path, pd.DataFrame]) -> None:
    model, _ = saved
    run = call("--load_model", model, "--output", "s.tsv", "--per_type", "liver=3", "brain=0", "kidney=1030")
    assert run.code == 0, run.err
    assert read(Path("s.tsv"))["type"].value_counts().to_dict() == {"liver": 3, "kidney": 1030}
    twice = call("--load_model", model, "--output", "u.tsv", "--per_type", "liver=3", "--per_type", "brain=2")
    assert twice.code == 0
    assert read(Path("u.tsv"))["type"].tolist() == ["liver"] * 3 + ["brain"] * 2
    line = call("--load_model", model, "--output", "t.tsv", "--per_type", "lung=3").error(1)
    assert line.endswith("--per_type lung: no such type; the types are brain, kidney, liver")
    assert not Path("t.tsv").exists()
    for suffix in SUFFIXES:  # none at all: a header
        assert call("--load_model", model, "--output", f"none{suffix}", "--per_type", "liver=0").code == 0
        assert read(Path(f"none{suffix}")).shape == (0, 23)


def test_counts_and_balance_set_the_experiments_rows_too(tmp_path: Path) -> None:
    table = make_table().iloc[:60]  # 24 liver, 24 kidney, 12 brain
    files = [*write_tables(tmp_path, table), "--trainings", 2]
    counts = ["--per_type", "brain=7", "liver=2", "--output", "s.csv", "--results", "r.json"]
    run = call(*files, "-m", "gaussian", *counts)
    assert run.code == 0, run.err
    assert "\nGenerate 9 RNAseq samples:\n" in run.out
    assert "\n30 + 9 = 39 samples\n" in run.out
    assert read(Path("s.csv"))["type"].tolist() == ["brain"] * 7 + ["liver"] * 2
    assert results_of("r.json")["output"]["n"] == 9
    run = call(*files, *TINY, "--balance", "--output", "b.csv", "--save_model", "m.safetensors")
    assert "\n30 + 6 = 36 samples\n" in run.out
    assert read(Path("b.csv"))["type"].tolist() == ["brain"] * 6
    assert call("--load_model", "m.safetensors", "--balance", "--output", "c.csv").code == 0
    assert Path("b.csv").read_bytes() == Path("c.csv").read_bytes()
    even = write_tables(tmp_path, make_table())
    run = call(*even, "-m", "gaussian", "--trainings", 2, "--balance")
    assert "\n36 + 0 = 36 samples\n" in run.out
    assert "(synthetic data adds +0.00 points)" in run.out


def test_experiment_writes_rows_of_their_own(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on = []
    samples_after = rnagen.Sampler.samples_after

    def watch(*arguments: object, **options: object) -> rnagen.Samples:
        trained_on.append(samples_after(*arguments, **options))
        return trained_on[-1]

    monkeypatch.setattr(rnagen.Sampler, "samples_after", watch)
    run = call(*tables, *QUICK, "--temperature", 1, "--output", "s.parquet", "--save_model", "m.safetensors")
    assert run.code == 0, run.err
    assert len(trained_on) == 2  # of two trainings
    sampler = rnagen.load_model(Path("m.safetensors"))
    genes = [f"G{i}" for i in range(20)]
    written = sampler.preprocessing.standardise(read(Path("s.parquet"))[genes].to_numpy(np.float32))
    for samples in trained_on:
        used = samples.x[-len(written) :]  # after the real rows
        assert used.shape == written.shape
        assert not (used[:, None] == written[None]).all(2).any()
    assert call("--load_model", "m.safetensors", "-n", 50, "--output", "t.parquet").code == 0
    pd.testing.assert_frame_equal(read(Path("s.parquet")), read(Path("t.parquet")))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    genes=st.lists(st.text("aG1 =,\"'\t.é-", min_size=1, max_size=5), min_size=2, max_size=4, unique_by=str.strip),
    types=st.lists(st.text("bT2=,\"'é-. ", min_size=1, max_size=5).map(str.strip), min_size=2, max_size=3, unique=True),
    counts=st.lists(st.integers(0, 3), min_size=3, max_size=3),
)
def test_wild_names_and_counts_round_trip(
    tmp_path: Path, genes: list[str], types: list[str], counts: list[int]
) -> None:
    types = [f"t{name}" for name in types]
    genes = [f"g{name}".strip() for name in genes]
    rows = np.random.default_rng(0).normal(5, 1, (12, len(genes))).astype(np.float32)
    sampler = small_sampler(rows, np.array(genes), np.array(types))
    plan = rnagen.SamplingPlan(0, tuple(zip(types, counts, strict=False)))
    labels = plan.labels(sampler.types, sampler.counts, 1, "output")
    assert np.bincount(labels, minlength=len(types)).tolist() == counts[: len(types)]
    written = {}
    for suffix in SUFFIXES:
        path = tmp_path / f"wild{suffix}"
        rnagen.write_samples(path, sampler, labels, 1.0, 1)
        if len(labels) > len(set(labels.tolist())):  # types that all differ are none
            cohort = read_samples(path)
            assert cohort.genes.tolist() == genes
            assert cohort.types.tolist() == [types[label] for label in labels]
            written[suffix] = cohort.expression
    for values in written.values():
        np.testing.assert_array_equal(values, written[".parquet"])
    rnagen.save_model(tmp_path / "wild.safetensors", sampler)
    loaded = rnagen.load_model(tmp_path / "wild.safetensors")
    assert (loaded.genes.tolist(), loaded.types.tolist()) == (genes, types)


def small_sampler(rows: np.ndarray, genes: np.ndarray, types: np.ndarray) -> rnagen.Sampler:
    """Return an untrained generator of these genes and types."""
    rnagen.start_tensorflow()
    number = len(types)
    y = np.arange(len(rows), dtype=np.int32) % number
    fitted = rnagen.Preprocessing.fit(rows, "none", types[y])
    samples = rnagen.Samples(fitted.standardise(rows), y, np.arange(len(rows)))
    factors = rnagen.fit_start("cvae", samples, number, 2, 1)
    model = rnagen.CVAE("cvae", factors, fitted.lowest, fitted.unit_scale, rnagen.stream(1, "weights"))
    return rnagen.Sampler(model, fitted, genes, types, np.ones(number, np.int64))


def test_first_rows_do_not_depend_on_the_number_written(saved: tuple[Path, pd.DataFrame]) -> None:
    model, _ = saved
    longest = pd.read_parquet(model.parent / "first.parquet")
    for number in (1, 1024, 1025, 9000):
        assert call("--load_model", model, "--output", "s.parquet", "-n", number, "--overwrite").code == 0
        pd.testing.assert_frame_equal(pd.read_parquet("s.parquet"), longest[:number])


# ---- files are kept whole ----


@pytest.mark.parametrize("flag", ["--output", "--save_model"])
def test_existing_files_are_replaced_only_when_asked(tables: list[object], flag: str) -> None:
    path = Path("kept.tsv" if flag == "--output" else "kept.safetensors")
    path.write_text("precious")
    learn = [*tables, "-m", "gaussian", "--test_fraction", 0, flag, path]
    run = call(*learn)
    assert f"{flag} {path}: exists; name another file, or replace it by --overwrite" in run.error(1)
    assert run.out == ""
    assert path.read_text() == "precious"
    assert call(*learn, "--overwrite").code == 0
    assert path.read_bytes()[:8] != b"precious"


def test_results_and_figures_are_replaced_like_any_product(tables: list[object]) -> None:
    """One rule: what a run finds is made again by every run, what a run keeps is replaced only when asked."""
    products = ["r.json", "f.png", "f.csv"]
    for name in products:
        Path(name).write_text("of another run")
    gaussian = ["-m", "gaussian", "-n", 20, "--trainings", 1]
    run = call(*tables, *gaussian, "--results", "r.json", "--plot", "f.png")
    assert run.code == 0, run.err
    assert not any(Path(name).read_bytes().startswith(b"of another run") for name in products)
    assert sorted(path.name for path in Path().iterdir()) == sorted(products)


@pytest.mark.parametrize("suffix", [".tsv.gz", ".parquet", ".h5ad"])  # one of each writer
def test_full_disk_gives_one_line_and_no_file(saved_gaussian: Path, suffix: str) -> None:
    command = [sys.executable, SCRIPT, "--load_model", saved_gaussian, "-n", "20000", "--output", f"s{suffix}"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # noqa: E731
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, preexec_fn=limit)
    assert run.returncode == 1, run.stderr
    assert run.stderr.startswith("rnagen: error: ")
    assert len(run.stderr.splitlines()) == 1
    assert not list(Path().iterdir())


def test_kills_while_writing() -> None:
    script = Path(__file__).with_name("kill_while_writing.py")
    run = subprocess.run([sys.executable, script, "--kills", "4"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 kills: " in run.stdout


# ---- training on every sample ----


def test_types_of_one_sample_and_more_genes_than_rows(tmp_path: Path) -> None:
    table = make_table(rows=3, genes=300).iloc[:7]  # 3 liver, 3 kidney, 1 brain
    run = call(*write_tables(tmp_path, table), "--test_fraction", 0, "-e", 3, "--output", "s.parquet", "-n", 200)
    assert run.code == 0, run.err
    found = read(Path("s.parquet"))
    assert set(found["type"]) == {"liver", "kidney", "brain"}
    assert np.isfinite(found.drop(columns="type").to_numpy()).all()


# ---- .h5ad in ----


@pytest.mark.parametrize("sparse", [False, True])
def test_h5ad_equals_the_text_table(tmp_path: Path, sparse: bool) -> None:
    table = make_table().round(2)
    files = write_tables(tmp_path, table)
    expected = read_files(files)
    values = table.drop(columns="type").to_numpy(np.float32)
    matrix = scipy.sparse.csr_matrix(values) if sparse else values
    obs = table[["type"]].astype("category").assign(other=["a", "b"] * 36)
    data = anndata.AnnData(matrix, obs, pd.DataFrame(index=table.columns[:-1]), layers={"double": matrix * 2})
    data.raw = data
    data.write_h5ad("cohort.h5ad")
    path = Path("cohort.h5ad")
    cohort = read_samples(path, type_column="type")
    np.testing.assert_array_equal(cohort.expression, expected.expression)
    assert cohort.types.tolist() == expected.types.tolist()
    assert cohort.genes.tolist() == expected.genes.tolist()
    raw = read_samples(path, type_column="type", layer="raw")
    np.testing.assert_array_equal(raw.expression, expected.expression)
    doubled = read_samples(path, type_column="other", layer="double")
    np.testing.assert_array_equal(doubled.expression, 2 * expected.expression)
    assert set(doubled.types) == {"a", "b"}
    by_table = read_samples(path, types=Path(str(files[3])))
    assert by_table.types.tolist() == expected.types.tolist()
    assert call("--rnaseq", path, "--check", "--type_column", "type", "--layer", "double").code == 0
    assert "absent" in call("--rnaseq", path, "--type_column", "absent").error(1)
    line = call("--rnaseq", path, "--layer", "absent").error(1)
    assert "--layer absent: cohort.h5ad has double, raw; name one of these" in line


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(200), b"no h5ad at all", None])
def test_h5ad_that_is_none(content: bytes | None) -> None:
    if content is None:
        with h5py.File("x.h5ad", "w") as file:
            file["X"] = np.zeros((3, 2))
    else:
        Path("x.h5ad").write_bytes(content)
    line = call("--rnaseq", "x.h5ad").error(1)
    assert line.startswith("rnagen: error: x.h5ad: ")


@pytest.mark.parametrize("seed", range(6))
def test_damaged_h5ad(tmp_path: Path, seed: int) -> None:
    table = make_table()
    data = anndata.AnnData(table.drop(columns="type").to_numpy(np.float32), table[["type"]])
    data.write_h5ad("whole.h5ad")
    content = bytearray(Path("whole.h5ad").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 200):
        content[place] = rng.integers(256)
    Path("damaged.h5ad").write_bytes(content)
    try:
        read_samples(Path("damaged.h5ad"))
    except rnagen.RnagenError as error:
        assert str(error).startswith("damaged.h5ad: ")


# ---- model files that lie ----


def settings_of(path: Path) -> dict:
    """Return the settings in a model file."""
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["rnagen"])


def reason_for(tensors: dict[str, np.ndarray], found: object, name: str = "bad.safetensors") -> str:
    """Write a model file and return the one line that refuses it."""
    metadata = {"rnagen": found if isinstance(found, str) else json.dumps(found)}
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, name, metadata)
    line = call("--load_model", name, "--output", "s.tsv").error(1)
    assert line.startswith(f"rnagen: error: --load_model {name}: cannot be used (")
    assert len(line) < 400
    assert not Path("s.tsv").exists()
    return line


def test_model_files_of_another_format_are_refused(saved: tuple[Path, pd.DataFrame]) -> None:
    tensors, good = load_file(saved[0]), settings_of(saved[0])
    assert good["format"] == rnagen.MODEL_FORMAT > 3  # the formats before this rebuild
    assert good["rnagen"] == rnagen.__version__
    for old in range(1, rnagen.MODEL_FORMAT):
        line = reason_for(tensors, good | {"format": old})
        assert f"format {old}, and this rnagen {rnagen.__version__} reads {rnagen.MODEL_FORMAT}" in line
        assert line.endswith("; save it again with --save_model")


def test_model_files_that_do_not_fit_together(saved: tuple[Path, pd.DataFrame]) -> None:
    model, _ = saved
    tensors, good = load_file(model), settings_of(model)
    assert "it was not written by rnagen" in reason_for(tensors, "null")
    assert "cannot be used" in reason_for(tensors, "[" * 100_000)
    for key in good:
        if key != "rnagen":
            assert f"'{key}' is missing" in reason_for(tensors, {k: v for k, v in good.items() if k != key})
            for wrong in (None, -1, 10**12, 2.5, "x", [], [1], {}, True, float("nan"), good["genes"] * 2):
                fits = {"floor": wrong in (None, -1, 10**12, 2.5), "whole": wrong is True}
                if wrong != good[key] and not fits.get(key):
                    reason_for(tensors, good | {key: wrong})
    for name, tensor in tensors.items():
        assert f"'{name}' is missing" in reason_for({k: v for k, v in tensors.items() if k != name}, good)
        assert f"{name} is " in reason_for(tensors | {name: tensor.astype(np.float16)}, good)
        assert f"{name} is " in reason_for(tensors | {name: tensor[..., None]}, good)
        if tensor.dtype == np.float32 and name != "constant" and tensor.size:
            assert f"{name} has values that are no numbers" in reason_for(tensors | {name: tensor * np.nan}, good)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mangled_model_files_load_or_give_one_line(saved: tuple[Path, pd.DataFrame], data: st.DataObject) -> None:
    content = bytearray(saved[0].read_bytes())
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, min(3000, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    Path("mangled.safetensors").write_bytes(bytes(content[:cut]))
    try:
        rnagen.load_model(Path("mangled.safetensors"))
    except rnagen.RnagenError as error:
        assert str(error).startswith("--load_model mangled.safetensors: cannot be used (")
        assert "\n" not in str(error)


def test_model_files_with_impossible_names_and_counts(saved: tuple[Path, pd.DataFrame]) -> None:
    tensors, good = load_file(saved[0]), settings_of(saved[0])
    assert "genes hold a null character" in reason_for(tensors, good | {"genes": ["a\0b", *good["genes"][1:]]})
    assert "surrogates not allowed" in reason_for(tensors, good | {"types": ["\ud800", *good["types"][1:]]})
    reason_for(tensors, json.dumps(good | {"floor": 0}).replace('"floor": 0', '"floor": 1' + "0" * 400))
    assert "sd or span is not above 0" in reason_for(tensors | {"sd": 0 * tensors["sd"]}, good)
    wild = tensors | {"counts": np.array([2**62, -(2**62), 0])}
    assert "counts are no numbers of samples" in reason_for(wild, good)


def test_genes_named_like_other_columns() -> None:
    """AnnData keeps genes and annotation apart; other files cannot."""
    table = make_table()
    obs = table[["type"]].astype("category")
    names = ["group", "Sample", *table.columns[2:-1]]
    data = anndata.AnnData(table.drop(columns="type").to_numpy(np.float32), obs, pd.DataFrame(index=names))
    data.write_h5ad("cohort.h5ad")
    learn = ["--rnaseq", "cohort.h5ad", "-m", "gaussian", "--test_fraction", 0]
    for suffix in (".tsv", ".parquet"):
        line = call(*learn, "--output", f"s{suffix}").error(1)
        assert f"--output s{suffix}: a gene is named 'Sample'" in line
    assert call(*learn, "-n", 50, "--output", "s.h5ad", "--save_model", "m.safetensors").code == 0
    assert anndata.read_h5ad("s.h5ad").var_names.tolist() == names
    line = call("--load_model", "m.safetensors", "--output", "t.csv").error(1)
    assert "--output t.csv: a gene is named 'Sample'" in line


def test_types_that_look_like_numbers_round_trip(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(types=("1", "01", "1e0")))
    assert call(*files, "-m", "gaussian", "--test_fraction", 0, "-n", 40, "--output", "s.tsv").code == 0
    assert set(read_samples(Path("s.tsv")).types) == {"1", "01", "1e0"}


def test_model_file_can_be_read_by_others(saved: tuple[Path, pd.DataFrame]) -> None:
    Path("plain").touch()
    assert saved[0].stat().st_mode == Path("plain").stat().st_mode


def test_missing_model_file() -> None:
    line = call("--load_model", "absent.safetensors", "--output", "s.tsv").error(1)
    assert line == "rnagen: error: --load_model absent.safetensors: no such file"


@pytest.mark.parametrize("model", ["cvae", "vae", "ae", "gaussian"])
def test_every_model_draws_the_same_once_loaded(tables: list[object], model: str) -> None:
    steps = () if model == "gaussian" else ("-e", 2, "-b", 32)
    keep = ("--test_fraction", 0, "--save_model", "m.safetensors", "--output", "s.csv")
    assert call(*tables, "-m", model, "-d", 3, "-n", 50, *steps, *keep).code == 0
    assert call("--load_model", "m.safetensors", "-n", 50, "--output", "t.csv").code == 0
    assert Path("s.csv").read_bytes() == Path("t.csv").read_bytes()
    assert call("--load_model", "m.safetensors", "-n", 50, "--output", "u.csv", "--seed", 7).code == 0
    assert Path("s.csv").read_bytes() != Path("u.csv").read_bytes()


def test_files_are_written_at_temperature_1_unless_asked(saved: tuple[Path, pd.DataFrame]) -> None:
    draw = ["--load_model", saved[0], "-n", 30, "--results", "r.json", "--output"]
    assert "at temperature" not in call(*draw, "a.csv").out
    assert results_of("r.json")["output"]["temperature"] == 1
    assert call(*draw, "b.csv", "--temperature", 1).code == 0
    run = call(*draw, "c.csv", "--temperature", 1.5)
    assert "Wrote 30 synthetic samples of 22 genes at temperature 1.5 to c.csv in " in run.out
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes() != Path("c.csv").read_bytes()
