"""Where the generator's defaults come from: inner splits of one training half of a cohort, never its test samples.

    python tests/benchmarks/generator.py RNASEQ TYPES [--top_k_types 20] [--train_per_type N] [--seeds 5] [--steps 900]

For each seed two thirds of a training half are trained on and the rest is held out. Prints, as means and 95% intervals
over seeds, what each choice changes on the held-out samples:

- nats per sample against the factor model, by learning rate and schedule, with the best validation epoch kept;
- log likelihood of independent genes, by how many samples the pooled variance counts as beside a type's own;
- two-sample AUC of samples in the training proportions (0.5 is perfect), from a plain Gaussian of each type upwards;
- gain of the classifier in balanced accuracy over as many steps on real samples alone, by the real share of what it is
  shown and by how the synthetic samples were drawn.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

PEAKS = (0.001, 0.002, 0.004, 0.008, 0.016)
POOLED_ROWS = (1, 3, 10, 30, 100)
SHARES = (0.0, 0.25, 0.5, 0.75)
N_SYNTHETIC = 10_000
BATCH_SIZE = 128

Scores = Iterator[tuple[str, float]]  # what was tried, and how it did


def fit_network(dataset: rnagen.Dataset, factors: rnagen.Factors, rate: Any, seed: int) -> tuple[rnagen.CVAE, int]:
    """Train for the default number of epochs; return the network with its best epoch's weights, and that epoch."""
    fitted = dataset.preprocessing
    weights = rnagen.stream(seed, "generator weights")
    network = rnagen.CVAE("cvae", factors, fitted.lowest, fitted.unit_scale, weights)
    trainer = rnagen.Trainer(network, dataset.train.x.shape[1], BATCH_SIZE, rate)
    trainer.start(dataset.train, network.copy_weights(), rnagen.stream(seed, "generator order"))
    return network, rnagen.fit(trainer, rnagen.ModelConfig().epochs, dataset.validation, seed)[1]


