#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "tensorflow>=2.20,<3",
#     "keras>=3.10,<4",
#     "numpy>=2.0,<3",
#     "pandas>=2.2,<4",
#     "pyarrow>=17",
#     "anndata>=0.11,<1",
#     "safetensors>=0.5,<1",
#     "matplotlib>=3.9,<4",
#     "pooch>=1.8,<2",
#     "scikit-learn>=1.5,<2",
#     "scipy>=1.13,<2",
#     "imbalanced-learn>=0.13,<1",
#     "threadpoolctl>=3.1,<4",
#     "tqdm>=4.66,<5",
# ]
# ///
"""Does synthetic RNA-seq data help a cancer type classifier? Ask your own table.

rnagen learns the distribution of an expression table with a cancer type for
each sample by a conditional variational autoencoder, draws synthetic samples of
every type, adds them to the training data of a small classifier, and shows on
held-out samples whether accuracy rises, beside a control that takes as many
training steps on real data alone.

    python rnagen.py --top_k_types 10 --n_samples 10000
    python rnagen.py --plot
    python rnagen.py --rnaseq expression.tsv.gz --types types.tsv --plot

Without --rnaseq it takes the CANDLE RNA-seq tables, or, where these are
unavailable, a simulated cohort, and says so. README.md has formats, method and
limits.
"""

# The parts, each using only what stands above it:
#   foundations     errors, random streams, samples; then interrupts, and files that appear whole or not at all
#   data            a table of any layout -> Cohort (expression, types, groups), with notes on what was decided
#   preprocessing   Cohort -> Dataset: split by groups, standardised on training samples; counts and back
#   training        workers, networks and the one training loop; the type classifier
#   generators      factor model, Gaussian, and the CVAE that goes on from it; the same with differential privacy
#   sampling        Sampler: synthetic samples in the table's units; tables out; model files; training one on a Dataset
#   experiment      intervals; arms that differ in their rows alone; strong classifiers; comparison; prediction
#   report          one table of measures: fidelity, utility, privacy; figures
#   command line    arguments, printing, and main -> run: read, train, draw, predict, judge, write

from __future__ import annotations

import argparse
import bz2
import contextlib
import csv
import functools
import gzip
import hashlib
import importlib
import io
import itertools
import json
import lzma
import math
import os
import platform
import queue
import re
import secrets
import signal
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Lazy:
    """A package that is imported when it is first used: --help and wrong usage need none and answer at once."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        package = importlib.import_module(self._name)
        if not hasattr(package, attribute):
            return importlib.import_module(f"{self._name}.{attribute}")
        return getattr(package, attribute)

    def is_loaded(self) -> bool:
        """Return whether anything has used the package."""
        return self._name in sys.modules


anndata, h5py, imblearn, keras, matplotlib = map(Lazy, ("anndata", "h5py", "imblearn", "keras", "matplotlib"))
pd, pooch, pyarrow, safetensors, scipy = map(Lazy, ("pandas", "pooch", "pyarrow", "safetensors", "scipy"))
sklearn, tf, threadpoolctl, tqdm = map(Lazy, ("sklearn", "tensorflow", "threadpoolctl", "tqdm"))

__version__ = "2.0.0"

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BLOCK = 1024  # rows drawn from one random stream: 4 MB at 942 genes, which stays in cache
COUNTS_ABOVE = 50.0  # never negative and above this: raw counts or TPM, since no log2 scale of expression gets there
MIN_VARIANCE = 1e-3  # of a standardised gene: none is known better, and an outlier must not count for everything
MANY_GENES = 1000  # above, what compares samples works in principal components


# ---- foundations: errors, random streams, and samples -----------------------------------------------------------


class RnagenError(Exception):
    """Something that the user can mend: names file, column or flag, the value, and what to do."""


def shorten(name: str, most: int = 20) -> str:
    """Return a name on one line, cut where it is too long for its place."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 3] + "..."


def wrap(line: str) -> str:
    """Break a line at 80 characters."""
    return textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False)


def list_some(names: Iterable[str]) -> str:
    """List the first five of some names, and count the rest."""
    names = sorted(map(shorten, names))
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)


def stream(seed: int, name: str, block: int = 0) -> np.random.Generator:
    """Return the random stream of that name: independent of every other name and block of the same seed."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(name.encode()), block])))


def sklearn_seed(rng: np.random.Generator) -> int:
    """Return a seed for what takes no Generator."""
    return int(rng.integers(2**31))


def aligned_array(rows: int, genes: int) -> np.ndarray:
    """Return an array (rows, genes), float32, that begins where TensorFlow wants its tensors to: at 64 bytes."""
    memory = np.empty(4 * rows * genes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * rows * genes].view(np.float32).reshape(rows, genes)


def shared_tensor(x: np.ndarray) -> tf.Tensor:
    """Return a table (rows, genes) as a tensor in the same memory, which must not change any more, if laid out for it.

    TensorFlow's own way copies twice, into memory that it keeps when the tensor is gone.
    """
    if x.ctypes.data % 64 or not x.flags.carray or x.dtype != np.float32:
        copy = aligned_array(*x.shape)
        copy[:] = x
        x = copy
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())


@dataclass(frozen=True)
class Samples:
    """Standardised expression x (rows, genes), float32, and type codes y (rows,), int32, -1 for a type without a code.

    groups (rows,) are the patients or the like, where these matter.
    """

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray) -> Samples:
        """Return the given rows (indices or mask)."""
        return Samples(self.x[index], self.y[index], None if self.groups is None else self.groups[index])

    def with_room(self, y: np.ndarray) -> Samples:
        """Return these samples and room for others of type codes y, in one array; their x is to be filled in."""
        x = aligned_array(len(self) + len(y), self.x.shape[1])
        x[: len(self)] = self.x
        return Samples(x, np.concatenate([self.y, y]).astype(np.int32))

    def join(self, other: Samples) -> Samples:
        """Return these samples and then the others."""
        both = self.with_room(other.y)
        both.x[len(self) :] = other.x
        grouped = self.groups is not None and other.groups is not None
        return replace(both, groups=np.concatenate([self.groups, other.groups])) if grouped else both


def sum_by_type(x: np.ndarray, y: np.ndarray, types: int) -> np.ndarray:
    """Return the sum (types, columns) of the rows of x of each type code."""
    return np.eye(types, dtype=x.dtype)[y].T @ x


@dataclass(frozen=True)
class Cohort:
    """Expression of a set of samples, each with a cancer type and a group that a split must not tear apart."""

    name: str
    simulated: bool
    expression: np.ndarray  # float32 (samples, genes) in the input's units, NaN where missing
    samples: np.ndarray  # ids, str (samples,)
    genes: np.ndarray  # str (genes,)
    types: np.ndarray  # str (samples,)
    groups: np.ndarray  # str (samples,)
    grouping: str  # where groups were found
    type_column: str = ""  # where types were found
    notes: tuple[str, ...] = ()  # lines that tell the user what was decided on the way

    def take(self, rows: np.ndarray) -> Cohort:
        """Return the cohort of the given rows (indices or mask)."""
        columns = ("expression", "samples", "types", "groups")
        return replace(self, **{column: getattr(self, column)[rows] for column in columns})

    def with_genes(self, genes: np.ndarray) -> Cohort:
        """Return the cohort with these genes, NaN where it has not measured them."""
        columns = pd.Index(self.genes).get_indexer(genes)  # -1 where missing
        expression = self.expression[:, columns]
        expression[:, columns < 0] = np.nan
        return replace(self, genes=genes, expression=expression)

    def type_counts(self) -> dict[str, int]:
        """Return the number of samples of each type, the most frequent first, then in alphabetical order."""
        return dict(Counter(sorted(self.types.tolist())).most_common())

    def fingerprint(self) -> str:
        """Hash the ids of the samples, in any order."""
        return hashlib.sha256("\n".join(sorted(self.samples.tolist())).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return its entry in the results, with a hash of ids, genes, types, groups and values."""
        entry = {name: getattr(self, name) for name in ("name", "simulated", "type_column", "notes")}
        digest = hashlib.sha256(np.ascontiguousarray(self.expression))
        for column in ("samples", "genes", "types", "groups"):
            names = getattr(self, column)
            entry[column] = len(set(names))
            digest.update("\n".join(names).encode())
        return entry | {"sha256": digest.hexdigest(), "type_counts": self.type_counts()}


# ---- interrupts: Ctrl-C and SIGTERM end the program at once, and leave nothing half written ----------------------

INTERRUPTS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
UNFINISHED: set[Path] = set()  # files under way, the one thing that a process which is ended leaves behind


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside path to write to, and rename it to path once all is written."""
    path = path.resolve()  # what a link points to is replaced, not the link
    # at random, since processes of several machines may share a folder and a number
    beside = path.with_name(f".rnagen-{secrets.token_hex(8)}-{path.name[-16:]}")
    UNFINISHED.add(beside)
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        UNFINISHED.discard(beside)


def set_handlers(handlers: dict[int, Any]) -> dict[int, Any]:
    """Handle each signal so, unless it is ignored, as nohup has it; return how they were handled before."""
    heeded = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handlers[number]) for number in heeded}


def end_on_interrupts() -> None:
    """Have a thread of its own end the process, with status 130 or 143, when Ctrl-C or SIGTERM comes.

    A KeyboardInterrupt may get lost where the main thread happens to be, as in a destructor, a callback or an import,
    or wait for C++ or a pool of threads. The thread waits for nothing but C code that lets no Python run.
    """
    signals, wakeup = os.pipe()
    stderr = os.dup(2)  # file descriptor 2 is pointed elsewhere at times, its duplicate is not

    def wait_for_interrupt() -> None:
        number = 0
        while number not in INTERRUPTS:
            number = os.read(signals, 1)[0]
        for path in tuple(UNFINISHED):
            with contextlib.suppress(OSError):
                path.unlink()
        progress_bar = "\n" if os.isatty(stderr) else ""  # which the line must not be appended to
        os.write(stderr, f"{progress_bar}rnagen: {INTERRUPTS[number]}\n".encode())
        os._exit(128 + number)

    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)  # gets the number of each signal, in whichever thread it arrives
    set_handlers(dict.fromkeys(INTERRUPTS, lambda *_: None))
    threading.Thread(target=wait_for_interrupt, daemon=True).start()


# ---- data: a file becomes a table, and agreement of ids decides what its rows, columns and types are ------------

csv.field_size_limit(10**9)  # a line may be split by a separator that it does not have
# Names of columns are compared in lower-case letters and digits only: OncotreeLineage is oncotree_lineage.
TYPE_NAME = re.compile(
    r".*(cancer|tumou?r|cell|sub|disease|histological)types?|.*lineage|.*primarydisease(ortissue)?|types?|cancer|"
    r"disease|tissue|smts|class(es)?|labels?|(primary)?diagnosis|primarysite|histology|phenotype|organ|target"
)
DESCRIPTION = re.compile(  # of a gene or a sample: never expression
    r"(gene|transcript|tx|hgnc|hugo|probe|feature|target|locus|entrez|entrezgene|ensembl|ensemblgene)?"
    r"(ids?|names?|symbol)|geneidversion|gene(bio)?type|biotype|transcripttype|gene|probe|entrez|ensembl|idref|"
    r"description|chr(om(osome)?)?|seqnames?|start|end|stop|strand|(effective|gene|bp)?length|width|cytobands?|locus|"
    r"level|tag|source|(cancer|sample)typeid|sampletype|groups?|batch(id)?|plate|age|sex|gender|stage|grade|race|"
    r"ethnicity|vitalstatus|survival|os(time|months|status)|purity"
)
ID_NAME = re.compile(  # genes are called BID and RUNX1
    r"(?i:.*(sample|barcode|accession).*|(patient|case|cell|cell.?line|run|subject|participant|donor|individual)s?)|"
    r"(?i:(.*[ _.-])?id|obs_names)|.*[a-z]I[Dd]"
)
MISSING = re.compile(
    r"|#?n/?a|nan|none|null|nil|--?|[.?]|unknown|missing|unavailable|"
    r"not(available|applicable|reported|evaluated|specified|known)"
)
NOT_GENES = re.compile(
    r"__.*|!.*|N_(unmapped|multimapping|noFeature|ambiguous)|Unassigned_.*|"
    r"no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique"
)
FILE_ENDINGS = re.compile(
    r"([._-]?(Aligned|sortedByCoord|toTranscriptome|ReadsPerGene|out|sorted|sort|markdup|dedup|bam|sam|cram|counts?|"
    r"htseq|genes|isoforms|results|quant|sf|tab|tsv|txt|csv|gz))+$"
)
CANDLE_URL = "https://ftp.mcs.anl.gov/pub/candle/public/benchmarks/Examples/rnagen/"
CANDLE_FILES = ("combined_rnaseq_data_lincs1000_source_scale", "combined_cancer_types")
CANDLE_SOURCES = ("CCLE", "CTRP", "GDSC", "NCI60", "gCSI", "GDC")
TCGA = re.compile(r"TCGA[-_.]([A-Z0-9]{2})[-_.]([A-Z0-9]{4})([-_.]1[0-4])?", re.IGNORECASE)  # the last: normal tissue
DEFAULT_TYPES = 20
scanpy = Lazy("scanpy")  # not required: only for files of 10x Genomics


@dataclass(frozen=True)
class TableConfig:
    """Where a cohort comes from, and what the user says of it; without rnaseq, data says which other cohort to take."""

    rnaseq: Path | None = None
    types: Path | None = None
    type_column: str | None = None
    layer: str | None = None
    group_regex: str | None = None
    data: str = "auto"
    remedy: str = "give a table of sample ids and types by --types"  # where the table has no types


def squash(name: str) -> str:
    """Return a name of a column in lower-case letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def names_type(name: str) -> bool:
    """Return whether a column of this name is likely to hold types."""
    return TYPE_NAME.fullmatch(squash(name)) is not None


def clean_words(words: Iterable[str]) -> np.ndarray:
    """Return words stripped, and empty where they stand for a missing value: NA, [Not Available], not reported ..."""
    words = [word.strip() for word in words]
    missing = {word for word in set(words) if MISSING.fullmatch(re.sub(r"[\s_\[\]<>()'\"]", "", word).lower())}
    return np.array(["" if word in missing else word for word in words], dtype=object)


def some(words: Iterable[str], most: int = 3) -> str:
    """Return the first few of some words, quoted, and an ellipsis where there are more."""
    words = list(words)
    return ", ".join(repr(shorten(word, 40)) for word in words[:most]) + ", ..." * (len(words) > most)


def share_distinct(words: np.ndarray) -> float:
    """Return how many different words there are for each that is not empty: near 1 for ids, 0 where all are empty."""
    known = words[words != ""]
    return len(set(known)) / max(len(known), 1)


def is_whole(expression: np.ndarray) -> bool:
    """Return whether all values that are there are whole numbers."""
    return all(bool((np.isnan(row) | (row == np.rint(row))).all()) for row in expression)  # few rows decide most tables


@dataclass(frozen=True)
class Table:
    """A table as its file has it; columns go by their place, since their names (columns,) may repeat."""

    path: Path
    names: np.ndarray
    frame: pd.DataFrame
    genes_from: int = 0  # the first column that holds a gene, where the format tells
    notes: tuple[str, ...] = ()

    def words(self, position: int | None) -> np.ndarray:
        """Return a column as words (rows,), empty where missing; the numbers of the rows from 1 if there is none."""
        if position is None:
            return np.arange(1, len(self.frame) + 1).astype(str).astype(object)
        column = self.frame.iloc[:, position]
        spell = "{:.15g}".format if column.dtype.kind == "f" else str  # whole numbers are floats beside missing ones
        return clean_words(np.where(column.isna(), "", column.astype(object).map(spell)))

    @functools.cached_property
    def numeric(self) -> np.ndarray:
        """Tell which columns hold numbers, a few bad cells aside (columns,)."""
        numeric = np.array([dtype.kind in "iuf" for dtype in self.frame.dtypes], dtype=bool)
        for position in np.flatnonzero(~numeric):
            words = self.words(position)
            known = pd.to_numeric(pd.Series(words), errors="coerce").notna().sum()
            numeric[position] = known > 0 and known >= np.count_nonzero(words != "") / 2
        return numeric


@contextlib.contextmanager
def readable_table(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises about path into one line."""
    if not path.exists():
        raise RnagenError(f"{path}: no such file")
    if path.is_dir() and not list(path.glob("*matrix.mtx*")):
        raise RnagenError(f"{path}: is a directory; name the file in it")
    try:
        yield
    except (RnagenError, MemoryError):
        raise
    except ImportError as error:
        raise RnagenError(f"{path}: needs {error.name} to be read: pip install {error.name}") from error
    except Exception as error:  # each format has errors of its own
        reason = shorten(str(error).strip().split("\n")[0] or type(error).__name__, 150)
        raise RnagenError(f"{path}: cannot be read as a table ({reason}); give text, .parquet or .h5ad") from error


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file, compressed or not, so that it can be read from a place again, even if it is a pipe."""
    raw: Any = open(path, "rb")  # noqa: SIM115, the caller closes it
    raw = raw if raw.seekable() else io.BufferedReader(io.BytesIO(raw.read()))
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
    opener = next((opener for magic, opener in openers.items() if raw.peek(6).startswith(magic)), None)
    return io.TextIOWrapper(opener(raw) if opener else raw, encoding="utf-8-sig", newline="")


def split_line(line: str, separator: str) -> list[str]:
    """Return the fields of a line of text, stripped; a blank separates however often it is repeated."""
    fields = csv.reader([line.strip(" \r\n")], delimiter=separator, skipinitialspace=separator != "\t")
    return [field.strip() for field in next(fields, [])]


def read_text(path: Path, words: bool) -> pd.DataFrame:
    """Read text whatever stands before its header, its separator and its compression; words reads all as words."""
    with open_text(path) as file:
        lines: dict[int, str] = {}  # that decide on header and separator, by where each ends
        while len(lines) < 6 and (line := file.readline()):
            if line.startswith("#1.2"):  # GCT: sizes follow
                file.readline()
            elif line.strip(' \t\r\n,;"') and (lines or line.lstrip('"')[0] not in "#!^"):  # as in GEO's series
                lines[file.tell()] = line
        if not lines:
            raise RnagenError(f"{path}: is empty")

        # most lines have as many fields as the last, a header may have one less or more, titles have at most half
        separator, most, header = "\t", 0, 0
        for candidate in ",;\t " if ".csv" in path.suffixes else "\t,; ":
            counts = [len(split_line(line, candidate)) for line in lines.values()]
            width = counts[-1]
            start = next(place for place, count in enumerate(counts) if count > min(width / 2, width - 2))
            fitting = counts.count(width) + (abs(counts[start] - width) == 1)
            if width > 1 and fitting > most:
                separator, most, header = candidate, fitting, start if fitting > 2 else 0
        names, *rows = [split_line(line, separator) for line in list(lines.values())[header:]]
        if not rows:
            return pd.DataFrame(columns=names)
        width, trailing = len(rows[0]), not any(row[-1] for row in rows)  # a separator may end header or rows
        if not names[-1] and len(names) > width - trailing:
            names = names[:-1]
        if len(names) == width - 1 and not trailing:  # R leaves out the name of the row names
            names = ["", *names]
        if not width - trailing <= len(names) <= width:
            raise ValueError(f"the header has {len(names)} columns, the first row {width}")

        file.seek(list(lines)[header])
        by_name = [i for i, name in enumerate(names) if words or not i or names_type(name) or ID_NAME.fullmatch(name)]
        options = {"sep": r"\s+" if separator == " " else separator, "skipinitialspace": separator != "\t"}
        frame = pd.read_csv(file, dtype=dict.fromkeys(by_name, str), low_memory=False, header=None, **options)
    frame = frame.iloc[:, : len(names)]
    frame.columns = names
    return frame


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file; its index is the first column unless it holds row numbers or what a filter left of them."""
    frame = pd.read_parquet(path)
    pyarrow.default_memory_pool().release_unused()  # it keeps up to twice the table
    frame.columns = [str(name) for name in frame.columns]
    index, frame.index = frame.index, pd.RangeIndex(len(frame))  # in place: a copy takes as much memory again
    numbers = index.name is None and index.dtype.kind == "i"
    ids_first = len(frame.columns) and frame.dtypes.iloc[0].kind not in "iuf" and not names_type(frame.columns[0])
    if not isinstance(index, pd.RangeIndex) and not (numbers and ids_first):
        frame.insert(0, index.name or "", index.astype(str), allow_duplicates=True)
    return frame


def read_single_cell(path: Path, layer: str | None) -> tuple[pd.DataFrame, int]:
    """Read .h5ad, or 10x Genomics' .h5 or folder by scanpy: obs_names and obs, then genes; and where these start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat, which is said below
        reader = anndata.read_h5ad if path.suffix == ".h5ad" else scanpy.read_10x_h5
        data = scanpy.read_10x_mtx(path) if path.is_dir() else reader(path)
    sources = {None: (data.X, data.var_names)} | {name: (data.layers[name], data.var_names) for name in data.layers}
    if data.raw is not None:  # set aside by scanpy
        sources["raw"] = (data.raw.X, data.raw.var_names)
    if layer not in sources:
        known = ", ".join(filter(None, sources)) or "X alone"
        raise RnagenError(f"--layer {layer}: {path} has {known}; name one of these")
    matrix, genes = sources[layer]
    if matrix is None:
        raise RnagenError(f"{path}: has no matrix X; name another by --layer ({', '.join(data.layers)})")
    frame = pd.DataFrame(matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix), columns=genes)
    obs = data.obs.reset_index(names="obs_names", allow_duplicates=True)
    for place, (name, column) in enumerate(obs.items()):
        frame.insert(place, name, column.array, allow_duplicates=True)
    return frame, len(obs.columns)


def read_table(path: Path, words: bool = False, layer: str | None = None) -> Table:
    """Read a table, without row numbers from 0 or 1 in front; words reads all as words, layer is for AnnData."""
    genes_from = 0
    with readable_table(path):
        if path.is_dir() or path.suffix in (".h5ad", ".h5"):
            frame, genes_from = read_single_cell(path, layer)
        else:
            frame = read_parquet(path) if path.suffix == ".parquet" else read_text(path, words)
    names = np.array([str(name).strip() for name in frame.columns], dtype=object)
    if len(names) < 2:
        raise RnagenError(f"{path}: has a single column; use tabs or commas, or, if sample ids are missing, add them")
    if frame.empty:
        raise RnagenError(f"{path}: has a header but no rows")
    table = Table(path, names, frame, genes_from)
    first = table.words(0).tolist()
    if unclosed := [number for number, word in enumerate(first, 1) if "\n" in word]:
        raise RnagenError(f"{path}: row {unclosed[0]} spans lines; a quotation mark is not closed")
    numbers = [str(number) for number in range(len(first) + 1)]
    named_so = re.fullmatch(r"unnamed0|index|row(names?|number)?|x|", squash(names[0]))
    if not named_so or len(first) < 2 or first not in (numbers[:-1], numbers[1:]):
        return table
    note = f"{path}: its first column numbers the rows and is ignored"
    return Table(path, names[1:], frame.iloc[:, 1:], notes=(note,))


def expression_columns(table: Table, transposed: bool) -> np.ndarray:
    """Tell which columns hold expression, by their values and names unless the format tells (columns,)."""
    if table.genes_from:
        return np.arange(len(table.names)) >= table.genes_from
    value = table.numeric & [not DESCRIPTION.fullmatch(squash(name)) for name in table.names]
    value &= table.names != "" if transposed else [not ID_NAME.fullmatch(name) for name in table.names]
    return value


def id_columns(table: Table) -> dict[int, np.ndarray]:
    """Return the columns that may hold sample ids, likely ones first; numbers unlike ids are expression."""
    ranked = {}
    for place in {0, *np.flatnonzero(~expression_columns(table, transposed=False))}:
        words, name = table.words(place), table.names[place]
        named = bool(ID_NAME.fullmatch(name)) or (place == 0 and not name)
        fits, repeats = named or share_distinct(words) > 0.5, len(set(words)) < len(words)
        if table.numeric[place]:
            whole = not repeats and all(map(str.isdecimal, words))
            fits = whole and (named or (place == 0 and words.tolist() == sorted(words, key=int)))
        if fits:
            ranked[repeats, place > 0 and not named, place] = words
    return {rank[-1]: ranked[rank] for rank in sorted(ranked)}


def spell_loosely(name: str) -> str:
    """Return the sample's name in the path of a file, as R's make.names spells it: dots for dashes, X before digits."""
    name = FILE_ENDINGS.sub("", re.split(r"[/\\]", name)[-1])
    name = re.sub(r"[^A-Za-z0-9_.]", ".", name)
    return name if re.match(r"[A-Za-z.]", name) else f"X{name}"


def spell_ids(words: np.ndarray, spell: Callable[[str], str]) -> set[str]:
    """Return ids as spelled; none where the spelling makes two of them the same."""
    plain = set(words) - {""}
    spelled = set(map(spell, plain))
    return spelled if len(spelled) == len(plain) else set()


def compare_ids(axes: dict[int, np.ndarray], columns: dict[int, np.ndarray]) -> tuple[list[tuple[int, int]], Callable]:
    """Return the pairs of an axis and a column that have the most ids in common, and how these are spelled for that."""
    best, pairs, spelling = 0, [], str
    for spell in (str, spell_loosely):
        own, others = ({place: spell_ids(ids, spell) for place, ids in side.items()} for side in (axes, columns))
        counts = {(i, j): len(own[i] & others[j]) for i in own for j in others}
        most = max(counts.values(), default=0)
        if most > best:
            best, pairs, spelling = most, [pair for pair, count in counts.items() if count == most], spell
    return pairs, spelling


def find_agreement(table: Table, types: Table) -> tuple[int, int, dict[str, str]]:
    """Return the column of ids of table, -1 for its header, that of types, and how types spells the ids of table."""
    ids = id_columns(table)
    axes = {-1: table.names[table.numeric], **ids}
    columns = {place: types.words(place) for place in range(len(types.names))}
    found, spell = compare_ids(axes, {place: words for place, words in columns.items() if share_distinct(words) > 0.5})
    if not found and not ids:
        why = f"sample ids are missing (its first column, {table.names[0]!r}, holds expression values)"
        raise RnagenError(f"{table.path}: {why}, so {types.path} cannot be joined; add a column of ids to both")
    if not found:
        ours = f"rows like {some(table.words(0), 2)} and columns like {some(axes[-1], 2)}"
        why = f"has a type for no sample of {table.path} (ids like {some(columns[0], 2)} against {ours})"
        raise RnagenError(f"{types.path}: {why}; make the sample ids agree")
    ways = {}  # by their ids: a column that repeats another is no other way
    for axis, column in reversed(found):  # the last one, and likeliest, stays
        own, other, name = axes[axis], columns[column], table.names[axis] if axis >= 0 else "header"
        ways[(*own, *other)] = f"{name!r} ({some(own, 2)}) with {types.names[column]!r} ({some(other, 2)})"
    if len(ways) > 1:
        both = " or ".join([*ways.values()][:2])
        why = f"ids agree with those of {types.path} in two ways, {both}"
        raise RnagenError(f"{table.path}: {why}; remove the column that does not hold the sample ids")
    known = {spell(sample): sample for sample in (types.names[column], *other)}
    if axis >= 0 and spell(name) in map(spell, other):
        raise RnagenError(f"{table.path}: has no header, but begins with sample id {name!r}; add a line of gene names")
    return axis, column, {sample: known[spell(sample)] for sample in own if spell(sample) in known}


def read_values(table: Table, columns: np.ndarray, rows: np.ndarray, transposed: bool) -> np.ndarray:
    """Return columns of numbers as float32 (rows, columns), or (columns, rows) if transposed; a bad cell is named."""
    frame = table.frame.copy(deep=False)
    for column in columns[[dtype.kind not in "iuf" for dtype in frame.dtypes.iloc[columns]]]:
        words = table.words(column)
        numbers = pd.to_numeric(pd.Series(words), errors="coerce")
        frame.isetitem(column, numbers.mask(numbers.isna() & (words != ""), np.inf))
    values = np.empty((len(frame), len(columns)), np.float32, order="F" if transposed else "C")
    for start in range(0, len(columns), 256):
        chunk = columns[start : start + 256]
        with np.errstate(over="ignore"):
            block = frame.iloc[:, chunk].to_numpy(dtype=np.float32, na_value=np.nan)
        if len(bad := np.argwhere(np.abs(block) > 1e12)):  # no count or TPM; far above, squares leave float32
            row, column = bad[0][0], chunk[bad[0][1]]
            value = table.frame.iat[row, column]
            is_text = isinstance(value, str)
            cell, why = (repr(value), "not a number") if is_text else (f"{value:g}", "beyond any expression")
            cell = f"column {table.names[column]!r}: {cell} ({'gene' if transposed else 'sample'} {rows[row]!r})"
            raise RnagenError(f"{table.path}: {cell} is {why}; mend it or leave it empty")
        values[:, start : start + len(chunk)] = block
    return values.T if transposed else values


def read_expression(table: Table, ids: int | None, transposed: bool, used: Sequence[int] = ()) -> Cohort:
    """Return a table's expression; ids is the column of gene or sample ids, used are those of types and groups."""
    path, names, notes = table.path, table.names, list(table.notes)
    used = [*used] if ids is None else [*used, ids]
    value = expression_columns(table, transposed)
    value[used] = False
    columns, rows = np.flatnonzero(value), table.words(ids)
    aside = np.delete(names, [*columns, *used])
    if transposed:
        notes.append(f"{path}: has genes in rows and samples in columns; transposed")
    elif ids is None:
        notes.append(f"{path}: has no column of sample ids; samples are numbered 1 to {len(rows)}")
    elif names[ids] and names.tolist().count(names[ids]) > 1:
        raise RnagenError(f"{path}: column {names[ids]!r} occurs twice; keep one")
    elif ids:
        notes.append(f"{path}: sample ids are taken from column {names[ids]!r}")
    values = read_values(table, columns, rows, transposed)
    samples, genes = (names[columns], rows) if transposed else (rows, names[columns])
    summary = np.array([bool(NOT_GENES.fullmatch(gene)) for gene in genes], dtype=bool)
    nameless = clean_words(genes) == ""
    if said := [gene for gene in genes[summary] if gene[0] != "!"]:
        notes.append(f"{path}: summary rows of counting tools dropped: {len(said)} ({some(said)})")
    if nameless.any():
        notes.append(f"{path}: genes without a name dropped: {nameless.sum()}")
    if len(aside):
        notes.append(f"{path}: columns set aside, since they hold no expression: {some(aside, 8)}")
    kept = ~(summary | nameless)
    values, genes = values if kept.all() else values[:, kept], genes[kept]
    if not (first := ~pd.Index(genes).duplicated()).all():
        repeated = pd.Index(genes).duplicated(keep=False)
        groups = pd.DataFrame(values[:, repeated].T).groupby(genes[repeated], sort=False)
        counts = is_whole(values[:100]) and not (values[:100] < 0).any()
        merged = groups.sum(min_count=1) if counts else groups.mean()  # NaN only where all are missing
        values[:, repeated & first] = merged.to_numpy().T
        how = f"the {'sum of their counts' if counts else 'mean of their values'}: {some(merged.index)}"
        size = f"{len(genes)} genes have {first.sum()} names"
        notes.append(f"{path}: {size}; those of the same name are merged into {how}")
        values, genes = values[:, first], genes[first]
    if np.isnan(values).all():
        raise RnagenError(f"{path}: no column holds a number; give a column of values for each gene")
    if "" in samples:
        raise RnagenError(f"{path}: sample id number {samples.tolist().index('') + 1} is missing; name it")
    if (again := pd.Index(samples).duplicated()).any():
        raise RnagenError(f"{path}: sample id {samples[again][0]!r} occurs twice; keep one")
    samples, name, untyped = samples.astype(str), "/".join(path.resolve().parts[-2:]), np.full(len(samples), "")
    return Cohort(name, False, values, samples, genes.astype(str), untyped, samples, "", "", tuple(notes))


def group_samples(samples: Sequence[str], regex: str | None = None) -> tuple[np.ndarray, str]:
    """Return the patient or cell line behind each sample id (samples,), and a phrase on how they were found."""
    groups, kinds = [], set()
    for sample in samples:
        source, dot, name = sample.partition(".")
        if regex is not None:
            found = re.search(regex, sample)
            groups.append((found and found[1]) or sample)
        elif match := TCGA.search(sample):
            groups.append(f"TCGA-{match[1]}-{match[2]}".upper())
            kinds.add("patients (TCGA barcodes)")
        elif dot and source in CANDLE_SOURCES:  # which spell the same line differently
            groups.append(re.sub(r"[^A-Z0-9]", "", name.upper()) or sample)
            kinds.add("cell lines (CANDLE ids)")
        else:
            groups.append(sample)
    how = f"by --group_regex {regex}" if regex is not None else " and ".join(sorted(kinds)) or "each sample its own"
    return np.array(groups, dtype=str), how


