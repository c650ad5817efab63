"""fastloss in SciPy: a logistic regression, a robust curve fit, an integral without Python in it, and a line search by hand."""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import least_squares, minimize

import fastloss as fl

rng = np.random.default_rng(0)

# A logistic regression: quasi-Newton, and Newton with products of the Hessian.
X = rng.normal(size=(1000, 3))
y = (rng.random(1000) < 1 / (1 + np.exp(-(X @ [1.0, -2.0, 0.5] + 0.3)))).astype(float)
model = fl.as_scipy(fl.binary_cross_entropy_with_logits, X, y, fit_intercept=True, l2=1e-3)
found = minimize(model.fun_and_grad, model.start, jac=True, method="L-BFGS-B")
newton = minimize(model.fun, model.start, jac=model.grad, hessp=model.hessp, method="trust-krylov")
coefficients, intercept = model.unpack(newton.x)
assert np.allclose(found.x, newton.x, atol=1e-3)
print(f"logistic regression: {np.round(coefficients, 1)}, {intercept:.1f}")

# Newton's method for the step along a direction: value, slope and curvature in one pass over three arrays.
eta, toward, step = np.zeros(1000), X @ coefficients + intercept, 0.0
for _ in range(5):
    point = fl.line_search(fl.binary_cross_entropy_with_logits, eta, y, direction=toward, step=step)
    step -= point.slope / point.curvature
print(f"best step: {step:.1f}")

# A robust fit of a curve to data with outliers.
t = np.linspace(0, 10, 200)
data = 3 * np.exp(-0.5 * t) + 0.05 * rng.normal(size=200)
data[::10] += 2
fit = least_squares(lambda p: p[0] * np.exp(-p[1] * t) - data, [1.0, 1.0], loss=fl.as_least_squares_loss(fl.welsch, c=0.2))
print(f"robust fit: {fit.x[0]:.1f} exp(-{fit.x[1]:.1f} t)")

# The expected Huber loss of a standard normal residual, by a callable that SciPy calls from its Fortran.
loss = fl.as_low_level_callable(fl.huber, delta=1.0)
area, _ = quad(loss, -3, 3, args=(0.0,))
print(f"integral of the Huber loss: {area:.3f}")
