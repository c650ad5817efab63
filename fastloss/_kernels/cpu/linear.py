"""A linear layer before a row loss, a block of rows at a time: products through NumPy's BLAS, the logits in one buffer."""

import numpy as np

from . import blocks

# Measured with 2^16 rows of 64 features and 10 classes: 512 rows at once take 11.1 ms, 4096 7.3, 16384 7.3.
MOST_ROWS = 4096


class Linear(blocks.Step):
    """``row_loss(x @ weight.T + bias)``."""

    is_on_device = True

    def prepare(self, count):
        self.weight, self.bias = self.shared["weight"], self.shared.get("bias")
        classes, features = self.weight.shape
        # A quarter for a part of the weight's gradient, as NumPy's products cannot add to what is there; the rest for rows.
        part = max(1, blocks.SCRATCH // 4 // (features * self.real.itemsize))
        self.parts = [slice(start, min(start + part, classes)) for start in range(0, classes, part)]
        room = blocks.SCRATCH * 3 // 4 // ((classes + 3 * features) * self.real.itemsize)
        self.size = blocks.even_size(count, min(room, MOST_ROWS))
        self.logits = self.buffer(self.size, classes)
        self.slope, self.part_of_slope = self.buffer(self.size, features), self.buffer(self.size, features)
        self.part = self.buffer(min(part, classes), features)
        self.weight_is_plain = self.weight.dtype == self.real and self.weight.flags.c_contiguous

    def value(self, x, target, weights):
        return self.row_loss(self._forward(x), target=target, sample_weight=weights, **self.settings)

    def value_and_grad(self, x, target, weights):
        logits = self._forward(x)
        value, _ = self.row_loss.value_and_grad(logits, target=target, sample_weight=weights, grad_out=logits, **self.settings)
        return value, self._backward(x, logits)

    def _forward(self, x):
        logits = self.logits[: len(x)]
        for part in self.parts:
            np.matmul(x, self._weight(part).T, out=logits[:, part])
            if self.bias is not None:
                logits[:, part] += self.bias[part].astype(self.real, copy=False)
        return logits

    def _backward(self, x, by_logits):
        slope, summand = self.slope[: len(x)], self.part_of_slope[: len(x)]
        slope[...] = 0
        for part in self.parts:
            by_part = by_logits[:, part]
            slope += np.matmul(by_part, self._weight(part), out=summand)
            by_weight = self.part[: part.stop - part.start]  # where the part of the weight has been
            self.sums["weight"][part] += np.matmul(by_part.T, x, out=by_weight)
            if self.bias is not None:
                self.sums["bias"][part] += by_part.sum(axis=0)
        return slope

    def _weight(self, part):
        """Rows of the weight as BLAS wants them: the same bits whatever their layout."""
        if self.weight_is_plain:
            return self.weight[part]
        rows = self.part[: part.stop - part.start]
        rows[...] = self.weight[part]
        return rows
