"""How time and memory of the main job grow with samples, genes and types: a table and a figure.

    python tests/benchmarks/scaling.py [--samples 1000 ...] [--genes 500 ...] [--types 5 ...] [--figure PATH]

Each point is one whole process on a simulated cohort read from a parquet file, with 10,000 synthetic samples, in which
one quantity grows and the others stay.
"""

import tempfile
from pathlib import Path

import harness
import numpy as np

import rnagen

BASE = {  # what stays while one quantity grows
    "samples": {"genes": 942, "types": 20},
    "genes": {"samples": 5_000, "types": 20},
    "types": {"samples": 20_000, "genes": 942},
}


def main_job(folder: Path, samples: int, genes: int, types: int) -> tuple[float, float]:
    """Return seconds and peak GB of the main job on a cohort of that shape."""
    path = folder / "cohort.parquet"
    harness.write_cohort(path, samples, genes, types)
    return harness.timed([harness.SCRIPT, "--rnaseq", path, "-k", types, "--n_samples", "10000"], folder)


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Draw seconds and peak memory against each quantity, one beside the other, on logarithmic axes."""
    figure = rnagen.matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        size, seconds, memory = np.array(points).T
        axes.loglog(size, seconds, "o-", color=rnagen.TYPE_COLOURS[0], label="seconds")
        axes.loglog(size, memory, "s--", color=rnagen.TYPE_COLOURS[3], label="peak memory (GB)")
        axes.loglog(size, seconds[-1] * size / size[-1], ":", color="0.6", label="in proportion")
        beside = ", ".join(f"{size:,} {other}" for other, size in BASE[name].items())
        axes.set(xlabel=name, title=beside)
        axes.set_xticks(size, [f"{int(one):,}" for one in size], rotation=45, ha="right", rotation_mode="anchor")
        axes.minorticks_off()
        axes.set_ylim(0.4, 1.6 * max(seconds.max(), 200))
        axes.set_yticks([0.5, 1, 5, 10, 50, 100], ["0.5", "1", "5", "10", "50", "100"])
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def measure(
    samples: tuple = (1_000, 3_000, 10_000, 30_000, 100_000, 200_000),
    genes: tuple = (500, 1_000, 2_000, 5_000, 10_000, 20_000),
    types: tuple = (5, 10, 20, 50, 100, 200),
    figure: str = "",
) -> None:
    found: dict[str, list[tuple[int, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for quantity, sizes in {"samples": samples, "genes": genes, "types": types}.items():
            shapes = [BASE[quantity] | {quantity: size} for size in sizes]
            found[quantity] = [(shape[quantity], *main_job(folder, **shape)) for shape in shapes]
            beside = " x ".join(f"{size:,} {name}" for name, size in BASE[quantity].items())
            cells = "; ".join(f"{size:,}: {seconds:.0f} s, {peak:.1f} GB" for size, seconds, peak in found[quantity])
            harness.table_row(f"main job by {quantity}, {beside}", cells)
    seconds = {size: one for size, one, _ in found["genes"]}
    least, most = min(seconds), max(seconds)
    harness.table_row(
        f"main job, {most:,} genes against {least:,}",
        f"{seconds[most] / seconds[least]:.1f} times the time for {most / least:.0f} times the genes",
    )
    if figure:
        draw(found, Path(figure))


if __name__ == "__main__":
    harness.run(measure)
