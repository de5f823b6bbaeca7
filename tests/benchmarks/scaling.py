"""How time and memory of the main job grow with samples, genes and types: a table and tests/figures/scaling.png.

    python tests/benchmarks/scaling.py [--samples 1000 ...] [--genes 500 ...] [--types 5 ...] [--figure PATH]

Each point is one whole process on a simulated cohort read from a parquet file, with 10,000 synthetic samples; one
quantity grows and the others stay at 5,000 samples (20,000 for types, since each needs some), 942 genes and 20 types.
"""

import functools
import tempfile
from pathlib import Path

import harness
import numpy as np

import rnagen

BASE = {"samples": 5_000, "genes": 942, "types": 20}


def write_cohort(path: str, samples: int, genes: int, types: int) -> None:
    """Write a simulated cohort of that shape."""
    import pandas as pd

    cohort = rnagen.simulate_cohort(samples, genes, types)
    table = pd.DataFrame(cohort.expression, cohort.samples, cohort.genes).assign(type=cohort.types)
    table.to_parquet(path)


def main_job(folder: Path, samples: int, genes: int, types: int) -> tuple[float, float]:
    """Return seconds and peak GB of the main job on a cohort of that shape.

    Another process makes the cohort, since the peak of a child counts from the memory of its parent.
    """
    path = folder / "cohort.parquet"
    program = f"import scaling; scaling.write_cohort({str(path)!r}, {samples}, {genes}, {types})"
    harness.timed(["-c", program], Path(__file__).parent)
    return harness.timed([harness.SCRIPT, "--rnaseq", path, "-k", types, "--n_samples", "10000"], folder)


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Draw seconds and peak memory against each quantity, one beside the other, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        size, seconds, memory = np.array(points).T
        axes.loglog(size, seconds, "o-", color=rnagen.TYPE_COLOURS[0], label="seconds")
        axes.loglog(size, memory, "s--", color=rnagen.TYPE_COLOURS[3], label="peak memory (GB)")
        axes.loglog(size, seconds[-1] * size / size[-1], ":", color="0.6", label=f"in proportion to {name}")
        beside = (f"{BASE[other]:,} {other}" for other in BASE if other != name)
        axes.set(xlabel=name, title=", ".join(beside) if name != "types" else f"20,000 samples, {BASE['genes']} genes")
        axes.set_xticks(size, [f"{int(one):,}" for one in size], rotation=45)
        axes.minorticks_off()
        axes.set_ylim(0.4, 1.6 * max(seconds.max(), 200))
        axes.set_yticks([0.5, 1, 5, 10, 50, 100], ["0.5", "1", "5", "10", "50", "100"])
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
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
            rest = BASE | ({"samples": 20_000} if quantity == "types" else {})
            run = functools.partial(main_job, folder)
            found[quantity] = [(size, *run(**(rest | {quantity: size}))) for size in sizes]
            beside = " x ".join(f"{rest[other]:,} {other}" for other in rest if other != quantity)
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
