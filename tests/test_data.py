"""Input formats, groups, splits, preprocessing, the simulated cohort and the CANDLE download."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, call, make_table, write_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import rnagen


def read(rnaseq: object, types: object | None = None, group_regex: str | None = None) -> rnagen.Cohort:
    """Read a cohort from an expression table and perhaps a type table."""
    config = rnagen.TableConfig(Path(str(rnaseq)), Path(str(types)) if types else None, group_regex=group_regex)
    return rnagen.read_cohort(config)


# ---- formats ----


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".txt", ".tsv.gz", ".csv.bz2", ".txt.xz", ".parquet"])
def test_every_format_gives_the_same_cohort(tmp_path: Path, suffix: str) -> None:
    table = make_table()
    table.iloc[2, 3] = np.nan
    files = write_tables(tmp_path, table, suffix)
    cohort = read(files[1], files[3])
    np.testing.assert_array_equal(cohort.expression, table.iloc[:, :-1].to_numpy(np.float32))
    assert list(cohort.samples) == list(table.index)
    assert list(cohort.genes) == list(table.columns[:-1])
    assert list(cohort.types) == list(table["type"])


@pytest.mark.parametrize(
    "kept", ["rows as they were", "rows that a filter left", "ids in the index", "numbers for ids"]
)
def test_the_index_of_a_parquet_file(tmp_path: Path, kept: str) -> None:
    table = make_table()
    ids = list(table.index)
    path = tmp_path / "t.parquet"
    if kept.startswith("rows"):
        table = table.reset_index()
        ids = ids if kept.endswith("were") else ids[::2]
        table[table["Sample"].isin(ids)].to_parquet(path)
    elif kept.startswith("numbers"):
        ids = [str(number) for number in range(100, 172)]
        table.set_index(pd.Index(np.arange(100, 172))).to_parquet(path)
    else:
        table.rename_axis(None).to_parquet(path)
    cohort = read(path)
    assert list(cohort.samples) == ids
    assert list(cohort.genes) == list(make_table().columns[:-1])


def test_one_table_with_types_header_as_r_writes_it_and_transposed_table(tmp_path: Path) -> None:
    table = make_table()
    whole = tmp_path / "whole.tsv"
    table.to_csv(whole, sep="\t")
    expected = read(whole)
    assert expected.genes[-1] == "G19"
    files = write_tables(tmp_path, table)
    path = Path(str(files[1]))
    path.write_text(path.read_text().replace("Sample\t", "", 1))
    as_r = read(path, files[3])
    table.drop(columns="type").T.to_csv(tmp_path / "transposed.csv")
    transposed = read(tmp_path / "transposed.csv", files[3])
    for cohort in (as_r, transposed):
        np.testing.assert_array_equal(cohort.expression, expected.expression)
        assert list(cohort.types) == list(expected.types)


def test_transposed_table_is_said(tmp_path: Path) -> None:
    files = write_tables(tmp_path, make_table())
    pd.read_csv(files[1], sep="\t", index_col=0).T.to_csv(files[1], sep="\t")
    assert "has genes in rows and samples in columns; transposed" in call(*files, *QUICK).err


def test_type_table_with_header_and_group(tmp_path: Path) -> None:
    table = make_table()
    files = write_tables(tmp_path, table)
    groups = [f"donor{i // 2}" for i in range(len(table))]
    pd.DataFrame({"diagnosis": table["type"], "group": groups}).to_csv(files[3], sep=",", index_label="id")
    cohort = read(files[1], files[3])
    assert list(cohort.groups) == groups
    assert cohort.grouping == "column `group` of the type table"
    assert list(cohort.types) == list(table["type"])


def test_types_that_look_like_numbers(tmp_path: Path) -> None:
    table = make_table(types=("01", "1e5", "1.0"))
    files = write_tables(tmp_path, table)
    cohort = read(files[1], files[3])
    assert list(cohort.types) == list(table["type"])


def test_types_and_groups_are_found_by_name(tmp_path: Path) -> None:
    table = make_table()
    groups = ["NA" if i < 6 else f"donor{i // 2}" for i in range(len(table))]
    files = write_tables(tmp_path, table)
    annotation = pd.DataFrame({"sex": "f", "group": groups, "type": table["type"]}, index=table.index)
    annotation.to_csv(files[3], sep="\t", index_label="type")
    rnaseq, types = Path(str(files[1])), Path(str(files[3]))
    whole = tmp_path / "whole.csv"
    table.assign(type=table["type"].map(" {} ".format), group=groups).to_csv(whole)
    for cohort in (read(rnaseq, types), read(whole)):
        assert list(cohort.types) == list(table["type"])
        assert list(cohort.groups) == [*table.index[:6], *groups[6:]]
        assert len(cohort.genes) == 20
    by_flag = read(rnaseq, types, r"S(0)|X")
    assert by_flag.grouping.startswith("by --group_regex")
    assert list(rnagen.group_samples(["X1", "A1"], r"A(1)|X")[0]) == ["X1", "1"]


@pytest.mark.parametrize("named", ["Sample", "G19"])
def test_separator_at_the_end_of_each_row(tmp_path: Path, named: str) -> None:
    table = make_table()
    expected = table.iloc[:, :-1].to_numpy(np.float32)
    files = write_tables(tmp_path, table)
    path = Path(str(files[1]))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(f"{row}\t" for row in rows)]))
    cohort = read(path, files[3])
    np.testing.assert_array_equal(cohort.expression, expected)
    assert named in ("Sample", cohort.genes[-1])


def test_pipes_lose_nothing(tmp_path: Path) -> None:
    table = make_table(rows=400)
    files = write_tables(tmp_path, table)
    for which in (1, 3):
        source = Path(str(files[which]))
        pipe = source.with_suffix(".pipe")
        os.mkfifo(pipe)
        threading.Thread(target=lambda pipe=pipe, source=source: pipe.write_bytes(source.read_bytes())).start()
        files[which] = pipe
    cohort = read(files[1], files[3])
    np.testing.assert_array_equal(cohort.expression, table.iloc[:, :-1].to_numpy(np.float32))
    assert list(cohort.types) == list(table["type"])


# ---- groups and splits ----


def test_groups_are_recognised() -> None:
    tcga = ["TCGA-04-1331-01A-01R-1569-13", "TCGA-04-1331-02A", "TCGA-04-1332-01A"]
    assert list(rnagen.group_samples(tcga)[0]) == ["TCGA-04-1331", "TCGA-04-1331", "TCGA-04-1332"]
    candle = ["CCLE.ALLSIL", "CTRP.ALL-SIL", "GDSC.all_sil", "gCSI.OTHER", "GDC.ME_UVM.TCGA_VD_A8KM_09689.p"]
    groups, phrase = rnagen.group_samples(candle)
    assert list(groups) == ["ALLSIL", "ALLSIL", "ALLSIL", "OTHER", "TCGA-VD-A8KM"]
    assert phrase == "cell lines (CANDLE ids) and patients (TCGA barcodes)"
    assert rnagen.group_samples(["a.1", "b"]) == (pytest.approx(np.array(["a.1", "b"], object)), "each sample its own")
    assert list(rnagen.group_samples(["CCLE.--", "CTRP.?"])[0]) == ["CCLE.--", "CTRP.?"]  # names that say nothing
    groups, phrase = rnagen.group_samples(["p1_a", "p1_b", "p2_a", "odd"], r"(p\d)_")
    assert list(groups) == ["p1", "p1", "p2", "odd"]
    assert phrase == r"by --group_regex (p\d)_"


def test_group_regex_reaches_the_header(tables: list[object]) -> None:
    run = call(*tables, *QUICK, "--group_regex", r"S(..)")
    assert "72 samples in 8 groups: by --group_regex S(..)\n" in run.out


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=12), min_size=2, max_size=5),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_splits_are_stratified_and_keep_groups_whole(sizes: list[list[int]], fraction: float, seed: int) -> None:
    types = np.concatenate([[f"t{t}"] * sum(groups) for t, groups in enumerate(sizes)])
    groups = np.concatenate([[f"t{t}g{g}"] * n for t, own in enumerate(sizes) for g, n in enumerate(own)])
    held = rnagen.stratified_group_split(types, groups, fraction, 1, rnagen.stream(seed, "split"))
    assert not set(groups[held]) & set(groups[~held])
    for t, own in enumerate(sizes):
        count = len(set(groups[held & (types == f"t{t}")]))
        assert 1 <= count < len(own)
        assert abs(count - fraction * len(own)) <= 1
    again = rnagen.stratified_group_split(types, groups, fraction, 1, rnagen.stream(seed, "split"))
    np.testing.assert_array_equal(held, again)


def test_groups_that_mix_types_leave_every_type_rows_to_train_on(tmp_path: Path) -> None:
    table = make_table(rows=30)
    table.index = [f"g{i % 9}_{i}" for i in range(len(table))]
    files = write_tables(tmp_path, table)
    for seed in range(8):
        cohort = read(files[1], files[3], r"(g\d)_")
        dataset = rnagen.prepare_dataset(cohort, 0.5, "none", seed)
        assert set(dataset.train.y) == {0, 1, 2}


# ---- preprocessing ----


def test_standardise_and_restore_are_inverse_and_fitted_on_training_rows() -> None:
    rng = np.random.default_rng(0)
    values = np.exp2(rng.normal(5, 2, (50, 8))).astype(np.float32)
    values[:, 2] = 7.5
    values[:, 3] = np.nan
    values[4, 5] = np.nan
    fitted = rnagen.Preprocessing.fit(values, "auto", np.full(len(values), "a"))
    assert fitted.transform == "log2"
    assert list(fitted.kept) == [True, True, False, False, *[True] * 4]
    standardised = fitted.standardise(values)
    np.testing.assert_allclose(standardised.mean(0), 0, atol=1e-5)
    assert standardised[4, 3] == 0
    restored = fitted.restore(standardised, np.zeros(50, np.int32), np.random.default_rng(0))
    assert restored.shape == values.shape
    np.testing.assert_array_equal(restored[:, 2], 7.5)
    assert np.isnan(restored[:, 3]).all()
    known = ~np.isnan(values)
    np.testing.assert_allclose(restored[known], values[known], rtol=1e-4)


@pytest.mark.parametrize(
    ("lowest", "floor"), [([0.0, 0.3], 0.0), ([2.0, 2.1], 0.0), ([-3.3] * 30, -3.3), ([-3.3, -3.2], -np.inf)]
)
def test_floor_of_the_scale(lowest: list[float], floor: float) -> None:
    values = np.random.default_rng(0).uniform(2.2, 9, (100, 6)).astype(np.float32)
    values.flat[: len(lowest)] = lowest
    fitted = rnagen.Preprocessing.fit(values, "auto", np.full(len(values), "a"))
    assert fitted.floor == pytest.approx(floor)
    if np.isfinite(floor):
        assert fitted.restore(
            np.full((2, 6), -90, np.float32), np.zeros(2, np.int32), np.random.default_rng(0)
        ).min() == pytest.approx(floor)


def test_genes_that_differ_only_beyond_float32_after_the_transform() -> None:
    values = np.array([[1e7, 1.0], [1e7 + 1, 900.0], [1e7, 30.0]], np.float32)
    fitted = rnagen.Preprocessing.fit(values, "log2", np.full(len(values), "a"))
    assert list(fitted.kept) == [False, True]
    assert np.isfinite(fitted.standardise(values)).all()


def test_dropped_and_imputed_are_counted(tmp_path: Path) -> None:
    table = make_table()
    table["G1"], table["G2"] = 3.0, np.nan
    table.loc["S005":"S060", "G4"] = np.nan
    run = call(*write_tables(tmp_path, table), *QUICK)
    assert "Genes dropped: 1 constant and 1 all missing in the training samples" in run.out
    assert "in the training samples, taken as their gene's mean" in run.out


# ---- simulated cohort ----


def test_simulated_cohort_has_the_published_shape_and_is_reproducible() -> None:
    cohort = rnagen.simulate_cohort()
    assert cohort.expression.shape == (15_198, 942)
    assert cohort.expression.dtype == np.float32
    assert cohort.expression.min() >= 0
    assert cohort.expression.max() < rnagen.COUNTS_ABOVE
    sizes = np.sort(np.unique(cohort.types, return_counts=True)[1])[::-1]
    assert len(sizes) == 33
    assert abs(sizes[:10].sum() - 7612) < 250
    assert abs(sizes[:20].sum() - 11_756) < 250
    assert len(set(cohort.samples)) == 15_198
    assert {sample.split(".")[0] for sample in cohort.samples} == set(rnagen.CANDLE_SOURCES)
    assert 0.8 < len(set(cohort.groups)) / 15_198 < 0.9
    small = rnagen.simulate_cohort(500, 60, 7, seed=3)
    assert small.as_dict()["sha256"] == rnagen.simulate_cohort(500, 60, 7, seed=3).as_dict()["sha256"]
    assert small.as_dict()["sha256"] != rnagen.simulate_cohort(500, 60, 7, seed=4).as_dict()["sha256"]
    assert len(set(small.types)) == 7


def test_simulated_counts_are_counts_at_depths_of_their_own() -> None:
    counts = rnagen.simulate_cohort(2000, 300, 5, seed=3, counts=True)
    logs = rnagen.simulate_cohort(2000, 300, 5, seed=3)
    assert counts.expression.min() == 0
    np.testing.assert_array_equal(counts.expression, counts.expression.round())
    np.testing.assert_array_equal(counts.samples, logs.samples)
    millions = counts.expression.sum(1) / np.expm1(logs.expression * np.log(2)).sum(1)
    low, high = np.quantile(millions, [0.1, 0.9])
    assert 2.5 < high / low < 3.3


def test_simulated_cell_lines_resemble_themselves_across_sources() -> None:
    cohort = rnagen.simulate_cohort(3000, 200, 6)
    groups, counts = np.unique(cohort.groups, return_counts=True)
    twins = np.array([np.flatnonzero(cohort.groups == group)[:2] for group in groups[counts > 1]])
    same_type = [
        np.random.default_rng(0).permutation(np.flatnonzero(cohort.types == t))[:2] for t in cohort.types[:200]
    ]
    distance = lambda pairs: np.median([np.linalg.norm(np.subtract(*cohort.expression[pair])) for pair in pairs])  # noqa: E731
    assert distance(twins) < 0.9 * distance(same_type)
    assert len({tuple(cohort.types[pair]) for pair in twins if len(set(cohort.types[pair])) > 1}) == 0


def test_simulated_cohort_is_as_hard_as_real_ones() -> None:
    cohort = rnagen.keep_top_types(rnagen.simulate_cohort(), 20)
    dataset = rnagen.prepare_dataset(cohort, 0.5, "auto", 0)
    training = dataset.all_training()
    linear = LogisticRegression(C=0.01, max_iter=60).fit(training.x, training.y)
    assert 0.94 < balanced_accuracy_score(dataset.test.y, linear.predict(dataset.test.x)) < 0.98


# ---- the CANDLE files ----


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, or breaks off half way through a body."""

    breaks_off = False
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        if not self.breaks_off:
            super().do_GET()
            return
        body = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def candle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """Serve a small copy of the CANDLE files over loopback, in their format."""
    table = make_table(rows=20)
    sources = ("CCLE", "CTRP", "GDC")
    table.index = [f"{sources[i % 3]}.{'LN' if i % 3 == 0 else 'Ln-'}{i // 3:02d}" for i in range(len(table))]
    expression = table.drop(columns="type")
    expression.insert(0, "Cancer_type_id", range(len(table)))
    expression.to_csv(tmp_path / rnagen.CANDLE_FILES[0], sep="\t", index_label="Sample")
    table["type"].iloc[:-3].to_csv(tmp_path / rnagen.CANDLE_FILES[1], sep="\t", header=False)
    handler = type("Handler", (Server,), {})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(rnagen, "CANDLE_URL", f"http://127.0.0.1:{server.server_port}/")
    yield handler
    server.shutdown()
    server.server_close()


