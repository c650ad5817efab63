"""A layer before a row loss on a GPU, in Numba's simulator: its products by libraries that stand in for CuPy and PyTorch, on the host."""

import itertools
import sys
import types

import inputs
import numpy as np
import pytest
from test_blocks import IGNORED, call, draw, settings

import fastloss as fl

from .cuda_simulator import SIMULATED, simulated

NAME = "linear_cross_entropy"


# --- stand-ins ------------------------------------------------------------------------------------------------------------


def cupy_of_numpy():
    """A module `cupy` of NumPy's functions, whose arrays lie in the host's memory."""
    module = types.ModuleType("cupy")

    class ndarray(np.ndarray):
        data = property(lambda self: types.SimpleNamespace(ptr=self.ctypes.data))
        device = types.SimpleNamespace(id=0)

    ndarray.__module__ = "cupy"

    def of(function):
        return lambda *args, **options: np.asarray(function(*args, **options)).view(ndarray)

    for name in ("empty", "zeros", "broadcast_to", "where"):
        setattr(module, name, of(getattr(np, name)))
    module.matmul, module.dtype = np.matmul, np.dtype
    module.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=0))
    module.asarray = lambda array: np.array(array).view(ndarray)
    return module


class Library:
    def __init__(self, name, monkeypatch):
        from fastloss import interop

        on_device = interop.on_device
        monkeypatch.setattr(interop, "on_device", lambda value: type(value).__module__ == name or on_device(value))
        if name == "cupy":
            module = cupy_of_numpy()
            monkeypatch.setitem(sys.modules, "cupy", module)
            self.array, self.host = module.asarray, np.asarray
            self.repeated = lambda array: np.lib.stride_tricks.as_strided(array, array.shape, (0, array.strides[1]), subok=True)
        else:
            torch = pytest.importorskip("torch")
            monkeypatch.setattr(interop.libraries.Torch, "stream", lambda self, device: 0)
            self.array, self.host = lambda array: torch.tensor(np.asarray(array)), lambda tensor: tensor.detach().numpy()
            self.repeated = lambda tensor: tensor[:1].expand(tensor.shape)


@pytest.fixture(params=["cupy", "torch"])
def library(request, monkeypatch):
    return Library(request.param, monkeypatch)


@pytest.fixture
def small_blocks(monkeypatch):
    from fastloss._kernels.cuda import pairs

    monkeypatch.setattr(pairs, "SCRATCH", 1 << 9)


