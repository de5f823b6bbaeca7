"""What differential privacy costs: a classifier trained on synthetic samples, tested on real ones (TSTR).

    python tests/benchmarks/privacy.py RNASEQ TYPES [--top_k_types 20] [--transform none] [--epsilons 10 4 1]
        [--seeds 3] [--per_type N ...] [--force]

The most frequent types are private, half of their samples train, and all other types make the public table. Prints,
over splits that each have noise of their own, the balanced accuracy of the report's logistic regression trained on as
many samples as a report draws, and of the generator's own densities; then the two-sample AUC and the tracing attack's.
--per_type takes so many training samples of each type; --force fits what is refused as too small, which is how
MIN_MU_PATIENTS was chosen.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))
import rnagen

DELTA = 1e-5
ROWS = 5000
COLUMNS = "logistic regression", "own densities", "two-sample AUC", "tracing AUC"


def tracing_auc(drawn: rnagen.Samples, members: rnagen.Samples, others: rnagen.Samples) -> float:
    """Lean towards the drawn means, whitened: from one half of the others, tested on the other (Dwork et al. 2015)."""
    known, outside = others.take(np.arange(len(others)) % 2 == 0), others.take(np.arange(len(others)) % 2 == 1)
    types = range(int(members.y.max()) + 1)
    centre = np.array([known.x[known.y == label].mean(0) for label in types])
    lean = np.array([drawn.x[drawn.y == label].mean(0) for label in types]) - centre
    direction = lean @ np.linalg.inv(LedoitWolf().fit(known.x - centre[known.y]).covariance_)
    scores = [((part.x - centre[part.y]) * direction[part.y]).sum(1) for part in (members, outside)]
    label = np.repeat([1, 0], [len(part) for part in scores])
    return roc_auc_score(label, np.concatenate(scores))


def two_sample_auc(drawn: np.ndarray, real: np.ndarray) -> float:
    """Tell drawn from real rows by a logistic regression, trained on every other row of both and tested on the rest."""
    x, y = np.concatenate([drawn, real]), np.repeat([0, 1], [len(drawn), len(real)])
    model = LogisticRegression(C=0.01, max_iter=200).fit(x[::2], y[::2])
    return roc_auc_score(y[1::2], model.decision_function(x[1::2]))


def measure(
    training: rnagen.Cohort,
    test: rnagen.Cohort,
    public: rnagen.Cohort | None,
    epsilon: float,
    transform: str,
    seed: int,
) -> tuple[list[float], rnagen.Privacy]:
    """Fit and draw once; return the columns, and what the fit guarantees."""
    scale, factors, privacy = rnagen.fit_private(training, public, epsilon, DELTA, transform)
    types = np.unique(training.types)
    counts = np.bincount(np.searchsorted(types, training.types))
    model = rnagen.Generator("gaussian", factors, scale.lowest)
    sampler = rnagen.Sampler(model, scale, training.genes, types, counts)
    labels = rnagen.stream(seed, "labels").permutation(np.resize(np.repeat(np.arange(len(types)), counts), ROWS))
    values = np.concatenate([*sampler.draw(labels, seed, "benchmark")])
    both = np.concatenate([training.expression, test.expression])
    real = rnagen.Preprocessing.fit(both, scale.transform, np.concatenate([training.types, test.types]))
    members, others = real.samples(training, types), real.samples(test, types)
    drawn = rnagen.Samples(real.standardise(values), labels.astype(np.int32))
    own = factors.log_density(scale.standardise(test.expression)).argmax(1)
    classifier = rnagen.fit_logistic_regression(drawn, len(types), rnagen.LOGISTIC_C[0])
    predictions = classifier.predict(others.x).argmax(1), own
    balanced = [rnagen.score_predictions(predicted, others.y)["balanced_accuracy"] for predicted in predictions]
    return [*balanced, two_sample_auc(drawn.x, others.x), tracing_auc(drawn, members, others)], privacy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rnaseq", type=Path)
    parser.add_argument("types", type=Path)
    parser.add_argument("--top_k_types", type=int, default=20)
    parser.add_argument("--transform", default="none")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[10, 4, 1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per_type", type=int, nargs="+", default=[0])
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    if args.force:
        rnagen.MIN_MU_PATIENTS, rnagen.MIN_MU_ALL, rnagen.MAX_CENTRE_NOISE = 0.0, 0.0, 1e9
    cohort = rnagen.read_cohort(rnagen.TableConfig(args.rnaseq, args.types))
    private = rnagen.keep_top_types(cohort, args.top_k_types)
    others = cohort.take(~np.isin(cohort.types, private.types))
    print("| per type | epsilon | from | " + " | ".join(COLUMNS) + " | no attack above |")
    print("|---" * (4 + len(COLUMNS)) + "|")
    for per_type in args.per_type:
        for epsilon in args.epsilons:
            for name, public in (("private only", None), ("and public", others)):
                runs = []
                for seed in range(args.seeds):
                    training, test = rnagen.split_cohort(private, 0.5, seed, per_type or None)
                    columns, privacy = measure(training, test, public, epsilon, args.transform, seed)
                    runs.append(columns)
                mean, sd = np.mean(runs, axis=0), np.std(runs, axis=0)
                cells = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, sd, strict=True))
                print(
                    f"| {per_type or 'half'} | {epsilon:g} | {name} | {cells} | {privacy.attack_ceiling:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
