"""Where an optimizer's arrays are, and what makes, copies and steps them there: one backend for all arrays of an optimizer."""

import numpy as np

from .. import interop
from .._kernels import arrays
from .._kernels.cpu import atomic
from .._kernels.cpu.engine import RuleVariant, Sweep


class CpuBackend:
    """NumPy's arrays."""

    sweep = Sweep

    def parameter(self, who, name, array):
        """The array that is rewritten in place, in a view of its own: of the one given, or the memory of a PyTorch tensor."""
        array = interop.writable(who, name, array)
        if type(array) is not np.ndarray:
            raise TypeError(f"{who}: {name} must be a NumPy array, for it is rewritten in place, got {type(array).__name__}")
        arrays.check_floating(who, name, array)
        arrays.check_output(who, name, array, array.shape, array.dtype.newbyteorder("="))
        return array.view()

    def row_gradient(self, who, name, param, grad):
        """Row numbers and values of a sparse gradient, every row once. The row numbers are a copy: nobody else can change them."""
        rows, values = np.array(grad.rows), np.asarray(grad.values)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise TypeError(
                f"{who}: the rows of the gradient of {name} must be whole numbers of shape (n,), got {rows.dtype} {rows.shape}"
            )
        if values.shape != (len(rows), *param.shape[1:]) or param.ndim == 0:
            raise ValueError(
                f"{who}: the values of the gradient of {name} must have the shape {(len(rows), *param.shape[1:])}, got {values.shape}"
            )
        outside = (rows < 0) | (rows >= param.shape[0])
        if outside.any():
            raise ValueError(
                f"{who}: the rows of the gradient of {name} must be from 0 to {param.shape[0] - 1}, got {rows[outside][0]}"
            )
        rows = rows.astype(np.int64, order="C")
        if (rows[1:] > rows[:-1]).all():
            return rows, values
        order = np.argsort(rows, kind="stable")
        rows, first = np.unique(rows[order], return_index=True)
        precision = np.float64 if param.dtype == np.float64 else np.float32
        arrays.check_floating(who, f"the gradient of {name}", values)
        with np.errstate(all="ignore"):
            return rows, np.add.reduceat(values[order].astype(precision), first, axis=0)

    def shown(self, array):
        """What the caller knows an array of the engine as."""
        return array

    def zeros(self, like, dtype):
        return np.zeros(like.shape, dtype)

    def copied(self, values, dtype, like=None):
        """A new array of the same numbers, beside `like`."""
        with np.errstate(all="ignore"):
            return np.array(values, dtype, order="C")

    def wide(self, array):
        """A copy in the precision that averages are kept in."""
        return self.copied(array, np.float64 if array.dtype == np.float64 else np.float32)

    def assign(self, targets, values, changes=None):
        """Copy the numbers of arrays into others, rounded without a word, as the kernels round, and make the changes: as one act."""
        with np.errstate(all="ignore"):
            atomic.assign(targets, values, changes)

    def saved(self, array):
        """NumPy's copy of an array."""
        return array.copy()

    def saved_states(self, states):
        """Saved states as NumPy's arrays."""
        return states

    def check_rows(self, who):
        """Rows may have learning rates of their own."""

    def variant(self, rule, choice, library):
        names = [name for name, _ in rule.slots()]
        return RuleVariant(rule.variant_name(choice), library, names.index("lr") if "lr" in names else -1)

    def steps(self, known):
        """How many steps were taken."""
        return known

    def recount(self):
        """The count of steps was set."""

    def __reduce__(self):
        return "CPU"


CPU = CpuBackend()


def backend_of(who, first):
    """The backend for an optimizer, by the first of its arrays."""
    if first is None or not interop.on_device(first):
        return CPU
    from .loss import load_cuda

    return load_cuda(who).kept.CudaBackend(who)
