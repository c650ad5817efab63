"""SciPy: linear models for `scipy.optimize.minimize`, robust losses for `least_squares`, callables without Python in them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import interop, losses
from .._kernels import arrays, request
from .._kernels.cpu import engine
from ..api import Loss, RowLoss, bound
from ..formula import NonNegative, Positive

# What of X is gone through at once, in bytes: its product with the weights leaves it in the cache for the gradient. Measured, a logistic
# regression of 10^5 x 100: 256 KiB 122 ms, 1 MiB 97, all at once 330.
_BLOCK = 1 << 20


class Objective:
    """The loss of a linear model with its penalties, as a function of one vector of weights: `as_scipy` makes them.

    Attributes
    ----------
    size : int
        The length of the vector: for each output its coefficients, then, if there are any, the intercepts.
    start : numpy.ndarray
        Zeros of that length.
    """

    def __init__(self, loss, X, y, sample_weight, divisor, outputs, fit_intercept, penalties, parameters):
        self._loss, self._X, self._y, self._sample_weight = loss, X, y, sample_weight
        self._outputs, self._penalties = outputs, penalties
        self._settings = parameters | {"reduction": "mean", "normalizer": divisor, "check": _moves_out(loss, parameters)}
        self._shape = (outputs, X.shape[1]) if outputs else (X.shape[1],)
        self._coefficients = max(outputs, 1) * X.shape[1]
        self.size = self._coefficients + (max(outputs, 1) if fit_intercept else 0)
        self.start = np.zeros(self.size)
        rows, width = X.shape[0], (outputs,) if outputs else ()
        self._eta, self._slope = np.empty((rows, *width), X.dtype), np.empty((rows, *width), X.dtype)
        size = rows if _is_sparse(X) else max(64, _BLOCK // max(1, X.shape[1] * X.itemsize))
        self._blocks = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        self._at: Any = None
        self._hess: Any = None
        self._value, self._grad = 0.0, self.start

    def fun(self, weights: Any) -> float:
        """The value."""
        return self.fun_and_grad(weights)[0]

    def grad(self, weights: Any) -> np.ndarray[Any, Any]:
        """The gradient; after `fun` at the same place it is there already."""
        return self.fun_and_grad(weights)[1]

    def fun_and_grad(self, weights: Any) -> tuple[float, np.ndarray[Any, Any]]:
        """Value and gradient, in one pass over X: for ``minimize(..., jac=True)``."""
        weights = self._vector("weights", weights)
        if self._at is None or not np.array_equal(weights, self._at):
            self._at = self._hess = None
            self._pass(weights)
            self._at = weights.copy()
        return self._value, self._grad.copy()

    def hessp(self, weights: Any, vector: Any) -> np.ndarray[Any, Any]:
        """The Hessian at `weights` times `vector`, in one pass over X."""
        self.fun_and_grad(weights)
        vector = self._vector("vector", vector)
        coefficients, intercept = self._parts(vector)
        product = np.zeros(self.size)
        for rows in self._blocks:
            moved = self._forward(self._X[rows], coefficients, intercept)
            self._backward(self._X[rows], self._curved(rows, moved), product)
        for penalty in self._penalties:
            product[: self._coefficients] += penalty.hess(self._at[: self._coefficients]) * vector[: self._coefficients]
        return product

    def unpack(self, weights: Any) -> tuple[np.ndarray[Any, Any], Any]:
        """Coefficients, of shape (features,) or (outputs, features), and intercepts: a float, (outputs,), or None."""
        coefficients, intercept = self._parts(self._vector("weights", weights))
        return coefficients, float(intercept) if intercept is not None and not self._outputs else intercept

    def _vector(self, name, given):
        vector = np.asarray(interop.as_numpy("as_scipy", name, given), np.float64)
        if vector.shape != (self.size,):
            raise ValueError(f"as_scipy: {name} must have shape {(self.size,)}, got {vector.shape}")
        return vector

    def _parts(self, vector):
        intercept = vector[self._coefficients :] if self.size > self._coefficients else None
        if intercept is not None and not self._outputs:
            intercept = intercept[0]
        return vector[: self._coefficients].reshape(self._shape), intercept

    def _pass(self, weights):
        coefficients, intercept = self._parts(weights)
        value, grad = 0.0, np.zeros(self.size)
        for rows in self._blocks:
            self._eta[rows] = self._forward(self._X[rows], coefficients, intercept)
            weight = None if self._sample_weight is None else self._sample_weight[rows]
            part, slope = self._loss.value_and_grad(
                self._eta[rows], self._y[rows], sample_weight=weight, grad_out=self._slope[rows], **self._settings
            )
            value += part
            self._backward(self._X[rows], slope, grad)
        for penalty in self._penalties:
            part, slope = penalty.value_and_grad(weights[: self._coefficients])
            value += part
            grad[: self._coefficients] += slope
        self._value, self._grad = value, grad

    def _forward(self, X, coefficients, intercept):
        eta = X @ coefficients.T.astype(X.dtype, copy=False)
        if intercept is not None:
            eta += intercept
        return eta

    def _backward(self, X, slope, total):
        """Add to a vector of weights what a slope of each prediction makes of it."""
        total[: self._coefficients] += (slope.T @ X).ravel() if self._outputs or not _is_sparse(X) else X.T @ slope
        if self.size > self._coefficients:
            total[self._coefficients :] += slope.sum(axis=0, dtype=np.float64)

    def _curved(self, rows, moved):
        """The predictions' Hessian times how they move."""
        weight = None if self._sample_weight is None else self._sample_weight[rows]
        if self._outputs:
            return self._loss.hvp(self._eta[rows], self._y[rows], vector=moved, sample_weight=weight, **self._settings)
        if self._hess is None:
            _, self._hess = self._loss.grad_and_hess(self._eta, self._y, sample_weight=self._sample_weight, **self._settings)
        return self._hess[rows] * moved


