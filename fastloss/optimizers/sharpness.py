"""Gradients taken at the worst place nearby."""

import math
from typing import Any, ClassVar

from .._kernels import arrays
from .._kernels.cpu import norms
from .._kernels.cpu.engine import StepOptions
from ..api.optimizer import StepResult
from ..api.parameters import SparseRows
from ..formula import Flag, NonNegative
from .arithmetic import Add
from .wrapping import Wrapper


class SAM(Wrapper):
    r"""Sharpness-aware minimization: steps with the gradient at a neighbour where the loss is about the highest.

    .. math:: \hat w = w + \rho \frac{g(w)}{\|g(w)\|} \qquad w \leftarrow \mathit{step}(w, g(\hat w))

    and, if `adaptive`, with neighbours that are as far off as the weights are large:

    .. math:: \hat w = w + \rho \frac{w^2 g(w)}{\|w\, g(w)\|}

    A step has two phases: `ascend` with the gradients at the parameters moves these to the neighbour; `step` with the gradients taken
    there puts them back, bit for bit, and steps the optimizer. The norm is that of all gradients together, computed in double. A
    common factor of the gradients, such as a loss's scale, does not change the neighbour.

    Parameters
    ----------
    optimizer : Optimizer
        What takes the steps.
    rho : float, default 0.05
        How far the neighbour is. >= 0.
    adaptive : bool, default False
        Whether the distance is measured in units of the weights.

    Attributes
    ----------
    ascended : bool
        Whether the parameters are at the neighbour.

    Raises
    ------
    ValueError, TypeError
        For an argument outside its domain.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> weights = np.array([3.0, -4.0])
    >>> optimizer = fl.SAM(fl.SGD(weights, lr=0.5), rho=1.0)
    >>> optimizer.ascend(weights.copy())  # the gradient of half the squared norm
    5.0
    >>> weights
    array([ 3.6, -4.8])
    >>> result = optimizer.step(weights.copy())
    >>> weights
    array([ 1.2, -1.6])

    References
    ----------
    .. [1] Foret, Kleiner, Mobahi & Neyshabur (2021), Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR;
       adaptive: Kwon, Kim, Park & Choi (2021), ASAM, ICML
    """

    rho: float
    adaptive: bool
    _domains: ClassVar[dict[str, Any]] = {"rho": NonNegative(0.05), "adaptive": Flag(False)}

    def __init__(self, optimizer: Any, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer, rho=rho, adaptive=adaptive)
        self._held: list[Any] | None = None

    @property
    def ascended(self) -> bool:
        """Whether the parameters are at the neighbour."""
        return self._held is not None

    def ascend(self, grads: Any) -> float:
        """Move the parameters to the neighbour that their gradients point to.

        They stay where they are if the norm is 0 or not finite.

        Returns
        -------
        float
            The norm of the gradients; if `adaptive`, that of the gradients times the weights.

        Raises
        ------
        RuntimeError
            If the parameters are at the neighbour already.
        ValueError, TypeError
            As `Optimizer.step` does, before anything is written.
        """
        if self.ascended:
            raise RuntimeError("SAM: ascend must come before step, got a second ascend")
        vars(self).update(self._checked(vars(self)))
        self._writer = self._writer or self._over_parameters(Add)
        params = self._writer._tree.arrays
        significand, exponent = self._norm(grads)
        moves = significand > 0 and math.isfinite(significand)
        scale = self.rho / math.ldexp(significand, exponent) if moves and not exponent else 0.0
        if moves and (exponent or not norms.is_normal(scale, params)):
            # Of gradients of about 1 the scale is a number of their dtype.
            shift = -exponent - math.frexp(significand)[1]
            grads, scale = self._shifted(grads, shift), self.rho / math.frexp(significand)[0]
        for own, group in zip(self._writer.param_groups, self.param_groups, strict=True):
            own["scale"], own["relative"], own["maximize"] = scale, self.adaptive, group["maximize"]
        held = [param.copy() for param in params]
        try:
            # The move and what it can be undone with come as one act.
            self._writer._take(grads, StepOptions((self, "_held", held)))
            if not moves:
                self._innermost._store.write(held)
            self._innermost._store.refresh_copies()
        except BaseException:
            self._put_back()
            raise
        return norms.as_float(significand, exponent)

    def step(self, grads: Any, **options: Any) -> StepResult:
        """Put the parameters back and step the optimizer with the gradients of the neighbour.

        If the optimizer raises, the parameters are back, and `ascend` is what comes next.

        Raises
        ------
        RuntimeError
            If the parameters are not at the neighbour.
        ValueError, TypeError
            As the optimizer's `step` does.
        """
        if not self.ascended:
            raise RuntimeError("SAM: step must come after ascend, got none")
        self._put_back()
        result: StepResult = self.optimizer.step(grads, **options)
        return result

    def _put_back(self):
        if self.ascended:
            self._innermost._store.write(self._held, [(self, "_held", None)])

    def _state(self):
        if self.ascended:
            raise RuntimeError("SAM: its state must be saved or loaded after step, got one between ascend and step")
        return {}

    def _norm(self, grads):
        """The norm of all gradients, of sparse ones too, by the weights if that is asked for: a number and a power of two."""
        tree = self._writer._tree
        flat = tree.flatten(grads)
        rows = tree.extract_rows(flat) or {}
        weights = []
        for k, (name, param) in enumerate(zip(tree.names, tree.arrays, strict=True)):
            flat[k] = arrays.as_array("SAM", f"the gradient of {name}", flat[k])
            weights.append(param[rows[k]] if k in rows else param)
            if flat[k].shape != weights[k].shape:
                raise ValueError(f"SAM: the gradient of {name} must have its shape {param.shape}, got {flat[k].shape}")
        return norms.scaled_norm(flat, weights=weights if self.adaptive else None)

    def _shifted(self, grads, exponent):
        """The gradients times a power of two, in double."""
        tree = self._writer._tree
        flat = tree.flatten(grads)
        for k, grad in enumerate(flat):
            values = arrays.as_array(
                "SAM", f"the gradient of {tree.names[k]}", grad.values if type(grad) is SparseRows else grad
            )
            values = norms.scaled(values, 1.0, exponent)
            flat[k] = SparseRows(grad.rows, values) if type(grad) is SparseRows else values
        return tree.unflatten(flat)