def choose_type_column(columns: pd.DataFrame, config: TableConfig) -> str:
    """Return the name of the column of types among those that hold no ids; columns that say the same are one."""
    path, asked = config.types or config.rnaseq, config.type_column
    remedy = "add a column `type` of the type of each sample" if config.types else config.remedy
    others = [name for name in columns if squash(name) != "group"]
    possible = [name for name in others if len(set(columns[name]) - {""}) > 1 and share_distinct(columns[name]) < 1]
    named = [name for name in possible if names_type(name)]
    shown = list(columns) if asked is not None else named or possible
    listed = ", ".join(f"{name!r} ({list_some(set(columns[name]) - {''})})" for name in shown[:8])
    listed += f" and {len(shown) - 8} more" * (len(shown) > 8)
    found = ["type"] if "type" in columns else others if config.types and len(others) == 1 else named
    if asked is not None:
        found = [asked] if asked in columns else [name for name in columns if name.lower() == asked.lower()]
        if len(found) != 1:
            raise RnagenError(f"--type_column {asked}: {path} has no such column, but {listed}; name one of these")
    if found and all(columns[name].equals(columns[found[0]]) for name in found):
        if share_distinct(columns[found[0]]) < 1:
            return found[0]
        why = f"column {found[0]!r} differs in every sample ({some(columns[found[0]])}), so it is no type; {remedy}"
    elif possible:
        why = f"which column holds the types: {listed}? Name it by --type_column"
    elif group := next((name for name in columns if squash(name) == "group"), None):
        why = f"column {group!r} holds the groups that a split keeps together, and no column of types is there"
        why += f"; {remedy}, or name it by --type_column {group} if it does hold types"
    else:
        why = f"has no column `type`; {remedy}"
    raise RnagenError(f"{path}: {why}")


def annotate(cohort: Cohort, labels: pd.DataFrame, config: TableConfig) -> Cohort:
    """Return the samples that have a type, with it and their groups; labels, by ids, are types and perhaps groups."""
    path, column, notes = config.types or config.rnaseq, labels.columns[0], list(cohort.notes)
    labels = labels[(labels[column] != "") & ~labels.reset_index().duplicated().to_numpy()]
    if (again := labels.index.duplicated()).any():
        sample = labels.index[again][0]
        both = " and ".join("/".join(filter(None, words)) for words in labels.loc[sample].to_numpy())
        raise RnagenError(f"{path}: sample {sample!r} occurs twice, as {both}; keep one")
    labels = labels.reindex(cohort.samples)
    typed = labels[column].notna().to_numpy()
    if not typed.any():
        raise RnagenError(f"{path}: column {column!r} has a type for no sample of {config.rnaseq}")
    if not typed.all():
        notes.append(f"{(~typed).sum()} of {len(typed)} samples have no type and are excluded")
        cohort, labels = cohort.take(typed), labels[typed]
    types = labels[column].to_numpy(str)
    groups, grouping = group_samples(cohort.samples, config.group_regex)
    if len(labels.columns) > 1 and config.group_regex is None:
        groups = labels.iloc[:, 1].where(labels.iloc[:, 1] != "", cohort.samples).to_numpy(str)
        grouping = f"column `group` of the {'type table' if config.types else 'table'}"
        per_type = pd.Series(groups).groupby(types).nunique().median()
        # fewer groups of a type are no patients or the like but a condition, or the types
        if 1 < len(set(types)) >= len(set(groups)) - 1 and per_type < 5:
            what = f"column `group` ({some(np.unique(groups))}) holds the groups that a split keeps together"
            why = f"too few for {len(set(types))} types; rename it, or give groups by --group_regex"
            raise RnagenError(f"{path}: {what}, but {why}")
    return replace(cohort, types=types, groups=groups, grouping=grouping, type_column=column, notes=tuple(notes))


def note_oddities(cohort: Cohort, path: Path, types: Path | None = None) -> Cohort:
    """Return the cohort with notes on types that look alike, and on values that are codes or give the type away."""
    notes, expression = list(cohort.notes), cohort.expression
    names = pd.Series(np.unique(cohort.types))
    same = names.groupby(names.map(lambda name: "".join(name.lower().split())))
    if alike := [" and ".join(map(repr, few)) for _, few in same if len(few) > 1]:
        notes.append(f"{types}: some types differ by case or blanks alone ({'; '.join(alike[:3])}) and are kept apart")
    barcodes = [(TCGA.search(sample), name) for sample, name in zip(cohort.samples, cohort.types, strict=True) if name]
    tumours = {name for barcode, name in barcodes if barcode and not barcode[3]}
    if shared := sum(1 for barcode, name in barcodes if barcode and barcode[3] and name in tumours):
        what = "are normal tissue by their TCGA barcodes (codes 10 to 14) and share a type with tumours"
        notes.append(f"{types}: {shared} samples {what}; exclude them, or give them types of their own")
    negative = expression[expression < 0]
    if code := next((code for code in (-99.0, -999.0, -9999.0, -99999.0) if code in negative), None):
        count = np.count_nonzero(negative == code)
        notes.append(f"{path}: {count} values are {code:g}; if that means missing, leave these cells empty")
    elif 0 < len(negative) <= 0.05 * expression.size and np.nanmax(expression) > COUNTS_ABOVE:
        what = f"negative values ({len(negative)}, down to {negative.min():g})"
        notes.append(f"{path}: {what} keep the table from counts and log2; mend these cells or leave them empty")
    constant = np.arange(len(cohort.genes))  # genes that are constant within each type of samples enough to tell
    of_types = [np.flatnonzero(cohort.types == label) for label, count in cohort.type_counts().items() if count >= 3]
    for rows in of_types:
        for few in (rows[:3], rows):  # the first rule out nearly all genes
            values = expression[np.ix_(few, constant)]
            constant = constant[(values == values[0]).all(0)]
    levels = expression[np.ix_([rows[0] for rows in of_types], constant)]
    if len(telling := cohort.genes[constant[(levels != levels[:1]).any(0)]]):
        why = "constant within each type and different between types; remove a left-over label"
        notes.append(f"{path}: {some(telling)} determines the type: {why}")
    return replace(cohort, notes=tuple(notes))


def read_cohort(config: TableConfig) -> Cohort:
    """Read an expression table and the types of its samples, from a column of it or from a table of their own."""
    table = types = read_table(config.rnaseq, layer=config.layer)
    if config.types is None:
        asked = ("group", squash(config.type_column or "group"))
        named = np.array([names_type(name) or squash(name) in asked for name in table.names])
        labelled = ~expression_columns(table, transposed=False) | (named & (not table.genes_from))
        ids = type_ids = next((place for place in id_columns(table) if not (named & labelled)[place]), None)
        transposed, spelling = False, {}
    else:
        types = read_table(config.types, words=True)
        ids, type_ids, spelling = find_agreement(table, types)
        if types.names[type_ids] in spelling.values():  # its first line is no header
            first = pd.DataFrame([types.names], columns=types.frame.columns)
            nameless = np.full(len(types.names), "", dtype=object)
            types = replace(types, names=nameless, frame=pd.concat([first, types.frame]))
        transposed, labelled = ids < 0, np.full(len(types.names), True)
    places = {}
    for place in np.flatnonzero(labelled):
        if place != type_ids and (types.words(place) != "").any():
            name = types.names[place]
            places[name if name and name not in places else f"column {place + 1}"] = place
    columns = pd.DataFrame({name: types.words(place) for name, place in places.items()}, types.words(type_ids))
    chosen = choose_type_column(columns, config)
    labels = columns[[chosen, *[name for name in columns if squash(name) == "group" and name != chosen][:1]]]
    used = [places[name] for name in labels] if config.types is None else []
    gene_ids = int(np.argmax(~table.numeric))  # the first column of words, or of all where there is none
    cohort = read_expression(table, gene_ids if transposed else ids, transposed, used)
    samples = np.array([spelling.get(sample, sample) for sample in cohort.samples], dtype=str)
    notes = [*cohort.notes, *(types.notes if config.types else ())]
    if (samples != cohort.samples).any():
        how = "but for file paths and endings, or dots and dashes as R writes names"
        notes.append(f"{table.path}: sample ids agree with those of {types.path} {how}")
    if config.types and type_ids:
        notes.append(f"{types.path}: sample ids are taken from column {types.names[type_ids]!r}")
    if chosen != "type" and config.type_column is None and len(places) > 1:
        notes.append(f"{types.path}: types are taken from column {chosen!r}")
    cohort = annotate(replace(cohort, samples=samples, notes=tuple(notes)), labels, config)
    return note_oddities(cohort, table.path, types.path)


def read_new_samples(path: Path, layer: str | None = None, genes: Sequence[str] = ()) -> Cohort:
    """Read samples that need no types, as a cohort of empty ones; known genes decide whether genes are in the rows."""
    table = read_table(path, layer=layer)
    ids = id_columns(table)
    found, _ = compare_ids({-1: table.names[table.numeric], **ids}, {0: np.array(genes, dtype=object)})
    transposed = bool(found) and found[0][0] >= 0
    cohort = read_expression(table, found[0][0] if transposed else next(iter(ids), None), transposed)
    return note_oddities(cohort, path)


def fetch_candle() -> tuple[Path, Path]:
    """Return the two CANDLE files from the local cache, downloading what is not there; OSError if that fails."""
    pooch.get_logger().setLevel("WARNING")
    folder = Path(pooch.os_cache("rnagen"))
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=(5, 30))  # to connect, without a byte
    for name in CANDLE_FILES:
        path, record = folder / name, folder / f"{name}.sha256"
        if not path.exists():
            record.unlink(missing_ok=True)
            pooch.retrieve(CANDLE_URL + name, None, fname=name, path=folder, downloader=downloader)
            if b"\t" not in path.read_bytes().split(b"\n", 1)[0]:  # a portal's or a proxy's page with status 200
                path.unlink()
                raise OSError(f"{CANDLE_URL}{name} is not a tab-separated table")
        digest = pooch.file_hash(path)
        if not record.exists():
            with replacing(record) as beside:
                beside.write_text(digest + "\n")
        elif record.read_text().strip() != digest:
            why = f"SHA-256 {digest[:12]}... is not the one recorded when it was downloaded"
            raise RnagenError(f"{path}: {why}; delete it to download it again")
    return folder / CANDLE_FILES[0], folder / CANDLE_FILES[1]


def sparse_effects(rng: np.random.Generator, rows: int, genes: int, share: float, sd: float) -> np.ndarray:
    """Return normal effects (rows, genes) of which only that share is not 0."""
    return rng.normal(0, sd, (rows, genes)) * (rng.random((rows, genes)) < share)


def simulate_cohort(
    samples: int = 15_198, genes: int = 942, types: int = 33, seed: int = 2021, counts: bool = False
) -> Cohort:
    """Simulate a cohort in place of the CANDLE tables, as large, and as hard for a linear classifier as real ones.

    It holds log2(CPM + 1), or the counts: negative binomial, with dispersion falling with the mean (Robinson and Smyth
    2008; Love, Huber and Anders 2014), at depths that vary threefold between the 10th and the 90th percentile.
    """
    rng = stream(seed, "simulated cohort")
    weight = (np.arange(types) + 12.35) ** -1.25
    label = np.repeat(np.arange(types), 2)[:samples]  # at least two samples of each type
    label = rng.permutation(np.append(label, rng.choice(types, samples - len(label), p=weight / weight.sum())))
    lineage = rng.integers(math.ceil(types / 4), size=types)
    baseline = rng.normal(5, 2, genes)  # log2 CPM
    lineages = sparse_effects(rng, lineage.max() + 1, genes, 0.5, 0.9)
    profile = (baseline + lineages[lineage] + sparse_effects(rng, types, genes, 0.4, 0.245)).astype(np.float32)
    modules = sparse_effects(rng, 16, genes, 0.2, 0.5).astype(np.float32)  # of genes that move together
    stroma = np.exp2(baseline + rng.normal(0, 1.5, genes)).astype(np.float32)  # CPM, mixed with tumours by their purity
    shift = rng.normal(0, 0.3, (len(CANDLE_SOURCES), genes)).astype(np.float32)
    dispersion = (0.15 + 1 / np.exp2(baseline)).astype(np.float32)

    ids = np.array([f"GDC.SIM_{i:06d}" for i in range(samples)], dtype=object)
    source, biology = np.full(samples, len(CANDLE_SOURCES) - 1), np.arange(samples)  # the row whose biology each shares
    coverage = np.log([1018, 812, 1018, 60, 357])  # samples that each cell-line project has in the CANDLE tables
    is_line = rng.random(samples) < 0.215
    of_types = [np.flatnonzero(is_line & (label == code)) for code in np.unique(label)]
    lines = [line for rows in of_types for line in np.array_split(rows, range(3, len(rows), 3))]
    for number, line in enumerate(lines, 1):
        projects = np.argsort(coverage + rng.gumbel(size=len(coverage)))[::-1]  # without replacement
        for row, project in zip(line, projects, strict=False):
            dash = "" if project == 0 else "-"  # CCLE spells ALLSIL what the others call ALL-SIL
            ids[row] = f"{CANDLE_SOURCES[project]}.SIM{dash}{number:05d}"
            source[row], biology[row] = project, line[0]

    purity = np.where(source == len(CANDLE_SOURCES) - 1, rng.beta(6, 3, samples), 1).astype(np.float32)
    millions = np.exp(rng.normal(np.log(20), 0.4, samples)).astype(np.float32)  # reads
    scores = rng.standard_normal((samples, len(modules)), dtype=np.float32)[biology]  # one line, one biology

    def simulate_block(block: int) -> np.ndarray:
        rng = stream(seed, "simulated counts", block)
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        depth = millions[rows, None]
        mean = np.exp2(profile[label[rows]] + scores[rows] @ modules)
        mean = mean * purity[rows, None] + stroma * (1 - purity[rows, None])
        mean *= np.exp2(shift[source[rows]]) * dispersion * depth
        reads = rng.poisson(mean * rng.standard_gamma(np.broadcast_to(1 / dispersion, mean.shape), dtype=np.float32))
        return (reads if counts else np.log2(reads / depth + 1)).astype(np.float32)

    with ThreadPoolExecutor(CORES) as pool:
        expression = np.concatenate(list(pool.map(simulate_block, range(math.ceil(samples / BLOCK)))))
    groups, grouping = group_samples(ids)
    genes_and_types = np.char.mod("GENE%05d", np.arange(1, genes + 1)), np.char.mod("type_%02d", label + 1)
    name = "simulated counts" if counts else "simulated cohort"
    return Cohort(name, True, expression, ids.astype(str), *genes_and_types, groups, grouping)


def load_cohort(config: TableConfig, seed: int) -> Cohort:
    """Return the given tables, the CANDLE files, or the simulated cohort, to which data "auto" falls back."""
    if config.rnaseq is not None:
        return read_cohort(config)
    notes: tuple[str, ...] = ()
    if config.data != "simulated":
        try:
            rnaseq, types = fetch_candle()
            return replace(read_cohort(replace(config, rnaseq=rnaseq, types=types)), name="CANDLE combined RNA-seq")
        except OSError as error:
            reason = f"the CANDLE files could not be fetched from {CANDLE_URL.split('/')[2]} ({type(error).__name__})"
            if config.data == "candle":
                raise RnagenError(f"--data candle: {reason}; try again later, or give --rnaseq and --types") from error
            notes = (f"the data are simulated, since {reason}; for your own give --rnaseq and --types",)
    cohort = simulate_cohort(seed=seed)
    groups, grouping = group_samples(cohort.samples, config.group_regex)
    return replace(cohort, groups=groups, grouping=grouping, notes=notes)


def keep_top_types(cohort: Cohort, top: int | None) -> Cohort:
    """Keep the samples of the `top` most frequent types (ties in alphabetical order); None: 20, or all if fewer."""
    ranked = list(cohort.type_counts())
    if len(ranked) < 2:
        raise RnagenError(f"{cohort.name}: every sample has the type {ranked[0]!r}; at least two types are needed")
    if top is not None and top > len(ranked):
        raise RnagenError(f"--top_k_types {top}: {cohort.name} has {len(ranked)} types; ask for at most {len(ranked)}")
    return cohort.take(np.isin(cohort.types, ranked[: top or DEFAULT_TYPES]))


def split_by_ids(cohort: Cohort, path: Path) -> tuple[Cohort, Cohort, list[str]]:
    """Split into the training samples, whose ids path lists, and those that share no group with any; and notes."""
    with readable_table(path), open_text(path) as file:
        separator = "," if ".csv" in path.suffixes else "\t"  # an id stands before the first
        ids = [line.split(separator)[0].strip(' "\r\n') for line in file]
    ids = np.array([sample for sample in ids if sample], dtype=str)
    training = np.isin(cohort.samples, ids)
    test = ~np.isin(cohort.groups, cohort.groups[training])
    if not training.any():
        why = f"ids like {ids[:1].tolist()} against {cohort.samples[:1].tolist()}"
        raise RnagenError(f"--train_ids {path}: names no sample of {cohort.name} ({why}); make the ids agree")
    if not test.any():
        why = "that training has not seen; add some, or leave out --train_ids to do without the privacy part"
        raise RnagenError(f"--train_ids {path}: leaves no sample of {cohort.name} {why}")
    notes = []
    if unknown := len(np.setdiff1d(ids, cohort.samples)):
        notes.append(f"{unknown} of {len(set(ids))} ids in {path} are of no sample that is reported on")
    if related := np.count_nonzero(~training & ~test):
        notes.append(f"{related} samples of the groups of training samples are left out")
    return cohort.take(training), cohort.take(test), notes


# ---- preprocessing: split by groups, then everything fitted on training samples only -----------------------------

TRANSFORMS = ("none", "log2", "cpm")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # f(NODES) @ WEIGHTS / WEIGHTS.sum() is a normal's mean of f
LOG_CPM = np.arange(0, 21, 0.05)  # log2(CPM + 1), up to all reads: points at which the effect of counting is known


