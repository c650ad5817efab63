"""The public object of a loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import interop
from .._kernels import arrays
from .._kernels.cpu.engine import Plan
from .._kernels.cuda import load as load_cuda
from ..formula import Formula, Interval
from ..formula.document import docstring
from .jit import Jit

if TYPE_CHECKING:
    from .._kernels.cpu.engine import Library

VALUE, GRAD, HESS = 1, 2, 4
MOST_PLANS = 64


class _Documentation:
    """The docstring, of the class or, written from its formula when first read, of a loss."""

    def __get__(self, instance, owner):
        if instance is None:
            return owner.documentation
        # To show what a user's own loss gives would be to compile it.
        return docstring(instance.formula, instance if instance.library is None else None)


class Loss:
    documentation = """A loss function: value, gradient and diagonal Hessian of one formula, in one pass.

    Call it for the value; `value_and_grad`, `value_grad_hess`, `grad_and_hess` and `grad` return what they are named after. All
    take the formula's inputs by position or name, its hyperparameters by name, and

    Parameters
    ----------
    sample_weight : array_like, optional
        Finite, not negative, broadcast to the first input's shape. An element of weight 0 is left out, NaN or not.
    reduction : {"mean", "sum", "none"}
        What becomes of the elements' losses. The mean divides by the sum of the weights.
    normalizer : float or "samples", optional
        What the mean divides by instead: a number, or the number of elements whatever their weights.
    value_out, grad_out, hess_out : numpy.ndarray, optional
        Where results are written, of the first input's dtype and the shape of what they are of (a tuple of arrays where several
        inputs have gradients). An output may be an input; outputs may be interleaved in memory, but share no element.
        `value_out` is 0-d unless ``reduction="none"``.
    check : bool
        Look for data outside the formula's domain before anything is written; False skips that pass over the data.

    Arrays of PyTorch (on the processor), JAX, pandas and Polars may be given too, and results are of the first input's kind. What
    autograd knows of a tensor stays behind; a tensor may be an output.

    Gradients are those of the reduced value, of each own element under ``reduction="none"``. The gradient with respect to an input
    that is broadcast, and the diagonal of the Hessian, have that input's shape: sums over what it was broadcast to. Results have
    the first input's dtype; float16 and bfloat16 are computed in float32 and rounded once. Sums are accumulated in double (float32
    losses by sixteen, in float32, before), in an order that does not depend on the number of threads.
    """
    __doc__ = _Documentation()

    def __init__(self, formula: Formula, library: "Library | None" = None) -> None:
        self.formula = formula
        # Where its kernels come from if they are not built in.
        self.library = library
        self.__name__ = self.__qualname__ = formula.name
        self.__module__ = formula.module
        self._defaults = {name: domain.default for name, domain in formula.parameters.items()}
        self._domains = tuple(map(_checked, formula.input_domains.values()))
        self._plans = {}
        self._variants = {}

    jit: Any = Jit(
        """The loss as functions for code that Numba compiles: `jit.value(pred, target, ...)` and its kin, of one element and of arrays.

        In `@njit` code they are called as in Python, hyperparameters by position or name: ``fl.huber.jit.value_and_grad(p, t, delta=2.0)``.
        Flags, and hyperparameters that may be None, are fixed at their defaults; ``fl.poisson_nll.jit(full=True)`` has the functions
        for others, and any hyperparameter can be fixed in this way. Numba is imported when this is first used.
        """
    )

    @property
    def _numba_type_(self) -> Any:
        from .._kernels.jit.numba_types import ObjectType

        return ObjectType(self, ("jit",))

    def __repr__(self) -> str:
        arguments = ", ".join([*self.formula.inputs, *(f"{name}={value!r}" for name, value in self._defaults.items())])
        return f"<loss {self.__name__}({arguments})>"

    def __reduce__(self) -> str:
        return self.__name__

    def __call__(
        self, *inputs, sample_weight=None, reduction="mean", normalizer=None, value_out=None, check=True, **parameters
    ):
        """The loss: a float, an array under ``reduction="none"``."""
        plan, inputs = self._plan(inputs, parameters)
        return plan.evaluate(VALUE, inputs, sample_weight, reduction, normalizer, value_out, None, None, check)[0]

    def value_and_grad(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        value_out=None,
        grad_out=None,
        check=True,
        **parameters,
    ):
        """The loss and its gradient, in one pass."""
        plan, inputs = self._plan(inputs, parameters)
        return plan.evaluate(VALUE | GRAD, inputs, sample_weight, reduction, normalizer, value_out, grad_out, None, check)

    def value_grad_hess(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        value_out=None,
        grad_out=None,
        hess_out=None,
        check=True,
        **parameters,
    ):
        """The loss, its gradient and the diagonal of its Hessian, in one pass."""
        plan, inputs = self._plan(inputs, parameters)
        return plan.evaluate(
            VALUE | GRAD | HESS,
            inputs,
            sample_weight,
            reduction,
            normalizer,
            value_out,
            grad_out,
            hess_out,
            check,
        )

    def grad_and_hess(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        grad_out=None,
        hess_out=None,
        check=True,
        **parameters,
    ):
        """The gradient and the diagonal of the Hessian, in one pass."""
        plan, inputs = self._plan(inputs, parameters)
        return plan.evaluate(GRAD | HESS, inputs, sample_weight, reduction, normalizer, None, grad_out, hess_out, check)

    def grad(self, *inputs, sample_weight=None, reduction="mean", normalizer=None, grad_out=None, check=True, **parameters):
        """The gradient."""
        plan, inputs = self._plan(inputs, parameters)
        return plan.evaluate(GRAD, inputs, sample_weight, reduction, normalizer, None, grad_out, None, check)[0]

    def _plan(self, inputs, parameters):
        """The bound kernels for these hyperparameters, and the inputs in order."""
        if parameters and len(inputs) < len(self.formula.inputs):
            inputs += tuple(parameters.pop(name) for name in self.formula.inputs[len(inputs) :] if name in parameters)
        if inputs and type(inputs[0]) is not np.ndarray and interop.on_device(inputs[0]):
            return self._plan_on_device(parameters), inputs
        # With the types: True is no 1.0.
        key = (*parameters.items(), *map(type, parameters.values())) if parameters else ()
        try:
            return self._plans[key], inputs
        except (KeyError, TypeError):  # new, or not hashable
            plan = self._bind(parameters)
        try:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        except TypeError:
            pass
        return plan, inputs

    def prepare(self, what: str, *inputs: Any, **options: Any) -> Callable[[], Any]:
        """The call of that name, such as ``"value_and_grad"``, looked at once to be made again and again on the same arrays.

        What is returned takes nothing and writes into the same results every time. For small arrays in a GPU's memory, whose
        calls take longer to look at than to compute.
        """
        if what not in _CALLS:
            raise ValueError(f"{self.__name__}: what is prepared must be among {', '.join(_CALLS)}, got {what!r}")
        want = _CALLS[what]
        settings = {"sample_weight": None, "reduction": "mean", "normalizer": None, "check": True}
        settings |= dict.fromkeys(_OUTPUTS) | options
        settings, parameters = {n: settings.pop(n) for n in _SETTINGS}, settings
        plan, inputs = self._plan(inputs, parameters)
        if hasattr(plan, "prepare"):
            run, asked = plan.prepare(want, inputs, *settings.values()), [k for k in range(3) if want >> k & 1]
            return lambda: _alone(tuple([results[k] for results in [run()] for k in asked]))
        results = plan.evaluate(want, inputs, *settings.values())
        outputs = dict(zip([name for k, name in enumerate(_OUTPUTS) if want >> k & 1], results, strict=True))
        settings |= {name: out for name, out in outputs.items() if not isinstance(out, float)}
        return lambda: _alone(plan.evaluate(want, inputs, *settings.values()))

    def _bind(self, parameters):
        formula, values = self.formula, self._values(parameters)
        variant = formula.variant_name(formula.choice(values))
        vector = formula.vector(values)
        domains = tuple(map(_checked, formula.domains_given(values).values()))
        return Plan(formula.name, variant, formula.inputs, domains, formula.differentiable, vector, self.library)

    def _values(self, parameters):
        """All hyperparameters, looked at."""
        formula = self.formula
        unknown = [name for name in parameters if name not in formula.parameters]
        if unknown:
            known = ", ".join([*formula.inputs, *formula.parameters])
            raise TypeError(f"{formula.name}: arguments must be among {known}, got {unknown[0]!r}")
        return {
            name: domain.check(formula.name, name, parameters.get(name, domain.default))
            for name, domain in formula.parameters.items()
        }

    def _plan_on_device(self, parameters, *how):
        """The kernels for arrays in a GPU's memory, for calls on the stream among the parameters."""
        stream, cuda = parameters.pop("stream", None), load_cuda(self.__name__)
        key = (cuda, *how, *parameters.items(), *map(type, parameters.values()))
        if key not in self._plans:
            self._plans[key] = self._bind_on_device(parameters, *how)
        return cuda.plan.OnStream(self._plans[key], stream)

    def _bind_on_device(self, parameters):
        formula, values = self.formula, self._values(parameters)
        domains = {name: _checked(domain) for name, domain in formula.domains_given(values).items()}
        domains = {name: domain for name, domain in domains.items() if domain}
        variant = self._variant_on_device(formula.choice(values))
        return load_cuda(formula.name).pointwise.PointwisePlan(formula.name, variant, formula.vector(values), domains)

    def _variant_on_device(self, choice):
        if choice not in self._variants:
            self._variants[choice] = load_cuda(self.__name__).plan.FormulaVariant(self.formula, choice)
        return self._variants[choice]


