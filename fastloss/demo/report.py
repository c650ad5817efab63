"""The demo's tables, at most 80 columns wide."""

from collections.abc import Sequence

import numpy as np

from .digits import (
    CLASSES_BATCH,
    CLASSES_EPOCHS,
    CLASSES_LAYERS,
    DIGITS_LR,
    MARGIN,
    NEIGHBOURS,
    PAIRS_BATCH,
    PAIRS_EPOCHS,
    PAIRS_LAYERS,
    SMOOTHING,
    WRONG,
    DigitClasses,
    DigitPairs,
    Q,
)
from .linear import (
    CANCER_EPOCHS,
    CANCER_LR,
    DELTA,
    DIABETES_EPOCHS,
    DIABETES_LR,
    LINEAR_EPOCHS,
    LINEAR_LR,
    OUTLIERS,
    SLIP,
    BreastCancer,
    Diabetes,
    LinearRegression,
)
from .race import EPOCHS, HESSIAN_EVERY, RACERS, Race

EVERY = 100
RIGHT, CLOSE = 0.95, 0.03


def linear_regression(result: LinearRegression) -> str:
    losses, ends = result.losses.values(), result.weights.values()
    epochs = range(0, LINEAR_EPOCHS + 1, EVERY)
    slope, intercept = result.exact
    return f"""\
1. Linear regression: y = 3 x + U(0, 1), 800 samples, 200 held out
   Squared error, full batches, lr = {LINEAR_LR:g} where not said. Solved directly, least
   squares gives the slope {slope:.3f} and the intercept {intercept:.3f}.

{
        _table(
            ["", *result.losses],
            [(f"loss, epoch {epoch:4}", *(f"{loss[epoch]:.4f}" for loss in losses)) for epoch in epochs],
            [
                ("held-out loss", *(f"{loss:.4f}" for loss in result.held_out.values())),
                ("slope", *(f"{weights[0]:.3f}" for weights in ends)),
                ("intercept", *(f"{weights[1]:.3f}" for weights in ends)),
            ],
        )
    }"""


def breast_cancer(result: BreastCancer) -> str:
    distances, accuracies = result.distances.values(), result.accuracies.values()
    return f"""\
2. Breast cancer: which loss for a classifier of y from p = sigmoid(logit)?
   Logistic loss against squared error (p - y)^2; gradient descent, lr = {CANCER_LR:g},
   {CANCER_EPOCHS} epochs, the same random start. In the logit the gradients are p - y and
   2 (p - y) p (1 - p): the second vanishes where the model is surely wrong.
   At p = 1/2 it is half the first, which the last column makes up for.

{
        _table(
            ["", *result.distances],
            [
                (f"epochs to {RIGHT:.0%} right", *(_first(share >= RIGHT) for share in accuracies)),
                (f"epochs to (p - y)^2 < {CLOSE}", *(_first(distance < CLOSE) for distance in distances)),
                ("(p - y)^2 at the end", *(f"{distance[-1]:.4f}" for distance in distances)),
                ("right in training", *(f"{share[-1]:.1%}" for share in accuracies)),
                ("right, held out", *(f"{share:.1%}" for share in result.held_out.values())),
            ],
        )
    }"""


def diabetes(result: Diabetes) -> str:
    labels = {"Huber": f"Huber, delta = {DELTA:g}"}
    return f"""\
3. Diabetes: which loss for targets with mistakes in them?
   {OUTLIERS:.0%} of the training targets are {SLIP:g} times too large, a slipped decimal point.
   Gradient descent, lr = {DIABETES_LR:g}, {DIABETES_EPOCHS} epochs; the held-out targets are clean.

{
        _table(
            ["held-out absolute error", "mean", "median"],
            [
                (labels.get(name, name), f"{errors[-1]:.1f}", f"{result.medians[name]:.1f}")
                for name, errors in result.errors.items()
            ],
        )
    }"""


def digit_classes(result: DigitClasses) -> str:
    labels = {
        "label smoothing": f"the same, label smoothing {SMOOTHING:g}",
        "generalized cross-entropy": f"generalized cross-entropy, q = {Q:g}",
    }
    return f"""\
4. Digits: a network of two layers, and which loss for labels with mistakes?
   8 x 8 pixels, layers {_layers(CLASSES_LAYERS)} with ReLU. AdamW, lr = {DIGITS_LR:g}, {CLASSES_EPOCHS} epochs
   in batches of {CLASSES_BATCH}. Of the training labels {WRONG:.0%} are wrong, or none; the held-out
   labels are right. Learnt: the share of the wrong labels the network repeats.

{
        _table(
            ["right, held out", "none wrong", f"{WRONG:.0%} wrong", "learnt"],
            [
                (labels.get(name, name), f"{clean[-1]:.1%}", f"{result.noisy[name][-1]:.1%}", f"{result.learnt[name]:.0%}")
                for name, clean in result.clean.items()
            ],
        )
    }"""


def digit_pairs(result: DigitPairs) -> str:
    labels = {
        "pixels": "64 pixels",
        "principal components": "2 principal components",
        "contrastive loss": "2 outputs, contrastive loss",
    }
    return f"""\
5. Digits: which map to the plane keeps them apart?
   Principal components, or a network told only whether two digits are the same:
   contrastive loss, margin {MARGIN:g}; layers {_layers(PAIRS_LAYERS)} with ReLU. AdamW,
   lr = {DIGITS_LR:g}, {PAIRS_EPOCHS} epochs in batches of {PAIRS_BATCH} pairs. Held-out digits are
   named by the training digits near them.

{
        _table(
            ["right, held out", "nearest class centre", f"{NEIGHBOURS} nearest neighbours"],
            [(labels[name], f"{share:.1%}", f"{result.by_neighbours[name]:.1%}") for name, share in result.by_centre.items()],
        )
    }"""


def optimizer_race(result: Race) -> str:
    return f"""\
6. Digits: which optimizer?
   Layers {_layers(CLASSES_LAYERS)} with ReLU, cross-entropy, {EPOCHS} epochs in batches of {CLASSES_BATCH},
   the same start and batches for all, each at the learning rate that suits it.
   The rate falls to 0 along a cosine, but for two that pace themselves: Rprop,
   which takes full batches, and ScheduleFreeAdamW. Every {HESSIAN_EVERY} steps Sophia gets
   an estimate of the Hessian. A step's time includes its schedule. With another
   start neighbours change places.

{
        _table(
            ["", "lr", "training loss", "right, held out", "us per step"],
            [
                (
                    name,
                    f"{RACERS[name][1]:g}",
                    f"{losses[-1]:.5f}",
                    f"{result.held_out[name]:.1%}",
                    f"{result.microseconds[name]:.1f}",
                )
                for name, losses in result.losses.items()
            ],
        )
    }"""


def _layers(sizes):
    return " -> ".join(map(str, sizes))


def _first(reached):
    """The first epoch at which something holds, as text."""
    return str(np.argmax(reached)) if reached.any() else "never"


def _table(headings: Sequence[str], *blocks: Sequence[Sequence[str]]) -> str:
    """Rows in blocks with rules between them; the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *(row for block in blocks for row in block), strict=True)]

    def line(cells):
        first, *others = (
            f"{cell:{'>' if k else '<'}{width}}" for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "   " + "  ".join([first, *others]).rstrip()

    rule = "   " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(headings), *(text for block in blocks for text in (rule, *map(line, block)))])
