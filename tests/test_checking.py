"""`check_loss`: what the built-in losses pass, and what it finds in losses that are wrong."""

import subprocess
import sys

import numpy as np
import pytest

import fastloss as fl

pytest.importorskip("mpmath", reason="the oracle computes with mpmath")

# Below `eps` the variance counts as `eps` and has, as in PyTorch, the gradient of one above it.
SETTINGS = {"gaussian_nll": {"eps": 1e-6}}


@pytest.mark.parametrize("name", [*fl.losses.POINTWISE, *fl.losses.ROWS])
def test_the_built_in_losses_pass(name):
    found = fl.check_loss(getattr(fl, name), quiet=True, **SETTINGS.get(name, {}))
    assert found, str(found)


@fl.loss
def overflows(pred, target):
    return fl.math.log(1 + fl.math.exp(-pred * target))


@fl.loss
def forgets_the_slope(pred, target):
    r = pred - target
    return fl.math.with_derivative(r * r, pred, r)


@fl.loss(label=fl.Class())
def margins(scores, label):
    return fl.math.logsumexp(scores) - fl.math.pick(scores, label)


def lines(found):
    return {what: passed for what, _, passed in found.rows}


def test_a_formula_that_overflows_is_found(capsys):
    pytest.importorskip("llvmlite")
    found = fl.check_loss(overflows)
    assert not found
    failed = [what for what, passed in lines(found).items() if not passed]
    assert "large and small numbers, float32" in failed
    assert not [what for what in failed if "numerical" in what]
    printed = capsys.readouterr().out
    assert printed.startswith("overflows: FAILED\nvalue, float64, at 50 digits  ")
    assert len({line.endswith(("pass", "FAIL")) for line in printed.splitlines()[1:]}) == 1


def test_a_wrong_derivative_is_found():
    pytest.importorskip("llvmlite")
    found = fl.check_loss(forgets_the_slope, quiet=True)
    assert not lines(found)["gradient, derived and numerical"]
    with pytest.raises(AssertionError, match=r"forgets_the_slope: FAILED\n"):
        fl.check_loss(forgets_the_slope, quiet=True, raises=True)


def test_a_loss_of_rows_of_ones_own(capsys):
    pytest.importorskip("llvmlite")
    assert fl.check_loss(margins)
    assert "margins: passed" in capsys.readouterr().out


def test_hyperparameters_may_be_given():
    assert fl.check_loss(fl.barron, quiet=True, alpha=0.5, c=2.0)
    with pytest.raises(ValueError, match="barron: c must be > 0, got -1"):
        fl.check_loss(fl.barron, c=-1)
    with pytest.raises(TypeError, match="check_loss: hyperparameters must be among alpha, c, got 'd'"):
        fl.check_loss(fl.barron, d=1)


@pytest.mark.parametrize("wrong", [np.square, fl.AdamW, fl.kmeans, "huber", None])
def test_what_is_no_loss(wrong):
    with pytest.raises(TypeError, match="check_loss: loss must be a loss of elements or of rows, got "):
        fl.check_loss(wrong)


def test_without_mpmath_an_error_says_what_to_install():
    program = "import sys\nsys.modules['mpmath'] = None\nimport fastloss as fl\nfl.check_loss(fl.huber)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: check_loss: mpmath must be installed (pip install mpmath)" in done.stderr
