"""Time the two given commands as whole processes, against `import tensorflow` and against plain Keras; and --check.

    python tests/benchmarks/commands.py [--rounds 5]

All on the simulated cohort. Each round times all in turn; ratios are taken round by round, since machines drift, and
the median of the rounds is printed. What plain Keras does is in keras_fit.py.
"""

import statistics
import tempfile
from pathlib import Path

import harness

KERAS = str(Path(__file__).with_name("keras_fit.py"))
COMMANDS = {
    "import": ["-c", "import tensorflow"],
    "--check": [harness.SCRIPT, "--check", "--data", "simulated"],
    "main job": [harness.SCRIPT, "--top_k_types", "10", "--n_samples", "10000", "--data", "simulated"],
    "main job, Keras fit": [KERAS, "10"],
    "--plot": [harness.SCRIPT, "--plot", "--data", "simulated"],
    "--plot, Keras fit": [KERAS, "20", "--plot"],
}
WHAT = {"main job": "`--top_k_types 10 --n_samples 10000`", "--plot": "`--plot`"}


def measure(rounds: int = 5) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                times[name].append(harness.timed(command, Path(folder))[0])
    seconds = {name: f"{statistics.median(taken):.1f} s" for name, taken in times.items()}
    harness.table_row("`import tensorflow` alone", seconds["import"])
    harness.table_row("`--check`, whole process", f"{seconds['--check']} {harness.spread(times['--check'], 1)}")
    for name, what in WHAT.items():
        harness.table_row(
            f"{what}, whole process",
            f"{seconds[name]}, {harness.ratio(times[name], times['import'])} times the import",
        )
        harness.table_row(
            f"{what} against the same protocol in plain Keras `fit`",
            f"{harness.ratio(times[name], times[f'{name}, Keras fit'])} of its {seconds[f'{name}, Keras fit']}",
        )


if __name__ == "__main__":
    harness.run(measure)
