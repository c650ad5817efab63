"""Similarities between the rows of a block and all columns, and their gradients: products of matrices by NumPy's BLAS.

A similarity has room for one block. `forward` computes the similarities of the block's rows; `backward` takes the gradient with
respect to them, returns that of the rows, and adds that of the columns to `sums`; `finish` completes the latter after the last
block. Columns are taken in parts, as NumPy's products cannot add to an array.
"""

import numpy as np

from ...formula.pairs import LEAST_LENGTH
from . import blocks

# Measured with 2^16 rows of 64 features and 10 classes: 512 rows at once take 11.1 ms, 4096 7.3, 16384 7.3.
MOST_ROWS = 4096


class Dot:
    """The product of a row and a column, plus the column's bias."""

    # Whether the products are in double even where the arrays are not.
    is_double = False
    # Arrays of the block's rows and features, with the rows themselves.
    arrays_of_rows = 3

    def __init__(self, columns, bias, sums, real, count, structures):
        self.columns, self.bias, self.sums, self.real = columns, bias, sums, real
        self.factor = np.dtype(np.float64) if self.is_double else real
        number, features = columns.shape
        # A quarter of the scratch memory for a part of the columns, the rest for rows.
        part = max(1, blocks.SCRATCH // 4 // (features * self.factor.itemsize))
        self.parts = [slice(start, min(start + part, number)) for start in range(0, number, part)]
        of_row = (
            number * (real.itemsize * (1 + structures) + 8 * self.is_double)
            + self.arrays_of_rows * features * self.factor.itemsize
        )
        self.size = blocks.even_size(count, min(blocks.SCRATCH * 3 // 4 // of_row, MOST_ROWS))
        self.similarities = np.empty((self.size, number), real)
        self.products = np.empty((self.size, number)) if self.is_double else self.similarities
        self.slope, self.summand = np.empty((2, self.size, features), self.factor)
        self.part = np.empty((min(part, number), features), self.factor)
        self.is_plain = columns.dtype == self.factor and columns.flags.c_contiguous
        if bias is not None:
            self.wide_bias = bias.astype(self.factor, copy=False)
            self.part_of_bias = np.empty(number, self.factor)
        self.prepare()

    def prepare(self):
        """Compute what all blocks share."""

    def forward(self, x):
        products = self._multiply(x)
        if self.bias is not None:
            products += self.wide_bias
        return products

    def backward(self, x, gradient):
        self._add_to_bias(gradient)
        return self._pass_on(x, gradient)

    def finish(self):
        pass

    def _multiply(self, x):
        products = self.products[: len(x)]
        for part in self.parts:
            np.matmul(x, self._columns(part).T, out=products[:, part])
        return products

    def _pass_on(self, x, gradient):
        """The gradient of the product with respect to `x`, those with respect to the columns being added to their sum."""
        slope, summand = self.slope[: len(x)], self.summand[: len(x)]
        slope[...] = 0
        by_columns = self.sums[0]
        for part in self.parts:
            by_part = gradient[:, part]
            slope += np.matmul(by_part, self._columns(part), out=summand)
            product = self.part[: part.stop - part.start]  # where the part of the columns has been
            by_columns[part] += np.matmul(by_part.T, x, out=product)
        return slope

    def _add_to_bias(self, gradient):
        if self.bias is not None:
            self.sums[1] += np.sum(gradient, axis=0, out=self.part_of_bias)

    def _columns(self, part):
        """Columns as BLAS takes them: the same bits whatever their layout."""
        if self.is_plain:
            return self.columns[part]
        columns = self.part[: part.stop - part.start]
        columns[...] = self.columns[part]
        return columns


class Cosine(Dot):
    """The cosine of the angle between a row and a column, plus the column's bias."""

    arrays_of_rows = 5

    def prepare(self):
        self.inverse, self.is_long = np.empty(len(self.columns), self.real), np.empty(len(self.columns), np.bool_)
        for part in self.parts:
            self.inverse[part], self.is_long[part] = self._lengths(self._columns(part))
        self.unit = np.empty((self.size, self.columns.shape[1]), self.real)

    def _lengths(self, rows):
        """The inverse of each length, at most 1e8, and whether the length exceeds 1e-8: where it does not it counts as constant."""
        unit = np.maximum(np.abs(rows).max(axis=1), 1)  # squares of larger numbers may overflow
        scaled = rows / unit[:, None]
        length = unit * np.sqrt(np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64))
        return 1 / np.maximum(length, LEAST_LENGTH), length > LEAST_LENGTH

    def forward(self, x):
        inverse, self.row_is_long = self._lengths(x)
        self.row_inverse = inverse.astype(self.real)
        np.multiply(x, self.row_inverse[:, None], out=self.unit[: len(x)])
        products = self._multiply(self.unit[: len(x)])
        products *= self.inverse
        if self.bias is not None:
            products += self.wide_bias
        return products

    def backward(self, x, gradient):
        self._add_to_bias(gradient)
        gradient *= self.inverse
        unit = self.unit[: len(x)]
        slope = self._pass_on(unit, gradient)
        # Along the row itself nothing changes.
        radial = np.einsum("nd,nd->n", unit, slope) * self.row_is_long
        slope -= np.multiply(unit, radial[:, None], out=self.summand[: len(x)])
        slope *= self.row_inverse[:, None]
        return slope

    def finish(self):
        for part in self.parts:
            columns, by_columns, inverse = self._columns(part), self.sums[0][part], self.inverse[part]
            unit = columns * inverse[:, None]
            radial = np.einsum("nd,nd->n", unit, by_columns) * self.is_long[part]
            by_columns -= unit * radial[:, None]


class SquaredDistance(Dot):
    """The squared distance between a row and a column, plus the column's bias; the products are in double."""

    is_double = True
    arrays_of_rows = 4

    def prepare(self):
        # Where everything lies far from 0, differences of products would have no digits left.
        self.middle = self.columns.mean(axis=0, dtype=np.float64)
        self.squares = np.empty(len(self.columns))
        self.totals = np.zeros(len(self.columns))
        self.is_plain = False
        for part in self.parts:
            columns = self._columns(part)
            np.einsum("kd,kd->k", columns, columns, out=self.squares[part])
        self.around = np.empty((self.size, self.columns.shape[1]))

    def _columns(self, part):
        return np.subtract(self.columns[part], self.middle, out=self.part[: part.stop - part.start])

    def forward(self, x):
        similarities = self.similarities[: len(x)]
        similarities[...] = self._distances(x)
        if self.bias is not None:
            similarities += self.wide_bias
        return similarities

    def _distances(self, x):
        around = np.subtract(x, self.middle, out=self.around[: len(x)])
        products = self._multiply(around)
        products *= -2
        products += np.einsum("nd,nd->n", around, around)[:, None]
        products += self.squares
        return np.maximum(products, 0, out=products)

    def backward(self, x, gradient):
        self._add_to_bias(gradient)
        products = self.products[: len(x)]
        products[...] = gradient
        return self._from_squares(x, products)

    def _from_squares(self, x, gradient):
        """The gradient of the rows, given that with respect to the squared distances."""
        around = self.around[: len(x)]
        gradient *= -2
        self.totals -= gradient.sum(axis=0)
        slope = self._pass_on(around, gradient)
        slope -= np.multiply(around, gradient.sum(axis=1)[:, None], out=self.summand[: len(x)])
        return slope

    def finish(self):
        for part in self.parts:
            self.sums[0][part] += self._columns(part) * self.totals[part, None]


class Distance(SquaredDistance):
    """The distance between a row and a column, plus the column's bias; its derivative at 0 is 0."""

    def _distances(self, x):
        products = super()._distances(x)
        return np.sqrt(products, out=products)

    def backward(self, x, gradient):
        self._add_to_bias(gradient)
        products = self.products[: len(x)]
        products *= 2
        np.divide(gradient, products, out=products, where=products > 0)
        return self._from_squares(x, products)


SIMILARITIES = {"dot": Dot, "cosine": Cosine, "squared_distance": SquaredDistance, "distance": Distance}
