"""Interrupt rnagen at random moments, by SIGINT and SIGTERM in turn, and check that it ends at once and cleanly.

    python tests/interrupt_while_running.py [--interrupts 200] [--seconds 10] [--seed 0] [--rnagen rnagen.py]

The commands are the main job on a small table, one that draws from a saved model, and a report. Each must end with 130
or 143, within so many seconds, with one line on stderr and no file left over; the outputs that were there before are
the old ones, or new and whole where the signal came after the last of them.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

OUTPUTS = ("s.tsv", "results.json", "report/report.json", "report/report.png")
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def make_table(folder: Path) -> Path:
    """Write expression of two types; return its path."""
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 1, (120, 200)) + np.repeat([0.0, 1.0], 60)[:, None]
    table = pd.DataFrame(rows.astype(np.float32), [f"S{i}" for i in range(120)], [f"G{i}" for i in range(200)])
    path = folder / "cohort.parquet"
    table.assign(type=np.repeat(["a", "b"], 60)).to_parquet(path)
    return path


def commands(folder: Path, script: list[str]) -> dict[str, list[str]]:
    """Return the commands to interrupt, each of which takes some seconds; their outputs lie in the folder `out`."""
    table, model, out = make_table(folder), folder / "model.safetensors", folder / "out"
    learn = [*script, "--rnaseq", str(table)]
    subprocess.run([*learn, "-e", "1", "--save_model", str(model)], check=True, capture_output=True)
    results = ["--results", str(out / "results.json")]
    return {
        "main job": [
            *learn,
            "-e",
            "10",
            "-n",
            "2000",
            "--trainings",
            "1",
            *results,
            "--output",
            str(out / "s.tsv"),
            "--overwrite",
        ],
        "output": [*script, "--load_model", str(model), "-n", "100000", "--output", str(out / "s.tsv"), "--overwrite"],
        "report": [*script, "--rnaseq", str(table), "--load_model", str(model), "--report", str(out / "report")],
    }


def put_old_outputs(out: Path) -> None:
    """Put back the files that the commands replace."""
    (out / "report").mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (out / name).write_bytes(b"old")


def is_whole(path: Path, table: bytes) -> bool:
    """Tell whether a file is the old one or a new and complete one; of a table, table are the bytes."""
    content = path.read_bytes()
    if content == b"old":
        return True
    if path.suffix == ".json":
        return content.rstrip().endswith(b"}") and bool(json.loads(content))
    return content.endswith(b"IEND\xaeB`\x82") if path.suffix == ".png" else content == table


def interrupt(command: list[str], number: int, after: float, seconds: float) -> tuple[str, float]:
    """Send a command that signal after so many seconds; return what became of it, and the seconds that this took."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        process.wait(after)
        return "ended before", 0.0
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    start = time.monotonic()
    try:
        err = process.communicate(timeout=6 * seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "never ended", time.monotonic() - start
    took = time.monotonic() - start
    if (process.returncode, err) == (0, ""):
        return "ended before", took
    if process.returncode == -number or (number == signal.SIGINT and "in <module>" in err and "in main" not in err):
        return "not yet started", took  # Python was still importing
    if (process.returncode, err) != (128 + number, f"rnagen: {WORDS[number]}\n"):
        return f"status {process.returncode}, {err!r}", took
    return "clean" if took <= seconds else "late", took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interrupts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rnagen", type=Path, default=Path(__file__).parents[1] / "rnagen.py")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = commands(folder, [sys.executable, str(args.rnagen)])
        put_old_outputs(folder / "out")
        times, tables = {}, {}
        for job, command in jobs.items():
            start = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            times[job], tables[job] = time.monotonic() - start, (folder / "out" / "s.tsv").read_bytes()
            print(f"{job}: {times[job]:.1f} seconds", flush=True)
        for turn in range(args.interrupts):
            job, number = list(jobs)[turn % 3], list(WORDS)[turn // 3 % 2]
            put_old_outputs(folder / "out")
            outcome, took = interrupt(jobs[job], number, random.uniform(0.3, times[job]), args.seconds)
            slowest = max(slowest, took)
            left = [path for path in folder.rglob("*") if path.name.startswith((".rnagen-", "tmp"))]
            broken = [name for name in OUTPUTS if not is_whole(folder / "out" / name, tables[job])]
            if left or broken:
                outcome = f"left over {[path.unlink() or path.name for path in left]}, broken {broken}"
            if outcome not in ("clean", "ended before", "not yet started"):
                print(f"{turn}: {job}, {WORDS[number]}: {outcome} ({took:.1f} seconds)", flush=True)
            outcomes[outcome] += 1
            if (turn + 1) % 10 == 0:
                print(f"{turn + 1} interrupts: {dict(outcomes)}; the slowest took {slowest:.2f} seconds", flush=True)
    return int(bool(outcomes.keys() - {"clean", "ended before", "not yet started"}))


if __name__ == "__main__":
    raise SystemExit(main())
