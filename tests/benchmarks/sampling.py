"""Time drawing synthetic samples to memory: by the network alone, standardised, and in the table's units.

    python tests/benchmarks/sampling.py [--rounds 7] [--genes 942] [--rows 100000]

The generator has been trained for one epoch on 1,000 simulated samples of 20 types.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import harness

import rnagen


def measure(rounds: int = 7, genes: int = 942, rows: int = 100_000) -> None:
    dataset = rnagen.prepare_dataset(rnagen.simulate_cohort(2000, genes, 20), 0.5, "auto", 1)
    rnagen.start_tensorflow()
    model = rnagen.train_generator(rnagen.ModelConfig(epochs=1), dataset, 1).model
    sampler = rnagen.Sampler(model, dataset.preprocessing, dataset.genes, dataset.types, dataset.counts())
    labels = rnagen.SamplingPlan(rows).labels(dataset.types, sampler.counts, 1, "output")
    location_scale = model.location_scale(1.0)

    def draw_block(number: int) -> None:
        block = labels[number * rnagen.BLOCK : (number + 1) * rnagen.BLOCK]
        model.draw(block, rnagen.stream(1, "rows", number), location_scale)

    def draw_standardised() -> None:
        with ThreadPoolExecutor(2 * rnagen.CORES) as pool:
            for _ in pool.map(draw_block, rnagen.shard_blocks(rows)):
                pass

    def draw_samples() -> None:
        for _ in sampler.draw(labels, 1, "output"):
            pass

    for name, draw in (("standardised", draw_standardised), ("in the table's units", draw_samples)):
        draw()
        rates = []
        for _ in range(rounds):
            start = time.perf_counter()
            draw()
            rates.append(rows / (time.perf_counter() - start) / 1000)
        harness.table_row(
            f"drawing samples of {genes} genes to memory, {name}",
            f"{statistics.median(rates):,.0f} thousand samples/s {harness.spread(rates, 0)}",
        )


if __name__ == "__main__":
    harness.run(measure)
