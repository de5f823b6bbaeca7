"""Run every speed benchmark and print one table in Markdown, with the machine and versions it was measured on.

    python tests/benchmarks/all.py [--quick] [--figure PATH]

By hand, with nothing else running: about half an hour on 2 cores; --quick (fewer rounds, small sizes, to see whether
everything runs) a quarter of that. --figure draws how the main job grows. Each row names the script here, and its
flags, that give it alone.

Three more are about quality, and are run alone: generator.py (where the generator's defaults come from),
interval_coverage.py (whether intervals hold the true gain) and privacy.py (what differential privacy costs).
"""

import argparse
import subprocess
import sys
from pathlib import Path

import harness

SCRIPTS = {  # and what is smaller when it has to be quick
    "commands.py": ["--rounds", "1"],
    "training_step.py": ["--rounds", "3"],
    "sampling.py": ["--rounds", "1"],
    "output.py": ["--rows", "50000"],
    "reading.py": ["--rounds", "1"],
    "report.py": ["--shapes", "1000x300x10", "--rounds", "1"],
    "scaling.py": ["--samples", "1000", "2000", "--genes", "500", "1000", "--types", "5", "10"],
    "workers.py": ["--rounds", "1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--figure", help="a .png to draw how time and memory grow in")
    args = parser.parse_args()
    print(f"Measured on {harness.machine()}.\n\n| what | measured | by |\n|---|---|---|", flush=True)
    failed = False
    for script, quick in SCRIPTS.items():
        figure = ["--figure", args.figure] if args.figure and script == "scaling.py" else []
        flags = (quick if args.quick else []) + figure
        command = [sys.executable, str(Path(__file__).with_name(script)), *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith("|"):
                    print(line, end="", flush=True)
        if process.returncode:
            failed = True
            print(f"| {script} | failed | `{' '.join([script, *flags])}` |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
