"""Where an optimizer's arrays lie, and what makes, copies and steps them there: the engine of each optimizer, one for all its arrays."""

import numpy as np

from .. import interop
from .._kernels.cpu.engine import RuleVariant, Sweep
from .loss import load_cuda
from .parameters import as_parameter, row_gradient


class Host:
    """NumPy's arrays."""

    sweep = Sweep
    row_gradient = staticmethod(row_gradient)

    def parameter(self, who, name, given):
        """The array as the engine works with it, if it can be rewritten in place."""
        return as_parameter(who, name, given)

    def shown(self, array):
        """What the caller knows an array of the engine as."""
        return array

    def zeros(self, like, dtype):
        return np.zeros(like.shape, dtype)

    def copied(self, values, dtype, like=None):
        """A new array of the same numbers, beside `like`."""
        return np.array(values, dtype, order="C")

    def assign(self, to, values):
        """Copy the numbers of an array into another."""
        to[...] = values

    def saved(self, array):
        """NumPy's copy of an array."""
        return array.copy()

    def saved_states(self, states):
        """Saved states as NumPy's arrays."""
        return states

    def check_rows(self, who):
        """Rows may have learning rates of their own."""

    def variant(self, rule, choice, library):
        return RuleVariant(rule.variant_name(choice), library)

    def steps(self, known):
        """How many steps were taken."""
        return known

    def recount(self):
        """The count of steps was set."""

    def __reduce__(self):
        return "HOST"


HOST = Host()


def engine_of(who, first):
    """The engine for an optimizer, by the first of its arrays."""
    return load_cuda(who).kept.Kept(who) if interop.on_device(first) else HOST
