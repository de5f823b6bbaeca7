"""Time the report of a saved generator: a whole process, at several shapes of the cohort.

    python tests/benchmarks/report.py [--shapes 7447x457x20 2000x20000x20]

A shape is samples x genes x types of a simulated cohort, half of which is trained on. A Gaussian of each type is
trained and saved first; what is measured is --load_model --report, reading of the table, report and figure included.
"""

import tempfile
from pathlib import Path

import harness

SHAPES = ("7447x457x20", "2000x20000x20")


def measure(shapes: tuple[str, ...] = SHAPES, rounds: int = 3) -> None:
    for shape in shapes:
        samples, genes, types = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            harness.write_cohort(folder / "cohort.parquet", samples, genes, types)
            table = ["--rnaseq", folder / "cohort.parquet"]
            saved = [*table, "-k", types, "-m", "gaussian", "-n", 100, "--save_model", "model.safetensors"]
            harness.timed([harness.SCRIPT, *saved, "--classifier_epochs", 1, "--trainings", 1], folder)
            report = [harness.SCRIPT, "--load_model", "model.safetensors", *table, "--report", "report"]
            runs = [harness.timed(report, folder) for _ in range(rounds)]
        times, memory = zip(*runs, strict=True)
        what = f"report on {samples} samples x {genes} genes, {types} types, figure included"
        harness.table_row(what, f"{sorted(times)[rounds // 2]:.0f} s {harness.spread(times, 0)}, {max(memory):.1f} GB")


if __name__ == "__main__":
    harness.run(measure)
