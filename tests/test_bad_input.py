"""Bad input ends in one line on stderr that names the file, column or flag and the value, and leaves no file."""

import functools
import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, call, make_table, write_tables

import rnagen

SCRIPT = Path(rnagen.__file__)
GAUSSIAN = ("-m", "gaussian", "-n", 50, "-d", 3, "--trainings", 1)  # the fastest run that tells


def replace_text(files: list[object], text: str | bytes, which: int = 1) -> Path:
    """Overwrite the expression (or type) table; return its path."""
    path = Path(str(files[which]))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("which", [1, 3], ids=["rnaseq", "types"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("folder", "is a directory"),
        ("", "is empty"),
        ("Sample\tG1\n", "has a header but no rows"),
        (bytes(range(256)) * 40, "cannot be read as a table"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0", "cannot be read as a table"),
        ("Sample\nS001\nS002\n", "has a single column"),
        ("Sample\tG1\nS001\t1\nS002\t1\t2\t3\t4\n", "cannot be read as a table"),
    ],
)
def test_files_that_are_no_tables(tables: list[object], text: str | bytes | None, says: str, which: int) -> None:
    path = Path(str(tables[which]))
    path.unlink()
    if text == "folder":
        path.mkdir()
    elif text is not None:
        replace_text(tables, text, which)
    line = call(*tables).error(1)
    assert str(path) in line
    assert says in line
    assert len(line) < 400


def test_truncated_gzip(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(rows=200), ".tsv.gz")
    path = Path(str(files[1]))
    path.write_bytes(path.read_bytes()[:-2000])
    assert f"{path}: cannot be read as a table" in call(*files).error(1)


def test_truncated_parquet(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table(), ".parquet")
    path = Path(str(files[1]))
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: cannot be read as a table" in call(*files).error(1)


@pytest.mark.parametrize("ids", [pd.RangeIndex(3), pd.Index([5, 7, 9]), pd.Index(["a", "b", "c"])])
def test_parquet_without_columns(tables: list[object], ids: pd.Index) -> None:
    pd.DataFrame(index=ids).to_parquet("empty.parquet")
    for files in (["--rnaseq", "empty.parquet"], [*tables[:3], "empty.parquet"]):
        assert "empty.parquet: " in call(*files).error(1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.rename(index={"S001": "S000"}), "sample id 'S000' occurs twice"),
        (lambda t: t.rename(columns={"G4": "Sample"}), "column 'Sample' occurs twice"),
        (lambda t: t.rename(index={"S001": ""}), "sample id number 2 is missing"),
        (lambda t: t.assign(G2=["oops", *t["G2"].iloc[1:]]), "column 'G2': 'oops' (sample 'S000') is not a number"),
        (lambda t: t.assign(G2=[np.inf, *t["G2"].iloc[1:]]), "column 'G2': inf (sample 'S000') is beyond"),
        (lambda t: t.assign(G2=[1e300, *t["G2"].iloc[1:]]), "column 'G2': 1e+300 (sample 'S000') is beyond"),
        (lambda t: t.assign(**dict.fromkeys(t.columns[:-1], np.nan)), "no column holds a number"),
        (lambda t: t.assign(**dict.fromkeys(t.columns[:-1], 2.5)), "every gene is constant"),
        (lambda t: t.assign(type="one"), "every sample has the type 'one'"),
        (lambda t: t.assign(type=["rare", *t["type"].iloc[1:]]), "type 'rare' cannot be split: 1 samples in 1 groups"),
        (lambda t: t.rename(index=lambda name: f"other{name}"), None),
    ],
)
def test_tables_with_bad_values(tmp_path: Path, change: object, says: str | None) -> None:
    table = make_table()
    files = write_tables(tmp_path, table)
    changed = write_tables(tmp_path, change(table))
    if says is None:  # the ids of the two tables differ
        table["type"].to_csv(str(files[3]), sep="\t", header=False)
        says = "has a type for no sample of"
    line = call(*changed, *QUICK, "--results", "results.json", "--plot").error(1)
    assert says in line
    assert not list(Path().iterdir())


def test_type_with_one_group(tmp_path: Path) -> None:
    table = make_table()
    table.index = [
        f"TCGA-AB-{'0000' if kind == 'liver' else f'{i:04d}'}-01.{i}" for i, kind in enumerate(table["type"])
    ]
    line = call(*write_tables(tmp_path, table)).error(1)
    assert "type 'liver' cannot be split: 24 samples in 1 groups" in line


def test_sample_with_two_types(tables: list[object]) -> None:
    path = Path(str(tables[3]))
    path.write_text(path.read_text() + "S003\tbrain\n")
    assert f"{path}: sample 'S003' occurs twice, as liver and brain" in call(*tables).error(1)


