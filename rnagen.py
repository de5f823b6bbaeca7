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

Without --rnaseq it takes the CANDLE RNA-seq tables, or, where they cannot be
had, a simulated cohort, and says so. README.md has formats, method and limits.
"""

# From top to bottom: settings; errors and streams; workers; data; split and preprocessing; training; the classifier;
# generators; sampling; the experiment; quality; files out; command line. A function stands before its first caller.

from __future__ import annotations

import argparse
import bz2
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import platform
import re
import secrets
import socket
import sys
import tempfile
import textwrap
import time
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras
    import pandas as pd
    import tensorflow as tf
    from matplotlib.axes import Axes

__version__ = "1.0.0"

# ---- settings ----------------------------------------------------------------------------------------------------

HIDDEN_CLASSIFIER = (200, 100)  # the published classifier
HIDDEN_ENCODER = (100, 100)  # the published encoder
HIDDEN_DECODER = (100, 32)  # its last layer, the costly one, stands beside the loadings
LATENT_CHOICES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)  # latent dimensions to choose from
GAUSSIAN_LATENT = 200  # principal directions in which a Gaussian of each type has a covariance
POOLING_CHOICES = (0.125, 0.25, 0.5, 1, 2, 4, 16)  # rows that the pooled covariance counts as, a latent dimension
INNER_FOLDS = 5  # of the training groups, to choose such settings on
MOST_PRIOR = 1e6  # half degrees of freedom of a prior, from which it is as good as certain
LEAST_NOISE = 0.05  # share of a gene's variance within types that no direction explains
LEAST_VARIANCE = 1e-3  # of a standardised gene: none is known better, and an outlier must not count for everything
CLASSIFIER_BATCH = 256
VALIDATION_FRACTION = 0.1  # of the training groups of each type
UNUSED_LATENT = 0.1  # nats of KL a sample below which the latent carries nothing
CLASSIFIER_RATE = 0.001  # Adam's default, as published
GENERATOR_RATE = 0.001  # tests/benchmarks/generator.py
DEFAULT_TYPES = 20
DEFAULT_EPOCHS = 20
DEFAULT_SAMPLES = 10_000
CHOICE_TEMPERATURES = (1.0, 1.5, 2.0)
CHOICE_STEPS = (200, 300)  # of the classifier, after which each choice is scored
CHOICE_FOLDS = 4  # of the training groups, to choose temperature and number of synthetic rows on
ENOUGH_HELD_OUT = 500  # rows: once inner folds of so many have been held out the others need not be
FEW_SAMPLES = 2  # of a type, too few to know its spread
FEWEST_TO_MATCH = 1000  # training samples from which as many synthetic ones are among the choices
PLOT_EPOCHS = 20
CONTROL = "real, same steps"
COUNTS_ABOVE = 50.0  # never negative and above this: raw counts or TPM, since no log2 scale of expression gets there
FLOOR_SHARE = 0.001  # a lowest value that this share of all entries sits at is the floor of its scale
REPORT_ROWS = 5000  # of each kind that a report looks at, and that it draws
REPORT_GENES = 2000  # whose correlations with each other it looks at
NEIGHBOURS = 5  # to which the ball around a row reaches (Naeem et al. 2020)
FEWEST = 10  # rows of a kind for measures of all types together
FEWEST_OF_A_TYPE = 5  # rows for measures of a type, or to guess at
FEWEST_TO_TELL = 40  # rows of a kind for a classifier that tells them apart
COMPONENTS = 50  # principal ones, in which rows are told apart and have neighbours
KERNEL_WIDTH = 0.25  # of the median distance between neighbours, for densities
COPY_DISTANCE = 1e-3  # standard deviations a gene: what rounding leaves between a row and its copy
UNCLEAR = 0.1  # what has an interval that reaches so far beyond its limit is not known to keep it
WORST_TYPES = 5  # printed
TYPE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")  # Okabe and Ito 2008
OTHER_COLOUR = "#bbbbbb"
SYNTHETIC_COLOUR, TRAINING_COLOUR = TYPE_COLOURS[:2]
FIGURE_ROWS = 1000  # of each kind that a figure shows
FIGURE_PAIRS = 4000  # of numbers
JOIN_SECONDS = 50  # that a worker waits for the others to start
SLURM_PORTS = range(20_000, 30_000)  # below those that systems give to outgoing connections
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BLOCK = 1024  # rows drawn from one random stream: 4 MB at 942 genes, which stays in cache
GENES_AT_ONCE = 256  # in float64
DRAWN_AHEAD = 2**30  # bytes of blocks under way at most, but two
STEPS_A_CALL = 100  # training steps in one graph call: seldom enough to be free, often enough for Ctrl-C

MODEL_NAMES = {
    "cvae": "conditional autoencoder",
    "vae": "variational autoencoder",
    "ae": "autoencoder",
    "gaussian": "Gaussian of each type",
}

QUESTIONS = {"looks_real": "Looks real", "behaves_real": "Behaves real", "is_private": "Is private"}
MEASURES = {  # of a report, and what they are called
    "looks_real": {
        "ks_median": "Kolmogorov-Smirnov distance, median gene",
        "ks_share_beyond": "genes beyond the real 95% of it",
        "mean_agreement": "agreement of means by type",
        "variance_agreement": "agreement of variances within types",
        "correlation_agreement": "agreement of gene-gene correlations",
        "mmd": "maximum mean discrepancy, squared",
        "two_sample_auc": "classifier two-sample AUC",
        "precision": "precision",
        "recall": "recall",
        "density": "density",
        "coverage": "coverage",
    },
    "behaves_real": {
        "tstr_accuracy": "test accuracy, trained on it",
        "tstr_balanced_accuracy": "test balanced accuracy, trained on it",
        "tstr_macro_f1": "test macro F1, trained on it",
        "de_overlap_50": "top 50 genes of each type recovered",
        "de_overlap_100": "top 100 genes of each type recovered",
        "de_rank_correlation": "correlation of gene ranks by type",
        "log_fold_change_correlation": "correlation of log-fold changes",
    },
    "is_private": {
        "attack_auc": "membership attack AUC, nearest sample",
        "density_ratio_attack_auc": "membership attack AUC, density ratio",
        "copies": "exact copies of training samples",
        "near_copies": "near copies of training samples",
        "closest_record_median": "distance to the closest (weak evidence)",
    },
}
ATTACKS = ("attack_auc", "density_ratio_attack_auc")
LIMITS = {  # at most, or at least, a number plus a share of the reference
    "looks_real": {
        "two_sample_auc": ("most", 0.7, 0),
        "ks_median": ("most", 0.05, 1),
        "mean_agreement": ("least", 0, 0.8),
        "variance_agreement": ("least", 0, 0.5),
        "correlation_agreement": ("least", 0, 0.8),
        "recall": ("least", 0, 0.5),
        "coverage": ("least", 0, 0.5),
    },
    "behaves_real": {
        "tstr_balanced_accuracy": ("least", -0.05, 1),
        "de_rank_correlation": ("least", 0, 0.8),
        "log_fold_change_correlation": ("least", 0, 0.8),
    },
    "is_private": {
        "attack_auc": ("most", 0.55, 0),
        "density_ratio_attack_auc": ("most", 0.55, 0),
        "copies": ("most", 0, 1),
        "near_copies": ("most", 0.01, 1),
    },
}

CANDLE_URL = "https://ftp.mcs.anl.gov/pub/candle/public/benchmarks/Examples/rnagen/"
CANDLE_FILES = ("combined_rnaseq_data_lincs1000_source_scale", "combined_cancer_types")
CANDLE_SOURCES = ("CCLE", "CTRP", "GDSC", "NCI60", "gCSI", "GDC")
DOWNLOAD_TIMEOUT = (5, 30)  # seconds to connect, seconds without a byte

LARGEST_LATENT = 1000
TEMPERATURES = (0.01, 10)  # the least and the most
MODEL_FORMAT = 3  # of model files; any other is refused
MODEL_TENSORS = ("type_means", "loadings", "noise", "latent_root", "stretch", "latent_mean")  # of a Generator
MOMENT_TENSORS = ("drawn_mean", "drawn_sd")
SCALE_TENSORS = ("mean", "sd", "low", "span")  # of a Preprocessing
ROW_GROUP = 8 * BLOCK  # rows of a parquet row group
UNKNOWN_TRAINING = "the samples that it was trained on are not known; list their ids in a file for --train_ids"
REPORT_FILES = ("report.json", "report.png")
FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, ValueError, csv.Error, zlib.error, lzma.LZMAError)  # pandas' own are ValueErrors
ANNOTATION = ("type", "group")  # columns of an expression table that are no genes
LARGEST = 1e12  # no count or TPM comes near; far above, squares leave float32

Rows = tuple[np.ndarray, np.ndarray]  # standardised genes (rows, genes) float32, type indices (rows,) int32
Unit = tuple[np.ndarray, np.ndarray]  # scale and offset (genes,) that take standardised genes to [0, 1]


# ---- errors and streams ------------------------------------------------------------------------------------------


class RnagenError(Exception):
    """Something that the user can mend: names file, column or flag, the value, and what to do."""


def shorten(name: str, most: int = 20) -> str:
    """Return a name on one line, cut where it is too long for its place."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 3] + "..."


def note(message: str) -> None:
    """Say on stderr, in one line, what the user should know but did not ask for."""
    print(f"rnagen: {message}", file=sys.stderr, flush=True)


def say(line: str = "") -> None:
    """Print a line of results on stdout, clear of any live bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def stream(seed: int, name: str, block: int = 0) -> np.random.Generator:
    """Return the random stream of that name: independent of every other name and block of the same seed."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(name.encode()), block])))


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: TensorFlow's C++ start-up lines do not pass through Python."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_tensorflow() -> None:
    """Import TensorFlow without a word on stderr.

    Raises
    ------
    RnagenError
        TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # operations this small run faster side by side than split up
    try:
        with silenced_stderr():
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
    except ImportError as error:
        raise RnagenError(f"TensorFlow cannot be imported ({error}): pip install -r requirements.txt") from error


def load_tensorflow() -> None:
    """Import TensorFlow and start its devices without a word on stderr.

    Raises
    ------
    RnagenError
        TensorFlow is not installed.
    """
    import_tensorflow()
    import tensorflow as tf

    with silenced_stderr():
        tf.zeros(1)


# ---- workers: one process, or several that share the training ----------------------------------------------------


@dataclass(frozen=True)
class Workers:
    """The processes and devices that take a share of every batch each, by TensorFlow's distribution engine.

    Every worker goes through the same program on the same data; only the sums over a batch are shared. index is this
    worker's, count the number of workers; without a strategy there is nobody else.
    """

    strategy: tf.distribute.Strategy | None = None
    index: int = 0
    count: int = 1

    @property
    def chief(self) -> bool:
        """Whether this worker is the one to print results and write files."""
        return self.index == 0

    def sum_shares(self, size: tf.Tensor, sums: Callable[[tf.Tensor, tf.Tensor], list[tf.Tensor]]) -> list[tf.Tensor]:
        """Return what sums(start, end) returns for each share of a batch of that size, summed over all shares."""
        import tensorflow as tf

        if self.strategy is None:
            return sums(tf.constant(0), size)
        shapes: list[list[int]] = []
        shares = self.strategy.num_replicas_in_sync

        def share() -> tf.Tensor:
            number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
            parts = sums(size * number // shares, size * (number + 1) // shares)
            shapes[:] = [part.shape.as_list() for part in parts]
            return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)  # one message a step

        total = self.strategy.reduce("SUM", self.strategy.run(share), axis=None)
        parts = tf.split(total, [math.prod(shape) for shape in shapes])
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def agree(self, values: np.ndarray) -> np.ndarray:
        """Return the chief's values, whatever this worker's are."""
        return self.gather(values)[0]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Return the values (any,) of all workers (count, any), once all have called this.

        Raises
        ------
        RnagenError
            A worker has stopped.
        """
        if self.count == 1:
            return values[None]
        import tensorflow as tf

        rows = np.zeros((self.count, len(values)))
        rows[self.index] = values
        # every device of a worker returns the same tensor, which counts once
        total = tf.function(lambda mine: self.strategy.reduce("SUM", self.strategy.run(lambda: mine), axis=None))
        with self.watching():
            return total(tf.constant(rows)).numpy()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Turn what TensorFlow raises when another worker stops into one line."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if self.count == 1:
                raise
            raise RnagenError(
                f"worker {self.index} of {self.count}: another worker has stopped or cannot be reached "
                f"({type(error).__name__}); start all of them again"
            ) from error

    def compare(self, digests: dict[str, str]) -> None:
        """Find out whether all workers have the same of each named thing, given by hexadecimal digests.

        Raises
        ------
        RnagenError
            They have not.
        """
        for what, digest in digests.items():
            numbers = np.array([int(digest[start : start + 8], 16) for start in range(0, 64, 8)], float)
            others = np.flatnonzero((self.gather(numbers) != numbers).any(1))
            if len(others):
                raise RnagenError(
                    f"worker {self.index} of {self.count} has other {what} than worker {others[0]}; start all workers "
                    f"with the same command and tables"
                )


ALONE = Workers()


def read_cluster(text: str) -> tuple[list[str], int]:
    """Return the workers' addresses and this one's index among them, as TF_CONFIG tells.

    Raises
    ------
    RnagenError
        It is not JSON, or not a cluster of workers with this process among them.
    """
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
        index = task["index"] + (len(cluster.get("chief", [])) if task["type"] == "worker" else 0)
        if not {"chief", "worker"} >= {*cluster, task["type"]}:
            raise ValueError("only `chief` and `worker` are known")
        if not all(re.fullmatch(r"[^\s/]+:\d{1,5}", address) for address in addresses):
            raise ValueError("an address is not HOST:PORT")
        if type(task["index"]) is not int or not 0 <= index < len(addresses):
            raise ValueError(f"task {task['type']} {task['index']} is not among the {len(addresses)} addresses")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RnagenError(
            f"TF_CONFIG: cannot be used ({reason}); give "
            f'{{"cluster": {{"worker": ["HOST:PORT", ...]}}, "task": {{"type": "worker", "index": 0}}}}, or unset it'
        ) from error
    return addresses, index


def meet(addresses: Sequence[str], index: int) -> None:
    """Wait until every worker has heard from every other: TensorFlow would wait for a missing one for ever.

    Raises
    ------
    RnagenError
        This worker's address is in use, or a worker has not come in JOIN_SECONDS.
    """
    here, deadline = addresses[index], time.monotonic() + JOIN_SECONDS
    heard, told = {index}, {index}
    try:
        server = socket.create_server(("", int(here.rpartition(":")[2])))
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).split(" (")[0]
        raise RnagenError(
            f"worker {index}: its address {here} cannot be used ({reason}); give it another (a new Slurm step "
            f"has others)"
        ) from error
    with server:
        server.settimeout(0.1)
        while len(heard) < len(addresses) or len(told) < len(addresses):
            with contextlib.suppress(OSError, ValueError), server.accept()[0] as caller:
                caller.settimeout(1)
                greeting, number = caller.recv(64).decode().split()
                heard |= {int(number)} if greeting == "rnagen" else set()
            for other in sorted({*range(len(addresses))} - told):
                host, _, port = addresses[other].rpartition(":")
                with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1) as line:
                    line.sendall(f"rnagen {index}".encode())
                    told.add(other)
            if time.monotonic() > deadline:
                missing = ", ".join(addresses[other] for other in sorted({*range(len(addresses))} - (heard & told)))
                raise RnagenError(
                    f"worker {index}: not heard from {missing} in {JOIN_SECONDS} seconds; start all workers at once"
                )


def slurm_cluster(tasks: int, index: int) -> str:
    """Return the TF_CONFIG of a task of this Slurm step, every task a worker, as TensorFlow's resolver finds them.

    Where the tasks of a machine see at least as many GPUs as they are, each takes its share of these.
    """
    import tensorflow as tf

    step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=SLURM_PORTS[zlib.crc32(step.encode()) % len(SLURM_PORTS)],  # so that steps do not meet on a machine
        gpus_per_node=tasks,  # as if there were one for each: it takes no tasks without GPUs, nor more tasks than GPUs
        gpus_per_task=1,
        auto_set_gpu=False,  # it would take GPUs of others, since it counts from 0
    )
    addresses = sorted(  # it puts n10 before n2, Slurm does not
        resolver.cluster_spec().job_tasks("worker"),
        key=lambda address: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", address)],
    )
    hosts = [address.rpartition(":")[0] for address in addresses]
    here, number = hosts.count(hosts[index]), hosts[:index].count(hosts[index])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(visible) >= here > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number::here])
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def join_workers() -> Workers:
    """Join the workers that TF_CONFIG or Slurm tells of, if there are others; nothing may have used TensorFlow before.

    Raises
    ------
    RnagenError
        TF_CONFIG is malformed, this worker's address cannot be used, or TensorFlow is not installed.
    """
    tasks, index = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), int(os.environ.get("SLURM_PROCID", 0))
    cluster = read_cluster(os.environ["TF_CONFIG"]) if os.environ.get("TF_CONFIG") else None
    if (len(cluster[0]) if cluster else tasks) == 1:
        return ALONE
    import_tensorflow()
    import tensorflow as tf

    try:
        if cluster is None:
            os.environ["TF_CONFIG"] = slurm_cluster(tasks, index)  # where TensorFlow looks for it
            cluster = read_cluster(os.environ["TF_CONFIG"])
        addresses, index = cluster
        meet(addresses, index)
        with silenced_stderr():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise RnagenError(f"worker {index} cannot join the others ({reason}); start all again") from error
    return Workers(strategy, index, len(addresses))


def use_devices(workers: Workers) -> Workers:
    """Start TensorFlow; a lone worker becomes one for all GPUs of the machine, if there are several."""
    load_tensorflow()
    import tensorflow as tf

    several = workers.strategy is None and len(tf.config.list_logical_devices("GPU")) > 1
    return Workers(tf.distribute.MirroredStrategy()) if several else workers


# ---- data: the cohort, simulated or read -------------------------------------------------------------------------


@dataclass(frozen=True)
class Cohort:
    """Expression of a set of samples, each with a cancer type and a group that a split must not tear apart.

    expression is float32 (samples, genes) in the input's units, NaN where missing; samples, types and groups are
    arrays of str (samples,), genes of str (genes,). grouping says how the groups were found.
    """

    name: str
    simulated: bool
    expression: np.ndarray
    samples: np.ndarray
    genes: np.ndarray
    types: np.ndarray
    groups: np.ndarray
    grouping: str

    def take(self, rows: np.ndarray) -> Cohort:
        """Return the cohort of the given rows (indices or mask)."""
        columns = ("expression", "samples", "types", "groups")
        return replace(self, **{column: getattr(self, column)[rows] for column in columns})

    def fingerprint(self) -> str:
        """Hash the ids of the samples, in any order."""
        return hashlib.sha256("\n".join(sorted(self.samples.tolist())).encode()).hexdigest()

    def sha256(self) -> str:
        """Hash what was read: ids, genes, types, groups and values."""
        digest = hashlib.sha256(np.ascontiguousarray(self.expression))
        for names in (self.samples, self.genes, self.types, self.groups):
            digest.update("\n".join(names).encode())
        return digest.hexdigest()


def group_samples(samples: Sequence[str], regex: str | None = None) -> tuple[np.ndarray, str]:
    """Find the patient or cell line behind each sample id.

    With regex, what its first capture group holds. Else a TCGA barcode anywhere in the id gives the patient, and a
    CANDLE id (a source, a dot, a name) the cell line: its name upper-cased, letters and digits only, since the sources
    spell one line differently. Where nothing is found the sample is a group of its own.

    Returns the groups (samples,) and a phrase that says how they were found.
    """
    if regex is not None:
        found = [re.search(regex, sample) for sample in samples]
        groups = [(match and match[1]) or sample for match, sample in zip(found, samples, strict=True)]
        return np.array(groups, dtype=str), f"by --group_regex {regex}"
    barcode = re.compile(r"TCGA[-_.]([A-Z0-9]{2})[-_.]([A-Z0-9]{4})", re.IGNORECASE)
    groups, kinds = [], set()
    for sample in samples:
        source, dot, name = sample.partition(".")
        if match := barcode.search(sample):
            groups.append(f"TCGA-{match[1]}-{match[2]}".upper())
            kinds.add("patients (TCGA barcodes)")
        elif dot and source in CANDLE_SOURCES:
            groups.append(re.sub(r"[^A-Z0-9]", "", name.upper()))
            kinds.add("cell lines (CANDLE ids)")
        else:
            groups.append(sample)
    return np.array(groups, dtype=str), " and ".join(sorted(kinds)) or "each sample its own"


def simulate_ids(label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sample ids, each one's source, and the row whose biology it shares, each (samples,)."""
    ids = np.array([f"GDC.SIM_{i:06d}" for i in range(len(label))], dtype=object)
    source = np.full(len(label), len(CANDLE_SOURCES) - 1)
    biology = np.arange(len(label))
    coverage = np.log([1018, 812, 1018, 60, 357])  # samples that each cell-line project has in the CANDLE tables
    is_line = rng.random(len(label)) < 0.215
    lines = 0
    for one_type in np.unique(label):
        rows = np.flatnonzero(is_line & (label == one_type))
        for line in np.array_split(rows, range(3, len(rows), 3)):
            projects = np.argsort(coverage + rng.gumbel(size=len(coverage)))[::-1]  # without replacement
            lines += 1
            for row, project in zip(line, projects, strict=False):
                dash = "" if project == 0 else "-"  # CCLE spells ALLSIL what the others call ALL-SIL
                ids[row] = f"{CANDLE_SOURCES[project]}.SIM{dash}{lines:05d}"
                source[row], biology[row] = project, line[0]
    return ids.astype(str), source, biology


def simulate_cohort(samples: int = 15_198, genes: int = 942, types: int = 33, seed: int = 2021) -> Cohort:
    """Simulate a pan-cancer RNA-seq cohort of tumours and of cell lines profiled by several projects.

    Types sit in lineages that share expression; genes move together in modules; tumours are mixed with stroma by
    their purity; each source shifts each gene; counts are negative binomial (a gamma-mixed Poisson) with dispersion
    falling with the mean, at a library size of its own for each sample; values are log2(CPM + 1). As in the CANDLE
    tables that it stands in for, 15,198 samples of 33 types give 7,612 in the 10 largest types and 11,756 in the
    20 largest, and about a fifth are cell lines that up to three of five projects have profiled. The effect sizes
    are set for a linear classifier to find it as hard as real cohorts (tests/test_data.py).

    Method: Robinson and Smyth 2008 and Love, Huber and Anders 2014 for the counts.
    """
    rng = stream(seed, "simulated cohort")
    sparse = lambda rows, share, sd: rng.normal(0, sd, (rows, genes)) * (rng.random((rows, genes)) < share)  # noqa: E731
    weight = (np.arange(types) + 12.35) ** -1.25
    label = np.repeat(np.arange(types), 2)[:samples]  # at least two samples of each type
    label = rng.permutation(np.append(label, rng.choice(types, samples - len(label), p=weight / weight.sum())))
    lineage = rng.integers(math.ceil(types / 4), size=types)
    baseline = rng.normal(5, 2, genes)  # log2 CPM
    profile = baseline + sparse(lineage.max() + 1, 0.5, 0.9)[lineage] + sparse(types, 0.4, 0.245)  # (types, genes)
    modules = sparse(16, 0.2, 0.5).astype(np.float32)
    stroma = np.exp2(baseline + rng.normal(0, 1.5, genes)).astype(np.float32)  # CPM
    shift = rng.normal(0, 0.3, (len(CANDLE_SOURCES), genes)).astype(np.float32)
    dispersion = (0.15 + 1 / np.exp2(baseline)).astype(np.float32)

    ids, source, biology = simulate_ids(label, rng)
    purity = np.where(source == len(CANDLE_SOURCES) - 1, rng.beta(6, 3, samples), 1).astype(np.float32)
    millions = np.exp(rng.normal(np.log(20), 0.4, samples)).astype(np.float32)  # reads
    scores = rng.standard_normal((samples, len(modules)), dtype=np.float32)[biology]  # one line, one biology
    profile = profile.astype(np.float32)
    expression = np.empty((samples, genes), np.float32)

    def fill(block: int) -> None:
        rng = stream(seed, "simulated counts", block)
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        depth = millions[rows, None]
        mean = np.exp2(profile[label[rows]] + scores[rows] @ modules)
        mean = mean * purity[rows, None] + stroma * (1 - purity[rows, None])
        mean *= np.exp2(shift[source[rows]]) * dispersion * depth
        counts = rng.poisson(mean * rng.standard_gamma(np.broadcast_to(1 / dispersion, mean.shape), dtype=np.float32))
        expression[rows] = np.log2(counts / depth + 1)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(fill, range(math.ceil(samples / BLOCK))))
    groups, grouping = group_samples(ids)
    gene_names = np.array([f"GENE{i:05d}" for i in range(1, genes + 1)])
    type_names = np.array([f"type_{i:02d}" for i in range(1, types + 1)])
    return Cohort("simulated cohort", True, expression, ids, gene_names, type_names[label], groups, grouping)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside path to write to, and rename it to path once all is written."""
    path = path.resolve()  # what a link points to is replaced, not the link
    # at random, since processes of several machines may share a folder and a number
    beside = path.with_name(f".rnagen-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def fetch_candle() -> tuple[Path, Path]:
    """Return the two CANDLE files from the local cache, downloading what is not there.

    A download lands under its name only when complete; its SHA-256 is recorded beside it then and checked ever after.

    Raises
    ------
    RnagenError
        A cached file no longer matches its record.
    OSError
        The server cannot be reached, breaks off, or sends something else.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = Path(pooch.os_cache("rnagen"))
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=DOWNLOAD_TIMEOUT)
    for name in CANDLE_FILES:
        path, record = folder / name, folder / f"{name}.sha256"
        if not path.exists():
            record.unlink(missing_ok=True)
            pooch.retrieve(CANDLE_URL + name, None, fname=name, path=folder, downloader=downloader)
            with open(path, "rb") as file:
                if b"\t" not in file.readline():  # a portal's or a proxy's page with status 200
                    path.unlink()
                    raise OSError(f"{CANDLE_URL}{name} is not a tab-separated table")
        digest = pooch.file_hash(path)
        if not record.exists():
            with replacing(record) as beside:
                beside.write_text(digest + "\n")
        elif record.read_text().strip() != digest:
            raise RnagenError(
                f"{path}: SHA-256 {digest[:12]}... is not the one recorded when it was downloaded; "
                f"delete it to download it again"
            )
    return folder / CANDLE_FILES[0], folder / CANDLE_FILES[1]


