"""Whoever hands out a function of compiled code keeps the code alive: each of them is used after its loss is gone."""

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("llvmlite", reason="a user's own formula is compiled by llvmlite")

FREE = """
import gc
import numpy as np
import fastloss as fl

def own():
    return fl.loss(lambda pred, target: 3 * (pred - target) ** 2)

def freed(made):
    # The pages that the code lay in are given back, and taken by something else.
    gc.collect()
    fl.loss(lambda pred, target: pred * target + 7)([1.0], [1.0])
    return made
"""
HANDED_OUT = {
    "low-level callable": """
        from scipy.integrate import quad
        call = freed(fl.as_low_level_callable(own()))
        assert abs(quad(call, -1, 1, args=(0.0,))[0] - 2) < 1e-12
    """,
    "low-level callable, copied": """
        from scipy.integrate import quad
        call = fl.as_low_level_callable(own())
        call = freed((call.function, call.user_data))
        from scipy import LowLevelCallable
        assert abs(quad(LowLevelCallable(*call), -1, 1, args=(0.0,))[0] - 2) < 1e-12
    """,
    "prepared call": """
        call = freed(own().prepare("value_and_grad", np.ones(3), np.zeros(3), reduction="sum"))
        value, grad = call()
        assert value == 9 and (grad == 6).all()
    """,
    "bound plan": """
        from fastloss.api import bound
        plan = freed(bound("test", own(), {}))
        for want in (1, 2, 3, 7):
            first = plan.evaluate(want, (np.ones(3), np.zeros(3)), None, "sum", None, None, None, None, True)[0]
            assert first == 9 if want & 1 else (first == 6).all()
    """,
    "method": """
        grad = freed(own().grad)
        assert (grad(np.ones(3), np.zeros(3), reduction="sum") == 6).all()
    """,
    "row loss": """
        call = freed(fl.loss(lambda pred, target: fl.math.total((pred - target) ** 2)).prepare("value", np.ones((4, 3)), np.zeros((4, 3))))
        assert call() == 3
    """,
    "optimizer": """
        def rule(param, grad, velocity, lr):
            velocity = 0.5 * velocity + grad
            return param - lr * velocity, velocity
        weights = np.zeros(3)
        optimizer = fl.update_rule(lr=fl.Positive(0.1))(rule)(weights, lr=1.0)
        optimizer.step(np.ones(3))
        optimizer = freed(optimizer)
        optimizer.step(np.ones(3))
        assert (weights == -2.5).all()
    """,
    "jit functions": """
        import numba
        value = freed(own().jit.value)
        assert value(1.0, 0.0) == 3
        def doubled(value):
            return numba.njit(lambda x: 2 * value(x, 0.0))
        twice = freed(doubled(own().jit.value))
        assert twice(1.0) == 6
    """,
}


@pytest.mark.parametrize("what", HANDED_OUT)
def test_code_lives_as_long_as_what_was_handed_out(what, tmp_path):
    if what == "jit functions":
        pytest.importorskip("numba")
    program = FREE + textwrap.dedent(HANDED_OUT[what])
    run = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, (run.returncode, run.stderr)
