"""The compiled losses and optimizers against the stored numbers of other libraries: see references.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from rules import RULES

import fastloss as fl

STORED = json.loads(Path(__file__).with_name("references.json").read_text(encoding="utf-8"))
LOSSES = [record for record in STORED["records"] if "loss" in record]
OPTIMIZERS = [record for record in STORED["records"] if "optimizer" in record]


def test_the_stored_numbers_are_of_every_loss_with_a_library_beside_it():
    expected = {
        (name, peer) for name in fl.losses.__all__ for peer in getattr(fl, name).formula.peers if peer in STORED["versions"]
    }
    assert {(record["loss"], record["peer"]) for record in LOSSES} == expected
    assert len(expected) > 30
    assert {record["optimizer"] for record in OPTIMIZERS} == {name for name, rule in RULES.items() if rule.torch is not None}


@pytest.mark.parametrize("record", LOSSES, ids=lambda r: f"{r['loss']}-{r['peer']}-{r['parameters']}")
def test_losses(record):
    loss = getattr(fl, record["loss"])
    inputs = {name: np.array(array) for name, array in record["inputs"].items()}
    value, grad = loss.value_and_grad(**inputs, **record["parameters"], reduction="none")
    np.testing.assert_allclose(value, record["value"], rtol=1e-11, atol=1e-12)
    there = [name for name in loss.formula.differentiable if name in inputs]
    by_name = dict(zip(there, grad if isinstance(grad, tuple) else (grad,), strict=True))
    for name, expected in record["gradients"].items():
        np.testing.assert_allclose(by_name[name], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda r: f"{r['optimizer']}-{r['parameters']}")
def test_optimizers(record):
    param = np.array(record["start"])
    optimizer = getattr(fl, record["optimizer"])(param, **record["parameters"])
    for grad in record["grads"]:
        optimizer.step(np.array(grad))
    np.testing.assert_allclose(param, record["end"], rtol=1e-12, atol=1e-13)
