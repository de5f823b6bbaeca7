"""Where the generator's defaults come from: held-out rows of one training half of a cohort, never its test rows.

    python tests/benchmarks/generator.py RNASEQ TYPES [--top_k_types 20] [--train_per_type N] [--seeds 5]

Prints the held-out loss of the CVAE before training and by learning rate, without its start at the factor model as
well; then what each temperature and number of synthetic rows gives a classifier in inner folds, as the gain in
balanced accuracy over none with its 95% interval over seeds.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

RATES = (0.003, 0.001, 0.0003)
TEMPERATURES = (1.0, 1.25, 1.5, 2.0)
NUMBERS = (1_000, 10_000, 40_000)


def line(name: str, values: list[float], digits: int) -> None:
    """Print the mean and its 95% interval over seeds."""
    found = rnagen.interval(np.array(values))
    low, high = found["interval"]
    print(f"{name:44s} {found['mean']:+9.{digits}f} ({low:+.{digits}f} .. {high:+.{digits}f})", flush=True)


def held_out_losses(tables: rnagen.Tables, seed: int) -> dict[str, float]:
    """Return the loss of the validation rows before training, and the best of 20 epochs by learning rate."""
    types, preprocessing = len(tables.types), tables.preprocessing
    groups = tables.groups[: len(tables.train[1])]
    factors = rnagen.fit_factors(tables.train, groups, types, None)
    start = rnagen.stream(seed, "start").normal(0, 0.05, factors.loadings.shape).astype(np.float32)
    plain = dataclasses.replace(factors, loadings=start, noise=np.ones_like(factors.noise))
    losses = {}
    for name, begin, rates in (("factor model", factors, RATES), ("random start", plain, (0.003,))):
        for rate in rates:
            weights = rnagen.stream(seed, "weights")
            arguments = (begin, preprocessing.lowest, preprocessing.unit, types, weights)
            training = rnagen.Training(
                rnagen.Autoencoder("cvae", *arguments), tables.train, 128, rate, rnagen.stream(seed, "order")
            )
            before = training.model.evaluate(*tables.validation)["loss"]
            history, _ = rnagen.fit(training, rnagen.DEFAULT_EPOCHS, tables.validation)
            losses[f"{name}, before training"] = before
            losses[f"{name}, best epoch at rate {rate:g}"] = min(epoch["val_loss"] for epoch in history)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rnaseq", type=Path)
    parser.add_argument("types", type=Path)
    parser.add_argument("--top_k_types", type=int)
    parser.add_argument("--train_per_type", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    rnagen.load_tensorflow()
    cohort = rnagen.keep_top_types(rnagen.read_cohort(args.rnaseq, args.types, None), args.top_k_types)
    half = cohort.take(np.isin(cohort.samples, rnagen.split_cohort(cohort, 0.5, 2021, args.train_per_type)[0].samples))
    choices = [(rnagen.Order(0), 1.0), *((rnagen.Order(10_000), heat) for heat in TEMPERATURES)]
    choices += [(rnagen.Order(number), 1.5) for number in NUMBERS if number != 10_000]
    losses: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for seed in range(1, args.seeds + 1):
        with contextlib.redirect_stdout(io.StringIO()):
            tables = rnagen.prepare_tables(half, 0.0, "auto", seed)
            found = held_out_losses(tables, seed)
            entry = rnagen.choose_augmentation("cvae", None, choices, tables, seed)[2]
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss)
        scores = [choice["balanced_accuracy"] for choice in entry["choices"]]
        for choice, score in zip(choices[1:], scores[1:], strict=True):
            gains.setdefault(rnagen.wording(*choice), []).append(100 * (score - scores[0]))
    print(f"{cohort.name}: {len(tables.types)} types, {tables.training} training samples, {args.seeds} seeds")
    print("held-out loss, nats a sample")
    for name, values in losses.items():
        line(name, values, 1)
    print("gain over no synthetic samples in inner folds, points of balanced accuracy")
    for name, values in gains.items():
        line(name, values, 2)


if __name__ == "__main__":
    main()
