"""Linear models trained by full-batch descent: which optimizer, and which loss?"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

import fastloss as fl

from .common import SEED, Curves, Track, split, untracked

# Adam's step is about as long as its learning rate, however small the gradient, so its rate is of another kind.
LINEAR_EPOCHS, LINEAR_LR, ADAM_LR = 1000, 0.01, 0.1
CANCER_EPOCHS, CANCER_LR = 400, 1.0
DIABETES_EPOCHS, DIABETES_LR, DELTA = 400, 0.1, 50.0
OUTLIERS, SLIP = 0.05, 10.0


@dataclass(frozen=True)
class LinearRegression:
    """By optimizer: the loss before each epoch and at the end, (slope, intercept) at the end, the held-out loss.

    `exact` is the (slope, intercept) of least squares, solved directly.
    """

    losses: Curves
    weights: Curves
    held_out: dict[str, float]
    exact: np.ndarray


@dataclass(frozen=True)
class BreastCancer:
    """By loss, before each epoch and at the end: mean (p - y)^2 and share of right answers in training; held-out share."""

    distances: Curves
    accuracies: Curves
    held_out: dict[str, float]


@dataclass(frozen=True)
class Diabetes:
    """By loss: held-out mean absolute error before each epoch and at the end, and the held-out median at the end."""

    errors: Curves
    medians: dict[str, float]


def linear_regression(track: Track = untracked) -> LinearRegression:
    """y = 3 x + noise under squared error: gradient descent, momentum and Adam."""
    rng = np.random.default_rng(SEED)
    x = rng.uniform(size=(1000, 1))
    parts = _split(x, 3 * x[:, 0] + rng.uniform(size=1000), rng)
    loss = partial(fl.squared_error.value_and_grad, target=parts.targets)
    losses, weights, held_out = {}, {}, {}
    for name, optimizer in {
        "gradient descent": partial(fl.SGD, lr=LINEAR_LR),
        "momentum 0.9": partial(fl.SGD, lr=LINEAR_LR, momentum=0.9),
        "Adam, lr 0.1": partial(fl.Adam, lr=ADAM_LR),
    }.items():
        path = _descend(parts.features, loss, optimizer, np.zeros(2), track(range(LINEAR_EPOCHS), name))
        losses[name] = np.array([fl.squared_error(parts.features @ w, parts.targets) for w in path])
        weights[name] = path[-1]
        held_out[name] = fl.squared_error(parts.held_out_features @ path[-1], parts.held_out_targets)
    return LinearRegression(losses, weights, held_out, np.linalg.lstsq(parts.features, parts.targets)[0])


def breast_cancer(track: Track = untracked) -> BreastCancer:
    """A linear classifier from a random start under logistic loss and under squared error of its probability."""
    from sklearn.datasets import load_breast_cancer

    rng = np.random.default_rng(SEED)
    features, targets = load_breast_cancer(return_X_y=True)
    parts = _split(features, targets.astype(float), rng, standardise=True)
    start = rng.standard_normal(parts.features.shape[1])
    logistic = partial(fl.binary_cross_entropy_with_logits.value_and_grad, target=parts.targets)
    squared = partial(_squared_error_of_probability, target=parts.targets)
    distances, accuracies, held_out = {}, {}, {}
    for name, loss, lr in (
        ("logistic loss", logistic, CANCER_LR),
        ("squared error", squared, CANCER_LR),
        ("squared error, 2 lr", squared, 2 * CANCER_LR),
    ):
        path = _descend(parts.features, loss, partial(fl.SGD, lr=lr), start, track(range(CANCER_EPOCHS), name))
        logits = path @ parts.features.T
        distances[name] = np.array([fl.squared_error(_sigmoid(row), parts.targets) for row in logits])
        accuracies[name] = np.mean((logits > 0) == parts.targets, axis=1)
        held_out[name] = float(np.mean((parts.held_out_features @ path[-1] > 0) == parts.held_out_targets))
    return BreastCancer(distances, accuracies, held_out)


def diabetes(track: Track = untracked) -> Diabetes:
    """A linear model of targets some of which have a slipped decimal point, under squared error and under Huber's loss."""
    from sklearn.datasets import load_diabetes

    rng = np.random.default_rng(SEED)
    features, targets = load_diabetes(return_X_y=True)
    parts = _split(features, targets, rng, standardise=True)
    slipped = parts.targets.copy()
    slipped[rng.permutation(len(slipped))[: round(OUTLIERS * len(slipped))]] *= SLIP
    errors, medians = {}, {}
    for name, loss in {
        "squared error": partial(fl.squared_error.value_and_grad, target=slipped),
        "Huber": partial(fl.huber.value_and_grad, target=slipped, delta=DELTA),
        "squared error, clean targets": partial(fl.squared_error.value_and_grad, target=parts.targets),
    }.items():
        start = np.zeros(parts.features.shape[1])
        optimizer = partial(fl.SGD, lr=DIABETES_LR)
        path = _descend(parts.features, loss, optimizer, start, track(range(DIABETES_EPOCHS), name))
        misses = np.abs(path @ parts.held_out_features.T - parts.held_out_targets)
        errors[name] = misses.mean(axis=1)
        medians[name] = float(np.median(misses[-1]))
    return Diabetes(errors, medians)


def _split(features, targets, rng, standardise=False):
    """A random fifth held out; features standardised by the other four fifths; a last column of ones, for the intercept."""
    parts = split(features, targets, rng)
    mean, deviation = (parts.features.mean(axis=0), parts.features.std(axis=0)) if standardise else (0, 1)

    def prepared(features):
        return np.column_stack([(features - mean) / deviation, np.ones(len(features))])

    return replace(parts, features=prepared(parts.features), held_out_features=prepared(parts.held_out_features))


def _descend(features, loss, optimizer, start, epochs):
    """The weights at the start and after each epoch; `loss` returns value and gradient in the predictions."""
    weights = start.copy()
    steps = optimizer(weights)
    path = [start]
    for _ in epochs:
        _, grad = loss(features @ weights)
        steps.step(features.T @ grad)
        path.append(weights.copy())
    return np.array(path)


def _squared_error_of_probability(logits, target):
    """(p - y)^2 and its gradient in the logits, by the chain rule: dp/dlogit = p (1 - p)."""
    p = _sigmoid(logits)
    value, grad = fl.squared_error.value_and_grad(p, target)
    return value, grad * p * (1 - p)


def _sigmoid(logits):
    return 0.5 * (1 + np.tanh(0.5 * logits))