def cached(name: str = "") -> Path:
    """Return the cache folder, or a file in it."""
    import pooch

    return Path(pooch.os_cache("rnagen")) / name


def test_candle_is_downloaded_once_recorded_and_checked(candle: type[Server]) -> None:
    run = call("-k", 2, *QUICK)
    assert run.code == 0, run.err
    assert run.out.startswith("Data: CANDLE combined RNA-seq: 57 samples, 20 genes, 3 types\n")
    assert "groups: cell lines (CANDLE ids)\n" in run.out
    assert "3 of 60 samples have no type" in run.err
    assert candle.hits == 2
    names = sorted(path.name for path in cached().iterdir())
    assert names == sorted([*rnagen.CANDLE_FILES, *(f"{name}.sha256" for name in rnagen.CANDLE_FILES)])
    assert call("--data", "candle", "-k", 2, *QUICK).out.splitlines()[0] == run.out.splitlines()[0]
    assert candle.hits == 2
    table = cached(rnagen.CANDLE_FILES[0])
    table.write_text(table.read_text().replace("7", "8", 1))
    for source in ("auto", "candle"):
        line = call("--data", source, *QUICK).error(1)
        assert f"{table}: SHA-256" in line
        assert "delete it to download it again" in line
    table.unlink()
    assert call("-k", 2, *QUICK).code == 0
    assert candle.hits == 3


