"""Rows and the centers that they belong to, a block of rows at a time: by label, or by distance."""

import numpy as np

from . import blocks
from .engine import add_rows, nearest

# Bytes of a block. Measured, k-means of 10^5 rows of 64 with 100 centers: 256 KiB 75 ms, 1 MiB 57, 4 MiB 55, 8 MiB 54.
BLOCK = 4 << 20
# Squared distances beyond these may have left double's range on the way: those of such rows are computed in another unit.
LEAST, MOST = 1e-250, 1e300


class NamedCenter(blocks.Step):
    """``row_loss(x, centers[label])``."""

    sums_are_double = True

    def prepare(self, count):
        self.centers = np.ascontiguousarray(self.shared["centers"], self.real)
        centers, features = self.centers.shape
        self.size = blocks.even_size(count, BLOCK // self.bytes_of_row(centers, features))
        self.own = self.buffer(self.size, features)

    def bytes_of_row(self, centers, features):
        return 2 * features * self.real.itemsize

    def value(self, x, label, weights):
        return self.row_loss(x, self._own(label), sample_weight=weights, **self.settings)

    def value_and_grad(self, x, label, weights):
        own = self._own(label)
        value, (slope, by_own) = self.row_loss.value_and_grad(x, own, sample_weight=weights, grad_out=(x, own), **self.settings)
        add_rows(self.sums["centers"], label, by_own)
        return value, slope

    def _own(self, label):
        return np.take(self.centers, label, axis=0, out=self.own[: len(label)], mode="clip")


class NearestCenter(NamedCenter):
    """``row_loss(x, nearest of the centers)``."""

    def prepare(self, count):
        super().prepare(count)
        wide = self.centers.astype(np.float64)
        # Where all lies far from 0, differences of products would have no digits left.
        self.middle = wide.mean(axis=0)
        self.wide = wide
        self.shifted = wide - self.middle
        self.halves = 0.5 * np.einsum("kd,kd->k", self.shifted, self.shifted)
        self.radius = np.sqrt(2 * self.halves.max())
        self.around = np.empty((self.size, wide.shape[1]))
        self.products = np.empty((self.size, len(wide)))

    def bytes_of_row(self, centers, features):
        return super().bytes_of_row(centers, features) + 8 * (centers + features)

    def value(self, x, _, weights):
        return super().value(x, self.assign(x), weights)

    def value_and_grad(self, x, _, weights):
        return super().value_and_grad(x, self.assign(x), weights)

    def assign(self, x):
        """The number of each row's nearest center, the first of equally near ones: as distances in double have it."""
        around, products = self.around[: len(x)], self.products[: len(x)]
        np.subtract(x, self.middle, out=around)
        np.matmul(around, self.shifted.T, out=products)
        # What rounding can have added to a difference of two of these costs, or of two distances.
        reach = np.sqrt(np.einsum("nd,nd->n", around, around)) + self.radius
        squares = reach * reach
        margins = 2 * (x.shape[1] + 4) * np.finfo(np.float64).eps * squares
        margins[~((squares > LEAST) & (squares < MOST))] = np.inf
        label, doubtful = np.empty(len(x), np.intp), np.empty(len(x), np.bool_)
        nearest(products, self.halves, margins, label, doubtful)
        rows = np.flatnonzero(doubtful)
        for start, stop in blocks.spans(len(rows), max(1, blocks.SCRATCH // 4 // self.wide.nbytes)):
            some = rows[start:stop]
            label[some] = self._by_distances(x[some])
        return label

    def _by_distances(self, x):
        """As `assign`, from all distances. Each row's are in a unit near its smallest, whose square does not leave double's range."""
        gaps = np.subtract(x[:, None], self.wide, dtype=np.float64)
        widest = np.abs(gaps, out=gaps).max(axis=2)
        np.copyto(widest, np.inf, where=widest == 0)
        gaps *= np.ldexp(1.0, np.clip(-np.frexp(widest.min(axis=1))[1], -1000, 1000))[:, None, None]
        return np.einsum("nkd,nkd->nk", gaps, gaps).argmin(axis=1)
