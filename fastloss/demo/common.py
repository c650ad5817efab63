"""What all experiments share.

Every experiment is a deterministic function that trains a few models and returns what it measured. It takes `track`, which is
given a range of epochs and a model's name and returns what to iterate over.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Track = Callable[[range, str], Iterable[int]]
Curves = dict[str, np.ndarray]

SEED = 0


@dataclass(frozen=True)
class Parts:
    """Features, a row for each sample, and targets, for training and held out."""

    features: np.ndarray
    targets: np.ndarray
    held_out_features: np.ndarray
    held_out_targets: np.ndarray


def untracked(epochs: range, name: str) -> range:
    """The `track` that shows nothing."""
    return epochs


def split(features: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Parts:
    """A random fifth held out."""
    held_out, train = np.split(rng.permutation(len(targets)), [len(targets) // 5])
    return Parts(features[train], targets[train], features[held_out], targets[held_out])