@contextlib.contextmanager
def readable_table(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises about path into one line."""
    if not path.exists():
        raise RnagenError(f"{path}: no such file")
    if path.is_dir():
        raise RnagenError(f"{path}: is a directory; name the file in it")
    try:
        yield
    except UNREADABLE as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise RnagenError(
            f"{path}: cannot be read as a table ({first_line}); give tab- or comma-separated text, "
            f"plain or .gz .bz2 .xz, or .parquet or .h5ad"
        ) from error


def read_text(path: Path, text: bool) -> pd.DataFrame:
    """Read a table separated by tabs or commas, whose header may lack the name of its first column, as R writes it."""
    import pandas as pd

    with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as file:  # opened once: it may be a pipe
        line = file.readline()
        if not line:
            raise RnagenError(f"{path}: is empty")
        usual, other = (",", "\t") if ".csv" in path.suffixes else ("\t", ",")
        separator = usual if usual in line else other
        names = next(csv.reader([line], delimiter=separator), [])
        words = {number: str for number, name in enumerate(names) if number and name in ANNOTATION}  # NA is a type too
        options: dict = {"dtype": {0: str}, "converters": words, "low_memory": False}
        if text:
            options = {"dtype": str, "keep_default_na": False}
        try:
            table = pd.read_csv(file, sep=separator, header=None, **options)
        except pd.errors.EmptyDataError:
            table = pd.DataFrame(columns=range(len(names)))
    if len(table.columns) == len(names) + 1:
        if table.iloc[:, -1].isin(["", np.nan]).all():  # a separator at the end of each row
            table = table.iloc[:, :-1]
        else:
            names = ["Sample", *names]
            table[list(words)] = table[list(words)].replace(["", "NA"], np.nan)  # these were genes
    if len(table.columns) != len(names):
        raise ValueError(f"the header has {len(names)} columns, the first row {len(table.columns)}")
    table.columns = names
    return table


def has_ids(table: pd.DataFrame) -> bool:
    """Return whether a table's index holds sample ids, and not row numbers or what a filter has left of these."""
    import pandas as pd

    if isinstance(table.index, pd.RangeIndex) or table.columns.empty:
        return False
    numbers = table.index.name is None and table.index.dtype.kind == "i"
    return not numbers or table.columns[0] in ANNOTATION or table.iloc[:, 0].dtype.kind in "iuf"


def read_table(path: Path, text: bool = False) -> pd.DataFrame:
    """Read a table as it stands: its first column str, the others what they hold, or all str; names may repeat.

    Raises
    ------
    RnagenError
        The file is missing, not a table, without rows or of a single column; a name spans lines.
    """
    import pandas as pd

    with readable_table(path):
        if path.suffix == ".parquet":
            import pyarrow

            table = pd.read_parquet(path)
            pyarrow.default_memory_pool().release_unused()  # it keeps up to twice the table
            if has_ids(table):
                table = table.reset_index()
            for number in range(len(table.columns))[: None if text else 1]:
                column = table.iloc[:, number]
                table.isetitem(number, column.astype(str).mask(column.isna()))
        else:
            table = read_text(path, text)
    if len(table.columns) < 2:
        raise RnagenError(f"{path}: has a single column; separate columns by tabs or commas")
    if table.empty:
        raise RnagenError(f"{path}: has a header but no rows")
    broken = table.iloc[:, 0].astype(str).str.contains("\n")
    if broken.any():
        raise RnagenError(f"{path}: row {broken.argmax() + 1} spans lines; a quotation mark is not closed")
    return table


def tidy_annotation(annotation: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Strip the columns `type` and perhaps `group`, by sample id, and keep the samples that have a type.

    Raises
    ------
    RnagenError
        A sample has two types or groups.
    """
    annotation.index = annotation.index.str.strip().rename(None)
    annotation = annotation.apply(lambda column: column.str.strip())
    if "group" in annotation:
        annotation["group"] = annotation["group"].mask(annotation["group"].isin(["", "NA"]))
    annotation = annotation[annotation["type"].notna() & (annotation["type"] != "")]
    annotation = annotation[~annotation.reset_index().duplicated().to_numpy()]
    if annotation.index.has_duplicates:
        sample = annotation.index[annotation.index.duplicated()][0]
        found = " and ".join("/".join(map(str, row)) for row in annotation.loc[sample].to_numpy())
        raise RnagenError(f"{path}: sample {sample!r} occurs twice, as {found}; keep one")
    return annotation


def read_types(path: Path, known: set[str]) -> pd.DataFrame:
    """Read a type table: sample id, then type; return columns `type` and perhaps `group`, by sample id.

    The first row is a header unless it holds one of the known sample ids. In a header a column named `type` goes
    before the second one, and a column `group` is recognised.

    Raises
    ------
    RnagenError
        Anything that read_table and tidy_annotation raise.
    """
    import pandas as pd

    table = read_table(path, text=True)
    header = [str(name).strip() for name in table.columns]
    if header[0] in known:
        table = pd.concat([pd.DataFrame([header], columns=table.columns), table])
        header = ["", "type"]
    annotation = pd.DataFrame({"type": table.iloc[:, header.index("type", 1) if "type" in header[1:] else 1]})
    if "group" in header[1:]:
        annotation["group"] = table.iloc[:, header.index("group", 1)]
    annotation.index = pd.Index(table.iloc[:, 0])
    return tidy_annotation(annotation, path)


def read_h5ad(path: Path, column: str, layer: str | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read an AnnData file as a table of expression and its annotation: obs column `column` as type, and `group`.

    layer names another matrix than X, "raw" the one set aside by scanpy. No annotation where obs lacks the column.

    Raises
    ------
    RnagenError
        The file is no AnnData, or has no such layer.
    """
    import pandas as pd

    with readable_table(path):
        try:
            import anndata
        except ImportError as error:
            raise RnagenError(f"{path}: .h5ad needs anndata ({error}): pip install anndata") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that repeat, which is said below
            try:
                data = anndata.read_h5ad(path)
            except (KeyError, AttributeError, TypeError, RuntimeError) as error:
                raise ValueError(f"no AnnData: {error}") from error
    known = [*data.layers, *(["raw"] if data.raw is not None else [])]
    if layer is not None and layer not in known:
        raise RnagenError(f"--layer {layer}: {path} has {', '.join(known) or 'X alone'}; name one of these")
    source = data.raw if layer == "raw" and data.raw is not None else data
    matrix = source.X if layer is None or source is not data else data.layers[layer]
    if matrix is None or matrix.shape[0] * matrix.shape[1] == 0:
        raise RnagenError(f"{path}: its matrix is empty; name another by --layer ({', '.join(known) or 'none there'})")
    matrix = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    table = pd.DataFrame(matrix, data.obs_names, source.var_names)
    if column not in data.obs:
        return table, None
    names = {"type": column, "group": "group"}
    words = pd.DataFrame({name: data.obs[own] for name, own in names.items() if own in data.obs})
    return table, words.astype(str).mask(words.isna())


def read_expression(path: Path, column: str, layer: str | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read an expression table: float32 values by sample id and gene, and the annotation if it has a column of types.

    column and layer are for .h5ad: the name of that column in obs, and of the matrix.

    Raises
    ------
    RnagenError
        Anything that read_table, read_h5ad and tidy_annotation raise; an id or gene that is missing or repeated; a
        value that is text or infinite; no value at all.
    """
    import pandas as pd

    if path.suffix == ".h5ad":
        table, words = read_h5ad(path, column, layer)
    else:
        table = read_table(path)
        if table.columns[0] in table.columns[1:]:
            raise RnagenError(f"{path}: column {table.columns[0]!r} occurs twice; keep one")
        table = table.set_index(table.columns[0]).drop(columns="Cancer_type_id", errors="ignore")
        words = None
    for what, names in (("sample id", table.index), ("gene", table.columns)):
        if names.hasnans:
            raise RnagenError(f"{path}: {what} number {int(np.argmax(names.isna())) + 1} is missing; name it")
        if names.has_duplicates:
            raise RnagenError(f"{path}: {what} {names[names.duplicated()][0]!r} occurs twice; keep one")
    if "type" in table and words is None:
        words = table[[name for name in ANNOTATION if name in table]]
        table = table.drop(columns=words.columns)
        words = words.astype(str).mask(words.isna())
    annotation = None if words is None else tidy_annotation(words, path)
    for gene in table.columns[[dtype.kind not in "iuf" for dtype in table.dtypes]]:
        numbers = pd.to_numeric(table[gene].astype(str), errors="coerce")
        wrong = table[gene][numbers.isna() & table[gene].notna()]
        if len(wrong):
            raise RnagenError(
                f"{path}: column {gene!r}: {str(wrong.iloc[0])!r} (sample {wrong.index[0]!r}) is not a number; "
                f"remove the column or mend the value"
            )
        table[gene] = numbers
    with np.errstate(over="ignore"):
        values = table.to_numpy(dtype=np.float32)
    beyond = np.abs(values) > LARGEST
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise RnagenError(
            f"{path}: column {table.columns[column]!r}: {table.iat[row, column]:g} (sample {table.index[row]!r}) is "
            f"beyond any expression; mend it or leave it empty"
        )
    if np.isnan(values).all():
        raise RnagenError(f"{path}: no column holds a number; give a column of values for each gene")
    return pd.DataFrame(values, table.index, table.columns.astype(str)), annotation


def keep_typed(
    expression: pd.DataFrame, annotation: pd.DataFrame, rnaseq: Path, source: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples of rnaseq that have a type in source, and the annotation of each.

    Raises
    ------
    RnagenError
        None has.
    """
    typed = expression.index.isin(annotation.index)
    if not typed.any():
        raise RnagenError(
            f"{source}: has a type for no sample of {rnaseq} (ids like {annotation.index[:1].tolist()} "
            f"against {expression.index[:1].tolist()}); make the sample ids agree"
        )
    if not typed.all():
        note(f"{(~typed).sum()} of {len(typed)} samples have no type and are kept out")
        expression = expression[typed]
    return expression, annotation.loc[expression.index]


def read_cohort(
    rnaseq: Path,
    types: Path | None,
    group_regex: str | None,
    layer: str | None = None,
    name: str | None = None,
    remedy: str = "give a table of sample ids and types by --types",
) -> Cohort:
    """Read an expression table and the types of its samples, keeping the samples that have one.

    types is a type table, or, for .h5ad, the name of a column of obs, or None for the column `type`; remedy says what
    to do where there is none.

    Raises
    ------
    RnagenError
        What read_expression, read_types and keep_typed raise; no types at all.
    """
    in_obs = rnaseq.suffix == ".h5ad" and types is not None and not types.exists()
    column = str(types) if in_obs else "type"
    expression, annotation = read_expression(rnaseq, column, layer)
    if types is not None and not in_obs:
        annotation = read_types(types, {*expression.index, *expression.columns})
        if expression.columns.isin(annotation.index).sum() > expression.index.isin(annotation.index).sum():
            note(f"{rnaseq}: has genes in rows and samples in columns; turned")
            expression = expression.T
    if annotation is None:
        raise RnagenError(f"{rnaseq}: has no column `{column}`; {remedy}")
    expression, annotation = keep_typed(expression, annotation, rnaseq, rnaseq if in_obs else types or rnaseq)
    samples = expression.index.to_numpy(dtype=str)
    groups, grouping = group_samples(samples, group_regex)
    if "group" in annotation and group_regex is None:
        groups = annotation["group"].fillna(annotation.index.to_series()).to_numpy(dtype=str)
        grouping = "column `group` of the type table"
    return Cohort(
        name or "/".join(rnaseq.resolve().parts[-2:]),
        False,
        np.ascontiguousarray(expression, dtype=np.float32),
        samples,
        expression.columns.to_numpy(dtype=str),
        annotation["type"].to_numpy(dtype=str),
        groups,
        grouping,
    )


def load_cohort(
    source: str, rnaseq: Path | None, types: Path | None, layer: str | None, group_regex: str | None, seed: int
) -> Cohort:
    """Return the cohort asked for: the given tables, the CANDLE files, or the simulated one.

    source "auto" falls back from CANDLE to the simulated cohort and says why; "candle" insists; "simulated" never
    touches the network.

    Raises
    ------
    RnagenError
        What read_cohort and fetch_candle raise; source is "candle" and the files cannot be had.
    """
    if rnaseq is not None:
        return read_cohort(rnaseq, types, group_regex, layer)
    if source != "simulated":
        try:
            rnaseq, types = fetch_candle()
            return read_cohort(rnaseq, types, group_regex, name="CANDLE combined RNA-seq")
        except OSError as error:
            reason = f"the CANDLE files could not be fetched from {CANDLE_URL.split('/')[2]} ({type(error).__name__})"
            if source == "candle":
                raise RnagenError(f"--data candle: {reason}; try again later, or give --rnaseq and --types") from error
            note(f"the data are simulated, since {reason}; for your own give --rnaseq and --types")
    cohort = simulate_cohort(seed=seed)
    if group_regex is None:  # it is grouped by its own ids already
        return cohort
    groups, grouping = group_samples(cohort.samples, group_regex)
    return replace(cohort, groups=groups, grouping=grouping)


def keep_top_types(cohort: Cohort, top: int | None) -> Cohort:
    """Keep the samples of the `top` most frequent types (ties in alphabetical order); None: 20, or all if fewer.

    Raises
    ------
    RnagenError
        There are fewer types than asked for, or fewer than two.
    """
    ranked = [name for name, _ in sorted(Counter(cohort.types.tolist()).items(), key=lambda item: (-item[1], item[0]))]
    if len(ranked) < 2:
        raise RnagenError(f"{cohort.name}: every sample has the type {ranked[0]!r}; at least two types are needed")
    if top is not None and top > len(ranked):
        raise RnagenError(f"--top_k_types {top}: {cohort.name} has {len(ranked)} types; ask for at most {len(ranked)}")
    return cohort.take(np.isin(cohort.types, ranked[: top or DEFAULT_TYPES]))


# ---- split and preprocessing: fitted on training rows only -------------------------------------------------------


def hold_out(
    types: np.ndarray, groups: np.ndarray, fraction: float, least: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose the rows to hold out: of each type that fraction of its groups, but at least `least` and never all.

    A group whose rows differ in type counts for the type of its first row.

    Returns a mask (rows,), True where held out.
    """
    names, first = np.unique(groups, return_index=True)
    held = []
    for one_type in np.unique(types):
        own = rng.permutation(names[types[first] == one_type])
        count = min(max(round(fraction * len(own)), least), len(own) - 1)
        held.extend(own[: max(count, 0)])
    return np.isin(groups, held)


def rank_within_types(types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number the rows of each type in random order, from 0 on; return the numbers (rows,)."""
    order = rng.permutation(len(types))
    rank = np.empty_like(order)
    for one_type in np.unique(types):
        own = order[types[order] == one_type]
        rank[own] = np.arange(len(own))
    return rank


def split_cohort(
    cohort: Cohort, test_fraction: float, seed: int, train_per_type: int | None = None
) -> tuple[Cohort, np.ndarray, Cohort]:
    """Split into training and test samples, stratified by type, whole groups on one side; at 0 all are to train on.

    train_per_type keeps at most so many training samples of each type; those of a smaller number are among those of a
    larger, and the test samples are the same.

    Returns the training cohort, the mask of its rows that validate (training,), none where no type has groups to spare,
    and the test cohort.

    Raises
    ------
    RnagenError
        A type whose groups do not reach both sides.
    """
    least = 1 if test_fraction else 0
    test = hold_out(cohort.types, cohort.groups, test_fraction, least, stream(seed, "split"))
    for one_type in np.unique(cohort.types) if test_fraction else ():
        rows = cohort.types == one_type
        if test[rows].all() or not test[rows].any():
            raise RnagenError(
                f"{cohort.name}: type {str(one_type)!r} cannot be split: {rows.sum()} samples in "
                f"{len(np.unique(cohort.groups[rows]))} groups; leave it out by a smaller --top_k_types, or add samples"
            )
    training = cohort.take(~test)
    if train_per_type:
        rank = rank_within_types(training.types, stream(seed, "train per type"))
        training = training.take(rank < train_per_type)
    validates = hold_out(training.types, training.groups, VALIDATION_FRACTION, 0, stream(seed, "validation"))
    for one_type in np.unique(training.types[validates]):  # where groups mix types, one may have been used up
        rows = training.types == one_type
        if validates[rows].all():
            validates &= ~np.isin(training.groups, training.groups[rows])
    return training, validates, cohort.take(test)


def read_ids(path: Path) -> np.ndarray:
    """Read sample ids, one a line: what stands before the first tab, or comma in a .csv.

    Raises
    ------
    RnagenError
        The file is missing or not text.
    """
    with readable_table(path), OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        separator = "," if ".csv" in path.suffixes else "\t"
        ids = (row[0].strip() for row in csv.reader(file, delimiter=separator) if row)
        return np.array([one for one in ids if one], dtype=str)


def split_by_ids(cohort: Cohort, ids: np.ndarray, path: Path) -> tuple[Cohort, Cohort]:
    """Split into the training samples, whose ids path lists, and those that share no group with any of them.

    Raises
    ------
    RnagenError
        No id is listed, none is in the cohort, or no sample is left over.
    """
    if not len(ids):
        raise RnagenError(f"--train_ids {path}: is empty; list the ids of the training samples, one a line")
    training = np.isin(cohort.samples, ids)
    test = ~np.isin(cohort.groups, cohort.groups[training])
    if not training.any():
        raise RnagenError(
            f"--train_ids {path}: names no sample of {cohort.name} (ids like {ids[:1].tolist()} against "
            f"{cohort.samples[:1].tolist()}); make the ids agree"
        )
    if not test.any():
        raise RnagenError(
            f"--train_ids {path}: leaves no sample of {cohort.name} that training has not seen; add such samples to "
            f"the table, or leave out --train_ids to do without the privacy part"
        )
    if unknown := len(np.setdiff1d(ids, cohort.samples)):
        note(f"{unknown} of {len(set(ids))} ids in {path} are of no sample that is reported on")
    if related := np.count_nonzero(~training & ~test):
        note(f"{related} samples of the groups of training samples are left out")
    return cohort.take(training), cohort.take(test)


def room_for(rows: int, genes: int) -> np.ndarray:
    """Return an array (rows, genes), float32, that begins where TensorFlow wants its tensors to: at 64 bytes."""
    memory = np.empty(4 * rows * genes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * rows * genes].view(np.float32).reshape(rows, genes)


@dataclass(frozen=True)
class Preprocessing:
    """Maps between the input's units and the networks', fitted on training rows.

    kept (all genes,) marks the genes that vary; mean, sd, low and span (genes,) are theirs, in training units, which
    are log2(x + 1) of the input's if log2 is set. constant (all genes,) has the value of each gene that does not
    vary, NaN if it was never measured. No value lies under floor, and all are whole numbers if whole is set.
    """

    kept: np.ndarray
    constant: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    span: np.ndarray
    log2: bool
    floor: float
    whole: bool

    @classmethod
    def fit(cls, expression: np.ndarray, transform: str) -> Preprocessing:
        """Fit to training rows (samples, all genes); transform is "auto", "none" or "log2".

        Raises
        ------
        RnagenError
            No gene varies, or log2 is asked for negative values.
        """
        if np.isnan(expression).all():
            raise RnagenError("no training sample has a value; there is nothing to learn")
        lowest = np.nanmin(expression)
        if transform == "log2" and lowest < 0:
            raise RnagenError(
                f"--transform log2: the table has negative values (down to {lowest:g}); use --transform none"
            )
        counts = lowest >= 0 and np.nanmax(expression) > COUNTS_ABOVE
        log2 = transform == "log2" or (transform == "auto" and bool(counts))
        at_floor = np.count_nonzero(expression == lowest) > max(10, FLOOR_SHARE * expression.size)
        floor = 0.0 if lowest >= 0 else float(lowest) if at_floor else -np.inf
        whole = log2 and bool((np.isnan(expression) | (expression == np.round(expression))).all())
        values = np.log2(expression + 1) if log2 else expression
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # NaN only where the whole column is
        kept = high - low > np.finfo(np.float32).tiny * 1e6
        if not kept.any():
            raise RnagenError("every gene is constant over the training samples; there is nothing to learn")
        constant = np.where(kept, np.nan, np.fmin.reduce(expression))
        low, high = low[kept], high[kept]
        mean, sd = np.empty_like(low), np.empty_like(low)
        columns = np.flatnonzero(kept)
        for start in range(0, len(columns), GENES_AT_ONCE):
            own = slice(start, start + GENES_AT_ONCE)
            part = values[:, columns[own]].astype(np.float64)
            mean[own], sd[own] = np.nanmean(part, axis=0), np.nanstd(part, axis=0)
        return cls(kept, constant, mean, sd, low, high - low, log2, floor, whole)

    def standardise(self, expression: np.ndarray) -> np.ndarray:
        """Map (samples, all genes) in the input's units to (samples, genes) of mean 0, sd 1; missing becomes 0."""
        values = room_for(len(expression), np.count_nonzero(self.kept))
        values[:] = expression if self.kept.all() else expression[:, self.kept]
        if self.log2:
            np.maximum(values, 0, out=values)
            values += 1
            np.log2(values, out=values)
        values -= self.mean  # in place: temporaries of this size take longer than the arithmetic
        values /= self.sd
        values[np.isnan(values)] = 0
        return values

    def rows_of(self, cohort: Cohort, types: np.ndarray) -> Rows:
        """Return the samples of a cohort with these genes, standardised, and the index of each one's type in types."""
        return self.standardise(cohort.expression), np.searchsorted(types, cohort.types).astype(np.int32)

    def restore(self, standardised: np.ndarray) -> np.ndarray:
        """Map (samples, genes) of mean 0, sd 1 back to (samples, all genes) in the input's units."""
        values = standardised * self.sd
        values += self.mean
        if self.log2:
            np.exp2(values, out=values)
            values -= 1
        if self.whole:
            np.round(values, out=values)
        np.maximum(values, np.float32(self.floor), out=values)
        if self.kept.all():
            return values
        restored = np.tile(self.constant, (len(values), 1))
        restored[:, self.kept] = values
        return restored

    @property
    def lowest(self) -> np.ndarray:
        """The standardised value (genes,) that lies at the floor, -inf where there is none."""
        floor = np.log2(self.floor + 1) if self.log2 else self.floor
        return (np.float32(floor) - self.mean) / self.sd

    @property
    def unit(self) -> Unit:
        """Scale and offset (genes,) that take standardised values to [0, 1] over the training rows."""
        return self.sd / self.span, (self.mean - self.low) / self.span


def take_rows(rows: Rows, index: np.ndarray) -> Rows:
    """Return the given rows (indices or mask)."""
    return rows[0][index], rows[1][index]


def joined(rows: Rows, more: Rows) -> Rows:
    """Return the one rows and then the others."""
    genes = room_for(len(rows[1]) + len(more[1]), rows[0].shape[1])
    np.concatenate([rows[0], more[0]], out=genes)
    return genes, np.concatenate([rows[1], more[1]])


def shared_tensor(genes: np.ndarray) -> tf.Tensor:
    """Return a table (rows, genes) as a tensor in the same memory, which must not change any more.

    What is not laid out as by room_for is copied to such a place. TensorFlow's own way copies twice, into memory that
    it keeps when the tensor is gone.
    """
    import tensorflow as tf

    if genes.ctypes.data % 64 or not genes.flags.carray or genes.dtype != np.float32:
        room = room_for(*genes.shape)
        room[:] = genes
        genes = room
    return tf.experimental.dlpack.from_dlpack(genes.__dlpack__())


@dataclass(frozen=True)
class Tables:
    """What an experiment works on: rows to train, to validate and to test on, and how they were made.

    genes (all genes,) and types (types,) are the names, of types those behind the indices; training counts the samples
    to train and to validate on, groups (training,) holds the groups of the ones, then of the others, and test_groups
    those of the test rows; trained_on is the fingerprint of the training samples' ids, workers are those who train.
    """

    genes: np.ndarray
    types: np.ndarray
    preprocessing: Preprocessing
    train: Rows
    validation: Rows
    test: Rows
    training: int
    groups: np.ndarray
    test_groups: np.ndarray
    trained_on: str
    workers: Workers = ALONE

    def counts(self) -> np.ndarray:
        """Return the number of training samples of each type (types,), those to validate on included."""
        both = (np.bincount(part[1], minlength=len(self.types)) for part in (self.train, self.validation))
        train, validation = both
        return train + validation * (self.training > len(self.train[1]))

    def everything(self) -> Rows:
        """Return the rows to train on, then those to validate on."""
        if self.training == len(self.train[1]):  # they validate too
            return self.train
        return joined(self.train, self.validation)

    def resident(self, workers: Workers = ALONE) -> Tables:
        """Return the same tables for these workers, with what is evaluated again and again as tensors."""
        import tensorflow as tf

        parts = {"validation": self.validation, "test": self.test}
        tensors = {name: (shared_tensor(genes), tf.constant(types)) for name, (genes, types) in parts.items()}
        return replace(self, **tensors, workers=workers)


def prepare_tables(
    cohort: Cohort, test_fraction: float, transform: str, seed: int, train_per_type: int | None = None
) -> Tables:
    """Split and preprocess a cohort, and say how.

    Raises
    ------
    RnagenError
        What split_cohort and Preprocessing.fit raise.
    """
    training, validates, testing = split_cohort(cohort, test_fraction, seed, train_per_type)
    preprocessing = Preprocessing.fit(training.expression, transform)
    types = np.unique(cohort.types)
    say(f"Top {len(types)} types: {len(cohort.samples)} samples in {len(set(cohort.groups))} groups: {cohort.grouping}")
    say(
        f"Split by groups: {len(training.samples)} training samples ({validates.sum()} of them to validate), "
        f"{len(testing.samples)} test samples"
    )
    if train_per_type:
        say(f"Training samples limited to {train_per_type} a type")
    dropped, unmeasured = (~preprocessing.kept).sum(), np.isnan(preprocessing.constant[~preprocessing.kept]).sum()
    if dropped:
        say(f"Genes dropped: {dropped - unmeasured} constant and {unmeasured} all missing in the training samples")
    if missing := np.isnan(training.expression[:, preprocessing.kept]).sum():
        say(f"Missing values: {missing} in the training samples, taken as their gene's mean")
    if preprocessing.log2:
        why = "values look like counts or TPM" if transform == "auto" else "as asked"
        say(f"Transform: log2(x + 1), {why}; synthetic samples come in the table's own units")

    train, validation, test = (
        preprocessing.rows_of(part, types) for part in (training.take(~validates), training.take(validates), testing)
    )
    if not validates.any():
        note("too few training samples to set any aside: val_ figures are of the training rows themselves")
        validation = train
    return Tables(
        cohort.genes,
        types,
        preprocessing,
        train,
        validation,
        test,
        training=len(validates),
        groups=np.concatenate([training.groups[~validates], training.groups[validates]]),
        test_groups=testing.groups,
        trained_on=training.fingerprint(),
    )


# ---- training: every network goes through this loop --------------------------------------------------------------


def dense_stack(inputs: int, hidden: Sequence[int], outputs: int, rng: np.random.Generator) -> keras.Sequential:
    """Return dense relu layers and a linear one, their initial weights drawn from rng."""
    import keras

    layers: list[Any] = [keras.Input((inputs,))]
    for units, activation in [*((units, "relu") for units in hidden), (outputs, None)]:
        start = keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=start))
    return keras.Sequential(layers)


class Network:
    """What the training loop asks of a model: weights, and what it sums over a batch.

    A model takes standardised genes (rows, genes), type indices (rows,) and, if noise_dim is not 0, standard normals
    (rows, noise_dim). `sums` returns the loss and a vector of figures, both summed over the rows, so that the parts
    of a batch add up; `measures` turns the figures of any number of rows into named measures of one row.
    """

    noise_dim = 0
    figures: int  # how many `sums` returns
    weights: list[keras.Variable]

    def sums(self, genes: tf.Tensor, types: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError

    def measures(self, figures: np.ndarray) -> dict[str, float]:
        raise NotImplementedError

    def copy_weights(self) -> list[np.ndarray]:
        """Return the weights as they are now."""
        return [weight.numpy() for weight in self.weights]

    def assign_weights(self, values: Sequence[np.ndarray]) -> None:
        """Set the weights to these."""
        for weight, value in zip(self.weights, values, strict=True):
            weight.assign(value)

    @functools.cached_property
    def figures_of(self) -> Callable[..., tf.Tensor]:
        """The figures that `sums` returns, as one graph for any number of rows."""
        import tensorflow as tf

        return tf.function(lambda *rows: self.sums(*rows)[1], autograph=False, reduce_retracing=True)

    def evaluate(self, genes: np.ndarray | tf.Tensor, types: np.ndarray | tf.Tensor) -> dict[str, float]:
        """Return the measures over the given rows, the same noise at every call."""
        noise = stream(0, "evaluation").standard_normal((len(types), self.noise_dim), dtype=np.float32)
        size = min(8 * BLOCK, math.ceil(len(types) / CORES))
        parts = [slice(start, start + size) for start in range(0, len(types), size)]
        with ThreadPoolExecutor(CORES) as pool:
            figures = pool.map(lambda own: self.figures_of(genes[own], types[own], noise[own]).numpy(), parts)
            return self.measures(np.sum(list(figures), axis=0, dtype=float))


class Training:
    """Adam on mini-batches of a table held in memory, every row once an epoch; it can always be taken further.

    Keras layers and optimiser do the work, many steps in one graph call: Keras' own `fit` spends most of its time
    between steps at these sizes (tests/benchmarks/training_step.py). Each batch is cut into slices whose gradients
    are computed side by side and added, since one small matrix product does not fill two cores. Several workers take a
    share of each batch each.
    """

    def __init__(
        self,
        model: Network,
        rows: Rows,
        batch_size: int,
        learning_rate: float,
        rng: np.random.Generator,
        workers: Workers = ALONE,
    ) -> None:
        import keras
        import tensorflow as tf

        self.model, self.batch_size, self.workers = model, batch_size, workers
        self.stops: dict[int, Callable[[], object]] = {}  # what to do on reaching a step
        self._slices = max(1, min(CORES, batch_size // 32))
        genes, types = rows
        self._genes = tf.Variable(shared_tensor(genes), shape=(None, genes.shape[1]), trainable=False)
        self._types = tf.Variable(types, dtype=tf.int32, shape=(None,), trainable=False)
        self._initial = model.copy_weights()
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build(model.weights)
        batch, noise = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, model.noise_dim), tf.float32)
        traced = functools.partial(tf.function, autograph=False)  # parsing Python takes longer than tracing it
        self._slice_sums = traced(self._sum_slice, input_signature=[batch, noise, tf.TensorSpec((), tf.float64)])
        self._advance_in_graph = traced(self._take_steps, input_signature=[batch, noise])
        self._begin(len(types), rng)

    def _begin(self, rows: int, rng: np.random.Generator) -> None:
        self.rows, self.rng, self.steps = rows, rng, 0
        self.steps_per_epoch = math.ceil(rows / self.batch_size)
        self._order = np.empty(0, np.int32)  # of the epoch under way

    def restart(self, rows: Rows, rng: np.random.Generator) -> None:
        """Begin again on other rows from the same initial weights; the graph, which takes as long to make, is kept."""
        genes, types = rows
        self._genes.assign(shared_tensor(genes))
        self._types.assign(types)
        self.model.assign_weights(self._initial)
        for state in self._optimizer.variables[2:]:  # the first two are the number of steps and the learning rate
            state.assign(np.zeros(state.shape))
        self._optimizer.iterations.assign(0)
        self._begin(len(types), rng)

    def release(self) -> None:
        """Let go of the rows before more are made; the next restart brings others."""
        self._genes.assign(np.empty((0, self._genes.shape[1]), np.float32))

    def _take_steps(self, order: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Take a step on each batch of the rows in order (rows,); return the figures summed over all of them."""
        import tensorflow as tf

        def step(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            end = tf.minimum(start + self.batch_size, tf.size(order))
            return end, total + self._take_step(order[start:end], noise[start:end])

        begin = (tf.constant(0), tf.zeros(self.model.figures))
        return tf.while_loop(lambda start, total: start < tf.size(order), step, begin)[1]

    def _take_step(self, batch: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Take one step down the gradient of the batch's mean loss; return the batch's figures."""
        import tensorflow as tf

        size = tf.size(batch)
        share = 1 / size
        *gradients, figures = self.workers.sum_shares(
            size, lambda start, end: self._sum_share(batch[start:end], noise[start:end], share)
        )
        self._optimizer.apply(gradients, self.model.weights)
        return figures

    def _sum_share(self, batch: tf.Tensor, noise: tf.Tensor, share: tf.Tensor) -> list[tf.Tensor]:
        """Return the gradients and figures summed over some rows of a batch, cut into slices."""
        import tensorflow as tf

        size = tf.size(batch)
        cuts = [size * part // self._slices for part in range(self._slices + 1)]
        slices = [slice(start, end) for start, end in itertools.pairwise(cuts)]
        parts = [self._slice_sums(batch[own], noise[own], share) for own in slices]
        return [tf.add_n(addends) for addends in zip(*parts, strict=True)]

    def _sum_slice(self, batch: tf.Tensor, noise: tf.Tensor, share: tf.Tensor) -> list[tf.Tensor]:
        """Return the gradients and figures summed over a slice of a batch, a row's gradient counting as its share."""
        import tensorflow as tf

        # gathering from the variable itself would copy the table, since its memory is shared; read in place it is not
        with tf.device(self._genes.device):
            genes, types = (tf.gather(table.read_value(), batch) for table in (self._genes, self._types))
        with tf.GradientTape() as tape:
            loss, figures = self.model.sums(genes, types, noise)
            loss *= tf.cast(share, tf.float32)
        return [*tape.gradient(loss, self.model.weights), figures]

    def advance(self, steps: int, progress: Callable[[int], object] = lambda steps: None) -> dict[str, float]:
        """Take that many more steps; return the measures of the rows they went through.

        progress is called with the number of steps taken every now and then.

        Raises
        ------
        RnagenError
            The loss is no longer a finite number.
        """
        figures, goal = 0.0, self.steps + steps
        while self.steps < goal:
            done = self.steps % self.steps_per_epoch
            if done == 0:
                self._order = self.rng.permutation(self.rows).astype(np.int32)
            pauses = [stop for stop in self.stops if stop > self.steps]
            more = min(STEPS_A_CALL, self.steps_per_epoch - done, min([goal, *pauses]) - self.steps)
            order = self._order[done * self.batch_size : (done + more) * self.batch_size]
            noise = self.rng.standard_normal((len(order), self.model.noise_dim), dtype=np.float32)
            with self.workers.watching():
                figures = figures + self._advance_in_graph(order, noise).numpy().astype(float)
            self.steps += more
            progress(more)
            if self.steps in self.stops:
                self.stops[self.steps]()
        measures = self.model.measures(figures)
        if not math.isfinite(measures["loss"]):
            raise RnagenError(
                f"training failed: loss {measures['loss']} after {self.steps} steps; look for extreme values in the "
                f"table, or try --transform log2"
            )
        return measures


def measures_line(measures: dict[str, float]) -> str:
    """Format measures as Keras does."""
    return " - ".join(f"{name}: {value:.4f}" for name, value in measures.items())


def fit(
    training: Training, epochs: int, validation: Rows, keep_best: bool = False
) -> tuple[list[dict[str, float]], int]:
    """Train for that many epochs, printing one line an epoch.

    With keep_best the model ends with the weights of the epoch of lowest val_loss, which may be those it began with.

    Returns the measures and their val_ twins by epoch, and the epoch of which the model has the weights.
    """
    from tqdm import tqdm

    history: list[dict[str, float]] = []
    best, best_epoch, best_weights = math.inf, epochs, []
    if keep_best:
        best, best_epoch = training.model.evaluate(*validation)["loss"], 0
        best_weights = training.model.copy_weights()
        say(f"Before training - val_loss: {best:.4f}")
    steps = epochs * training.steps_per_epoch
    with tqdm(total=steps, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:
        for epoch in range(1, epochs + 1):
            measures = training.advance(training.steps_per_epoch, bar.update)
            measures |= {f"val_{name}": value for name, value in training.model.evaluate(*validation).items()}
            say(f"Epoch {epoch}/{epochs} - " + measures_line(measures))
            history.append(measures)
            if keep_best and measures["val_loss"] < best:
                best, best_epoch = measures["val_loss"], epoch
                best_weights = training.model.copy_weights()
    if best_epoch < epochs:
        training.model.assign_weights(best_weights)
        say(f"Kept the weights {f'of epoch {best_epoch}' if best_epoch else 'before training'}: lowest val_loss")
    return history, best_epoch


# ---- models: the classifier --------------------------------------------------------------------------------------


class Classifier(Network):
    """Dense 200-100 relu network on genes scaled to [0, 1], trained by cross-entropy.

    unit is the scale and offset (genes,) that take standardised genes to [0, 1].
    """

    figures = 3

    def __init__(self, types: int, unit: Unit, rng: np.random.Generator) -> None:
        self.scale, self.offset = unit
        self.network = dense_stack(len(self.scale), HIDDEN_CLASSIFIER, types, rng)
        self.weights = self.network.trainable_variables

    def sums(self, genes: tf.Tensor, types: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        logits = self.network(genes * self.scale + self.offset)  # (rows, types)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(types, logits))
        right = tf.math.count_nonzero(tf.argmax(logits, 1, tf.int32) == types, dtype=tf.float32)
        return loss, tf.stack([tf.cast(tf.size(types), tf.float32), loss, right])

    def measures(self, figures: np.ndarray) -> dict[str, float]:
        rows, loss, right = figures
        return {"loss": loss / rows, "accuracy": right / rows}

    def predict(self, genes: np.ndarray | tf.Tensor) -> np.ndarray:
        """Return the likeliest type index (rows,) of standardised genes."""
        return self.network(genes * self.scale + self.offset).numpy().argmax(1)


# ---- generators: a factor model, and the networks that go on from it ---------------------------------------------


def inner_folds(types: np.ndarray, groups: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the rows into that many folds, stratified by type, whole groups in one; return the fold of each (rows,)."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    parts = min(parts, len(first))
    order = np.lexsort((rng.random(len(first)), types[first]))  # the groups of a type one after the other
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % parts
    return fold[group]


def folds_for(fold: np.ndarray) -> int:
    """Return how many of the inner folds have to be held out, one after the other, to have seen enough rows."""
    parts = int(fold.max()) + 1
    return min(parts, math.ceil(ENOUGH_HELD_OUT * parts / len(fold))) if parts > 1 else 0


def within_types(rows: Rows, types: int) -> tuple[np.ndarray, np.ndarray, Rows]:
    """Return the mean (types, genes) and the number (types,) of each type's rows, and the residuals as Rows.

    A residual is a row less its type's mean, stretched so that its variance is that of the type; a lone row has none.
    Where no type has two rows, half the variance is taken to be within types.
    """
    genes, label = rows
    counts = np.bincount(label, minlength=types)
    means = np.zeros((types, genes.shape[1]), np.float32)
    np.add.at(means, label, genes)
    means /= np.maximum(counts, 1)[:, None]
    several = counts[label] > 1
    if not several.any():
        return means, counts, ((genes - means.mean(0)) * np.float32(math.sqrt(0.5)), label)
    stretch = np.sqrt(counts / np.maximum(counts - 1, 1))[label[several], None].astype(np.float32)
    return means, counts, ((genes[several] - means[label[several]]) * stretch, label[several])


@dataclass(frozen=True)
class Factors:
    """A Gaussian for each type c, x = means[c] + z @ loadings + noise * normal, z ~ N(0, roots[c].T @ roots[c]).

    means is (types, genes), loadings (latent_dim, genes), noise (genes,), roots (types, latent_dim, latent_dim); over
    all types z has the identity for its covariance. stretch (types,) is what the error of a mean of few rows adds to
    the spread around it; pooled_rows says how many rows the pooled covariance counts as beside a type's own (None where
    that differs from type to type).
    """

    means: np.ndarray
    loadings: np.ndarray
    noise: np.ndarray
    roots: np.ndarray
    stretch: np.ndarray
    pooled_rows: float | None


@dataclass(frozen=True)
class FoldScores:
    """Residuals of a fold as seen by the directions that the rest of the rows spread most in.

    directions is (latent_dim, genes); scores (rows, latent_dim) are the rest's on these, whitened, of types (rows,);
    spread (genes,) is the rest's variance. held (fold, genes) are the fold's residuals, of held_types (fold,), and seen
    (fold, latent_dim) these on the directions.
    """

    directions: np.ndarray
    scores: np.ndarray
    types: np.ndarray
    spread: np.ndarray
    held: np.ndarray
    held_types: np.ndarray
    seen: np.ndarray


def principal(residuals: np.ndarray, latent_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return whitened scores (rows, latent_dim), variances (latent_dim,), directions (latent_dim, genes) of residuals.

    What goes beyond their rank is zero.
    """
    from sklearn.utils.extmath import randomized_svd

    rank = min(latent_dim, *residuals.shape)
    left, singular, directions = randomized_svd(residuals, rank, n_iter=2, random_state=0)
    fill = latent_dim - rank
    singular = np.where(singular > 1e-5 * singular[0], singular, 0)
    variances = np.pad(singular**2 / len(residuals), (0, fill))
    scores = np.pad(left * (singular > 0) * math.sqrt(len(residuals)), ((0, 0), (0, fill)))
    return scores, variances, np.pad(directions, ((0, fill), (0, 0)))


def score_folds(rows: Rows, groups: np.ndarray, types: int, latent_dim: int) -> list[FoldScores]:
    """Project each inner fold on the principal directions of the others; one that shares no type is left out."""
    genes, label = rows
    fold = inner_folds(label, groups, INNER_FOLDS, stream(0, "inner folds"))
    found = []
    for number in range(folds_for(fold)):
        rest = fold != number
        means, counts, (residuals, own) = within_types((genes[rest], label[rest]), types)
        held = ~rest & (counts[label] > 0)
        if not held.any() or np.bincount(own, minlength=types).max(initial=0) < 2:
            continue
        scores, _, directions = principal(residuals, latent_dim)
        shrink = np.sqrt(1 + 1 / counts[label[held]])[:, None]  # a held-out row strays from an estimated mean
        left = ((genes[held] - means[label[held]]) / shrink).astype(np.float32)
        spread = np.square(residuals).mean(0)
        found.append(FoldScores(directions, scores, own, spread, left, label[held], left @ directions.T))
    return found


def factor_likelihood(fold: FoldScores, variances: np.ndarray) -> float:
    """Return the log likelihood of a fold's residuals, less a constant, with these variances of its directions."""
    loadings = np.sqrt(variances)[:, None] * fold.directions[: len(variances)]
    noise = np.maximum(fold.spread - np.square(loadings).sum(0), LEAST_NOISE * fold.spread) + LEAST_VARIANCE
    scaled = loadings / noise
    inner = np.eye(len(variances)) + scaled @ loadings.T
    seen = fold.held @ scaled.T
    quadratic = (np.square(fold.held) / noise).sum() - (np.linalg.solve(inner, seen.T) * seen.T).sum()
    return -(quadratic + len(fold.held) * (np.linalg.slogdet(inner)[1] + np.log(noise).sum())) / 2


def type_covariances(scores: np.ndarray, label: np.ndarray, types: int, pooled_rows: float) -> np.ndarray:
    """Return each type's covariance (types, d, d) of whitened scores, the identity counting as so many more rows."""
    identity = pooled_rows * np.eye(scores.shape[1])
    own = (scores[label == one_type] for one_type in range(types))
    return np.array([(part.T @ part + identity) / (len(part) + pooled_rows) for part in own])


def pooling_likelihood(fold: FoldScores, variances: np.ndarray, types: int, pooled_rows: float) -> float:
    """Return the log likelihood of a fold's scores, less a constant, at that shrinkage of the types' covariances."""
    used = variances > 0
    held = fold.seen[:, : len(variances)][:, used] / np.sqrt(variances[used])
    covariances = type_covariances(fold.scores[:, : len(variances)][:, used], fold.types, types, pooled_rows)
    total = 0.0
    for one_type in np.unique(fold.held_types):
        own, covariance = held[fold.held_types == one_type], covariances[one_type]
        total -= (np.linalg.solve(covariance, own.T) * own.T).sum() + len(own) * np.linalg.slogdet(covariance)[1]
    return total / 2


def moderate(variances: np.ndarray, degrees: int) -> np.ndarray:
    """Draw sample variances of so many degrees of freedom to a common one, as far as chance has spread them.

    Empirical Bayes with an inverse gamma prior, whose parameters come from the mean and variance of the logarithms
    (Smyth 2004).
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if len(variances) < 2:
        return variances
    logs = np.log(np.maximum(variances, LEAST_VARIANCE)) - digamma(degrees / 2) + math.log(degrees / 2)
    beyond = logs.var(ddof=1) - polygamma(1, degrees / 2)  # variance that chance does not explain
    if beyond <= polygamma(1, MOST_PRIOR):
        return np.full_like(variances, math.exp(logs.mean()))
    half = brentq(lambda half: polygamma(1, half) - beyond, 1e-3, MOST_PRIOR)
    prior = math.exp(logs.mean() + digamma(half) - math.log(half))
    return (2 * half * prior + degrees * variances) / (2 * half + degrees)


def shrink_means(means: np.ndarray, variances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Draw type means (types, columns) towards their average, each column as far as chance may have spread them.

    variances (columns,) are within types. Empirical Bayes as in James-Stein estimation (Efron and Morris 1975), with
    moderated variances between types, which few types tell badly.
    """
    if len(means) == 1:
        return means
    centre, error = means.mean(0), variances / np.maximum(counts, 0.5)[:, None]  # a type without rows has no mean
    chance = error.mean(0) + 1e-9
    ratio = moderate(np.square(means - centre).sum(0) / (len(means) - 1) / chance, len(means) - 1)
    between = np.maximum(ratio - 1, 0) * chance
    return centre + between / (between + error + 1e-9) * (means - centre)


def mean_error(counts: np.ndarray) -> np.ndarray:
    """Return how much wider than its type a new row spreads around the mean of so many rows."""
    return np.sqrt(1 + 1 / np.maximum(counts, 1))


def fit_factors(rows: Rows, groups: np.ndarray, types: int, latent_dim: int | None) -> Factors:
    """Fit a Gaussian to each type, as much of it shared between types as held-out rows ask for.

    The directions are the principal ones within types; their variances are those of rows held out in inner folds,
    which corrects what a few rows exaggerate. latent_dim None takes as many as make held-out rows likeliest. A type's
    covariance is shrunk to the pooled one (regularised discriminant analysis, Friedman 1989), as far as makes them
    likeliest; its mean is shrunk, direction by direction, to that of all types (Efron and Morris 1975; Smyth 2004).
    """
    means, counts, (residuals, label) = within_types(rows, types)
    choices = [latent_dim] if latent_dim else [d for d in LATENT_CHOICES if d <= min(residuals.shape)]
    folds = score_folds(rows, groups, types, choices[-1])
    scores, variances, directions = principal(residuals, choices[-1])
    if folds:
        held = np.square(np.concatenate([fold.seen for fold in folds])).mean(0)
        variances = np.minimum(variances, held)
    likelihood = {d: sum(factor_likelihood(fold, variances[:d]) for fold in folds) for d in choices}
    dim = max(choices, key=likelihood.__getitem__)
    variances, directions, scores = variances[:dim], directions[:dim], scores[:, :dim]
    pooling = [dim * share for share in POOLING_CHOICES]
    likelihood = {n: sum(pooling_likelihood(fold, variances, types, n) for fold in folds) for n in pooling}
    pooled_rows = max(reversed(pooling), key=likelihood.__getitem__)  # the most pooled where nothing tells them apart

    loadings = np.sqrt(variances)[:, None] * directions
    spread = np.square(residuals).mean(0)
    noise = np.maximum(spread - np.square(loadings).sum(0), LEAST_NOISE * spread)
    at = means @ directions.T  # (types, latent_dim)
    if counts.max() > 1:
        beside = shrink_means(means - at @ directions, noise, counts)
        means = shrink_means(at, variances, counts) @ directions + beside
    covariances = type_covariances(scores, label, types, pooled_rows)
    covariances[counts <= FEW_SAMPLES] = np.eye(dim)
    roots = np.linalg.cholesky(covariances).transpose(0, 2, 1)
    arrays = (means, loadings, np.sqrt(noise + LEAST_VARIANCE), roots, mean_error(counts))
    return Factors(*(np.ascontiguousarray(array, np.float32) for array in arrays), pooled_rows)


def fit_gaussians(rows: Rows, types: int, latent_dim: int | None) -> Factors:
    """Fit a Gaussian to each type: its mean, and its covariance shrunk to the pooled one within types.

    The shrinkage is that of Ledoit and Wolf (2004), in the latent_dim principal directions within types (None: as many
    as 200), in which the pooled covariance is the identity; beyond them genes vary independently, alike in all types.
    """
    from sklearn.covariance import ledoit_wolf

    means, counts, (residuals, label) = within_types(rows, types)
    scores, variances, directions = principal(residuals, latent_dim or min(GAUSSIAN_LATENT, *residuals.shape))
    loadings = np.sqrt(variances)[:, None] * directions
    spread = np.square(residuals).mean(0)
    noise = np.sqrt(np.maximum(spread - np.square(loadings).sum(0), LEAST_NOISE * spread) + LEAST_VARIANCE)
    roots = np.tile(np.eye(len(loadings)), (types, 1, 1))
    for one_type in np.flatnonzero(counts > FEW_SAMPLES):
        covariance, _ = ledoit_wolf(scores[label == one_type], assume_centered=True)
        roots[one_type] = np.linalg.cholesky(covariance + LEAST_VARIANCE * np.eye(len(covariance))).T
    arrays = (means, loadings, noise, roots, mean_error(counts))
    return Factors(*(np.ascontiguousarray(array, np.float32) for array in arrays), None)


def uncensored(mean: np.ndarray, sd: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and sds of normals that have these once what lies under floor is raised to it (Tobin 1958).

    All are (types, genes) but floor, (genes,). A mean closer to the floor than any such normal can have is approached.
    """
    from scipy.special import ndtr

    height = mean - floor
    near = height < 4 * sd
    height, target = height[near], sd[near]
    centre, spread = height.copy(), target.copy()
    for _ in range(200):
        ratio = centre / spread
        above, density = ndtr(ratio), np.exp(-np.square(ratio) / 2) / math.sqrt(2 * math.pi)
        first = centre * above + spread * density
        second = (np.square(centre) + np.square(spread)) * above + centre * spread * density
        share = np.sqrt(np.maximum(second - np.square(first), 1e-12)) / target
        centre += np.clip(height - first, -target / 2, target / 2)
        spread = np.clip(spread / np.sqrt(share), 0.3 * target, 3 * target)
        centre = np.maximum(centre, -3 * spread)
    mean, sd = mean.copy(), sd.copy()
    mean[near], sd[near] = centre + np.broadcast_to(floor, near.shape)[near], spread
    return mean, sd


class Generator:
    """Draws standardised rows of a type c: the type's mean, plus what a latent z of that type decodes to, plus noise.

    z is drawn from a Gaussian for each type, with mean latent_mean[c] and covariance latent_root[c].T @ latent_root[c].
    floor (genes,) is the least standardised value that a gene can have: rows are drawn so that they have the right
    mean and variance after values under it have been raised to it. As it stands it draws from Factors; what learns
    more has a `decode_block` of its own.
    """

    conditional = True  # on the type, so that its mean is known

    def __init__(self, kind: str, factors: Factors, floor: np.ndarray) -> None:
        self.kind, self.floor = kind, floor
        self.type_means, self.loadings, self.noise = factors.means, factors.loadings, factors.noise
        self.latent_root, self.stretch = factors.roots, factors.stretch
        self.latent_mean = np.zeros(self.latent_root.shape[:2], np.float32)
        self.latent_dim = len(self.loadings)

    def decode_block(self, latent: np.ndarray, types: np.ndarray) -> np.ndarray:
        """Return the expected genes less type means (BLOCK, genes) of latents (BLOCK, latent_dim)."""
        return latent @ self.loadings

    def latents(self, types: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Turn standard normals (rows, latent_dim) into latents of the given type indices (rows,)."""
        latent = np.empty_like(normal)
        for one_type in np.unique(types):
            rows = types == one_type
            latent[rows] = self.latent_mean[one_type] + np.einsum("ij,jk", normal[rows], self.latent_root[one_type])
        return latent

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd (types, genes) of what is drawn for each type beside its mean, noise included."""
        variances = np.array([np.square(root @ self.loadings).sum(0) for root in self.latent_root])
        return np.zeros_like(self.type_means), np.sqrt(variances + np.square(self.noise))

    def placement(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the offset and stretch (types, genes) of what is drawn for each type at that temperature.

        Temperature multiplies how far rows lie from their type's mean.
        """
        means, sd = self.moments
        target = self.type_means if self.conditional else means
        centre, spread = uncensored(target, temperature * self.stretch[:, None] * sd, self.floor)
        stretch = spread / sd
        return np.float32(centre - stretch * means), np.float32(stretch)

    def draw(
        self, types: np.ndarray, rng: np.random.Generator, placement: tuple[np.ndarray, np.ndarray], noise: bool = True
    ) -> np.ndarray:
        """Draw a standardised row (rows, genes) for each of at most BLOCK type indices; without noise, its mean.

        The first rows are the same to the last bit however many follow: latents are drawn and decoded for a whole
        block, since the rounding of a matrix product may depend on its size.
        """
        offset, stretch = placement
        whole = np.zeros(BLOCK, np.int32)
        whole[: len(types)] = types
        latent = self.latents(whole, rng.standard_normal((BLOCK, self.latent_dim), dtype=np.float32))
        drawn = np.array(self.decode_block(latent, whole)[: len(types)])
        if noise:
            drawn += rng.standard_normal(drawn.shape, dtype=np.float32) * self.noise
        drawn *= stretch[types]
        drawn += offset[types]
        return drawn


class Autoencoder(Generator, Network):
    """Autoencoder of standardised genes x of a type c, that starts where the factor model ends.

    Its loss, in nats a sample, with encoder mean m and sd s, type means t, loadings W and a noise sd r for each gene:

        - sum over genes of ln N(x | t(c) + z W + f(z, c), r^2)  +  KL(N(m, s^2) || N(0, 1)),   z = m + s * normal
        where m = (x - t(c)) V + g(x - t(c), c)

    This is the CVAE (Sohn, Lee and Yan 2015) with learned noise (Rybkin, Daniilidis and Levine 2021). V and s start
    at the factor model's posterior, which a linear VAE comes to (Lucas et al. 2019), and the networks f and g at zero:
    training can only go on from there. The VAE (Kingma and Welling 2014) leaves out c and t; the autoencoder, s and
    the KL as well. Latents are drawn from a Gaussian for each type (Ghosh et al. 2020).
    """

    figures = 9

    def __init__(
        self, kind: str, factors: Factors, floor: np.ndarray, unit: Unit, types: int, rng: np.random.Generator
    ) -> None:
        import keras

        super().__init__(kind, factors, floor)
        self.conditional, self.variational, self.types = kind == "cvae", kind != "ae", types
        self.scale, self.offset = unit
        self.noise_dim, genes = self.loadings.shape
        condition = self.types * self.conditional
        scaled = self.loadings / np.square(self.noise)
        posterior = np.linalg.inv(np.eye(self.noise_dim) + scaled @ self.loadings.T)
        log_variance = np.log(np.diag(posterior))[: self.noise_dim * self.variational]
        self.encoder = dense_stack(genes + condition, HIDDEN_ENCODER, self.noise_dim * (1 + self.variational), rng)
        self.decoder = dense_stack(self.noise_dim + condition, HIDDEN_DECODER, genes, rng)
        for network in (self.encoder, self.decoder):
            network.layers[-1].kernel.assign(np.zeros(network.layers[-1].kernel.shape))
        self.encoder.layers[-1].bias.assign(np.append(np.zeros(self.noise_dim), log_variance))
        starts = {"recognition": (posterior @ scaled).T, "loading": self.loadings, "log_noise": np.log(self.noise)}
        self.linear = {name: keras.Variable(np.float32(start), name=name) for name, start in starts.items()}
        self.weights = [*self.encoder.trainable_variables, *self.decoder.trainable_variables, *self.linear.values()]

    def with_condition(self, values: tf.Tensor, types: tf.Tensor) -> tf.Tensor:
        """Append the types, one-hot, where the model is conditional."""
        import tensorflow as tf

        return tf.concat([values, tf.one_hot(types, self.types)], 1) if self.conditional else values

    def encode(self, centred: tf.Tensor, types: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return mean and log variance (None without a KL) of the latents (rows, latent_dim) of centred genes."""
        import tensorflow as tf

        code = self.encoder(self.with_condition(centred, types))
        linear = tf.matmul(centred, self.linear["recognition"])
        if not self.variational:
            return linear + code, None
        correction, log_variance = tf.split(code, 2, axis=1)
        return linear + correction, log_variance

    def decode(self, latent: tf.Tensor, types: tf.Tensor) -> tf.Tensor:
        """Return the expected genes less type means (rows, genes) of latents (rows, latent_dim)."""
        import tensorflow as tf

        return tf.matmul(latent, self.linear["loading"]) + self.decoder(self.with_condition(latent, types))

    def sums(self, genes: tf.Tensor, types: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        rows = tf.cast(tf.size(types), tf.float32)
        centred = genes - tf.gather(self.type_means, types)
        latent, log_variance = self.encode(centred, types)
        kl = tf.zeros(())
        if self.variational:
            kl = tf.reduce_sum(tf.square(latent) + tf.exp(log_variance) - 1 - log_variance) / 2
            latent += tf.exp(log_variance / 2) * noise
        error = centred - self.decode(latent, types)
        squares = tf.reduce_sum(tf.square(error), 0)  # (genes,)
        log_noise = self.linear["log_noise"].value
        loss = kl + tf.reduce_sum(squares * tf.exp(-2 * log_noise)) / 2
        loss += rows * tf.reduce_sum(log_noise + math.log(2 * math.pi) / 2)
        # the rest on genes scaled to [0, 1]; their correlation follows from moments that add up over batches
        real = genes * self.scale + self.offset
        drawn = real - error * self.scale
        chance = tf.clip_by_value(drawn, 1e-6, 1 - 1e-6)
        against = tf.math.log(1 - chance)
        xent = -tf.reduce_sum(real * (tf.math.log(chance) - against) + against)
        moments = [tf.reduce_sum(real), tf.reduce_sum(drawn), 2 * tf.nn.l2_loss(real), 2 * tf.nn.l2_loss(drawn)]
        return loss, tf.stack([rows, loss, kl, xent, tf.reduce_sum(squares * tf.square(self.scale)), *moments])

    @np.errstate(invalid="ignore")
    def measures(self, figures: np.ndarray) -> dict[str, float]:
        rows, loss, kl = figures[:3]
        xent, mse, real, drawn, real_square, drawn_square = figures[3:] / (rows * len(self.scale))
        covariance = (real_square + drawn_square - mse) / 2 - real * drawn
        variances = (real_square - real**2) * (drawn_square - drawn**2)
        corr = covariance / math.sqrt(variances) if variances > 0 else 0.0
        return {"loss": loss / rows, "kl": kl / rows, "xent": xent, "mse": mse, "corr": corr}

    def finish(self, rows: Rows) -> None:
        """Settle what draws need once the weights are learned on these rows: noise, and latents where c is unknown.

        A type's covariance counts with the pooled one as if latent_dim + 1 more of its rows had that one, which keeps
        it of full rank (regularised discriminant analysis, Friedman 1989).
        """
        self.noise = np.exp(self.linear["log_noise"].numpy())
        if self.conditional:
            return
        latent, log_variance = self.encode(*rows)
        latent = latent.numpy().astype(float)
        blur = np.exp(log_variance.numpy()).mean(0) if self.variational else 0.0  # the posterior's own variance
        means, _, (residual, label) = within_types((latent, rows[1]), self.types)
        pooled = residual.T @ residual / len(residual)
        for one_type, mean in enumerate(means):
            own, extra = residual[label == one_type], self.noise_dim + 1
            covariance = (own.T @ own + extra * pooled) / (len(own) + extra) + np.eye(self.noise_dim) * (blur + 1e-6)
            self.latent_mean[one_type], self.latent_root[one_type] = mean, np.linalg.cholesky(covariance).T

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of a block for each type, with every latent's mirror image: what is linear in z averages exactly."""
        half = stream(0, "moments").standard_normal((BLOCK // 2, self.latent_dim), dtype=np.float32)
        normal = np.concatenate([half, -half])
        shape = self.type_means.shape
        means, variances = np.empty(shape), np.empty(shape)
        for one_type in range(len(means)):
            types = np.full(BLOCK, one_type, np.int32)
            drawn = np.asarray(self.decode_block(self.latents(types, normal), types))
            means[one_type], variances[one_type] = drawn.mean(0), drawn.var(0)
        return np.float32(means), np.sqrt(variances + np.square(self.noise)).astype(np.float32)

    @functools.cached_property
    def decode_in_graph(self) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
        import tensorflow as tf

        signature = [tf.TensorSpec((BLOCK, self.noise_dim), tf.float32), tf.TensorSpec((BLOCK,), tf.int32)]
        return tf.function(self.decode, input_signature=signature, autograph=False)

    def decode_block(self, latent: np.ndarray, types: np.ndarray) -> np.ndarray:
        return self.decode_in_graph(latent, types).numpy()


# ---- sampling ----------------------------------------------------------------------------------------------------


def blocks_of(rows: int, part: int = 1, parts: int = 1) -> range:
    """Return the numbers of the blocks that so many rows are drawn in, or of one of several parts of them."""
    blocks = math.ceil(rows / BLOCK)
    return range(blocks * (part - 1) // parts, blocks * part // parts)


@dataclass(frozen=True)
class Synthesiser:
    """A trained generator with all that it takes to draw samples in a table's own terms.

    genes (all genes,) and types (types,) are their names, counts (types,) the training samples of each type,
    recommended the number of rows and the temperature that inner validation has chosen, None where it was not asked,
    trained_on the fingerprint of the training samples' ids.
    """

    model: Generator
    preprocessing: Preprocessing
    genes: np.ndarray
    types: np.ndarray
    counts: np.ndarray
    recommended: tuple[int | None, float | None] = (None, None)
    trained_on: str = ""

    def draw(
        self, labels: np.ndarray, seed: int, purpose: str, temperature: float = 1.0, blocks: range | None = None
    ) -> Iterator[np.ndarray]:
        """Yield synthetic rows of the given type indices in the input's units, in blocks (at most BLOCK, all genes).

        Each block has a random stream of its own, so that blocks can be drawn side by side, or elsewhere (blocks says
        which, all by default), and the first rows do not depend on how many follow. Rows for one purpose are
        independent of those for another.
        """

        def block(number: int) -> np.ndarray:
            own = labels[number * BLOCK : (number + 1) * BLOCK]
            rng = stream(seed, f"{purpose} rows", number)
            return self.preprocessing.restore(self.model.draw(own, rng, placement))

        placement = self.model.placement(temperature)
        room = max(2, DRAWN_AHEAD // (4 * BLOCK * len(self.genes)))
        workers = min(2 * CORES, room)  # while one waits for the decoder another draws noise
        ahead = min(workers + ROW_GROUP // BLOCK, room)  # so that none rests while a row group is written
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque = deque()
            for number in blocks_of(len(labels)) if blocks is None else blocks:
                waiting.append(pool.submit(block, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def rows(self, labels: np.ndarray, seed: int, purpose: str, temperature: float, after: Rows | None = None) -> Rows:
        """Return synthetic rows of the given type indices, as they would be read back: standardised again.

        They come after the given rows, if any, in one array that is filled block by block and that training can share:
        there may be no room for another.
        """
        before, types = 0 if after is None else len(after[1]), labels.astype(np.int32)
        genes = room_for(before + len(types), np.count_nonzero(self.preprocessing.kept))
        if after is not None:
            genes[:before], types = after[0], np.concatenate([after[1], types])
        for number, block in enumerate(self.draw(labels, seed, purpose, temperature)):
            start = before + number * BLOCK
            genes[start : start + len(block)] = self.preprocessing.standardise(block)
        return genes, types


@dataclass(frozen=True)
class Order:
    """How many synthetic samples of which type are wanted: exact counts, as many as balance, or random types."""

    n_samples: int
    per_type: tuple[tuple[str, int], ...] = ()
    balance: bool = False

    def labels(self, types: np.ndarray, counts: np.ndarray, seed: int, purpose: str) -> np.ndarray:
        """Return a type index for each synthetic row, given the types and the training samples of each.

        Exact counts come type after type; otherwise each row's type is uniformly random.

        Raises
        ------
        RnagenError
            A type is unknown.
        """
        if self.balance:
            return np.repeat(np.arange(len(types)), counts.max() - counts)
        if not self.per_type:
            return stream(seed, f"{purpose} types").integers(len(types), size=self.n_samples)
        known = {name: number for number, name in enumerate(types.tolist())}
        for name, _ in self.per_type:
            if name not in known:
                raise RnagenError(f"--per_type {name}: no such type; the types are {', '.join(known)}")
        return np.repeat([known[name] for name, _ in self.per_type], [number for _, number in self.per_type])


# ---- the experiment: do synthetic rows help a classifier? --------------------------------------------------------


def steps_of(rows: int, epochs: Iterable[int]) -> list[int]:
    """Return the classifier's training steps in each of those numbers of epochs over so many rows."""
    return [epoch * math.ceil(rows / CLASSIFIER_BATCH) for epoch in epochs]


class ClassifierRun:
    """A classifier in training, scored on the test rows at every step in stops that it passes.

    All runs of an experiment start from the same weights, so that only their rows and number of steps differ.
    """

    def __init__(self, rows: Rows, tables: Tables, stops: Iterable[int], seed: int) -> None:
        model = Classifier(len(tables.types), tables.preprocessing.unit, stream(seed, "classifier weights"))
        batches = stream(seed, "classifier order")
        self.training = Training(model, rows, CLASSIFIER_BATCH, CLASSIFIER_RATE, batches, tables.workers)
        self.training.stops = dict.fromkeys(stops, self.score)
        self.tables = tables
        self.scores: dict[int, dict[str, float]] = {}  # by step

    def score(self) -> None:
        self.scores[self.training.steps] = self.training.model.evaluate(*self.tables.test)

    def train(self, epochs: int, title: str, closing: str) -> float:
        """Train with a line an epoch; print and return the scores where that ends, which must be a stop."""
        say(f"\n{title}")
        fit(self.training, epochs, self.tables.validation)
        scores = self.scores[self.training.steps]
        say(f"\n{closing}\n{measures_line(scores)}")
        return scores["accuracy"]

    def predict(self) -> np.ndarray:
        """Return the type indices (test rows,) that the classifier gives the test rows now."""
        return self.training.model.predict(self.tables.test[0])

    def accuracy_at(self, step: int) -> float:
        """Train on to that stop if it lies ahead; return the test accuracy there."""
        if step > self.training.steps:
            self.training.advance(step - self.training.steps)
        return self.scores[step]["accuracy"]


def start_factors(model: str, rows: Rows, groups: np.ndarray, types: int, latent_dim: int | None) -> Factors:
    """Fit what a generator of that kind starts from."""
    if model == "gaussian":
        return fit_gaussians(rows, types, latent_dim)
    if model == "cvae":
        return fit_factors(rows, groups, types, latent_dim)
    genes, label = rows
    blind = fit_factors((genes, np.zeros_like(label)), groups, 1, latent_dim)
    means, roots = np.zeros((types, genes.shape[1]), np.float32), np.tile(blind.roots, (types, 1, 1))
    stretch = mean_error(np.bincount(label, minlength=types)).astype(np.float32)
    return replace(blind, means=means, roots=roots, stretch=stretch)


def start_generator(model: str, rows: Rows, groups: np.ndarray, tables: Tables, latent_dim: int | None) -> Generator:
    """Return what a generator of that kind is before any training."""
    types, lowest = len(tables.types), tables.preprocessing.lowest
    factors = start_factors(model, rows, groups, types, latent_dim)
    if model in ("cvae", "gaussian"):
        return Generator(model, factors, lowest)
    network = Autoencoder(model, factors, lowest, tables.preprocessing.unit, types, stream(0, "choice weights"))
    network.finish(rows)
    return network


def describe_factors(factors: Factors) -> str:
    """Say what held-out rows have chosen."""
    dims = f"{len(factors.loadings)} latent dimensions"
    if factors.pooled_rows is None:
        return f"{dims}, each type's covariance shrunk to the pooled one by Ledoit-Wolf"
    return f"{dims}, the pooled covariance counts as {factors.pooled_rows:g} samples beside a type's own"


def train_generator(
    model: str, latent_dim: int | None, epochs: int, batch_size: int, tables: Tables, seed: int
) -> tuple[Generator, dict[str, Any]]:
    """Train a generator, with a line an epoch.

    Where no rows are held out for testing, the validation rows only find the number of steps, and the generator is
    trained again for so many on all rows.

    Returns the generator and its entry in the results.
    """
    types, unit, lowest = len(tables.types), tables.preprocessing.unit, tables.preprocessing.lowest

    def fit_start(rows: Rows) -> Factors:
        return start_factors(model, rows, tables.groups[: len(rows[1])], types, latent_dim)

    def start_training(factors: Factors, rows: Rows) -> Training:
        network = Autoencoder(model, factors, lowest, unit, types, stream(seed, "generator weights"))
        return Training(network, rows, batch_size, GENERATOR_RATE, stream(seed, "generator order"), tables.workers)

    start = time.perf_counter()
    say(f"\nTrain {MODEL_NAMES[model]}:")
    release, validated = not len(tables.test[1]), tables.training > len(tables.train[1])
    rows = tables.everything() if release and model == "gaussian" else tables.train
    factors = fit_start(rows)
    entry = {"model": model, "latent_dim": len(factors.loadings), "pooled_rows": factors.pooled_rows, "history": []}
    say(f"Factor model: {describe_factors(factors)}")
    if (small := tables.types[tables.counts() <= FEW_SAMPLES]).size:
        note(f"types with one or two training samples ({', '.join(small)}): they are given the spread of the others")
    if model == "gaussian":
        return Generator(model, factors, lowest), entry | {"seconds": time.perf_counter() - start}
    training, best_epoch = start_training(factors, rows), 0
    if validated:
        entry["history"], best_epoch = fit(training, epochs, tables.validation, keep_best=True)
        if training.model.variational and training.model.evaluate(*tables.validation)["kl"] < UNUSED_LATENT:
            note(f"the latent is unused (KL under {UNUSED_LATENT} nats): rows of a type differ by noise alone")
    else:
        say("Nothing to validate on: the factor model is taken as it is")
    best_epoch = int(tables.workers.agree(np.array([best_epoch]))[0])
    if release and validated:
        say(f"Fit and train again on all {tables.training} samples, for as many steps as {best_epoch} epochs had")
        rows, steps = tables.everything(), best_epoch * training.steps_per_epoch
        factors = fit_start(rows)
        entry |= {"latent_dim": len(factors.loadings), "pooled_rows": factors.pooled_rows}
        training = start_training(factors, rows)
        if steps:
            training.advance(steps)
    training.model.finish(rows)
    return training.model, entry | {"epoch": best_epoch, "seconds": time.perf_counter() - start}


def generate(
    synthesiser: Synthesiser, labels: np.ndarray, temperature: float, seed: int, real: Rows
) -> tuple[Rows, dict[str, float]]:
    """Draw synthetic rows for the experiment; return real rows and them, standardised, and the entry in the results."""
    say(f"\nGenerate {len(labels)} RNAseq samples:")
    start = time.perf_counter()
    rows = synthesiser.rows(labels, seed, "experiment", temperature, real)
    seconds = time.perf_counter() - start
    rate = len(labels) / seconds
    say(f"Done in {seconds:.3f} seconds ({rate:.1f} samples/s).")
    return rows, {"n": len(labels), "seconds": seconds, "samples_per_second": rate}


def score_predictions(predicted: np.ndarray, types: np.ndarray) -> dict[str, float]:
    """Return accuracy, balanced accuracy and macro F1 of predicted type indices, over the types that occur."""
    from sklearn.metrics import f1_score, recall_score

    over = {"labels": np.unique(types), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float((predicted == types).mean()),
        "balanced_accuracy": float(recall_score(types, predicted, **over)),
        "macro_f1": float(f1_score(types, predicted, **over)),
    }


def balanced_gains(predicted: np.ndarray, control: np.ndarray, types: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return what each group of test rows (groups,) adds to the gain in balanced accuracy, which is their mean."""
    counts, (names, group) = np.bincount(types), np.unique(groups, return_inverse=True)
    weight = len(names) / (np.count_nonzero(counts) * counts[types])
    return np.bincount(group, ((predicted == types).astype(float) - (control == types)) * weight)


def wording(order: Order, temperature: float) -> str:
    """Say which synthetic rows a choice adds."""
    if not (order.per_type or order.balance or order.n_samples):
        return "no synthetic samples"
    number = "samples as asked" if order.per_type or order.balance else f"{order.n_samples} samples"
    return f"{number} at temperature {temperature:g}"


def hottest_of_equals(
    choices: Sequence[tuple[Order, float]], predicted: np.ndarray, types: np.ndarray, groups: np.ndarray, best: int
) -> int:
    """Return the choice of highest temperature that is as good as the best within a standard error, rows alike.

    Few rows seldom tell temperatures apart, and where they can be told apart the higher one is mostly better
    (tests/benchmarks/generator.py). predicted is (choices, stops, rows).
    """
    hottest = best
    for other, (order, temperature) in enumerate(choices):
        if order != choices[best][0] or temperature <= choices[hottest][1]:
            continue
        pairs = zip(predicted[best], predicted[other], strict=True)
        shortfall = np.mean([balanced_gains(ours, theirs, types, groups) for ours, theirs in pairs], axis=0)
        if shortfall.mean() <= shortfall.std() / math.sqrt(len(shortfall)):
            hottest = other
    return hottest


def try_choices(
    model: str,
    latent_dim: int | None,
    choices: Sequence[tuple[Order, float]],
    tables: Tables,
    rows: Rows,
    fold: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Train a classifier with the synthetic rows of each choice for each inner fold of rows that is to be held out.

    Returns what it predicts of the held-out rows at each of CHOICE_STEPS (choices, steps, rows), and these rows.
    """
    held_out = [np.flatnonzero(fold == number) for number in range(folds_for(fold))]
    unit, weights = tables.preprocessing.unit, stream(seed, "choice weights")
    predicted: list[list[list[np.ndarray]]] = []
    training = None
    for number, held in enumerate(held_out):
        real, unseen = take_rows(rows, fold != number), rows[0][held]
        counts = np.bincount(real[1], minlength=len(tables.types))
        generator = start_generator(model, real, tables.groups[fold != number], tables, latent_dim)
        synthesiser = Synthesiser(generator, tables.preprocessing, tables.genes, tables.types, counts)
        predicted.append([])
        for order, temperature in choices:
            labels = order.labels(tables.types, counts, seed, "choice")
            labels = stream(seed, "choice labels").permutation(labels)[: CHOICE_STEPS[-1] * CLASSIFIER_BATCH]
            both = synthesiser.rows(labels, seed, "choice", temperature, real)
            batches = stream(seed, "choice order", number)
            if training is None:
                classifier = Classifier(len(tables.types), unit, weights)
                training = Training(classifier, both, CLASSIFIER_BATCH, CLASSIFIER_RATE, batches, tables.workers)
            else:
                training.restart(both, batches)
            del both  # training has them
            predicted[-1].append([])
            for step in CHOICE_STEPS:
                training.advance(step - training.steps)
                predicted[-1][-1].append(training.model.predict(unseen))
            training.release()
    return np.concatenate([np.array(part) for part in predicted], axis=2), np.concatenate(held_out)


def choose_augmentation(
    model: str, latent_dim: int | None, choices: Sequence[tuple[Order, float]], tables: Tables, seed: int
) -> tuple[Order, float, dict[str, Any]]:
    """Choose the (rows to add, temperature) that help the classifier most, by inner validation on the training rows.

    In each inner fold a generator's start is fitted to the other rows; for each choice a classifier is trained on these
    and the synthetic rows, for as many steps whatever the choice, and scored on the fold. The first of the best is
    taken, or the highest temperature that is not told from it.

    Returns the choice and its entry in the results.
    """
    began = time.perf_counter()
    rows = tables.everything()
    types = rows[1]
    fold = inner_folds(types, tables.groups, CHOICE_FOLDS, stream(seed, "choice folds"))
    if not folds_for(fold):
        note("one group of training samples cannot be divided: nothing is chosen by inner validation")
        return *choices[0], {"choices": [], "seconds": 0.0}
    predicted, scored = try_choices(model, latent_dim, choices, tables, rows, fold, seed)
    scores = [
        float(np.mean([score_predictions(run, types[scored])["balanced_accuracy"] for run in stops]))
        for stops in predicted
    ]
    best = hottest_of_equals(choices, predicted, types[scored], tables.groups[scored], int(np.argmax(scores)))
    best = int(tables.workers.agree(np.array([best]))[0])
    order, temperature = choices[best]
    found = [
        {"n_samples": order.n_samples, "temperature": temperature, "balanced_accuracy": score}
        for (order, temperature), score in zip(choices, scores, strict=True)
    ]
    pairs = zip(choices, scores, strict=True)
    others = "; ".join(f"{wording(*choice)}: {score:.4f}" for choice, score in pairs if choice != choices[best])
    say(
        f"Augmentation: {wording(order, temperature)}: balanced accuracy {scores[best]:.4f} on {len(scored)} held-out "
        f"training samples ({others})"
    )
    return order, temperature, {"choices": found, "chosen": best, "seconds": time.perf_counter() - began}


def compare_accuracy(real: float, same_steps: float, augmented: float) -> dict[str, float]:
    """Print what synthetic rows changed, then the control; return the results' entry."""
    change = f"{(augmented - real) / real:+.2%}" if real else "n/a"
    say(f"Test accuracy change: {change} ({real:.4f} -> {augmented:.4f})")
    points = 100 * (augmented - same_steps)
    say(f"Same training steps on real data alone: {same_steps:.4f} (synthetic data adds {points:+.2f} points)")
    return {"real": real, "same_steps": same_steps, "augmented": augmented}


def draw_peers(tables: Tables, labels: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and genes (rows, genes), of the given type indices, of what one would use instead of a generator.

    copies are training rows again; SMOTE lies between neighbours of a type (Chawla et al. 2002); gaussian is -m
    gaussian. SMOTE takes at most 5 neighbours, fewer where the smallest type has fewer, and copies types of one row.
    """
    from imblearn.over_sampling import SMOTE

    genes, types = tables.train
    counts = np.bincount(types, minlength=len(tables.types))
    rng = stream(seed, "peers")
    source = np.empty(len(labels), np.int64)
    for one_type in np.unique(labels):
        wanted = labels == one_type
        source[wanted] = rng.choice(np.flatnonzero(types == one_type), wanted.sum())
    yield "copies", genes[source]

    between = genes[source]
    several = counts > 1
    if several.sum() > 1:  # SMOTE wants two types
        wanted = np.bincount(labels, minlength=len(counts))
        neighbours = min(5, counts[several].min() - 1)
        smote = SMOTE(
            sampling_strategy={int(name): int(counts[name] + wanted[name]) for name in np.flatnonzero(several)},
            k_neighbors=int(neighbours),
            random_state=int(rng.integers(2**31)),
        )
        within = several[types]
        drawn, drawn_types = (part[within.sum() :] for part in smote.fit_resample(genes[within], types[within]))
        for one_type in np.flatnonzero(several):
            between[labels == one_type] = drawn[drawn_types == one_type]
    yield "SMOTE", between

    factors = fit_gaussians(tables.train, len(counts), None)
    generator = Generator("gaussian", factors, tables.preprocessing.lowest)
    synthesiser = Synthesiser(generator, tables.preprocessing, tables.genes, tables.types, counts)
    yield "gaussian", synthesiser.rows(labels, seed, "peers", 1.0)[0]


def interval(differences: np.ndarray) -> dict[str, Any]:
    """Return mean, 95% interval and two-sided p-value of paired differences, by Student's t.

    Differences that are all the same, but not 0, give neither.
    """
    from scipy.stats import ttest_1samp

    mean = float(np.mean(differences))
    if np.ptp(differences) < 1e-9:  # no spread, no test
        none = abs(mean) < 1e-9
        return {"mean": mean, "interval": [mean, mean] if none else None, "p_value": 1.0 if none else None}
    test = ttest_1samp(differences, 0)
    low, high = test.confidence_interval(0.95)
    return {"mean": mean, "interval": [float(low), float(high)], "p_value": float(test.pvalue)}


def in_points(gain: dict[str, Any]) -> str:
    """Format a gain and its interval in points."""
    ends = "({:+.2f}..{:+.2f})".format(*(100 * end for end in gain["interval"])) if gain["interval"] else "(no spread)"
    return f"{100 * gain['mean']:+.2f} {ends}"


def in_words(p_value: float | None) -> str:
    """Format a p-value."""
    return "" if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def summarise_ladder(repeats: Sequence[tuple[Rows, dict[str, np.ndarray]]]) -> list[dict[str, Any]]:
    """Print and return how classifiers compare that were trained on real rows alone and with each kind of extra rows.

    Each repeat holds the test rows' types and groups and, by name, what was predicted. Gains are in balanced accuracy
    over the same training steps on real rows, paired by repeat, or by group of test rows where there is one repeat.
    """
    over = f" over {len(repeats)} repeats" * (len(repeats) > 1)
    say(f"\nCompare{over} (gain in points of balanced accuracy over the same steps):")
    say(f"{'trained on':22s} {'accuracy':>8s} {'balanced':>8s} {'macro F1':>8s} {'gain (95% interval)':>22s} {'p':>6s}")
    ladder = []
    for name in repeats[0][1]:
        scores = [score_predictions(predicted[name], types) for (types, _), predicted in repeats]
        entry: dict[str, Any] = {"name": name}
        entry |= {measure: float(np.mean([score[measure] for score in scores])) for measure in scores[0]}
        gains = [balanced_gains(predicted[name], predicted[CONTROL], *test) for test, predicted in repeats]
        entry["gain"] = {"measure": "balanced_accuracy"} | interval(
            np.array([gain.mean() for gain in gains]) if len(gains) > 1 else gains[0]
        )
        figures = " ".join(f"{entry[measure]:8.4f}" for measure in ("accuracy", "balanced_accuracy", "macro_f1"))
        gain, chance = ("", "") if name == CONTROL else (in_points(entry["gain"]), in_words(entry["gain"]["p_value"]))
        say(f"{name:22s} {figures} {gain:>22s} {chance:>6s}".rstrip())
        ladder.append(entry)
    return ladder


def verdict(ladder: Sequence[dict[str, Any]], n_synthetic: int) -> str:
    """Say in words whether the last rung's synthetic rows helped, and whether a peer did as well."""
    ours, peers = ladder[-1], ladder[2:-1]
    gain, ends = 100 * ours["gain"]["mean"], ours["gain"]["interval"]
    low, high = (100 * end for end in ends) if ends else (-math.inf, math.inf)
    if not n_synthetic:
        return "No synthetic samples were added: inner validation found that they would not help."
    if low > 0:
        words = f"Synthetic data helped: {gain:+.2f} points over the same training steps on real data"
    elif high < 0:
        words = f"Synthetic data did harm: {gain:+.2f} points against the same training steps on real data"
    else:
        words = f"Synthetic data did not help here: {gain:+.2f} points cannot be told from chance"
    best = max(peers, key=lambda peer: peer["gain"]["mean"])
    if best["gain"]["mean"] >= ours["gain"]["mean"]:
        words += f"; {best['name']} did as well or better ({100 * best['gain']['mean']:+.2f})"
    return words + "."


def say_repeat(repeat: int, repeats: int, accuracy: dict[str, float]) -> None:
    """Print what one more repeat found, in a line."""
    points = 100 * (accuracy["augmented"] - accuracy["same_steps"])
    figures = (
        f"{accuracy['real']:.4f} -> {accuracy['augmented']:.4f}, same steps on real data {accuracy['same_steps']:.4f}"
    )
    say(f"Repeat {repeat + 1}/{repeats}: {figures} ({points:+.2f} points)")


def summarise_repeats(accuracies: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Print and return what repeats of the experiment found: accuracies, and the gain over the same steps."""
    gain = interval(np.array([accuracy["augmented"] - accuracy["same_steps"] for accuracy in accuracies]))
    chance = f", paired t-test p {in_words(gain['p_value'])}" if gain["p_value"] is not None else ""
    say(
        f"Over {len(accuracies)} repeats synthetic data adds {in_points(gain)} points of accuracy, 95% interval{chance}"
    )
    return {"n": len(accuracies), "accuracy": list(accuracies), "gain": {"measure": "accuracy", **gain}}


def accuracy_by_epoch(real: ClassifierRun, augmented: ClassifierRun) -> np.ndarray:
    """Return test accuracy (PLOT_EPOCHS, 3) by epoch: on real rows, as long on real rows, with synthetic rows.

    Both runs must have been made with the stops of all PLOT_EPOCHS, the real one with the augmented one's too.
    """
    epochs = range(1, PLOT_EPOCHS + 1)
    own, same = (steps_of(run.training.rows, epochs) for run in (real, augmented))
    steps = zip(own, same, strict=True)
    return np.array([[real.accuracy_at(a), real.accuracy_at(b), augmented.accuracy_at(b)] for a, b in steps])


def compare_epochs(repeats: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Print and return what accuracy_by_epoch found, the mean and, of several repeats, the ends of its 95% interval."""
    say("\nPlot test accuracy using models trained with and without synthetic data:")
    say("training time: before vs after")
    table = []
    for epoch, values in enumerate(np.array(repeats).transpose(1, 2, 0), 1):  # (epochs, curves, repeats)
        before, control, after = values.mean(1)
        row: dict[str, float] = {"epochs": epoch, "real": before, "same_steps": control, "augmented": after}
        for name, accuracies in zip(("real", "same_steps", "augmented"), values, strict=True):
            if len(repeats) > 1:
                row[f"{name}_low"], row[f"{name}_high"] = interval(accuracies)["interval"] or [accuracies[0]] * 2
        table.append(row)
        say(f"# epochs = {epoch}: {before:.4f} vs {after:.4f} (same steps on real data: {control:.4f})")
    return table


# ---- quality: do synthetic samples look and behave like real ones, and do they give anyone away? -----------------


class TooFewError(Exception):
    """There are too few samples or genes for a measure; says how many."""


Measure = dict[str, Any]  # value and reference, perhaps interval; or value None and why


@dataclass(frozen=True)
class Trial:
    """Real samples that a generator was trained on, others that it has not seen, and what it drew: standardised Rows.

    types (types,) are the names behind the indices, the groups (rows,) those of training and test samples, sd (genes,)
    what one standard deviation is in training units. records (all training samples, genes) and their groups, and
    released (rows, genes), are where copies are looked for: samples of types that do not occur on all sides, too.
    hidden says why it is not known which samples the generator was trained on, and is empty where it is.
    """

    types: np.ndarray
    train: Rows
    test: Rows
    synthetic: Rows
    train_groups: np.ndarray
    test_groups: np.ndarray
    sd: np.ndarray
    records: np.ndarray
    record_groups: np.ndarray
    released: np.ndarray
    hidden: str = ""

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Type indices of the rows trained on, of those to test on, and of those drawn."""
        return self.train[1], self.test[1], self.synthetic[1]

    def take(self, train: np.ndarray, test: np.ndarray, synthetic: np.ndarray) -> Trial:
        """Return the trial of the given rows (indices) of each kind."""
        return replace(
            self,
            train=take_rows(self.train, train),
            test=take_rows(self.test, test),
            synthetic=take_rows(self.synthetic, synthetic),
            train_groups=self.train_groups[train],
            test_groups=self.test_groups[test],
        )

    def thinned(self, rng: np.random.Generator) -> Trial:
        """Return the trial with at most REPORT_ROWS of each kind, types in proportion, all records; notes say so."""
        kept = [thin(labels, REPORT_ROWS, rng) for labels in self.labels]
        for kind, labels, index in zip(("training", "test", "synthetic"), self.labels, kept, strict=True):
            if len(index) < len(labels):
                note(f"the report is on {len(index)} of {len(labels)} {kind} samples, drawn at random")
        return replace(self.take(*kept), released=rng.permutation(self.released)[:REPORT_ROWS])

    def even(self, rng: np.random.Generator) -> Trial:
        """Return the trial with equally many rows of each kind and type: most measures depend on their number."""
        return self.take(*match_types(self.labels, rng))


def a_few(names: Iterable[str]) -> str:
    """List names, but not too many."""
    names = sorted(map(shorten, names))
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)


def keep_shared(real: Cohort, genes: np.ndarray, types: np.ndarray, source: str) -> Cohort:
    """Return the cohort with the genes and the types that synthetic samples from source have too; notes say what not.

    Raises
    ------
    RnagenError
        They have no gene, or fewer than two types, in common.
    """
    shared, known = np.isin(real.genes, genes), np.isin(real.types, types)
    if not shared.any():
        raise RnagenError(
            f"{source}: has no gene of {real.name} (genes like {genes[:1].tolist()} against "
            f"{real.genes[:1].tolist()}); make the names agree"
        )
    if len(set(real.types[known])) < 2:
        raise RnagenError(
            f"{source}: shares fewer than two types with {real.name} (it has {a_few(set(types))}, the other "
            f"{a_few(set(real.types))}); make the names agree, or add samples of more types"
        )
    if alone := set(real.genes[~shared]) | set(genes) - set(real.genes):
        note(f"the report leaves out genes that only one of {source} and {real.name} has: {a_few(alone)}")
    if alone := set(real.types[~known]) | set(types) - set(real.types):
        note(f"the report leaves out types that only one of {source} and {real.name} has: {a_few(alone)}")
    return replace(real.take(known), genes=real.genes[shared], expression=real.expression[np.ix_(known, shared)])


def put_on_trial(training: Cohort, testing: Cohort, synthetic: Cohort, transform: str, hidden: str) -> Trial:
    """Return the trial of a synthetic cohort, which has all genes of the real ones, on their types in common.

    Rows are standardised by training and test samples together: their own mean and variance would tell the training
    samples from others.

    Raises
    ------
    RnagenError
        Fewer than two types occur in all three; what Preprocessing.fit raises.
    """
    types = functools.reduce(np.intersect1d, (training.types, testing.types, synthetic.types))
    if len(types) < 2:
        raise RnagenError(
            f"{training.name}: {len(types)} types have training, test and synthetic samples, and two are needed; add "
            f"samples"
        )
    if lost := {*training.types, *testing.types} - set(types):
        note(f"types without training or test samples are looked at for copies only: {a_few(lost)}")
    place = {gene: number for number, gene in enumerate(synthetic.genes.tolist())}
    ordered = synthetic.expression[:, [place[gene] for gene in training.genes.tolist()]]
    preprocessing = Preprocessing.fit(np.concatenate([training.expression, testing.expression]), transform)
    if preprocessing.log2 and (negative := np.count_nonzero(ordered < 0)):
        note(f"{negative} negative values among the synthetic ones are taken as 0")
    parts = training, testing, replace(synthetic, expression=ordered, genes=training.genes)
    known = [np.isin(part.types, types) for part in parts]
    rows = [preprocessing.rows_of(part, types) for part in parts]
    return Trial(
        types,
        *(part if own.all() else take_rows(part, own) for part, own in zip(rows, known, strict=True)),
        training.groups[known[0]],
        testing.groups[known[1]],
        preprocessing.sd,
        rows[0][0],
        training.groups,
        rows[2][0],
        hidden,
    )


def thin(types: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most so many rows, types in proportion and none lost; return their indices."""
    place = rank_within_types(types, rng) / np.bincount(types)[types]  # in each type from 0 to under 1
    return np.sort(np.argsort(place, kind="stable")[:most])


def match_types(labels: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Choose from each set as many rows of every type as the set poorest in it has; return their indices."""
    size = 1 + max(own.max(initial=0) for own in labels)
    counts = np.min([np.bincount(own, minlength=size) for own in labels], axis=0)
    return [np.flatnonzero(rank_within_types(own, rng) < counts[own]) for own in labels]


def need(count: int, least: int, what: str) -> None:
    """Find out whether there are enough of something for a measure.

    Raises
    ------
    TooFewError
        There are not.
    """
    if count < least:
        raise TooFewError(f"{count} {what}, and {least} are needed")


def side_by_side(
    parts: dict[tuple[str, ...], Callable[[Any], Sequence[Any]]], synthetic: Any, real: Any
) -> dict[str, Measure]:
    """Take measures of what is synthetic and, for reference, of what is real; a part returns those it is named for.

    A measure is a number, or a number and the ends of its interval.
    """
    measures: dict[str, Measure] = {}
    for names, part in parts.items():
        try:
            values = part(synthetic)
        except TooFewError as why:
            measures |= unknown(names, str(why))
            continue
        try:
            references = [float(np.atleast_1d(one)[0]) for one in part(real)]
        except TooFewError:
            references = [None] * len(names)
        for name, value, reference in zip(names, values, references, strict=True):
            number, *ends = np.atleast_1d(value).tolist()
            measures[name] = {"value": number, "reference": reference} | ({"interval": ends} if ends else {})
    return measures


def unknown(names: Iterable[str], why: str) -> dict[str, Measure]:
    """Return measures that cannot be had."""
    return {name: {"value": None, "why": why} for name in names}


def auc_interval(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float, float]:
    """Return how often a positive score exceeds a negative one, and its 95% interval (DeLong et al. 1988)."""
    from scipy.stats import norm, rankdata

    rank = rankdata(np.concatenate([positive, negative]))
    under = (rank[: len(positive)] - rankdata(positive)) / len(negative)  # share of negatives under each positive
    over = 1 - (rank[len(positive) :] - rankdata(negative)) / len(positive)
    auc = float(under.mean())
    margin = norm.ppf(0.975) * math.sqrt(under.var(ddof=1) / len(under) + over.var(ddof=1) / len(over))
    return auc, max(auc - margin, 0.0), min(auc + margin, 1.0)


def concordance(some: np.ndarray, others: np.ndarray) -> float:
    """Return Lin's (1989) concordance correlation: 1 where all pairs are equal, less where one is shifted or scaled."""
    spread = some.var() + others.var() + (some.mean() - others.mean()) ** 2
    return 2 * float(((some - some.mean()) * (others - others.mean())).mean() / spread) if spread > 0 else 1.0


def gene_distances(rows: Rows, real: Rows) -> np.ndarray:
    """Return each gene's two-sample Kolmogorov-Smirnov distance (genes,), all at once: scipy takes 0.3 ms a gene."""
    found = []
    for start in range(0, rows[0].shape[1], 256):  # genes, to keep the memory down
        both = np.concatenate([rows[0][:, start : start + 256], real[0][:, start : start + 256]])
        order = np.argsort(both, axis=0)
        gap = np.cumsum(np.where(order < len(rows[1]), 1 / len(rows[1]), -1 / len(real[1])), axis=0)
        values = np.take_along_axis(both, order, 0)
        gap[:-1][values[:-1] == values[1:]] = 0  # distribution functions step where the last of equal values is
        found.append(np.abs(gap).max(0))
    return np.concatenate(found)


def type_moments(rows: Rows, types: int, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (types, genes), standardised, and log variances within types (genes,), in training units.

    Standardised variances would agree with those of whatever they are standardised by.
    """
    means, counts, (residuals, _) = within_types(rows, types)
    need(counts.max(), 2, "samples of any type")
    return means, np.log(np.square(residuals).mean(0) + LEAST_VARIANCE) + 2 * np.log(sd)


def type_agreement(rows: Rows, real: Rows, types: int, sd: np.ndarray) -> tuple[float, ...]:
    """Return the concordance of the means of each gene in each type, and of genes' log variances within types."""
    pairs = zip(type_moments(rows, types, sd), type_moments(real, types, sd), strict=True)
    return tuple(itertools.starmap(concordance, pairs))


def correlations(genes: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of genes (pairs,), of a random REPORT_GENES where there are more."""
    columns = np.sort(stream(0, "report genes").permutation(genes.shape[1])[:REPORT_GENES])
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.corrcoef(genes[:, columns].T))
    return np.nan_to_num(matrix[np.triu_indices(len(columns), 1)])  # 0 with what does not vary


def correlation_agreement(rows: Rows, real: Rows) -> float:
    """Return how genes' correlations agree with those of real rows: the correlation of the two, over pairs of genes."""
    need(real[0].shape[1], 3, "genes")
    some, others = correlations(rows[0]), correlations(real[0])
    return float(np.corrcoef(some, others)[0, 1]) if min(np.ptp(some), np.ptp(others)) > 0 else 0.0


def mmd(rows: Rows, real: Rows, width: float) -> float:
    """Return the unbiased squared maximum mean discrepancy, kernel exp(-distance^2 / width) (Gretton et al. 2012)."""
    from sklearn.metrics import pairwise_distances_chunked

    def kernel(some: np.ndarray, others: np.ndarray | None = None) -> float:
        return sum(float(np.exp(-np.square(part) / width).sum()) for part in pairwise_distances_chunked(some, others))

    own, theirs = ((kernel(part) - len(part)) / (len(part) * (len(part) - 1)) for part in (rows[0], real[0]))
    return own + theirs - 2 * kernel(rows[0], real[0]) / (len(rows[0]) * len(real[0]))


def halve(types: np.ndarray, drawn: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Deal rows into halves 0 and 1, whole groups and as many drawn as real rows of each type in each; -1 is left over.

    With equal totals alone, what is rare in one half would be common in the other, and a classifier trained on the one
    be worse than chance on the other.
    """
    rng = stream(0, "report halves")
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    side = (rank_within_types(2 * types[first] + drawn[first], rng) % 2)[group]
    half = np.full(len(types), -1)
    for number in (0, 1):
        kinds = [np.flatnonzero((side == number) & (drawn == kind)) for kind in (0, 1)]
        for own, chosen in zip(kinds, match_types([types[own] for own in kinds], rng), strict=True):
            half[own[chosen]] = number
    return half


def two_sample_auc(rows: Rows, real: Rows, groups: np.ndarray) -> tuple[float, float, float]:
    """Return how well a classifier tells rows from as many real ones of each type, with its interval.

    Gradient boosting on 50 principal components, trained on one half and scored on the other, and the other way round
    (Lopez-Paz and Oquab 2017). groups (rows and real,) are not torn apart.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from threadpoolctl import threadpool_limits

    (genes, types), drawn = joined(rows, real), np.repeat([1, 0], [len(rows[1]), len(real[1])])
    half = halve(types, drawn, groups)
    genes, drawn, half = genes[half >= 0], drawn[half >= 0], half[half >= 0]
    need(np.count_nonzero(drawn), FEWEST_TO_TELL, "samples of each kind")
    need(len(np.unique(half)), 2, "halves of the groups")
    components = PCA(min(COMPONENTS, *genes.shape), iterated_power=2, random_state=0).fit_transform(genes)
    forest = HistGradientBoostingClassifier(max_iter=80, random_state=0)
    with threadpool_limits(None if len(drawn) > ROW_GROUP else 1):  # on few rows threads wait more than they work
        halves = PredefinedSplit(half)
        score = cross_val_predict(forest, components, drawn, cv=halves, method="predict_proba")[:, 1]
    return auc_interval(score[drawn == 1], score[drawn == 0])


def manifold_measures(rows: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    """Return precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Around each row lies a ball that reaches to its fifth neighbour of its own kind. Precision is the share of rows in
    any real ball, density how many they lie in, over five; recall is the share of real rows in any ball of rows,
    coverage that of real balls with a row in them. rows and real are (rows, components).
    """
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute")
    reach, real_reach = (search.fit(part).kneighbors()[0][:, -1] for part in (rows, real))
    balls: list[int] = []  # real ones that each row lies in
    recalled, covered = np.zeros((2, len(real)), bool)
    for distances in pairwise_distances_chunked(rows, real):
        recalled |= (distances <= reach[len(balls) : len(balls) + len(distances), None]).any(0)
        inside = distances <= real_reach
        covered |= inside.any(0)
        balls.extend(inside.sum(1))
    return np.count_nonzero(balls) / len(balls), recalled.mean(), np.mean(balls) / NEIGHBOURS, covered.mean()


def looks_real(even: Trial) -> dict[str, Measure]:
    """Compare synthetic rows with test rows, and for reference training rows with test rows, as many of each type."""
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA

    real, types = even.test, len(even.types)
    if len(real[1]) < FEWEST:
        return unknown(MEASURES["looks_real"], f"{len(real[1])} samples of each kind, and {FEWEST} are needed")
    distances = {"train": gene_distances(even.train, real), "synthetic": gene_distances(even.synthetic, real)}
    limit = np.quantile(distances["train"], 0.95)
    some = stream(0, "report width").permutation(len(real[1]))[:BLOCK]
    width = np.median(cdist(even.train[0][some], real[0][some], "sqeuclidean"))
    every = np.concatenate([even.train[0], real[0], even.synthetic[0]])  # what is not in the plane would shrink into it
    plane = PCA(min(COMPONENTS, *every.shape), iterated_power=2, random_state=0).fit(every)
    real_places = plane.transform(real[0])

    def told_apart(rows: Rows) -> tuple[float, float, float]:
        groups = even.train_groups if rows is even.train else np.arange(len(rows[1])).astype(str)
        _, number = np.unique(
            np.concatenate([np.char.add("a", groups), np.char.add("b", even.test_groups)]), return_inverse=True
        )
        return two_sample_auc(rows, real, number)

    marginals = {("ks_median", "ks_share_beyond"): lambda distance: [np.median(distance), np.mean(distance > limit)]}
    parts = {
        ("mean_agreement", "variance_agreement"): lambda rows: type_agreement(rows, real, types, even.sd),
        ("correlation_agreement",): lambda rows: [correlation_agreement(rows, real)],
        ("mmd",): lambda rows: [mmd(rows, real, width)],
        ("two_sample_auc",): lambda rows: [told_apart(rows)],
        ("precision", "recall", "density", "coverage"): lambda rows: manifold_measures(
            plane.transform(rows[0]), real_places
        ),
    }
    return side_by_side(marginals, distances["synthetic"], distances["train"]) | side_by_side(
        parts, even.synthetic, even.train
    )


def predict_types(rows: Rows, genes: np.ndarray) -> np.ndarray:
    """Train a logistic regression on rows; return the type indices it gives to other genes (others, genes)."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that run out: it is good enough by then
        return LogisticRegression(C=0.01, max_iter=300).fit(*rows).predict(genes)


def contrasts(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Contrast each type with all the others: return Welch's t and the difference of means, both (types, genes)."""
    from scipy.stats import ttest_ind_from_stats

    genes, member = rows[0].astype(np.float64), np.eye(rows[1].max() + 1)[rows[1]].T  # (types, rows)
    sides: list[np.ndarray] = []
    for weight in (member, 1 - member):
        count = weight.sum(1)[:, None]
        mean = weight @ genes / count
        variance = np.maximum(weight @ np.square(genes) / count - np.square(mean), 0) * count / (count - 1)
        sides += [mean, np.sqrt(variance + LEAST_VARIANCE), count]
    return ttest_ind_from_stats(*sides, equal_var=False).statistic, sides[0] - sides[3]


def top_overlap(some: np.ndarray, others: np.ndarray, top: int) -> float:
    """Return the share that two statistics (types, genes) have in common of each type's so many extreme genes."""
    need(some.shape[1], top + 1, "genes")
    first, second = (np.argsort(-np.abs(part), axis=1)[:, :top] for part in (some, others))
    return float(np.mean([len(np.intersect1d(*pair)) / top for pair in zip(first, second, strict=True)]))


def mean_correlation(some: np.ndarray, others: np.ndarray) -> float:
    """Return the mean over types of the correlation over genes of two statistics (types, genes)."""
    need(some.shape[1], 3, "genes")
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [np.corrcoef(*pair)[0, 1] for pair in zip(some, others, strict=True)]
    return float(np.mean(np.nan_to_num(found)))


def recognition(trial: Trial, predicted: dict[str, np.ndarray]) -> dict[str, Measure]:
    """Score the types that classifiers trained on synthetic and on training rows give the test rows.

    The interval is that of the difference from the reference, paired by groups of test rows.
    """
    names, types = ("tstr_accuracy", "tstr_balanced_accuracy", "tstr_macro_f1"), trial.test[1]
    scores = {names: lambda labels: list(score_predictions(labels, types).values())}
    measures = side_by_side(scores, predicted["synthetic"], predicted["train"])
    gains = balanced_gains(predicted["synthetic"], predicted["train"], types, trial.test_groups)
    ends, balanced = interval(gains)["interval"] or 2 * [gains.mean()], measures["tstr_balanced_accuracy"]
    balanced["interval"] = [balanced["reference"] + end for end in ends]
    return measures


def behaves_real(trial: Trial, even: Trial, predicted: dict[str, np.ndarray]) -> dict[str, Measure]:
    """Compare what is learned from synthetic rows with what is learned from training rows.

    predicted holds what classifiers trained on either say of the test rows. The genes that set a type apart are
    compared with those in test rows, as many of each type.
    """
    from scipy.stats import rankdata

    several = np.flatnonzero(np.bincount(even.test[1]) > FEW_SAMPLES)
    measures = recognition(trial, predicted)
    if len(several) < 2:
        why = f"{len(several)} types with more than {FEW_SAMPLES} samples of each kind, and 2 are needed"
        return measures | unknown([name for name in MEASURES["behaves_real"] if name not in measures], why)
    kinds = (take_rows(rows, np.isin(rows[1], several)) for rows in (even.synthetic, even.train, even.test))
    ours, reference, (real_t, real_change) = (
        contrasts((genes, np.searchsorted(several, label))) for genes, label in kinds
    )
    ranks = rankdata(real_t, axis=1)
    expressed = {
        ("de_overlap_50",): lambda own: [top_overlap(own[0], real_t, 50)],
        ("de_overlap_100",): lambda own: [top_overlap(own[0], real_t, 100)],
        ("de_rank_correlation",): lambda own: [mean_correlation(rankdata(own[0], axis=1), ranks)],
        ("log_fold_change_correlation",): lambda own: [mean_correlation(own[1] * even.sd, real_change * even.sd)],
    }
    return measures | side_by_side(expressed, ours, reference)


@dataclass(frozen=True)
class Attack:
    """Guesses at who was in the training data: a score for each row (rows,), higher for those guessed to be members.

    member (rows,) says who was; types (rows,) are type indices, of which there are as many members as others.
    """

    scores: np.ndarray
    member: np.ndarray
    types: np.ndarray

    def auc(self, one_type: int | None = None) -> tuple[float, float, float]:
        """Return the attack's AUC with its interval, over all rows or over those of a type."""
        own = np.full(len(self.types), True) if one_type is None else self.types == one_type
        fewest = FEWEST if one_type is None else FEWEST_OF_A_TYPE
        need(np.count_nonzero(own & self.member), fewest, "training and as many other samples to guess at")
        return auc_interval(self.scores[own & self.member], self.scores[own & ~self.member])


def near(genes: np.ndarray, cloud: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far from a cloud each row (rows,) is, to its nearest, and the logarithm of the cloud's density there.

    The density is that of a Gaussian kernel with that standard deviation, less a constant.
    """
    from scipy.special import logsumexp
    from sklearn.metrics import pairwise_distances_chunked

    parts = [
        (distance.min(1), logsumexp(-np.square(distance / width) / 2, axis=1))
        for distance in pairwise_distances_chunked(genes, cloud)
    ]
    nearest, density = (np.concatenate(part) for part in zip(*parts, strict=True))
    return nearest, density - math.log(len(cloud))


def make_attacks(trial: Trial, cloud: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> dict[str, Attack]:
    """Guess from a cloud of released rows (released, genes) which rows were in the training data.

    others (indices) are the test rows that may be mistaken for members. One attack guesses at the rows nearest to a
    released one; the other, DOMIAS, at those where the released rows are densest beside the density of the population,
    which half of the others stand for (van Breugel et al. 2023). The kernel's width is a quarter of the median distance
    between neighbours in the population: of kernels in all genes and in principal components this one found most
    members in two cohorts. Of each group one row is guessed at, since intervals take rows to be independent.
    """
    from sklearn.neighbors import NearestNeighbors

    members = np.unique(trial.train_groups, return_index=True)[1]
    others = others[np.unique(trial.test_groups[others], return_index=True)[1]]
    population = hold_out(trial.test[1][others], trial.test_groups[others], 0.5, 1, rng)
    known, outsiders, width = trial.test[0][others[population]], others[~population], 1.0
    if len(known) > 1:
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known)
        width = max(KERNEL_WIDTH * float(np.median(search.kneighbors()[0])), 1e-6)
    else:
        outsiders = outsiders[:0]  # since nobody stands for the population

    def guess(outside: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> Attack:
        inside, chosen = match_types((trial.train[1][members], trial.test[1][outside]), rng)
        kinds = take_rows(trial.train, members[inside]), take_rows(trial.test, outside[chosen])
        genes, types = joined(*kinds)
        member = np.arange(len(types)) < len(inside)
        return Attack(score(genes) if len(types) else np.zeros(0), member, types)

    return {
        "attack_auc": guess(others, lambda genes: -near(genes, cloud, width)[0]),
        "density_ratio_attack_auc": guess(
            outsiders, lambda genes: near(genes, cloud, width)[1] - near(genes, known, width)[1]
        ),
    }


def closest_records(genes: np.ndarray, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of rows (rows, genes) to the closest training row, and to the closest of another group.

    Distances are root mean squares over genes. Of a group at most NEIGHBOURS rows are passed over.
    """
    from sklearn.neighbors import NearestNeighbors

    need(len(trial.records), 2, "training samples")
    number = min(NEIGHBOURS + 1, len(trial.records))
    search = NearestNeighbors(n_neighbors=number, algorithm="brute").fit(trial.records)
    distance, index = search.kneighbors(genes)
    groups = trial.record_groups[index]
    other = groups != groups[:, :1]
    other[:, -1] = True
    second = np.take_along_axis(distance, other.argmax(1)[:, None], 1)[:, 0]
    return distance[:, 0] / math.sqrt(genes.shape[1]), second / math.sqrt(genes.shape[1])


def copies_of_training(genes: np.ndarray, trial: Trial) -> tuple[float, float]:
    """Return the shares of rows that are copies of a training row, and near copies: twice as close as to any other."""
    first, second = closest_records(genes, trial)
    copies = first <= COPY_DISTANCE
    return np.mean(copies), np.mean(copies | (first < second / 2))


@dataclass(frozen=True)
class Evidence:
    """What the measures of a trial rest on, each made once.

    even is the trial with equally many rows of each kind and type; predicted holds the type indices (test rows,) that
    classifiers give the test rows, trained on synthetic and on as many training rows of each type; attacks are those by
    synthetic rows and, for reference, by test rows, both empty where the training samples are not known.
    """

    even: Trial
    predicted: dict[str, np.ndarray]
    attacks: dict[str, Attack]
    reference: dict[str, Attack]

    @classmethod
    def gather(cls, trial: Trial, seed: int) -> Evidence:
        """Train the classifiers and make the attacks."""
        rng = stream(seed, "report")
        alike = match_types((trial.train[1], trial.synthetic[1]), rng)
        pair = zip(("train", "synthetic"), (trial.train, trial.synthetic), alike, strict=True)
        predicted = {kind: predict_types(take_rows(rows, index), trial.test[0]) for kind, rows, index in pair}
        attacks, reference = {}, {}
        if not trial.hidden:
            every = np.arange(len(trial.test[1]))
            released = hold_out(trial.test[1], trial.test_groups, 0.5, 1, rng)
            attacks = make_attacks(trial, trial.synthetic[0], every, rng)
            if released.any():
                reference = make_attacks(trial, trial.test[0][released], every[~released], rng)
        return cls(trial.even(rng), predicted, attacks, reference)


def guess_members(attacks: dict[str, Attack], name: str, one_type: int | None = None) -> list[Any]:
    """Return the AUC of that attack, with its interval."""
    need(len(attacks), 1, "test samples to release")
    return [attacks[name].auc(one_type)]


def is_private(trial: Trial, evidence: Evidence, rng: np.random.Generator) -> dict[str, Measure]:
    """Look for training rows that synthetic rows give away; for reference, that test rows would."""
    if trial.hidden:
        return unknown(MEASURES["is_private"], trial.hidden)
    attacks = {(name,): functools.partial(guess_members, name=name) for name in ATTACKS}
    alike = match_types((trial.synthetic[1], trial.test[1]), rng)
    drawn, held_out = (take_rows(part, own)[0] for part, own in zip((trial.synthetic, trial.test), alike, strict=True))
    copies = {("copies", "near_copies"): lambda genes: copies_of_training(genes, trial)}
    closest = {("closest_record_median",): lambda genes: [np.median(closest_records(genes, trial)[0])]}
    return (
        side_by_side(attacks, evidence.attacks, evidence.reference)
        | side_by_side(copies, trial.released, trial.test[0])
        | side_by_side(closest, drawn, held_out)
    )


def type_measures(number: int, trial: Trial, evidence: Evidence) -> dict[str, Measure]:
    """Return how real the rows of a type look, how well it is recognised, and how well its members are guessed."""
    even, own = evidence.even, trial.test[1] == number
    real = take_rows(even.test, even.test[1] == number)

    def distance(rows: Rows) -> list[float]:
        need(len(real[1]), FEWEST_OF_A_TYPE, "samples of each kind")
        return [float(np.median(gene_distances(take_rows(rows, rows[1] == number), real)))]

    measures = side_by_side({("ks_median",): distance}, even.synthetic, even.train)
    recall = {("tstr_recall",): lambda predicted: [np.mean(predicted[own] == number)]}
    measures |= side_by_side(recall, evidence.predicted["synthetic"], evidence.predicted["train"])
    if trial.hidden:
        return measures | unknown(["attack_auc"], trial.hidden)
    guess = {("attack_auc",): lambda attacks: guess_members(attacks, "attack_auc", number)}
    return measures | side_by_side(guess, evidence.attacks, evidence.reference)


def shortfall(measures: dict[str, Any]) -> float:
    """Return how far the worst of a type's measures falls behind its reference, an attack as far as is certain."""
    behind = {
        "ks_median": lambda measure: measure["value"] - measure["reference"],
        "tstr_recall": lambda measure: measure["reference"] - measure["value"],
        "attack_auc": lambda measure: measure["interval"][0] - 0.5,
    }
    return max(of(measures[name]) for name, of in behind.items() if measures[name]["value"] is not None)


def by_type(trial: Trial, evidence: Evidence) -> list[dict[str, Any]]:
    """Return the number of samples and three measures of each type, worst type first."""
    counts = [np.bincount(labels, minlength=len(trial.types)).tolist() for labels in trial.labels]
    entries = []
    for number, name in enumerate(trial.types.tolist()):
        numbers = dict(zip(("training", "test", "synthetic"), (own[number] for own in counts), strict=True))
        entries.append({"type": name, **numbers, **type_measures(number, trial, evidence)})
    return sorted(entries, key=shortfall, reverse=True)


def verdict_on(question: str, measures: dict[str, Measure], hidden: str) -> dict[str, Any]:
    """Answer a question in words by the limits of its measures; ok is None where it cannot be answered.

    What has an interval breaks its limit only if the interval is clear of what chance gives, and keeps it only if the
    interval does not reach far beyond it. hidden says why the training samples are not known.
    """
    met, unmet, unclear = [], [], []
    for name, (side, number, share) in LIMITS[question].items():
        measure, label = measures[name], MEASURES[question][name]
        value, reference = measure["value"], measure.get("reference")
        if value is None or (reference is None and share):
            unclear.append(measure.get("why", f"{label}: too few samples for a reference"))
            continue
        bound = number + share * (reference or 0)
        sign = 1 if side == "most" else -1  # what is asked to be high is looked at upside down
        near_end, far_end = measure.get("interval", (value, value))[::sign]
        chance = 0.5 if "auc" in name else reference if "interval" in measure else bound
        words = f"{label} {value:.4f} (at {side} {bound:.4f})"
        if sign * value > sign * bound:
            (unmet if sign * (near_end - chance) > 0 else unclear).append(words)
        elif sign * (far_end - bound) > UNCLEAR:
            unclear.append(f"{label} {value:.4f}, but perhaps {far_end:.4f}")
        elif name in ATTACKS and far_end < 0.5 - UNCLEAR:
            unclear.append(f"{label} {value:.4f}: others look more like members; are the training samples right?")
        else:
            met.append(words)
    if unmet:
        return {"ok": False, "words": "no: " + "; ".join(unmet)}
    if unclear:
        return {"ok": None, "words": "cannot be told: " + "; ".join(dict.fromkeys(unclear))}
    unseen = "; it may have been trained on the test samples, since its training samples are not known" * bool(hidden)
    return {"ok": True, "words": "yes: " + "; ".join(met) + unseen}


def judge(trial: Trial, seed: int) -> tuple[dict[str, Any], Evidence]:
    """Answer the three questions; return the report, less its manifest, and what it rests on."""
    evidence = Evidence.gather(trial, seed)
    report: dict[str, Any] = {
        "looks_real": looks_real(evidence.even),
        "behaves_real": behaves_real(trial, evidence.even, evidence.predicted),
        "is_private": is_private(trial, evidence, stream(seed, "report records")),
    }
    report["verdicts"] = {question: verdict_on(question, report[question], trial.hidden) for question in MEASURES}
    return report | {"by_type": by_type(trial, evidence)}, evidence


def cells(measure: Measure) -> str:
    """Format a measure: value, reference and, where it has one, interval."""
    if measure["value"] is None:
        return f"{'-':>9s} {'-':>9s}"
    figures = " ".join(
        f"{'-':>9s}" if measure[name] is None else f"{measure[name]:9.4f}" for name in ("value", "reference")
    )
    return figures + ("  {:.3f}..{:.3f}".format(*measure["interval"]) if "interval" in measure else "")


def say_report(report: dict[str, Any], trial: Trial, origin: str) -> None:
    """Print a report: every measure beside its reference, the worst types, and the verdicts.

    origin says where the synthetic samples are from.
    """
    train, test, synthetic = (len(labels) for labels in trial.labels)
    say(f"\nIs it real? Is it private? {synthetic} synthetic, {train} training and {test} test samples")
    say(f"(synthetic: {origin}; real: the same of real samples)")
    for question, labels in MEASURES.items():
        say(f"{QUESTIONS[question]:42s} {'synthetic':>9s} {'real':>9s}")
        reasons = dict.fromkeys(measure["why"] for measure in report[question].values() if measure["value"] is None)
        for name, label in labels.items():
            say(f"  {label:40s} {cells(report[question][name])}")
        for why in reasons:
            say(textwrap.fill(f"- {why}", 80, initial_indent="  ", subsequent_indent="    "))
    say(f"{'Worst types, synthetic/real':34s} {'KS distance':>13s} {'recall':>13s} {'attack AUC':>13s}")
    for entry in report["by_type"][:WORST_TYPES]:
        pairs = (entry[name] for name in ("ks_median", "tstr_recall", "attack_auc"))
        figures = (
            "/".join("-" if one.get(key) is None else f"{one[key]:.3f}" for key in ("value", "reference"))
            for one in pairs
        )
        say(f"  {shorten(entry['type'], 32):32s} " + " ".join(f"{figure:>13s}" for figure in figures))
    for question, verdict in report["verdicts"].items():
        words = f"{QUESTIONS[question]}: {verdict['words']}"
        say(textwrap.fill(words, 80, subsequent_indent="  ", break_on_hyphens=False))


# ---- files out: synthetic tables, models, figure and results ------------------------------------------------------


@contextlib.contextmanager
def text_writer(path: Path, name: str, synthesiser: Synthesiser, rows: int) -> Iterator[Callable]:
    """Write delimited text: floats as the shortest that reads back as the same float32, missing as nothing."""
    from pyarrow.csv import WriteOptions, write_csv

    separator = "," if name.endswith((".csv", ".csv.gz")) else "\t"
    quoted = any(set(name) & set('"\r\n,\t') for name in synthesiser.types)  # Arrow quotes every word or none
    options = WriteOptions(include_header=False, delimiter=separator, quoting_style="needed" if quoted else "none")
    with gzip.open(path, "wb", compresslevel=1) if name.endswith(".gz") else open(path, "wb") as file:
        header = io.StringIO()
        csv.writer(header, delimiter=separator, lineterminator="\n").writerow(["Sample", "type", *synthesiser.genes])
        file.write(header.getvalue().encode())
        yield lambda ids, types, block: write_csv(
            arrow_table(synthesiser, ids, types, np.ascontiguousarray(block.T)), file, options
        )


@contextlib.contextmanager
def parquet_writer(path: Path, name: str, synthesiser: Synthesiser, rows: int) -> Iterator[Callable]:
    """Write parquet, compressed by snappy; a row group is ROW_GROUP rows, each of which costs the footer."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    genes = synthesiser.genes.tolist()
    schema = pa.schema([("Sample", pa.string()), ("type", pa.string()), *((gene, pa.float32()) for gene in genes)])
    layout = {"compression": "snappy", "use_dictionary": ["type"]}
    with ParquetWriter(path, schema, write_statistics=False, **layout) as writer:
        columns = np.empty((len(genes), ROW_GROUP), np.float32)  # filled block by block: Arrow is slow on short columns
        names: list[tuple[np.ndarray, np.ndarray]] = []
        used = 0

        def flush() -> None:
            nonlocal used
            if used:
                ids, types = (np.concatenate(parts) for parts in zip(*names, strict=True))
                writer.write_table(arrow_table(synthesiser, ids, types, columns[:, :used]), row_group_size=ROW_GROUP)
            names.clear()
            used = 0

        def write(ids: np.ndarray, types: np.ndarray, block: np.ndarray) -> None:
            nonlocal used
            columns[:, used : used + len(block)] = block.T
            names.append((ids, types))
            used += len(block)
            if used + BLOCK > ROW_GROUP:
                flush()

        yield write
        flush()


@contextlib.contextmanager
def h5ad_writer(path: Path, name: str, synthesiser: Synthesiser, rows: int) -> Iterator[Callable]:
    """Write AnnData's layout on disk, X block after block."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    genes = len(synthesiser.genes)
    if hasattr(os, "posix_fallocate"):  # HDF5 can crash on a full disk: find out by other means
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, rows * (4 * genes + 64) + 2**20)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_dataset("X", (rows, genes), np.float32)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        write_elem(file, "var", pd.DataFrame(index=synthesiser.genes.astype(object)))
        names: list[str] = []
        labels: list[str] = []

        def write(ids: np.ndarray, types: np.ndarray, block: np.ndarray) -> None:
            matrix[len(names) : len(names) + len(block)] = block
            names.extend(ids)
            labels.extend(types)

        yield write
        kinds = pd.Categorical(np.array(labels, dtype=object), sorted(synthesiser.types.tolist()))
        write_elem(file, "obs", pd.DataFrame({"type": kinds}, index=pd.Index(names, dtype=object)))


WRITERS = {
    **dict.fromkeys((".tsv", ".csv", ".tsv.gz", ".csv.gz"), text_writer),
    ".parquet": parquet_writer,
    ".h5ad": h5ad_writer,
}


def sample_ids(start: int, end: int) -> np.ndarray:
    """Return the ids of the synthetic rows from start to before end."""
    return np.array([f"synthetic_{number:06d}" for number in range(start + 1, end + 1)], dtype=object)


def arrow_table(synthesiser: Synthesiser, ids: np.ndarray, types: np.ndarray, columns: np.ndarray) -> Any:
    """Return rows, given as columns (all genes, rows), as an Arrow table; what was never measured is missing."""
    import pyarrow as pa

    missing = np.isnan(synthesiser.preprocessing.constant) & ~synthesiser.preprocessing.kept
    genes = [pa.array(column, from_pandas=bool(gap)) for column, gap in zip(columns, missing, strict=True)]
    return pa.Table.from_arrays([pa.array(ids), pa.array(types), *genes], ["Sample", "type", *synthesiser.genes])


def check_genes(path: Path, genes: np.ndarray) -> None:
    """Find out whether a synthetic table with these genes would read back as one.

    Raises
    ------
    RnagenError
        A gene has the name of a column that is no gene, which only .h5ad keeps apart.
    """
    taken = sorted({"Sample", "Cancer_type_id", *ANNOTATION} & set(genes.tolist()))
    if taken and path.suffix != ".h5ad":
        raise RnagenError(f"--output {path}: a gene is named {taken[0]!r}, like a column that is none; write an .h5ad")


def write_samples(
    path: Path,
    synthesiser: Synthesiser,
    labels: np.ndarray,
    temperature: float,
    seed: int,
    shard: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Draw a synthetic sample for each type index and write it to path, block after block, whole or not at all.

    Of several shards only the one is drawn, with the ids and values that its rows have in the whole.

    Returns the entry in the results.
    """
    from tqdm import tqdm

    start = time.perf_counter()
    writer = next(writer for suffix, writer in WRITERS.items() if path.name.endswith(suffix))
    blocks = blocks_of(len(labels), *shard)
    first, last = (min(block * BLOCK, len(labels)) for block in (blocks.start, blocks.stop))
    with (
        replacing(path) as beside,
        writer(beside, path.name, synthesiser, last - first) as write,
        tqdm(total=last - first, unit="sample", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        done = first
        for block in synthesiser.draw(labels, seed, "output", temperature, blocks):
            end = done + len(block)
            write(sample_ids(done, end), synthesiser.types[labels[done:end]].astype(object), block)
            bar.update(len(block))
            done = end
    seconds = time.perf_counter() - start
    hot = f" at temperature {temperature:g}" * (temperature != 1)
    part = f" (part {shard[0]} of {shard[1]} of {len(labels)})" * (shard[1] > 1)
    say(
        f"\nWrote {last - first} synthetic samples{part} of {len(synthesiser.genes)} genes{hot} to {path} in "
        f"{seconds:.3f} seconds"
    )
    entry = {"path": str(path), "n": last - first, "temperature": temperature, "seconds": seconds}
    return entry | ({"shard": list(shard), "first": first + 1} if shard[1] > 1 else {})


def save_model(path: Path, synthesiser: Synthesiser) -> None:
    """Write a generator to path as plain tensors and JSON (safetensors), whole or not at all."""
    from safetensors.numpy import save

    model, fitted = synthesiser.model, synthesiser.preprocessing
    weights = model.copy_weights() if isinstance(model, Autoencoder) else []
    tensors = {f"weight_{number:02d}": weight for number, weight in enumerate(weights)}
    tensors |= {name: getattr(model, name) for name in MODEL_TENSORS}
    tensors |= dict(zip(MOMENT_TENSORS, model.moments, strict=True))
    tensors |= {name: getattr(fitted, name) for name in SCALE_TENSORS}
    tensors["constant"] = fitted.constant.astype(np.float32)
    tensors |= {"kept": fitted.kept.astype(np.uint8), "counts": synthesiser.counts.astype(np.int64)}
    settings = {
        "format": MODEL_FORMAT,
        "rnagen": __version__,
        "model": model.kind,
        "latent_dim": model.latent_dim,
        "recommended": synthesiser.recommended,
        "trained_on": synthesiser.trained_on,
        "genes": synthesiser.genes.tolist(),
        "types": synthesiser.types.tolist(),
        "log2": fitted.log2,
        "whole": fitted.whole,
        "floor": fitted.floor if math.isfinite(fitted.floor) else None,
    }
    with replacing(path) as beside:
        named = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        beside.write_bytes(save(named, {"rnagen": json.dumps(settings)}))
    note(
        f"{path} carries the mean, range and number of the training samples of each type; share it only where you "
        f"would share those"
    )


def load_model(path: Path) -> Synthesiser:
    """Read a generator that save_model wrote, believing nothing of what the file says.

    Raises
    ------
    RnagenError
        The file is missing, no model file, of a newer format, or its parts do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RnagenError(f"--load_model {path}: no such file")
    try:
        with safe_open(path, "numpy") as file:
            settings = json.loads((file.metadata() or {}).get("rnagen", "null"))
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if not isinstance(settings, dict):
            raise ValueError("it is not of rnagen")
        if settings["format"] != MODEL_FORMAT:
            raise ValueError(f"format {settings['format']!r}, and this rnagen {__version__} reads {MODEL_FORMAT}")
        return rebuild(settings, tensors)
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise RnagenError(
            f"--load_model {path}: cannot be used ({reason[:200]}); save it again with --save_model"
        ) from error


def check_settings(settings: dict[str, Any]) -> None:
    """Check that a model file's settings are of the right kind.

    Raises
    ------
    ValueError, TypeError, KeyError
        One is missing or is not.
    """
    for name in ("genes", "types"):
        if not isinstance(settings[name], list) or not all(isinstance(one, str) for one in settings[name]):
            raise ValueError(f"{name} is no list of names")
        if not settings[name] or len(set(settings[name])) < len(settings[name]):
            raise ValueError(f"{name} are missing or repeat")
        if "\0" in "".join(settings[name]).encode().decode():  # encode: half a surrogate pair is a ValueError
            raise ValueError(f"{name} hold a null character")
    latent_dim, floor = settings["latent_dim"], settings["floor"]
    if settings["model"] not in MODEL_NAMES or type(latent_dim) is not int or not 1 <= latent_dim <= LARGEST_LATENT:
        raise ValueError(f"model {settings['model']!r} with latent_dim {latent_dim!r}")
    if floor is not None and not (type(floor) in (int, float) and math.isfinite(floor)):
        raise ValueError(f"floor {floor!r}")
    if {type(settings["log2"]), type(settings["whole"])} != {bool}:
        raise ValueError("log2 or whole is neither true nor false")
    n_samples, heat = settings["recommended"]
    if not (n_samples is None or (type(n_samples) is int and 0 <= n_samples <= 10**9)) or not (
        heat is None or (type(heat) in (int, float) and TEMPERATURES[0] <= heat <= TEMPERATURES[1])
    ):
        raise ValueError(f"recommended {settings['recommended']!r}")
    if not re.fullmatch("([0-9a-f]{64})?", settings["trained_on"]):
        raise ValueError("trained_on is no fingerprint")


def rebuild(settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Synthesiser:
    """Make a generator of a model file's settings and tensors, checking every size before it is used.

    Raises
    ------
    ValueError, TypeError, KeyError
        Something is missing or does not fit.
    """

    def tensor(name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
        found = tensors[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"{name} is {found.dtype} {found.shape}, not {dtype} {shape}")
        if name != "constant" and not np.isfinite(found).all():
            raise ValueError(f"{name} has values that are no numbers")
        return found

    check_settings(settings)
    genes, types = np.array(settings["genes"]), np.array(settings["types"])
    kept = tensor("kept", genes.shape, "uint8").astype(bool)
    scales = {name: tensor(name, (kept.sum(),)) for name in SCALE_TENSORS}
    if min(scales["sd"].min(initial=1), scales["span"].min(initial=1)) <= 0:
        raise ValueError("sd or span is not above 0")
    preprocessing = Preprocessing(
        kept=kept,
        constant=tensor("constant", genes.shape),
        log2=settings["log2"],
        whole=settings["whole"],
        floor=-math.inf if settings["floor"] is None else float(settings["floor"]),
        **scales,
    )
    counts = tensor("counts", types.shape, "int64")
    if counts.min() < 0 or counts.max() > 10**9:
        raise ValueError("counts are no numbers of samples")
    model = rebuild_generator(settings["model"], settings["latent_dim"], preprocessing, len(types), tensor)
    chosen = tuple(settings["recommended"])
    return Synthesiser(model, preprocessing, genes, types, counts, chosen, settings["trained_on"])


def rebuild_generator(
    kind: str, latent_dim: int, preprocessing: Preprocessing, types: int, tensor: Callable[..., np.ndarray]
) -> Generator:
    """Make a generator of the tensors of a model file, which tensor(name, shape) returns once their size is checked."""
    genes = int(preprocessing.kept.sum())
    root = (types, latent_dim, latent_dim)
    shapes = ((types, genes), (latent_dim, genes), (genes,), root, (types,), (types, latent_dim))
    *parts, latent_mean = (tensor(name, shape) for name, shape in zip(MODEL_TENSORS, shapes, strict=True))
    factors = Factors(*parts, pooled_rows=None)
    if min(factors.noise.min(), factors.stretch.min(), tensor("drawn_sd", (types, genes)).min()) < LEAST_VARIANCE:
        raise ValueError("a spread is not above 0")
    if kind == "gaussian":
        model = Generator(kind, factors, preprocessing.lowest)
    else:
        load_tensorflow()
        model = Autoencoder(kind, factors, preprocessing.lowest, preprocessing.unit, types, stream(0, "unused"))
        shapes = [tuple(weight.shape) for weight in model.weights]
        model.assign_weights([tensor(f"weight_{number:02d}", shape) for number, shape in enumerate(shapes)])
    model.latent_mean = latent_mean
    model.moments = tuple(tensor(name, (types, genes)) for name in MOMENT_TENSORS)
    return model


def check_outputs(outputs: Sequence[tuple[str, Path]], inputs: Iterable[Path], kept: Iterable[Path]) -> None:
    """Find out before any training whether each (flag, path) can be written; those in kept must not exist yet.

    Raises
    ------
    RnagenError
        A folder is missing or cannot be written to; a path is a folder or device, an input, another output, or kept.
    """
    taken = {path.resolve(): "an input" for path in inputs}
    for flag, path in outputs:
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
        if path in kept and path.exists():
            raise RnagenError(f"{flag} {path}: exists; name another file, or replace it by --overwrite")


def plot_path(given: str, types: int, simulated: bool) -> Path:
    """Return where the figure goes: the published name in the given folder, or the given file, marked if simulated.

    Raises
    ------
    RnagenError
        What is given is neither a folder nor the name of a figure.
    """
    path = Path(given)
    if path.is_dir():
        path /= f"test-accuracy-comparison-{types}-types.png"
    elif path.suffix not in FIGURE_SUFFIXES:
        raise RnagenError(f"--plot {path}: is neither a folder nor a name ending in {' '.join(FIGURE_SUFFIXES)}")
    return path.with_name(f"{path.stem}-simulated{path.suffix}") if simulated else path


def write_plot(table: list[dict[str, float]], path: Path, title: str) -> Path:
    """Draw test accuracy against epochs to path, and write the numbers to a .csv beside it, whose path is returned."""
    from matplotlib.figure import Figure

    numbers = path.with_suffix(".csv")
    lines = {  # the published columns, and the control
        "augmented": ("trained w/ synthetic data", "#b2182b", "o-"),
        "same_steps": ("same steps w/o synthetic data", "#4d4d4d", "s--"),
        "real": ("trained w/o synthetic data", "#2166ac", "^:"),
    }
    figure = Figure(figsize=(7, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for key, (label, colour, style) in lines.items():
        epochs = [row["epochs"] for row in table]
        axes.plot(epochs, [row[key] for row in table], style, color=colour, label=label, ms=4)
        if f"{key}_low" in table[0]:
            ends = ([row[f"{key}_{end}"] for row in table] for end in ("low", "high"))
            axes.fill_between(epochs, *ends, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="Epochs (same steps: as many steps as with synthetic data)", ylabel="Test accuracy")
    axes.set_xlim(0.5, len(table) + 0.5)
    axes.set_title(title, parse_math=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as beside:
        figure.savefig(beside)
    with replacing(numbers) as beside, open(beside, "w", newline="") as file:
        writer = csv.writer(file)
        ends = sorted(set(table[0]) - lines.keys() - {"epochs"})
        writer.writerow(["Epochs", *(lines[key][0] for key in ("real", "augmented", "same_steps")), *ends])
        writer.writerows([row[key] for key in ("epochs", "real", "augmented", "same_steps", *ends)] for row in table)
    return numbers


def draw_plane(axes: Axes, even: Trial) -> None:
    """Draw test and synthetic rows in the plane of the test rows' first two principal components, by type."""
    from sklearn.decomposition import PCA

    need(len(even.test[1]), FEWEST, "samples of each kind")
    need(even.test[0].shape[1], 2, "genes")
    plane = PCA(2, random_state=0).fit(even.test[0])
    commonest = np.argsort(-np.bincount(even.test[1], minlength=len(even.types)), kind="stable")[: len(TYPE_COLOURS)]
    colours = np.full(len(even.types), OTHER_COLOUR, dtype=object)
    colours[commonest] = TYPE_COLOURS[: len(commonest)]
    for rows, marker, label in ((even.test, "o", "real"), (even.synthetic, "x", "synthetic")):
        shown = stream(0, "figure").permutation(len(rows[1]))[:FIGURE_ROWS]
        x, y = plane.transform(rows[0][shown]).T
        axes.scatter(x, y, 9, colours[rows[1][shown]], marker=marker, alpha=0.6, linewidths=0.7)
        axes.scatter([], [], 30, "black", marker=marker, label=label)
    for number in commonest:
        name = shorten(even.types[number]).replace("$", r"\$")
        name = " " * name.startswith("_") + name  # such a name would be hidden
        axes.scatter([], [], 30, colours[number], marker="s", label=name)
    if len(even.types) > len(commonest):
        axes.scatter([], [], 30, OTHER_COLOUR, marker="s", label="other types")
    axes.set(xlabel="first component", ylabel="second component")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handletextpad=0.1, borderpad=0)


def draw_pairs(axes: Axes, even: Trial, statistic: Callable[[Rows], np.ndarray], unit: str) -> None:
    """Draw a statistic of synthetic rows and, for reference, of training rows against that of test rows."""
    need(len(even.test[1]), FEWEST, "samples of each kind")
    real = statistic(even.test).ravel()
    need(len(real), 1, "pairs of genes")
    shown = stream(0, "figure").permutation(len(real))[:FIGURE_PAIRS]
    kinds = (even.synthetic, SYNTHETIC_COLOUR, 8, "synthetic"), (even.train, TRAINING_COLOUR, 2, "training")
    for rows, colour, size, label in kinds:
        axes.scatter(real[shown], statistic(rows).ravel()[shown], size, colour, alpha=0.6, linewidths=0, label=label)
    axes.axline((real[0], real[0]), slope=1, color="black", linewidth=0.8)
    unit = f" ({unit})" if unit else ""
    axes.set(xlabel=f"test samples{unit}", ylabel=f"synthetic, training samples{unit}")
    axes.legend(markerscale=3, handletextpad=0.1, borderpad=0.2)


def draw_scores(axes: Axes, measures: dict[str, Measure]) -> None:
    """Draw the table of how classifiers and contrasts learned from synthetic rows do on test rows."""
    names = ("tstr_accuracy", "tstr_balanced_accuracy", "tstr_macro_f1", "de_overlap_50", "log_fold_change_correlation")
    rows = ("accuracy", "balanced accuracy", "macro F1", "top 50 genes", "log-fold changes")
    known = ((measures[name]["value"], measures[name].get("reference")) for name in names)
    cells = [["-" if number is None else f"{number:.3f}" for number in pair] for pair in known]
    table = axes.table(cells, rowLabels=rows, colLabels=("synthetic", "real"), bbox=(0.52, 0.1, 0.85, 0.8))
    table.auto_set_font_size(False)
    table.set_fontsize(13)
    axes.set_axis_off()


def draw_attacks(axes: Axes, evidence: Evidence) -> None:
    """Draw how many members each attack finds against how many others it takes for members."""
    from sklearn.metrics import roc_curve

    need(len(evidence.attacks), 1, "training samples known")
    lines = {"attack_auc": ("nearest", "-"), "density_ratio_attack_auc": ("density ratio", "--")}
    for (name, (label, style)), colour in zip(lines.items(), (SYNTHETIC_COLOUR, TYPE_COLOURS[3]), strict=True):
        one = evidence.attacks[name]
        others, members, _ = roc_curve(one.member, one.scores)
        axes.plot(others, members, style, color=colour, label=f"{one.auc()[0]:.2f} {label}")
    axes.plot([0, 1], [0, 1], ":", color="black", linewidth=0.8, label="0.50 guessing")
    axes.set(xlabel="others taken for members", ylabel="members found", xlim=(0, 1), ylim=(0, 1))
    axes.legend(title="AUC", loc="lower right", borderpad=0.2, handlelength=1)


def draw_report(path: Path, report: dict[str, Any], evidence: Evidence, title: str) -> None:
    """Draw a report to path: groups, means, variances, correlations, scores and attacks, one panel each."""
    import matplotlib
    from matplotlib.figure import Figure

    even = evidence.even
    types = len(even.types)
    panels: dict[str, Callable[[Axes], None]] = {
        "Samples by type": lambda axes: draw_plane(axes, even),
        "Means of genes in types": lambda axes: draw_pairs(
            axes, even, lambda rows: type_moments(rows, types, even.sd)[0], "sd"
        ),
        "Variances of genes within types": lambda axes: draw_pairs(
            axes, even, lambda rows: type_moments(rows, types, even.sd)[1] / math.log(10), "log10"
        ),
        "Learned from synthetic or from real": lambda axes: draw_scores(axes, report["behaves_real"]),
        "Correlations of genes": lambda axes: draw_pairs(axes, even, lambda rows: correlations(rows[0]), ""),
        "Who was in the training data?": lambda axes: draw_attacks(axes, evidence),
    }
    answers = {True: "yes", False: "no", None: "cannot be told"}
    verdicts = (f"{QUESTIONS[name]}: {answers[verdict['ok']]}" for name, verdict in report["verdicts"].items())
    with matplotlib.rc_context({"font.size": 13, "axes.titlesize": 14}):
        figure = Figure(figsize=(14.5, 9), dpi=120, layout="constrained")
        figure.suptitle(title + "\n" + "   ".join(verdicts), fontsize=16, parse_math=False)
        grid = figure.subplots(2, 3, width_ratios=(1.25, 1, 1))
        for axes, (name, panel) in zip(grid.flat, panels.items(), strict=True):
            axes.set_title(name)
            try:
                panel(axes)
            except TooFewError as why:
                axes.text(0.5, 0.5, textwrap.fill(str(why), 30), ha="center", va="center")
                axes.set_axis_off()
        with replacing(path) as beside:
            figure.savefig(beside)


def describe(cohort: Cohort) -> dict[str, Any]:
    """Return the results' entry for the data."""
    return {
        "name": cohort.name,
        "simulated": cohort.simulated,
        "samples": len(cohort.samples),
        "genes": len(cohort.genes),
        "types": len(set(cohort.types)),
        "groups": len(set(cohort.groups)),
        "sha256": cohort.sha256(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("numpy", "tensorflow", "keras", "scikit-learn", "scipy", "imbalanced-learn")
    found = {name: metadata.version(name) for name in names}
    return {"rnagen": __version__, "python": platform.python_version(), **found}


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results to path, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(results, indent=2) + "\n")


# ---- command line ------------------------------------------------------------------------------------------------


ANY_FLAGS = {"results", "seed", "debug"}  # what goes with what, where not everything does
DRAW_FLAGS = {"load_model", "output", "n_samples", "per_type", "balance", "temperature", "shard", "overwrite"}
REAL_FLAGS = {"rnaseq", "types", "layer", "data", "transform", "group_regex", "test_fraction", "train_per_type"}
REPORT_FLAGS = REAL_FLAGS | {"report", "train_ids"}


class Parser(argparse.ArgumentParser):
    """Answers wrong usage in one line."""

    def error(self, message: str) -> Any:
        self.exit(2, f"rnagen: {message} (see --help)\n")


def whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Return a parser of whole numbers from least to most."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,12}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def fraction(text: str) -> float:
    """Parse a number of at least 0 and under 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and under 1")
    return value


def temperature(text: str) -> float | str:
    """Parse a temperature, or auto."""
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    least, most = TEMPERATURES
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number from {least} to {most}")
    return value


def samples_or_auto(text: str) -> int | str:
    """Parse a number of samples, or auto."""
    try:
        return text if text == "auto" else whole_number(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or auto") from error


def type_count(text: str) -> tuple[str, int]:
    """Parse TYPE=N, where the type may hold = too."""
    name, _, number = text.rpartition("=")
    if not name or not re.fullmatch(r"\d{1,9}", number):
        raise argparse.ArgumentTypeError(f"{text!r} is not TYPE=N with a whole number N")
    return name, int(number)


def shard(text: str) -> tuple[int, int]:
    """Parse I/K, the I-th of K parts."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/K with I from 1 to K")
    return part, parts


def file_ending_in(*suffixes: str) -> Callable[[str], Path]:
    """Return a parser of file names with one of these suffixes."""

    def parse(text: str) -> Path:
        if not text.endswith(suffixes):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' '.join(suffixes)}")
        return Path(text)

    return parse


def pattern(text: str) -> str:
    """Parse a regular expression with a capture group."""
    try:
        if not re.compile(text).groups:
            raise argparse.ArgumentTypeError(f"{text!r} has no capture group; put ( ) around what names the group")
    except (re.error, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from error
    return text


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--rnaseq",
        type=Path,
        metavar="FILE",
        help="expression table: samples in rows, a column a gene (default: see --data)",
    )
    group.add_argument(
        "--types",
        type=Path,
        metavar="FILE",
        help="type table: sample id, type, perhaps `group`; for .h5ad also a column of obs "
        "(default: the column `type` of --rnaseq)",
    )
    group.add_argument("--layer", metavar="NAME", help="matrix of an .h5ad file: a layer, or raw (default: X)")
    group.add_argument(
        "--data",
        choices=("auto", "candle", "simulated"),
        help="without --rnaseq: auto takes the CANDLE files from the cache or the network, else the simulated cohort "
        "(default: auto)",
    )
    group.add_argument(
        "-k",
        "--top_k_types",
        type=whole_number(2),
        metavar="N",
        help="number of most frequent types kept (default: 20, or all if fewer)",
    )
    group.add_argument(
        "--transform",
        choices=("auto", "none", "log2"),
        default="auto",
        help="train on log2(x + 1); auto does where values look like counts or TPM (default: auto)",
    )
    group.add_argument(
        "--group_regex",
        type=pattern,
        metavar="REGEX",
        help="its first capture group in a sample id names the patient or cell line "
        "(default: TCGA barcodes and CANDLE ids)",
    )
    group.add_argument(
        "--test_fraction",
        type=fraction,
        default=0.5,
        metavar="X",
        help="share of each type's groups held out for testing; 0 trains the generator on every sample and skips the "
        "experiment (default: 0.5)",
    )


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generator")
    group.add_argument("-m", "--model", choices=tuple(MODEL_NAMES), default="cvae", help="generator (default: cvae)")
    group.add_argument(
        "-d",
        "--latent_dim",
        type=whole_number(1, LARGEST_LATENT),
        metavar="N",
        help="latent dimensions (default: as many, up to 64, as make held-out training samples likeliest; 200 for "
        "gaussian)",
    )
    group.add_argument(
        "-e",
        "--epochs",
        type=whole_number(1),
        default=DEFAULT_EPOCHS,
        metavar="N",
        help="generator's passes over the training rows, of which the best is kept (default: 20)",
    )
    group.add_argument(
        "-b",
        "--batch_size",
        type=whole_number(1),
        default=128,
        metavar="N",
        help="generator's rows a training step (default: 128)",
    )
    group.add_argument(
        "-n",
        "--n_samples",
        type=samples_or_auto,
        metavar="N",
        help="synthetic samples, each of a random type; auto takes as many, none included, as help on inner folds of "
        "the training samples (default: 10000)",
    )
    group.add_argument(
        "--per_type",
        type=type_count,
        nargs="+",
        action="extend",
        metavar="TYPE=N",
        help="synthetic samples of each named type, instead of --n_samples (default: off)",
    )
    group.add_argument(
        "--balance",
        action="store_true",
        help="as many synthetic samples of each type as bring its training samples up to those of the commonest, "
        "instead of --n_samples (default: off)",
    )
    add_temperature_argument(group)


def add_temperature_argument(group: Any) -> None:
    group.add_argument(
        "--temperature",
        type=temperature,
        metavar="X",
        help="spread of synthetic samples around their type's mean, 1 is that of the real ones; auto takes what helps "
        "most on inner folds of the training samples (default: auto in the experiment, 1 in --output)",
    )


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--classifier_epochs",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="classifier's passes over its training rows (default: 2)",
    )
    group.add_argument(
        "--train_per_type",
        type=whole_number(1),
        metavar="N",
        help="at most N training samples of each type, to see where synthetic ones start to pay (default: all)",
    )
    group.add_argument(
        "--repeats",
        type=whole_number(1, 1000),
        default=1,
        metavar="R",
        help="repeat split and training with R seeds, from --seed on: mean, 95%% interval, paired test (default: 1)",
    )
    group.add_argument(
        "--compare",
        action="store_true",
        help="compare with copies, SMOTE and a Gaussian of each type at equal training steps (default: off)",
    )
    group.add_argument(
        "--plot",
        nargs="?",
        const=".",
        metavar="PATH",
        help="compare 1 to 20 classifier epochs in a table, a figure and a .csv at PATH, "
        "a folder or a .png, .pdf or .svg (default: off; without PATH the working directory)",
    )
    group.add_argument(
        "--results", type=Path, metavar="FILE.json", help="write everything found to this file (default: off)"
    )
    group.add_argument(
        "--seed", type=whole_number(0), default=2021, metavar="N", help="seed of everything random (default: 2021)"
    )


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="judge synthetic samples beside held-out ones: do they look and behave real, do they give anyone away; "
        "a table, and report.json and report.png in this folder (default: off)",
    )
    group.add_argument(
        "--report_only",
        type=Path,
        metavar="SYNTHETIC",
        help="judge this table, made by any tool, with a column `type`, against the data, and stop (default: off)",
    )
    group.add_argument(
        "--train_ids",
        type=Path,
        metavar="FILE",
        help="sample ids, one a line, that the generator of --report_only or --load_model was trained on (default: "
        "none for --report_only, the split by --seed for --load_model)",
    )


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files to keep")
    group.add_argument(
        "--output",
        type=file_ending_in(*WRITERS),
        metavar="FILE",
        help=f"write synthetic samples, drawn for the purpose, to a {' '.join(WRITERS)} (default: off)",
    )
    model_file = file_ending_in(".safetensors")
    group.add_argument(
        "--save_model", type=model_file, metavar="FILE", help="write the generator to a .safetensors (default: off)"
    )
    group.add_argument(
        "--load_model",
        type=model_file,
        metavar="FILE",
        help="draw --output from a saved generator, without data or training (default: off)",
    )
    group.add_argument(
        "--shard",
        type=shard,
        metavar="I/K",
        help="with --load_model, draw only the I-th of K parts of --output, for as many processes (default: all)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="let --output and --save_model replace a file (default: off)"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("rnagen.py", description=__doc__, formatter_class=layout, allow_abbrev=False, add_help=False)
    add_data_arguments(parser)
    add_generator_arguments(parser)
    add_experiment_arguments(parser)
    add_report_arguments(parser)
    add_file_arguments(parser)
    about = parser.add_argument_group("about")
    about.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    about.add_argument(
        "--version", action="version", version=f"rnagen {__version__}", help="print the version and stop"
    )
    about.add_argument("-h", "--help", action="help", help="print this and stop")
    return parser


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; wrong usage ends the program with status 2."""
    parser, probe = build_parser(), build_parser()
    args = parser.parse_args(argv)
    for action in probe._actions:
        action.default = argparse.SUPPRESS
    given = vars(probe.parse_args(argv))  # what the user gave, defaults given by hand included

    def refuse(names: Iterable[str], why: str) -> None:
        for name in names:
            if name in given:
                parser.error(f"argument --{name}: {why}")

    if args.rnaseq is None:
        refuse(["types"], "give its expression table by --rnaseq as well")
    else:
        refuse(["data"], "is for runs without --rnaseq; give one of the two")
    if args.rnaseq is None or args.rnaseq.suffix != ".h5ad":
        refuse(["layer"], "is for --rnaseq FILE.h5ad")
    if len({"n_samples", "per_type", "balance"} & given.keys()) > 1:
        refuse(["balance", "per_type"], "say how many samples in one way: --n_samples, --per_type or --balance")
    if args.per_type and len(dict(args.per_type)) < len(args.per_type):
        parser.error("argument --per_type: a type is named twice; name it once")
    if args.load_model:
        allowed = ANY_FLAGS | DRAW_FLAGS | (REPORT_FLAGS if args.report else set())
        refuse(sorted(given.keys() - allowed), "does not go with --load_model, whose file settles it")
        if not args.output:
            refuse(["n_samples", "per_type", "balance", "shard", "overwrite"], "is for --output, which is not given")
        if not args.output and not args.report:
            parser.error("argument --load_model: name the file for its samples by --output")
    elif args.report_only:
        allowed = ANY_FLAGS | REPORT_FLAGS | {"report_only", "top_k_types"}
        refuse(sorted(given.keys() - allowed), "does not go with --report_only, which trains and draws nothing")
    if args.train_ids:
        refuse(["test_fraction", "train_per_type"], "does not go with --train_ids, which splits the samples")
    if not args.load_model:
        refuse(["shard"], "is for --load_model: draw the parts from one saved generator")
    if not args.load_model and not args.report_only:
        refuse(["train_ids"], "is for --report_only and --load_model; a run knows whom it trains on")
    if args.model == "gaussian":
        refuse(["epochs", "batch_size"], "is for the autoencoders; a Gaussian is not trained in steps")
    if args.test_fraction == 0:
        refuse(
            ["plot", "classifier_epochs", "repeats", "compare", "report", "report_only"],
            "needs test samples; give a --test_fraction above 0",
        )
        if not args.output and not args.save_model:
            parser.error("argument --test_fraction 0: name what to keep by --output or --save_model")
    return args


def planned_outputs(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Return the (flag, path) of every file that the run may write."""
    flags = {"--results": args.results, "--output": args.output, "--save_model": args.save_model}
    outputs = [(flag, path) for flag, path in flags.items() if path]
    if args.report:
        outputs += [("--report", args.report / name) for name in REPORT_FILES]
    if args.plot is not None:
        figures = [plot_path(args.plot, args.top_k_types or DEFAULT_TYPES, simulated) for simulated in (False, True)]
        outputs += [("--plot", path.with_suffix(suffix)) for path in figures for suffix in (path.suffix, ".csv")]
    return outputs


def settle(args: argparse.Namespace, order: Order, tables: Tables, seed: int) -> tuple[Order, float, dict[str, Any]]:
    """Return which synthetic rows the classifier gets, at which temperature, and what the results say of the choice.

    Whatever the user has not set is chosen by inner validation, where there is something to choose.
    """
    orders = [order]
    if args.n_samples == "auto":
        fewer = [Order(tables.training)] if tables.training >= FEWEST_TO_MATCH else []
        orders = [*fewer, Order(DEFAULT_SAMPLES)]
    asked = args.temperature or (1.0 if args.test_fraction == 0 else "auto")
    temperatures = CHOICE_TEMPERATURES if asked == "auto" else (asked,)
    choices = list(itertools.product(orders, temperatures))
    if args.n_samples == "auto":
        choices.insert(0, (Order(0), 1.0))
    if len(choices) == 1 or not any(len(one.labels(tables.types, tables.counts(), seed, "choice")) for one in orders):
        return order, choices[0][1], {}
    return choose_augmentation(args.model, args.latent_dim, choices, tables, seed)


def experiment(
    args: argparse.Namespace,
    tables: Tables,
    train: Callable[[], Synthesiser],
    labels: np.ndarray,
    temperature: float,
    seed: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray | None]:
    """Train a classifier without, a generator, and a classifier with synthetic rows of these types; compare them.

    Returns the results' entries, the predicted types of the test rows by kind of training, and accuracy by epoch.
    """
    epochs = {args.classifier_epochs, *(range(1, PLOT_EPOCHS + 1) if args.plot is not None else ())}
    real_rows = len(tables.train[1])
    control_steps = steps_of(real_rows + len(labels), epochs)
    real = ClassifierRun(tables.train, tables, [*steps_of(real_rows, epochs), *control_steps], seed)
    before = real.train(args.classifier_epochs, "Train a type classifier:", "Evaluate on test data:")
    predicted = {"real": real.predict()}

    rows, sampled = generate(train(), labels, temperature, seed, tables.train)

    augmented = ClassifierRun(rows, tables, control_steps, seed)
    del rows  # the run has them
    total = f"{tables.training} + {len(labels)} = {tables.training + len(labels)} samples"
    title = f"Train a type classifier with synthetic data:\n{total}"
    after = augmented.train(args.classifier_epochs, title, "Evaluate again on original test data:")
    steps = augmented.training.steps
    control = real.accuracy_at(steps)
    predicted[CONTROL] = real.predict()
    if args.compare:
        for name, genes in draw_peers(tables, labels, seed):
            peer = ClassifierRun(joined(tables.train, (genes, labels.astype(np.int32))), tables, [steps], seed)
            peer.accuracy_at(steps)
            predicted[name] = peer.predict()
            peer.training.release()
    predicted[f"this {args.model}"] = augmented.predict()
    results = {"accuracy": compare_accuracy(before, control, after), "sampling": sampled}
    return results, predicted, accuracy_by_epoch(real, augmented) if args.plot is not None else None


def learn_once(
    args: argparse.Namespace, order: Order, cohort: Cohort, seed: int, workers: Workers
) -> tuple[Synthesiser, dict[str, Any], tuple[Any, ...]]:
    """Learn from a cohort, with the experiment unless every sample is to train the generator.

    Returns the generator, the results, and the test rows' types with what experiment returns beside its results.
    """
    tables = prepare_tables(cohort, args.test_fraction, args.transform, seed, args.train_per_type)
    order.labels(tables.types, tables.counts(), seed, "experiment")  # an unknown type is found before any work
    results: dict[str, Any] = {"train_samples": tables.training, "test_samples": len(tables.test[1])}
    tables = tables.resident(use_devices(workers))
    chosen_order, temperature, choice = settle(args, order, tables, seed)
    labels = chosen_order.labels(tables.types, tables.counts(), seed, "experiment")
    by_choice = chosen_order.n_samples if args.n_samples == "auto" else None
    recommended = by_choice, temperature if choice and temperature != args.temperature else None
    results["augmentation"] = {"n_samples": len(labels), "temperature": temperature, **choice}
    learned = []

    def train() -> Synthesiser:
        network = (args.model, args.latent_dim, args.epochs, args.batch_size)
        generator, results["generator"] = train_generator(*network, tables, seed)
        results["generator"]["seconds"] += choice.get("seconds", 0.0)
        names = (tables.genes, tables.types, tables.counts())
        learned.append(Synthesiser(generator, tables.preprocessing, *names, recommended, tables.trained_on))
        return learned[0]

    if args.test_fraction == 0:
        return train(), results, ()
    found, *scores = experiment(args, tables, train, labels, temperature, seed)
    return learned[0], results | found, ((np.asarray(tables.test[1]), tables.test_groups), *scores)


def load_data(args: argparse.Namespace) -> Cohort:
    """Return the data asked for, and say what they are."""
    source = args.data or "auto"
    cohort = load_cohort(source, args.rnaseq, args.types, args.layer, args.group_regex, args.seed)
    say(
        f"Data: {cohort.name}: {len(cohort.samples)} samples, {len(cohort.genes)} genes, {len(set(cohort.types))} types"
    )
    return cohort


def digest_of(args: argparse.Namespace) -> str:
    """Hash the arguments that all workers must have in common; paths and what is done with the results may differ."""
    own = {"rnaseq", "types", "output", "save_model", "results", "report", "overwrite", "debug"}
    common = {name: value for name, value in vars(args).items() if name not in own} | {"plot": args.plot is not None}
    return hashlib.sha256(json.dumps(common, sort_keys=True, default=str).encode()).hexdigest()


def learn(args: argparse.Namespace, order: Order, workers: Workers) -> tuple[Synthesiser, dict[str, Any], Cohort]:
    """Learn from the data asked for, as often as asked, and say what the repeats have in common.

    Returns the generator of the first, the results, and the samples of the types kept.
    """
    cohort = load_data(args)
    if workers.count > 1:  # a lone run need not hash its table for this
        workers.compare({"arguments": digest_of(args), "tables": cohort.sha256()})
    if args.output:
        check_genes(args.output, cohort.genes)
    cohort = keep_top_types(cohort, args.top_k_types)
    synthesiser, results, scores = learn_once(args, order, cohort, args.seed, workers)
    results = {"data": describe(cohort), **results}
    if args.test_fraction == 0:
        return synthesiser, results, cohort
    accuracies, repeats = [results["accuracy"]], [scores]
    for repeat in range(1, args.repeats):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _, again, scores = learn_once(args, order, cohort, args.seed + repeat, workers)
        accuracies.append(again["accuracy"])
        repeats.append(scores)
        say_repeat(repeat, args.repeats, again["accuracy"])
    tests, predicted, by_epoch = zip(*repeats, strict=True)
    if args.repeats > 1:
        results["repeats"] = summarise_repeats(accuracies)
    if args.compare:
        results["compare"] = summarise_ladder(list(zip(tests, predicted, strict=True)))
        say(verdict(results["compare"], results["sampling"]["n"]))
    if args.plot is not None:
        results["plot"] = compare_epochs(by_epoch)
    if args.plot is not None and workers.chief:
        path = plot_path(args.plot, len(set(cohort.types)), cohort.simulated)
        numbers = write_plot(results["plot"], path, f"{cohort.name}, {len(set(cohort.types))} types")
        say(f"Written to {path} and {numbers.name}")
    return synthesiser, results, cohort


def temperature_asked(args: argparse.Namespace, synthesiser: Synthesiser) -> float:
    """Return the temperature of what is drawn to be kept or judged: 1 unless the user asks for another."""
    return synthesiser.recommended[1] if args.temperature == "auto" else args.temperature or 1.0


def split_as_asked(args: argparse.Namespace, real: Cohort) -> tuple[Cohort, Cohort]:
    """Return the samples that a generator was trained on, as --train_ids or --seed say, and those held out."""
    if args.train_ids:
        return split_by_ids(real, read_ids(args.train_ids), args.train_ids)
    training, _, testing = split_cohort(real, args.test_fraction, args.seed, args.train_per_type)
    return training, testing


def try_table(args: argparse.Namespace, real: Cohort) -> Trial:
    """Return the trial of the given table of synthetic samples against real ones."""
    drawn = read_cohort(args.report_only, None, None, remedy="add the type of each sample")
    training, testing = split_as_asked(args, keep_shared(real, drawn.genes, drawn.types, str(args.report_only)))
    return put_on_trial(training, testing, drawn, args.transform, "" if args.train_ids else UNKNOWN_TRAINING)


def try_generator(args: argparse.Namespace, real: Cohort, synthesiser: Synthesiser) -> Trial:
    """Return the trial of a generator against real samples.

    As many samples are drawn as a report looks at, types in the proportions of its training samples.
    """
    real = keep_shared(real, synthesiser.genes, synthesiser.types, str(args.load_model))
    training, testing = split_as_asked(args, real)
    recognised = synthesiser.trained_on == training.fingerprint()
    if args.train_ids and not recognised:
        note(f"{args.load_model} was saved with other training samples than those in {args.train_ids}")
    known = {name: number for number, name in enumerate(synthesiser.types.tolist())}
    types = stream(args.seed, "report types").permutation(training.types)
    labels = np.resize([known[name] for name in types.tolist()], REPORT_ROWS)
    rows = np.concatenate([*synthesiser.draw(labels, args.seed, "report", temperature_asked(args, synthesiser))])
    ids = sample_ids(0, len(rows)).astype(str)
    drawn = Cohort("synthetic", False, rows, ids, synthesiser.genes, synthesiser.types[labels], ids, "")
    hidden = "" if recognised or args.train_ids else UNKNOWN_TRAINING
    return put_on_trial(training, testing, drawn, args.transform, hidden)


def report_on(args: argparse.Namespace, trial: Trial, manifest: dict[str, Any]) -> dict[str, Any]:
    """Judge a trial, print what is found and write it to the folder asked for; return the results' entry."""
    start = time.perf_counter()
    trial = trial.thinned(stream(args.seed, "report samples"))
    report, evidence = judge(trial, args.seed)
    origin = shorten(args.report_only.name, 40) if args.report_only else "drawn for this report"
    say_report(report, trial, origin)
    if args.report:
        args.report.mkdir(exist_ok=True)
        data, figure = (args.report / name for name in REPORT_FILES)
        write_json(data, report | {"manifest": manifest})
        title = f"Synthetic samples ({origin}) of {manifest['data']['name']}, {len(trial.types)} types"
        draw_report(figure, report, evidence, title)
        say(f"Report written to {data} and {figure.name} in {time.perf_counter() - start:.1f} seconds")
    return report


def load(args: argparse.Namespace) -> Synthesiser:
    """Return the saved generator asked for.

    Raises
    ------
    RnagenError
        What load_model raises; it cannot answer what it is asked.
    """
    synthesiser = load_model(args.load_model)
    if args.output:
        check_genes(args.output, synthesiser.genes)
    for flag, given, chosen in zip(
        ("n_samples", "temperature"), (args.n_samples, args.temperature), synthesiser.recommended, strict=True
    ):
        if given == "auto" and chosen is None:
            raise RnagenError(f"--{flag} auto: none was chosen when {args.load_model} was saved; give a number")
    return synthesiser


def run(args: argparse.Namespace) -> None:
    """Carry out what the command line asks for, with the other workers where there are any."""
    workers = ALONE if args.load_model or args.report_only else join_workers()
    with contextlib.ExitStack() as stack:
        if not workers.chief:  # it takes part, and leaves no trace
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            args.output = args.save_model = args.report = args.results = None
        carry_out(args, workers)
        workers.gather(np.zeros(1))  # nobody leaves before the chief has written all


def carry_out(args: argparse.Namespace, workers: Workers) -> None:
    """Learn or load a generator, write what is to be kept, and judge it."""
    if workers.chief:
        inputs = [path for path in (args.rnaseq, args.types, args.load_model, args.report_only, args.train_ids) if path]
        kept = [] if args.overwrite else [path for path in (args.output, args.save_model) if path]
        check_outputs(planned_outputs(args), inputs, kept)
    asked = DEFAULT_SAMPLES if args.n_samples in (None, "auto") else args.n_samples
    order = Order(asked, tuple(args.per_type or ()), args.balance)

    synthesiser, cohort, results = None, None, {}
    if args.load_model:
        synthesiser = load(args)
    elif not args.report_only:
        synthesiser, results, cohort = learn(args, order, workers)
    if args.save_model:
        save_model(args.save_model, synthesiser)
        say(f"\nSaved the generator to {args.save_model}")
    if args.output:
        if args.n_samples == "auto":
            order = replace(order, n_samples=synthesiser.recommended[0])
        labels = order.labels(synthesiser.types, synthesiser.counts, args.seed, "output")
        temperature = temperature_asked(args, synthesiser)
        results["output"] = write_samples(
            args.output, synthesiser, labels, temperature, args.seed, args.shard or (1, 1)
        )
    if cohort is None and (args.report or args.report_only):
        cohort = load_data(args)
        if args.top_k_types:
            cohort = keep_top_types(cohort, args.top_k_types)
        results["data"] = describe(cohort)
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    manifest = {"arguments": arguments, "versions": versions(), "workers": workers.count}
    if args.report or args.report_only:
        trial = try_generator(args, cohort, synthesiser) if synthesiser else try_table(args, cohort)
        results["report"] = report_on(args, trial, manifest | {"data": results["data"]})
    if args.results:
        write_json(args.results, manifest | results)


def out_of_memory(error: Exception) -> bool:
    """Return whether TensorFlow says that a device's memory is used up."""
    tensorflow = sys.modules.get("tensorflow")  # if it is not there it says nothing
    return tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run rnagen and return 0, or say in one line why not and return 1 (data), 130 (Ctrl-C) or exit 2 (usage)."""
    args = parse_arguments(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name must not end the run on an ASCII terminal
    try:
        run(args)
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except Exception as error:
        memory = isinstance(error, MemoryError) or out_of_memory(error)
        # OSError: a full disk, a closed pipe
        expected = memory or isinstance(error, RnagenError | OSError | ImportError)
        if args.debug or not expected:
            raise
        reason = (str(error) or "not enough memory").split("\n")[0]
        modules = isinstance(error, ImportError)
        remedy = "; ask for fewer samples by --n_samples" * memory + "; pip install -r requirements.txt" * modules
        note(f"error: {reason}{remedy}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
