"""Time and memory of writing synthetic samples from a saved model: many rows against few, each in its own process.

    python tests/benchmarks/output.py [--rows 1000000] [--genes 942] [--suffix .parquet]

The model is trained for one epoch on simulated samples; what is measured is drawing and writing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

SCRIPT = str(Path(rnagen.__file__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=942)
    parser.add_argument("--suffix", choices=tuple(rnagen.WRITERS), default=".parquet")
    args = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = rnagen.simulate_cohort(2000, args.genes, 20)
        import pandas as pd

        table = pd.DataFrame(cohort.expression, cohort.samples, cohort.genes).assign(type=cohort.types)
        table.to_parquet(folder / "cohort.parquet")
        model = folder / "model.safetensors"
        learn = [
            SCRIPT,
            "--rnaseq",
            folder / "cohort.parquet",
            "--test_fraction",
            "0",
            "-e",
            "1",
            "--save_model",
            model,
        ]
        subprocess.run([sys.executable, *map(str, learn)], check=True, capture_output=True)
        for rows in (10_000, args.rows):
            output, results = folder / f"samples{args.suffix}", folder / "results.json"
            draw = [SCRIPT, "--load_model", model, "-n", rows, "--output", output, "--results", results, "--overwrite"]
            process = subprocess.Popen([sys.executable, *map(str, draw)], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            peaks[rows] = usage.ru_maxrss / 1024
            seconds = json.loads(results.read_text())["output"]["seconds"]
            size = output.stat().st_size / 1e6
            rate = f"{rows / seconds:9,.0f} rows/s"
            print(f"{rows:9,} rows: {seconds:6.1f} s, {rate}, {size:7,.0f} MB, peak memory {peaks[rows]:,.0f} MB")
    print(f"peak of {args.rows:,} rows over that of 10,000: {peaks[args.rows] - peaks[10_000]:+,.0f} MB")


if __name__ == "__main__":
    main()
