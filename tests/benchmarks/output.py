"""Time and memory of writing synthetic samples from a saved model: many rows against few, each in its own process.

    python tests/benchmarks/output.py [--rows 1000000] [--genes 942] [--suffix .parquet]

The model is trained for one epoch on simulated samples; what is measured is drawing and writing.
"""

import json
import tempfile
from pathlib import Path

import harness


def measure(rows: int = 1_000_000, genes: int = 942, suffix: str = ".parquet") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harness.write_cohort(folder / "cohort.parquet", 2000, genes, 20)
        learn = [harness.SCRIPT, "--rnaseq", "cohort.parquet", "--test_fraction", "0", "-e", "1"]
        harness.timed([*learn, "--save_model", "model.safetensors"], folder)
        draw = [harness.SCRIPT, "--load_model", "model.safetensors", "--output", f"samples{suffix}", "--overwrite"]
        for many in (10_000, rows):
            _, peak = harness.timed([*draw, "-n", many, "--results", "results.json"], folder)
            seconds = json.loads((folder / "results.json").read_text())["output"]["seconds"]
            size = (folder / f"samples{suffix}").stat().st_size / 1e9
            harness.table_row(
                f"drawing and writing {many:,} samples of {genes} genes to {suffix}",
                f"{seconds:.1f} s, {many / seconds / 1000:,.0f} thousand samples/s, {size:.2f} GB; "
                f"peak memory {peak:.2f} GB",
            )


if __name__ == "__main__":
    harness.run(measure)