@pytest.mark.parametrize("broken", ["breaks off", "web page", "not found", "dead"])
def test_broken_downloads_leave_nothing_and_auto_simulates(
    candle: type[Server], broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rnagen.simulate_cohort
    monkeypatch.setattr(rnagen, "simulate_cohort", lambda seed: whole(300, 30, 5, seed))
    if broken == "breaks off":
        candle.breaks_off = True
    elif broken == "web page":
        (tmp_path / rnagen.CANDLE_FILES[0]).write_text("<html>\n<body>Please log in</body></html>\n")
    elif broken == "not found":
        (tmp_path / rnagen.CANDLE_FILES[0]).unlink()
    else:
        monkeypatch.setattr(rnagen, "CANDLE_URL", "http://127.0.0.1:9/")
    line = call("--data", "candle", *QUICK).error(1)
    assert "--data candle: the CANDLE files could not be fetched from 127.0.0.1" in line
    assert not [path for path in cached().glob("*") if path.is_file()]
    run = call(*QUICK)
    assert run.code == 0
    assert run.out.startswith("Data: simulated cohort: ")
    assert run.err.startswith(
        "rnagen: the data are simulated, since the CANDLE files could not be fetched from 127.0.0.1"
    )
    assert len(run.err.splitlines()) == 1


def test_simulated_never_touches_the_network(candle: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rnagen.simulate_cohort
    monkeypatch.setattr(rnagen, "simulate_cohort", lambda seed: whole(300, 30, 5, seed))
    assert call("--data", "simulated", *QUICK).code == 0
    assert candle.hits == 0
