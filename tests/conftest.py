"""A small cohort to write, and rnagen.main to call on it as a user would."""

import contextlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import rnagen

TYPES = ("liver", "kidney", "brain")


@dataclass
class Run:
    """What a run returned, printed on stdout and said on stderr."""

    code: int
    out: str
    err: str

    def error(self, code: int) -> str:
        """Assert that the run failed in one line on stderr, with that code; return the line."""
        assert self.code == code, self.out + self.err
        lines = [line for line in self.err.splitlines() if "have no type" not in line]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def call(*arguments: object) -> Run:
    """Call rnagen.main with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = rnagen.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    return Run(code, out.getvalue(), err.getvalue())


def refuse_constant(text: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"{text} is no JSON")


def results_of(path: str | Path) -> dict:
    """Return what --results wrote, which every parser of JSON must be able to read."""
    return json.loads(Path(path).read_text(), parse_constant=refuse_constant)


def make_table(rows: int = 24, genes: int = 20, types: tuple[str, ...] = TYPES, seed: int = 0) -> pd.DataFrame:
    """Return expression of types that differ in their means and share two factors, with `type`, by sample id."""
    rng = np.random.default_rng(seed)
    means, factors = rng.normal(8, 2, (len(types), genes)), rng.normal(0, 0.7, (2, genes))
    label = np.repeat(np.arange(len(types)), rows)
    values = means[label] + rng.normal(size=(len(label), 2)) @ factors + rng.normal(0, 0.3, (len(label), genes))
    table = pd.DataFrame(values.round(4), columns=[f"G{i}" for i in range(genes)])
    table.index = pd.Index([f"S{i:03d}" for i in range(len(table))], name="Sample")
    table["type"] = [types[i] for i in label]
    return table


def write_tables(folder: Path, table: pd.DataFrame, suffix: str = ".tsv") -> list[object]:
    """Write table as an expression and a type table; return the arguments that name them."""
    rnaseq, types = folder / f"rnaseq{suffix}", folder / "types.tsv"
    expression = table.drop(columns="type")
    if suffix == ".parquet":
        expression.to_parquet(rnaseq)
    else:
        expression.to_csv(rnaseq, sep="," if ".csv" in suffix else "\t")
    table["type"].to_csv(types, sep="\t", header=False)
    return ["--rnaseq", rnaseq, "--types", types]


def read_files(files: list[object]) -> rnagen.Cohort:
    """Return the cohort of files that write_tables wrote."""
    return rnagen.read_cohort(rnagen.TableConfig(Path(str(files[1])), Path(str(files[3]))))


QUICK = ("-e", 4, "-n", 50, "-b", 32, "-d", 3, "--trainings", 2)


@pytest.fixture
def tables(tmp_path: Path) -> list[object]:
    """Return the arguments that name a small cohort."""
    return write_tables(tmp_path, make_table())


@pytest.fixture(scope="session")
def hard(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Return the arguments that name a cohort of five types that no classifier tells apart without error."""
    rng = np.random.default_rng(3)
    label = np.repeat(np.arange(5), 24)
    values = rng.normal(0, 0.4, (5, 60))[label] + rng.normal(size=(120, 3)) @ rng.normal(0, 1, (3, 60))
    table = pd.DataFrame(values + rng.normal(0, 1, values.shape), columns=[f"G{i}" for i in range(60)]).round(4)
    table.index = pd.Index([f"S{i}" for i in range(120)], name="Sample")
    table["type"] = [f"t{i}" for i in label]
    return write_tables(tmp_path_factory.mktemp("hard"), table)


@pytest.fixture(autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty folder, with an empty cache and no network."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def real_data(name: str) -> list[object]:
    """Return the arguments that name a real cohort under RNAGEN_REAL_DATA; skip the test without it."""
    folder = Path(os.environ.get("RNAGEN_REAL_DATA", "")) / name
    if not os.environ.get("RNAGEN_REAL_DATA") or not folder.exists():
        pytest.skip(f"RNAGEN_REAL_DATA does not name a folder with {name}")
    return ["--rnaseq", folder / "rnaseq.tsv.gz", "--types", folder / "types.tsv"]


def epoch_lines(out: str) -> list[dict[str, float]]:
    """Return the measures of each epoch line."""
    lines = [line for line in out.splitlines() if re.match(r"Epoch \d+/\d+ - ", line)]
    return [{name: float(value) for name, value in re.findall(r"(\w+): (-?[\d.]+|nan)", line)} for line in lines]