def check_device() -> None:
    """Wait for the present GPU, and raise what the calls on its arrays have found in their data.

    Those calls return before anything was computed, so what they find, labels that are no class or numbers outside an input's
    domain, is raised by the next call on the same GPU, or here. A row whose label is no class has NaN for its results.

    Raises
    ------
    ValueError
        For a label, weight or other number that must not be: which argument, what it must be, and where one was found.
    ImportError
        Without Numba's CUDA package.

    Examples
    --------
    ::

        loss, grad = fl.cross_entropy.value_and_grad(logits, labels)  # CUDA arrays
        fl.check_device()
    """
    load_cuda("check_device").async_errors.check()


# What the calls want of the engine.
_CALLS = {
    "value": VALUE,
    "value_and_grad": VALUE | GRAD,
    "value_grad_hess": VALUE | GRAD | HESS,
    "grad_and_hess": GRAD | HESS,
    "grad": GRAD,
}
# Where results go, in the order of the bits.
_OUTPUTS = ("value_out", "grad_out", "hess_out")
# The settings of a call, in the engine's order.
_SETTINGS = ("sample_weight", "reduction", "normalizer", "value_out", "grad_out", "hess_out", "check")


def bound(who, loss, parameters):
    """The engine's kernels of a loss of single elements with these hyperparameters; TypeError in the name of `who` for any other."""
    if not isinstance(loss, Loss) or type(loss.formula) is not Formula:
        raise TypeError(f"{who}: loss must be a loss of single elements, got {loss!r}")
    return loss._bind(parameters)


def _alone(results):
    """One result without the tuple."""
    return results[0] if len(results) == 1 else results


def _checked(domain):
    """What the engine is to look for in an input, or None."""
    interval = getattr(domain, "domain", domain)
    return arrays.Domain.of(interval) if isinstance(interval, Interval) and interval.is_checked else None
