"""What the benchmarks share: flags from a function's defaults, whole processes timed, and rows of one table."""

import argparse
import inspect
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow
ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "rnagen.py")
sys.path.insert(0, str(ROOT))
import rnagen  # noqa: E402


def machine() -> str:
    """Describe the machine and the versions of what the times depend on, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((line.split(": ")[1] for line in cpuinfo.read_text().splitlines() if "model name" in line), model)
    gpus = ""
    try:
        listed = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = f", {', '.join(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines())}"
    except (OSError, subprocess.CalledProcessError):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = metadata.packages_distributions()  # tensorflow may come from tensorflow-cpu
    names = ("tensorflow", "keras", "numpy", "pandas")
    versions = ", ".join(f"{name} {metadata.version(packages[name][0])}" for name in names)
    return (
        f"{rnagen.CORES} cores of {model}, {memory:.0f} GiB{gpus}, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}"
    )


def timed(command: Sequence[object], folder: Path) -> tuple[float, float]:
    """Run a Python command in folder; return its wall seconds and its peak memory in GB.

    The peak is at least the most that this process has had, as which the other one begins: keep it small.
    """
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            errors.seek(0)
            raise RuntimeError(f"{command}: {errors.read()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def write_cohort(path: Path, samples: int, genes: int, types: int) -> None:
    """Write a simulated cohort of that shape to a parquet file; another process makes it (see timed)."""
    program = (
        "import rnagen\n"
        f"cohort = rnagen.simulate_cohort({samples}, {genes}, {types})\n"
        "table = rnagen.pd.DataFrame(cohort.expression, cohort.samples, cohort.genes)\n"
        f"table.assign(type=cohort.types).to_parquet({str(path)!r})"
    )
    timed(["-c", program], ROOT)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the least and the most of several measurements."""
    return f"({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""


def ratio(times: Sequence[float], others: Sequence[float]) -> str:
    """Format how many times the others each round took: the median, the least and the most."""
    ratios = [one / other for one, other in zip(times, others, strict=True)]
    return f"{statistics.median(ratios):.2f} {spread(ratios)}"


def table_row(what: str, measured: str) -> None:
    """Print a row of the table."""
    by = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    print(f"| {what} | {' '.join(measured.split())} | `{by}` |", flush=True)


def run(measure: Callable[..., None]) -> None:
    """Call measure, whose parameters with their defaults are the flags; its module's docstring is the help."""
    parser = argparse.ArgumentParser(
        description=sys.modules[measure.__module__].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(measure).parameters.items():
        default = parameter.default
        many = isinstance(default, tuple)
        kind = type(default[0] if many else default)
        parser.add_argument(f"--{name}", type=kind, nargs="*" if many else None, default=default, help=f"{default}")
    args = parser.parse_args()
    print(f"<!-- {machine()} -->", flush=True)
    measure(**vars(args))
