"""Kill rnagen at random moments while it writes, and check that the name holds the old file or none.

    python tests/kill_while_writing.py [--kills 20] [--suffix .parquet]

Every other kill has an old file at that name (--overwrite), which must then be whole: the old one or the new one.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
import rnagen

ROWS = 60_000


def whole(path: Path) -> bool:
    """Tell whether the file is complete: read to its end by rnagen itself."""
    return len(rnagen.read_cohort(rnagen.TableConfig(path)).samples) == ROWS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--suffix", choices=tuple(rnagen.WRITERS), default=".parquet")
    args = parser.parse_args()
    random.seed(0)
    outcomes = {"none": 0, "old": 0, "new": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = np.random.default_rng(0).normal(5, 1, (60, 200)).astype(np.float32)
        table = pd.DataFrame(rows, [f"S{i}" for i in range(60)], [f"G{i}" for i in range(200)])
        table.assign(type=["a", "b"] * 30).to_parquet(folder / "cohort.parquet")
        model, output = folder / "model.safetensors", folder / f"samples{args.suffix}"
        script = [sys.executable, rnagen.__file__]
        learn = ["--rnaseq", folder / "cohort.parquet", "--test_fraction", 0, "-m", "gaussian", "--save_model", model]
        subprocess.run([*script, *map(str, learn)], check=True, capture_output=True)
        draw = [*script, "--load_model", model, "-n", ROWS, "--output", output, "--overwrite"]
        for number in range(args.kills):
            output.unlink(missing_ok=True)
            if number % 2:
                output.write_bytes(b"old")
            process = subprocess.Popen(list(map(str, draw)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not list(folder.glob(".rnagen-*")):
                time.sleep(0.005)  # until it has begun to write
            time.sleep(random.uniform(0, 0.8))
            process.kill()
            process.wait()
            for beside in folder.glob(".rnagen-*"):
                beside.unlink()
            found = "none" if not output.exists() else "old" if output.read_bytes() == b"old" else "new"
            if (found == "none" and number % 2) or (found == "new" and not whole(output)):
                print(f"kill {number}: the file was lost or is half written")
                return 1
            outcomes[found] += 1
    print(f"{args.kills} kills: {outcomes}; never lost, never half written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
