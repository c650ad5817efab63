"""What PyTorch, scikit-learn, SciPy and Optax compute, stored: `python tests/references.py` writes references.json anew.

The losses at points inside their domains with every hyperparameter away from its default; the optimizers after a few steps.
`test_references.py` compares with the stored numbers wherever the tests run, with or without those libraries.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import peers
import rules
import test_blocks
import test_formulas
import test_row_registry

import fastloss as fl

FILE = Path(__file__).with_suffix(".json")
LIBRARIES = {"torch": "torch", "sklearn": "scikit-learn", "scipy": "scipy", "optax": "optax"}
STEPS = 4


def losses():
    """A record for each library, loss and setting: single elements, two rows of five, and three rows of two that share arrays."""
    for name, peer in test_formulas.PEERS:
        formula = test_formulas.FORMULAS[name]
        for parameters in test_formulas.settings(formula) if peer in LIBRARIES else ():
            yield record(name, peer, parameters, test_formulas.inputs(formula, parameters, seed=7))
    for name in fl.losses.ROWS:
        formula = getattr(fl, name).formula
        for peer in sorted(LIBRARIES.keys() & formula.peers.keys()):
            for parameters, there in test_row_registry.settings(formula):
                yield record(name, peer, parameters, test_row_registry.draw(formula, (2, 5), there, seed=9))
    for name in fl.losses.BLOCKS:
        formula = getattr(fl, name).formula
        for peer in sorted(LIBRARIES.keys() & formula.peers.keys()):
            for parameters, there in test_blocks.settings(formula):
                inputs = test_blocks.draw(formula, 3, there, features=2, shared=4, seed=9)
                yield record(name, peer, parameters, inputs)


def record(name, peer, parameters, inputs):
    value, gradients = peers.evaluate(getattr(fl, name), peer, inputs, parameters)
    return {
        "loss": name,
        "peer": peer,
        "parameters": parameters,
        "inputs": _lists(inputs),
        "value": value.tolist(),
        "gradients": _lists(gradients or {}),
    }


def optimizers():
    """A record for each rule that PyTorch has, and setting: where PyTorch's own goes from `start`."""
    rng = np.random.default_rng(8)
    for name, hyper, arguments in rules.torch_variants():
        start, grads = rng.normal(size=5), rng.normal(size=(STEPS, 5))
        with rules.torch_in_double() as torch:
            tensor = torch.from_numpy(start.copy()).requires_grad_()
            theirs = getattr(torch.optim, name)([tensor], **arguments)
            for grad in grads:
                tensor.grad = torch.from_numpy(grad)
                theirs.step()
        yield {
            "optimizer": name,
            "parameters": hyper,
            "start": start.tolist(),
            "grads": grads.tolist(),
            "end": tensor.detach().numpy().tolist(),
        }


def _lists(arrays):
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def main():
    versions = {library: importlib.metadata.version(package) for library, package in LIBRARIES.items()}
    records = [*losses(), *optimizers()]
    lines = ",\n".join(json.dumps(record) for record in records)
    FILE.write_text(f'{{"versions": {json.dumps(versions)}, "records": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(records)} records of fastloss {fl.__version__}'s losses and optimizers in {FILE.name}")


if __name__ == "__main__":
    main()