def stratified_group_split(
    types: np.ndarray, groups: np.ndarray, fraction: float, minimum: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a mask (rows,) of what to hold out: of each type that fraction of groups, at least minimum, never all."""
    names, first = np.unique(groups, return_index=True)
    held_out = []
    for label in np.unique(types):
        of_type = rng.permutation(names[types[first] == label])  # a group that mixes types counts for its first row's
        count = min(max(round(fraction * len(of_type)), minimum), len(of_type) - 1)
        held_out.extend(of_type[: max(count, 0)])
    mask = np.isin(groups, held_out)
    for label in np.unique(types[mask]):  # none may be lost to groups that mix types
        if mask[types == label].all():
            mask &= ~np.isin(groups, groups[types == label])
    return mask


def inner_folds(types: np.ndarray, groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the rows into that many folds, stratified by type, whole groups in one; return the fold of each (rows,)."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((rng.random(len(first)), types[first]))  # the groups of a type one after the other
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % min(folds, len(first))
    return fold[group]


def rank_within_types(types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number the rows of each type in random order, from 0 on; return the numbers (rows,)."""
    shuffled = pd.Series(types)[rng.permutation(len(types))]
    return shuffled.groupby(shuffled).cumcount().sort_index().to_numpy()


def split_cohort(cohort: Cohort, test_fraction: float, seed: int, per_type: int | None = None) -> tuple[Cohort, Cohort]:
    """Split by groups into training samples, at most per_type of each type, and test samples, none at fraction 0."""
    minimum = 1 if test_fraction else 0
    test = stratified_group_split(cohort.types, cohort.groups, test_fraction, minimum, stream(seed, "split"))
    if test_fraction and len(whole := np.setdiff1d(cohort.types, cohort.types[test])):
        rows = cohort.types == whole[0]
        size = f"{rows.sum()} samples in {len(np.unique(cohort.groups[rows]))} groups"
        remedy = "leave it out by a smaller --top_k_types, or add samples"
        raise RnagenError(f"{cohort.name}: type {str(whole[0])!r} cannot be split: {size}; {remedy}")
    training = cohort.take(~test)
    if per_type:  # those of a smaller number are among those of a larger one
        training = training.take(rank_within_types(training.types, stream(seed, "train per type")) < per_type)
    return training, cohort.take(test)


def resolve_transform(expression: np.ndarray, asked: str) -> str:
    """Return the transform to train on: as asked, or, for "auto", by the values."""
    low = np.fmin.reduce(expression, axis=None)
    if asked in ("log2", "cpm") and low < 0:
        raise RnagenError(f"--transform {asked}: the table has negative values (down to {low:g}); use --transform none")
    if asked != "auto":
        return asked
    if low < 0 or np.fmax.reduce(expression, axis=None) <= COUNTS_ABOVE:
        return "none"
    return "cpm" if is_whole(expression) else "log2"


def sequencing_depth(expression: np.ndarray) -> np.ndarray:
    """Return the sum of each sample's values (samples, 1), at least 1."""
    return np.maximum(np.nansum(expression, axis=1, dtype=np.float64, keepdims=True), 1)


def to_training_units(expression: np.ndarray, kept: np.ndarray, transform: str) -> np.ndarray:
    """Return a new array of the kept genes of expression (samples, all genes) as they are trained on."""
    values = aligned_array(len(expression), np.count_nonzero(kept))
    values[:] = expression if kept.all() else expression[:, kept]
    if transform == "cpm":
        values *= np.float32(1e6 / sequencing_depth(expression))
    if transform != "none":
        np.maximum(values, 0, out=values)  # in place: temporaries of this size take longer than the arithmetic
        values += 1
        np.log2(values, out=values)
    return values


def counted_moments(log_mean: float, log_sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (points,) of Poisson counts, as log2(CPM + 1), that are expected to be LOG_CPM."""
    cpm = np.exp2(LOG_CPM)[:, None] - 1
    depth = np.exp(log_mean + log_sd * NODES) / 1e6  # counts per unit of CPM, to average over
    rate = cpm * depth  # (points, depths)
    counts = np.arange(400)[:, None, None]
    chance = scipy.stats.poisson.pmf(counts, rate)
    value = np.log2(counts / depth + 1)
    first, second = (chance * value).sum(0), (chance * np.square(value)).sum(0)
    many = rate > 200  # these by the delta method
    slope = 1 / ((cpm + 1) * math.log(2))
    first = np.where(many, LOG_CPM[:, None] - np.square(slope) * math.log(2) * cpm / depth / 2, first)
    second = np.where(many, np.square(first) + np.square(slope) * cpm / depth, second)
    mean, square = (moment @ WEIGHTS / WEIGHTS.sum() for moment in (first, second))
    return mean, square - np.square(mean)


@dataclass(frozen=True)
class Preprocessing:
    """Maps between the input's units and the networks', fitted on training samples."""

    kept: np.ndarray  # (all genes,): whether each varies; "genes" below are those
    constant: np.ndarray  # (all genes,): the value of one that does not vary, NaN if it was never measured
    mean: np.ndarray  # (genes,), in training units, as the next three
    sd: np.ndarray
    low: np.ndarray
    span: np.ndarray
    transform: str  # to training units: none, log2 for log2(x + 1), cpm for log2(CPM + 1), each sample by its own depth
    floor: float  # that no value lies under, in the input's units
    whole: bool  # whether all values are whole numbers
    log_depth: np.ndarray  # (types, 2): mean and sd of the natural logarithm of depth, if divided by it

    @classmethod
    def fit(cls, expression: np.ndarray, transform: str, types: np.ndarray) -> Preprocessing:
        """Fit to training samples (samples, all genes) of these types (samples,)."""
        transform = resolve_transform(expression, transform)
        lowest = np.fmin.reduce(expression, axis=None)
        # a lowest value that so many entries sit at is the floor of its scale
        at_floor = np.count_nonzero(expression == lowest) > max(10, 0.001 * expression.size)
        floor = 0.0 if lowest >= 0 else float(lowest) if at_floor else -np.inf
        values = to_training_units(expression, np.full(expression.shape[1], True), transform)
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # NaN only where the whole column is
        kept = high - low > np.finfo(np.float32).tiny * 1e6  # dividing by less would overflow
        if not kept.any():
            raise RnagenError("every gene is constant or missing in the training samples; there is nothing to learn")
        constant = np.where(kept, np.nan, np.fmin.reduce(expression))
        few_genes = np.array_split(np.flatnonzero(kept), math.ceil(kept.sum() / 256))
        parts = (values[:, genes].astype(np.float64) for genes in few_genes)
        moments = [(np.nanmean(part, axis=0), np.nanstd(part, axis=0)) for part in parts]
        mean, sd = np.concatenate(moments, axis=1).astype(np.float32)
        log_depth = np.zeros((0, 2), np.float32)
        if transform == "cpm":
            of_all = np.log(sequencing_depth(expression))[:, 0]
            of_types = (of_all[types == name] for name in np.unique(types))
            enough = (of_type if len(of_type) >= 10 else of_all for of_type in of_types)
            log_depth = np.array([(of_type.mean(), of_type.std()) for of_type in enough], np.float32)
        whole = transform != "none" and is_whole(expression)
        return cls(kept, constant, mean, sd, low[kept], (high - low)[kept], transform, floor, whole, log_depth)

    def standardise(self, expression: np.ndarray) -> np.ndarray:
        """Map (samples, all genes) in the input's units to (samples, genes) of mean 0, sd 1; missing becomes 0."""
        values = to_training_units(expression, self.kept, self.transform)
        values -= self.mean
        values /= self.sd
        values[np.isnan(values)] = 0
        return values

    def samples(self, cohort: Cohort, types: np.ndarray) -> Samples:
        """Return the samples of a cohort with these genes, standardised, coded by their place among types, or -1."""
        y = pd.Index(types).get_indexer(cohort.types).astype(np.int32)
        return Samples(self.standardise(cohort.expression), y, cohort.groups)

    def restore(self, standardised: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Map (samples, genes) of mean 0, sd 1, of types y, back to (samples, all genes) in the input's units."""
        values = standardised * self.sd
        values += self.mean
        if self.transform != "none":
            np.exp2(values, out=values)
            values -= 1
        if self.transform == "cpm":  # each sample is given a depth of its type
            np.maximum(values, 0, out=values)
            mean, sd = self.log_depth[y].T
            depth = np.exp(mean + sd * rng.standard_normal(len(y), dtype=np.float32))
            values *= (depth / np.maximum(values.sum(axis=1), 1))[:, None]
        np.maximum(values, np.float32(self.floor), out=values)
        if self.whole:
            values = rng.poisson(values).astype(np.float32) if self.gives_counts else np.rint(values, out=values)
        if self.kept.all():
            return values
        restored = np.tile(self.constant, (len(values), 1))
        restored[:, self.kept] = values
        return restored

    @property
    def gives_counts(self) -> bool:
        """Whether what is restored are counts, which have noise of their own."""
        return self.whole and self.transform == "cpm"

    def before_counting(self, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and sd (types, genes), standardised, that become these by counting, as far as any do."""
        weights = WEIGHTS / WEIGHTS.sum()
        means, sds = mean * self.sd + self.mean, sd * self.sd
        centres, spreads = means.copy(), sds.copy()
        for depth, target, target_sd, centre, spread in zip(self.log_depth, means, sds, centres, spreads, strict=True):
            counted_mean, counted_variance = counted_moments(*depth)
            for _ in range(30):
                values = centre[:, None] + spread[:, None] * NODES  # (genes, nodes)
                first = np.interp(values, LOG_CPM, counted_mean)
                second = np.interp(values, LOG_CPM, counted_variance) + np.square(first)
                found = first @ weights
                found_sd = np.sqrt(np.maximum(second @ weights - np.square(found), 1e-12))
                step = np.clip(target - found, -target_sd / 2, target_sd / 2)
                centre[:] = np.maximum(centre + step, -3 * target_sd)
                ratio = np.clip(target_sd / found_sd, 0.5, 2)
                spread[:] = np.clip(spread * ratio, 0.01 * target_sd, 3 * target_sd)
        return (centres - self.mean) / self.sd, spreads / self.sd

    @property
    def lowest(self) -> np.ndarray:
        """The standardised value (genes,) that lies at the floor, -inf where there is none."""
        floor = self.floor if self.transform == "none" else np.log2(self.floor + 1)
        return (np.float32(floor) - self.mean) / self.sd

    @property
    def unit_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset (genes,) that take standardised values to [0, 1] over the training samples."""
        return self.sd / self.span, (self.mean - self.low) / self.span


@dataclass(frozen=True)
class Dataset:
    """A cohort as the networks see it: samples to train, to validate and to test on."""

    genes: np.ndarray  # names (all genes,)
    types: np.ndarray  # names (types,) behind the codes
    preprocessing: Preprocessing
    train: Samples
    validation: Samples
    test: Samples
    trained_on: str  # fingerprint of the ids of the samples to train on and to validate on
    missing: int  # number of values that these samples lack in the genes that are kept

    @property
    def n_training(self) -> int:
        """Number of training samples, those that validate included."""
        return len(self.train) + len(self.validation)

    def all_training(self) -> Samples:
        """Return the samples to train on, then those that validate."""
        return self.train.join(self.validation) if len(self.validation) else self.train

    def counts(self) -> np.ndarray:
        """Return the number of training samples of each type (types,), those that validate included."""
        return np.bincount(np.concatenate([self.train.y, self.validation.y]), minlength=len(self.types))


def prepare_dataset(cohort: Cohort, fraction: float, transform: str, seed: int, per_type: int | None = None) -> Dataset:
    """Split a cohort by groups, that fraction to test on, and preprocess it."""
    training, test = split_cohort(cohort, fraction, seed, per_type)
    validates = stratified_group_split(training.types, training.groups, 0.1, 0, stream(seed, "validation"))
    fitted = Preprocessing.fit(training.expression, transform, training.types)
    types = np.unique(cohort.types)
    samples = (fitted.samples(part, types) for part in (training.take(~validates), training.take(validates), test))
    missing = int(np.isnan(training.expression).sum(axis=0)[fitted.kept].sum())
    return Dataset(cohort.genes, types, fitted, *samples, training.fingerprint(), missing)


def score_predictions(predicted: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return accuracy, balanced accuracy and macro F1 of predicted type codes, over the types that occur."""
    over = {"labels": np.unique(y), "average": "macro", "zero_division": 0}
    _, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(y, predicted, **over)
    return {"accuracy": float((predicted == y).mean()), "balanced_accuracy": float(recall), "macro_f1": float(f1)}


# ---- workers: several processes or GPUs that each take a share of every batch ------------------------------------

JOIN_SECONDS = 50  # that a worker waits for the others to start


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: TensorFlow's C++ start-up lines do not pass through Python."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def start_tensorflow(devices: bool = True) -> None:
    """Import TensorFlow, and start its devices, without a word on stderr, then or later."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # trainings side by side use the cores better than operations
    with silenced_stderr():
        tf.get_logger().setLevel("ERROR")
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # takes longer than it saves
        if devices:
            tf.zeros(1)


@dataclass(frozen=True)
class Workers:
    """The processes and devices that share the training; all run the same program and share sums over a batch alone."""

    strategy: tf.distribute.Strategy | None = None
    index: int = 0  # this one's; the first prints results and writes files
    count: int = 1

    def sum_over_replicas(self, size: tf.Tensor | int, sums: Callable[..., list[tf.Tensor]]) -> list[tf.Tensor]:
        """Return what sums(start, end) returns for each replica's share of a batch of that size, summed over them."""
        if self.strategy is None:
            return sums(tf.constant(0), size)

        def sum_share() -> list[tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            number, count = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
            share = sums(size * number // count, size * (number + 1) // count)
            return replica.all_reduce("SUM", share)  # packed into one message

        return [self.strategy.experimental_local_results(total)[0] for total in self.strategy.run(sum_share)]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Turn what TensorFlow raises when another worker stops into one line."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.count == 1 or isinstance(error, tf.errors.ResourceExhaustedError):
                raise
            why = f"another worker has stopped or cannot be reached ({type(error).__name__}); start all of them again"
            raise RnagenError(f"worker {self.index} of {self.count}: {why}") from error

    def gather(self, number: int = 0) -> list[int]:
        """Return the numbers of all workers, once all of them have called this."""
        if self.count == 1:
            return [number]
        own = tf.one_hot(self.index, self.count, tf.constant(number, tf.int64), tf.constant(0, tf.int64))
        with self.watching():
            (total,) = tf.function(self.sum_over_replicas, autograph=False)(1, lambda start, end: [own])
        return (total.numpy() * self.count // self.strategy.num_replicas_in_sync).tolist()


ALONE = Workers()


def read_cluster(text: str) -> tuple[list[str], int]:
    """Return the workers' addresses and this one's index among them, as TF_CONFIG tells."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs = cluster.get("chief", [])
        addresses, index = [*chiefs, *cluster["worker"]], task["index"] + len(chiefs) * (task["type"] == "worker")
        known = {*cluster, task["type"]} <= {"chief", "worker"} and index in range(len(addresses))
        if known and all(re.fullmatch(r"[^\s/]+:\d{1,5}", address) for address in addresses):
            return addresses, index
    example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
    why = "is not a cluster with this task in it; unset it, or give"
    raise RnagenError(f"TF_CONFIG: {shorten(text, 200)} {why} {example}")


def slurm_cluster(tasks: int, index: int) -> list[str]:
    """Return the addresses of the tasks of this Slurm step, and leave this one its share of its machine's GPUs."""
    step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=20_000 + zlib.crc32(step.encode()) % 10_000,  # by step, below the ports of outgoing connections
        gpus_per_node=tasks,  # as if there were one for each: it takes no tasks without GPUs, nor more tasks than GPUs
        gpus_per_task=1,
        auto_set_gpu=False,  # it would take GPUs of others, since it counts from 0
    )
    addresses = resolver.cluster_spec().job_tasks("worker")  # it puts n10 before n2, Slurm does not
    addresses.sort(key=lambda address: re.sub(r"\d+", lambda digits: digits[0].zfill(9), address))
    hosts = [address.rpartition(":")[0] for address in addresses]
    here, number = hosts.count(hosts[index]), hosts[:index].count(hosts[index])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(visible) >= here > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number::here])
    return addresses


def connect(addresses: list[str], index: int) -> tf.distribute.Strategy:
    """Return the strategy of these workers once all have come; TensorFlow's coordination service watches over them."""
    context = importlib.import_module("tensorflow.python.eager.context").context()  # the service has no public settings
    jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
    context.configure_coordination_service(
        "standalone",
        "/job:worker/task:0",
        cluster_register_timeout_in_ms=1000 * JOIN_SECONDS,
        heartbeat_timeout_in_ms=30_000,  # until a worker is taken for dead; a busy machine may pause for some seconds
        coordinated_jobs=[jobs.add(name="worker", num_tasks=len(addresses))],
    )
    context.coordination_service.cluster_register_with_barrier = True  # else the first worker waits for ever
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})  # where the strategy looks
    handlers = set_handlers(dict.fromkeys(INTERRUPTS, signal.SIG_DFL))  # no Python runs while it waits
    try:
        with silenced_stderr():
            return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        set_handlers(handlers)  # the service takes SIGTERM


def join_workers() -> Workers:
    """Join the workers that TF_CONFIG or Slurm tells of, if there are others; TensorFlow must not have started."""
    addresses, index = [], int(os.environ.get("SLURM_PROCID", 0))
    if config := os.environ.get("TF_CONFIG"):
        addresses, index = read_cluster(config)
    count = len(addresses) or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1:
        return ALONE
    start_tensorflow(devices=False)
    try:
        addresses = addresses or slurm_cluster(count, index)
        return Workers(connect(addresses, index), index, count)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        if isinstance(error, tf.errors.DeadlineExceededError):
            tasks = map(int, re.findall(r"^/job:worker/replica:0/task:(\d+)", str(error), re.MULTILINE))
            missing = [f"worker {task} at {addresses[task]}" for task in sorted(tasks) or [0]]
            reason = f": not heard from {', '.join(missing)} in {JOIN_SECONDS} seconds; start all of them at once"
        else:
            where = f"a free address of its own machine in {', '.join(addresses) or 'Slurm'}"
            why = str(error).splitlines()[0][:200]
            reason = f" cannot join the others ({why}); start all of them again, each with {where}"
        raise RnagenError(f"worker {index} of {count}{reason}") from error


# ---- training: networks, and the one loop that every one of them goes through ------------------------------------

STEPS_PER_CALL = 100  # training steps in one graph call: seldom enough to be free, often enough for Ctrl-C
EVALUATION_ROWS = 8 * BLOCK  # at most, in one graph call
REAL_SHARE = 0.5  # of what a network is shown, at least: synthetic samples must not drown the real ones


class Network:
    """What training asks of a model: x (rows, genes) and y (rows,) are of Samples, noise (rows, noise_dim) normal."""

    noise_dim = 0
    n_totals: int
    weights: list[keras.Variable]

    def loss_and_totals(self, x: tf.Tensor, y: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the loss and a vector (n_totals,) that metrics are made of, both summed over rows."""

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        """Turn the totals of any number of rows into named metrics of one row."""

    def copy_weights(self) -> list[np.ndarray]:
        """Return the weights as they are now."""
        return [weight.numpy() for weight in self.weights]

    def assign_weights(self, values: Sequence[np.ndarray]) -> None:
        """Set the weights to these."""
        for weight, value in zip(self.weights, values, strict=True):
            weight.assign(value)

    @functools.cached_property
    def totals_in_graph(self) -> Callable[..., tf.Tensor]:
        """The totals that loss_and_totals returns, as one graph for any number of rows."""
        return tf.function(lambda *rows: self.loss_and_totals(*rows)[1], autograph=False, reduce_retracing=True)

    def evaluate(self, samples: Samples, rng: np.random.Generator) -> dict[str, float]:
        """Return the metrics over the given samples, with noise from rng."""
        noise = rng.standard_normal((len(samples), self.noise_dim), dtype=np.float32)
        totals = np.zeros(self.n_totals)
        for start in range(0, len(samples), EVALUATION_ROWS):
            rows = slice(start, start + EVALUATION_ROWS)
            totals += self.totals_in_graph(shared_tensor(samples.x[rows]), samples.y[rows], noise[rows]).numpy()
        return self.metrics(totals)

    def validate(self, samples: Samples, seed: int) -> dict[str, float]:
        """Return the metrics over samples under names that begin with val_, with the same noise every time."""
        return {f"val_{name}": value for name, value in self.evaluate(samples, stream(seed, "evaluation")).items()}


def initial_weights(network: keras.Sequential, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw weights for dense layers, uniform as in Glorot and Bengio (2010), and biases of 0."""
    shapes = [variable.shape for variable in network.trainable_variables]
    limits = [math.sqrt(6 / sum(shape)) if len(shape) == 2 else 0 for shape in shapes]
    return [rng.uniform(-limit, limit, shape).astype(np.float32) for limit, shape in zip(limits, shapes, strict=True)]


def dense_stack(inputs: int, hidden: Sequence[int], outputs: int, rng: np.random.Generator) -> keras.Sequential:
    """Return dense relu layers and a linear one, their weights drawn from rng."""
    layers = [keras.layers.Dense(units, "relu", kernel_initializer="zeros") for units in hidden]
    output = keras.layers.Dense(outputs, kernel_initializer="zeros")
    network = keras.Sequential([keras.Input((inputs,)), *layers, output])
    network.set_weights(initial_weights(network, rng))
    return network


def mix_epoch(rows: int, n_real: int, rng: np.random.Generator) -> np.ndarray:
    """Return an epoch's order (rows,) over n_real real rows and then synthetic ones, at least REAL_SHARE of it real."""
    shown = max(n_real, math.ceil(REAL_SHARE * rows))
    real = np.concatenate([rng.permutation(n_real) for _ in range(math.ceil(shown / n_real))])[:shown]
    synthetic = n_real + rng.permutation(rows - n_real)[: rows - shown]
    return rng.permutation(np.concatenate([real, synthetic])).astype(np.int32)


class Trainer:
    """Adam on mini-batches, mixed by mix_epoch, of samples in memory; one graph serves one training after another."""

    def __init__(self, network: Network, genes: int, batch_size: int, rate: Any, workers: Workers = ALONE) -> None:
        self.network, self.batch_size, self.workers = network, batch_size, workers
        self._optimizer = keras.optimizers.Adam(rate)
        self._optimizer.build(network.weights)
        x, noise = (tf.TensorSpec((None, columns), tf.float32) for columns in (genes, network.noise_dim))
        y = tf.TensorSpec((None,), tf.int32)
        self._steps_in_graph = tf.function(self._take_steps, input_signature=[x, y, y, noise], autograph=False)

    def start(
        self, samples: Samples, weights: Sequence[np.ndarray], rng: np.random.Generator, n_real: int | None = None
    ) -> None:
        """Begin a training on samples, of which the first n_real (None: all) are real, in an order drawn from rng."""
        self._x, self._y, self._rng = shared_tensor(samples.x), tf.constant(samples.y), rng
        self.rows, self.steps = len(samples), 0
        self.n_real = n_real or self.rows
        self.steps_per_epoch = math.ceil(self.rows / self.batch_size)
        self.network.assign_weights(weights)
        for state in self._optimizer.variables:
            if "learning_rate" not in state.path:
                state.assign(np.zeros(state.shape, state.dtype))

    def release(self) -> None:
        """Let go of the samples, which the graph's cycle of references would keep."""
        self._x = self._y = self._order = None

    def _take_steps(self, x: tf.Tensor, y: tf.Tensor, order: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Take a step on each batch of the rows in order (rows,); return the totals summed over all of them."""

        def step(start: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            end = start + self.batch_size
            return end, totals + self._take_step(x, y, order[start:end], noise[start:end])

        begin = (0, tf.zeros(self.network.n_totals))
        return tf.while_loop(lambda start, totals: start < tf.size(order), step, begin)[1]

    def _take_step(self, x: tf.Tensor, y: tf.Tensor, batch: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Take one step down the gradient of the batch's mean loss; return the batch's totals."""
        size = tf.size(batch)

        def gradients_and_totals(start: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
            with tf.device("CPU"):  # where the table is: only the batch goes to a GPU
                x_batch, y_batch = tf.gather(x, batch[start:end]), tf.gather(y, batch[start:end])
            with tf.GradientTape() as tape:
                loss, totals = self.network.loss_and_totals(x_batch, y_batch, noise[start:end])
                loss /= tf.cast(size, tf.float32)
            return [*tape.gradient(loss, self.network.weights), totals]

        *gradients, totals = self.workers.sum_over_replicas(size, gradients_and_totals)
        self._optimizer.apply(gradients, self.network.weights)
        return totals

    def advance(self, steps: int, on_steps: Callable[[int], object] = lambda steps: None) -> dict[str, float]:
        """Take more steps, telling on_steps how many from time to time; return the metrics of the rows gone through."""
        totals, goal = np.zeros(self.network.n_totals), self.steps + steps
        while self.steps < goal:
            done = self.steps % self.steps_per_epoch
            if done == 0:
                self._order = mix_epoch(self.rows, self.n_real, self._rng)  # of the epoch under way
            more = min(STEPS_PER_CALL, self.steps_per_epoch - done, goal - self.steps)
            order = self._order[done * self.batch_size : (done + more) * self.batch_size]
            noise = self._rng.standard_normal((len(order), self.network.noise_dim), dtype=np.float32)
            with self.workers.watching():
                totals += self._steps_in_graph(self._x, self._y, order, noise).numpy()
            self.steps += more
            on_steps(more)
        metrics = self.network.metrics(totals)
        if not math.isfinite(loss := metrics["loss"]):
            remedy = "look for extreme values in the table, or try --transform log2"
            raise RnagenError(f"training failed: loss {loss} after {self.steps} steps; {remedy}")
        return metrics


@dataclass(frozen=True)
class Progress:
    """What a training reports: steps taken since the last report, of all; at an epoch's end (0: before it), metrics."""

    steps: int
    all_steps: int
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Any], None]  # takes a Progress, or another result as soon as it is there


def ignore(event: Any) -> None:
    """Report to nobody."""


def fit(
    trainer: Trainer, epochs: int, validation: Samples, seed: int, report: Listener = ignore
) -> tuple[list[dict[str, float]], int]:
    """Train, keep the weights of lowest val_loss, perhaps those before training; return metrics by epoch, and which."""
    history: list[dict[str, float]] = []
    total, kept, weights = epochs * trainer.steps_per_epoch, 0, []
    for epoch in range(epochs + 1):
        metrics = trainer.advance(trainer.steps_per_epoch, lambda n: report(Progress(n, total))) if epoch else {}
        history.append(metrics | trainer.network.validate(validation, seed))
        report(Progress(0, total, epoch, epochs, history[epoch]))
        if epoch == 0 or history[epoch]["val_loss"] < history[kept]["val_loss"]:
            kept, weights = epoch, trainer.network.copy_weights()
    trainer.network.assign_weights(weights)
    return history[1:], kept


# ---- the classifier ----------------------------------------------------------------------------------------------

HIDDEN_CLASSIFIER = (200, 100)  # as published
CLASSIFIER_BATCH = 256
CLASSIFIER_RATE = 0.001  # Adam's default, as published


class Classifier(Network):
    """Dense 200-100 relu network, trained by cross-entropy on genes that unit_scale (scale, offset) takes to [0, 1]."""

    n_totals = 3

    def __init__(self, n_types: int, unit_scale: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> None:
        self.scale, self.offset = unit_scale
        self.network = dense_stack(len(self.scale), HIDDEN_CLASSIFIER, n_types, rng)
        self.weights = self.network.trainable_variables

    def loss_and_totals(self, x: tf.Tensor, y: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.network(x * self.scale + self.offset)  # (rows, types)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        correct = tf.math.count_nonzero(tf.argmax(logits, 1, tf.int32) == y, dtype=tf.float32)
        return loss, tf.stack([tf.cast(tf.size(y), tf.float32), loss, correct])

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        rows, loss, correct = totals
        return {"loss": loss / rows, "accuracy": correct / rows}

    @functools.cached_property
    def probabilities_in_graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The graph from rows to the probability of each type; scale and offset go into the first layer's weights."""

        def probabilities(x: tf.Tensor) -> tf.Tensor:
            first, *others = self.network.layers
            offset = tf.linalg.matvec(first.kernel, self.offset, transpose_a=True)
            hidden = tf.nn.relu(tf.matmul(x, first.kernel * self.scale[:, None]) + first.bias + offset)
            return tf.nn.softmax(functools.reduce(lambda values, layer: layer(values), others, hidden))

        return tf.function(probabilities, autograph=False, reduce_retracing=True)

    def predict(self, x: np.ndarray | tf.Tensor) -> np.ndarray:
        """Return the probability of each type (rows, types) for standardised genes."""
        starts = range(0, len(x), EVALUATION_ROWS)
        return np.concatenate([self.probabilities_in_graph(x[at : at + EVALUATION_ROWS]).numpy() for at in starts])


# ---- generators: a factor model, and the networks that start from it ---------------------------------------------

HIDDEN_ENCODER = (100, 100)  # the published encoder
HIDDEN_DECODER = (100, 32)  # its last layer, the costly one, is added to the loadings
LATENT_CHOICES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)  # latent dimensions to choose from
GAUSSIAN_LATENT = 200  # principal directions in which each type of a Gaussian has a covariance
INNER_FOLDS = 5  # of the training groups, to choose these and radii on
ENOUGH_HELD_OUT = 500  # rows: once inner folds with so many have been held out, the others need not be
MIN_NOISE_SHARE = 0.05  # of a gene's variance within types: what no direction explains
SD_POOLED_ROWS = 10  # rows that a gene's pooled variance counts as, beside those of the type
RADIUS_CHOICES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1)  # sds of log squared radii to choose from; 0 is a Gaussian
FEW_SAMPLES = 2  # of a type, too few to know its covariance
MIN_TO_FIT_LATENTS = 30  # samples of a type, fewer of which say less than the factor model
MODEL_NAMES = {
    "cvae": "conditional autoencoder",
    "vae": "variational autoencoder",
    "ae": "autoencoder",
    "gaussian": "Gaussian of each type",
}
PEAK_RATE = 0.008  # of Adam; tests/benchmarks/generator.py
WARM_UP_SHARE = 0.1  # of the steps
FACTOR_SHAPES = {  # of the arrays of Factors
    "means": ("types", "genes"),
    "loadings": ("latent", "genes"),
    "noise": ("genes",),
    "roots": ("types", "latent", "latent"),
    "mean_error": ("types",),
    "type_sd": ("types", "genes"),
    "radius_sd": (2,),
}
DRAWN_SHAPES = {  # of what else a Generator draws by
    "latent_mean": ("types", "latent"),
    "latent_root": ("types", "latent", "latent"),
    "drawn_mean": ("types", "genes"),
    "drawn_sd": ("types", "genes"),
}


def class_residuals(samples: Samples, types: int) -> tuple[np.ndarray, np.ndarray, Samples]:
    """Return the mean (types, genes) and number (types,) of each type's rows, and the residuals as Samples.

    A residual is a row minus its type's mean, times sqrt(n / (n - 1)) so that its variance is that of the type; a type
    with one row has none. If no type has two rows, half of the variance is taken to be within types.
    """
    x, y = samples.x, samples.y
    counts = np.bincount(y, minlength=types)
    means = sum_by_type(x, y, types) / np.maximum(counts, 1)[:, None].astype(np.float32)
    several = counts[y] > 1
    if not several.any():
        return means, counts, Samples((x - means.mean(0)) * np.float32(math.sqrt(0.5)), y)
    bessel = np.sqrt(counts / np.maximum(counts - 1, 1))[y[several], None].astype(np.float32)
    return means, counts, Samples((x[several] - means[y[several]]) * bessel, y[several])


def mean_error(counts: np.ndarray) -> np.ndarray:
    """Return how much wider than its type a new row spreads around the mean of that many rows (types,)."""
    return np.sqrt(1 + 1 / np.maximum(counts, 1))


@dataclass(frozen=True)
class Factors:
    """A Gaussian of each type c: x = means[c] + mean_error[c] * (z @ loadings + noise * e), z ~ N(0, root.T @ root)."""

    means: np.ndarray  # (types, genes); all are kept in float32
    loadings: np.ndarray  # (latent, genes)
    noise: np.ndarray  # (genes,)
    roots: np.ndarray  # (types, latent, latent); the pooled covariance of z is the identity
    mean_error: np.ndarray  # (types,): what the error of a mean of few rows adds to the spread around it
    type_sd: np.ndarray  # (types, genes), within each type
    radius_sd: np.ndarray  # (2,): how much log squared lengths of z, and of noise, vary beyond a Gaussian's

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            object.__setattr__(self, name, np.ascontiguousarray(values, np.float32))

    @classmethod
    def of_one_covariance(cls, means: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray) -> Factors:
        """Return Gaussians that differ in their means alone, however many rows these are of."""
        types, roots = len(means), np.tile(np.eye(len(loadings)), (len(means), 1, 1))
        type_sd = np.tile(np.sqrt(np.square(loadings).sum(0) + noise_variance), (types, 1))
        return cls(means, loadings, np.sqrt(noise_variance), roots, np.ones(types), type_sd, np.zeros(2))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return the log density (rows, types) of standardised rows x (rows, genes) under each type.

        The inverse covariance is applied in the latent space (Woodbury identity), where all types share the loadings;
        distances are expanded into matrix products, exact enough in float64.
        """
        noise, latent = self.noise.astype(float), len(self.loadings)
        x, means, loadings = x / noise, self.means / noise, self.loadings / noise
        distance = np.square(x).sum(1)[:, None] + np.square(means).sum(1) - 2 * x @ means.T  # (rows, types)
        scores, mean_scores, gram = x @ loadings.T, means @ loadings.T, loadings @ loadings.T
        log_density = np.empty(distance.shape)
        for label, (root, error) in enumerate(zip(self.roots.astype(float), self.mean_error.tolist(), strict=True)):
            lower = np.linalg.cholesky(np.eye(latent) + root @ gram @ root.T)
            projected = root @ (scores - mean_scores[label]).T
            explained = np.square(scipy.linalg.solve_triangular(lower, projected, lower=True)).sum(0)
            log_determinant = 2 * (np.log(np.diag(lower)).sum() + np.log(error * noise).sum())
            log_density[:, label] = np.maximum(distance[:, label] - explained, 0) / error**2 + log_determinant
        return -(log_density + len(noise) * math.log(2 * math.pi)) / 2

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the probability of each type (rows, types) by Bayes' rule with equal priors."""
        return scipy.special.softmax(self.log_density(x), axis=1)


def truncated_pca(residuals: np.ndarray, latent: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return whitened scores (rows, latent), variances (latent,), directions (latent, genes), zero beyond the rank."""
    rank = min(latent, *residuals.shape)
    state = sklearn_seed(stream(seed, "principal components"))
    left, singular, directions = sklearn.utils.extmath.randomized_svd(residuals, rank, n_iter=2, random_state=state)
    fill = latent - rank
    singular = np.where(singular > 1e-5 * singular[0], singular, 0)
    variances = np.pad(singular**2 / len(residuals), (0, fill))
    scores = np.pad(left * (singular > 0) * math.sqrt(len(residuals)), ((0, 0), (0, fill)))
    return scores, variances, np.pad(directions, ((0, fill), (0, 0)))


def remaining_variance(variance: np.ndarray, loadings: np.ndarray, share: float = MIN_NOISE_SHARE) -> np.ndarray:
    """Return what of the variance within types (genes,) the loadings do not explain, at least that share."""
    return np.maximum(variance - np.square(loadings).sum(0), share * variance)


class HeldOutFold(NamedTuple):
    """The residuals of an inner fold, beside what the other folds say."""

    held: Samples  # (held out, genes)
    projected: np.ndarray  # these on the directions (held out, latent)
    directions: np.ndarray  # principal ones of the other folds' residuals (latent, genes)
    scores: Samples  # the other folds' residuals, whitened (rows, latent)
    variance: np.ndarray  # of the other folds' residuals (genes,)

    def log_likelihood(self, variances: np.ndarray) -> float:
        """Return the log likelihood of what is held out, given the variances (latent,) of the first directions."""
        loadings = np.sqrt(variances)[:, None] * self.directions[: len(variances)]
        noise = remaining_variance(self.variance, loadings) + MIN_VARIANCE
        centred = np.zeros((1, len(noise)))
        return Factors.of_one_covariance(centred, loadings, noise).log_density(self.held.x).sum()


def hold_out_folds(samples: Samples, types: int, latent: int, seed: int) -> list[HeldOutFold]:
    """Hold out each inner fold; a fold that shares no type with the others is left out."""
    fold = inner_folds(samples.y, samples.groups, INNER_FOLDS, stream(seed, "inner folds"))
    folds, found = int(fold.max()) + 1, []
    for number in range(min(folds, math.ceil(ENOUGH_HELD_OUT * folds / len(fold)))):
        means, counts, rest = class_residuals(samples.take(fold != number), types)
        held = samples.take((fold == number) & (counts[samples.y] > 0))
        if not len(held) or counts.max() < 2:
            continue
        scores, _, directions = truncated_pca(rest.x, latent, seed)
        error = mean_error(counts)[held.y, None].astype(np.float32)
        held = Samples((held.x - means[held.y]) / error, held.y)  # these stray further from an estimated mean
        scores, variance = Samples(scores, rest.y), np.square(rest.x).mean(0)
        found.append(HeldOutFold(held, held.x @ directions.T, directions, scores, variance))
    return found


def shrink_to_pooled(squares: np.ndarray, count: int, pooled: np.ndarray) -> np.ndarray:
    """Return a covariance (d, d), of the squares of count rows, shrunk to a pooled one as of d rows (Friedman 1989)."""
    return (squares + len(pooled) * pooled) / (count + len(pooled))


def type_roots(scores: Samples, types: int, ledoit_wolf: bool = False) -> np.ndarray:
    """Return roots (types, d, d) of the covariances of each type's whitened scores, shrunk to the pooled one.

    A covariance is root.T @ root, the pooled one the identity, which types of few rows are left with.
    """
    pooled = np.eye(scores.x.shape[1])
    roots = np.tile(pooled, (types, 1, 1))
    for label in np.flatnonzero(np.bincount(scores.y) > FEW_SAMPLES):
        rows = scores.x[scores.y == label]
        if ledoit_wolf:
            covariance = sklearn.covariance.ledoit_wolf(rows, assume_centered=True)[0] + MIN_VARIANCE * pooled
        else:
            covariance = shrink_to_pooled(rows.T @ rows, len(rows), pooled)
        roots[label] = np.linalg.cholesky(covariance).T
    return roots


def choose_radius_sd(squared: np.ndarray, dimensions: int) -> float:
    """Return the sd of log squared radii that makes the squared lengths of whitened rows (rows,) likeliest.

    A row is a Gaussian of that many dimensions times a lognormal radius with mean square 1 (a Gaussian scale mixture,
    Andrews and Mallows 1974), which is integrated out by Gauss-Hermite quadrature.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)

    def log_likelihood(radius_sd: float) -> float:
        log_radius = radius_sd * nodes / 2 - radius_sd**2 / 4
        at_nodes = np.log(weights) - dimensions * log_radius - squared[:, None] / 2 * np.exp(-2 * log_radius)
        return scipy.special.logsumexp(at_nodes, axis=1).sum()

    return max(RADIUS_CHOICES, key=log_likelihood)


def choose_radius_sds(
    folds: list[HeldOutFold], variances: np.ndarray, noise_variance: np.ndarray
) -> tuple[float, float]:
    """Return the sds of log squared radii of latents and of noise that held-out rows are likeliest with."""
    latent, used = len(variances), np.flatnonzero(variances > 0)
    latent_lengths, noise_lengths = [], []  # squared
    for fold in folds:
        z, y = fold.projected[:, used] / np.sqrt(variances[used]), fold.held.y
        roots = type_roots(Samples(fold.scores.x[:, used], fold.scores.y), len(noise_variance)).transpose(0, 2, 1)
        latent_lengths.extend(np.square(np.linalg.solve(roots[y], z[..., None])).sum((1, 2)))
        noise = fold.held.x - fold.projected[:, :latent] @ fold.directions[:latent]
        noise_lengths.extend((np.square(noise) / noise_variance[y]).sum(1))
    genes = max(noise_variance.shape[1] - latent, 1)
    return choose_radius_sd(np.array(latent_lengths), len(used)), choose_radius_sd(np.array(noise_lengths), genes)


def shrink_means(means: np.ndarray, variances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Shrink type means (types, columns) towards their average, each column as far as chance may have spread them.

    variances (columns,) are within types. Empirical Bayes as in James-Stein estimation (Efron and Morris 1975).
    """
    if len(means) == 1:
        return means
    centre, error = means.mean(0), variances / np.maximum(counts, 0.5)[:, None]  # a type without rows has no mean
    between = np.maximum(means.var(0, ddof=1) - error.mean(0), 0)
    return centre + between / (between + error + 1e-9) * (means - centre)


def shrunk_sd(residuals: Samples, types: int) -> np.ndarray:
    """Return the sd (types, genes) within each type, its variance shrunk to the pooled one."""
    counts = np.bincount(residuals.y, minlength=types)[:, None]
    squares = sum_by_type(np.square(residuals.x), residuals.y, types)
    pooled = squares.sum(0) / len(residuals)
    return np.sqrt((squares + SD_POOLED_ROWS * pooled) / (counts + SD_POOLED_ROWS) + MIN_VARIANCE)


def fit_factor_model(samples: Samples, types: int, latent: int | None, seed: int) -> Factors:
    """Fit a Gaussian to each type, sharing as much between types as maximises held-out likelihood.

    The directions are the principal ones within types; their variances are those of rows held out in inner folds,
    which corrects what a few rows exaggerate. latent None chooses the number of directions by held-out likelihood. A
    type's covariance is shrunk to the pooled one, its mean, direction by direction, to that of all types.
    """
    means, counts, residuals = class_residuals(samples, types)
    choices = [latent] if latent else [d for d in LATENT_CHOICES if d <= min(residuals.x.shape)]
    folds = hold_out_folds(samples, types, choices[-1], seed)
    scores, variances, directions = truncated_pca(residuals.x, choices[-1], seed)
    if folds:
        held_out = np.square(np.concatenate([fold.projected for fold in folds])).mean(0)
        variances = np.minimum(variances, held_out)
    latent = max(choices, key=lambda d: sum(fold.log_likelihood(variances[:d]) for fold in folds))
    variances, directions = variances[:latent], directions[:latent]
    loadings = np.sqrt(variances)[:, None] * directions

    variance, type_sd = np.square(residuals.x).mean(0), shrunk_sd(residuals, types)
    unexplained = remaining_variance(variance, loadings)
    type_ratio = np.square(type_sd) / (variance + MIN_VARIANCE)
    radius_sd = choose_radius_sds(folds, variances, (unexplained + MIN_VARIANCE) * type_ratio)
    mean_scores = means @ directions.T  # (types, latent)
    if counts.max() > 1:
        outside = shrink_means(means - mean_scores @ directions, unexplained, counts)
        means = shrink_means(mean_scores, variances, counts) @ directions + outside
    noise, roots = np.sqrt(unexplained + MIN_VARIANCE), type_roots(Samples(scores[:, :latent], residuals.y), types)
    return Factors(means, loadings, noise, roots, mean_error(counts), type_sd, radius_sd)


def fit_gaussian(samples: Samples, types: int, latent: int | None, seed: int) -> Factors:
    """Fit a Gaussian to each type: its mean, and its covariance shrunk to the pooled one within types.

    The shrinkage is that of Ledoit and Wolf (2004), in the latent principal directions within types (None: up to 200),
    in which the pooled covariance is the identity; beyond them genes vary independently.
    """
    means, counts, residuals = class_residuals(samples, types)
    latent = latent or min(GAUSSIAN_LATENT, *residuals.x.shape)
    scores, variances, directions = truncated_pca(residuals.x, latent, seed)
    loadings = np.sqrt(variances)[:, None] * directions
    noise = np.sqrt(remaining_variance(np.square(residuals.x).mean(0), loadings) + MIN_VARIANCE)
    roots = type_roots(Samples(scores, residuals.y), types, ledoit_wolf=True)
    return Factors(means, loadings, noise, roots, mean_error(counts), shrunk_sd(residuals, types), np.zeros(2))


def fit_start(model: str, samples: Samples, types: int, latent: int | None, seed: int) -> Factors:
    """Fit what a generator of that kind starts from: without a condition, one Gaussian for all types."""
    if model == "gaussian":
        return fit_gaussian(samples, types, latent, seed)
    if model == "cvae":
        return fit_factor_model(samples, types, latent, seed)
    pooled = fit_factor_model(replace(samples, y=np.zeros_like(samples.y)), 1, latent, seed)
    means, counts, residuals = class_residuals(samples, types)
    of_types = {"mean_error": mean_error(counts), "type_sd": shrunk_sd(residuals, types), "radius_sd": np.zeros(2)}
    return replace(pooled, means=np.zeros_like(means), roots=np.tile(pooled.roots, (types, 1, 1)), **of_types)


def tobit_moments(mean: np.ndarray, sd: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds of normals that have these once values under the floor are raised to it (Tobin 1958).

    All are (types, genes) except floor, (genes,). Moments that no such normal has are approached.
    """
    height = mean - floor
    near = height < 4 * sd
    height, target = height[near], sd[near]
    centre, spread = height.copy(), target.copy()
    for _ in range(200):
        ratio = centre / spread
        above, density = scipy.special.ndtr(ratio), np.exp(-np.square(ratio) / 2) / math.sqrt(2 * math.pi)
        first = centre * above + spread * density
        second = (np.square(centre) + np.square(spread)) * above + centre * spread * density
        share = np.sqrt(np.maximum(second - np.square(first), 1e-12)) / target
        centre += np.clip(height - first, -target / 2, target / 2)
        spread = np.clip(spread / np.sqrt(share), 0.3 * target, 3 * target)
        centre = np.maximum(centre, -3 * spread)
    mean, sd = mean.copy(), sd.copy()
    mean[near], sd[near] = centre + np.broadcast_to(floor, near.shape)[near], spread
    return mean, sd


class LocationScale(NamedTuple):
    """What is added to what a generator draws of each type, and multiplies what genes share and their own noise."""

    location: np.ndarray  # each (types, genes)
    scale: np.ndarray
    noise_scale: np.ndarray


class Generator:
    """Draws standardised rows of a type c: its mean, plus what a latent z of that type decodes to, plus noise.

    z is drawn from a Gaussian for each type, with mean latent_mean[c] and covariance latent_root[c].T @ latent_root[c].
    A lognormal radius that belongs to the row multiplies it, and another the noise, since samples differ in how far
    they lie from their type in every respect. Each gene then gets the mean and sd of the type; floor (genes,) is the
    least standardised value it can have, and these hold after values under it have been raised to it.
    drawn_mean and drawn_sd (types, genes) are those of what is drawn beside the type's mean, before that. This class
    draws from Factors; a network has a decode_block of its own.
    """

    def __init__(self, kind: str, factors: Factors, floor: np.ndarray) -> None:
        self.kind, self.factors, self.floor = kind, factors, floor
        self.conditional = kind in ("cvae", "gaussian")  # on the type, so that its mean is known
        self.noise, self.latent_root = factors.noise, factors.roots
        self.latent_dim = len(factors.loadings)
        self.latent_mean = np.zeros(factors.roots.shape[:2], np.float32)
        variances = np.array([np.square(root @ factors.loadings).sum(0) for root in factors.roots])
        self.drawn_mean, self.drawn_sd = np.zeros_like(factors.means), np.sqrt(variances + np.square(self.noise))

    def decode_block(self, latent: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the expected genes minus type means (BLOCK, genes) of latents (BLOCK, latent)."""
        return latent @ self.factors.loadings

    def latents(self, y: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Turn standard normals (rows, latent) into latents of types y (rows,)."""
        latent = np.empty_like(normal)
        for label in np.unique(y):
            rows = y == label
            latent[rows] = self.latent_mean[label] + np.einsum("ij,jk", normal[rows], self.latent_root[label])
        return latent

    def location_scale(self, temperature: float, before_counting: Callable | None = None) -> LocationScale:
        """Return what turns what is drawn of each type into rows at that temperature.

        Temperature multiplies how far rows lie from their type's mean. Where samples will be counted, the noise that
        this adds takes the place of the model's, before that of what genes share.
        """
        target = self.factors.means if self.conditional else self.drawn_mean
        target_sd = temperature * self.factors.mean_error[:, None] * self.factors.type_sd
        if before_counting is None:
            mean, sd = tobit_moments(target, target_sd, self.floor)
            scale = noise_scale = sd / self.drawn_sd
        else:
            mean, sd = before_counting(target, target_sd)
            shared = np.sqrt(np.maximum(np.square(self.drawn_sd) - np.square(self.noise), 1e-12))
            scale = np.minimum(target_sd / self.drawn_sd, sd / shared)
            noise_scale = np.sqrt(np.maximum(np.square(sd) - np.square(scale * shared), 0)) / self.noise
        return LocationScale(*(np.float32(part) for part in (mean - scale * self.drawn_mean, scale, noise_scale)))

    def draw(self, y: np.ndarray, rng: np.random.Generator, location_scale: LocationScale) -> np.ndarray:
        """Draw a standardised row (rows, genes) for each of at most BLOCK types y.

        The first rows are the same to the last bit however many follow: latents are drawn and decoded for a whole
        block, since the rounding of a matrix product may depend on its size.
        """
        block = np.zeros(BLOCK, np.int32)
        block[: len(y)] = y
        deviate, radius_sd = rng.standard_normal((BLOCK, 1), dtype=np.float32), self.factors.radius_sd
        radii = np.exp(radius_sd * deviate / 2 - radius_sd**2 / 4)  # (BLOCK, 2), of mean square 1
        normal = rng.standard_normal((BLOCK, self.latent_dim), dtype=np.float32) * radii[:, :1]
        drawn = np.array(self.decode_block(self.latents(block, normal), block))[: len(y)]
        drawn *= location_scale.scale[y]
        noise = rng.standard_normal(drawn.shape, dtype=np.float32)
        for factor in (radii[: len(y), 1:], self.noise, location_scale.noise_scale[y]):
            noise *= factor
        drawn += noise
        drawn += location_scale.location[y]
        return drawn


def generator_learning_rate(steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate over that many steps: linear warm-up, then cosine decay (Loshchilov and Hutter 2017)."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    return keras.optimizers.schedules.CosineDecay(
        PEAK_RATE / warm_up, max(1, steps - warm_up), warmup_target=PEAK_RATE, warmup_steps=warm_up
    )


class CVAE(Generator, Network):
    """Conditional variational autoencoder of standardised rows x of type c that starts as the factor model.

    Its loss, in nats per sample, with encoder mean m and sd s, type means t, loadings W and a noise sd r for each gene:

        -sum over genes of ln N(x | t(c) + z W + f(z, c), r^2)  +  KL(N(m, s^2) || N(0, 1)),   z = m + s * normal
        where m = (x - t(c)) V + g(x - t(c), c)

    This is the CVAE (Sohn, Lee and Yan 2015) with learned noise (Rybkin, Daniilidis and Levine 2021). V and s start
    at the factor model's posterior, which a linear VAE converges to (Lucas et al. 2019), and the networks f and g at
    zero. The VAE (Kingma and Welling 2014) leaves out c and t; the autoencoder leaves out s and the KL as well.
    """

    n_totals = 9

    def __init__(
        self, kind: str, factors: Factors, floor: np.ndarray, unit: tuple[np.ndarray, ...], rng: np.random.Generator
    ) -> None:
        super().__init__(kind, factors, floor)
        self.variational, self.types = kind != "ae", len(factors.means)
        self.unit_scale, self.unit_offset = unit  # (genes,), take standardised genes to [0, 1]
        self.noise_dim, genes = factors.loadings.shape
        condition = self.types * self.conditional
        scaled = factors.loadings / np.square(self.noise)
        posterior = np.linalg.inv(np.eye(self.noise_dim) + scaled @ factors.loadings.T)
        log_variance = np.log(np.diag(posterior)) if self.variational else np.empty(0)
        self.encoder = dense_stack(genes + condition, HIDDEN_ENCODER, self.noise_dim + len(log_variance), rng)
        self.decoder = dense_stack(self.noise_dim + condition, HIDDEN_DECODER, genes, rng)
        for network in (self.encoder, self.decoder):
            network.layers[-1].kernel.assign(np.zeros(network.layers[-1].kernel.shape))
        self.encoder.layers[-1].bias.assign(np.append(np.zeros(self.noise_dim), log_variance))
        self.recognition = keras.Variable(np.float32((posterior @ scaled).T), name="recognition")
        self.loading = keras.Variable(factors.loadings, name="loading")
        self.log_noise = keras.Variable(np.log(self.noise), name="log_noise")
        linear = [self.recognition, self.loading, self.log_noise]
        self.weights = [*self.encoder.trainable_variables, *self.decoder.trainable_variables, *linear]

    def with_condition(self, values: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Append the one-hot types if the model is conditional."""
        return tf.concat([values, tf.one_hot(y, self.types)], 1) if self.conditional else values

    def encode(self, centred: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return mean and log variance (None without a KL) of the latents (rows, latent) of rows minus type means."""
        code = self.encoder(self.with_condition(centred, y))
        mean = tf.matmul(centred, self.recognition) + code[:, : self.noise_dim]
        return mean, code[:, self.noise_dim :] if self.variational else None

    def decode(self, latent: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return the expected genes minus type means (rows, genes) of latents (rows, latent)."""
        return tf.matmul(latent, self.loading) + self.decoder(self.with_condition(latent, y))

    def loss_and_totals(self, x: tf.Tensor, y: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the loss summed over rows, and what `metrics` needs summed over rows, with noise (rows, latent)."""
        rows = tf.cast(tf.size(y), tf.float32)
        centred = x - tf.gather(self.factors.means, y)
        latent, log_variance = self.encode(centred, y)
        kl = tf.zeros(())
        if self.variational:
            kl = tf.reduce_sum(tf.square(latent) + tf.exp(log_variance) - 1 - log_variance) / 2
            latent += tf.exp(log_variance / 2) * noise
        error = centred - self.decode(latent, y)
        squares = tf.reduce_sum(tf.square(error), 0)  # (genes,)
        log_noise = self.log_noise.value
        loss = kl + tf.reduce_sum(squares * tf.exp(-2 * log_noise)) / 2
        loss += rows * tf.reduce_sum(log_noise + math.log(2 * math.pi) / 2)
        # the other metrics are on genes scaled to [0, 1]; their correlation follows from moments that add up
        real = x * self.unit_scale + self.unit_offset
        decoded = real - error * self.unit_scale
        chance = tf.clip_by_value(decoded, 1e-6, 1 - 1e-6)
        log_other = tf.math.log(1 - chance)
        xent = -tf.reduce_sum(real * (tf.math.log(chance) - log_other) + log_other)
        mse = tf.reduce_sum(squares * tf.square(self.unit_scale))
        moments = [tf.reduce_sum(real), tf.reduce_sum(decoded), 2 * tf.nn.l2_loss(real), 2 * tf.nn.l2_loss(decoded)]
        return loss, tf.stack([rows, loss, kl, xent, mse, *moments])

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        """Turn totals over any number of rows into metrics per row or per gene."""
        rows, loss, kl = totals[:3]
        xent, mse, real, decoded, real_square, decoded_square = totals[3:] / (rows * len(self.unit_scale))
        covariance = (real_square + decoded_square - mse) / 2 - real * decoded
        variances = (real_square - real**2) * (decoded_square - decoded**2)
        corr = covariance / math.sqrt(variances) if variances > 0 else 0.0
        return {"loss": loss / rows, "kl": kl / rows, "xent": xent, "mse": mse, "corr": corr}

    def finish(self, samples: Samples, seed: int, trained: bool = True) -> None:
        """Take over the learned noise and fit what draws need to the samples that the network was trained on.

        A conditional network that kept its initial weights (trained is False) keeps the factor model's latents, whose
        covariances account for held-out rows. drawn_mean and drawn_sd are those of a block of each type, in which every
        latent comes with its mirror image and their covariance is the identity, so that what is linear in z has exactly
        its mean and variance.
        """
        self.noise = np.exp(self.log_noise.numpy())
        if trained or not self.conditional:
            self.fit_latents(samples)
        half = stream(seed, "moments").standard_normal((BLOCK // 2, self.latent_dim), dtype=np.float32)
        if self.latent_dim <= len(half):
            half = np.linalg.qr(half)[0] * np.float32(math.sqrt(len(half)))
        normal = np.concatenate([half, -half])
        of_types = (np.full(BLOCK, label, np.int32) for label in range(self.types))
        decoded = (np.array(self.decode_block(self.latents(y, normal), y)) for y in of_types)
        self.drawn_mean, variances = np.array([(block.mean(0), block.var(0)) for block in decoded]).swapaxes(0, 1)
        self.drawn_sd = np.float32(np.sqrt(variances.astype(float) + np.square(self.noise)))

    def fit_latents(self, samples: Samples) -> None:
        """Fit each type's density of latents to the encoder's posteriors N(m, v) of its samples (Ghosh et al. 2020).

        It is a Gaussian with the mean of m and the covariance of m plus the mean of v, shrunk to the pooled one. A
        conditional network keeps the factor model's for types with few samples, since held-out rows of these lie closer
        together than posteriors say.
        """
        latent, log_variance = self.encode(samples.x - self.factors.means[samples.y], samples.y)
        variance = np.exp(log_variance.numpy()) if self.variational else np.zeros(latent.shape)
        means, counts, residuals = class_residuals(Samples(latent.numpy().astype(float), samples.y), self.types)
        pooled = residuals.x.T @ residuals.x / len(residuals) + np.diag(variance.mean(0) + 1e-6)
        self.latent_root = self.latent_root.copy()
        for label in np.flatnonzero(counts >= (MIN_TO_FIT_LATENTS if self.conditional else 1)):
            rows = residuals.x[residuals.y == label]
            squares = rows.T @ rows + np.diag(variance[samples.y == label].sum(0))
            self.latent_mean[label] = means[label]
            self.latent_root[label] = np.linalg.cholesky(shrink_to_pooled(squares, counts[label], pooled)).T

    @functools.cached_property
    def decode_block(self) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
        """The same as `decode`, as a graph for blocks."""
        signature = [tf.TensorSpec((BLOCK, self.noise_dim), tf.float32), tf.TensorSpec((BLOCK,), tf.int32)]
        return tf.function(self.decode, input_signature=signature, autograph=False)


# ---- differential privacy: a Gaussian generator made of noised statistics, and of what everybody may know ---------

PRIVATE_SHARES = {"centre": 0.07, "variances": 0.06, "directions": 0.25, "means": 0.50, "within": 0.06}  # of mu^2
PUBLIC_SHARES = {"centre": 0.07, "means": 0.89}  # beside a public table
RADIUS_SHARE = 0.01  # for the radius that each of them is clipped to
SCALE_SHARE = 0.01  # for the vote of patients on the scale of the table
LOG2_MAX = 20.0  # of log2(x + 1): a million; values beyond it, and under 0, are moved there
LOG2_CENTRE = 5.0  # from which the first release measures; missing values count as it there
RADII = 1.25 ** np.arange(-16, 15)  # to choose from, times the square root of the number of columns
WITHIN_RADIUS = 0.3  # share of patients that are not clipped: fewer means less noise and more bias
VARIABLE_GENES = 0.1  # per patient and unit of mu: the most variable genes, which are modelled by type
PUBLIC_DIRECTIONS = 0.16  # per patient and unit of mu, at most MAX_DIRECTIONS
MAX_DIRECTIONS = 200
EDGE_SHARE = 0.1  # of the largest eigenvalue of noise alone: directions of less variance are left out
MIN_GENE_NOISE = 0.2  # share of a gene's variance that no direction explains
MIN_MU_PATIENTS = 40.0  # mu times the patients of a type, on average; half beside a public table, or in one type
MIN_MU_ALL = 300.0  # mu times all patients: with fewer, radii are guesses
MAX_CENTRE_NOISE = 1.0  # sd of a gene's mean, log2
MAX_SCALE_RATIO = 4.0  # of the lengths of private and public samples
MIN_PUBLIC = 50  # samples


@dataclass(frozen=True)
class Privacy:
    """What a fit guarantees for one unit: mu-Gaussian differential privacy, which implies (epsilon, delta)."""

    epsilon: float
    delta: float
    mu: float
    attack_ceiling: float  # the AUC that no membership attack can exceed
    unit: str
    public: tuple[str, ...]  # what is not protected
    releases: dict[str, float]  # mu of each noised statistic
    bounds: dict[str, float]  # radius that samples were clipped to for it


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the delta for which mu-Gaussian DP is (epsilon, delta)-DP (Balle and Wang 2018; Dong et al. 2022)."""
    ndtr, log_ndtr = scipy.special.ndtr, scipy.special.log_ndtr
    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest mu for which mu-Gaussian DP is (epsilon, delta)-DP, less a millionth for rounding."""
    most = math.sqrt(2 * epsilon) + 20
    return (1 - 1e-6) * scipy.optimize.brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, 1e-4, most, rtol=1e-9)


def least_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon that allows for that mu, rounded up to a tenth."""
    found = scipy.optimize.brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0, (mu + 20) ** 2)
    return math.ceil(10 * found) / 10


def system_normal(shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard normals from the operating system's cryptographic generator, by inversion of 53 random bits.

    Whoever knows a seed can subtract its noise, and numpy's generators are not built to keep their state secret.
    """
    bits = np.frombuffer(secrets.token_bytes(8 * math.prod(shape)), np.uint64) >> np.uint64(11)
    return scipy.special.ndtri((bits + 0.5) * 2.0**-53).reshape(shape)


class Mechanism:
    """Releases statistics of private samples with Gaussian noise; all of them together are mu-Gaussian DP.

    Each of a patient's n samples has weight 1 / n, so that whatever bounds the contribution of one row bounds that of
    a patient. Releases compose exactly: their mu^2 add up (Dong, Roth and Su 2022).
    """

    def __init__(self, mu: float, shares: dict[str, float], groups: np.ndarray) -> None:
        _, patient, samples = np.unique(groups, return_inverse=True, return_counts=True)
        self.mu, self.weights, self.patients = mu, 1 / samples[patient], len(samples)
        shares = shares | {f"{name} radius": RADIUS_SHARE for name in shares} | {"scale": SCALE_SHARE}
        self.mus = {name: mu * math.sqrt(share / sum(shares.values())) for name, share in shares.items()}
        self.bounds: dict[str, float] = {}

    def release(self, name: str, statistic: np.ndarray, sensitivity: float) -> tuple[np.ndarray, float]:
        """Return the statistic with noise, and its sd; no replaced patient changes it by more than sensitivity."""
        sd = sensitivity / self.mus[name]
        return statistic + sd * system_normal(statistic.shape), sd

    def clip(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Shorten rows to a radius, which is chosen by a release of its own: a histogram of their lengths.

        A replaced patient takes a weight of 1 from some bins and adds it to others: sqrt(2).
        """
        rows = rows.astype(float)
        lengths, radii = np.linalg.norm(rows, axis=1), RADII * math.sqrt(rows.shape[1])
        place = np.minimum(np.searchsorted(radii, lengths), len(radii) - 1)
        histogram, _ = self.release(f"{name} radius", np.bincount(place, self.weights, len(radii)), math.sqrt(2))
        enough = np.cumsum(histogram)[:-1] >= WITHIN_RADIUS * self.patients
        self.bounds[name] = radius = float(radii[np.argmax(np.append(enough, True))])
        return rows * np.minimum(1, radius / np.maximum(lengths, 1e-12))[:, None], radius

    def means(
        self, name: str, rows: np.ndarray, y: np.ndarray | None = None, apart: float = 2
    ) -> tuple[np.ndarray, np.ndarray]:
        """Release the mean (types, columns) of each type's rows, without y of all rows, and its noise's sd (types, 1).

        The sums of all types are one vector, to which a patient of whatever types adds at most a radius; those of two
        patients are at most two radii apart, or sqrt(2) of them where no value is negative.
        """
        rows, radius = self.clip(name, rows)
        y = np.zeros(len(rows), np.int64) if y is None else y
        patients = np.bincount(y, self.weights)[:, None]
        sums = sum_by_type(rows * self.weights[:, None], y, len(patients))
        sums, sd = self.release(name, sums, apart * radius)
        return sums / patients, sd / patients

    def second_moment(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Release the mean of x x' (columns, columns), and its noise's sd on the diagonal, sqrt(2) times any other's.

        Positive semidefinite matrices of Frobenius norm radius^2 are at most sqrt(2) radius^2 apart.
        """
        rows, radius = self.clip(name, rows)
        moment, sd = self.release(name, rows.T @ (rows * self.weights[:, None]), math.sqrt(2) * radius**2)
        return (moment + moment.T) / 2 / self.patients, sd / self.patients


def shrink_noised_means(means: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Shrink noised type means (types, columns) to 0, each column as far as noise explains (Efron and Morris 1975)."""
    weight = 1 / np.square(sd)
    between = np.maximum((weight * (np.square(means) - np.square(sd))).sum(0) / weight.sum(), 0)
    return means * between / (between + np.square(sd))


def shrink_variances(variances: np.ndarray, sd: float, minimum: float) -> np.ndarray:
    """Shrink noised variances to their mean, as far as noise explains their spread; at least minimum times that."""
    mean = max(float(variances.mean()), MIN_VARIANCE)
    signal = max(1 - sd**2 / max(float(variances.var()), 1e-12), 0)
    return np.maximum(mean + signal * (variances - mean), minimum * mean)


def shrink_covariance(covariance: np.ndarray, sd: float) -> np.ndarray:
    """Shrink a noised covariance to its shrunk diagonal, as far as noise explains the rest."""
    variances = np.diag(covariance)
    beside = covariance - np.diag(variances)
    signal = max(1 - sd**2 / 2 * beside.size / max(float(np.square(beside).sum()), 1e-12), 0)
    values, vectors = np.linalg.eigh(np.diag(shrink_variances(variances, sd, 0.05)) + signal * beside)
    return (vectors * np.maximum(values, 0.05 * max(values.mean(), MIN_VARIANCE))) @ vectors.T


def check_size(mechanism: Mechanism, training: Cohort, epsilon: float, delta: float, beside_public: bool) -> None:
    """Refuse what noise would drown, as told by what is public: numbers of patients, types and genes."""
    mu, n, genes = mechanism.mu, mechanism.patients, len(training.genes)
    types, y = np.unique(training.types, return_inverse=True)
    patients = np.bincount(y, mechanism.weights)
    enough = mu * min(patients.mean(), 2 * patients.min())
    with_public = max(MIN_MU_PATIENTS / 2, MIN_MU_ALL / len(types)) / enough
    lack = with_public if beside_public else max(MIN_MU_PATIENTS / enough, with_public)  # of patients, or of mu
    what = (
        f"types of {patients.mean():.3g} training patients on average and of {patients.min():.3g} in "
        f"{str(types[patients.argmin()])!r} (a patient's samples count as one)"
    )
    helps = ", or --public" if lack > with_public and with_public <= 1 else ""
    if lack <= 1 and not beside_public:
        bearable = (MAX_CENTRE_NOISE * n * mechanism.mus["centre"] / (2 * LOG2_CENTRE)) ** 2
        lack, what = math.sqrt(genes / bearable), f"{genes} genes ({n} patients bear {bearable:.0f})"
        helps = ", --public, or fewer genes, chosen by their variance in a public table"
    if lack > 1:
        raise RnagenError(
            f"--epsilon {epsilon:g}: noise would drown {what}; use {math.ceil(10 * lack) / 10:g} times as many "
            f"patients, --epsilon {least_epsilon(mu * lack, delta):g}{helps}"
        )


def align_public(training: Cohort, public: Cohort) -> Cohort:
    """Return the public table with the private one's genes; refuse one that lacks any, or that shares patients."""
    missing = np.setdiff1d(training.genes, public.genes)
    if shared := {*training.samples, *training.groups} & {*public.samples, *public.groups}:
        fault = f"has {len(shared)} samples or patients of the private table ({list_some(shared)}), which would not be "
        fault += "protected; remove them from one of the tables"
    elif len(missing):
        fault = f"lacks {len(missing)} of {len(training.genes)} genes ({list_some(missing)}); add them, or remove "
        fault += "them from the private table"
    elif len(public.samples) < MIN_PUBLIC:
        fault = f"has {len(public.samples)} samples; add some, up to {MIN_PUBLIC}"
    else:
        return public.with_genes(training.genes)
    raise RnagenError(f"--public {public.name}: {fault}")


def vote_on_scale(mechanism: Mechanism, expression: np.ndarray) -> str:
    """Release which transform the values of most patients ask for; a replaced patient moves one vote: sqrt(2)."""
    votes = [TRANSFORMS.index(resolve_transform(row[None], "auto")) for row in expression]
    histogram, _ = mechanism.release("scale", np.bincount(votes, mechanism.weights, len(TRANSFORMS)), math.sqrt(2))
    return TRANSFORMS[int(histogram.argmax())]


def private_scale(mechanism: Mechanism, training: Cohort, transform: str) -> tuple[Preprocessing, np.ndarray]:
    """Release the mean and sd of each gene; return them as a Preprocessing, and the standardised samples.

    No gene counts as constant, nothing is rounded, and where depth is divided by, it is a million for all samples.
    """
    one = np.ones(len(training.genes), np.float32)
    depths = len(set(training.types)) * (transform == "cpm")
    log_depth = np.tile(np.float32([math.log(1e6), 0]), (depths, 1))
    fixed = (one > 0, np.nan * one, LOG2_CENTRE * one, one, 0 * one, LOG2_MAX * one)
    scale = Preprocessing(*fixed, transform, 0.0, False, log_depth)
    rows = np.clip(scale.standardise(training.expression), -LOG2_CENTRE, LOG2_MAX - LOG2_CENTRE)
    centre = np.clip(LOG2_CENTRE + mechanism.means("centre", rows)[0][0], 0, LOG2_MAX).astype(np.float32)
    scale = replace(scale, mean=centre)
    rows = np.clip(scale.standardise(training.expression), -centre, LOG2_MAX - centre)
    variances, sd = mechanism.means("variances", np.square(rows), apart=math.sqrt(2))
    scale = replace(scale, sd=np.sqrt(shrink_variances(variances[0], sd.item(), 0.3)).astype(np.float32))
    return scale, rows / scale.sd


def private_factors(means: np.ndarray, loadings: np.ndarray, variance: np.ndarray) -> Factors:
    """Return Gaussians of those means (types, genes) and variance within types (genes,)."""
    noise = np.maximum(remaining_variance(variance, loadings, MIN_GENE_NOISE), MIN_GENE_NOISE**2)
    return Factors.of_one_covariance(means, loadings, noise)


def release_generator(
    mechanism: Mechanism, training: Cohort, y: np.ndarray, transform: str
) -> tuple[Preprocessing, Factors]:
    """Release all that a generator consists of: scale, directions, and along these type means and their covariance."""
    scale, rows = private_scale(mechanism, training, transform)
    genes = np.argsort(-scale.sd, kind="stable")[: math.ceil(VARIABLE_GENES * mechanism.patients * mechanism.mu)]
    moment, sd = mechanism.second_moment("directions", rows[:, genes])
    values, vectors = np.linalg.eigh(moment)
    edge = math.sqrt(2 * len(genes)) * sd  # of the spectrum of symmetric noise (Wigner 1958)
    count = int(np.clip((values > max(EDGE_SHARE * edge, MIN_VARIANCE)).sum(), 1, MAX_DIRECTIONS))
    spread, vectors = np.sqrt(np.maximum(values[-count:], MIN_VARIANCE)), vectors[:, -count:]
    decode = np.zeros((count, rows.shape[1]))
    decode[:, genes] = (vectors * spread).T  # rows are about z @ decode
    z = rows[:, genes] @ (vectors / spread)  # of variance 1
    z_means = shrink_noised_means(*mechanism.means("means", z, y))
    within = shrink_covariance(*mechanism.second_moment("within", z - z_means[y]))
    means = z_means @ decode
    variance = 1 - np.bincount(y) / len(y) @ np.square(means)  # within types: rows are standardised
    return scale, private_factors(means, np.linalg.cholesky(within).T @ decode, variance)


def release_means(
    mechanism: Mechanism, training: Cohort, y: np.ndarray, public: Cohort, transform: str
) -> tuple[Preprocessing, Factors]:
    """Release the type means alone and take all else from the public table."""
    public_types, public_y = np.unique(public.types, return_inverse=True)
    scale = Preprocessing.fit(public.expression, transform, np.full(len(public_y), "all"))
    scale = replace(scale, log_depth=np.repeat(scale.log_depth, y.max() + 1, axis=0))
    rows, known = (np.clip(scale.standardise(cohort.expression), -100, 100) for cohort in (training, public))
    _, _, residuals = class_residuals(Samples(known, public_y), len(public_types))
    most = min(math.ceil(PUBLIC_DIRECTIONS * mechanism.patients * mechanism.mu), MAX_DIRECTIONS, *known.shape)
    _, variances, directions = truncated_pca(residuals.x, most, seed=0)
    kept = variances > MIN_VARIANCE
    loadings = np.sqrt(variances[kept])[:, None] * directions[kept]
    z, public_z = (part @ (loadings / variances[kept, None]).T for part in (rows, known))
    centre, _ = mechanism.means("centre", z)
    ratio = mechanism.bounds["centre"] / np.median(np.linalg.norm(public_z, axis=1))
    if not 1 / MAX_SCALE_RATIO < ratio < MAX_SCALE_RATIO:
        raise RnagenError(
            f"--public {public.name}: private samples lie {ratio:.2g} times as far from its mean as its own; give both "
            f"tables in the same units"
        )
    means = centre + shrink_noised_means(*mechanism.means("means", z - centre, y))
    return scale, private_factors(means @ loadings, loadings, np.square(residuals.x).mean(0))


def fit_private(
    training: Cohort, public: Cohort | None, epsilon: float, delta: float, transform: str
) -> tuple[Preprocessing, Factors, Privacy]:
    """Fit a Gaussian of each type with (epsilon, delta)-DP for one patient (group) of the training samples.

    Neighbours differ in one patient's samples, for any others of the same number and types. Types differ along a
    subspace and share their covariance. Whatever follows a release, as shrinkage does, costs no privacy.
    """
    shares = PRIVATE_SHARES if public is None else PUBLIC_SHARES
    mechanism = Mechanism(gaussian_mu(epsilon, delta), shares, training.groups)
    check_size(mechanism, training, epsilon, delta, public is not None)
    voted = vote_on_scale(mechanism, training.expression)
    y = np.unique(training.types, return_inverse=True)[1]
    known = ["gene and type names", "samples of each type, and which are one patient's", "all settings"]
    if public is None:
        if transform == "none" != voted:
            raise RnagenError(
                f"--transform none: takes log2 from 0 to {LOG2_MAX:g}, and most private samples look like counts "
                f"or TPM; use --transform {voted}"
            )
        scale, factors = release_generator(mechanism, training, y, voted if transform == "auto" else transform)
        known.append(f"that expression lies from 0 to {LOG2_MAX:g} in log2")
    else:
        public = align_public(training, public)
        if voted != (of_public := resolve_transform(public.expression, "auto")):
            raise RnagenError(
                f"--public {public.name}: asks for --transform {of_public}, and most private samples for {voted}; give "
                f"both tables in the same units"
            )
        scale, factors = release_means(mechanism, training, y, public, transform)
        known.append(f"the table {public.name}")
    ceiling = float(scipy.special.ndtr(mechanism.mu / math.sqrt(2)))
    unit = "one patient (group): its samples replaced by any others of the same number and types"
    privacy = Privacy(epsilon, delta, mechanism.mu, ceiling, unit, tuple(known), mechanism.mus, mechanism.bounds)
    return scale, factors, privacy


# ---- sampling: synthetic samples in the table's units, as tables, from a generator that can be kept ---------------

DRAWN_AHEAD = 2**28  # bytes of blocks under way at most, and two blocks anyway
ROW_GROUP = 8 * BLOCK  # rows of a parquet row group
MODEL_FORMAT = 4  # of model files; any other is refused
MAX_LATENT = 1000
UNUSABLE = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)  # what a damaged model file raises
SCALE_SHAPES = {  # of the arrays of a Preprocessing; its genes are those that vary
    **dict.fromkeys(("kept", "constant"), ("all genes",)),
    **dict.fromkeys(("mean", "sd", "low", "span"), ("genes",)),
    "log_depth": ("depths", 2),
}
TENSOR_SHAPES = {  # of a model file, to which a network adds its weights
    **SCALE_SHAPES,
    **{f"factor_{name}": axes for name, axes in FACTOR_SHAPES.items()},
    **DRAWN_SHAPES,
    "counts": ("types",),
    "likelihoods": ("quantiles",),
}
TENSOR_TYPES = {"kept": "uint8", "counts": "int64"}  # all others are float32


@dataclass(frozen=True)
class SamplingPlan:
    """How many synthetic samples of which type are wanted: exact counts, as many as balance, or random types."""

    n_samples: int
    per_type: tuple[tuple[str, int], ...] = ()
    balance: bool = False

    def labels(self, types: np.ndarray, counts: np.ndarray, seed: int, purpose: str) -> np.ndarray:
        """Return a type code for each synthetic sample: exact counts type after type, otherwise uniformly random."""
        if self.balance:
            return np.repeat(np.arange(len(types)), counts.max() - counts)
        if not self.per_type:
            return stream(seed, f"{purpose} types").integers(len(types), size=self.n_samples)
        names, numbers = zip(*self.per_type, strict=True)
        return np.repeat(pd.Index(types).get_indexer(names), numbers)

    def check(self, types: Iterable[str]) -> None:
        """Find out whether all types that are asked for are known."""
        known = sorted(set(types))
        if unknown := [name for name, _ in self.per_type if name not in known]:
            raise RnagenError(f"--per_type {unknown[0]}: no such type; the types are {', '.join(known)}")


def shard_blocks(rows: int, part: int = 1, parts: int = 1) -> range:
    """Return the numbers of the blocks that so many rows are drawn in, or of one of several parts of them."""
    blocks = math.ceil(rows / BLOCK)
    return range(blocks * (part - 1) // parts, blocks * part // parts)


@dataclass(frozen=True)
class Sampler:
    """A trained generator with all that it takes to draw samples in a table's own terms."""

    model: Generator
    preprocessing: Preprocessing
    genes: np.ndarray  # names (all genes,)
    types: np.ndarray  # names (types,)
    counts: np.ndarray  # training samples of each type (types,)
    trained_on: str = ""  # fingerprint of their ids
    likelihoods: np.ndarray | None = None  # quantiles (101,) of log density of held-out samples
    privacy: Privacy | None = None

    @functools.cached_property
    def location_scales(self) -> dict[float, LocationScale]:
        """Those found so far, by temperature: for many genes they take seconds."""
        return {}

    def draw(
        self, labels: np.ndarray, seed: int, purpose: str, temperature: float = 1.0, blocks: range | None = None
    ) -> Iterator[np.ndarray]:
        """Yield synthetic samples of the given type codes in the input's units, in blocks (at most BLOCK, all genes).

        Each block has a random stream of its own, so that blocks can be drawn side by side, or elsewhere (blocks says
        which, all by default), and the first samples do not depend on how many follow. Samples for one purpose are
        independent of those for another.
        """
        known = self.location_scales
        if temperature not in known:
            counting = self.preprocessing.before_counting if self.preprocessing.gives_counts else None
            known[temperature] = self.model.location_scale(temperature, counting)
        location_scale = known[temperature]

        def draw_block(number: int) -> np.ndarray:
            y = labels[number * BLOCK : (number + 1) * BLOCK]
            rng = stream(seed, f"{purpose} rows", number)
            return self.preprocessing.restore(self.model.draw(y, rng, location_scale), y, rng)

        room = max(2, DRAWN_AHEAD // (4 * BLOCK * len(self.genes)))
        threads = min(2 * CORES, room)  # while one waits for the decoder another draws noise
        ahead = min(threads + ROW_GROUP // BLOCK, room)  # so that none rests while a row group is written
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque = deque()
            for number in shard_blocks(len(labels)) if blocks is None else blocks:
                waiting.append(pool.submit(draw_block, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def samples_after(
        self, real: Samples, scale: Preprocessing, labels: np.ndarray, seed: int, purpose: str, temperature: float = 1.0
    ) -> Samples:
        """Return the real samples and then synthetic ones of the given type codes, read back, in one array."""
        both = real.with_room(labels)
        for number, block in enumerate(self.draw(labels, seed, purpose, temperature)):
            start = len(real) + number * BLOCK
            both.x[start : start + len(block)] = scale.standardise(block)
        return both


def released_parameters(sampler: Sampler, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what a saved generator tells of the types drawn, without drawing, in training units, for attacks on it.

    These are type means (types, all genes) and, where it is a factor model of few genes, the covariance within types.
    """
    fitted, model = sampler.preprocessing, sampler.model
    constant = np.nan_to_num(fitted.constant)
    means = np.tile(constant if fitted.transform == "none" else np.log2(constant + 1), (len(sampler.types), 1))
    centres = model.factors.means if model.conditional else model.drawn_mean
    means[:, fitted.kept] = centres * fitted.sd + fitted.mean
    means = means[np.isin(sampler.types, drawn)]
    if model.kind != "gaussian" or len(fitted.kept) > MANY_GENES:
        return means, None
    covariance = MIN_VARIANCE * np.eye(len(fitted.kept))
    within = model.factors.loadings.T @ model.factors.loadings + np.diag(np.square(model.noise))
    covariance[np.ix_(fitted.kept, fitted.kept)] = within * np.outer(fitted.sd, fitted.sd)
    return means, covariance


def sample_ids(start: int, end: int) -> np.ndarray:
    """Return the ids of the synthetic samples from start to before end."""
    return np.array([f"synthetic_{number:06d}" for number in range(start + 1, end + 1)], dtype=object)


def arrow_tables(
    sampler: Sampler, labels: np.ndarray, first: int, blocks: Iterator[np.ndarray], at_once: int
) -> Iterator[pyarrow.Table]:
    """Yield so many blocks at once as an Arrow table with ids and types; NaN, which was never measured, is missing."""
    columns = np.empty((len(sampler.genes), at_once * BLOCK), np.float32)  # Arrow is slow on short ones
    for start in range(0, len(labels), at_once * BLOCK):
        end = start
        for block in itertools.islice(blocks, at_once):
            columns[:, end - start : end - start + len(block)] = block.T
            end += len(block)
        arrays = [sample_ids(first + start, first + end), sampler.types[labels[start:end]].astype(object)]
        arrays += [pyarrow.array(column, from_pandas=True) for column in columns[:, : end - start]]
        yield pyarrow.Table.from_arrays(arrays, ["Sample", "type", *sampler.genes])


def write_text(path: Path, sampler: Sampler, labels: np.ndarray, first: int, blocks: Iterator[np.ndarray]) -> None:
    """Write delimited text: floats as the shortest that reads back as the same float32, missing as nothing."""
    separator = "," if path.name.endswith((".csv", ".csv.gz")) else "\t"
    header = io.StringIO()
    csv.writer(header, delimiter=separator, lineterminator="\n").writerow(["Sample", "type", *sampler.genes])
    quoted = any(set(label) & set('"\r\n,\t') for label in sampler.types)  # Arrow quotes every word or none
    options = {"include_header": False, "delimiter": separator, "quoting_style": "needed" if quoted else "none"}
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else open(path, "wb") as file:
        file.write(header.getvalue().encode())
        for table in arrow_tables(sampler, labels, first, blocks, 1):
            pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(**options))


def write_parquet(path: Path, sampler: Sampler, labels: np.ndarray, first: int, blocks: Iterator[np.ndarray]) -> None:
    """Write parquet, compressed by snappy, in large row groups, each of which costs the footer."""
    columns = {"Sample": pyarrow.string(), "type": pyarrow.string()}
    columns |= dict.fromkeys(sampler.genes.tolist(), pyarrow.float32())
    options = {"compression": "snappy", "use_dictionary": ["type"], "write_statistics": False}
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema(columns), **options) as file:
        for table in arrow_tables(sampler, labels, first, blocks, ROW_GROUP // BLOCK):
            file.write_table(table, row_group_size=ROW_GROUP)


def write_h5ad(path: Path, sampler: Sampler, labels: np.ndarray, first: int, blocks: Iterator[np.ndarray]) -> None:
    """Write AnnData's layout on disk, X block after block."""
    rows, genes = len(labels), len(sampler.genes)
    if hasattr(os, "posix_fallocate"):  # HDF5 can crash on a full disk: find out by other means
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, rows * (4 * genes + 64) + 2**20)
    types = pd.Categorical.from_codes(labels, sampler.types.astype(object))
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        anndata.io.write_elem(file, "obs", pd.DataFrame({"type": types}, sample_ids(first, first + rows)))
        anndata.io.write_elem(file, "var", pd.DataFrame(index=sampler.genes.astype(object)))
        matrix = file.create_dataset("X", (rows, genes), np.float32)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for number, block in enumerate(blocks):
            matrix[number * BLOCK : number * BLOCK + len(block)] = block


WRITERS = {
    **dict.fromkeys((".tsv", ".csv", ".tsv.gz", ".csv.gz"), write_text),
    ".parquet": write_parquet,
    ".h5ad": write_h5ad,
}


def check_gene_names(path: Path, genes: np.ndarray) -> None:
    """Find out whether a synthetic table with these genes would read back as one: only .h5ad keeps columns apart."""
    taken = sorted({"Sample", "Cancer_type_id", "type", "group"} & set(genes.tolist()))
    if taken and path.suffix != ".h5ad":
        raise RnagenError(f"--output {path}: a gene is named {taken[0]!r}, like a column that is none; write an .h5ad")


def write_samples(
    path: Path,
    sampler: Sampler,
    labels: np.ndarray,
    temperature: float,
    seed: int,
    shard: tuple[int, int] = (1, 1),
    report: Listener = ignore,
) -> dict[str, Any]:
    """Draw a synthetic sample for each type code, or for this shard's, and write them; return the entry in results."""
    start = time.perf_counter()
    write = next(writer for suffix, writer in WRITERS.items() if path.name.endswith(suffix))
    blocks = shard_blocks(len(labels), *shard)
    first, last = (min(block * BLOCK, len(labels)) for block in (blocks.start, blocks.stop))

    def draw_and_report() -> Iterator[np.ndarray]:
        for block in sampler.draw(labels, seed, "output", temperature, blocks):
            report(Progress(len(block), last - first))
            yield block

    with replacing(path) as beside:
        write(beside, sampler, labels[first:last], first, draw_and_report())
    seconds = time.perf_counter() - start
    entry = {"path": str(path), "n": last - first, "temperature": temperature, "seconds": seconds}
    return entry | ({"shard": list(shard), "first": first + 1, "of": len(labels)} if shard[1] > 1 else {})


def save_model(path: Path, sampler: Sampler) -> None:
    """Write a generator to path as plain tensors and JSON (safetensors), whole or not at all."""
    model, fitted = sampler.model, sampler.preprocessing
    tensors = {name: getattr(fitted, name) for name in SCALE_SHAPES}
    tensors |= {f"factor_{name}": getattr(model.factors, name) for name in FACTOR_SHAPES}
    tensors |= {name: getattr(model, name) for name in DRAWN_SHAPES}
    tensors["counts"] = sampler.counts
    tensors["likelihoods"] = [] if sampler.likelihoods is None else sampler.likelihoods
    if isinstance(model, CVAE):
        tensors |= {f"weight_{number:02d}": weight for number, weight in enumerate(model.copy_weights())}
    settings = {
        "format": MODEL_FORMAT,
        "rnagen": __version__,
        "model": model.kind,
        "latent_dim": model.latent_dim,
        "trained_on": sampler.trained_on,
        "privacy": sampler.privacy and asdict(sampler.privacy),
        "genes": sampler.genes.tolist(),
        "types": sampler.types.tolist(),
        "transform": fitted.transform,
        "whole": fitted.whole,
        "floor": fitted.floor if math.isfinite(fitted.floor) else None,
    }
    arrays = {name: np.ascontiguousarray(values, TENSOR_TYPES.get(name, "float32")) for name, values in tensors.items()}
    with replacing(path) as beside:
        beside.write_bytes(safetensors.numpy.save(arrays, {"rnagen": json.dumps(settings)}))


def load_model(path: Path) -> Sampler:
    """Read a generator that save_model wrote, believing nothing of what the file says."""
    if not path.is_file():
        raise RnagenError(f"--load_model {path}: no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            settings = json.loads((file.metadata() or {}).get("rnagen", "null"))
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if not isinstance(settings, dict):
            raise ValueError("it was not written by rnagen")
        if settings["format"] != MODEL_FORMAT:
            raise ValueError(f"format {settings['format']!r}, and this rnagen {__version__} reads {MODEL_FORMAT}")
        return rebuild_sampler(settings, tensors)
    except (*UNUSABLE, safetensors.SafetensorError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:200]
        raise RnagenError(f"--load_model {path}: cannot be used ({reason}); save it again with --save_model") from error


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError unless a model file's settings are all there and of the right kind."""
    for name in ("genes", "types"):
        names = settings[name]
        if not isinstance(names, list) or len({one for one in names if isinstance(one, str)}) < max(len(names), 1):
            raise ValueError(f"{name} is no list of different names")
        if "\0" in "".join(names).encode().decode():  # encode: half a surrogate pair is a ValueError
            raise ValueError(f"{name} hold a null character")
    latent_dim, floor = settings["latent_dim"], settings["floor"]
    valid = {
        "model": settings["model"] in MODEL_NAMES,
        "latent_dim": type(latent_dim) is int and 1 <= latent_dim <= MAX_LATENT,
        "transform": settings["transform"] in TRANSFORMS,
        "whole": type(settings["whole"]) is bool,
        "floor": floor is None or (type(floor) in (int, float) and math.isfinite(floor)),
        "trained_on": re.fullmatch("([0-9a-f]{64})?", settings["trained_on"]),
        "privacy": settings["privacy"] is None or Privacy(**settings["privacy"]),
    }
    for name, right in valid.items():
        if not right:
            raise ValueError(f"{name} {settings[name]!r}")


def read_tensor(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor of that name; ValueError unless it is finite, of that shape and of the dtype it must have."""
    found, dtype = tensors[name], TENSOR_TYPES.get(name, "float32")
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, not {dtype} {shape}")
    if name != "constant" and not np.isfinite(found).all():
        raise ValueError(f"{name} has values that are no numbers")
    return found


def read_tensors(tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of a model file but the weights of its network, each checked."""
    sizes = {"all genes": len(settings["genes"]), "genes": np.count_nonzero(tensors["kept"])}
    sizes |= {"types": len(settings["types"]), "latent": settings["latent_dim"]}
    sizes["depths"] = sizes["types"] if settings["transform"] == "cpm" else 0
    sizes["quantiles"] = 101 if tensors["likelihoods"].size else 0
    shapes = {name: tuple(sizes.get(axis, axis) for axis in axes) for name, axes in TENSOR_SHAPES.items()}
    found = {name: read_tensor(tensors, name, shape) for name, shape in shapes.items()}
    if min(found["sd"].min(), found["span"].min()) <= 0:
        raise ValueError("sd or span is not above 0")
    spreads = ("factor_noise", "factor_mean_error", "factor_type_sd", "drawn_sd")
    if min(found[name].min() for name in spreads) < MIN_VARIANCE or not 0 <= min(found["factor_radius_sd"]) <= 1:
        raise ValueError("a spread is not above 0")
    if found["counts"].min() < 0 or found["counts"].max() > 10**9:
        raise ValueError("counts are no numbers of samples")
    return found


def rebuild_sampler(settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Sampler:
    """Make a sampler of a model file's settings and tensors, checking every size before it is used."""
    check_settings(settings)
    found = read_tensors(tensors, settings)
    scale = {name: found[name] for name in SCALE_SHAPES} | {"kept": found["kept"] > 0}
    floor = -math.inf if settings["floor"] is None else float(settings["floor"])
    fitted = Preprocessing(**scale, transform=settings["transform"], floor=floor, whole=settings["whole"])
    factors = Factors(*(found[f"factor_{name}"] for name in FACTOR_SHAPES))
    if settings["model"] == "gaussian":
        model = Generator("gaussian", factors, fitted.lowest)
    else:
        start_tensorflow()
        replaced = stream(0, "weights that are replaced")
        model = CVAE(settings["model"], factors, fitted.lowest, fitted.unit_scale, replaced)
        shapes = {f"weight_{number:02d}": tuple(weight.shape) for number, weight in enumerate(model.weights)}
        model.assign_weights([read_tensor(tensors, name, shape) for name, shape in shapes.items()])
        model.noise = np.exp(model.log_noise.numpy())
    for name in DRAWN_SHAPES:
        setattr(model, name, found[name])
    genes, types = np.array(settings["genes"]), np.array(settings["types"])
    likelihoods = found["likelihoods"] if len(found["likelihoods"]) else None
    privacy = settings["privacy"] and Privacy(**settings["privacy"])
    return Sampler(model, fitted, genes, types, found["counts"], settings["trained_on"], likelihoods, privacy)


# ---- training a generator: of any kind, from a dataset -----------------------------------------------------------

UNUSED_LATENT = 0.1  # nats of KL per sample below which the latent carries nothing


@dataclass(frozen=True)
class ModelConfig:
    """Which generator is trained, and how."""

    kind: str = "cvae"
    latent_dim: int | None = None  # None chooses by held-out likelihood
    epochs: int = 20
    batch_size: int = 128
    private: tuple[Preprocessing, Factors, Privacy] | None = None  # what -m gaussian with --epsilon fitted


class FactorModel(NamedTuple):
    """Reported once the factor model that a generator of this kind starts from is fitted."""

    kind: str
    latent_dim: int


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator, its metrics by epoch, the epoch that was kept and the seconds that it took."""

    sampler: Sampler
    history: list[dict[str, float]]
    epoch: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return its entry in the results."""
        model = self.sampler.model
        entry = {"model": model.kind, "latent_dim": model.latent_dim, "pooled_rows": None}
        if model.kind != "gaussian":
            entry |= {"pooled_rows": model.latent_dim, "epoch": self.epoch}
        return entry | {"history": self.history, "seconds": self.seconds}


def start_network(
    factors: Factors, samples: Samples, config: ModelConfig, dataset: Dataset, seed: int, workers: Workers
) -> Trainer:
    """Return a trainer, on samples, of the network that starts from factors; its rate is planned for all epochs."""
    fitted, genes = dataset.preprocessing, samples.x.shape[1]
    network = CVAE(config.kind, factors, fitted.lowest, fitted.unit_scale, stream(seed, "generator weights"))
    steps = config.epochs * math.ceil(len(samples) / config.batch_size)
    trainer = Trainer(network, genes, config.batch_size, generator_learning_rate(steps), workers)
    trainer.start(samples, network.copy_weights(), stream(seed, "generator order"))
    return trainer


def train_generator(
    config: ModelConfig, dataset: Dataset, seed: int, workers: Workers = ALONE, report: Listener = ignore
) -> TrainedGenerator:
    """Train a generator; the validation samples choose the epoch.

    Where no samples are held out for testing, they only find the number of steps, and the generator is trained again
    for so many on all samples. Reports the factor model, each epoch, and notes as str.
    """
    began, scale, privacy = time.perf_counter(), dataset.preprocessing, None
    everything, validates, history, epoch = not len(dataset.test), len(dataset.validation) > 0, [], 0

    def fit_to(samples: Samples) -> Factors:
        return fit_start(config.kind, samples, len(dataset.types), config.latent_dim, seed)

    def finish(model: Generator) -> TrainedGenerator:
        trained_on = "" if privacy else dataset.trained_on  # a fingerprint would break the guarantee
        names = (dataset.genes, dataset.types, dataset.counts())
        sampler = Sampler(model, scale, *names, trained_on, privacy=privacy)
        return TrainedGenerator(sampler, history, epoch, time.perf_counter() - began)

    samples = dataset.all_training() if everything and config.kind == "gaussian" else dataset.train
    if config.private:
        scale, factors, privacy = config.private
    else:
        factors = fit_to(samples)
    report(FactorModel("private" if privacy else config.kind, len(factors.loadings)))
    if not privacy and (small := dataset.types[dataset.counts() <= FEW_SAMPLES]).size:
        report(f"types with one or two training samples ({list_some(small)}) are given the spread of the others")
    if config.kind == "gaussian":
        return finish(Generator(config.kind, factors, scale.lowest))
    trainer = start_network(factors, samples, config, dataset, seed, workers)
    if validates:
        history, epoch = fit(trainer, config.epochs, dataset.validation, seed, report)
        epoch = workers.gather(epoch)[0]  # the chief's
        kl = trainer.network.validate(dataset.validation, seed)["val_kl"]
        if trainer.network.variational and kl < UNUSED_LATENT:
            report(f"the latent is unused (KL below {UNUSED_LATENT} nats): samples of a type differ by noise alone")
    else:
        report("nothing to validate on: the generator stays what training would start from")
    trainer.release()
    if everything and validates:
        steps, samples = epoch * trainer.steps_per_epoch, dataset.all_training()
        trainer = start_network(fit_to(samples), samples, config, dataset, seed, workers)
        if steps:
            trainer.advance(steps)
        trainer.release()
    trainer.network.finish(samples, seed, trained=epoch > 0)
    return finish(trainer.network)


# ---- inference: how sure a gain is, knowing the noise of trainings, of test samples and of splits ----------------

MIN_REPEATS_FOR_P = 5  # fewer splits say too little of their own spread for a p-value


@dataclass(frozen=True)
class Gain:
    """Mean gain, a fraction (0.03 is 3 points), its 95% interval and two-sided p-value; None where unknown."""

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None = None


def balanced_weights(y: np.ndarray) -> np.ndarray:
    """Return the weight of each row (rows,), which sum to 1, in balanced accuracy over the types that occur."""
    counts = np.bincount(y)
    return 1 / (np.count_nonzero(counts) * counts[y])


def noise_of_samples(gains: np.ndarray, test: Samples, weights: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean gain that is due to which samples are tested, and its degrees of freedom.

    gains is (trainings, rows), weights (rows,) sum to 1. Groups of rows are drawn within types, as the split draws
    them: only what differs between groups of a type is noise. A type of one test group is held against the mean of all.
    What would differ if trained again is subtracted, since it is in the variance between trainings too. What is left is
    at least the variance of one group on which the arms differ in one training: few samples may have none by chance.
    """
    trainings, y = len(gains), test.y
    _, first, group = np.unique(test.groups, return_index=True, return_inverse=True)
    group_type, counts = y[first], np.bincount(y)
    n_groups = np.bincount(group_type, minlength=len(counts))  # of each type
    type_gain = np.stack([np.bincount(y, gain) / np.maximum(counts, 1) for gain in gains])  # (trainings, types)
    type_gain[:, n_groups < 2] = (gains @ weights)[:, None]
    deviation = weights * (gains - type_gain[:, y])
    by_group = np.stack([np.bincount(group, row) for row in deviation])  # (trainings, groups)
    bessel = np.where(n_groups < 2, 1, n_groups / np.maximum(n_groups - 1, 1))[group_type]
    mean = by_group.mean(axis=0)
    variance = bessel @ mean**2
    retrained = bessel @ ((by_group - mean) ** 2).sum(axis=0) / (trainings * max(trainings - 1, 1))
    squared_weight = np.bincount(group, weights) ** 2
    by_type = np.bincount(group_type, squared_weight, minlength=len(n_groups))  # variance, were all groups alike
    freedom = by_type.sum() ** 2 / (by_type**2 / np.maximum(n_groups - 1, 1)).sum()
    return max(float(variance - retrained), float(squared_weight.mean()) / trainings**2), float(freedom)


def gain_interval(
    correct: np.ndarray, control: np.ndarray, test: Samples, balanced: bool = False, trained: bool = True
) -> Gain:
    """Return the mean gain in accuracy of one arm over another on one split, and the interval of the expected gain.

    correct and control (trainings, test rows) say where an arm was right; training i of both has the same weights and
    order. An arm without trainings may be (1, rows); trained is False where neither has any. Trainings and groups are
    crossed random effects. Of each the half width is Student's t times the standard error, and the squares add up
    (Banerjee 1960), which holds at least 95% of normal means; with Satterthwaite's degrees of freedom it is 87% at two
    trainings. One does not tell its noise: no interval.
    """
    gains = np.atleast_2d(correct).astype(float) - np.atleast_2d(control)
    weights = balanced_weights(test.y) if balanced else np.full(len(test), 1 / len(test))
    by_training = gains @ weights
    mean, trainings = float(by_training.mean()), len(gains)
    if trained and trainings == 1:
        return Gain(mean, None)
    variance, freedom = noise_of_samples(gains, test, weights)
    squared = scipy.stats.t.ppf(0.975, freedom) ** 2 * variance
    if trained:
        squared += scipy.stats.t.ppf(0.975, trainings - 1) ** 2 * by_training.var(ddof=1) / trainings
    half = math.sqrt(squared)
    return Gain(mean, (max(mean - half, -1.0), min(mean + half, 1.0)))


def between_splits(gains: np.ndarray, test_fraction: float) -> Gain:
    """Return mean, interval and p-value of the gains (repeats,) found on repeated random splits.

    The splits share samples, so that their gains are correlated, by about test_fraction: Nadeau and Bengio (2003) add
    n_test / n_train to 1 / repeats. Training samples excluded by a limit per type count as n_train: they are drawn
    anew. Gains that are all the same, but not 0, have neither interval nor p-value.
    """
    repeats, mean = len(gains), float(np.mean(gains))
    tested = repeats >= MIN_REPEATS_FOR_P
    if repeats < 2:
        return Gain(mean, None)
    if np.ptp(gains) < 1e-9:
        none = abs(mean) < 1e-9
        return Gain(mean, (mean, mean) if none else None, 1.0 if none and tested else None)
    error = math.sqrt((1 / repeats + test_fraction / (1 - test_fraction)) * np.var(gains, ddof=1))
    half = scipy.stats.t.ppf(0.975, repeats - 1) * error
    p_value = float(2 * scipy.stats.t.sf(abs(mean) / error, repeats - 1))
    return Gain(mean, (max(mean - half, -1.0), min(mean + half, 1.0)), p_value if tested else None)


# ---- experiment: arms that differ in their rows alone, several trainings each, scored on the same test samples ----

PLOT_EPOCHS = 20
SIDE_BY_SIDE = 2**30  # bytes of rows: with more, trainings come one after the other
TRAINING_TEMPERATURE = 1.5  # of samples to train on: tests/benchmarks/generator.py
CONTROL = "copies"  # real samples drawn again, as many and of the same types as the synthetic ones
NETWORK_ALONE = "real, same steps"
WITH_SYNTHETIC = ", with synthetic"  # how names of classifiers end that are trained on synthetic samples too


@dataclass(frozen=True)
class ExperimentConfig:
    """How the classifier is trained, and what it is compared with."""

    classifier_epochs: int = 2
    trainings: int = 5  # which differ in weights, order and drawn rows
    temperature: float = TRAINING_TEMPERATURE  # of the synthetic samples
    compare: bool = False
    plot: bool = False


class Started(NamedTuple):
    """Reported when a part of the experiment begins: real, the kind of generator, sampling or augmented."""

    what: str
    n_training: int = 0
    n_synthetic: int = 0


class Sampling(NamedTuple):
    """How many synthetic samples were drawn, and how fast."""

    n: int
    seconds: float
    samples_per_second: float


class Scores(NamedTuple):
    """Mean and sd of a score over trainings, and the score of each; one training has no sd."""

    mean: float
    sd: float | None
    values: list[float]

    @classmethod
    def of(cls, values: np.ndarray) -> Scores:
        """Summarise the scores (trainings,)."""
        return cls(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, values.tolist())


class ArmScores(NamedTuple):
    """How an arm did on the test samples: mean cross-entropy, and accuracy over trainings."""

    name: str
    loss: float
    accuracy: Scores


def classifier_trainer(dataset: Dataset, seed: int, workers: Workers = ALONE) -> Trainer:
    """Return a trainer of a type classifier."""
    network = Classifier(len(dataset.types), dataset.preprocessing.unit_scale, stream(seed, "classifier weights"))
    return Trainer(network, dataset.train.x.shape[1], CLASSIFIER_BATCH, CLASSIFIER_RATE, workers)


def start_training(trainer: Trainer, rows: Samples, n_real: int, seed: int, number: int = 0) -> None:
    """Begin one of several trainings of a type classifier on rows, of which the first n_real are real."""
    weights = initial_weights(trainer.network.network, stream(seed, "classifier weights", number))
    trainer.start(rows, weights, stream(seed, "classifier order", number), n_real)


class ArmTrainer:
    """Trains the classifier several times on the rows of each arm, as many at once as there are cores.

    All arms start from the same weights and see batches in the same order, training by training, so that only their
    rows differ. A graph serves one training after another, since making it takes as long as hundreds of steps.
    """

    def __init__(
        self, dataset: Dataset, config: ExperimentConfig, seed: int, workers: Workers, n_synthetic: int
    ) -> None:
        self.dataset, self.config, self.seed = dataset, config, seed
        self.test = shared_tensor(dataset.test.x)
        size = 4 * (len(dataset.train) + n_synthetic) * dataset.train.x.shape[1]  # bytes of one training's rows
        self.alone = workers.strategy is not None or CORES * size > SIDE_BY_SIDE
        at_once = 1 if self.alone else min(config.trainings, CORES)
        self.pool = ThreadPoolExecutor(at_once)
        self.idle: queue.SimpleQueue[Trainer] = queue.SimpleQueue()
        for _ in range(at_once):
            self.idle.put(classifier_trainer(dataset, seed, workers))

    def start(
        self, draw_rows: Callable[[int], Samples], stops: Sequence[int], report: Listener | None = None
    ) -> Callable[[], tuple[np.ndarray, float]]:
        """Begin to train on what draw_rows gives for each training; return what waits for the end.

        That returns the type codes predicted of the test samples (trainings, stops, test samples) after these numbers
        of steps, and the mean cross-entropy at the first of them. The epochs of the first training go to report.
        """
        dataset, seed = self.dataset, self.seed

        def train(number: int) -> tuple[np.ndarray, float]:
            trainer, predicted, losses = self.idle.get(), {}, {}
            try:
                start_training(trainer, draw_rows(number), len(dataset.train), seed, number)
                epochs = self.config.classifier_epochs if report and number == 0 else 0
                shown = {epoch * trainer.steps_per_epoch: epoch for epoch in range(1, epochs + 1)}
                for stop in sorted({*stops, *shown}):
                    metrics = trainer.advance(stop - trainer.steps)
                    if stop in shown:
                        monitored = dataset.validation if len(dataset.validation) else dataset.train
                        metrics |= trainer.network.validate(monitored, seed)
                        report(Progress(trainer.steps_per_epoch, max(shown), shown[stop], epochs, metrics))
                    if stop in stops:
                        probabilities = trainer.network.predict(self.test)
                        predicted[stop] = probabilities.argmax(axis=1).astype(np.int16)
                        of_truth = probabilities[np.arange(len(probabilities)), dataset.test.y]
                        losses[stop] = -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean()
            finally:
                trainer.release()
                self.idle.put(trainer)
            return np.array([predicted[stop] for stop in stops]), losses[stops[0]]

        trainings = self.pool.map(train, range(self.config.trainings))
        if self.alone:
            trainings = list(trainings)  # several workers must sum in the same order; wide tables have no room for more

        def wait() -> tuple[np.ndarray, float]:
            predicted, losses = zip(*trainings, strict=True)
            return np.array(predicted), float(np.mean(losses))

        return wait


def draw_copies(real: Samples, labels: np.ndarray, rng: np.random.Generator) -> Samples:
    """Return the real samples and then, for each of the type codes, one of its real samples again."""
    both, chosen = real.with_room(labels), np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = labels == label
        chosen[rows] = rng.choice(np.flatnonzero(real.y == label), rows.sum())
    np.take(real.x, chosen, axis=0, out=both.x[len(real) :], mode="clip")  # the other modes make a copy
    return both


def draw_smote(real: Samples, labels: np.ndarray, n_types: int, rng: np.random.Generator) -> Samples:
    """Return the real samples and then, for each code, a point between neighbours of its type (Chawla et al. 2002).

    Takes at most 5 neighbours, fewer where the smallest type has fewer, and copies types of one sample.
    """
    both = draw_copies(real, labels, rng)
    counts = np.bincount(real.y, minlength=n_types)
    several = np.flatnonzero(counts > 1)
    if len(several) < 2:  # SMOTE wants two types
        return both
    wanted = counts + np.bincount(labels, minlength=n_types)
    smote = imblearn.over_sampling.SMOTE(
        sampling_strategy={int(code): int(wanted[code]) for code in several},
        k_neighbors=int(min(5, counts[several].min() - 1)),
        random_state=sklearn_seed(rng),
    )
    within = np.isin(real.y, several)
    x, y = (part[within.sum() :] for part in smote.fit_resample(real.x[within], real.y[within]))
    synthetic = both.x[len(real) :]
    for code in several:
        synthetic[labels == code] = x[y == code]
    return both


class Split(NamedTuple):
    """What the arms, and classifiers if compared, predicted of one split's test samples."""

    test: Samples  # without genes
    arms: dict[str, np.ndarray]  # codes (trainings, stops, test samples); stops: classifier_epochs, 1 to PLOT_EPOCHS
    n_synthetic: int
    fitted_once: tuple[str, ...] = ()  # arms without trainings or stops
    fold_scores: dict[str, float] | None = None  # of classifiers on inner folds

    @property
    def published(self) -> dict[str, str]:
        """The arms of the original experiment, and its control, by their keys in the results."""
        ours = next(arm for arm in self.arms if arm.startswith("this "))
        return {"real": "real", "same_steps": CONTROL, "augmented": ours}

    def accuracies(self, arm: str) -> np.ndarray:
        """Return the accuracies (trainings, stops) of an arm."""
        return (self.arms[arm] == self.test.y).mean(axis=2)

    def gain(self, arm: str, over: str, balanced: bool) -> Gain:
        """Return what one arm gains over another after classifier_epochs."""
        right, other = (self.arms[one][:, 0] == self.test.y for one in (arm, over))
        return gain_interval(right, other, self.test, balanced, trained=not {arm, over} <= {*self.fitted_once})

    def accuracy(self) -> dict[str, Any]:
        """Return the entry `accuracy` in the results, with the interval of this one split."""
        scores = {key: Scores.of(self.accuracies(arm)[:, 0])._asdict() for key, arm in self.published.items()}
        gain = self.gain(self.published["augmented"], CONTROL, balanced=False)
        return scores | {"gain": {"mean": gain.mean, "interval": gain.interval}}

    def curves(self) -> np.ndarray:
        """Return the accuracies (epochs, real / control / augmented, trainings) after 1 to PLOT_EPOCHS epochs."""
        return np.stack([self.accuracies(arm)[:, 1 : 1 + PLOT_EPOCHS].T for arm in self.published.values()], axis=1)


@dataclass(frozen=True)
class Experiment:
    """What one split has shown: the generator, and what was predicted of the test samples, if there are any."""

    dataset: Dataset
    config: ExperimentConfig
    seed: int
    trained: TrainedGenerator
    labels: np.ndarray  # type codes of the synthetic samples of the first training
    sampling: Sampling | None = None
    split: Split | None = None

    @property
    def sampler(self) -> Sampler:
        """What draws from the generator."""
        return self.trained.sampler

    def sampler_of(self, factors: Factors) -> Sampler:
        """Return what draws from a factor model instead."""
        return replace(self.sampler, model=Generator("gaussian", factors, self.dataset.preprocessing.lowest))

    def fit_factors(self, samples: Samples) -> Factors:
        """Fit the factor model that the generator started from to other samples."""
        kind = "gaussian" if self.sampler.model.kind == "gaussian" else "cvae"
        latent = min(self.sampler.model.latent_dim, *samples.x.shape)
        return fit_start(kind, samples, len(self.dataset.types), latent, self.seed)


def draw_peers(experiment: Experiment, labels: Sequence[np.ndarray]) -> dict[str, Callable[[int], Samples]]:
    """Return, by name, how each training draws its rows with what one would use instead of this generator."""
    train, fitted, types = experiment.dataset.train, experiment.dataset.preprocessing, len(experiment.dataset.types)
    seed = experiment.seed
    gaussian = experiment.sampler_of(fit_gaussian(train, types, None, seed))
    return {
        "SMOTE": lambda n: draw_smote(train, labels[n], types, stream(seed, "SMOTE", n)),
        "gaussian": lambda n: gaussian.samples_after(train, fitted, labels[n], seed, f"gaussian {n}"),
    }


def run_experiment(
    dataset: Dataset,
    plan: SamplingPlan,
    model: ModelConfig,
    config: ExperimentConfig,
    seed: int,
    workers: Workers = ALONE,
    report: Listener = ignore,
) -> Experiment:
    """Train the classifier without synthetic samples, a generator, and the classifier with its samples; report each.

    Every training draws synthetic samples, and copies for the control, of its own.
    """
    train, n_real, counts = dataset.train, len(dataset.train), dataset.counts()
    labels = [plan.labels(dataset.types, counts, seed, f"training {n}") for n in range(config.trainings)]
    n_synthetic = len(labels[0])
    classifiers = ArmTrainer(dataset, config, seed, workers, n_synthetic)
    epochs = [config.classifier_epochs, *range(1, PLOT_EPOCHS * config.plot + 1)]
    own_stops = [epoch * math.ceil(n_real / CLASSIFIER_BATCH) for epoch in epochs]
    stops = [epoch * math.ceil((n_real + n_synthetic) / CLASSIFIER_BATCH) for epoch in epochs]

    def finish(name: str, wait: Callable[[], tuple[np.ndarray, float]]) -> np.ndarray:
        predicted, loss = wait()
        report(ArmScores(name, loss, Scores.of((predicted[:, 0] == dataset.test.y).mean(axis=1))))
        return predicted

    def draw_control(number: int) -> Samples:
        return draw_copies(train, labels[number], stream(seed, "copies", number))

    report(Started("real"))
    real = finish("real", classifiers.start(lambda number: train, own_stops + stops[: config.compare], report))
    control = classifiers.start(draw_control, stops)  # meanwhile, since it needs no generator
    report(Started(model.kind))
    trained = train_generator(model, dataset, seed, workers, report)
    report(trained)
    experiment = Experiment(dataset, config, seed, trained, labels[0])

    def draw_synthetic(number: int) -> Samples:
        drawn = (labels[number], seed, f"training {number}", config.temperature)
        return trained.sampler.samples_after(train, dataset.preprocessing, *drawn)

    report(Started("sampling", n_synthetic=n_synthetic))
    start = time.perf_counter()
    first = [draw_synthetic(0)]
    seconds = time.perf_counter() - start
    sampling = Sampling(n_synthetic, seconds, n_synthetic / seconds)
    report(sampling)

    report(Started("augmented", dataset.n_training, n_synthetic))
    augmented = classifiers.start(lambda n: draw_synthetic(n) if n else first.pop(), stops, report)
    ours = {f"this {model.kind}": finish("augmented", augmented)}
    arms = {"real": real} | ({NETWORK_ALONE: real[:, -1:]} if config.compare else {}) | {CONTROL: control()[0]}
    if config.compare:
        peers = draw_peers(experiment, labels)
        waiting = {name: classifiers.start(draw_rows, stops[:1]) for name, draw_rows in peers.items()}
        arms |= {name: wait()[0] for name, wait in waiting.items()}
    split = Split(replace(dataset.test, x=dataset.test.x[:, :0].copy()), arms | ours, n_synthetic)
    return replace(experiment, sampling=sampling, split=split)


# ---- classifiers: strong ones that need no training by steps, and the choice among all on inner folds ------------

MAX_COMPONENTS = 300  # that classifiers see where genes are many, or outnumber rows
COMPONENT_ROWS = 1000  # that principal components are found on
LOGISTIC_C = (0.01, 0.1, 1.0)  # to choose from
LDA_SHRINKAGE = (None, 0.4, 0.8)  # to choose from; None is that of Ledoit and Wolf (2004)
CLASSIFIER_FOLDS = 3  # of the training groups, to choose these and the best classifier on


@dataclass(frozen=True)
class LinearClassifier:
    """Probabilities softmax(x @ weights + bias); weights is (genes, types), bias (types,), -inf for unseen types."""

    weights: np.ndarray
    bias: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities (rows, types) of standardised expression (rows, genes)."""
        return scipy.special.softmax(x @ self.weights + self.bias, axis=1)


Predictor = LinearClassifier | Factors | Classifier  # all have predict(x): probabilities (rows, types)


def principal_directions(most: int, *tables: np.ndarray) -> np.ndarray:
    """Return the first principal directions (genes, components) of tables (rows, genes), or of some rows if many."""
    total = sum(map(len, tables))
    counts = [math.ceil(len(x) * min(1, COMPONENT_ROWS / total)) for x in tables]
    rows = [x[np.linspace(0, len(x) - 1, count).astype(int)] for x, count in zip(tables, counts, strict=True)]
    centred = np.concatenate(rows)
    centred -= centred.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred @ centred.T)
    first = np.flatnonzero(variances >= 1e-6 * variances[-1])[: -most - 1 : -1]  # the largest is last
    return centred.T @ (vectors[:, first] / np.sqrt(np.maximum(variances[first], 1e-30)))


def project(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x as a classifier sees it (rows, components), and the directions (genes, components) that it sees.

    These are the genes themselves, or principal components, which lose nothing of a ridge penalty's solution where
    genes outnumber at most MAX_COMPONENTS rows.
    """
    rows, genes = x.shape
    if genes <= min(rows, MANY_GENES):
        return x, np.eye(genes)
    directions = principal_directions(MAX_COMPONENTS, x)
    return x @ directions, directions


def expand(
    coefficients: np.ndarray, intercept: np.ndarray, present: np.ndarray, types: int, directions: np.ndarray
) -> LinearClassifier:
    """Return the classifier over all types and genes, from coefficients (components, present types) and intercept."""
    weights, bias = np.zeros((len(directions), types), np.float32), np.full(types, -np.inf, np.float32)
    weights[:, present], bias[present] = directions @ coefficients, intercept
    return LinearClassifier(weights, bias)


def fit_lda(samples: Samples, types: int, setting: float | None) -> LinearClassifier:
    """Fit linear discriminant analysis with equal priors; setting is the shrinkage of LDA_SHRINKAGE.

    The covariance within types is the mean of the types', whatever their number of rows, shrunk towards a multiple of
    the identity; types of one row take that of the others. Where no type has two rows, the nearest mean decides.
    """
    x, directions = project(samples.x)
    present, code, counts = np.unique(samples.y, return_inverse=True, return_counts=True)
    means = np.stack([x[code == label].mean(axis=0) for label in range(len(present))])
    several = counts[code] > 1
    covariance = np.eye(x.shape[1])
    if several.any():
        bessel = np.sqrt(several.sum() / ((counts > 1).sum() * np.maximum(counts - 1, 1)))
        residuals = (x - means[code])[several] * bessel[code[several], None]
        shrinkage = sklearn.covariance.ledoit_wolf_shrinkage(residuals, True) if setting is None else setting
        shrinkage = max(shrinkage, MIN_VARIANCE)  # so that it can be inverted
        within = residuals.T @ residuals / len(residuals)
        covariance *= shrinkage * max(np.trace(within) / len(within), 1e-12)
        covariance += (1 - shrinkage) * within
    coefficients = np.linalg.solve(covariance, means.T)  # (components, types)
    return expand(coefficients, -(means.T * coefficients).sum(axis=0) / 2, present, types, directions)


def fit_logistic_regression(samples: Samples, types: int, setting: float) -> LinearClassifier:
    """Fit a multinomial logistic regression in which every type counts alike; setting is C, the inverse penalty."""
    present = np.unique(samples.y)
    if len(present) == 1:
        return fit_lda(samples, types, None)  # sklearn wants two types
    x, directions = project(samples.x)
    model = sklearn.linear_model.LogisticRegression(C=setting, class_weight="balanced", max_iter=1000, tol=1e-3)
    model.fit(x, samples.y)
    each = [0, 1] if len(present) == 2 else 1  # of two types, sklearn has the second against the first
    return expand(model.coef_.T * each, model.intercept_ * each, present, types, directions)


def choose_best_on_inner_folds(
    candidates: dict[Any, Callable[[Any], Predictor]],
    samples: Samples,
    seed: int,
    make_rows: Callable[[Samples], Any] = lambda samples: samples,
) -> dict[Any, float]:
    """Return the balanced accuracy of each candidate on held-out training samples, the best first.

    make_rows turns the training part of a fold into what candidates are fitted to: what draws synthetic rows fits its
    generator there. Types of one group are always in that part, and not scored. Without anything to score, all are nan
    and in the order given.
    """
    y, groups = samples.y, samples.groups
    fold = inner_folds(y, groups, CLASSIFIER_FOLDS, stream(seed, "classifier folds"))
    for label in np.unique(y):
        if len(np.unique(groups[y == label])) == 1:
            fold[y == label] = -1
    held_out = fold >= 0
    if (fold == fold[0]).all():
        return dict.fromkeys(candidates, math.nan)
    correct = {name: np.zeros(len(y), bool) for name in candidates}
    for number in np.unique(fold[held_out]):
        unseen = fold == number
        rows = make_rows(samples.take(~unseen))
        for name, fit_candidate in candidates.items():
            correct[name][unseen] = fit_candidate(rows).predict(samples.x[unseen]).argmax(axis=1) == y[unseen]
    weights = balanced_weights(y[held_out])
    scores = {name: round(float(right[held_out] @ weights), 12) for name, right in correct.items()}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


# ---- comparison: all classifiers on the same rows, the verdict, and what the experiments of all splits come to ----

EQUAL_WITHIN = 0.01  # a classifier that is at most this much better than another is as good


class TrainingRows(NamedTuple):
    """What classifiers are fitted to: real samples, their factor model, and they with synthetic samples after them."""

    real: Samples
    factors: Factors
    with_synthetic: Samples


def fit_rows(experiment: Experiment, real: Samples, sampler: Sampler | None = None) -> TrainingRows:
    """Fit the factor model to real samples, and have it draw the synthetic ones, unless there is a sampler for that."""
    factors = experiment.fit_factors(real)
    sampler = sampler or experiment.sampler_of(factors)
    drawn = (experiment.labels, experiment.seed, "comparison", experiment.config.temperature)
    return TrainingRows(real, factors, sampler.samples_after(real, experiment.dataset.preprocessing, *drawn))


def classifier_fits(experiment: Experiment) -> dict[str, Callable[[TrainingRows], Predictor]]:
    """Return, by name, how each classifier is fitted to rows, in the setting that inner folds of the samples choose.

    A network serves until the next one is fitted: making its graph takes longer than training it.
    """
    train, types, trainer = experiment.dataset.train, len(experiment.dataset.types), None

    def choose_setting(fit: Callable[..., Predictor], settings: Sequence[float | None]) -> Callable[..., Predictor]:
        candidates = {setting: functools.partial(fit, types=types, setting=setting) for setting in settings}
        return candidates[next(iter(choose_best_on_inner_folds(candidates, train, experiment.seed)))]

    logistic = choose_setting(fit_logistic_regression, LOGISTIC_C)
    lda = choose_setting(fit_lda, LDA_SHRINKAGE)

    def fit_network(rows: Samples, n_real: int) -> Classifier:
        """Train on rows, of which the first n_real are real, for as many steps as in the arms."""
        nonlocal trainer
        trainer = trainer or classifier_trainer(experiment.dataset, experiment.seed)
        start_training(trainer, rows, n_real, experiment.seed)
        per_epoch = math.ceil((len(train) + len(experiment.labels)) / CLASSIFIER_BATCH)
        trainer.advance(experiment.config.classifier_epochs * per_epoch)
        trainer.release()
        return trainer.network

    return {  # of equals, and where none can be scored, the first is taken
        "logistic regression": lambda rows: logistic(rows.real),
        f"logistic regression{WITH_SYNTHETIC}": lambda rows: logistic(rows.with_synthetic),
        "LDA": lambda rows: lda(rows.real),
        f"LDA{WITH_SYNTHETIC}": lambda rows: lda(rows.with_synthetic),
        "Bayes rule": lambda rows: rows.factors,
        NETWORK_ALONE: lambda rows: fit_network(rows.real, len(rows.real)),
        f"this {experiment.sampler.model.kind}": lambda rows: fit_network(rows.with_synthetic, len(rows.real)),
    }


def in_points(gain: Gain) -> str:
    """Format a gain and its interval in points."""
    if gain.interval is None:
        return f"{100 * gain.mean:+.2f} (interval unavailable)"
    low, high = (100 * end for end in gain.interval)
    return f"{100 * gain.mean:+.2f} ({low:+.2f}..{high:+.2f})"


class Comparison(NamedTuple):
    """How classifiers compare over all splits, by name."""

    scores: dict[str, dict[str, float]]  # on test samples, means over trainings
    gains: dict[str, Gain]  # in balanced accuracy over CONTROL
    fold_scores: dict[str, float]  # on inner folds, the best first
    alone: str  # the best there on real rows alone
    synthetic: str  # the best there with synthetic rows
    helped: Gain | None  # the network's gain over CONTROL; None, as the next, where no synthetic rows were drawn
    difference: Gain | None  # that of `synthetic` over `alone`


def verdict(comparison: Comparison) -> str:
    """Say whether synthetic rows helped the network, whether they beat real rows alone, and which classifier to use."""
    _, _, fold_scores, alone, synthetic, helped, difference = comparison
    if any(map(math.isnan, fold_scores.values())):
        return f"Training samples are too few to tell which classifier is best. Use {alone} here."
    use = f"Use {next(iter(fold_scores))}, the best on inner folds of the training samples"
    if helped is None or difference is None:
        return f"No synthetic samples were added. {use}."
    network = "Inconclusive whether synthetic samples help the network"
    low, high = helped.interval or (-math.inf, math.inf)
    if low > 0 or high < 0:
        network = f"Synthetic samples {'helped' if low > 0 else 'did harm to'} the network"
    network += f": {in_points(helped)} points over copies of real samples of the same types"
    points = f"{in_points(difference)} points"
    best = f"Inconclusive whether {synthetic} beats {alone}, the best on real samples alone: {points}"
    low, high = difference.interval or (-math.inf, math.inf)
    if low > 0:
        best = f"{synthetic} beats {alone}, the best on real samples alone: {points}"
        use = f"Use {synthetic}"
    elif high < EQUAL_WITHIN:
        best = f"{alone} on real samples alone is as good or better: {synthetic} adds {points} to it"
        use = f"Use {alone}, which needs no synthetic samples"
    return f"{network}. {best}. {use}."


def predict_test_samples(experiment: Experiment) -> Split:
    """Have strong classifiers, fitted without and with synthetic samples, predict beside all arms of an experiment."""
    train, test, split = experiment.dataset.train, experiment.dataset.test, experiment.split
    fits, rows = classifier_fits(experiment), fit_rows(experiment, train, experiment.sampler)
    once = tuple(name for name in fits if name not in split.arms)
    arms = split.arms | {name: fits[name](rows).predict(test.x).argmax(axis=1)[None, None] for name in once}
    make_rows = functools.partial(fit_rows, experiment)
    fold_scores = choose_best_on_inner_folds(fits, train, experiment.seed, make_rows)
    return split._replace(arms=arms, fitted_once=once, fold_scores=fold_scores)


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score by its name."""
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def compare_classifiers(splits: Sequence[Split], test_fraction: float) -> Comparison:
    """Compare classifiers over all splits; intervals are of the one split, or between several."""

    def gain(arm: str, over: str) -> Gain:
        gains = [split.gain(arm, over, balanced=True) for split in splits]
        return gains[0] if len(gains) == 1 else between_splits(np.array([one.mean for one in gains]), test_fraction)

    arms, ours = splits[0].arms, splits[0].published["augmented"]
    gains = {arm: gain(arm, CONTROL) for arm in arms}
    scores = {
        arm: mean_scores([score_predictions(one[0], split.test.y) for split in splits for one in split.arms[arm]])
        for arm in arms
    }
    on_folds = mean_scores([split.fold_scores for split in splits])
    fold_scores = dict(sorted(on_folds.items(), key=lambda item: -item[1]))
    with_synthetic = [arm for arm in fold_scores if arm == ours or arm.endswith(WITH_SYNTHETIC)]
    alone, synthetic = next(arm for arm in fold_scores if arm not in with_synthetic), with_synthetic[0]
    found = (gains[ours], gain(synthetic, alone)) if splits[0].n_synthetic else (None, None)
    return Comparison(scores, gains, fold_scores, alone, synthetic, *found)


def accuracy_by_epoch(repeats: Sequence[np.ndarray], test_fraction: float) -> list[dict[str, float]]:
    """Return a row for each epoch: mean accuracy of each curve, and the ends of its band.

    Of one split the band is one sd of the trainings to each side, of several it is the 95% interval between splits.
    """
    table = []
    for epoch, curves in enumerate(np.array(repeats).transpose(1, 2, 0, 3), 1):  # (curves, repeats, trainings)
        row: dict[str, float] = {"epochs": epoch}
        for name, accuracies in zip(("real", "same_steps", "augmented"), curves, strict=True):
            mean = row[name] = float(accuracies.mean())
            if len(repeats) > 1:
                low, high = between_splits(accuracies.mean(axis=1), test_fraction).interval or (mean, mean)
            else:
                sd = Scores.of(accuracies[0]).sd or 0.0
                low, high = mean - sd, mean + sd
            if accuracies.size > 1:
                row |= {f"{name}_low": max(low, 0.0), f"{name}_high": min(high, 1.0)}
        table.append(row)
    return table


# ---- prediction: the types of new samples, by the classifier that does best on inner folds -----------------------

PREDICTION_SUFFIXES = (".tsv", ".csv", ".parquet")
MIN_FIT_PERCENTILE = 1.0  # of likelihood; a sample below it belongs to no type


def held_out_likelihoods(experiment: Experiment, factors: Factors) -> np.ndarray | None:
    """Return the quantiles (101,) of test samples' highest log densities under a factor model of training samples.

    Where there are no test samples, it is that of other inner folds, and the samples are those of one.
    """
    dataset, seed = experiment.dataset, experiment.seed
    held_out = dataset.test.x
    if not len(held_out):
        samples = dataset.all_training()
        fold = inner_folds(samples.y, samples.groups, CLASSIFIER_FOLDS, stream(seed, "classifier folds"))
        if (fold == 0).all():
            return None
        held_out, factors = samples.x[fold == 0], experiment.fit_factors(samples.take(fold != 0))
    chosen = stream(seed, "held-out likelihoods").permutation(len(held_out))[:2000]
    log_density = factors.log_density(held_out[chosen]).max(axis=1)
    return np.quantile(log_density, np.linspace(0, 1, 101)).astype(np.float32)


class TypeClassifier(NamedTuple):
    """What types new samples, and tells whether they belong to any type."""

    name: str
    score: float  # on inner folds
    predictor: Predictor
    density: Factors  # of each type
    likelihoods: np.ndarray | None  # of held-out samples under that (quantiles,), if known


def check_bayes_rule(sampler: Sampler) -> None:
    """Find out whether a saved generator can tell types apart."""
    if not sampler.model.conditional:
        kind = f"a generator of -m {sampler.model.kind}"
        raise RnagenError(f"--predict: {kind} has no density of each type; use -m cvae or gaussian")


def choose_classifier(experiment: Experiment | None, sampler: Sampler) -> TypeClassifier:
    """Return the best classifier on inner folds, or, without an experiment, the Bayes rule of a saved generator."""
    if not experiment:
        factors = sampler.model.factors
        return TypeClassifier("Bayes rule", math.nan, factors, factors, sampler.likelihoods)
    samples, fits = experiment.dataset.all_training(), classifier_fits(experiment)
    scores = choose_best_on_inner_folds(fits, samples, experiment.seed, functools.partial(fit_rows, experiment))
    name = next(iter(scores))
    rows = fit_rows(experiment, samples, sampler)
    likelihoods = held_out_likelihoods(experiment, rows.factors)
    return TypeClassifier(name, scores[name], fits[name](rows), rows.factors, likelihoods)


def fit_percentile(log_likelihood: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return the percentile (samples,) of log-likelihoods among those of held-out samples."""
    held_out = np.sort(held_out)
    percentile = 100 * np.searchsorted(held_out, log_likelihood, side="right") / (len(held_out) + 1)
    tail = max(len(held_out) // 10, 5)  # too few to count: taken to be exponential (Pickands 1975)
    threshold = held_out[tail]
    scale = max(float(np.mean(threshold - held_out[:tail])), 1e-9)
    in_tail = 100 * tail / len(held_out) * np.exp(np.minimum(log_likelihood - threshold, 0) / scale)
    return np.where(log_likelihood < threshold, in_tail, percentile)


def standardise_new(new: Cohort, sampler: Sampler, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return new samples (samples, genes), standardised, if genes and scale allow, and a note on missing genes."""
    genes, fitted = sampler.genes, sampler.preprocessing
    missing = len(np.setdiff1d(genes, new.genes))
    if missing > len(genes) / 2:
        raise RnagenError(
            f"--predict {path}: has {len(genes) - missing} of the {len(genes)} genes that the classifier knows (genes "
            f"like {new.genes[:1].tolist()} against {genes[:1].tolist()}), and half are needed; make the names agree"
        )
    expression = new.with_genes(genes).expression
    x, low, high = fitted.standardise(expression), np.nanmin(expression), np.nanmax(expression)
    was_high = np.exp2((fitted.low + fitted.span).max()) > COUNTS_ABOVE  # in the training samples
    logged = fitted.transform != "none" and (low < 0 or (was_high and high <= COUNTS_ABOVE))
    if logged or np.median(np.abs(np.median(x, axis=0))) > 3:  # standard deviations from the mean
        units = {"none": "values as they are", "log2": "TPM or the like", "cpm": "raw counts"}[fitted.transform]
        raise RnagenError(
            f"--predict {path}: is on another scale ({low:.4g} to {high:.4g}) than what the classifier was trained on "
            f"({units}); give values in the units of that table"
        )
    note = f"{missing} of {len(genes)} genes are missing in {path} and taken at their mean"
    return x, [note] * (missing > 0)


def type_samples(
    new: Cohort, path: Path, sampler: Sampler, classifier: TypeClassifier
) -> tuple[pd.DataFrame, list[str]]:
    """Type new samples; return a table (Sample, type, probability, percentile of fit, a column per type), and notes."""
    x, notes = standardise_new(new, sampler, path)
    probabilities = classifier.predictor.predict(x)  # (samples, types)
    chosen, fit = probabilities.argmax(axis=1), math.nan
    if classifier.likelihoods is not None:
        fit = fit_percentile(classifier.density.log_density(x).max(axis=1), classifier.likelihoods)
        if strange := np.count_nonzero(fit < MIN_FIT_PERCENTILE):
            notes.append(f"{strange} of {len(x)} samples fit any type worse than 99% of held-out ones (column fit)")
    said = {"Sample": new.samples, "type": sampler.types[chosen], "probability": probabilities.max(axis=1), "fit": fit}
    names = [f"p_{name}" if name in said else name for name in sampler.types]
    return pd.DataFrame(said).join(pd.DataFrame(probabilities, columns=names)), notes


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write a table of predictions, whole or not at all."""
    with replacing(path) as beside:
        if path.suffix == ".parquet":
            table.to_parquet(beside, index=False)
        else:
            table.to_csv(beside, sep="," if path.suffix == ".csv" else "\t", index=False, float_format="%.6g")


# ---- report: one table of measures, each of synthetic samples and, for reference, of real ones -------------------

MAX_REAL = 5000  # training samples, and test samples, that a report looks at
MAX_RELEASED = 10_000  # synthetic samples that it looks at and attacks
COMPONENTS = 50  # in which samples are told apart and have neighbours
MAX_CORRELATED = 2000  # genes whose correlations with each other are looked at
NEIGHBOURS = 5  # to which the ball around a sample reaches (Naeem et al. 2020)
MIN_ROWS = 10  # of each kind, for measures of all types together
MIN_ROWS_OF_TYPE = 5
MIN_GENES = 3
ATTACKS = {
    "attack": "nearest sample",
    "density_ratio_attack": "density ratio",
    "tracing_attack": "tracing",
    "likelihood_ratio_attack": "likelihood ratio",
}
CONFIDENCE = 0.95
SIMULTANEOUS = 1 - (1 - CONFIDENCE) / (2 * len(ATTACKS))  # Bonferroni: an AUC and a share found at 1% of each attack

Parameters = tuple[np.ndarray, np.ndarray | None] | None  # means (types, genes), covariance (genes, genes) if known


class UnavailableError(Exception):
    """A measure cannot be computed; says why."""


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or why that is unavailable."""
    try:
        return function(*arguments)
    except UnavailableError as why:
        return why


def require(count: int, minimum: int, what: str) -> None:
    """Find out whether there are enough of something for a measure."""
    if count < minimum:
        raise UnavailableError(f"{count} {what}, and {minimum} are needed")


@dataclass(frozen=True)
class Evaluation:
    """Samples that a generator was trained on, others that it has not seen, and what it drew, all on one scale.

    They are the kinds "training", "test" and "synthetic"; whole has all their rows, among which copies are looked for.
    types (types,) are the names behind the codes, sd (genes,) is one standard deviation in training units. unknown says
    why the training samples are not known, if so. parameters are those of a generator that is itself released.
    prepare() adds the rest: even are as many samples of each type of each kind, since most measures depend on their
    number; predicted the type codes of test samples (rows,) by classifiers trained on synthetic and on training
    samples; attacks those on synthetic samples, and by "training" those on half of the test samples instead.
    """

    types: np.ndarray
    kinds: dict[str, Samples]
    whole: dict[str, Samples]
    sd: np.ndarray
    unknown: str
    parameters: Parameters
    notes: list[str]
    even: dict[str, Samples] = field(default_factory=dict)
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    attacks: dict[str, dict[str, Attack] | UnavailableError] = field(default_factory=dict)
    seed: int = 0


def keep_shared(real: Cohort, genes: np.ndarray, types: np.ndarray, source: str) -> tuple[Cohort, list[str]]:
    """Return the cohort with the genes and types that synthetic samples from source have too, and what is lost."""
    notes = []
    for kind, here, there, lack, least in (
        ("genes", {*real.genes}, {*genes}, "has no gene of", 1),
        ("types", {*real.types}, {*types}, "shares fewer than two types with", 2),
    ):
        if len(here & there) < least:
            names = f"{kind} {list_some(there)} against {list_some(here)}"
            raise RnagenError(f"{source}: {lack} {real.name} ({names}); make the names agree, or add samples")
        if here != there:
            alone = list_some(here ^ there)
            notes.append(f"the report leaves out {kind} that only one of {source} and {real.name} has: {alone}")
    known, shared = np.isin(real.types, types), np.isin(real.genes, genes)
    return (real.take(known).with_genes(real.genes[shared]) if notes else real), notes


def align_for_evaluation(
    training: Cohort, test: Cohort, synthetic: Cohort, transform: str, unknown: str, parameters: Parameters = None
) -> Evaluation:
    """Return the evaluation of a synthetic cohort, which has all genes of the real ones, on their types in common.

    Standardised by training and test samples together: their own mean and variance would tell the training samples
    from others. parameters are of the synthetic cohort's types, sorted, and its genes, in training units.
    """
    types = functools.reduce(np.intersect1d, (training.types, test.types, synthetic.types))
    if len(types) < 2:
        shared = f"{len(types)} types have training, test and synthetic samples"
        raise RnagenError(f"{training.name}: {shared}; add some until two do")
    notes = []
    if lost := {*training.types, *test.types} - set(types):
        notes.append(f"types without training or test samples are looked at for copies only: {list_some(lost)}")
    both = np.concatenate([training.expression, test.expression])
    scale = Preprocessing.fit(both, transform, np.concatenate([training.types, test.types]))
    aligned = replace(synthetic.with_genes(training.genes), groups=synthetic.samples)
    if scale.transform != "none" and (negative := np.count_nonzero(aligned.expression < 0)):
        notes.append(f"{negative} negative values among the synthetic ones are taken as 0")
    if parameters:
        means, covariance = parameters
        columns = pd.Index(synthetic.genes).get_indexer(training.genes[scale.kept])
        means = (means[np.ix_(np.isin(np.unique(synthetic.types), types), columns)] - scale.mean) / scale.sd
        if covariance is not None:
            covariance = covariance[np.ix_(columns, columns)] / np.outer(scale.sd, scale.sd)
        parameters = means, covariance
    cohorts = {"training": training, "test": test, "synthetic": aligned}
    kinds = {kind: scale.samples(cohort, types) for kind, cohort in cohorts.items()}
    return Evaluation(types, kinds, kinds, scale.sd, unknown, parameters, notes)


def thin(y: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most that many rows of type codes from 0 on, types in proportion and none lost; return indices."""
    known = np.flatnonzero(y >= 0)
    place = rank_within_types(y[known], rng) / np.bincount(y[known])[y[known]]  # in each type from 0 to under 1
    return known[np.sort(np.argsort(place, kind="stable")[:most])]


def match_types(sets: Sequence[Samples], rng: np.random.Generator) -> list[Samples]:
    """Choose from each set as many rows of every type as the set poorest in it has."""
    size = 1 + max(one.y.max(initial=0) for one in sets)
    counts = np.min([np.bincount(one.y, minlength=size) for one in sets], axis=0)
    return [one.take(rank_within_types(one.y, rng) < counts[one.y]) for one in sets]


# ---- report: how sure measures are -------------------------------------------------------------------------------


def shares_below(scores: np.ndarray, others: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the shares of others, by weight, that lie below each score, and that lie not above it, (2, scores)."""
    order = np.argsort(others)
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    total /= total[-1]  # the last is exactly 1 then
    return np.stack([total[np.searchsorted(others[order], scores, side)] for side in ("left", "right")])


def auc_interval(
    positive: np.ndarray, negative: np.ndarray, weights: Sequence[np.ndarray] = (), confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Return how often positive scores, weighted, exceed negative ones, and the interval (DeLong et al. 1988)."""
    shares = [weight / weight.sum() for weight in weights or (np.ones(len(positive)), np.ones(len(negative)))]
    below = shares_below(positive, negative, shares[1]).mean(0)  # equal ones count half
    above = 1 - shares_below(negative, positive, shares[0]).mean(0)
    auc, variance = round(float(shares[0] @ below), 12), 0.0
    for part, placed in zip(shares, (below, above), strict=True):
        effective = 1 / np.square(part).sum()
        variance += np.square(part * (placed - auc)).sum() * effective / max(effective - 1, 1e-9)
    margin = scipy.stats.norm.ppf((1 + confidence) / 2) * math.sqrt(variance)
    return auc, max(auc - margin, 0.0), min(auc + margin, 1.0)


def share_found(
    members: np.ndarray, others: np.ndarray, weights: Sequence[np.ndarray], rate: float, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Return the share of members whose score only that rate of others reaches, and its interval.

    Of n others, a Binomial(n, rate) number score above the true threshold; given that number, Jeffreys' interval holds
    for the members above it (Brown, Cai and DasGupta 2001). The mixture knows both errors, of threshold and of share.
    Weighted samples count as (sum w)^2 / sum w^2 (Kish 1965).
    """
    n_members, n_others = (weight.sum() ** 2 / np.square(weight).sum() for weight in weights)
    order = np.argsort(-others)
    false_alarms = np.cumsum(weights[1][order]) / weights[1].sum() * n_others / (n_others + 1)
    found = 1 - shares_below(others[order], members, weights[0])[1]
    curve = np.concatenate([[0.0], false_alarms, [1.0]]), np.concatenate([[0.0], found, [1.0]])
    value = float(np.interp(rate, *curve))
    count = np.arange(scipy.stats.binom.ppf(1 - 1e-6, round(n_others), rate) + 1)
    chance = scipy.stats.binom.pmf(count, round(n_others), rate)
    chance /= chance.sum()
    successes = n_members * np.interp((count + 0.5) / (n_others + 1), *curve)

    def beyond(share: float, tail: float) -> float:
        return chance @ scipy.special.betainc(successes + 0.5, n_members - successes + 0.5, share) - tail

    low, high = (scipy.optimize.brentq(beyond, 0, 1, (tail,)) for tail in ((1 - confidence) / 2, (1 + confidence) / 2))
    return value, min(low, value), max(high, value)


# ---- report: fidelity and utility --------------------------------------------------------------------------------


def concordance(a: np.ndarray, b: np.ndarray) -> float:
    """Return Lin's (1989) concordance correlation: 1 where all pairs are equal, less where one is shifted or scaled."""
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 2 * float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 1.0


def gene_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return each gene's two-sample Kolmogorov-Smirnov distance (genes,), all at once: scipy takes 0.3 ms per gene."""
    found = []
    for start in range(0, a.shape[1], 256):  # genes, to keep the memory down
        both = np.concatenate([part[:, start : start + 256].T for part in (a, b)], axis=1)  # (genes, rows)
        order = np.argsort(both, axis=1)
        gap = np.cumsum(np.where(order < len(a), 1 / len(a), -1 / len(b)), axis=1)
        values = np.take_along_axis(both, order, 1)
        gap[:, :-1][values[:, :-1] == values[:, 1:]] = 0  # distribution functions step at the last of equal values
        found.append(np.abs(gap).max(1))
    return np.concatenate(found)


def type_moments(samples: Samples, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (types, genes), standardised, and log variances within types (genes,), in training units."""
    means, _, residuals = class_residuals(samples, len(evaluation.types))
    # standardised variances would agree with those of whatever they are standardised by
    return means, np.log(np.square(residuals.x).mean(0) + MIN_VARIANCE) + 2 * np.log(evaluation.sd)


def correlations(x: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of genes (pairs,), evenly spaced ones if many; 0 where one is constant."""
    x = x[:, np.linspace(0, x.shape[1] - 1, min(x.shape[1], MAX_CORRELATED)).astype(int)]
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.corrcoef(x.T))
    return np.nan_to_num(matrix[np.triu_indices(len(matrix), 1)])


def mmd(a: np.ndarray, b: np.ndarray, width: float) -> float:
    """Return the unbiased squared maximum mean discrepancy, kernel exp(-distance^2 / width) (Gretton et al. 2012)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T  # sklearn's takes 20 times as long
        return float(np.exp(squared / -width).sum(dtype=float))

    within = [(kernel(x, x) - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * kernel(a, b) / (len(a) * len(b))


def manifold_measures(x: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    """Return precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A ball reaches from a row to its fifth neighbour of its own kind. Precision is the share of rows x in any real ball,
    density how many they lie in, over five; recall is the share of real rows in any ball of x, coverage that of real
    balls with a row of x in them.
    """
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute")
    reach, real_reach = (search.fit(part).kneighbors()[0][:, -1] for part in (x, real))
    distances = sklearn.metrics.pairwise_distances(x, real)
    inside, recalled = distances <= real_reach, (distances <= reach[:, None]).any(0)
    return inside.any(1).mean(), recalled.mean(), inside.sum(1).mean() / NEIGHBOURS, inside.any(0).mean()


def two_sample_auc(pair: Sequence[Samples], rng: np.random.Generator) -> tuple[float, float, float]:
    """Have gradient boosting tell samples of one half, groups whole, trained on the other (Lopez-Paz and Oquab 2017).

    Of a type, each half has as many of either kind: with equal totals alone, what is rare
    in one half would be common in the other, and a classifier trained on the one be worse than chance on the other.
    """
    cells = [replace(one, y=2 * one.y + inner_folds(one.y, one.groups, 2, rng)) for one in pair]
    drawn, real = match_types(cells, rng)
    both = drawn.join(real)
    half = both.y % 2
    require(min(np.bincount(half, minlength=2)), 40, "samples of both kinds in a half")
    x = both.x @ principal_directions(COMPONENTS, both.x)
    is_drawn, halves = np.repeat([1, 0], len(drawn)), sklearn.model_selection.PredefinedSplit(half)
    trees = sklearn.ensemble.HistGradientBoostingClassifier(max_iter=80, random_state=sklearn_seed(rng))
    with threadpoolctl.threadpool_limits(None if len(x) > 16 * BLOCK else 1):  # on few rows threads only wait
        score = sklearn.model_selection.cross_val_predict(trees, x, is_drawn, cv=halves, method="predict_proba")[:, 1]
    return auc_interval(score[: len(drawn)], score[len(drawn) :])


def fidelity(evaluation: Evaluation, kind: str) -> dict[str, Any]:
    """Compare genes one by one, moments by type, correlations, and clouds of samples."""
    even, seed = evaluation.even, evaluation.seed
    samples, test = pair = even[kind], even["test"]
    require(len(test), MIN_ROWS, "samples of each kind")
    require(len(evaluation.sd), MIN_GENES, "genes")
    distances = gene_distances(samples.x, test.x)
    usual = distances if kind == "training" else gene_distances(even["training"].x, test.x)
    means, variances = zip(*(type_moments(one, evaluation) for one in pair), strict=True)
    rows = stream(seed, "report width").permutation(len(test))[:BLOCK]
    apart = sklearn.metrics.pairwise_distances(even["training"].x[rows], test.x[rows])
    plane = principal_directions(COMPONENTS, *(one.x for one in even.values()))  # kinds left out would shrink into it
    manifold = manifold_measures(*(one.x @ plane for one in pair))
    return {
        "ks_median": np.median(distances),
        "ks_share_beyond": np.mean(distances > np.quantile(usual, 0.95)),
        "mean_agreement": concordance(*means),
        "variance_agreement": concordance(*variances),
        "correlation_agreement": mean_correlation(*(correlations(one.x)[None] for one in pair)),
        "mmd": mmd(samples.x, test.x, float(np.median(np.square(apart)))),
        "two_sample_auc": attempt(two_sample_auc, pair, stream(seed, "report two samples")),
        **dict(zip(("precision", "recall", "density", "coverage"), manifold, strict=True)),
    }


def contrasts(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Contrast each type with all the others: return Welch's t and the difference of means, both (types, genes)."""
    x = samples.x.astype(np.float64)
    member = (samples.y == np.unique(samples.y)[:, None]).astype(float)  # (types, rows)
    sides: list[np.ndarray] = []
    for weight in (member, 1 - member):
        count = weight.sum(1)[:, None]
        mean = weight @ x / count
        variance = np.maximum(weight @ np.square(x) / count - np.square(mean), 0) * count / (count - 1)
        sides += [mean, np.sqrt(variance + MIN_VARIANCE), count]
    return scipy.stats.ttest_ind_from_stats(*sides, equal_var=False).statistic, sides[0] - sides[3]


def top_overlap(a: np.ndarray, b: np.ndarray, top: int) -> float:
    """Return the share that two statistics (types, genes) have in common of each type's `top` most extreme genes."""
    require(a.shape[1], top + 1, "genes")
    first, second = (np.argsort(-np.abs(statistic), axis=1)[:, :top] for statistic in (a, b))
    return float(np.mean([len(np.intersect1d(*pair)) / top for pair in zip(first, second, strict=True)]))


def mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean correlation of the rows of a with those of b, where a constant one counts as 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.mean(np.nan_to_num([np.corrcoef(*pair)[0, 1] for pair in zip(a, b, strict=True)])))


def recognition(evaluation: Evaluation, kind: str) -> dict[str, Any]:
    """Score on test samples what was trained on the samples; the interval is of the difference from the control."""
    test, predicted = evaluation.kinds["test"], evaluation.predicted
    scores: dict[str, Any] = score_predictions(predicted[kind], test.y)
    right = (predicted[one] == test.y for one in (kind, "training"))
    gain = gain_interval(*right, test, balanced=True, trained=False)
    balanced = scores["balanced_accuracy"]
    ends = np.clip(balanced - gain.mean + np.array(gain.interval), 0, 1)
    scores["balanced_accuracy"] = balanced, *ends
    return {f"tstr_{name}": score for name, score in scores.items()}


def differential_expression(evaluation: Evaluation, kind: str) -> dict[str, Any]:
    """Compare which genes set types apart with those that do in test samples."""
    pair = evaluation.even[kind], evaluation.even["test"]
    several = np.flatnonzero(np.bincount(pair[1].y) > 2)  # fewer samples are too few for a contrast
    require(len(several), 2, "types with more than 2 samples of each kind")
    require(len(evaluation.sd), MIN_GENES, "genes")
    t, changes = zip(*(contrasts(one.take(np.isin(one.y, several))) for one in pair), strict=True)
    return {
        **{f"de_overlap_{top}": attempt(top_overlap, *t, top) for top in (50, 100)},
        "de_rank_correlation": mean_correlation(*(scipy.stats.rankdata(one, axis=1) for one in t)),
        "log_fold_change_correlation": mean_correlation(*(one * evaluation.sd for one in changes)),
    }


# ---- report: privacy ---------------------------------------------------------------------------------------------


def fit_gaussians(samples: Samples, types: int) -> tuple[np.ndarray, np.ndarray]:
    """Return type means (types, genes), and the covariance within types (genes, genes) by Ledoit and Wolf (2004)."""
    means, _, residuals = class_residuals(samples, types)
    covariance, _ = sklearn.covariance.ledoit_wolf(residuals.x.astype(float), assume_centered=True)
    return means, covariance + 1e-6 * np.eye(len(covariance))  # collapsed samples have none


def whitened_product(a: np.ndarray, b: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the inner product (rows,) of each row of a with that of b, whitened by a covariance (genes, genes)."""
    return (a * np.linalg.solve(covariance, b.T).T).sum(1)


def nearest_and_density(x: np.ndarray, cloud: np.ndarray, width: float) -> np.ndarray:
    """Return each row's distance to the nearest of a cloud, and the cloud's log density there but for a constant."""

    def reduce(distance: np.ndarray, start: int) -> np.ndarray:
        density = scipy.special.logsumexp(np.square(distance) / (-2 * width**2), axis=1) - math.log(len(cloud))
        return np.stack([distance.min(1), density], axis=1)

    return np.concatenate([*sklearn.metrics.pairwise_distances_chunked(x, cloud, reduce_func=reduce)]).T  # (2, rows)


def closest_records(x: np.ndarray, records: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return root mean square distances (rows,) of x to the closest record, and to the closest of another group."""
    number = min(NEIGHBOURS + 1, len(records))  # more than so many samples of a group are not passed over
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=number, algorithm="brute").fit(records.x)
    distance, index = search.kneighbors(x)
    other = records.groups[index] != records.groups[index[:, :1]]
    other[:, -1] = True
    distance /= math.sqrt(x.shape[1])
    return distance[:, 0], np.take_along_axis(distance, other.argmax(1)[:, None], 1)[:, 0]


@dataclass(frozen=True)
class Attack:
    """Guesses at who was in the training data: scores (rows,) of samples, higher for likely members.

    member (rows,) says who was. By their weights (rows,) members and others of a type y (rows,) count the same, so that
    scores need not be comparable between types.
    """

    scores: np.ndarray
    member: np.ndarray
    y: np.ndarray
    weights: np.ndarray

    def estimate(self, rate: float | None = None, label: int | None = None) -> tuple[float, ...]:
        """Return the AUC, or the share found at a rate of false alarms, of all types or one, with both intervals."""
        used = (self.weights > 0) & ((label is None) | (self.y == label))
        masks = used & self.member, used & ~self.member
        least = MIN_ROWS if label is None else MIN_ROWS_OF_TYPE
        require(min(map(np.count_nonzero, masks)), least, "training and as many other samples to guess at")
        known = [*(self.scores[mask] for mask in masks), [self.weights[mask] for mask in masks]]
        if rate is not None:  # 3 false alarms are to be expected
            require(len(known[1]), math.ceil(3 / rate), f"non-members for a false-alarm rate of {rate:.0%}")
            known.append(rate)
        statistic = functools.partial(auc_interval if rate is None else share_found, *known)
        return (*statistic(), *statistic(confidence=SIMULTANEOUS)[1:])


def attack_scores(evaluation: Evaluation, population: Samples, samples: Samples) -> dict[str, np.ndarray]:
    """Return the score (rows,) that each attack gives each sample; higher for those guessed to be members.

    An attacker has synthetic and population samples, and parameters if they are released. Nearest: the distance to the
    closest synthetic sample. Density ratio: DOMIAS (van Breugel et al. 2023). Tracing: how far samples lean from the
    population's mean of their type towards the released one (Homer et al. 2008, Dwork et al. 2015), whitened, which is
    the most powerful test for a mean of Gaussian samples. Likelihood ratio: a Gaussian model of the released samples
    against one of the population (Backes et al. 2016). Principal components are those of what an attacker has: fitted
    to the others too, they would give members away.
    """
    released, types, parameters = evaluation.kinds["synthetic"], len(evaluation.types), evaluation.parameters
    if released.x.shape[1] > MANY_GENES:
        plane = principal_directions(500, released.x, population.x)
        released, population, samples = (Samples(part.x @ plane, part.y) for part in (released, population, samples))
        parameters = parameters and (parameters[0] @ plane, None)  # the covariance of so many genes is never given
    (means, covariance), (centre, within) = (fit_gaussians(part, types) for part in (released, population))
    if parameters:
        means, covariance = parameters[0], covariance if parameters[1] is None else parameters[1]
    away, apart = (samples.x - centres[samples.y] for centres in (centre, means))
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute").fit(population.x)
    width = max(float(np.median(search.kneighbors()[0])) / 4, 1e-6)  # which found most members in two cohorts
    nearest, density = nearest_and_density(samples.x, released.x, width)
    return {
        "attack": -nearest,
        "density_ratio_attack": density - nearest_and_density(samples.x, population.x, width)[1],
        "tracing_attack": whitened_product(away, (means - centre)[samples.y], within),
        "likelihood_ratio_attack": whitened_product(away, away, within) - whitened_product(apart, apart, covariance),
    }


def run_attacks(evaluation: Evaluation, seed: int) -> dict[str, Attack]:
    """Guess which samples were in the training data, one of each group, since intervals take them to be independent."""
    if evaluation.unknown:
        raise UnavailableError(evaluation.unknown)
    kinds = {kind: one.take(np.unique(one.groups, return_index=True)[1]) for kind, one in evaluation.kinds.items()}
    members, others, released = kinds["training"], kinds["test"], evaluation.kinds["synthetic"]
    # half of the test samples stand for the population, the others may be mistaken for members
    half = stratified_group_split(others.y, others.groups, 0.5, 1, stream(seed, "report population"))
    population, samples = others.take(half), members.join(others.take(~half))
    require(len(population), 2, "test samples to stand for the population")
    member, y, types = np.arange(len(samples)) < len(members), samples.y, len(evaluation.types)
    counts = np.stack([np.bincount(y[member == side], minlength=types) for side in (False, True)])
    known = np.isin(y, population.y) & np.isin(y, released.y)
    weights = known * counts.min(0)[y] / counts[member.astype(int), y]
    scores = attack_scores(evaluation, population, samples)
    return {name: Attack(score, member, y, weights) for name, score in scores.items()}


def attack_success(evaluation: Evaluation, kind: str, label: int | None = None) -> dict[str, Any]:
    """Return each attack's AUC, and the shares of members found at rates of false alarms, of all types or of one."""
    attacks = evaluation.attacks[kind]
    if isinstance(attacks, UnavailableError):
        raise attacks
    return {
        f"{name}_{key}": attempt(attack.estimate, rate, label)
        for key, _, rate, _ in ATTACK_STATISTICS
        for name, attack in attacks.items()
    }


def copies(evaluation: Evaluation, kind: str) -> dict[str, Any]:
    """Return which share copies a training sample, or is twice as close as to others; for reference, test samples."""
    if evaluation.unknown:
        raise UnavailableError(evaluation.unknown)
    records, released, even = evaluation.whole["training"], evaluation.whole["synthetic"].x, evaluation.even[kind]
    if kind == "training":
        even, released = evaluation.even["test"], evaluation.kinds["test"].x
    some = stream(evaluation.seed, "report copies").permutation(len(released))[:MAX_RELEASED]
    first, second = closest_records(released[some], records)
    matched, _ = closest_records(even.x, records)
    copied = first <= 1e-3  # standard deviations per gene: what rounding leaves between a sample and its copy
    near = np.mean(copied | (first < second / 2))
    return {"copies": np.mean(copied), "near_copies": near, "closest_record_median": np.median(matched)}


# ---- report: the measures, and the one table of them -------------------------------------------------------------


class Measure(NamedTuple):
    """A row of the report: its key, its label, the question it helps to answer, what computes it, and its limit.

    function takes an evaluation and the kind in question, "synthetic" or, for reference, "training"; it returns, by the
    names of its measures, a number, a number and the ends of its intervals, or why it is unavailable. The limit, "most"
    or "least", is a number plus a share of the reference. A value with an interval breaks it only if the interval
    excludes chance (None: the reference), and keeps it only if the interval reaches no further than slack beyond it.
    """

    name: str
    label: str
    group: str
    function: Callable[[Evaluation, str], dict[str, Any]]
    limit: str = ""
    number: float = 0
    share: float = 0
    chance: float | None = None
    slack: float = 0.1


GROUPS = {  # key in report.json: heading, and the words of the verdict
    "looks_real": ("Fidelity", "Looks real"),
    "behaves_real": ("Utility", "Behaves real"),
    "is_private": ("Privacy", "Is private"),
}
FIDELITY, UTILITY, PRIVACY = GROUPS
MUCH, HALF, NEARLY_ALL = ("least", 0, 0.8), ("least", 0, 0.5), ("least", -0.05, 1)  # of the reference
ATTACK_STATISTICS = (  # key, label, rate of false alarms, limit
    ("auc", "membership attack AUC", None, ("most", 0.55, 0, 0.5, 0.05)),
    ("tpr", "found, 1% false alarms", 0.01, ("most", 0.02, 0, 0.01, 0.01)),
    ("tpr10", "found, 10% false alarms", 0.1, ()),
)
MEASURES = (
    Measure("ks_median", "Kolmogorov-Smirnov distance, median gene", FIDELITY, fidelity, "most", 0.05, 1),
    Measure("ks_share_beyond", "genes beyond the real 95% of it", FIDELITY, fidelity),
    Measure("mean_agreement", "agreement of means by type", FIDELITY, fidelity, *MUCH),
    Measure("variance_agreement", "agreement of variances within types", FIDELITY, fidelity, *HALF),
    Measure("correlation_agreement", "agreement of gene-gene correlations", FIDELITY, fidelity, *MUCH),
    Measure("mmd", "maximum mean discrepancy, squared", FIDELITY, fidelity),
    Measure("two_sample_auc", "classifier two-sample AUC", FIDELITY, fidelity, "most", 0.7, chance=0.5),
    Measure("precision", "precision", FIDELITY, fidelity),
    Measure("recall", "recall", FIDELITY, fidelity, *HALF),
    Measure("density", "density", FIDELITY, fidelity),
    Measure("coverage", "coverage", FIDELITY, fidelity, *HALF),
    Measure("tstr_accuracy", "test accuracy, trained on it", UTILITY, recognition),
    Measure("tstr_balanced_accuracy", "test balanced accuracy, trained on it", UTILITY, recognition, *NEARLY_ALL),
    Measure("tstr_macro_f1", "test macro F1, trained on it", UTILITY, recognition),
    Measure("de_overlap_50", "top 50 genes of each type recovered", UTILITY, differential_expression),
    Measure("de_overlap_100", "top 100 genes of each type recovered", UTILITY, differential_expression),
    Measure("de_rank_correlation", "correlation of gene ranks by type", UTILITY, differential_expression, *MUCH),
    Measure("log_fold_change_correlation", "correlation of log-fold changes", UTILITY, differential_expression, *MUCH),
    *(
        Measure(f"{attack}_{key}", f"{what}, {name}", PRIVACY, attack_success, *limit)
        for key, what, _, limit in ATTACK_STATISTICS
        for attack, name in ATTACKS.items()
    ),
    Measure("copies", "exact copies of training samples", PRIVACY, copies, "most", 0, 1),
    Measure("near_copies", "near copies of training samples", PRIVACY, copies, "most", 0.01, 1),
    Measure("closest_record_median", "distance to the closest (weak evidence)", PRIVACY, copies),
)


# ---- report: what the measures say -------------------------------------------------------------------------------


def measure(function: Callable[..., Any], names: Iterable[str], evaluation: Evaluation, *label: int) -> dict[str, Any]:
    """Return, by name, value and intervals of synthetic samples and the value of real ones, or why unavailable."""
    found: dict[str, dict[str, Any]] = {}
    both = [attempt(function, evaluation, kind, *label) for kind in ("synthetic", "training")]
    for name in names:
        estimate, reference = (one if isinstance(one, UnavailableError) else one[name] for one in both)
        if isinstance(estimate, UnavailableError):
            found[name] = {"value": None, "why": str(estimate)}
            continue
        value, *ends = np.atleast_1d(estimate).tolist()
        known = not isinstance(reference, UnavailableError)
        found[name] = {"value": value, "reference": float(np.atleast_1d(reference)[0]) if known else None}
        for kind in ("interval", "simultaneous")[: len(ends) // 2]:
            found[name][kind], ends = ends[:2], ends[2:]
    return found


def measure_type(evaluation: Evaluation, kind: str, label: int) -> dict[str, Any]:
    """Return the Kolmogorov-Smirnov distance of a type's median gene, and the share of test samples recognised."""
    recalled = np.mean(evaluation.predicted[kind][evaluation.kinds["test"].y == label] == label)
    samples, test = (one.x[one.y == label] for one in (evaluation.even[kind], evaluation.even["test"]))
    too_few = attempt(require, len(test), MIN_ROWS_OF_TYPE, "samples of each kind")
    return {"ks_median": too_few or np.median(gene_distances(samples, test)), "tstr_recall": recalled}


def measure_types(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the number of samples and the measures of each type, worst type first."""
    entries = []
    attacks = [row.name for row in MEASURES if row.function is attack_success]
    for label, name in enumerate(evaluation.types.tolist()):
        counts = {kind: int(np.sum(samples.y == label)) for kind, samples in evaluation.kinds.items()}
        found = measure(measure_type, ("ks_median", "tstr_recall"), evaluation, label)
        entries.append({"type": name, **counts, **found, **measure(attack_success, attacks, evaluation, label)})
    return sorted(entries, key=shortfall, reverse=True)


def shortfall(entry: dict[str, Any]) -> float:
    """Return how far the worst of a type's measures falls behind its reference, an attack as far as is certain."""
    recall, distance = entry["tstr_recall"], entry["ks_median"]
    behind = [recall["reference"] - recall["value"]]
    if distance["value"] is not None:
        behind.append(distance["value"] - distance["reference"])
    attacks = (entry[f"{attack}_auc"] for attack in ATTACKS)
    return max(behind + [attack["interval"][0] - 0.5 for attack in attacks if attack["value"] is not None])


def judge_measure(row: Measure, found: dict[str, Any]) -> tuple[bool | None, str]:
    """Return whether a measure keeps its limit (None: inconclusive), and the words that say so."""
    value, reference = found["value"], found.get("reference")
    if value is None or (reference is None and row.share):
        return None, found.get("why", f"{row.label}: too few samples for a reference")
    bound = row.number + row.share * (reference or 0)
    sign = 1 if row.limit == "most" else -1  # what is asked to be high is looked at upside down
    ends = found.get("simultaneous", found.get("interval"))
    near_end, far_end = (ends or (value, value))[::sign]
    chance = bound if ends is None else reference if row.chance is None else row.chance
    words = f"{row.label} {value:.4f} (at {row.limit} {bound:.4f})"
    if sign * value > sign * bound:
        return (False if sign * (near_end - chance) > 0 else None), words
    if ends and sign * (far_end - bound) > row.slack + 1e-9:
        return None, f"{row.label} {value:.4f}, but perhaps {far_end:.4f}"
    if row.name.endswith("attack_auc") and far_end < 0.4:
        return None, f"{row.label} {value:.4f}: others look more like members; are the training samples right?"
    return True, words


def judge_group(group: str, measures: dict[str, dict[str, Any]], evaluation: Evaluation) -> dict[str, Any]:
    """Answer one of the three questions, in words too; ok is None where it is inconclusive."""
    answers = [judge_measure(row, measures[row.name]) for row in MEASURES if row.group == group and row.limit]
    ok = False if any(kept is False for kept, _ in answers) else all(kept for kept, _ in answers) or None
    words = "; ".join(dict.fromkeys(text for kept, text in answers if kept is ok))
    if ok and group == PRIVACY:
        released = len(evaluation.kinds["synthetic"])
        parameters = " and the generator's parameters" * bool(evaluation.parameters)
        words = f"against {len(ATTACKS)} attacks on {released} released samples{parameters}: {words}"
    elif ok and evaluation.unknown:
        words += "; it may have been trained on the test samples, since its training samples are not known"
    answer = {True: "yes", False: "no", None: "inconclusive"}[ok]
    return {"ok": ok, "words": f"{answer}: {words}"}


def prepare(evaluation: Evaluation, seed: int) -> Evaluation:
    """Keep no more rows than a report looks at, which its notes say, and add what measures need."""
    kinds, notes, rng = {}, [*evaluation.notes], stream(seed, "report samples")
    for kind, samples in evaluation.kinds.items():
        kinds[kind] = samples.take(thin(samples.y, MAX_RELEASED if kind == "synthetic" else MAX_REAL, rng))
        if len(kinds[kind]) < (known := np.count_nonzero(samples.y >= 0)):
            notes.append(f"the report is on {len(kinds[kind])} of {known} {kind} samples, drawn at random")
    even = dict(zip(kinds, match_types([*kinds.values()], stream(seed, "report even")), strict=True))
    evaluation, test = replace(evaluation, kinds=kinds, notes=notes, even=even, seed=seed), kinds["test"]
    to_train_on = match_types([kinds["synthetic"], kinds["training"]], stream(seed, "report classifiers"))
    half = stratified_group_split(test.y, test.groups, 0.5, 1, stream(seed, "report released"))
    halves = kinds | {"synthetic": test.take(half), "test": test.take(~half)}
    reference = replace(evaluation, kinds=halves, parameters=None)
    predicted, attacks = {}, {}
    for kind, samples, attacked in zip(("synthetic", "training"), to_train_on, (evaluation, reference), strict=True):
        classifier = fit_logistic_regression(samples, len(evaluation.types), LOGISTIC_C[0])
        predicted[kind] = classifier.predict(test.x).argmax(1)
        attacks[kind] = attempt(run_attacks, attacked, seed)
    return replace(evaluation, predicted=predicted, attacks=attacks)


def evaluate(evaluation: Evaluation, seed: int) -> tuple[dict[str, Any], Evaluation]:
    """Take all measures; return what report.json holds, less its manifest, and the evaluation as it was prepared."""
    evaluation, measures = prepare(evaluation, seed), {group: {} for group in GROUPS}
    for (group, function), rows in itertools.groupby(MEASURES, key=lambda row: (row.group, row.function)):
        measures[group] |= measure(function, [row.name for row in rows], evaluation)
    verdicts = {group: judge_group(group, measures[group], evaluation) for group in GROUPS}
    return {**measures, "verdicts": verdicts, "by_type": measure_types(evaluation)}, evaluation


def format_pair(found: dict[str, Any], digits: int) -> list[str]:
    """Format value and reference of a measure."""
    numbers = (found.get(key) for key in ("value", "reference"))
    return ["-" if number is None else f"{number:.{digits}f}" for number in numbers]


def format_report(report: dict[str, Any], kinds: dict[str, Samples], origin: str) -> list[str]:
    """Return the lines, of at most 80 characters, that say what was found of synthetic samples from that origin."""
    training, test, synthetic = map(len, kinds.values())
    lines = [
        f"Is it real? Is it private? {synthetic} synthetic, {training} training and {test} test samples",
        f"(synthetic: {origin}; real: the same of real samples)",
    ]
    for group, (heading, _) in GROUPS.items():
        lines.append(f"{heading:42s} {'synthetic':>9s} {'real':>9s}")
        for row in (row for row in MEASURES if row.group == group):
            found = report[group][row.name]
            value, reference = format_pair(found, 4)
            ends = "  {:.3f}..{:.3f}".format(*found["interval"]) if "interval" in found else ""
            lines.append(f"  {row.label:40s} {value:>9s} {reference:>9s}{ends}")
        for why in dict.fromkeys(found["why"] for found in report[group].values() if "why" in found):
            lines += textwrap.wrap(f"- {why}", 80, initial_indent="  ", subsequent_indent="    ")
    headings = ("KS distance", "recall", "nearest", "tracing")
    lines.append(f"{'Worst types, synthetic/real':27s}" + "".join(f"{name:>13s}" for name in headings))
    for entry in report["by_type"][:5]:
        shown = (entry[key] for key in ("ks_median", "tstr_recall", "attack_auc", "tracing_attack_auc"))
        cells = "".join(f"{'/'.join(format_pair(found, 3)):>13s}" for found in shown)
        lines.append(f"  {shorten(entry['type'], 25):25s}{cells}")
    for group, (_, question) in GROUPS.items():
        lines += wrap(f"{question}: {report['verdicts'][group]['words']}").splitlines()
    return lines


# ---- figures: of a report, and of accuracy by epoch --------------------------------------------------------------

TYPE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")  # Okabe and Ito 2008
OTHER_COLOUR = "#bbbbbb"
CURVES = {  # of accuracy by epoch: published column, colour, and a line and marker that tell them apart in grey
    "augmented": ("trained w/ synthetic data", "#b2182b", "o-"),
    "same_steps": ("same steps w/o synthetic data", "#4d4d4d", "s--"),
    "real": ("trained w/o synthetic data", "#67a9cf", "^:"),
}


def draw_plane(axes: matplotlib.axes.Axes, evaluation: Evaluation) -> None:
    """Draw synthetic and test samples in the plane of the test samples' first two principal components, by type."""
    test, names, rng = evaluation.even["test"], evaluation.types, stream(evaluation.seed, "report figure")
    plane = principal_directions(2, test.x)
    require(plane.shape[1], 2, "principal components")
    commonest = np.argsort(-np.bincount(test.y, minlength=len(names)), kind="stable")
    groups = [*zip(commonest, TYPE_COLOURS, names[commonest], strict=False)]
    if len(names) > len(groups):
        groups.insert(0, (commonest[len(groups) :], OTHER_COLOUR, "other types"))
    shown = [one.take(rng.permutation(len(one))[:1000]) for one in (test, evaluation.even["synthetic"])]
    for codes, colour, name in groups:
        label = " " * name.startswith("_") + shorten(name).replace("$", r"\$")  # "_" would hide it, "$" start formulae
        for samples, marker in zip(shown, "ox", strict=True):
            x, y = (samples.x[np.isin(samples.y, codes)] @ plane).T
            axes.scatter(x, y, 9, colour, marker=marker, alpha=0.6, linewidths=0.7, label=label * (marker == "o"))
    axes.set(xlabel="first component", ylabel="second component")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=2, frameon=False, handletextpad=0.1)


def draw_pairs(axes: matplotlib.axes.Axes, evaluation: Evaluation, statistic: Callable[[Samples], np.ndarray]) -> None:
    """Draw a statistic of synthetic samples and, for reference, of training samples against that of test samples."""
    real = statistic(evaluation.even["test"]).ravel()
    require(len(real), 1, "pairs of genes")
    shown = stream(evaluation.seed, "report figure").permutation(len(real))[:4000]
    for kind, colour, size in (("synthetic", TYPE_COLOURS[0], 8), ("training", TYPE_COLOURS[1], 2)):
        values = statistic(evaluation.even[kind]).ravel()
        axes.scatter(real[shown], values[shown], size, colour, alpha=0.6, linewidths=0, label=kind)
    axes.axline((real[0], real[0]), slope=1, color="black", linewidth=0.8)
    axes.set(xlabel="test samples", ylabel="synthetic, training samples")
    axes.legend(markerscale=3, handletextpad=0.1, borderpad=0.2)


def draw_scores(axes: matplotlib.axes.Axes, measures: dict[str, dict[str, Any]]) -> None:
    """Draw the table of how what was learned from synthetic samples does on test samples."""
    rows = {row.label: format_pair(measures[row.name], 3) for row in MEASURES if row.group == UTILITY}
    table = axes.table([*rows.values()], rowLabels=[*rows], colLabels=("synthetic", "real"), bbox=(0.75, 0.1, 0.6, 0.8))
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    axes.set_axis_off()


def draw_attacks(axes: matplotlib.axes.Axes, attacks: dict[str, Attack] | UnavailableError) -> None:
    """Draw how many members each attack finds against how many others it takes for members."""
    if isinstance(attacks, UnavailableError):
        raise attacks
    for (key, attack), colour, style in zip(attacks.items(), TYPE_COLOURS, ("-", "--", "-.", ":"), strict=False):
        label = f"{attack.estimate()[0]:.2f} {ATTACKS[key]}"
        others, members, _ = sklearn.metrics.roc_curve(attack.member, attack.scores, sample_weight=attack.weights)
        axes.plot(others, members, style, color=colour, linewidth=2, label=label)
    rates = np.geomspace(1e-3, 1)
    axes.plot(rates, rates, color="black", linewidth=0.8, label="0.50 guessing")
    axes.set(xlabel="others taken for members", ylabel="members found", xscale="log", yscale="log")
    axes.set(xlim=(1e-3, 1), ylim=(1e-3, 1))  # what matters is who is found at few false alarms (Carlini et al. 2022)
    axes.axvline(0.01, color=OTHER_COLOUR, linewidth=0.8)
    axes.legend(title="AUC", loc="lower right", borderpad=0.2, handlelength=1.5, labelspacing=0.2, fontsize=10)


def draw_report(path: Path, evaluation: Evaluation, report: dict[str, Any], title: str) -> None:
    """Draw a report to path: types, means, variances, scores, correlations and attacks, one panel each."""
    means, variances = (lambda samples, i=i: type_moments(samples, evaluation)[i] for i in (0, 1))
    panels = (
        ("Samples by type (o real, x synthetic)", draw_plane, evaluation),
        ("Means of genes in types (sd)", draw_pairs, evaluation, means),
        ("Log variances within types", draw_pairs, evaluation, variances),
        ("Learned from synthetic or from real", draw_scores, report[UTILITY]),
        ("Correlations of genes", draw_pairs, evaluation, lambda samples: correlations(samples.x)),
        ("Who was in the training data?", draw_attacks, evaluation.attacks["synthetic"]),
    )
    answers = (f"{GROUPS[group][1]}: {said['words'].split(':')[0]}" for group, said in report["verdicts"].items())
    with matplotlib.rc_context({"font.size": 13, "axes.titlesize": 14}):
        figure = matplotlib.figure.Figure(figsize=(14.5, 9), dpi=150, layout="constrained")
        figure.suptitle(f"{title}\n{'   '.join(answers)}", fontsize=16, parse_math=False)
        grid = figure.subplots(2, 3, width_ratios=(1.25, 1, 1))
        for axes, (name, draw, *shown) in zip(grid.flat, panels, strict=True):
            axes.set_title(name)
            if why := attempt(draw, axes, *shown):
                axes.text(0.5, 0.5, textwrap.fill(str(why), 30), ha="center", va="center")
                axes.set_axis_off()
        with replacing(path) as beside:
            figure.savefig(beside)


def draw_accuracy(path: Path, rows: list[dict[str, float]], title: str, band: str) -> None:
    """Draw test accuracy by epoch, with bands that `band` explains, to path, and write the numbers to a .csv beside."""
    figure = matplotlib.figure.Figure(figsize=(7, 4.6), dpi=200, layout="constrained")
    axes, table = figure.add_subplot(), pd.DataFrame(rows)
    for key, (label, colour, style) in CURVES.items():
        axes.plot("epochs", key, style, data=table, color=colour, label=label, markersize=5, linewidth=1.8)
        if f"{key}_low" in table:
            axes.fill_between("epochs", f"{key}_low", f"{key}_high", data=table, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("Epochs (same steps: as many steps as with synthetic data)", fontsize=12)
    axes.set_ylabel("Test accuracy", fontsize=12)
    axes.set_title(title, parse_math=False, fontsize=13)
    axes.set_xlim(0.5, len(table) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=11, title=band or None)
    with replacing(path) as beside:
        figure.savefig(beside)
    names = {"epochs": "Epochs"} | {key: CURVES[key][0] for key in ("real", "augmented", "same_steps")}
    columns = [*names, *(key for key in table if key.endswith(("_low", "_high")))]
    with replacing(path.with_suffix(".csv")) as beside:
        table[columns].rename(columns=names).to_csv(beside, index=False)


# ---- command line: what the user asks for; nothing above knows args -------------------------------------------------

Args = argparse.Namespace


def takes(convert: Callable[..., Any], what: str, pattern: str = "(.*)", **options: Any) -> dict[str, Any]:
    """Return the options of a flag that converts the groups of pattern in a word; None or an error refuses the word."""

    def parse(word: str) -> Any:
        with contextlib.suppress(ValueError, OverflowError, re.error):
            match = re.fullmatch(pattern, word, re.DOTALL)
            if match and (value := convert(*match.groups())) is not None:
                return value
        raise argparse.ArgumentTypeError(f"{word!r} {what}")

    return {"type": parse, **options}


def number(kind: type, default: Any = None, least: float = 1, most: float = 10**9, letter: str = "N") -> dict[str, Any]:
    """Return the options of a flag that takes a number from least to most."""
    what = f"is not a {'whole ' * (kind is int)}number from {least} to {most}"
    options = {"default": default, "metavar": letter}
    return takes(lambda word: kind(word) if least <= kind(word) <= most else None, what, **options)


def file_ending_in(*suffixes: str) -> dict[str, Any]:
    """Return the options of a flag that takes the name of a file with one of these suffixes."""
    what = f"does not end in {' '.join(suffixes)}"
    return takes(lambda word: Path(word) if word.endswith(suffixes) else None, what, metavar="FILE")


FILE, NAME, SWITCH = {"type": Path, "metavar": "FILE"}, {"metavar": "NAME"}, {"action": "store_true"}
MODEL_FILE = file_ending_in(".safetensors")

# fmt: off
FLAGS = [  # headings, and flags: names, what --help says (with unit and default), options
    "data",
    ("--rnaseq", "expression table (default: see --data)", FILE),
    ("--types", "table of sample ids and types (default: a column of --rnaseq)", FILE),
    ("--type_column", "column that holds the types (default: found by its name)", NAME),
    ("--layer", "matrix of an .h5ad file: a layer, or raw (default: X)", NAME),
    ("--data", "without --rnaseq: CANDLE files from cache or network (candle), a simulated cohort, or the first that "
     "is there (default: auto)", {"choices": ("auto", "candle", "simulated"), "default": "auto"}),
    ("-k --top_k_types", "most frequent types kept (default: 20, or all)", number(int, None, 2)),
    ("--transform", "what is trained on: log2(x + 1), log2(CPM + 1) or values as they are (default: auto, by the "
     "values)", {"choices": ("auto", *TRANSFORMS), "default": "auto"}),
    ("--group_regex", "its capture group in a sample id names the patient or cell line (default: TCGA and CANDLE ids)",
     takes(lambda word: word if re.compile(word).groups else None,
           "is not a regular expression with ( ) around what names the group", metavar="REGEX")),
    ("--test_fraction", "share of each type's groups held out; 0 trains on every sample, without the experiment "
     "(default: 0.5)", number(float, 0.5, 0, 0.99, "X")),
    ("--check", "say how the tables are read, and stop (default: off)", SWITCH),
    "generator",
    ("-m --model", "generator (default: cvae)", {"choices": tuple(MODEL_NAMES), "default": "cvae"}),
    ("-d --latent_dim", "latent dimensions (default: up to 64 by held-out likelihood; 200 for gaussian)",
     number(int, None, 1, MAX_LATENT)),
    ("-e --epochs", "generator's passes over the training samples; the best is kept (default: 20)", number(int, 20)),
    ("-b --batch_size", "generator's samples per training step (default: 128)", number(int, 128)),
    ("-n --n_samples", "synthetic samples, each of a random type (default: 10000)", number(int, 10_000)),
    ("--per_type", "synthetic samples of each named type, instead of --n_samples (default: off)",
     takes(lambda name, count: (name, int(count)), "is not TYPE=N with a whole number N", r"(.+)=(\d{1,9})",
           nargs="+", action="extend", metavar="TYPE=N")),
    ("--balance", "bring each type up to the most frequent one, instead of --n_samples (default: off)", SWITCH),
    ("--temperature", "spread around the type's mean; 1 is that of real samples (default: 1.5 to train on, 1 in files "
     "and reports)", number(float, None, 0.01, 10, "X")),
    ("--epsilon", "fit -m gaussian with differential privacy: for one patient, this epsilon (default: off)",
     number(float, None, 0.001, 1000, "E")),
    ("--delta", "the delta of --epsilon (default: 1e-05)", number(float, 1e-5, 1e-12, 0.1, "D")),
    ("--public", "table of other samples that all may know, from which --epsilon takes scale and directions "
     "(default: none)", FILE),
    "experiment",
    ("--classifier_epochs", "classifier's passes over its training samples (default: 2)", number(int, 2)),
    ("--trainings", "trainings of each classifier, whose mean is reported (default: 5)", number(int, 5, 1, 1000)),
    ("--train_per_type", "at most N training samples per type (default: all)", number(int)),
    ("--repeats", "repeat the experiment on R splits, seeds from --seed on (default: 1)", number(int, 1, 1, 1000, "R")),
    ("--compare", "compare with copies, SMOTE, a Gaussian and strong classifiers (default: off)", SWITCH),
    ("--plot", "figure and .csv of 1 to 20 classifier epochs in a folder or .png .pdf .svg (default: off; PATH: here)",
     {"type": Path, "nargs": "?", "const": Path(), "metavar": "PATH"}),
    ("--results", "write everything found to this file (default: off)", {"type": Path, "metavar": "FILE.json"}),
    ("--seed", "seed of everything random (default: 2021)", number(int, 2021, 0)),
    "report",
    ("--report", "judge fidelity, utility and privacy: a table, report.json and report.png in this folder "
     "(default: off)", {"type": Path, "metavar": "DIR"}),
    ("--report_only", "judge this table, made by any tool, with a column `type`, and stop (default: off)",
     {"type": Path, "metavar": "SYNTHETIC"}),
    ("--train_ids", "ids, one per line, that --report_only or --load_model was trained on (default: none; the split by "
     "--seed)", FILE),
    "files to keep",
    ("--output", f"write synthetic samples to a {' '.join(WRITERS)} (default: off)", file_ending_in(*WRITERS)),
    ("--save_model", "write the generator to a .safetensors (default: off)", MODEL_FILE),
    ("--load_model", "use a saved generator, without training (default: off)", MODEL_FILE),
    ("--predict", "type the samples of table NEW by the best classifier into OUT, a .tsv .csv .parquet (default: off)",
     {"type": Path, "nargs": 2, "metavar": ("NEW", "OUT")}),
    ("--shard", "with --load_model, draw only the I-th of K parts of --output (default: all)",
     takes(lambda part, parts: (int(part), int(parts)) if 1 <= int(part) <= int(parts) else None,
           "is not I/K with I from 1 to K", r"(\d{1,6})/(\d{1,6})", metavar="I/K")),
    ("--overwrite", "let tables and models replace a file (default: off)", SWITCH),
    "about",
    ("--debug", "show the traceback of an error (default: one line)", SWITCH),
    ("--version", "print the version and stop", {"action": "version", "version": f"rnagen {__version__}"}),
    ("-h --help", "print this and stop", {"action": "help"}),
]
# fmt: on


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("rnagen.py", description=__doc__, allow_abbrev=False, add_help=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.error = lambda message: parser.exit(2, f"rnagen: {message} (see --help)\n")  # one line, without usage
    for row in FLAGS:
        if isinstance(row, str):
            group = parser.add_argument_group(row)
        else:
            names, words, options = row
            group.add_argument(*names.split(), help=words, **options)
    return parser


def list_conflicts(args: Args, given: set[str]) -> list[tuple[Any, set[str], str]]:
    """Return what does not go together: whether it matters in this run, what must not be given then, and why."""
    loads, trains = args.load_model, not (args.load_model or args.report_only)
    private, gaussian = args.epsilon is not None, args.model == "gaussian"
    others = given - {"results", "seed", "debug"}  # which go with everything
    tables = {"rnaseq", "types", "type_column", "layer", "data", "group_regex"}
    judges = tables | {"test_fraction", "train_per_type", "train_ids", "report"}
    counts = {"n_samples", "per_type", "balance"}
    ways, types = counts & given, [name for name, _ in args.per_type or ()]
    endings, (new, out) = " ".join(PREDICTION_SUFFIXES), args.predict or (None, None)
    suffixes = {path.suffix for path in (args.rnaseq, new) if path}
    # fmt: off
    return [
        (args.check, others - tables - {"check", "transform", "top_k_types"},
         "does not go with --check, which only reads tables"),
        (loads, others - judges - counts - {"load_model", "temperature", "output", "shard", "overwrite", "predict"},
         "does not go with --load_model, whose file settles it"),
        (args.report_only, others - judges - {"report_only", "transform", "top_k_types"},
         "does not go with --report_only, which trains and draws nothing"),
        (loads and not args.report, judges - {"layer"}, "does not go with --load_model without a --report"),
        (not args.rnaseq, {"types", "type_column"}, "give its expression table by --rnaseq as well"),
        (args.rnaseq, {"data"}, "is for runs without --rnaseq; give one of the two"),
        (".h5ad" not in suffixes, {"layer"}, "is for --rnaseq FILE.h5ad, or --predict FILE.h5ad"),
        (len(ways) > 1, ways - {"n_samples"}, "say how many samples in one way: --n_samples, --per_type or --balance"),
        (len(set(types)) < len(types), {"per_type"}, "a type is named twice; name it once"),
        (loads and not args.output, counts | {"shard"}, "is for --output, which is not given"),
        (loads and not (args.output or args.predict or args.report), {"load_model"},
         "name the file for its samples by --output"),
        (args.train_ids, {"test_fraction", "train_per_type"}, "does not go with --train_ids, which splits the samples"),
        (not loads, {"shard"}, "is for --load_model: draw the parts from one saved generator"),
        (trains, {"train_ids"}, "is for --report_only and --load_model; a run knows whom it trains on"),
        (gaussian, {"epochs", "batch_size"}, "is for the autoencoders; a Gaussian is not trained in steps"),
        (not private, {"delta", "public"}, "is for --epsilon, which is not given"),
        (not gaussian, {"epsilon"}, "is for -m gaussian; networks are not trained with differential privacy here"),
        (private, {"compare", "predict"}, "does not go with --epsilon: what it fits is not covered by the guarantee"),
        (private, {"repeats"}, "does not go with --epsilon: every fit would cost as much privacy again"),
        (not args.test_fraction,
         {"plot", "classifier_epochs", "trainings", "repeats", "compare", "report", "report_only"},
         "needs test samples; give a --test_fraction above 0"),
        (out and out.suffix not in PREDICTION_SUFFIXES, {"predict"}, f"'{out}' does not end in {endings}"),
    ]
    # fmt: on


def parse_arguments(argv: Sequence[str] | None) -> Args:
    """Parse the command line; wrong usage ends the program with status 2."""
    parser = build_parser()
    args = parser.parse_args(argv)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given = set(vars(parser.parse_args(argv)))  # by the user, defaults given by hand included
    for matters, flags, why in list_conflicts(args, given):
        if matters and flags & given:
            parser.error(f"argument --{min(flags & given)}: {why}")
    if args.test_fraction == 0 and not (args.output or args.save_model or args.predict):
        parser.error("argument --test_fraction 0: name what to keep by --output, --save_model or --predict")
    return args


# ---- command line: what is printed, and when ---------------------------------------------------------------------


class Terminal:
    """Prints results on stdout, notes on stderr, and a live bar there if it is a terminal; nothing of it if quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.bar = quiet, None

    def print(self, *lines: str, file: Any = None) -> None:
        """Print lines of results, clear of any live bar."""
        if not self.quiet:
            tqdm.tqdm.write("\n".join(lines), file=file or sys.stdout)
            (file or sys.stdout).flush()

    def warn(self, *notes: str) -> None:
        """Say, each in one line, what the user should know but did not ask for."""
        for note in notes:
            self.print(f"rnagen: {note}", file=sys.stderr)

    def __call__(self, event: Any) -> None:
        """Print what a computation reports, and move the live bar on."""
        match event:
            case str():
                self.warn(event)
            case Started("sampling"):
                self.print(f"\nGenerate {event.n_synthetic} RNAseq samples:")
            case Started("augmented", real, drawn):
                sizes = f"{real} + {drawn} = {real + drawn} samples"
                self.print("\nTrain a type classifier with synthetic data:", sizes)
            case Started(what):
                self.print(f"\nTrain {MODEL_NAMES.get(what, 'a type classifier')}:")
            case FactorModel(kind, latent):
                how = {
                    "private": "made of noised statistics alone",
                    "gaussian": "each type's covariance shrunk to the pooled one by Ledoit-Wolf",
                }.get(kind, f"the pooled covariance counts as {latent} sample{'s' * (latent > 1)} beside a type's own")
                self.print(f"Factor model: {latent} latent dimensions, {how}")
            case Progress(epoch=0, metrics={"val_loss": loss}):
                self.print(f"Before training - val_loss: {loss:.4f}")
            case Progress(metrics=metrics) if metrics:
                values = " - ".join(f"{name}: {value:.4f}" for name, value in metrics.items())
                self.print(f"Epoch {event.epoch}/{event.epochs} - {values}")
            case TrainedGenerator() if event.epoch < len(event.history):
                kept = f"of epoch {event.epoch}" if event.epoch else "before training"
                self.print(f"Kept the weights {kept}: lowest val_loss")
            case Sampling():
                self.print(f"Done in {event.seconds:.3f} seconds ({event.samples_per_second:.1f} samples/s).")
            case ArmScores(name, loss, accuracy):
                sd = "" if accuracy.sd is None else f" (sd {accuracy.sd:.4f} over {len(accuracy.values)} trainings)"
                title = f"\nEvaluate {'on' if name == 'real' else 'again on original'} test data:"
                self.print(title, f"loss: {loss:.4f} - accuracy: {accuracy.mean:.4f}{sd}")
        if isinstance(event, Progress) and event.steps:
            if self.bar is None:  # disable=None: where stderr is no terminal
                self.bar = tqdm.tqdm(total=event.all_steps, leave=False, disable=self.quiet or None)
            self.bar.update(event.steps)
            if self.bar.n >= event.all_steps:
                self.bar.close()
                self.bar = None


def format_transform(transform: str, asked: str) -> str:
    """Return the line that says what is trained on, and why."""
    name, reason = {
        "none": ("none", "values are on their scale"),
        "log2": ("log2(x + 1)", "values look like TPM"),
        "cpm": ("log2(CPM + 1), each sample by its own depth", "whole numbers look like counts"),
    }[transform]
    return f"Transform: {name}: {reason if asked == 'auto' else 'as asked'}"


def format_dataset(dataset: Dataset, cohort: Cohort, args: Args) -> list[str]:
    """Return the lines that say how a cohort was split and preprocessed."""
    size = f"{len(cohort.samples)} samples in {len(set(cohort.groups))} groups"
    training = f"{dataset.n_training} training samples ({len(dataset.validation)} of them to validate)"
    lines = [
        f"Top {len(dataset.types)} types: {size}: {cohort.grouping}",
        f"Split by groups: {training}, {len(dataset.test)} test samples",
    ]
    fitted = dataset.preprocessing
    if args.train_per_type:
        lines.append(f"Training samples limited to {args.train_per_type} per type")
    if dropped := np.count_nonzero(~fitted.kept):
        unmeasured = np.isnan(fitted.constant[~fitted.kept]).sum()
        counts = f"{dropped - unmeasured} constant and {unmeasured} all missing"
        lines.append(f"Genes dropped: {counts} in the training samples")
    if dataset.missing:
        lines.append(f"Missing values: {dataset.missing} in the training samples, taken as their gene's mean")
    if fitted.transform != "none":
        units = "synthetic samples come in the table's own units"
        lines.append(f"{format_transform(fitted.transform, args.transform)}; {units}")
    return lines


def format_accuracy(accuracy: dict[str, Any], split: int, splits: int) -> list[str]:
    """Return what synthetic samples changed on a split: on the first one in full, on the others in a line."""
    real, control, augmented, gain = (one["mean"] for one in accuracy.values())
    points = f"{100 * gain:+.2f} points"
    if split > 1:
        scores = f"{real:.4f} -> {augmented:.4f}, same steps on real data {control:.4f}"
        return [f"Repeat {split}/{splits}: {scores} ({points})"]
    change = f"{(augmented - real) / real:+.2%}" if real else "n/a"
    interval = "The interval of that gain is unavailable: one training does not tell its noise (--trainings)"
    if accuracy["gain"]["interval"]:
        low, high = (100 * end for end in accuracy["gain"]["interval"])
        interval = f"95% interval of that gain, on this one split: {low:+.2f} to {high:+.2f} points"
    return [
        f"Test accuracy change: {change} ({real:.4f} -> {augmented:.4f})",
        f"Same training steps on real data alone: {control:.4f} (synthetic data adds {points})",
        interval,
    ]


def format_p_value(p_value: float | None) -> str:
    """Format a p-value, empty where there is none."""
    return "" if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def format_comparison(comparison: Comparison, repeats: int) -> list[str]:
    """Return a table of classifiers, with each one's gain over the control."""
    chance = any(gain.p_value is not None for gain in comparison.gains.values())
    lines = [
        f"\nCompare classifiers{f' over {repeats} splits' * (repeats > 1)} (gain in balanced accuracy over",
        "copies, in points, with its 95% interval; folds: balanced accuracy on inner folds):",
        f"{'':35s} {'accur.':>6s} {'balan.':>6s} {'folds':>6s} {'gain':>22s}{'      p' * chance}",
    ]
    for name, gain in comparison.gains.items():
        scores = comparison.scores[name]
        cells = scores["accuracy"], scores["balanced_accuracy"], comparison.fold_scores.get(name, math.nan)
        line = f"{name:35s}" + "".join(" " * 7 if math.isnan(cell) else f" {cell:.4f}" for cell in cells)
        if name != CONTROL:
            line += f" {in_points(gain):>22s} {format_p_value(gain.p_value):>6s}"
        lines.append(line.rstrip())
    return lines


# ---- command line: a run, from tables to files --------------------------------------------------------------------

REPORT_FILES = ("report.json", "report.png")


def plot_path(path: Path, types: int, simulated: bool) -> Path:
    """Return where the figure goes: the published name in a folder, or the file itself, marked if simulated."""
    suffixes = (".png", ".pdf", ".svg")
    if path.is_dir():
        path /= f"test-accuracy-comparison-{types}-types.png"
    elif path.suffix not in suffixes:
        raise RnagenError(f"--plot {path}: is neither a folder nor a name ending in {' '.join(suffixes)}")
    return path.with_name(f"{path.stem}-simulated{path.suffix}") if simulated else path


def check_outputs(args: Args) -> None:
    """Find out before any training whether each output can be written; tables and models are replaced only if asked."""
    new, predicted = args.predict or (None, None)
    inputs = (args.rnaseq, args.types, args.load_model, args.report_only, args.train_ids, args.public, new)
    outputs = [("--results", args.results), ("--output", args.output), ("--save_model", args.save_model)]
    outputs += [("--predict", predicted), *(("--report", args.report / name) for name in REPORT_FILES if args.report)]
    for simulated in (False, True) if args.plot else ():
        path = plot_path(args.plot, args.top_k_types or DEFAULT_TYPES, simulated)
        outputs += [("--plot", path), ("--plot", path.with_suffix(".csv"))]
    taken = {path.resolve(): "an input" for path in inputs if path}
    for flag, path in outputs:
        if path is None:
            continue
        folder = path.resolve().parent
        try:
            if path.exists() and not path.is_file():
                raise RnagenError(f"{flag} {path}: is a directory or device; name a file")
            with tempfile.TemporaryFile(dir=folder.parent if flag == "--report" and not folder.exists() else folder):
                pass
        except OSError as error:
            raise RnagenError(f"{flag} {path}: cannot be written ({error.strerror}); name another file") from error
        if path.resolve() in taken:
            raise RnagenError(f"{flag} {path}: is {taken[path.resolve()]} of this run too; name another file")
        taken[path.resolve()] = f"what {flag} writes"
        if flag in ("--output", "--save_model", "--predict") and path.exists() and not args.overwrite:
            raise RnagenError(f"{flag} {path}: exists; name another file, or replace it by --overwrite")


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results to path, whole or not at all."""
    text = json.dumps(results, default=lambda one: one.item() if isinstance(one, np.generic) else str(one))
    finite = json.loads(text, parse_constant=lambda _: None)  # NaN is no JSON
    with replacing(path) as beside:
        beside.write_text(json.dumps(finite, indent=2) + "\n")


def describe_run(args: Args, workers: Workers) -> dict[str, Any]:
    """Return what a result depends on: arguments, versions and number of workers."""
    packages = {"tensorflow": tf, "keras": keras, "pandas": pd, "scikit-learn": sklearn, "scipy": scipy}
    loaded = {name: package.__version__ for name, package in packages.items() if package.is_loaded()}
    versions = {"rnagen": __version__, "python": platform.python_version(), "numpy": np.__version__, **loaded}
    return {"arguments": vars(args), "versions": versions, "workers": workers.count}


def check_agreement(args: Args, workers: Workers, tables: str) -> None:
    """Check that all workers have the same tables (a hash) and arguments, but for paths and uses of results."""
    own = {"rnaseq", "types", "public", "output", "save_model", "predict", "results", "report", "overwrite", "debug"}
    common = {name: value for name, value in vars(args).items() if name not in own} | {"plot": args.plot is not None}
    arguments = hashlib.sha256(json.dumps(common, sort_keys=True, default=str).encode()).hexdigest()
    for what, digest in {"arguments": arguments, "tables": tables}.items():
        number = int(digest[:12], 16)  # of 48 bits, which leaves some to add up the GPUs of a worker
        if others := [worker for worker, other in enumerate(workers.gather(number)) if other != number]:
            who = f"worker {workers.index} of {workers.count} has other {what} than worker {others[0]}"
            raise RnagenError(f"{who}; start all workers with the same command and tables")


def read_data(args: Args, trains: bool, terminal: Terminal) -> Cohort:
    """Return the samples that a run is on, and print what they are."""
    config = TableConfig(args.rnaseq, args.types, args.type_column, args.layer, args.group_regex, args.data)
    cohort = load_cohort(config, args.seed)
    counts = [f"{shorten(name, 30)} {count}" for name, count in cohort.type_counts().items()]
    more = f" and {len(counts) - 10} more" * (len(counts) > 10)
    size = f"{len(cohort.samples)} samples, {len(cohort.genes)} genes, {len(counts)} types"
    terminal.print(f"Data: {cohort.name}: {size}", wrap(f"Types: {', '.join(counts[:10])}{more}"))
    terminal.warn(*cohort.notes)
    if trains or args.top_k_types:
        cohort = keep_top_types(cohort, args.top_k_types)
    if args.check:
        low, high = np.fmin.reduce(cohort.expression, axis=None), np.fmax.reduce(cohort.expression, axis=None)
        terminal.print(
            f"Types from: {f'column {cohort.type_column}' if cohort.type_column else 'the cohort itself'}",
            f"Groups: {len(set(cohort.groups))}, {cohort.grouping}",
            f"Values: {low:g} to {high:g}, {np.isnan(cohort.expression).sum()} missing",
            format_transform(resolve_transform(cohort.expression, args.transform), args.transform),
        )
    return cohort


def model_config(args: Args, cohort: Cohort, terminal: Terminal) -> ModelConfig:
    """Return which generator is asked for; one with differential privacy is fitted here, and its guarantee printed."""
    private = None
    if args.epsilon:
        remedy = "add a column `type` of the type of each sample"
        config = TableConfig(args.public, group_regex=args.group_regex, remedy=remedy)
        public = read_cohort(config) if args.public else None
        terminal.warn(*(public.notes if public else ()))
        training, _ = split_cohort(cohort, args.test_fraction, args.seed, args.train_per_type)
        private = fit_private(training, public, args.epsilon, args.delta, args.transform)
        privacy = private[2]
        bound = f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} (mu {privacy.mu:.3f}) for {privacy.unit}"
        attacks = "no attack on samples drawn or on the saved generator can have an AUC above"
        computed = "accuracy, validation, report, results and figures, which are computed from the private samples"
        terminal.print(
            wrap(f"Privacy: {bound}: {attacks} {privacy.attack_ceiling:.3f}"),
            wrap(f"Taken as public: {'; '.join(privacy.public)}"),
            wrap(f"Not covered: {computed}"),
        )
    return ModelConfig(args.model, args.latent_dim, args.epochs, args.batch_size, private)


def combine_splits(args: Args, cohort: Cohort, splits: list[Split], terminal: Terminal) -> dict[str, Any]:
    """Print and draw what the splits come to together: gain, comparison and curves; return the results."""
    accuracies = [split.accuracy() for split in splits]
    results = {"accuracy": accuracies[0]}
    if args.repeats > 1:
        gain = between_splits(np.array([one["gain"]["mean"] for one in accuracies]), args.test_fraction)
        chance = f", p {format_p_value(gain.p_value)}" * (gain.p_value is not None)
        terminal.print(
            f"Over {args.repeats} splits synthetic data adds {in_points(gain)} points of accuracy{chance}",
            "(95% interval between splits, corrected for the samples that they share)",
        )
        entry = {"measure": "accuracy", **asdict(gain)}
        results["repeats"] = {"n": args.repeats, "accuracy": accuracies, "gain": entry}
    if args.compare:
        comparison = compare_classifiers(splits, args.test_fraction)
        words = verdict(comparison)
        terminal.print(*format_comparison(comparison, args.repeats), wrap(words))
        gains = {name: {"measure": "balanced_accuracy", **asdict(gain)} for name, gain in comparison.gains.items()}
        results["compare"] = [{"name": name, **comparison.scores[name], "gain": gains[name]} for name in gains]
        results |= {"inner_folds": comparison.fold_scores, "verdict": words}
    if args.plot:
        table = results["plot"] = accuracy_by_epoch([split.curves() for split in splits], args.test_fraction)
        title = "\nPlot test accuracy using models trained with and without synthetic data:"
        terminal.print(title, "training time: before vs after")
        for row in table:
            curves = f"{row['real']:.4f} vs {row['augmented']:.4f} (same steps on real data: {row['same_steps']:.4f})"
            terminal.print(f"# epochs = {row['epochs']}: {curves}")
        types = len(set(cohort.types))
        path = plot_path(args.plot, types, cohort.simulated)
        band = f"band: sd over {args.trainings} trainings" if args.trainings > 1 else ""
        if args.repeats > 1:
            band = f"band: 95% interval over {args.repeats} splits"
        if not terminal.quiet:
            draw_accuracy(path, table, f"{cohort.name}, {types} types", band)
        terminal.print(f"Written to {path} and {path.with_suffix('.csv').name}")
    return results


def train(
    args: Args, cohort: Cohort, plan: SamplingPlan, workers: Workers, terminal: Terminal
) -> tuple[Experiment, dict[str, Any]]:
    """Run the experiment on each split, or, with none held out, train the generator; return the first, and results."""
    heat = args.temperature or TRAINING_TEMPERATURE
    epochs = args.classifier_epochs if args.test_fraction else PLOT_EPOCHS  # of the network that --predict may choose
    config = ExperimentConfig(epochs, args.trainings, heat, args.compare, args.plot is not None)
    prepare = functools.partial(prepare_dataset, cohort, args.test_fraction, args.transform)

    def finish(experiment: Experiment) -> Split:
        return predict_test_samples(experiment) if args.compare else experiment.split

    dataset = prepare(args.seed, args.train_per_type)
    model = model_config(args, cohort, terminal)
    terminal.print(*format_dataset(dataset, cohort, args))
    if args.test_fraction and not len(dataset.validation):
        terminal.warn("too few training samples to set any aside: val_ figures are of the training samples themselves")
    start_tensorflow()
    if workers.strategy is None and len(tf.config.list_logical_devices("GPU")) > 1:
        workers = Workers(tf.distribute.MirroredStrategy())  # one process for all GPUs of the machine
    results = {"train_samples": dataset.n_training, "test_samples": len(dataset.test)}
    if not args.test_fraction:
        labels = plan.labels(dataset.types, dataset.counts(), args.seed, "training 0")
        terminal(Started(args.model))
        trained = train_generator(model, dataset, args.seed, workers, terminal)
        terminal(trained)
        if trained.history:
            steps = f"for as many steps as {trained.epoch} epochs had" if trained.epoch else "without training steps"
            terminal.print(f"Fitted and trained again on all {dataset.n_training} samples, {steps}")
        return Experiment(dataset, config, args.seed, trained, labels), results | {"generator": trained.as_dict()}
    experiment = run_experiment(dataset, plan, model, config, args.seed, workers, terminal)
    splits = [finish(experiment)]
    terminal.print(*format_accuracy(splits[0].accuracy(), 1, args.repeats))
    for seed in range(args.seed + 1, args.seed + args.repeats):
        splits.append(finish(run_experiment(prepare(seed, args.train_per_type), plan, model, config, seed, workers)))
        terminal.print(*format_accuracy(splits[-1].accuracy(), len(splits), args.repeats))
    results |= {"generator": experiment.trained.as_dict(), "sampling": experiment.sampling._asdict()}
    results["augmentation"] = {"n_samples": experiment.sampling.n, "temperature": heat}
    return experiment, results | combine_splits(args, cohort, splits, terminal)


def keep_generator(args: Args, experiment: Experiment, terminal: Terminal) -> None:
    """Write the generator to --save_model."""
    sampler = experiment.sampler
    likelihoods = None if sampler.privacy else held_out_likelihoods(experiment, sampler.model.factors)
    save_model(args.save_model, replace(sampler, likelihoods=likelihoods))
    terminal.print(f"\nSaved the generator to {args.save_model}")
    carried = "number, and noised statistics," if sampler.privacy else "mean, range and number"
    share = "share it only where you would share those"
    terminal.warn(f"{args.save_model} carries the {carried} of the training samples of each type; {share}")


def draw_table(args: Args, sampler: Sampler, plan: SamplingPlan, terminal: Terminal) -> dict[str, Any]:
    """Draw the samples of --output; return their entry in the results."""
    labels = plan.labels(sampler.types, sampler.counts, args.seed, "output")
    heat, (part, parts) = args.temperature or 1.0, args.shard or (1, 1)
    entry = write_samples(args.output, sampler, labels, heat, args.seed, (part, parts), terminal)
    share = f" (part {part} of {parts} of {len(labels)})" * (parts > 1)
    samples = f"{entry['n']} synthetic samples{share} of {len(sampler.genes)} genes"
    hot = f" at temperature {heat:g}" * (heat != 1)
    terminal.print(f"\nWrote {samples}{hot} to {args.output} in {entry['seconds']:.3f} seconds")
    return entry


def predict(args: Args, experiment: Experiment | None, sampler: Sampler, terminal: Terminal) -> dict[str, Any]:
    """Type the samples of a new table by the best classifier, or a saved generator's Bayes rule; write what it says."""
    source, target = args.predict
    classifier = choose_classifier(experiment, sampler)
    on_folds = f"balanced accuracy {classifier.score:.4f} on inner folds of the training samples"
    chosen = f"{classifier.name}: the best of all, {on_folds}" if experiment else "Bayes rule of the saved generator"
    terminal.print(f"\nClassifier: {chosen}")
    new = read_new_samples(source, args.layer if source.suffix == ".h5ad" else None, sampler.genes)
    table, notes = type_samples(new, source, sampler, classifier)
    terminal.warn(*new.notes, *notes)
    write_predictions(target, table)
    terminal.print(f"Typed {len(table)} samples of {source}, written to {target}")
    counts = table["type"].value_counts().to_dict()
    return {"path": str(target), "classifier": classifier.name, "score": classifier.score, "type_counts": counts}


def find_evaluation(args: Args, real: Cohort, sampler: Sampler | None, terminal: Terminal) -> Evaluation:
    """Return what there is to judge a generator by, or a given table, on the split that it was trained on."""
    judged, transform = sampler, args.transform
    if args.report_only:
        judged = read_cohort(TableConfig(args.report_only, remedy="add the type of each sample"))
        terminal.warn(*judged.notes)
    else:
        transform = sampler.preprocessing.transform  # the units of its parameters
    if source := args.report_only or args.load_model:
        real, notes = keep_shared(real, judged.genes, judged.types, str(source))
        terminal.warn(*notes)
    if args.train_ids:
        training, test, notes = split_by_ids(real, args.train_ids)
        terminal.warn(*notes)
    else:
        training, test = split_cohort(real, args.test_fraction, args.seed, args.train_per_type)
    others = args.load_model and sampler.trained_on != training.fingerprint()
    if others and sampler.trained_on and args.train_ids:
        terminal.warn(f"{args.load_model} was saved with other training samples than those in {args.train_ids}")
    unknown = ""
    if not args.train_ids and (others or args.report_only):
        unknown = "the samples that it was trained on are not known; list their ids in a file for --train_ids"
        if others and sampler.trained_on:
            again = "give --seed, --test_fraction and --train_per_type as they were, or --train_ids"
            unknown = f"it was trained on other samples than this split says; {again}"
    if not args.report_only:  # draw samples, in the proportions of the types of the training samples
        shuffled = stream(args.seed, "report types").permutation(training.types)
        labels = np.resize(pd.Index(sampler.types).get_indexer(shuffled), 5000)
        rows = np.concatenate([*sampler.draw(labels, args.seed, "report", args.temperature or 1.0)])
        ids = sample_ids(0, len(rows)).astype(str)
        judged = Cohort("synthetic", False, rows, ids, sampler.genes, sampler.types[labels], ids, "")
    saved = released_parameters(sampler, judged.types) if args.save_model or args.load_model else None
    return align_for_evaluation(training, test, judged, transform, unknown, saved)


def judge(
    args: Args, real: Cohort, sampler: Sampler | None, manifest: dict[str, Any], terminal: Terminal
) -> dict[str, Any]:
    """Judge a generator, or a given table; print what is found and write it to the folder asked for."""
    start = time.perf_counter()
    found, evaluation = evaluate(find_evaluation(args, real, sampler, terminal), args.seed)
    terminal.warn(*evaluation.notes)
    origin = shorten(args.report_only.name, 40) if args.report_only else "drawn for this report"
    terminal.print("", *format_report(found, evaluation.kinds, origin))
    if args.report:
        args.report.mkdir(exist_ok=True)
        data, figure = (args.report / name for name in REPORT_FILES)
        write_json(data, found | {"manifest": manifest})
        title = f"Synthetic samples ({origin}) of {manifest['data']['name']}, {len(evaluation.types)} types"
        draw_report(figure, evaluation, found, title)
        terminal.print(f"Report written to {data} and {figure.name} in {time.perf_counter() - start:.1f} seconds")
    return found


def run(args: Args) -> None:
    """Carry out what the command line asks for, with the other workers where there are any."""
    trains = not (args.check or args.load_model or args.report_only)
    workers = join_workers() if trains else ALONE
    terminal = Terminal(quiet=workers.index > 0)
    if workers.index == 0:
        check_outputs(args)
    else:  # it takes part, and leaves no trace
        args.output = args.save_model = args.report = args.results = args.predict = None

    experiment, cohort, results = None, None, {}
    sampler = load_model(args.load_model) if args.load_model else None
    if args.report or not args.load_model:
        cohort = read_data(args, trains, terminal)
        if args.results or args.report or args.report_only or workers.count > 1:  # others need not hash the table
            results["data"] = cohort.as_dict()
    if workers.count > 1:
        if args.epsilon:
            raise RnagenError(f"--epsilon {args.epsilon:g}: each worker would add noise of its own; start a single one")
        check_agreement(args, workers, results["data"]["sha256"])
    if args.output:
        check_gene_names(args.output, (sampler or cohort).genes)
    plan = SamplingPlan(args.n_samples, tuple(args.per_type or ()), args.balance)
    plan.check((sampler or cohort).types)
    if args.predict and sampler:
        check_bayes_rule(sampler)
    if trains:
        experiment, found = train(args, cohort, plan, workers, terminal)
        sampler = experiment.sampler
        results |= found
    if sampler and sampler.privacy:
        results["privacy"] = asdict(sampler.privacy)
    if args.save_model:
        keep_generator(args, experiment, terminal)
    if args.output:
        results["output"] = draw_table(args, sampler, plan, terminal)
    if args.predict:
        results["predict"] = predict(args, experiment, sampler, terminal)
    if args.report or args.report_only:
        manifest = describe_run(args, workers) | {"data": results["data"], "privacy": results.get("privacy")}
        results["report"] = judge(args, cohort, sampler, manifest, terminal)
    if args.results:
        write_json(args.results, describe_run(args, workers) | results)
    workers.gather()  # nobody leaves before the chief has written all


def main(argv: Sequence[str] | None = None) -> int:
    """Run rnagen; return 0, or 1 (data), or exit with 2 (usage)."""
    args = parse_arguments(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name must not end the run on an ASCII terminal
    try:
        run(args)
    except Exception as error:
        memory = isinstance(error, MemoryError)
        memory |= tf.is_loaded() and isinstance(error, tf.errors.ResourceExhaustedError)  # of a device
        # OSError: a full disk, a closed pipe
        if args.debug or not (memory or isinstance(error, RnagenError | OSError | ImportError)):
            raise
        reason = (str(error) or "not enough memory").split("\n")[0]
        remedy = "; ask for fewer samples by --n_samples" * memory
        remedy += "; pip install -r requirements.txt" * isinstance(error, ImportError)
        print(f"rnagen: error: {reason}{remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_on_interrupts()
    status = main()
    if "TF_CONFIG" in os.environ:  # several workers take leave of each other
        raise SystemExit(status)
    os._exit(status)  # all is flushed and closed, and to take TensorFlow down would last most of a second
