"""Tables in the layouts that people hold: each gives the one right cohort, or one line that asks."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import call
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import rnagen

SAMPLES = [f"s{number}" for number in range(1, 9)]
GENES = ["GA", "GB", "GC"]
VALUES = np.array([[5, 9, 2], [6, 8, 1], [5, 7, 3], [7, 9, 2], [1, 2, 8], [2, 1, 9], [1, 3, 7], [3, 2, 8]])
TYPES = ["Lung"] * 4 + ["Skin"] * 4
BARCODES = [f"TCGA-AA-{number:04d}-01A" for number in range(8)]


def frame(samples: list[str] = SAMPLES, name: str = "Sample") -> pd.DataFrame:
    """Return expression with samples in rows."""
    return pd.DataFrame(VALUES, pd.Index(samples, name=name), GENES)


def type_table(samples: list[str] = SAMPLES, **columns: list[object]) -> pd.DataFrame:
    """Return a type table, of these columns if any are given."""
    return pd.DataFrame(columns or {"type": TYPES}, pd.Index(samples, name="sample"))


def tsv(table: pd.DataFrame, **options: object) -> str:
    """Return a table as tab-separated text."""
    return table.to_csv(sep="\t", **options)


def genes_in_rows(samples: list[str] = SAMPLES, ids: list[str] = GENES, **annotation: list[object]) -> str:
    """Return a table with genes in rows: ids, columns of annotation, samples."""
    table = pd.DataFrame(VALUES.T, pd.Index(ids, name="gene_id"), samples)
    for place, (name, column) in enumerate(annotation.items()):
        table.insert(place, name, column)
    return tsv(table)


def write(name: str, text: str) -> Path:
    """Write a file in the folder of the test."""
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def check(rnaseq: object, types: object | None = None, *arguments: object) -> tuple[dict[str, object], rnagen.Cohort]:
    """Return what --check puts in the results of these tables, and the cohort."""
    tables = ["--rnaseq", rnaseq, *(["--types", types] if types else [])]
    run = call(*tables, "--check", "--results", "results.json", *arguments)
    assert run.code == 0, run.err
    data = json.loads(Path("results.json").read_text())["data"]
    for note in data["notes"]:
        assert f"rnagen: {note}\n" in run.err
    column = arguments[arguments.index("--type_column") + 1] if "--type_column" in arguments else None
    config = rnagen.TableConfig(Path(rnaseq), Path(types) if types else None, column)
    cohort = rnagen.load_cohort(config, 1)
    counts = {name: int((cohort.types == name).sum()) for name in sorted(set(cohort.types))}
    assert (data["samples"], data["genes"], data["types"]) == (*cohort.expression.shape, len(counts))
    assert dict(sorted(data["type_counts"].items())) == counts
    assert data["type_column"] == cohort.type_column
    return data, cohort


def said(data: dict[str, object], *words: str) -> bool:
    """Return whether one note has all these words."""
    return any(all(word in note for word in words) for note in data["notes"])


def assert_plain(cohort: rnagen.Cohort, samples: list[str] = SAMPLES, genes: list[str] = GENES) -> None:
    """Assert that all samples, genes, types and values are there."""
    assert list(cohort.samples) == samples
    assert list(cohort.genes) == genes
    assert list(cohort.types) == TYPES
    np.testing.assert_array_equal(cohort.expression, VALUES)


def question(rnaseq: object, types: object | None = None, *arguments: object) -> str:
    """Return the one line in which the tables are refused."""
    tables = ["--rnaseq", rnaseq, *(["--types", types] if types else [])]
    return call(*tables, "--check", *arguments).error(1)


# ---- type tables ----


def test_plain_tables_need_no_words() -> None:
    data, cohort = check(write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table())))
    assert_plain(cohort)
    assert data["notes"] == []


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"sample_type_id": [11, 1] * 4, "sample_type": ["N", "T"] * 4, "_primary_disease": TYPES}, "_primary_disease"),
        ({"stage": ["II", "I"] * 4, "Type": TYPES}, "Type"),
        ({"PatientID": [f"PT-{s}" for s in SAMPLES], "OncotreeLineage": TYPES}, "OncotreeLineage"),
        ({"SMTS": TYPES, "SMTSD": [f"{name} {i % 2}" for i, name in enumerate(TYPES)]}, "SMTS"),
        ({"type": TYPES, "disease": ["a", "b"] * 4}, "type"),
        ({"OncotreeLineage": TYPES, "OncotreePrimaryDisease": TYPES}, "OncotreeLineage"),
        ({"diagnosis": TYPES}, "diagnosis"),
        ({"anything": TYPES}, "anything"),
        ({"batch": [1, 2] * 4, "cell type": TYPES}, "cell type"),
        ({"tissue": ["all"] * 8, "subtype": TYPES}, "subtype"),
    ],
)
def test_the_column_of_types_is_found_by_its_name(columns: dict[str, list[object]], found: str) -> None:
    data, cohort = check(write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table(**columns))))
    assert_plain(cohort)
    assert data["type_column"] == found
    assert found == "type" or len(columns) == 1 or said(data, f"types are taken from column {found!r}")


def test_several_possible_columns_are_asked_for() -> None:
    types = type_table(disease=TYPES, tissue=["a", "b"] * 4, sex=["f", "m"] * 4)
    rnaseq, path = write("x.tsv", tsv(frame())), write("t.tsv", tsv(types))
    line = question(rnaseq, path)
    assert "t.tsv: which column holds the types: 'disease' (Lung, Skin), 'tissue' (a, b)? " in line
    assert "--type_column" in line
    assert "'sex' (f, m)" in question(
        rnaseq, write("t.tsv", tsv(type_table(sex=["f", "m"] * 4, stage=["I"] * 4 + TYPES[4:])))
    )
    write("t.tsv", tsv(types))
    assert_plain(check(rnaseq, path, "--type_column", "disease")[1])
    assert list(check(rnaseq, path, "--type_column", "SEX")[1].types) == ["f", "m"] * 4
    assert "--type_column organ: t.tsv has no such column, but 'disease' (Lung, Skin)" in question(
        rnaseq, path, "--type_column", "organ"
    )


def test_a_column_that_differs_in_every_sample_is_no_type() -> None:
    rnaseq = write("x.tsv", tsv(frame()))
    line = question(rnaseq, write("t.tsv", tsv(type_table(patient=[f"p{s}" for s in SAMPLES]))))
    assert "column 'patient' differs in every sample ('ps1', 'ps2', 'ps3', ...), so it is no type" in line
    types = write("t.tsv", tsv(type_table(disease=TYPES, patient=[f"p{s}" for s in SAMPLES])))
    assert "column 'patient' differs in every sample" in question(rnaseq, types, "--type_column", "patient")


def test_the_column_group_holds_no_types() -> None:
    rnaseq, types = write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table(group=TYPES)))
    line = question(rnaseq, types)
    assert "t.tsv: column 'group' holds the groups that a split keeps together, and no column of types is there" in line
    assert_plain(check(rnaseq, types, "--type_column", "group")[1])


@pytest.mark.parametrize("groups", [["control", "treated"] * 4, TYPES, ["a", "b", "c", "a"] * 2])
def test_groups_that_no_split_can_keep_together(groups: list[str]) -> None:
    line = question(write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table(type=TYPES, group=groups))))
    assert "t.tsv: column `group`" in line
    assert "--group_regex" in line


def test_ids_are_found_by_agreement_wherever_they_stand() -> None:
    types = pd.DataFrame({"PATIENT_ID": [f"P{s}" for s in SAMPLES], "CANCER_TYPE": TYPES, "SAMPLE_ID": SAMPLES})
    text = "#Patient\tType\tSample\n#STRING\tSTRING\tSTRING\n#1\t1\t1\n" + tsv(types.iloc[::-1], index=False)
    data, cohort = check(write("x.tsv", tsv(frame())), write("clinical.txt", text))
    assert_plain(cohort)
    assert said(data, "sample ids are taken from column 'SAMPLE_ID'")
    two = type_table().reset_index()[["type", "sample"]]
    assert_plain(check("x.tsv", write("t.tsv", tsv(two, index=False)))[1])


def test_ids_that_agree_in_two_ways_are_asked_for() -> None:
    types = pd.DataFrame({"sample": SAMPLES, "other_sample": SAMPLES[::-1], "type": TYPES})
    line = question(write("x.tsv", tsv(frame())), write("t.tsv", tsv(types, index=False)))
    assert "in two ways" in line
    assert "'sample'" in line
    assert "'other_sample'" in line


def test_type_tables_without_a_header() -> None:
    rnaseq = write("x.tsv", tsv(frame()))
    assert_plain(check(rnaseq, write("t.tsv", tsv(type_table(), header=False)))[1])
    three = write("t.tsv", tsv(type_table(sex=["f", "m"] * 4, type=TYPES), header=False))
    assert "'column 2' (f, m), 'column 3' (Lung, Skin)" in question(rnaseq, three)
    assert_plain(check(rnaseq, three, "--type_column", "column 3")[1])


def test_row_numbers_are_no_ids_and_join_nothing() -> None:
    shuffled = type_table().iloc[[3, 1, 7, 5, 0, 2, 4, 6]].reset_index()
    numbered = frame().reset_index()
    data, cohort = check(write("x.csv", numbered.to_csv()), write("t.csv", shuffled.to_csv()))
    assert_plain(cohort)
    assert said(data, "x.csv: its first column numbers the rows")
    line = question(write("x.csv", frame().reset_index(drop=True).to_csv()), "t.csv")
    assert "x.csv: sample ids are missing" in line
    line = question("x.csv", write("t.csv", "type\n" + "\n".join(TYPES)))
    assert "t.csv: has a single column" in line
    assert "sample ids are missing" in line


@pytest.mark.parametrize("word", ["", "NA", "nan", "None", "null", "N/A", "[Not Available]", "not reported", "Unknown"])
def test_missing_labels_are_excluded_and_counted(word: str) -> None:
    labels = [word, *TYPES[1:4], word, *TYPES[5:]]
    expected = SAMPLES[1:4] + SAMPLES[5:]
    data, cohort = check(write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table(type=labels))))
    assert list(cohort.samples) == expected
    assert said(data, "2 of 8 samples have no type and are excluded")
    annotated = anndata.AnnData(frame().astype(np.float32), obs=pd.DataFrame({"type": labels}, SAMPLES))
    annotated.write_h5ad("x.h5ad")
    assert list(check("x.h5ad")[1].samples) == expected


def test_types_that_differ_by_case_and_normal_tissue_are_noted() -> None:
    labels = ["lung", "Lung", "lung", "Lung", "skin", "Skin", "skin", "Skin"]
    data, cohort = check(write("x.tsv", tsv(frame())), write("t.tsv", tsv(type_table(type=labels))))
    assert len(set(cohort.types)) == 4
    assert said(data, "differ by case or blanks alone ('Lung' and 'lung'; 'Skin' and 'skin')")
    pairs = [f"TCGA-AA-{i // 2:04d}-{'01A' if i % 2 == 0 else '11A'}" for i in range(8)]
    data, cohort = check(write("x.tsv", tsv(frame(pairs))), write("t.tsv", tsv(type_table(pairs))))
    assert len(set(cohort.groups)) == 4
    assert said(data, "4 samples are normal tissue by their TCGA barcodes", "share a type with tumours")
    apart = ["Lung", "Lung normal"] * 2 + ["Skin", "Skin normal"] * 2
    assert not check("x.tsv", write("t.tsv", tsv(type_table(pairs, type=apart))))[0]["notes"]


# ---- expression tables ----

GCT = "#1.2\n3\t8\n" + genes_in_rows(Description=["A", "B", "C"]).replace("gene_id", "Name", 1)
COUNTS = genes_in_rows(
    [f"bam/{s}.sorted.bam" for s in SAMPLES],
    Chr=["chr1;chr1"] * 3,
    Start=["1;9", "5", "7"],
    End=[20, 30, 40],
    Strand=["+;+", "-", "+"],
    Length=[300, 200, 100],
)
GEO = (
    '!Series_title\t"made up, by hand"\n\n!Sample_title\t'
    + "\t".join(f'"{s}"' for s in SAMPLES)
    + "\n!series_matrix_table_begin\n"
    + genes_in_rows().replace("gene_id", '"ID_REF"', 1)
    + "!series_matrix_table_end\n"
)
ANNOTATED = {
    "GCT": ("x.gct", GCT),
    "featureCounts": ("x.txt", '# Program:featureCounts v2.0.3; Command:"featureCounts" "-a" "x"\n' + COUNTS),
    "GEO series matrix": ("series_matrix.txt", GEO),
    "nf-core": ("x.tsv", genes_in_rows(gene_name=["A", "B", "C"])),
    "GDC STAR": ("x.tsv", "# gene-model: v36\n" + genes_in_rows(gene_name=["A", "B", "C"], gene_type=["x"] * 3)),
    "recount3": ("x.tsv", "##annotation=G026\n##date.generated=2020\n" + genes_in_rows()),
    "cBioPortal": ("x.txt", genes_in_rows(Entrez_Gene_Id=[11, 12, 13]).replace("gene_id", "Hugo_Symbol", 1)),
    "cytobands": ("x.txt", genes_in_rows(Cytoband=["1p36", "2q", "3p"], Locus_ID=[1, 2, 3])),
    "a title": ("x.txt", "Table S1 of a paper\n" + genes_in_rows()),
    "R without the first name": ("x.txt", genes_in_rows().replace("gene_id\t", "", 1)),
    "R with blanks and quotes": (
        "x.txt",
        "\n".join(
            " ".join(f'"{w}"' if not w.isdigit() else w for w in line.split("\t"))
            for line in genes_in_rows().splitlines()
        ).replace('"gene_id" ', "", 1),
    ),
    "Excel": ("x.csv", "sep=;\n" + genes_in_rows().replace("\t", ";")),
    "CRLF and BOM": ("x.csv", "\ufeff" + genes_in_rows().replace("\t", ",").replace("\n", "\r\n")),
}


@pytest.mark.parametrize("layout", ANNOTATED)
def test_genes_in_rows_as_tools_write_them(layout: str) -> None:
    name, text = ANNOTATED[layout]
    data, cohort = check(write(name, text), write("types.tsv", tsv(type_table())))
    assert_plain(cohort)
    assert said(data, "genes in rows", "transposed")
    aside = {"GCT": "Description", "featureCounts": "Length", "nf-core": "gene_name", "cBioPortal": "Entrez_Gene_Id"}
    assert layout not in aside or said(data, "set aside", aside[layout])
    assert not said(data, "have no type")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_whatever_the_name(compress: Callable[[bytes], bytes]) -> None:
    Path("x.gct.gz").write_bytes(compress(GCT.encode()))
    assert_plain(check("x.gct.gz", write("types.tsv", tsv(type_table())))[1])


@pytest.mark.parametrize("summaries", [["N_unmapped", "N_noFeature"], ["__no_feature", "__ambiguous"]])
def test_summary_rows_are_no_genes(summaries: list[str]) -> None:
    extra = "".join(f"{name}\t" + "\t".join(["9000"] * 8) + "\n" for name in summaries)
    header, *rows = genes_in_rows().splitlines(keepends=True)
    types = write("types.tsv", tsv(type_table()))
    for text in (header + extra + "".join(rows), header + "".join(rows) + extra):
        data, cohort = check(write("x.tsv", text), types)
        assert_plain(cohort)
        assert said(data, "summary rows", ": 2 (", *summaries)
    columns = tsv(frame().assign(**dict.fromkeys(summaries, 9000)))
    assert_plain(check(write("x.tsv", columns), types)[1])


def test_numbers_as_ids_wherever_they_stand() -> None:
    numbers = [str(number) for number in range(101, 109)]
    table = frame().assign(patient_id=range(7, 15), sample_id=numbers)
    data, cohort = check(write("x.tsv", tsv(table, index=False)), write("t.tsv", tsv(type_table(numbers))))
    assert_plain(cohort, numbers)
    assert said(data, "set aside", "patient_id")


def test_genes_of_one_name_and_of_none() -> None:
    types = write("types.tsv", tsv(type_table()))
    data, cohort = check(write("x.tsv", genes_in_rows(ids=["GA", "GA", "GC"])), types)
    np.testing.assert_array_equal(cohort.expression, np.column_stack([VALUES[:, 0] + VALUES[:, 1], VALUES[:, 2]]))
    assert said(data, "merged", "sum of their counts", "'GA'")
    halves = pd.DataFrame(VALUES / 2, pd.Index(SAMPLES, name="Sample"), ["GA", "GB", "GA"])
    data, cohort = check(write("x.tsv", tsv(halves)), types)
    np.testing.assert_array_equal(
        cohort.expression, np.column_stack([(VALUES[:, 0] + VALUES[:, 2]) / 4, VALUES[:, 1] / 2])
    )
    assert said(data, "merged", "mean of their values")
    for missing in ("", "NA"):
        data, cohort = check(write("x.tsv", genes_in_rows(ids=["GA", missing, "GC"])), types)
        assert list(cohort.genes) == ["GA", "GC"]
        assert said(data, "genes without a name dropped: 1")


def test_names_as_r_writes_them() -> None:
    types = write("types.tsv", tsv(type_table(BARCODES)))
    data, cohort = check(write("x.tsv", genes_in_rows([name.replace("-", ".") for name in BARCODES])), types)
    assert_plain(cohort, BARCODES)
    assert said(data, "dots and dashes as R writes")
    numbers = [f"{number}-a" for number in range(8)]
    data, cohort = check(
        write("x.tsv", tsv(frame([f"X{n.replace('-', '.')}" for n in numbers]))),
        write("t.tsv", tsv(type_table(numbers))),
    )
    assert_plain(cohort, numbers)


def test_the_id_column_of_samples_in_rows_agrees_with_the_types() -> None:
    table = frame().reset_index().rename(columns={"Sample": "ModelID"})
    table.insert(0, "SequencingID", [f"CDS-{i}" for i in range(8)])
    table.insert(2, "IsDefaultEntryForModel", "Yes")
    types = write("types.tsv", tsv(type_table()))
    data, cohort = check(write("x.csv", table.to_csv()), types)
    assert_plain(cohort)
    assert said(data, "sample ids are taken from column 'ModelID'")
    assert said(data, "set aside", "SequencingID", "IsDefaultEntryForModel")
    last = frame().assign(samples=SAMPLES, groups=[0] * 4 + [1] * 4)
    data, cohort = check(write("x.csv", last.to_csv(index=False)), types)
    assert_plain(cohort)
    assert "--type_column" in question("x.csv")
    data, cohort = check("x.csv", None, "--type_column", "groups")
    assert list(cohort.types) == ["0"] * 4 + ["1"] * 4
    assert list(cohort.samples) == SAMPLES


@pytest.mark.parametrize("values", [VALUES, VALUES + 0.125])
def test_a_first_column_of_expression_is_no_ids(values: np.ndarray) -> None:
    table = pd.DataFrame(values, columns=GENES).assign(type=TYPES)
    data, cohort = check(write("x.csv", table.to_csv(index=False)))
    assert cohort.expression.shape == (8, 3)
    assert list(cohort.types) == TYPES
    assert said(data, "no column of sample ids", "samples are numbered 1 to 8")
    line = question("x.csv", write("types.tsv", tsv(type_table())))
    assert "x.csv: sample ids are missing (its first column, 'GA', holds expression values)" in line


def test_columns_that_give_the_type_away_and_negative_values_are_noted() -> None:
    types = write("types.tsv", tsv(type_table()))
    data, cohort = check(write("x.tsv", tsv(frame().assign(label=[0] * 4 + [1] * 4))), types)
    assert said(data, "'label' determines the type")
    assert cohort.genes[-1] == "label"
    table = frame() * 100 + 1
    table.iloc[0, 2] = -1
    assert said(check(write("x.tsv", tsv(table)), types)[0], "negative values (1, down to -1)", "log2")
    table = frame() + 0.5
    table.iloc[2:4, 1] = -999
    assert said(check(write("x.tsv", tsv(table)), types)[0], "2 values are -999", "missing")


def test_headers_that_are_missing_are_said() -> None:
    line = question(write("x.tsv", tsv(frame(), header=False)), write("types.tsv", tsv(type_table())))
    assert "x.tsv: has no header" in line


def test_numbers_with_commas_are_no_numbers() -> None:
    rnaseq = write("x.csv", frame().replace(5, "1,234").to_csv(sep=";"))
    line = question(rnaseq, write("types.tsv", tsv(type_table())))
    assert "'1,234' (sample 's1') is not a number" in line
    numbered = frame().replace(5, "1,234").assign(type=TYPES)
    assert "(sample '1') is not a number" in question(write("y.csv", numbered.to_csv(index=False)), None)


def test_obs_of_anndata() -> None:
    obs = pd.DataFrame({"n_counts": VALUES.sum(1), "cell_type": TYPES, "leiden": ["0", "1"] * 4}, SAMPLES)
    anndata.AnnData(frame().astype(np.float32), obs=obs).write_h5ad("x.h5ad")
    data, cohort = check("x.h5ad")
    assert_plain(cohort)
    assert data["type_column"] == "cell_type"
    assert list(check("x.h5ad", None, "--type_column", "leiden")[1].types) == ["0", "1"] * 4
    assert_plain(check("x.h5ad", write("types.tsv", tsv(type_table())))[1])
    assert "--type_column lieden: x.h5ad has no such column" in question("x.h5ad", None, "--type_column", "lieden")
    anndata.AnnData(frame().astype(np.float32), obs=obs[["leiden"]]).write_h5ad("x.h5ad")
    assert "which column holds the types: 'leiden' (0, 1)?" in question("x.h5ad")


def test_files_of_10x_genomics_need_scanpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnagen, "scanpy", rnagen.Lazy("no_scanpy_here"))
    write("x.h5", "")
    Path("folder").mkdir()
    write("folder/matrix.mtx", "")
    for name in ("x.h5", "folder"):
        assert f"{name}: needs no_scanpy_here to be read: pip install no_scanpy_here" in question(name)


def test_new_samples_need_no_types_whatever_their_layout() -> None:
    expected = rnagen.read_new_samples(write("x.tsv", tsv(frame())), None, GENES)
    assert list(expected.samples) == SAMPLES
    texts = [GCT, genes_in_rows(gene_name=["A", "B", "C"]), tsv(frame().assign(type=TYPES))]
    texts.append(genes_in_rows(ids=["E1", "E2", "E3"], gene_name=GENES))
    for text in texts:
        found = rnagen.read_new_samples(write("x.tsv", text), None, GENES)
        np.testing.assert_array_equal(found.expression, expected.expression)
        assert list(found.genes) == GENES
        assert list(found.samples) == SAMPLES
    anonymous = rnagen.read_new_samples(write("x.tsv", tsv(frame(), index=False)), None, GENES)
    assert list(anonymous.samples) == [str(number) for number in range(1, 9)]


# ---- any layout gives the same cohort, or a question ----


@dataclass(frozen=True)
class Written:
    """How a cohort is written."""

    transposed: bool
    separator: str
    preamble: str
    quotes: bool
    ends: str
    missing: str
    row_numbers: bool
    annotation: bool
    first_name: str | None
    columns: list[str]
    header: bool
    spelling: str


layouts = st.builds(
    Written,
    transposed=st.booleans(),
    separator=st.sampled_from("\t,; "),
    preamble=st.sampled_from(["", "# a comment, with; everything\n", "\ufeff", "!Series\t1\n\n", "##a=1\n# b\n"]),
    quotes=st.booleans(),
    ends=st.sampled_from(["\n", "\r\n"]),
    missing=st.sampled_from(["", "NA", "nan", "[Not Available]", "N/A"]),
    row_numbers=st.booleans(),
    annotation=st.booleans(),
    first_name=st.sampled_from(["Sample", "gene_id", "", "ID", None]),
    columns=st.permutations(["sample", "type", "stage", "patient"]),
    header=st.booleans(),
    spelling=st.sampled_from(["plain", "R", "path"]),
)


def joined(rows: list[list[str]], how: Written) -> str:
    """Return rows as text."""
    bare = lambda cell: not how.quotes and how.separator not in cell and (cell or how.separator != " ")  # noqa: E731
    quoted = [[cell if bare(cell) else f'"{cell}"' for cell in row] for row in rows]
    return how.preamble + how.ends.join(how.separator.join(row) for row in quoted) + how.ends


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=layouts, seed=st.integers(0, 1000))
def test_every_layout_gives_the_same_cohort_or_a_question(how: Written, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    values = rng.poisson(30, (8, 5)).astype(float)
    values[2, 3] = np.nan
    genes = [f"GENE{number}" for number in range(5)]
    order = rng.permutation(8)
    spelled = {
        "plain": BARCODES,
        "R": [name.replace("-", ".") for name in BARCODES],
        "path": [f"out/{name}.bam" for name in BARCODES],
    }[how.spelling]
    cells = [[how.missing if np.isnan(cell) else f"{cell:g}" for cell in row] for row in values]
    names, heads = (genes, spelled) if how.transposed else (spelled, genes)
    cells = [list(row) for row in zip(*cells, strict=True)] if how.transposed else cells
    rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
    header = [*([] if how.first_name is None else [how.first_name]), *heads]
    if how.annotation:
        rows = [[row[0], f"word {i % 2}", *row[1:]] for i, row in enumerate(rows)]
        header.insert(len(header) - len(heads), "gene_name" if how.transposed else "flag")
    if how.row_numbers and how.first_name is not None:
        rows = [[str(i), *row] for i, row in enumerate(rows)]
        header.insert(0, "")
    rnaseq, types = tmp_path / "x.txt", tmp_path / "t.txt"
    rnaseq.write_text(joined([header, *rows], how), encoding="utf-8", newline="")
    annotation = {
        "sample": BARCODES,
        "type": [how.missing if i == 6 else name for i, name in enumerate(TYPES)],
        "stage": ["I", "II"] * 4,
        "patient": [f"p{i}" for i in range(8)],
    }
    columns = how.columns if how.header else [name for name in how.columns if name in ("sample", "type")]
    written = [[annotation[name][i] for name in columns] for i in order]
    assume(how.header or how.preamble in ("", "\ufeff"))
    types.write_text(joined([*([columns] if how.header else []), *written], how), encoding="utf-8", newline="")
    kept = np.arange(8) != 6
    try:
        cohort = rnagen.load_cohort(rnagen.TableConfig(rnaseq, types), 1)
    except rnagen.RnagenError as error:
        assert "\n" not in str(error)
        raise
    np.testing.assert_array_equal(cohort.expression, values[kept].astype(np.float32))
    assert list(cohort.genes) == genes
    assert list(cohort.samples) == [BARCODES[i] for i in range(8) if kept[i]]
    assert list(cohort.types) == [TYPES[i] for i in range(8) if kept[i]]


cells = st.one_of(st.floats(width=32).map(str), st.text(max_size=6), st.sampled_from(["", "NA", "1", "-2.5", "1e9"]))
lines = st.lists(st.lists(cells, min_size=1, max_size=4), max_size=6)


@settings(max_examples=160, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=lines, others=lines, separator=st.sampled_from("\t,; "), way=st.sampled_from(["joined", "alone", "new"]))
def test_wild_tables_give_a_cohort_or_one_line(
    tmp_path: Path, rows: list[list[str]], others: list[list[str]], separator: str, way: str
) -> None:
    paths = [tmp_path / "wild.tsv", tmp_path / "types.csv"]
    for path, table in zip(paths, (rows, [*others, *([row[0], "a"] for row in rows)]), strict=True):
        path.write_text("\n".join(separator.join(row) for row in table), encoding="utf-8", errors="replace")
    config = rnagen.TableConfig(paths[0], paths[1] if way == "joined" else None)
    try:
        cohort = rnagen.read_new_samples(paths[0]) if way == "new" else rnagen.load_cohort(config, 1)
    except rnagen.RnagenError as error:
        assert any(str(path) in str(error) for path in paths)
        assert "\n" not in str(error)
    else:
        assert cohort.expression.dtype == np.float32
        assert cohort.expression.shape == (len(cohort.samples), len(cohort.genes))
        assert not np.isinf(cohort.expression).any()
        assert len(set(cohort.samples)) == len(cohort.samples) == len(cohort.types) == len(cohort.groups)
        assert len(set(cohort.genes)) == len(cohort.genes)
