"""Arrays of other libraries: what goes in without a copy, and comes back as the caller's kind."""

import copy
import pickle
import sys
from array import array

import numpy as np
import pytest

import fastloss as fl
from fastloss import interop

from . import inputs

LIBRARIES = ("torch", "jax", "pandas", "polars")
SHAPE = (50,)


def library(name):
    return pytest.importorskip(name, reason=f"needs {name}")


def make(name, values):
    """The values as an array of that library, of the same dtype where it has it."""
    module = library(name)
    if name == "torch":
        return module.from_numpy(np.array(values))
    if name == "jax":
        enable_x64 = module.enable_x64 if hasattr(module, "enable_x64") else module.experimental.enable_x64
        with enable_x64(True):
            return module.numpy.asarray(values)
    several = values.ndim > 1
    if name == "pandas":
        index = np.arange(100, 100 + len(values))
        return (module.DataFrame if several else module.Series)(values, index=index, **({} if several else {"name": "column"}))
    if several:
        return module.DataFrame(values, schema=[f"c{k}" for k in range(values.shape[1])])
    return module.Series("column", values)


def is_of(name, value):
    return interop.library_of(value).name.lower() == {"torch": "pytorch"}.get(name, name)


def plain(value):
    """A result as NumPy sees it."""
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    return value if isinstance(value, float) else interop.as_numpy("test", "value", value)


# --- there and back -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
def test_every_loss_takes_and_returns_every_kind(case, dtype, name):
    arrays = list(inputs.columns(case, 50, dtype).values())
    given = [make(name, a) for a in arrays]
    weights = inputs.weights(SHAPE, dtype)
    for options in ({"reduction": "none"}, {"sample_weight": weights}):
        expected = inputs.flatten(case.loss.value_grad_hess(*arrays, **options, **case.parameters))
        theirs = {n: make(name, o) if isinstance(o, np.ndarray) else o for n, o in options.items()}
        results = inputs.flatten(case.loss.value_grad_hess(*given, **theirs, **case.parameters))
        for result, wanted in zip(results, expected, strict=True):
            assert isinstance(result, float) if isinstance(wanted, float) else is_of(name, result)
            inputs.assert_same(plain(result), wanted)


@pytest.mark.parametrize("name", LIBRARIES)
def test_losses_of_rows(name):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 5, 30)
    theirs = make(name, logits), make(name, labels)
    for given, own in ((theirs, (logits, labels)), ((theirs[0], labels), (logits, labels))):
        value, grad = fl.cross_entropy.value_and_grad(*given, label_smoothing=0.1)
        assert is_of(name, grad)
        inputs.assert_same((value, plain(grad)), fl.cross_entropy.value_and_grad(*own, label_smoothing=0.1))
    each = fl.cross_entropy(*theirs, reduction="none")
    assert is_of(name, each)
    inputs.assert_same(plain(each), fl.cross_entropy(logits, labels, reduction="none"))
    found = fl.cross_entropy.evaluate(*theirs, outputs=("predicted", "correct", "grad"))
    assert is_of(name, found["predicted"])
    np.testing.assert_array_equal(plain(found["predicted"]), logits.argmax(axis=1))
    product = fl.cross_entropy.hvp(*theirs, vector=theirs[0])
    assert is_of(name, product)
    inputs.assert_same(plain(product), fl.cross_entropy.hvp(logits, labels, vector=logits))
    probabilities = make(name, np.full((30, 5), 0.2, np.float32))
    assert fl.cross_entropy(theirs[0], probabilities) == fl.cross_entropy(logits, np.full((30, 5), 0.2, np.float32))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_losses_of_blocks(name):
    rng = np.random.default_rng(0)
    x, weight, labels = rng.normal(size=(30, 4)), rng.normal(size=(5, 4)), rng.integers(0, 5, 30)
    value, grads = fl.linear_cross_entropy.value_and_grad(*(make(name, a) for a in (x, weight, labels)))
    assert all(is_of(name, grad) for grad in grads)
    inputs.assert_same((value, plain(grads)), fl.linear_cross_entropy.value_and_grad(x, weight, labels))
    nearest = fl.kmeans.assign(make(name, x), make(name, weight))
    assert is_of(name, nearest)
    np.testing.assert_array_equal(plain(nearest), fl.kmeans.assign(x, weight))


