"""The modules that hold update rules, and the optimizers made of them. The build imports this too, beside no engine."""

from ..formula.registry import of_module
from . import adam, adaptive, arithmetic, gradient_descent, layerwise, schedule_free, second_order, signs  # noqa: F401

OPTIMIZERS = {
    name: vars(module)[name]
    # Not of `arithmetic`, whose rules are what other things are made of.
    for module in (adam, adaptive, gradient_descent, layerwise, schedule_free, second_order, signs)
    for name in of_module(module.__name__)
}
globals().update(OPTIMIZERS)

__all__ = [*sorted(OPTIMIZERS, key=lambda name: (not name.isupper(), name))]