class _Penalty:
    """A factor times the sum of a loss of the coefficients against 0."""

    def __init__(self, factor, loss, **parameters):
        self._factor, self._loss, self._parameters = factor, loss, parameters | {"reduction": "sum"}

    def value_and_grad(self, coefficients):
        value, grad = self._loss.value_and_grad(coefficients, 0.0, **self._parameters)
        return self._factor * value, self._factor * grad

    def hess(self, coefficients):
        return self._factor * self._loss.grad_and_hess(coefficients, 0.0, **self._parameters)[1]


def as_scipy(
    loss: Loss,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    fit_intercept: bool = False,
    l2: float = 0.0,
    l1: float = 0.0,
    l1_smoothing: float = 1e-3,
    reduction: str = "mean",
    **parameters: Any,
) -> Objective:
    """A linear model's loss as the functions that `scipy.optimize.minimize` takes.

    .. math:: f(w, b) = loss(X w + b, y) + \\tfrac{l_2}{2} |w|^2 + l_1 \\sum (\\sqrt{w_i^2 + s^2} - s)

    Value and gradient share one pass over X. With a loss of rows and classes, such as `cross_entropy`, there is a row of
    coefficients for each class.

    Parameters
    ----------
    loss : Loss
        A loss of single elements with one gradient, or of rows and labels.
    X : array_like or sparse of shape (samples, features)
        float32 or float64. A dense one is not copied; a sparse one needs SciPy.
    y : array_like of shape (samples,)
        Targets or labels. The number of classes is the largest label and one.
    sample_weight : array_like of shape (samples,), optional
        Finite, not negative.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised.
    l2, l1 : float
        Penalties of the coefficients, 0 or above.
    l1_smoothing : float
        `s`: within it of 0 the absolute value is smooth.
    reduction : {"mean", "sum"}
        Of the loss; the mean divides by the sum of the weights. The penalties are not divided.
    **parameters
        The loss's hyperparameters.

    Returns
    -------
    Objective
        With `fun`, `grad`, `fun_and_grad`, `hessp`, `unpack` and `start`.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was expected and what was received; nothing is computed before.

    Examples
    --------
    >>> import fastloss as fl
    >>> from scipy.optimize import minimize
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> model = fl.as_scipy(fl.binary_cross_entropy_with_logits, X, y, fit_intercept=True, l2=0.1)
    >>> found = minimize(model.fun_and_grad, model.start, jac=True, method="L-BFGS-B")
    >>> coefficients, intercept = model.unpack(found.x)
    >>> print(f"{coefficients[0]:.3f} {intercept:.3f}")
    1.508 -2.262
    >>> newton = minimize(model.fun, model.start, jac=model.grad, hessp=model.hessp, method="trust-ncg")
    >>> bool(np.allclose(newton.x, found.x, atol=1e-3))
    True
    """
    who = "as_scipy"
    if not isinstance(loss, Loss) or len(loss.formula.differentiable) != 1:
        raise TypeError(f"{who}: loss must be a loss with one gradient, got {loss!r}")
    if isinstance(loss, RowLoss) and (loss.formula.label is None or loss.formula.has_lists):
        raise TypeError(f"{who}: loss must be of single elements, or of rows and a label each, got {loss!r}")
    request.check_reduction(who, reduction, known=("mean", "sum"))
    wrong = [name for name in parameters if name not in loss.formula.parameters]
    if wrong:
        raise TypeError(f"{who}: hyperparameters must be among {', '.join(loss.formula.parameters)}, got {wrong[0]!r}")
    X, y = _design(who, X), np.ascontiguousarray(arrays.as_array(who, "y", y))
    if y.shape != X.shape[:1]:
        raise ValueError(f"{who}: y must have shape {X.shape[:1]}, one number for each row of X, got {y.shape}")
    if sample_weight is not None:
        sample_weight = arrays.as_array(who, "sample_weight", sample_weight)
        if sample_weight.shape != y.shape:
            raise ValueError(f"{who}: sample_weight must have y's shape {y.shape}, got {sample_weight.shape}")
    outputs = _classes(who, y) if isinstance(loss, RowLoss) else 0
    # The loss looks at targets, labels, weights and hyperparameters once, and says what is wrong with them.
    first = np.zeros((len(y), outputs) if outputs else len(y), X.dtype)
    loss(first, y, sample_weight=sample_weight, reduction="sum", **parameters)
    total = len(y) if sample_weight is None else float(sample_weight.sum(dtype=np.float64))
    if not total > 0:
        raise ValueError(f"{who}: the sum of sample_weight must be above 0, got {total:g}")
    l2, l1 = NonNegative().check(who, "l2", l2), NonNegative().check(who, "l1", l1)
    smoothing = Positive().check(who, "l1_smoothing", l1_smoothing)
    penalties = [_Penalty(l2 / 2, losses.squared_error)] if l2 else []
    penalties += [_Penalty(l1 / smoothing, losses.pseudo_huber, delta=smoothing)] if l1 else []
    divisor = total if reduction == "mean" else 1.0
    return Objective(loss, X, y, sample_weight, divisor, outputs, fit_intercept, penalties, parameters)


