"""Rows and the one column that each is compared with, block by block: the one that its label names, or the nearest."""

import numpy as np

from . import blocks
from .engine import add_rows, nearest

# Bytes of a block. Measured, k-means of 10^5 rows of 64 with 100 centers: 256 KiB 75 ms, 1 MiB 57, 4 MiB 55, 8 MiB 54.
BLOCK = 4 << 20
# Squared distances beyond these may have left double's range on the way: those of such rows are computed in another unit.
LEAST, MOST = 1e-250, 1e300


class Labelled:
    """The similarity of a row and the column that its label names; `kernel` computes it and both gradients."""

    def __init__(self, columns, sums, real, count, kernel):
        self.columns, self.sums, self.kernel, self.real = np.ascontiguousarray(columns, real), sums, kernel, real
        self.size = blocks.even_size(count, BLOCK // self.bytes_of_row(*columns.shape))
        self.own = np.empty((self.size, columns.shape[1]), real)
        self.prepare()

    def prepare(self):
        """Compute what all blocks share."""

    def bytes_of_row(self, columns, features):
        return 2 * features * self.real.itemsize

    def label(self, block):
        return block.target

    def run(self, block, value_out, with_gradient):
        """The value, and the gradient of the block's rows, which it is written over; that of the columns is added to `sums`."""
        label = self.label(block)
        own = np.take(self.columns, label, axis=0, out=self.own[: len(label)], mode="clip")
        if not with_gradient:
            return self.kernel.value((block.x, own), block.weights, value_out), None
        value = self.kernel.value_and_grad((block.x, own), block.weights, value_out, (block.x, own))
        add_rows(self.sums[0], label, own)
        return value, block.x

    def finish(self):
        pass


class Nearest(Labelled):
    """The squared distance of a row and the nearest column."""

    def prepare(self):
        self.wide = wide = self.columns.astype(np.float64)
        # Where everything lies far from 0, differences of products would have no digits left.
        self.middle = wide.mean(axis=0)
        self.shifted = wide - self.middle
        self.halves = 0.5 * np.einsum("kd,kd->k", self.shifted, self.shifted)
        self.radius = np.sqrt(2 * self.halves.max())
        self.around = np.empty((self.size, wide.shape[1]))
        self.products = np.empty((self.size, len(wide)))
        self.labels, self.doubtful = np.empty(self.size, np.intp), np.empty(self.size, np.bool_)

    def bytes_of_row(self, columns, features):
        return super().bytes_of_row(columns, features) + 8 * (columns + features)

    def label(self, block):
        return self.assign(block.x)

    def assign(self, x):
        """The index of each row's nearest column, the first of equally near ones, as distances in double tell."""
        rows = slice(len(x))
        around, products, label, doubtful = self.around[rows], self.products[rows], self.labels[rows], self.doubtful[rows]
        np.subtract(x, self.middle, out=around)
        np.matmul(around, self.shifted.T, out=products)
        # The most that rounding can have added to the difference of two of these costs, or of two distances.
        reach = np.sqrt(np.einsum("nd,nd->n", around, around)) + self.radius
        squares = reach * reach
        margins = 2 * (x.shape[1] + 4) * np.finfo(np.float64).eps * squares
        margins[~((squares > LEAST) & (squares < MOST))] = np.inf
        nearest(products, self.halves, margins, label, doubtful)
        unsure = np.flatnonzero(doubtful)
        for start, stop in blocks.spans(len(unsure), max(1, blocks.SCRATCH // 4 // self.wide.nbytes)):
            some = unsure[start:stop]
            label[some] = self._by_distances(x[some])
        return label

    def _by_distances(self, x):
        """As `assign`, from all distances. Each row's are in a unit near its smallest, whose square does not leave double's range."""
        gaps = np.subtract(x[:, None], self.wide, dtype=np.float64)
        widest = np.abs(gaps, out=gaps).max(axis=2)
        np.copyto(widest, np.inf, where=widest == 0)
        gaps *= np.ldexp(1.0, np.clip(-np.frexp(widest.min(axis=1))[1], -1000, 1000))[:, None, None]
        return np.einsum("nkd,nkd->nk", gaps, gaps).argmin(axis=1)
