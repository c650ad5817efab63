"""A neural network in NumPy, for losses and optimizers to train."""

from collections.abc import Sequence
from copy import copy
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike


class Network:
    """Layers of weights and biases, with a ReLU after each but the last.

    Parameters
    ----------
    sizes : sequence of int
        The number of inputs, of each layer's units, and of outputs.
    rng : numpy.random.Generator
        Draws the weights.
    dtype : dtype, default float32
        That of weights and biases.
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> None:
        # He et al. (2015): with this variance a ReLU layer passes on as much as it gets.
        self.weights = [(rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(dtype) for shape in pairwise(sizes)]
        self.biases = [np.zeros(size, dtype) for size in sizes[1:]]

    @property
    def parameters(self) -> list[np.ndarray]:
        """The weights of all layers, then their biases: the arrays themselves, for an optimizer to rewrite."""
        return [*self.weights, *self.biases]

    def holding(self, parameters: Sequence[np.ndarray]) -> "Network":
        """A network of these arrays, in the order of `parameters`, such as an optimizer's averages."""
        other = copy(self)
        other.weights, other.biases = list(parameters[: len(self.weights)]), list(parameters[len(self.weights) :])
        return other

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """The outputs, a row for each row of `inputs`."""
        return self.activations(inputs)[-1]

    def activations(self, inputs: np.ndarray) -> list[np.ndarray]:
        """The forward pass: `inputs`, then what each layer makes of them; the last are the outputs."""
        found = [inputs]
        for weights, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            found.append(np.maximum(found[-1] @ weights + bias, 0))
        return [*found, found[-1] @ self.weights[-1] + self.biases[-1]]

    def gradients(self, activations: Sequence[np.ndarray], grad: np.ndarray) -> list[np.ndarray]:
        """The backward pass: from the loss's gradient in the outputs that in `parameters`, in their order."""
        weights, biases = [], []
        for layer in reversed(range(len(self.weights))):
            weights.append(activations[layer].T @ grad)
            biases.append(grad.sum(axis=0))
            if layer > 0:
                grad = grad @ self.weights[layer].T * (activations[layer] > 0)
        return [*reversed(weights), *reversed(biases)]