def as_least_squares_loss(loss: Loss, **parameters: Any) -> Callable[[Any], np.ndarray[Any, Any]]:
    """A robust loss as the `loss` of `scipy.optimize.least_squares`: rho(z) = 2 loss(sqrt(z)), with its derivatives.

    `huber`, `pseudo_huber` (SciPy's soft_l1), `cauchy` and `arctan` are SciPy's own, and there are `fair`, `welsch`,
    `geman_mcclure`, `tukey_biweight`, `barron`, `log_cosh`. Scale the residuals by the loss's hyperparameter or by `f_scale`.

    Parameters
    ----------
    loss : Loss
        Of single elements, an even function of ``pred - target`` that is a parabola around 0.
    **parameters
        Its hyperparameters.

    Returns
    -------
    callable
        ``rho(z) -> array of shape (3, len(z))``.

    Raises
    ------
    ValueError, TypeError
        If the loss is not one of these.

    Examples
    --------
    >>> import fastloss as fl
    >>> from scipy.optimize import least_squares
    >>> data = np.array([1.0, 1.1, 0.9, 8.0])
    >>> print(least_squares(lambda x: x - data, 0.0, loss=fl.as_least_squares_loss(fl.huber, delta=0.5)).x.round(3))
    [1.167]
    """
    who = "as_least_squares_loss"
    bound(who, loss, parameters)
    if len(loss.formula.inputs) != 2:
        raise TypeError(f"{who}: loss must have two inputs, got {loss!r}")
    settings = parameters | {"reduction": "none", "check": False}
    probe = np.array([0.0, 0.5, 1.0, 2.0])
    value, grad, hess = loss.value_grad_hess(np.concatenate([probe, -probe]), 0.0, **settings)
    if not np.array_equal(value[:4], value[4:]) or value[0] != 0 or grad[0] != 0 or not hess[0] > 0:
        raise ValueError(f"{who}: loss must be an even function of pred - target that is a parabola around 0, got {loss!r}")

    def rho(z):
        z = np.asarray(z, np.float64)
        root = np.sqrt(z)
        value, grad, hess = loss.value_grad_hess(root, 0.0, **settings)
        at_zero = root == 0
        safe = np.where(at_zero, 1.0, root)
        slope = np.where(at_zero, hess, grad / safe)
        # Near 0 this cancels, but least_squares multiplies it by z, and of that product the error stays below an ulp of the slope.
        return np.stack([2 * value, slope, np.where(at_zero, 0.0, (hess - slope) / (2 * safe * safe))])

    return rho