def try_schedules(dataset: rnagen.Dataset, factors: rnagen.Factors, seed: int) -> Scores:
    steps = rnagen.ModelConfig().epochs * -(-len(dataset.train) // BATCH_SIZE)
    kept_peak = rnagen.PEAK_RATE
    for peak in PEAKS:
        rnagen.PEAK_RATE = peak
        for name, rate in (("constant", peak), ("warm-up and cosine", rnagen.generator_learning_rate(steps))):
            network, _ = fit_network(dataset, factors, rate, seed)
            after = network.evaluate(dataset.test, rnagen.stream(seed, "held out"))["loss"]
            fitted = dataset.preprocessing
            start = rnagen.CVAE("cvae", factors, fitted.lowest, fitted.unit_scale, rnagen.stream(seed, "unused"))
            before = start.evaluate(dataset.test, rnagen.stream(seed, "held out"))["loss"]
            yield f"loss, {name}, rate {peak:g}", after - before
    rnagen.PEAK_RATE = kept_peak


def try_pooled_rows(dataset: rnagen.Dataset) -> Scores:
    types, test = len(dataset.types), dataset.test
    means, counts, residuals = rnagen.class_residuals(dataset.train, types)
    kept = rnagen.SD_POOLED_ROWS
    for rows in POOLED_ROWS:
        rnagen.SD_POOLED_ROWS = rows
        sd = rnagen.mean_error(counts)[:, None] * rnagen.shrunk_sd(residuals, types)
        yield f"log likelihood, {rows} pooled rows", stats.norm.logpdf(test.x, means[test.y], sd[test.y]).sum(1).mean()
    rnagen.SD_POOLED_ROWS = kept


def two_sample_auc(drawn: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> float:
    """Return how well boosted trees on 50 principal components tell the rest of two samples from each other."""
    rows = min(len(drawn), len(real))
    x = np.concatenate([table[rng.permutation(len(table))[:rows]] for table in (drawn, real)])
    order, is_real = rng.permutation(2 * rows), np.repeat([0, 1], rows)
    train, test = order[:rows], order[rows:]
    pca = PCA(min(50, rows - 1), random_state=0).fit(x[train])
    trees = HistGradientBoostingClassifier(max_iter=80, random_state=0).fit(pca.transform(x[train]), is_real[train])
    return roc_auc_score(is_real[test], trees.predict_proba(pca.transform(x[test]))[:, 1])


def generators(dataset: rnagen.Dataset, factors: rnagen.Factors, seed: int) -> dict[str, rnagen.Generator]:
    """Return generators from a plain Gaussian of each type to the trained network."""
    lowest = dataset.preprocessing.lowest
    implied_sd = rnagen.Generator("cvae", factors, lowest).drawn_sd
    plain = dataclasses.replace(factors, type_sd=implied_sd, radius_sd=np.zeros(2, np.float32))
    own_sd = dataclasses.replace(plain, type_sd=factors.type_sd)
    found = {"plain Gaussians": plain, "and the type's own sd": own_sd, "and a radius": factors}
    models = {name: rnagen.Generator("cvae", each, lowest) for name, each in found.items()}
    steps = rnagen.ModelConfig().epochs * -(-len(dataset.train) // BATCH_SIZE)
    for name, always in (("trained, latents of the factor model", False), ("trained, latents fitted", True)):
        network, epoch = fit_network(dataset, factors, rnagen.generator_learning_rate(steps), seed)
        network.finish(dataset.train, seed, trained=always and epoch > 0)
        models[name] = network
    return models


def sampler(dataset: rnagen.Dataset, model: rnagen.Generator) -> rnagen.Sampler:
    return rnagen.Sampler(model, dataset.preprocessing, dataset.genes, dataset.types, dataset.counts())


def try_generators(dataset: rnagen.Dataset, factors: rnagen.Factors, seed: int) -> Scores:
    labels = rnagen.stream(seed, "labels").choice(dataset.train.y, N_SYNTHETIC)
    nothing = dataset.train.take(np.arange(0))
    for name, model in generators(dataset, factors, seed).items():
        drawn = sampler(dataset, model).samples_after(nothing, dataset.preprocessing, labels, seed, "realism")
        aucs = [two_sample_auc(drawn.x, dataset.test.x, rnagen.stream(seed, "auc", n)) for n in range(3)]
        yield f"two-sample AUC, {name}", float(np.mean(aucs))


def try_real_shares(dataset: rnagen.Dataset, factors: rnagen.Factors, seed: int, steps: int) -> Scores:
    types = len(dataset.types)
    config = rnagen.ExperimentConfig(trainings=1)
    arms = rnagen.ArmTrainer(dataset, config, seed, rnagen.ALONE, N_SYNTHETIC)
    labels = rnagen.stream(seed, "labels").integers(types, size=N_SYNTHETIC)

    def balanced_accuracy(rows: rnagen.Samples) -> float:
        predicted, _ = arms.start(lambda training: rows, [steps])()
        return rnagen.score_predictions(predicted[0, 0], dataset.test.y)["balanced_accuracy"]

    real = balanced_accuracy(dataset.train)
    models, kept_share = generators(dataset, factors, seed), rnagen.REAL_SHARE
    for share in SHARES:
        rnagen.REAL_SHARE = share
        copies = dataset.train.join(rnagen.draw_copies(dataset.train, labels, rnagen.stream(seed, "copies")))
        yield f"gain, copies, real share {share:g}", 100 * (balanced_accuracy(copies) - real)
        for name in ("plain Gaussians", "and the type's own sd", "and a radius"):
            drawn = (dataset.preprocessing, labels, seed, "gain", rnagen.TRAINING_TEMPERATURE)
            rows = sampler(dataset, models[name]).samples_after(dataset.train, *drawn)
            yield f"gain, {name}, real share {share:g}", 100 * (balanced_accuracy(rows) - real)
    rnagen.REAL_SHARE = kept_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rnaseq", type=Path)
    parser.add_argument("types", type=Path)
    parser.add_argument("--top_k_types", type=int)
    parser.add_argument("--train_per_type", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=900)
    args = parser.parse_args()
    rnagen.start_tensorflow()
    cohort = rnagen.keep_top_types(rnagen.read_cohort(rnagen.TableConfig(args.rnaseq, args.types)), args.top_k_types)
    scores: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        half, _ = rnagen.split_cohort(cohort, 0.5, seed, args.train_per_type)
        dataset = rnagen.prepare_dataset(half, 1 / 3, "auto", seed)
        factors = rnagen.fit_factor_model(dataset.train, len(dataset.types), None, seed)
        for found in (
            try_schedules(dataset, factors, seed),
            try_pooled_rows(dataset),
            try_generators(dataset, factors, seed),
            try_real_shares(dataset, factors, seed, args.steps),
        ):
            for name, score in found:
                scores.setdefault(name, []).append(score)
        print(f"seed {seed}: {len(dataset.train)} samples to train on, {len(dataset.test)} held out", file=sys.stderr)
    print(f"{cohort.name}: {len(dataset.types)} types, {args.seeds} seeds")
    for name, values in scores.items():
        half_width = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
        print(f"{name:60s} {np.mean(values):+9.3f} +- {half_width:.3f}", flush=True)


if __name__ == "__main__":
    main()