def test_no_types_at_all(tables: list[object]) -> None:
    assert "has no column `type`; give a table of sample ids and types by --types" in call(*tables[:2]).error(1)


def test_types_missing_for_some_samples_are_counted(tables: list[object]) -> None:
    lines = Path(str(tables[3])).read_text().splitlines()
    replace_text(tables, "\n".join([*lines[:-7], "S065\t", "unknown\tliver"]), 3)
    run = call(*tables, *GAUSSIAN)
    assert run.code == 0
    assert "7 of 72 samples have no type and are excluded" in run.err
    assert ": 65 samples," in run.out


def test_negative_values_under_log2(tmp_path: Path) -> None:
    table = make_table()
    table.iloc[:, :-1] -= 20
    line = call(*write_tables(tmp_path, table), "--transform", "log2").error(1)
    assert "--transform log2: the table has negative values (down to -" in line


def test_more_types_than_there_are(tables: list[object]) -> None:
    line = call(*tables, "--top_k_types", 4).error(1)
    assert "--top_k_types 4:" in line
    assert "has 3 types" in line


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[
            (flag, value)
            for flag in ("-n", "-e", "-b", "-d", "--classifier_epochs", "--trainings", "--repeats", "--train_per_type")
            for value in ("0", "-3", "x", "1.5")
        ],
        *[("-k", value) for value in ("0", "1", "-2", "many")],
        *[("--test_fraction", value) for value in ("1", "-0.5", "half", "nan")],
        *[("--seed", value) for value in ("-1", "x")],
        *[("--temperature", value) for value in ("0", "-1", "11", "warm", "auto", "nan")],
        ("-n", "auto"),
        ("--trainings", "1001"),
        ("--group_regex", "("),
        ("--group_regex", "S.."),
        ("-m", "gan"),
        ("--transform", "sqrt"),
        ("--data", "other"),
        ("--epoch", "3"),
    ],
)
def test_wrong_usage(tables: list[object], flag: str, value: str) -> None:
    run = call(*tables, flag, value)
    line = run.error(2)
    assert flag in line
    assert run.out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--types", "types.tsv"], "argument --types: give its expression table by --rnaseq"),
        (["--rnaseq", "x.tsv", "--data", "auto"], "argument --data: is for runs without --rnaseq"),
        (["--rnaseq", "x.tsv", "--layer", "raw"], "argument --layer: is for --rnaseq FILE.h5ad"),
        (["-n", "5", "--balance"], "argument --balance: say how many samples in one way"),
        (["-n", "5", "--per_type", "a=1"], "argument --per_type: say how many samples in one way"),
        (["--per_type", "a=1", "b=2", "a=3"], "argument --per_type: a type is named twice"),
        (["--per_type", "a"], "argument --per_type: 'a' is not TYPE=N"),
        (["--per_type", "a=-1"], "argument --per_type: 'a=-1' is not TYPE=N"),
        (["--output", "x.xlsx"], "argument --output: 'x.xlsx' does not end in .tsv"),
        (["--save_model", "x.h5"], "argument --save_model: 'x.h5' does not end in .safetensors"),
        (["--test_fraction", "0"], "argument --test_fraction 0: name what to keep by --output"),
        (["-m", "gaussian", "-e", "3"], "argument --epochs: is for the autoencoders"),
        (["-m", "gaussian", "-b", "3"], "argument --batch_size: is for the autoencoders"),
        (["--load_model", "m.safetensors"], "argument --load_model: name the file for its samples by --output"),
        (["--load_model", "m.safetensors", "--output", "x.tsv", "-d", "10"], "argument --latent_dim: does not go with"),
        (["--load_model", "m.safetensors", "--output", "x.tsv", "-k", "3"], "argument --top_k_types: does not go with"),
    ],
)
def test_flags_that_exclude_each_other(arguments: list[str], says: str) -> None:
    assert says in call(*arguments).error(2)


@pytest.mark.parametrize("flag", ["--plot", "--compare", "--repeats=3", "--trainings=3", "--classifier_epochs=3"])
def test_the_experiment_needs_test_samples(flag: str) -> None:
    line = call("--test_fraction", 0, "--output", "x.tsv", flag).error(2)
    assert f"argument {flag.split('=')[0]}: needs test samples; give a --test_fraction above 0" in line