def as_low_level_callable(loss: Loss, **parameters: Any) -> Any:
    """The value of one element as a `scipy.LowLevelCallable`, which SciPy calls without Python: ``double (int, double *, void *)``.

    Parameters
    ----------
    loss : Loss
        Of single elements. Its inputs are the arguments, in order.
    **parameters
        Its hyperparameters.

    Returns
    -------
    scipy.LowLevelCallable
        For `scipy.integrate.quad`, `scipy.ndimage.generic_filter` and others that take one. It keeps the loss alive.

    Examples
    --------
    >>> import fastloss as fl
    >>> from scipy.integrate import quad
    >>> value, error = quad(fl.as_low_level_callable(fl.huber, delta=1.0), -2.0, 2.0, args=(0.0,))
    >>> print(f"{value:.6f}")
    2.333333
    """
    from scipy import LowLevelCallable  # type: ignore[import-untyped]

    function, context = engine.c_callable(bound("as_low_level_callable", loss, parameters))
    return LowLevelCallable(function, context)


def _design(who, X):
    X = X.tocsr() if _is_sparse(X) else arrays.as_array(who, "X", X)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"{who}: X must have shape (samples, features), at least one of each, got {X.shape}")
    if X.dtype not in (np.float32, np.float64):
        raise TypeError(f"{who}: X must be of dtype float32 or float64, got {X.dtype}: convert it, e.g. X.astype(float)")
    return X


def _is_sparse(X):
    return hasattr(X, "tocsr")


def _classes(who, y):
    if y.dtype.kind not in "iub":
        raise TypeError(f"{who}: y must hold whole numbers, the rows' labels, got dtype {y.dtype}")
    return int(y.max()) + 1


def _moves_out(loss, parameters):
    """Whether a prediction may leave the loss's domain."""
    values = {name: domain.default for name, domain in loss.formula.parameters.items()} | parameters
    return next(iter(loss.formula.domains_given(values).values())).is_checked