@pytest.mark.parametrize("name", LIBRARIES)
def test_line_search_and_as_scipy_take_every_kind(name):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    found = fl.line_search(fl.huber, make(name, y), make(name, y + 1), direction=make(name, X[:, 0].copy()), step=0.5)
    assert found == fl.line_search(fl.huber, y, y + 1, direction=X[:, 0], step=0.5)
    ours, theirs = fl.as_scipy(fl.huber, X, y), fl.as_scipy(fl.huber, make(name, X), make(name, y))
    for found, expected in zip(theirs.fun_and_grad(np.ones(3)), ours.fun_and_grad(np.ones(3)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)  # a data frame lies the other way round


# --- PyTorch ------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(9)
def test_torch_shares_its_memory():
    torch = library("torch")
    pred, out = torch.zeros(100), torch.full((100,), 77.0)
    result = fl.squared_error.grad(pred, np.ones(100), reduction="sum", grad_out=out)
    assert result is out
    assert (out == -2).all()
    assert fl.squared_error.grad(pred, 1.0, reduction="sum", grad_out=pred) is pred  # over the input
    assert (pred == -2).all()
    plain_out = np.zeros(3)
    assert fl.squared_error.grad(torch.zeros(3, dtype=torch.float64), 1.0, grad_out=plain_out) is plain_out
    out = torch.empty(3, dtype=torch.float64)
    assert fl.squared_error.grad(plain_out, 0.0, grad_out=out) is out
    value = torch.empty((), dtype=torch.float64)
    assert fl.squared_error(out, 1.0, value_out=value) is value


def test_torch_several_outputs():
    torch = library("torch")
    given = [torch.rand(9) + 0.5 for _ in range(3)]
    outs = torch.empty(9), torch.empty(9)
    _, grads = fl.gaussian_nll.value_and_grad(*given, grad_out=outs)
    assert all(grad is out for grad, out in zip(grads, outs, strict=True))
    inputs.assert_same(tuple(map(plain, outs)), fl.gaussian_nll.grad(*map(plain, given)))


def test_torch_leaves_autograd_behind():
    torch = library("torch")
    pred = torch.linspace(-1, 1, 9, requires_grad=True)
    grad = fl.huber.grad(pred, torch.zeros(9, requires_grad=True))
    assert not grad.requires_grad
    pred.grad = grad
    expected = torch.autograd.grad(torch.nn.functional.huber_loss(pred, torch.zeros(9)), pred)[0]
    assert torch.allclose(pred.grad, expected)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_torch_half_precision(half):
    torch = library("torch")
    pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    dtype = getattr(torch, half)
    pred, target = torch.linspace(-3, 3, 50).to(dtype), torch.linspace(3, -3, 50).to(dtype)
    value, grad = fl.huber.value_and_grad(pred, target, delta=0.7, reduction="sum")
    assert grad.dtype == dtype
    wide = fl.huber.value_and_grad(pred.float(), target.float(), delta=0.7, reduction="sum")
    assert value == wide[0]
    assert torch.equal(grad, wide[1].to(dtype))
    out = torch.zeros(50, dtype=dtype)
    assert fl.huber.grad(pred, target, delta=0.7, reduction="sum", grad_out=out) is out
    assert torch.equal(out, grad)


def test_a_list_of_numbers_of_torch_is_a_list():
    torch = library("torch")
    grad = fl.huber.grad([torch.tensor(1.0), torch.tensor(2.0)], 0.0, delta=0.5)
    assert type(grad) is np.ndarray
    assert grad.tolist() == [0.25, 0.25]


def test_torch_layouts():
    torch = library("torch")
    pred = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    for view in (pred.T, pred[::2, 1::3], pred[:, :1].expand(4, 6), torch.tensor(2.0, dtype=torch.float64)):
        inputs.assert_same(plain(fl.cauchy.grad(view, 1.0)), fl.cauchy.grad(view.numpy(), 1.0))


def test_torch_tensors_that_cannot_be_taken():
    torch = library("torch")
    ones, out = torch.ones(3), np.full(3, 77, np.float32)
    for wrong, said in {
        torch.ones(3).to_sparse(): "huber: pred must be a plain dense tensor, got torch.float32, torch.sparse_coo",
        torch.ones(3, dtype=torch.complex64): "huber: pred must hold real numbers",
        torch.ones(3, dtype=torch.int32): "huber: pred must be a floating-point array, got dtype int32",
        torch.ones(3, device="meta"): "huber: pred must be in the memory of the processor, got a tensor on meta",
    }.items():
        with pytest.raises(TypeError) as caught:
            fl.huber.grad(wrong, ones, grad_out=out)
        assert str(caught.value).startswith(said)
    with pytest.raises(ValueError, match=r"huber: grad_out must have shape \(3,\), got \(4,\)"):
        fl.huber.grad(ones, ones, grad_out=torch.ones(4))
    with pytest.raises(ValueError, match=r"huber: grad_out must have dtype float32, got float64"):
        fl.huber.grad(ones, ones, grad_out=torch.ones(3).double())
    with pytest.raises(ValueError, match=r"huber: target must broadcast to pred's shape \(3,\), got \(4,\)"):
        fl.huber.grad(ones, torch.ones(4), grad_out=out)
    assert (out == 77).all()


def test_torch_parameters_are_rewritten_in_place():
    torch = library("torch")
    layer = torch.nn.Linear(3, 2)
    own = [p.detach().numpy().copy() for p in layer.parameters()]
    ours, plain_one = fl.AdamW(list(layer.parameters()), lr=0.1), fl.AdamW(own, lr=0.1)
    for k in range(3):
        layer.zero_grad()
        layer(torch.ones(5, 3) * k).square().mean().backward()
        grads = [p.grad for p in layer.parameters()]
        ours.step(grads)
        plain_one.step([g.numpy() for g in grads])
    for tensor, expected in zip(layer.parameters(), own, strict=True):
        inputs.assert_same(tensor.detach().numpy(), expected)
        assert tensor.requires_grad


def test_torch_parameters_of_half_precision():
    torch = library("torch")
    pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    weights = {"w": torch.ones(4, dtype=torch.bfloat16)}
    fl.SGD(weights, lr=0.5).step({"w": torch.ones(4, dtype=torch.bfloat16)})
    assert (weights["w"] == 0.5).all()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_a_copied_optimizer_steps_its_own_tensors(again):
    torch = library("torch")
    weights = torch.ones(3)
    optimizer = fl.SGD([weights], lr=0.5)
    other = again(optimizer)
    other.step([torch.ones(3)])
    assert (other.param_groups[0]["params"][0] == 0.5).all()
    assert (weights == 1).all()


@pytest.mark.parametrize("name", ["jax", "pandas", "polars"])
def test_what_cannot_be_rewritten_in_place(name):
    given = make(name, np.ones(3))
    said = "must be a NumPy array, for it is rewritten in place, got"
    with pytest.raises(TypeError, match=f"SGD: params {said}"):
        fl.SGD(given, lr=0.1)
    with pytest.raises(TypeError, match="huber: grad_out must be a NumPy array or a PyTorch tensor, got"):
        fl.huber.grad(np.ones(3), 0.0, grad_out=given)


# --- columns ------------------------------------------------------------------------------------------------------------------


def test_pandas_keeps_its_labels():
    pandas = library("pandas")
    pred = pandas.Series([0.5, 2.0], index=["a", "b"], name="pred")
    grad = fl.huber.grad(pred, pandas.Series([0.0, 0.0], index=["x", "y"]))  # by position
    assert list(grad.index) == ["a", "b"]
    assert grad.name == "pred"
    frame = pandas.DataFrame({"name": [0.5, 2.0], "other": [1.0, 1.0]}, index=["a", "b"])
    grad = fl.huber.grad(frame, 0.0)
    assert list(grad.columns) == ["name", "other"]
    losses = fl.cross_entropy(frame, [0, 1], reduction="none")
    assert list(losses.index) == ["a", "b"]
    assert losses.name is None


@pytest.mark.parametrize("dtype", ["Float64", "Float32"])
def test_pandas_missing_values_are_nan(dtype):
    pandas = library("pandas")
    pred = pandas.Series([0.5, None, 2.0], dtype=dtype)
    losses = fl.huber(pred, 0.0, reduction="none")
    assert losses.dtype == np.dtype(dtype.lower())
    np.testing.assert_array_equal(losses.isna(), [False, True, False])
    assert fl.huber(np.ones(3), pandas.Series([1, 2, 3], dtype="Int64")) == fl.huber(np.ones(3), np.array([1, 2, 3]))
    assert np.isnan(fl.huber(np.ones(3), pandas.Series([1, None, 3], dtype="Int64")))


def test_polars_missing_values_are_nan():
    polars = library("polars")
    losses = fl.huber(polars.Series("x", [0.5, None, 2.0]), 0.0, reduction="none")
    np.testing.assert_array_equal(losses.is_nan(), [False, True, False])
    assert losses.name == "x"


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_columns_of_text(name):
    module = library(name)
    with pytest.raises(TypeError, match="huber: pred must hold real numbers"):
        fl.huber(module.Series(["a", "b"]), 0.0)


# --- protocols ----------------------------------------------------------------------------------------------------------------


class WithDlpack:
    """An array of a library that nobody knows, which has DLPack alone."""

    def __init__(self, values):
        self._values = values

    def __dlpack__(self, **options):
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()


class WithArray:
    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return self._values


@pytest.mark.parametrize("wrap", [WithDlpack, WithArray, memoryview, lambda a: array("d", a)])
def test_protocols(wrap):
    values = np.linspace(-1, 1, 9)
    inputs.assert_same(fl.huber.value_and_grad(wrap(values), wrap(values * 2)), fl.huber.value_and_grad(values, values * 2))


def test_dlpack_that_cannot_be_taken():
    class Broken(WithDlpack):
        def __dlpack__(self, **options):
            raise BufferError("not here")

    with pytest.raises(
        TypeError, match=r"huber: target must be an array that DLPack shares with NumPy, got .*Broken \(not here\)"
    ):
        fl.huber(np.ones(3), Broken(np.ones(3)))


def test_nothing_is_imported_to_recognise_an_array():
    assert not interop.library_of(np.zeros(1)).is_foreign
    assert not {"torch", "jax", "pandas", "polars"} & {
        name for name in vars(interop) if name in sys.modules and hasattr(vars(interop)[name], "__path__")
    }


def test_without_a_copy():
    torch = library("torch")
    tensor = torch.zeros(10)
    assert np.shares_memory(interop.as_numpy("t", "x", tensor), tensor.numpy())
    half = torch.zeros(10, dtype=torch.bfloat16)
    pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    interop.as_numpy("t", "x", half)[:] = 1
    assert (half == 1).all()


@pytest.mark.parametrize("name", ["jax", "pandas", "polars"])
def test_without_a_copy_elsewhere(name):
    values = make(name, np.zeros(1000))
    first, second = (interop.as_numpy("t", "x", values) for _ in range(2))
    assert np.shares_memory(first, second)


def test_a_library_takes_one_class(monkeypatch):
    monkeypatch.setattr(interop.library, "_LIBRARIES", dict(interop.library._LIBRARIES))
    interop.library._of_type.cache_clear()

    class Array:
        def __init__(self, values):
            self.values = values

    Array.__module__ = "toy.arrays"

    @interop.array_library("toy")
    class Toy(interop.ArrayLibrary):
        name = "Toy"
        is_foreign = True

        def to_numpy(self, who, name, value):
            return value.values

        def from_numpy(self, array, like):
            return Array(array)

    try:
        pred, out = Array(np.array([1.0, 3.0])), Array(np.zeros(2))
        loss, grad = fl.huber.value_and_grad(pred, Array(np.zeros(2)))
        assert (loss, grad.values.tolist(), type(grad)) == (1.5, [0.5, 0.5], Array)
        assert fl.huber.grad(pred, [0.0, 0.0], grad_out=out) is out
        assert out.values.tolist() == [0.5, 0.5]
    finally:
        interop.library._of_type.cache_clear()
