"""Time the two given commands as whole processes, against `import tensorflow` and against plain Keras.

    python tests/benchmarks/commands.py [--rounds 5]

All on the simulated cohort. Each round times all in turn; ratios are taken round by round, since machines drift. What
plain Keras does is in keras_fit.py.
"""

import statistics
import tempfile
from pathlib import Path

import harness

KERAS = str(Path(__file__).with_name("keras_fit.py"))
COMMANDS = {
    "import tensorflow": ["-c", "import tensorflow"],
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
    base = times["import tensorflow"]
    harness.table_row("`import tensorflow` alone", f"{statistics.median(base):.1f} s")
    for name, what in WHAT.items():
        keras = times[f"{name}, Keras fit"]
        harness.table_row(
            f"{what}, whole process",
            f"{statistics.median(times[name]):.1f} s, {harness.ratio(times[name], base)} times the import",
        )
        harness.table_row(
            f"{what} against the same protocol in plain Keras `fit`",
            f"{harness.ratio(times[name], keras)} of its {statistics.median(keras):.1f} s",
        )


if __name__ == "__main__":
    harness.run(measure)
