"""Does the 95% interval of a gain hold the true gain? Count it over many simulated cohorts.

    python tests/benchmarks/interval_coverage.py [--cohorts 200] [--trainings 5] [--seed 0]

Each cohort has 60 training and 480 test samples of four uneven types, one to three samples a patient, and three
arms: real rows with copies of them, real rows with other copies (true gain 0), and real rows with fresh rows of the
same distribution, which is the generator that one can wish for (a known gain: that of many more trainings, scored on
50,000 fresh samples). The networks of a cohort are small, and are trained side by side in numpy.

Prints how often the interval held the true gain, with the 95% interval of that share (Clopper and Pearson 1934), for
accuracy and balanced accuracy after 2 and 20 epochs, and exits with 1 where one is not within 90% to 99%.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

GENES, HIDDEN, BATCH, RATE = 12, 24, 32, 0.003
TRAINING, TEST, SYNTHETIC = (24, 18, 12, 6), (192, 144, 96, 48), 140  # samples of each type; rows added
EPOCHS = (2, 20)
TRUE_TRAININGS, FRESH = 100, 50_000
Weights = list[np.ndarray]


@dataclass(frozen=True)
class Simulation:
    """A cohort to draw from: Gaussian types around means (types, genes), with an effect of the patient."""

    means: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Simulation":
        return cls(rng.normal(0, 0.8, (len(TRAINING), GENES)).astype(np.float32))

    def patients(self, counts: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw that many samples of each type; return x (rows, genes), y (rows,) and the patient of each (rows,)."""
        y = np.repeat(np.arange(len(counts)), counts)
        sizes = rng.integers(1, 4, len(y))
        groups = np.concatenate(
            [kind * len(y) + np.repeat(np.arange(len(y)), sizes)[:count] for kind, count in enumerate(counts)]
        )
        _, group = np.unique(groups, return_inverse=True)
        effect = rng.normal(0, 0.7, (group.max() + 1, GENES))[group]
        return (self.means[y] + effect + rng.normal(0, 0.7, effect.shape)).astype(np.float32), y, group