@pytest.mark.parametrize("flag", ["--results", "--plot"])
def test_unwritable_output_is_found_before_training(tables: list[object], flag: str) -> None:
    run = call(*tables, flag, "missing/folder/file.png")
    assert f"{flag} missing/folder/file.png: cannot be written" in run.error(1)
    assert run.out == ""  # nothing was read
    bad = {"--results": (".", "is a directory"), "--plot": ("figure.docx", "is neither a folder nor a name ending")}
    assert bad[flag][1] in call(*tables, flag, bad[flag][0]).error(1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--results", "{rnaseq}"], "--results {rnaseq}: is an input of this run too"),
        (["--plot", "{folder}/rnaseq.png"], "--plot {folder}/rnaseq.tsv: is an input"),
        (["--results", "a.csv", "--plot", "a.png"], "--plot a.csv: is what --results writes of this run too"),
        (["--results", "/dev/null"], "--results /dev/null: is a directory or device"),
        (["--results", "x" * 400], "cannot be written (File name too long)"),
    ],
)
def test_outputs_never_take_the_place_of_inputs(tables: list[object], arguments: list[str], says: str) -> None:
    rnaseq = Path(str(tables[1])).rename(Path(str(tables[1])).with_suffix(".csv"))
    names = {"rnaseq": rnaseq, "folder": rnaseq.parent}
    before = rnaseq.read_bytes()
    run = call("--rnaseq", rnaseq, *tables[2:], *(argument.format(**names) for argument in arguments))
    assert says.format(**names).replace("rnaseq.tsv", "rnaseq.csv") in run.error(1)
    assert rnaseq.read_bytes() == before
    assert not list(Path().iterdir())


def test_link_to_results_stays_a_link(tables: list[object]) -> None:
    Path("there").mkdir()
    Path("results.json").symlink_to("there/real.json")
    assert call(*tables, *GAUSSIAN, "--results", "results.json").code == 0
    assert Path("results.json").is_symlink()
    assert Path("there/real.json").read_text().startswith("{")


def test_open_quotation_mark_is_no_lost_rows(tables: list[object]) -> None:
    path = Path(str(tables[1]))
    path.write_text(path.read_text().replace("S010", '"S010').replace("S020", 'S020"'))
    assert f"{path}: row 11 spans lines; a quotation mark is not closed" in call(*tables).error(1)


def test_batches_larger_than_any_table(tables: list[object]) -> None:
    assert call(*tables, "-e", 2, "-n", 10, "-b", 10**9, "--trainings", 1).code == 0


def test_names_that_a_terminal_cannot_show(tables: list[object]) -> None:
    folder = Path("donn\u00e9es_$_$")
    folder.mkdir()
    moved = Path(str(tables[1])).rename(folder / "rnaseq.tsv")
    files = ["--rnaseq", str(moved), *map(str, tables[2:])]
    command = [sys.executable, str(SCRIPT), *files, "--check"]
    run = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(rb"Data: donn\xe9es_$_$/rnaseq.tsv: 72 samples")
    assert call(*files, *GAUSSIAN, "--plot").code == 0  # $_$ is no formula in the figure's title


def test_full_disk_leaves_no_file(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str) -> None:
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left on device" in call(*tables, *GAUSSIAN, "--results", "results.json").error(1)
    assert not list(Path().iterdir())


def test_debug_shows_the_trace(tables: list[object]) -> None:
    with pytest.raises(rnagen.RnagenError, match="no such file"):
        call("--rnaseq", "absent.tsv", *tables[2:], "--debug")


def test_loss_that_is_no_number_stops(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "PEAK_RATE", 1e30)
    line = call(*tables, *QUICK, "-e", 30).error(1)
    assert "training failed: loss" in line


def test_a_device_without_room_is_one_line(tables: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    def advance(*_: object) -> None:
        tf.zeros((10**8, 10**8))

    monkeypatch.setattr(rnagen.Trainer, "advance", advance)
    line = call(*tables, *QUICK).error(1)
    assert line.endswith("; ask for fewer samples by --n_samples")
    assert "OOM when allocating tensor with shape[100000000,100000000]" in line


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "rnagen: interrupted\n"), (signal.SIGTERM, 143, "rnagen: terminated\n")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_interrupts_end_with_one_line_and_no_file(
    tables: list[object], number: signal.Signals, code: int, says: str
) -> None:
    command = [sys.executable, str(SCRIPT), *map(str, tables), "-e", "1000000", "--results", "results.json"]
    heed = functools.partial(signal.signal, number, signal.SIG_DFL)  # a shell's background jobs ignore Ctrl-C
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    for line in process.stdout:
        if line.startswith("Epoch 5/1000000"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (code, says)
    assert not list(Path().iterdir())


def test_reader_that_stops_early_gets_no_trace(tables: list[object]) -> None:
    command = [sys.executable, str(SCRIPT), *map(str, tables), "-e", "3000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


def test_gzip_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.tsv.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(rnagen.RnagenError, match="is empty"):
        rnagen.read_table(path)
