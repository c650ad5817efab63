"""The update kernels compiled for GPUs, where there is none: what their assembly must not hold."""

import re

import pytest
from rules import RULES

import fastloss as fl

from .cuda_simulator import INSTALLED, SIMULATED, thinned

pytestmark = pytest.mark.skipif(not INSTALLED or SIMULATED, reason="needs numba-cuda, and not its simulator")

# A group's kernels: of plain float32, and of all that a mixture may hold.
MIXTURES = {
    "float32": {"param": "f32", "grad": "f32", "state": "f32", "width": 4},
    "halves": {"param": "bf16", "grad": "f16", "state": "bf16", "average": "f32", "copy": "f16", "dithers": True, "width": 8},
    "compensated": {"param": "f16", "grad": "f16", "state": "f32", "remainder": True, "width": 1},
}


def kernels_of(name, param, grad, state, width, remainder=False, average=None, copy=None, dithers=False):
    from fastloss._kernels.cuda.updates import Mixture, RuleVariant

    rule = getattr(fl, name).rule
    values = {"step": None, **dict.fromkeys(rule.carried)}
    values |= {hyper: domain.default for hyper, domain in rule.hyperparameters.items()}
    variant = RuleVariant(rule, rule.choice(values))
    states = (state,) * (len(variant.outputs) - 1)
    mixture = Mixture(param, grad, states, remainder, average, copy, dithers, width)
    return variant, variant.kernel(mixture), variant.fold(mixture) if variant.folds else None


def assert_single(kernel, capability):
    text = kernel.ptx(capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert ".f64" not in text
    assert not re.search(r"\bcall\b", text)
    return text


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", thinned(RULES, 4))
def test_float32_kernels_have_no_double(name, capability):
    text = assert_single(kernels_of(name, **MIXTURES["float32"])[1], capability)
    assert "ld.global.v4.f32" in text
    assert "st.global.v4.f32" in text


@pytest.mark.parametrize("mixture", ["halves", "compensated"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_nor_have_those_of_halves(name, mixture):
    assert_single(kernels_of(name, **MIXTURES[mixture])[1], (9, 0))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
def test_nor_has_the_norm(capability):
    from fastloss._kernels.cuda.squares import measure
    from fastloss.formula.definition import F32

    for code, width in (("f32", 4), ("bf16", 8)):
        assert_single(measure(F32, code, width), capability)


@pytest.mark.parametrize("name", thinned(RULES, 4))
def test_what_goes_before_compiles(name):
    from fastloss._kernels.cuda.step_numbers import advance

    variant, _, _ = kernels_of(name, **MIXTURES["float32"])
    assert ".f64" in advance((variant,)).ptx((8, 0))


def test_the_rest_compiles():
    from fastloss._kernels.cuda.squares import measure, total
    from fastloss._kernels.cuda.step_numbers import whole
    from fastloss._kernels.cuda.updates import convert
    from fastloss.formula.definition import F32, F64

    variant, _, fold = kernels_of("LAMB", **MIXTURES["float32"])
    assert_single(fold, (8, 0))
    assert_single(kernels_of("LAMB", **MIXTURES["compensated"])[2], (9, 0))
    for kernel in (
        whole(variant, F64),
        whole(variant, F32),
        total(),
        measure(F64, "f64", 2),
        convert("f64", "bf16"),
        convert("f16", "f32"),
    ):
        assert kernel.name in kernel.ptx((9, 0))