def forward(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer and the logits of every network; x is (networks or 1, rows, genes)."""
    hidden = np.maximum(x @ weights[0] + weights[1], 0)
    return hidden, hidden @ weights[2] + weights[3]


def train(x: np.ndarray, y: np.ndarray, copies: int, rng: np.random.Generator) -> list[Weights]:
    """Train networks side by side by Adam on x (networks, rows, genes), y (networks, rows); copy them at EPOCHS.

    The networks are so many arms of `copies` trainings each: training i has the same weights and order in every arm.
    """
    networks, rows, _ = x.shape
    arms = networks // copies

    def shared(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return np.tile(rng.uniform(-scale, scale, (copies, *shape)).astype(np.float32), (arms, 1, 1))

    types = len(TRAINING)
    sizes = (((GENES, HIDDEN), (6 / (GENES + HIDDEN)) ** 0.5), ((1, HIDDEN), 0))
    sizes += (((HIDDEN, types), (6 / (HIDDEN + types)) ** 0.5), ((1, types), 0))
    weights = [shared(*size) for size in sizes]
    first, second = ([np.zeros_like(part) for part in weights] for _ in range(2))
    one_hot, which, step, kept = np.eye(types, dtype=np.float32), np.arange(networks)[:, None], 0, []
    for epoch in range(1, EPOCHS[-1] + 1):
        order = np.tile(rng.permuted(np.tile(np.arange(rows), (copies, 1)), axis=1), (arms, 1))
        for start in range(0, rows, BATCH):
            batch = order[:, start : start + BATCH]
            genes = x[which, batch]
            hidden, logits = forward(weights, genes)
            odds = np.exp(logits - logits.max(axis=2, keepdims=True))
            error = (odds / odds.sum(axis=2, keepdims=True) - one_hot[y[which, batch]]) / batch.shape[1]
            back = (error @ weights[2].transpose(0, 2, 1)) * (hidden > 0)
            gradients = [genes.transpose(0, 2, 1) @ back, back.sum(axis=1, keepdims=True)]
            gradients += [hidden.transpose(0, 2, 1) @ error, error.sum(axis=1, keepdims=True)]
            step += 1
            rate = RATE * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            for weight, gradient, mean, square in zip(weights, gradients, first, second, strict=True):
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                weight -= rate * mean / (np.sqrt(square) + 1e-7)
        if epoch in EPOCHS:
            kept.append([weight.copy() for weight in weights])
    return kept


def draw_arms(
    simulation: Simulation, real: tuple[np.ndarray, np.ndarray], trainings: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return x (3 x trainings, rows, genes) and y of the arms: with fresh rows, with copies, with other copies."""
    x, y = real
    added = rng.integers(0, len(TRAINING), (trainings, SYNTHETIC))  # the same types in all arms
    counts = tuple(np.bincount(added.ravel()))
    fresh = np.empty((*added.shape, GENES), np.float32)
    drawn, drawn_y, _ = simulation.patients(counts, rng)
    for label in range(len(TRAINING)):
        fresh[added == label] = rng.permutation(drawn[drawn_y == label])
    starts = np.concatenate([[0], np.cumsum(TRAINING)[:-1]])
    copies = [x[starts[added] + rng.integers(0, np.array(TRAINING)[added])] for _ in range(2)]
    every_x = np.concatenate([fresh, *copies])
    base_x, base_y = np.tile(x, (3 * trainings, 1, 1)), np.tile(y, (3 * trainings, 1))
    return np.concatenate([base_x, every_x], axis=1), np.concatenate([base_y, np.tile(added, (3, 1))], axis=1)


def score(weights: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether every network is right (networks, rows) of x (networks or 1, rows, genes), y (..., rows)."""
    return forward(weights, x)[1].argmax(axis=2) == y


def true_gain(weights: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean gain of the first arm over the second, in accuracy and in balanced accuracy.

    Training i of both arms is scored on fresh samples of its own, x (trainings, rows, genes), y (trainings, rows).
    """
    arms = [[weight[start : start + len(x)] for weight in weights] for start in (0, len(x))]
    gain = score(arms[0], x, y).astype(int) - score(arms[1], x, y)
    by_type = [gain[y == label].mean() for label in range(len(TRAINING))]
    return np.array([np.average(by_type, weights=TEST), np.mean(by_type)])


def one_cohort(trainings: int, true_trainings: int, fresh_rows: int, rng: np.random.Generator) -> list[tuple]:
    """Return (gain, epochs, measure, true gain, what gain_interval found) of all that one cohort tells."""
    simulation = Simulation.draw(rng)
    x, y, _ = simulation.patients(TRAINING, rng)
    test_x, test_y, groups = simulation.patients(TEST, rng)
    test = rnagen.Samples(test_x, test_y, groups)
    fresh_x, fresh_y, _ = simulation.patients(tuple(fresh_rows * n // sum(TEST) for n in TEST), rng)
    order = rng.permutation(len(fresh_y))[: len(fresh_y) // true_trainings * true_trainings].reshape(true_trainings, -1)
    runs = train(*draw_arms(simulation, (x, y), trainings, rng), trainings, rng)
    many_x, many_y = draw_arms(simulation, (x, y), true_trainings, rng)
    two = slice(0, 2 * true_trainings)
    truths = train(many_x[two], many_y[two], true_trainings, rng)
    found = []
    for epochs, run, truth in zip(EPOCHS, runs, truths, strict=True):
        fresh_arm, copies, others = score(run, test_x[None], test_y).reshape(3, trainings, -1)
        known = true_gain(truth, fresh_x[order], fresh_y[order])
        for balanced, name in enumerate(("accuracy", "balanced accuracy")):
            for kind, arm, expected in (("known", fresh_arm, known[balanced]), ("0", others, 0.0)):
                gain = rnagen.gain_interval(arm, copies, test, balanced=bool(balanced))
                found.append((kind, epochs, name, expected, gain))
    return found


def coverage(cohorts: int, trainings: int, true_trainings: int, fresh_rows: int, seed: int) -> dict[tuple, list]:
    """Return by (gain, epochs, measure): of each cohort, the true gain and what gain_interval found."""
    table: dict[tuple, list] = {}
    for number in range(cohorts):
        rng = np.random.default_rng([seed, number])
        for *key, expected, gain in one_cohort(trainings, true_trainings, fresh_rows, rng):
            table.setdefault(tuple(key), []).append((expected, gain))
    return table


def holds(expected: float, gain: rnagen.Gain) -> bool:
    low, high = gain.interval
    return low <= expected <= high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--trainings", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    table = coverage(args.cohorts, args.trainings, TRUE_TRAININGS, FRESH, args.seed)
    print(f"{args.cohorts} cohorts, {args.trainings} trainings, {time.perf_counter() - began:.0f} s")
    print("gain   epochs measure            true gain  half width  held (95% interval)")
    failed = 0
    for (kind, epochs, measure), found in sorted(table.items()):
        held = sum(holds(*pair) for pair in found)
        share = held / len(found)
        low, high = binomtest(held, len(found)).proportion_ci()
        half = np.mean([np.ptp(gain.interval) for _, gain in found]) / 2
        mean = np.mean([expected for expected, _ in found])
        print(f"{kind:6s} {epochs:6d} {measure:18s} {mean:+9.4f}  {half:10.4f}  {share:.1%} ({low:.1%}..{high:.1%})")
        failed |= not 0.9 <= share <= 0.99
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
