"""Time drawing synthetic rows in memory: decoded means alone, and whole samples in the input's units.

python tests/benchmarks/sampling.py [--rounds 7] [--genes 942] [--rows 100000]
"""

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--genes", type=int, default=942)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    rnagen.load_tensorflow()
    cohort = rnagen.simulate_cohort(2000, args.genes, 20)
    preprocessing = rnagen.Preprocessing.fit(cohort.expression, "auto")
    label = np.unique(cohort.types, return_inverse=True)[1].astype(np.int32)
    rows = (preprocessing.standardise(cohort.expression), label)
    factors = rnagen.fit_factors(rows, cohort.groups, 20, None)
    weights = rnagen.stream(1, "weights")
    model = rnagen.Autoencoder("cvae", factors, preprocessing.lowest, preprocessing.unit, 20, weights)
    placement = model.placement(1.0)
    synthesiser = rnagen.Synthesiser(model, preprocessing, cohort.genes, np.arange(20), np.ones(20))
    types = rnagen.Order(args.rows).labels(synthesiser.types, synthesiser.counts, 1, "output")
    blocks = range(0, args.rows, rnagen.BLOCK)

    def decoded() -> None:
        def block(start: int) -> np.ndarray:
            own, rng = types[start : start + rnagen.BLOCK], rnagen.stream(1, "b", start)
            return model.draw(own, rng, placement, noise=False)

        with ThreadPoolExecutor(2 * rnagen.CORES) as pool:
            for _ in pool.map(block, blocks):
                pass

    def sampled() -> None:
        for _ in synthesiser.draw(types, 1, "output"):
            pass

    for name, work in (("decoded means", decoded), ("samples with noise", sampled)):
        work()
        rates = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            work()
            rates.append(args.rows / (time.perf_counter() - start))
        print(f"{name:19s} {statistics.median(rates):9,.0f} rows/s (min {min(rates):,.0f}, max {max(rates):,.0f})")


if __name__ == "__main__":
    main()
