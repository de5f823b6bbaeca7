"""Time drawing synthetic rows to memory: standardised and without noise, and whole samples in the input's units.

python tests/benchmarks/sampling.py [--rounds 7] [--genes 942] [--rows 100000]
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import harness
import numpy as np

import rnagen


def measure(rounds: int = 7, genes: int = 942, rows: int = 100_000) -> None:
    rnagen.load_tensorflow()
    cohort = rnagen.simulate_cohort(2000, genes, 20)
    preprocessing = rnagen.Preprocessing.fit(cohort.expression, "auto")
    label = np.unique(cohort.types, return_inverse=True)[1].astype(np.int32)
    real = (preprocessing.standardise(cohort.expression), label)
    factors = rnagen.fit_factors(real, cohort.groups, 20, None)
    weights = rnagen.stream(1, "weights")
    model = rnagen.Autoencoder("cvae", factors, preprocessing.lowest, preprocessing.unit, 20, weights)
    placement = model.placement(1.0)
    synthesiser = rnagen.Synthesiser(model, preprocessing, cohort.genes, np.arange(20), np.ones(20))
    types = rnagen.Order(rows).labels(synthesiser.types, synthesiser.counts, 1, "output")

    def decoded() -> None:
        def block(start: int) -> np.ndarray:
            own, rng = types[start : start + rnagen.BLOCK], rnagen.stream(1, "b", start)
            return model.draw(own, rng, placement, noise=False)

        with ThreadPoolExecutor(2 * rnagen.CORES) as pool:
            for _ in pool.map(block, range(0, rows, rnagen.BLOCK)):
                pass

    def sampled() -> None:
        for _ in synthesiser.draw(types, 1, "output"):
            pass

    for name, work in (("standardised, without noise", decoded), ("in the table's units", sampled)):
        work()
        rates = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            rates.append(rows / (time.perf_counter() - start) / 1000)
        harness.table_row(
            f"drawing samples of {genes} genes to memory, {name}",
            f"{statistics.median(rates):,.0f} thousand samples/s {harness.spread(rates, 0)}",
        )


if __name__ == "__main__":
    harness.run(measure)
