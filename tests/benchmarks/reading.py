"""Time reading large tables, from the file to a cohort, in processes of their own, and the memory that it takes.

python tests/benchmarks/reading.py [--rounds 3] [--samples 10000] [--text_samples 1000] [--genes 20000]
"""

import statistics
import tempfile
from pathlib import Path

import harness

READ = """
import sys, time
from pathlib import Path
import pandas, pyarrow
import rnagen
types = Path(sys.argv[2]) if len(sys.argv) > 2 else None
start, used = time.perf_counter(), time.process_time()
cohort = rnagen.load_cohort(rnagen.TableConfig(Path(sys.argv[1]), types), 1)
seconds = time.perf_counter() - start, time.process_time() - used
Path("seconds").write_text(" ".join(map(str, seconds)))
"""
WRITE = """
import pandas as pd
import rnagen
cohort = rnagen.simulate_cohort({samples}, {genes}, 10)
table = pd.DataFrame(cohort.expression.round(4), pd.Index(cohort.samples, name="Sample"), cohort.genes)
types = pd.Series(cohort.types, table.index)
table.assign(type=types).to_parquet("table.parquet")
table, types = table.iloc[:{text_samples}], types.iloc[:{text_samples}]
fast = {{"method": "gzip", "compresslevel": 1}}
table.to_csv("samples.tsv.gz", sep="\\t", float_format="%.4f", compression=fast)
table.T.to_csv("genes.tsv.gz", sep="\\t", float_format="%.4f", index_label="gene_id", compression=fast)
types.to_csv("types.tsv", sep="\\t", header=False)
"""


def measure(rounds: int = 3, samples: int = 10_000, text_samples: int = 1000, genes: int = 20_000) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = f"import sys; sys.path.insert(0, {str(harness.ROOT)!r})\n"
        sizes = {"samples": samples, "text_samples": text_samples, "genes": genes}
        harness.timed(["-c", path + WRITE.format(**sizes)], folder)
        for files, rows in (
            (["table.parquet"], samples),
            (["samples.tsv.gz", "types.tsv"], text_samples),
            (["genes.tsv.gz", "types.tsv"], text_samples),
        ):
            wall, used, memory = [], [], []
            for _ in range(rounds):
                memory.append(harness.timed(["-c", path + READ, *files], folder)[1])
                seconds = (folder / "seconds").read_text().split()
                wall.append(float(seconds[0]))
                used.append(float(seconds[1]))
            harness.table_row(
                f"reading {rows:,} samples of {genes:,} genes from {files[0]}",
                f"{statistics.median(wall):.1f} s {harness.spread(wall, 1)}, {statistics.median(used):.1f} s of "
                f"processor time, {max(memory):.1f} GB",
            )


if __name__ == "__main__":
    harness.run(measure)
