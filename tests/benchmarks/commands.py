"""Time the two given commands as whole processes, on the simulated cohort, against `import tensorflow`.

    python tests/benchmarks/commands.py [--rounds 5]

Each round times all three in turn; the ratio is taken round by round, since machines drift.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = str(Path(__file__).parents[2] / "rnagen.py")
COMMANDS = {
    "import tensorflow": ["-c", "import tensorflow"],
    "main job": [SCRIPT, "--top_k_types", "10", "--n_samples", "10000", "--data", "simulated"],
    "--plot": [SCRIPT, "--plot", "--data", "simulated"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for name, command in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True)
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        ratios = [one / base for one, base in zip(taken, times["import tensorflow"], strict=True)]
        print(
            f"{name:18s} {statistics.median(taken):5.1f} s  {statistics.median(ratios):4.2f} times the import "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