def there(library, options):
    return {name: library.array(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def same(library, found, expected, dtype):
    eps = float(np.finfo(dtype).eps)
    for one, its in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        mine, other = np.asarray(library.host(one), float), np.asarray(its, float)
        np.testing.assert_allclose(mine, other, rtol=64 * eps, atol=64 * eps * np.abs(other).max(initial=1e-300))


# --- tests ----------------------------------------------------------------------------------------------------------------


@simulated
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_on_the_cpu(dtype, library, small_blocks):
    formula = getattr(fl, NAME).formula
    reductions = itertools.cycle((("mean", None), ("mean", 2.75), ("sum", None), ("none", None), ("mean", "samples")))
    for k, (values, names) in enumerate(list(settings(formula))[:: 2 if dtype == "float64" else 5]):
        arrays = draw(formula, 7, names, dtype=dtype, ignored=True, seed=k)
        reduction, normalizer = next(reductions)
        weight = inputs.weights((7,), seed=k).astype(dtype) if k % 3 else None
        options = values | {"sample_weight": weight, "reduction": reduction, "normalizer": normalizer}
        found = call(NAME, there(library, arrays), **there(library, options))
        same(library, found, call(NAME, arrays, **options), dtype)


@simulated
def test_the_value_alone_and_the_gradients_alone(library, small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, (3, 4), ("bias",), dtype=np.float32, ignored=True)
    given = there(library, arrays)
    expected = call(NAME, arrays)
    assert float(call(NAME, given, "__call__")) == pytest.approx(expected[0], rel=1e-6)
    same(library, (library.array(0), call(NAME, given, "grad")), (0, expected[1]), np.float32)
    found = call(NAME, given, reduction="none")
    assert found[0].shape == (3, 4)
    same(library, found, call(NAME, arrays, reduction="none"), np.float32)


@simulated
def test_probabilities_for_labels(library, small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, 9, ("bias",), dtype=np.float32)
    arrays["target"] = np.random.default_rng(0).dirichlet(np.ones(11), 9).astype(np.float32)
    same(library, call(NAME, there(library, arrays)), call(NAME, arrays), np.float32)


@simulated
def test_half_precision_is_computed_in_single(library, small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, 9, ("bias",), dtype=np.float16)
    found, expected = call(NAME, there(library, arrays)), call(NAME, arrays)
    assert library.host(found[1][0]).dtype == np.float16
    same(library, found, expected, np.float16)
    # A mean over so many rows that each gradient is below the least float16: all are, but the sums are not.
    assert np.asarray(library.host(call(NAME, there(library, arrays), normalizer=1e6)[1][1])).any()


@simulated
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_removed_row_may_hold_anything(bad, library, small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, 12, ("bias",), dtype=np.float32, ignored=True)
    arrays["target"][3] = IGNORED
    weight = np.ones(12, np.float32)
    weight[5] = 0
    expected = call(NAME, there(library, arrays), sample_weight=library.array(weight))
    arrays["x"][[3, 5]] = bad
    found = call(NAME, there(library, arrays), sample_weight=library.array(weight))
    same(library, found, (library.host(expected[0]), tuple(map(library.host, expected[1]))), np.float32)


@simulated
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")  # NumPy's: no other library says so
def test_nothing_that_counts(library):
    arrays = draw(fl.linear_cross_entropy.formula, 6, ("bias",), dtype=np.float32)
    arrays["target"][...] = IGNORED
    for rows in (6, 0):
        own = arrays | {"x": arrays["x"][:rows], "target": arrays["target"][:rows]}
        value, grads = call(NAME, there(library, own))
        assert np.isnan(float(value))
        assert not any(library.host(grad).any() for grad in grads)
        assert float(call(NAME, there(library, own), "__call__", normalizer=2.0)) == 0


@simulated
def test_given_outputs(library, small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, (3, 4), (), dtype=np.float32)
    expected = call(NAME, arrays)
    given = there(library, arrays)
    wide = library.array(np.full((3, 4, 10), 77, np.float32))
    value, outs = library.array(np.float32(0)), (wide[..., ::2], library.array(np.full_like(arrays["weight"], 77)))
    found = call(NAME, given, value_out=value, grad_out=outs)
    assert found[0] is value
    assert found[1][1] is outs[1]
    same(library, found, expected, np.float32)
    assert (library.host(wide)[..., 1::2] == 77).all()
    # An output between the elements of an input.
    both = library.array(np.zeros((3, 4, 10), np.float32))
    both[..., ::2] = given["x"]
    found = call(NAME, given | {"x": both[..., ::2]}, grad_out=(both[..., 1::2], outs[1]))
    same(library, found, expected, np.float32)
    np.testing.assert_array_equal(library.host(both)[..., ::2], arrays["x"])
    # The rows' gradient over the rows.
    found = call(NAME, given, grad_out=(given["x"], outs[1]))
    same(library, found, expected, np.float32)
    prepared = fl.linear_cross_entropy.prepare("value_and_grad", *there(library, arrays).values())
    same(library, prepared(), expected, np.float32)
    same(library, prepared(), expected, np.float32)


@simulated
@pytest.mark.parametrize(
    ("error", "said", "changed"),
    [
        (ValueError, r"weight must have shape \(classes, 5\), got \(11, 4\)", {"weight": np.ones((11, 4), "f4")}),
        (TypeError, "weight must have x's dtype f32, got f64", {"weight": np.ones((11, 5))}),
        (TypeError, "x must be a floating-point array", {"x": np.ones((4, 5), int)}),
        (TypeError, "target must hold whole numbers", {"target": np.ones(4, "f4")}),
        (ValueError, r"target must broadcast to the rows' shape \(4,\), got \(3,\)", {"target": np.ones(3, int)}),
        (
            ValueError,
            r"target must hold one label for each row, in their shape \(4,\), got \(1,\)",
            {"target": np.zeros(1, int)},
        ),
        (ValueError, "sample_weight must broadcast to the rows' shape", {"sample_weight": np.ones(3, "f4")}),
        (ValueError, "class_weight must have one number for each of the 11 classes", {"class_weight": np.ones(5, "f4")}),
        (ValueError, r"grad_out\[0\] must not share memory with x", {"grad_out": "shifted"}),
        (ValueError, r"grad_out\[1\] must not share memory with weight", {"grad_out": "the weight"}),
        (ValueError, r"grad_out\[0\] must have shape \(4, 5\)", {"grad_out": "another shape"}),
        (TypeError, "grad_out must be 2 arrays", {"grad_out": "one"}),
        (ValueError, "reduction must be 'mean', 'sum' or 'none', got 'average'", {"reduction": "average"}),
        (ValueError, "normalizer must be a positive number", {"normalizer": -1}),
        (ValueError, "normalizer must be within float32's range, and its inverse too", {"normalizer": 1e-40}),
        (ValueError, r"grad_out\[0\] must not share memory with itself", {"grad_out": "repeated"}),
    ],
)
def test_what_is_refused(error, said, changed, library):
    arrays = draw(fl.linear_cross_entropy.formula, 4, (), dtype=np.float32)
    given = there(library, arrays | {n: v for n, v in changed.items() if n != "grad_out"})
    new, more = library.array(np.zeros_like(arrays["weight"])), library.array(np.zeros((5, 5), np.float32))
    if changed.get("grad_out") == "shifted":
        more[1:] = given["x"]
        given["x"] = more[1:]
    outs = {
        "shifted": (more[:4], new),
        "the weight": (more[:4], given["weight"]),
        "another shape": (more, new),
        "one": more,
        "repeated": (library.repeated(more[:4]), new),
    }.get(changed.get("grad_out"))
    with pytest.raises(error, match=f"^{NAME}: {said}"):
        call(NAME, given, grad_out=outs)


@simulated
def test_no_hessian(library):
    given = there(library, draw(fl.linear_cross_entropy.formula, 4, (), dtype=np.float32))
    with pytest.raises(TypeError, match=f"^{NAME}: .* Hessian"):
        call(NAME, given, "value_grad_hess")


@simulated
def test_libraries_without_products_and_losses_of_the_host():
    from numba import cuda

    arrays = draw(fl.linear_cross_entropy.formula, 4, (), dtype=np.float32)
    with pytest.raises(TypeError, match=f"^{NAME}: x must be a CuPy array or a PyTorch tensor, .* got FakeCUDAArray"):
        call(NAME, {name: cuda.to_device(array) for name, array in arrays.items()})
    x, centers = (cuda.to_device(np.ones((3, 2), np.float32)) for _ in range(2))
    for loss, given in ((fl.kmeans, (x, centers)), (fl.center, (x, centers, np.zeros(3, int)))):
        with pytest.raises(TypeError, match=f"^{loss.__name__}: x must be an array in the host's memory, got a FakeCUDAArray"):
            loss(*given)
    with pytest.raises(TypeError, match="host's memory"):
        fl.kmeans.assign(x, centers)


@pytest.mark.skipif(SIMULATED, reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_on_a_gpu(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    arrays = draw(fl.linear_cross_entropy.formula, 200, ("bias",), features=64, shared=500, ignored=True)
    real = getattr(torch, dtype)
    given = {n: torch.tensor(a, device="cuda", dtype=real if a.dtype.kind == "f" else None) for n, a in arrays.items()}
    exact = {n: t.double().cpu().numpy() if t.is_floating_point() else t.cpu().numpy() for n, t in given.items()}
    value, grads = call(NAME, given)
    expected = call(NAME, exact)
    tolerance = {"float64": 1e-12, "float32": 1e-4, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    assert float(value) == pytest.approx(expected[0], rel=tolerance)
    for mine, other in zip(grads, expected[1], strict=True):
        assert mine.dtype == real
        found = mine.double().cpu().numpy()
        np.testing.assert_allclose(found, other, rtol=tolerance, atol=tolerance * np.abs(other).max())
