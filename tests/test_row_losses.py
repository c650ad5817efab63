"""Row losses on the CPU: values and derivatives against PyTorch, memory of every kind, threads, and faults."""

import itertools
import warnings

import numpy as np
import pytest

import fastloss as fl
from fastloss.formula import oracle
from fastloss.losses.classification import cross_entropy, sparsemax
from fastloss.losses.distributions import wasserstein_1d

from . import inputs

LOSSES = {"cross_entropy": cross_entropy, "sparsemax": sparsemax}
# No hyperparameter at its default, and every variant of the formula.
SETTINGS = {
    "cross_entropy": [
        {"label_smoothing": 0.375, "z_loss": 0.25, "softcap": 4.5, "temperature": 1.625},
        {"label_smoothing": 0.375, "z_loss": 0.0, "softcap": None, "temperature": 0.625},
        {"label_smoothing": 0.0, "z_loss": 0.25, "softcap": 2.75, "temperature": 1.0},
        {"label_smoothing": 0.0, "z_loss": 0.0, "softcap": None, "temperature": 1.0},
    ],
    "sparsemax": [{}],
}
BY_LOSS = pytest.mark.parametrize("name", LOSSES)
BY_DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])
METHODS = {"__call__": "v", "grad": "g", "value_and_grad": "vg", "grad_and_hess": "gh", "value_grad_hess": "vgh"}
IGNORED = -7
SENTINEL = 77
LENGTHS = [1, 2, 3, 10, 63, 64, 65, 1000, 1025, 5000]


def dtype_of(name):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)


def make(name, shape, dtype=np.float64, axis=-1, seed=0):
    """All inputs of a loss by name, for logits of this shape; some rows are to be ignored."""
    rng = np.random.default_rng(seed)
    rows = np.delete(shape, axis)
    found = {}
    for key, kind in LOSSES[name]._kinds.items():
        if kind == "label":
            found[key] = np.where(rng.random(rows) < 0.2, IGNORED, rng.integers(0, shape[axis], rows))
        elif kind == "class weight":
            found[key] = rng.integers(1, 17, shape[axis]) / 8
        else:
            found[key] = (rng.normal(size=shape if kind == "row" else rows) * 3).astype(dtype)
    return found


def call(name, arrays, method="value_grad_hess", **options):
    loss = LOSSES[name]
    options = ({"ignore_index": IGNORED} if loss.formula.label else {}) | options
    return getattr(loss, method)(*arrays.values(), **SETTINGS[name][0] | options)


# --- values --------------------------------------------------------------------------------------------------------------


def cross_entropy_reference(logits, target, class_weight, *, label_smoothing, z_loss, softcap, temperature):
    """Every row's loss, gradient and Hessian diagonal in float64, and how large a term of each is at most."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(logits.astype(np.float64), requires_grad=True)
    labels = torch.tensor(target.astype(np.int64))
    weight = None if class_weight is None else torch.tensor(class_weight)
    s = (x if softcap is None else softcap * torch.tanh(x / softcap)) / temperature
    lse = torch.logsumexp(s, 1)
    value = torch.nn.functional.cross_entropy(
        s, labels, weight, reduction="none", ignore_index=IGNORED, label_smoothing=label_smoothing
    ) + torch.where(labels == IGNORED, 0.0, z_loss * lse**2)
    value.sum().backward()

    there = (target != IGNORED)[:, None]
    w = np.ones(logits.shape[1]) if class_weight is None else class_weight
    scale = (1 - label_smoothing) * w[np.where(there[:, 0], target, 0)] + label_smoothing * w.mean()
    s, lse, z, scale = s.detach().numpy(), lse.detach().numpy()[:, None], z_loss, scale[:, None]
    p = np.exp(s - lse)
    ds, d2s = 1 / temperature, 0.0
    if softcap is not None:
        t = np.tanh(logits.astype(np.float64) / softcap)
        ds, d2s = (1 - t**2) / temperature, -2 * t * (1 - t**2) / (softcap * temperature)
    hit = np.zeros_like(s) + label_smoothing * w / len(w)
    hit[np.arange(len(s)), np.where(there[:, 0], target, 0)] += (1 - label_smoothing) * w[np.where(there[:, 0], target, 0)]
    slope = scale * p - hit + 2 * z * lse * p
    hess = there * ((scale * p * (1 - p) + 2 * z * (p**2 + lse * p * (1 - p))) * ds**2 + slope * d2s)
    top = (scale + 2 * z * np.abs(lse)) * np.max(ds, axis=-1, keepdims=True) * (1 + 1 / temperature)
    terms = scale[:, 0] * (np.abs(lse[:, 0]) + np.abs(s).max(1, initial=0)) + z * lse[:, 0] ** 2
    return value.detach().numpy(), x.grad.numpy(), hess, terms, top


def sparsemax_reference(logits, target, class_weight):
    """The same of sparsemax, by sorting the logits."""
    x = logits.astype(np.float64)
    rows, there = np.arange(len(x)), target != IGNORED
    labels = np.where(there, target, 0)
    w = there * (np.ones(x.shape[1]) if class_weight is None else class_weight)[labels]
    ordered = -np.sort(-x, axis=1)
    sums, size = ordered.cumsum(1), np.arange(1, x.shape[1] + 1)
    support = (1 + size * ordered > sums).sum(1)
    threshold = (sums[rows, support - 1] - 1) / support
    p = np.maximum(x - threshold[:, None], 0)
    inside = p > 0
    miss = p.copy()
    miss[rows, labels] -= 1
    value = w * (0.5 * (miss**2).sum(1) + np.maximum(threshold - x[rows, labels], 0))
    hess = w[:, None] * inside * (1 - 1 / support[:, None])
    return value, w[:, None] * miss, hess, w * (1 + np.abs(x).max(1)), w[:, None]


REFERENCES = {"cross_entropy": cross_entropy_reference, "sparsemax": sparsemax_reference}


def assert_near(results, expected, weights, factor, dtype):
    """Every row's results within a tolerance of its largest term; `weights` are the rows' own."""
    bound = 1e-12 if dtype == "float64" else 64 * float(np.finfo(np.float32).eps)
    value, grad, hess, terms, top = expected
    value, terms = value * weights * factor, terms * weights * factor
    grad, hess, top = (a * weights[:, None] * factor for a in (grad, hess, top))
    if np.ndim(results[0]):
        assert (np.abs(results[0] - value) <= bound * terms).all()
    else:
        assert abs(results[0] - value.sum()) <= bound * terms.sum()
    assert (np.abs(results[1] - grad) <= bound * top).all()
    assert (np.abs(results[2] - hess) <= bound * top).all()


@pytest.mark.parametrize("count", [0, 1, 7, 1025])
@pytest.mark.parametrize("length", LENGTHS)
@BY_DTYPE
@BY_LOSS
def test_every_option_in_combination(name, dtype, length, count):
    few = count * length > 10**6
    for settings, weighted in itertools.product(SETTINGS[name][: 1 if few else None], (True, False)):
        arrays = make(name, (count, length), dtype, seed=length + count)
        if not weighted:
            arrays = {k: None if LOSSES[name]._kinds[k] == "class weight" else a for k, a in arrays.items()}
        expected = REFERENCES[name](*arrays.values(), **settings)
        counted = arrays["target"] != IGNORED
        class_weight = arrays["class_weight"] if weighted else np.ones(length)
        own = inputs.weights((count,), seed=3) if weighted else np.ones(count)
        total = (own * counted * class_weight[np.where(counted, arrays["target"], 0)]).sum()
        options = settings | {"sample_weight": own if weighted else None}
        for reduction, factor in (("sum", 1), ("none", 1), ("mean", 1 / total if total else None)):
            if factor is None:
                with pytest.warns(RuntimeWarning, match="the mean of nothing is nan"):
                    results = call(name, arrays, reduction="mean", **options)
                assert np.isnan(results[0])
                assert not results[1].any()
                assert not results[2].any()
                continue
            results = call(name, arrays, reduction=reduction, **options)
            assert_near(results, expected, own, factor, dtype)
            if reduction == "none":
                assert results[0].shape == (count,)
                assert not results[0][~counted].any()
                assert not results[1][~counted].any()


def test_the_reference_hessian_is_the_diagonal_of_pytorchs():
    torch = pytest.importorskip("torch")
    arrays = make("cross_entropy", (1, 6), seed=2) | {"target": np.array([4])}
    settings = SETTINGS["cross_entropy"][0]
    weight = torch.tensor(arrays["class_weight"])

    def loss(x):
        s = settings["softcap"] * torch.tanh(x / settings["softcap"]) / settings["temperature"]
        smoothing = settings["label_smoothing"]
        found = torch.nn.functional.cross_entropy(s, torch.tensor([4]), weight, reduction="sum", label_smoothing=smoothing)
        return found + settings["z_loss"] * torch.logsumexp(s, 1).sum() ** 2

    full = torch.autograd.functional.hessian(loss, torch.tensor(arrays["logits"])).reshape(6, 6).numpy()
    expected = cross_entropy_reference(*arrays.values(), **settings)
    np.testing.assert_allclose(expected[2][0], np.diag(full), rtol=1e-12)


def test_the_plain_mean_is_pytorchs():
    functional = pytest.importorskip("torch").nn.functional
    tensor = pytest.importorskip("torch").tensor
    for length, smoothing, weighted in itertools.product((3, 100), (0.0, 0.375), (True, False)):
        x, target, w = make("cross_entropy", (50, length)).values()
        options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
        for reduction in ("mean", "sum"):
            found = cross_entropy(x, target, w if weighted else None, reduction=reduction, **options)
            weight = tensor(w) if weighted else None
            expected = functional.cross_entropy(tensor(x), tensor(target), weight, reduction=reduction, **options).item()
            assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("length", [5, 100])
@BY_LOSS
def test_normalizers(name, length):
    arrays, w = make(name, (40, length)), inputs.weights((40,))
    total, grad, hess = call(name, arrays, reduction="sum", sample_weight=w)
    for normalizer, number in ((2.75, 2.75), ("samples", 40)):
        results = call(name, arrays, normalizer=normalizer, sample_weight=w)
        for result, expected in zip(results, (total, grad, hess), strict=True):
            np.testing.assert_allclose(result, expected / number, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("length", [5, 100])
@BY_DTYPE
@BY_LOSS
def test_methods_return_what_they_are_named_after(name, dtype, length, reduction):
    arrays = make(name, (9, length), dtype)
    shapes = {"v": (9,) if reduction == "none" else (), "g": (9, length), "h": (9, length)}
    options = {"reduction": reduction, "sample_weight": inputs.weights((9,))}
    full = dict(zip("vgh", call(name, arrays, **options), strict=True))
    bound = 4 * float(np.finfo(dtype).eps)
    for method, want in METHODS.items():
        results = call(name, arrays, method, **options)
        results = results if len(want) > 1 else (results,)
        names = {"v": "value_out", "g": "grad_out", "h": "hess_out"}
        outs = {names[w]: np.full(shapes[w], SENTINEL, dtype) for w in want}
        given = call(name, arrays, method, **options, **outs)
        given = given if len(want) > 1 else (given,)
        for w, result, out in zip(want, results, given, strict=True):
            assert out is outs[names[w]]
            assert np.shape(result) == shapes[w]
            np.testing.assert_array_equal(out, np.asarray(result, dtype))
            np.testing.assert_allclose(result, full[w], rtol=0, atol=4 * bound * np.abs(full[w]).max())


# --- layouts -------------------------------------------------------------------------------------------------------------


def goes_across(array, axis=-1):
    """Rows that the engine processes side by side: they may round differently from the same rows processed along."""
    return array.shape[axis] < 64 or (array.strides[axis] != array.itemsize and array.itemsize in array.strides)


def assert_as(results, expected, like):
    """The same bits where both were processed the same way, a few units in the last place otherwise."""
    if like:
        inputs.assert_same(results, expected)
        return
    bound = 64 * float(np.finfo(expected[1].dtype).eps)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=bound * np.abs(wanted).max())


@pytest.mark.fault(6)
@pytest.mark.parametrize("length", [1, 3, 63, 65, 1025])
@pytest.mark.parametrize("layout", inputs.AWKWARD)
@BY_DTYPE
@BY_LOSS
def test_inputs_of_every_layout(name, dtype, layout, length):
    arrays, w = make(name, (37, length), dtype), inputs.weights((37,), np.float32)
    change = inputs.AWKWARD[layout]
    for reduction in ("mean", "none"):
        expected = call(name, arrays, reduction=reduction, sample_weight=w)
        for key in arrays:
            changed = arrays | {key: change(arrays[key])}
            like = not goes_across(changed["logits"]) or length < 64
            assert_as(call(name, changed, reduction=reduction, sample_weight=w), expected, like)
        inputs.assert_same(call(name, arrays, reduction=reduction, sample_weight=change(w)), expected)


@pytest.mark.fault(11)
@pytest.mark.parametrize("length", [3, 100])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@BY_LOSS
def test_halves_are_computed_in_float32_and_rounded_once(name, dtype, length):
    dtype = dtype_of(dtype)
    arrays = make(name, (37, length), dtype)
    wide = arrays | {"logits": arrays["logits"].astype(np.float32)}
    for reduction in ("none", "sum"):
        value, *others = call(name, wide, reduction=reduction)
        value = value.astype(dtype) if reduction == "none" else value
        inputs.assert_same(call(name, arrays, reduction=reduction), (value, *(a.astype(dtype) for a in others)))


@pytest.mark.parametrize("length", [2, 70])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (3, 4, 5), (2, 3, 4, 5)], ids=str)
@BY_DTYPE
@BY_LOSS
def test_any_axis_of_any_number_of_dimensions(name, dtype, shape, length):
    for axis in range(len(shape)):
        full = (*shape[:axis], length, *shape[axis + 1 :])
        arrays = make(name, full, dtype, axis)
        w = inputs.weights(np.delete(full, axis))
        last = arrays | {"logits": np.ascontiguousarray(np.moveaxis(arrays["logits"], axis, -1))}
        value, *others = call(name, last, sample_weight=w, reduction="none")
        expected = (value, *(np.moveaxis(a, -1, axis) for a in others))
        for own in (axis, axis - len(shape)):
            results = call(name, arrays, axis=own, sample_weight=w, reduction="none")
            assert_as(results, expected, length < 64)
            assert_as(call(name, arrays | {"logits": np.asfortranarray(arrays["logits"])}, axis=own, sample_weight=w,
                           reduction="none"), expected, length < 64)  # fmt: skip


def test_axis_1_is_pytorchs():
    torch = pytest.importorskip("torch")
    x, target, w = make("cross_entropy", (3, 12, 4, 5), axis=1).values()
    leaf = torch.tensor(x, requires_grad=True)
    options = {"ignore_index": IGNORED, "label_smoothing": 0.375}
    expected = torch.nn.functional.cross_entropy(leaf, torch.tensor(target), torch.tensor(w), **options)
    expected.backward()
    value, grad = cross_entropy.value_and_grad(x, target, w, axis=1, **options)
    assert value == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("length", [1, 3, 63, 65, 1025])
@BY_DTYPE
@BY_LOSS
def test_inputs_broadcast(name, dtype, length):
    arrays, w = make(name, (6, 5, length), dtype), inputs.weights((6, 5))
    small = {
        "logits": np.broadcast_to(arrays["logits"][:1, :1], (6, 5, length)),
        "target": np.where(arrays["target"][0] < 0, 0, arrays["target"][0]),
    }
    full = {"logits": small["logits"].copy(), "target": np.broadcast_to(small["target"], (6, 5)).copy()}
    options = {"reduction": "none", "sample_weight": w[:, :1]}
    expected = call(name, arrays | full, **options | {"sample_weight": np.broadcast_to(w[:, :1], (6, 5)).copy()})
    inputs.assert_same(call(name, arrays | small, **options), expected)
    one_column = arrays | {"logits": np.broadcast_to(arrays["logits"][..., :1], (6, 5, length))}
    assert_as(call(name, one_column), call(name, one_column | {"logits": one_column["logits"].copy()}), True)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"])
@pytest.mark.parametrize("length", [2, 70])
def test_labels_of_every_width(kind, length):
    x, target, w = make("cross_entropy", (50, length)).values()
    target = (np.abs(target) % 2).astype(np.int64)
    expected = cross_entropy.value_and_grad(x, target, w, reduction="none")
    for change in (np.asarray, *inputs.AWKWARD.values()):
        inputs.assert_same(cross_entropy.value_and_grad(x, change(target.astype(kind)), w, reduction="none"), expected)


def test_lists_and_single_rows():
    x = [1.0, 2.0, 4.0]
    value, grad = cross_entropy.value_and_grad(x, 1)
    p = np.exp(x) / np.exp(x).sum()
    assert value == pytest.approx(-np.log(p[1]), rel=1e-14)
    np.testing.assert_allclose(grad, p - [0, 1, 0], rtol=1e-14)
    assert cross_entropy([x, x], [1, 2], [1, 1, 1], sample_weight=[1, 0]) == pytest.approx(value)
    assert cross_entropy(x, 1, reduction="none").shape == ()


@pytest.mark.parametrize("length", [1, 3, 63, 65, 1025])
@pytest.mark.parametrize("layout", inputs.WRITEABLE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@BY_LOSS
def test_outputs_of_every_layout(name, dtype, layout, length):
    arrays, change = make(name, (37, length), dtype), inputs.WRITEABLE[layout]
    expected = call(name, arrays, reduction="none")
    outs = [change(np.full(np.shape(a), SENTINEL, dtype)) for a in expected]
    results = call(name, arrays, reduction="none", **dict(zip(("value_out", "grad_out", "hess_out"), outs, strict=True)))
    inputs.assert_same(results, expected)
    assert all(result is out for result, out in zip(results, outs, strict=True))


@pytest.mark.parametrize("length", [3, 65, 1025])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@BY_LOSS
def test_nothing_is_written_between_the_elements_of_outputs(name, dtype, length):
    arrays = make(name, (37, length), dtype)
    arrays["target"][3:6] = IGNORED
    memory, values = np.full((75, 3 * length + 5), SENTINEL, dtype), np.full(80, SENTINEL, dtype)
    out, value = memory[1::2, 3 : 3 + 3 * length : 3], values[1:75:2]
    expected = call(name, arrays, "value_and_grad", reduction="none")
    inputs.assert_same(call(name, arrays, "value_and_grad", reduction="none", grad_out=out, value_out=value), expected)
    out[...] = value[...] = SENTINEL
    assert (memory == SENTINEL).all()
    assert (values == SENTINEL).all()


@pytest.mark.parametrize("length", [3, 65, 1025])
@pytest.mark.parametrize("count", [5, 20_000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@BY_LOSS
def test_outputs_may_be_the_input_or_overlap_it(name, dtype, count, length):
    count = min(count, 4_000_000 // length)
    arrays = make(name, (count, length), dtype)
    expected = {order: call(name, arrays | {"logits": arrays["logits"].copy(order)})[1:] for order in "CF"}
    for shift, order in itertools.product((0, 1, length), "CF"):
        memory = np.zeros(count * length + shift, dtype)
        source, out = (a.reshape((count, length), order=order) for a in (memory[: count * length], memory[shift:]))
        source[...] = arrays["logits"]
        inputs.assert_same(call(name, arrays | {"logits": source}, "grad", grad_out=out), expected[order][0])
        source[...] = arrays["logits"]
        inputs.assert_same(call(name, arrays | {"logits": source}, "grad_and_hess", hess_out=out), expected[order])


@pytest.mark.parametrize("length", [3, 65])
@BY_LOSS
def test_value_out_may_overlap_the_inputs(name, length):
    """Or is refused, but never gives wrong numbers."""
    count = 20_000
    arrays, w = make(name, (count, length)), inputs.weights(count + 1)
    expected = call(name, arrays, reduction="none", sample_weight=w[:-1])
    for place in (0, length * 5000 // 2):
        own = arrays | {"logits": arrays["logits"].copy()}
        out = own["logits"].ravel()[place : place + count]
        unless_refused(expected, name, own, reduction="none", sample_weight=w[:-1], value_out=out)
    own = w.copy()
    unless_refused(expected, name, arrays, reduction="none", sample_weight=own[:-1], value_out=own[1:])
    own = w.copy()
    unless_refused(expected, name, arrays, reduction="none", sample_weight=own[:-1], value_out=own[:-1])


def unless_refused(expected, name, arrays, **options):
    try:
        results = call(name, arrays, **options)
    except ValueError as error:
        assert "must not share memory" in str(error)
    else:
        inputs.assert_same(results, expected)


@pytest.mark.parametrize("length", [3, 100])
@BY_LOSS
def test_outputs_must_not_share_memory(name, length):
    arrays = make(name, (6, length))
    memory = np.full((7, length), SENTINEL, np.float64)
    for first, second in ((memory[:-1], memory[:-1]), (memory[:-1], memory[1:])):
        refuses(ValueError, "hess_out must not share memory with another output", name, arrays,
                methods=["grad_and_hess", "value_grad_hess"], grad_out=first, hess_out=second)  # fmt: skip
    same = np.broadcast_to(memory[:1], (6, length))
    same.flags.writeable = True
    refuses(ValueError, "grad_out must not share memory with itself", name, arrays, grad_out=same)
    refuses(ValueError, "must not share memory with another output", name, arrays, methods=["value_and_grad"],
            reduction="none", value_out=memory[:6, 0], grad_out=memory[:-1])  # fmt: skip
    refuses(ValueError, "must not share memory with another output", name, arrays, methods=["value_and_grad"],
            value_out=memory[0, :1].reshape(()), grad_out=memory[:-1])  # fmt: skip
    assert (memory == SENTINEL).all()


# --- threads and places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40_000, 3), (3000, 63), (3000, 65), (400, 5000), (3, 500_000), (1, 10)], ids=str)
@BY_DTYPE
@BY_LOSS
def test_results_do_not_depend_on_the_number_of_threads(name, dtype, shape):
    arrays, w = make(name, shape, dtype), inputs.weights(shape[:1])
    before = fl.get_num_threads()
    try:
        for order, reduction in itertools.product("CF", ("mean", "none")):
            found = []
            for threads in (1, 2, 3, 5):
                fl.set_num_threads(threads)
                own = arrays | {"logits": arrays["logits"].copy(order)}
                found.append(call(name, own, reduction=reduction, sample_weight=w))
            for results in found[1:]:
                inputs.assert_same(results, found[0])
    finally:
        fl.set_num_threads(before)


@pytest.mark.parametrize("length", LENGTHS)
@BY_DTYPE
@BY_LOSS
def test_a_rows_results_do_not_depend_on_its_place(name, dtype, length):
    count = 2100 if length < 64 else 70
    arrays = make(name, (count, length), dtype, seed=4)
    whole = call(name, arrays, reduction="none")
    for start, stop in ((0, 1), (1, count), (7, 8), (16, 33), (count - 3, count), (count // 2 - 1, count // 2 + 2)):
        part = {k: a if LOSSES[name]._kinds[k] == "class weight" else a[start:stop] for k, a in arrays.items()}
        inputs.assert_same(call(name, part, reduction="none"), tuple(a[start:stop] for a in whole))


@BY_LOSS
def test_rows_along_and_side_by_side_agree(name):
    for length in (64, 65, 1025):
        arrays = make(name, (70, length))
        assert_as(call(name, arrays), call(name, arrays | {"logits": arrays["logits"].copy("F")}), False)


# --- faults --------------------------------------------------------------------------------------------------------------


def refuses(error, said, name, arrays, methods=METHODS, **options):
    """Assert that these methods raise this, and write nothing."""
    for method in methods:
        names = {"v": "value_out", "g": "grad_out", "h": "hess_out"}
        shape = np.shape(arrays.get("logits"))
        outs = {names[w]: np.full(() if w == "v" else shape, SENTINEL, np.float64) for w in METHODS[method]}
        if options.keys() & set(names.values()) - outs.keys():
            continue
        given = {k: a for k, a in (outs | options).items() if k != "value_out" or k in options or "reduction" not in options}
        with pytest.raises(error) as caught:
            call(name, arrays, method, **given)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"{name}: ")
        assert said in str(caught.value)
        for array in outs.values():
            assert (array == SENTINEL).all()


FEW = {"logits": np.ones((4, 3)), "target": np.array([0, 1, 2, 1]), "class_weight": np.ones(3)}


@pytest.mark.parametrize("length", [3, 100])
def test_a_label_outside(length):
    arrays = make("cross_entropy", (3000, length))
    for bad in (-1, length, 2**40, -(2**63), 2**63 - 1):
        target = arrays["target"].copy()
        target[[1500, 2999]] = bad
        said = f"target must be a class from 0 to {length - 1}, got {bad} at index 1500"
        refuses(ValueError, said, "cross_entropy", arrays | {"target": target})
        refuses(ValueError, said, "cross_entropy", arrays | {"target": target}, sample_weight=np.zeros(3000))
        shaped = {"logits": arrays["logits"].reshape(30, 100, length), "target": target.reshape(30, 100)}
        refuses(ValueError, f"got {bad} at index (15, 0)", "cross_entropy", arrays | shaped)
    for bad in (2**63, 2**64 - 1):
        target = np.abs(arrays["target"] % length).astype(np.uint64)
        target[7] = bad
        refuses(ValueError, f"got {bad} at index 7", "cross_entropy", arrays | {"target": target})
    assert cross_entropy(np.ones((1, 3)), [-100], reduction="sum") == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_labels_must_be_whole_numbers(dtype):
    refuses(TypeError, f"target must hold whole numbers, got dtype {dtype}", "cross_entropy",
            FEW | {"target": np.ones(4, dtype_of(dtype))})  # fmt: skip


@pytest.mark.parametrize(
    ("error", "said", "changed"),
    [
        (ValueError, "target must broadcast", {"target": np.zeros(3, int)}),
        (ValueError, "target must broadcast", {"target": np.zeros((4, 1), int)}),
        (ValueError, "target must broadcast", {"target": np.zeros((4, 3), int)}),
        (ValueError, "target must broadcast", {"target": np.zeros((1, 4), int)}),
        (ValueError, "class_weight must have one number for each of the 3 classes", {"class_weight": np.ones(4)}),
        (ValueError, "class_weight must have one number for each of the 3 classes", {"class_weight": np.ones((1, 3))}),
        (ValueError, "class_weight must have one number for each of the 3 classes", {"class_weight": 1.0}),
        (ValueError, "class_weight must be finite and not negative, got -2", {"class_weight": [1, -2, 1.0]}),
        (ValueError, "class_weight must be finite and not negative, got nan", {"class_weight": [1, np.nan, 1]}),
        (ValueError, "class_weight must be finite and not negative, got inf", {"class_weight": [1, np.inf, 1]}),
        (TypeError, "class_weight must be a plain array", {"class_weight": np.ma.ones(3)}),
        (TypeError, "target must be a plain array", {"target": np.ma.zeros(4, int)}),
        (TypeError, "logits must be a plain array", {"logits": np.ma.ones((4, 3))}),
        (TypeError, "logits must be a floating-point array", {"logits": np.ones((4, 3), int)}),
        (TypeError, "logits must hold real numbers", {"logits": np.ones((4, 3), complex)}),
        (TypeError, "target must hold real numbers", {"target": np.array(list("abcd"))}),
        (ValueError, "axis must be a dimension of logits", {"logits": np.float64(1), "target": 0}),
        (ValueError, "at least one element along axis", {"logits": np.ones((4, 0)), "class_weight": []}),
        (ValueError, "at least one element along axis", {"logits": np.ones((0, 0)), "target": [], "class_weight": []}),
        (TypeError, "no target", {"target": None}),
        (TypeError, "no logits", {"logits": None}),
    ],
)
def test_inputs_refused(error, said, changed):
    if "target" in changed and isinstance(changed["target"], list):
        changed = changed | {"target": np.zeros(0, int)}
    refuses(error, said, "cross_entropy", FEW | changed)


@pytest.mark.parametrize(
    ("error", "said", "options"),
    [
        (ValueError, "axis must be a dimension of logits, which has 2, got 2", {"axis": 2}),
        (ValueError, "axis must be a dimension of logits, which has 2, got -3", {"axis": -3}),
        (TypeError, "'smoothing'", {"smoothing": 0.1}),
        (ValueError, "label_smoothing must be in [0, 1], got 1.5", {"label_smoothing": 1.5}),
        (ValueError, "temperature must be > 0, got 0", {"temperature": 0}),
        (ValueError, "z_loss must be", {"z_loss": float("nan")}),
        (ValueError, "softcap must be", {"softcap": -1}),
        (ValueError, "reduction must be 'mean', 'sum' or 'none', got 'average'", {"reduction": "average"}),
        (ValueError, "normalizer must be a positive number or 'samples', got -1", {"normalizer": -1}),
        (ValueError, "normalizer goes with reduction='mean'", {"normalizer": 2.0, "reduction": "sum"}),
        (ValueError, "sample_weight must broadcast", {"sample_weight": np.ones(3)}),
        (ValueError, "sample_weight must broadcast", {"sample_weight": np.ones((4, 3))}),
        (ValueError, "sample_weight must be finite and not negative, got -1 at index 2", {"sample_weight": [1, 1, -1, 1]}),
        (ValueError, "sample_weight must be finite and not negative, got nan at index 3", {"sample_weight": [1, 1, 1, np.nan]}),
        (ValueError, "value_out must have shape (), got (4,)", {"value_out": np.ones(4)}),
        (ValueError, "value_out must have shape (4,), got ()", {"value_out": np.ones(()), "reduction": "none"}),
        (ValueError, "grad_out must have shape (4, 3), got (3, 4)", {"grad_out": np.ones((3, 4))}),
        (ValueError, "hess_out must have shape (4, 3), got (4,)", {"hess_out": np.ones(4)}),
        (ValueError, "grad_out must have dtype float64, got float32", {"grad_out": np.ones((4, 3), np.float32)}),
        (ValueError, "value_out must have dtype float64, got float32", {"value_out": np.ones((), np.float32)}),
        (ValueError, "hess_out must be writeable", {"hess_out": inputs.read_only(np.ones((4, 3)))}),
        (ValueError, "value_out must be writeable", {"value_out": inputs.read_only(np.ones(()))}),
        (ValueError, "grad_out must be aligned", {"grad_out": inputs.unaligned(np.ones((4, 3)))}),
        (TypeError, "grad_out must be a NumPy array, got list", {"grad_out": [[1.0] * 3] * 4}),
    ],
)  # fmt: skip
def test_options_refused(error, said, options):
    refuses(error, said, "cross_entropy", FEW, **options)


def test_too_many_inputs_and_inputs_given_twice():
    for arguments, options in (((*FEW.values(), 1), {}), (tuple(FEW.values())[:2], {"target": 1})):
        with pytest.raises(TypeError, match=r"^cross_entropy: "):
            cross_entropy(*arguments, **options)


def test_class_weights_beyond_float32():
    """Refused: as infinity they would make every result NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="class_weight must be"):
            cross_entropy(FEW["logits"].astype(np.float32), FEW["target"], [1, 1e300, 1], reduction="sum")


@pytest.mark.parametrize("length", [3, 100])
@BY_LOSS
def test_no_rows(name, length):
    arrays = make(name, (0, length))
    with pytest.warns(RuntimeWarning, match=f"{name}: the mean of nothing is nan"):
        value, grad, hess = call(name, arrays)
    assert np.isnan(value)
    assert grad.shape == hess.shape == (0, length)
    assert call(name, arrays, "__call__", reduction="sum") == 0
    assert call(name, arrays, "__call__", reduction="none").shape == (0,)


@pytest.mark.parametrize("how", ["ignored", "weights", "class weights"])
@pytest.mark.parametrize("length", [3, 100])
def test_nothing_that_counts(length, how):
    arrays = make("cross_entropy", (20, length))
    options = {"z_loss": 0.0}
    if how == "ignored":
        arrays["target"][...] = IGNORED
        arrays["logits"][...] = np.nan
    elif how == "weights":
        options["sample_weight"] = np.zeros(20)
        arrays["logits"][...] = np.nan
    else:
        arrays["class_weight"][...] = 0
    with pytest.warns(RuntimeWarning, match="the mean of nothing is nan"):
        value, grad, hess = call("cross_entropy", arrays, **options)
    assert np.isnan(value)
    assert not grad.any()
    assert not hess.any()
    assert call("cross_entropy", arrays, "__call__", reduction="sum", **options) == 0


@pytest.mark.fault(20)
@pytest.mark.parametrize("length", [3, 63, 65, 1025])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@BY_LOSS
def test_nan_stays_in_its_row(name, dtype, order, length):
    arrays = make(name, (30, length), dtype)
    arrays["target"][[4, 9, 20]] = [0, 1, length - 1]
    arrays["logits"] = arrays["logits"].copy(order)
    clean = call(name, arrays, reduction="none")
    for place in (0, length // 2, length - 1):
        own = arrays | {"logits": arrays["logits"].copy(order)}
        own["logits"][[4, 20], place] = np.nan
        for result, wanted in zip(call(name, own, reduction="none"), clean, strict=True):
            assert np.isnan(result[[4, 20]]).all()
            rest = np.delete(np.arange(30), [4, 20])
            inputs.assert_same(result[rest], wanted[rest])


@pytest.mark.parametrize("length", [3, 63, 65, 1025])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("removal", ["weight", "label"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@BY_LOSS
def test_a_removed_row_may_hold_anything(name, bad, removal, order, length):
    arrays, w = make(name, (30, length)), inputs.weights((30,)) + 1
    arrays["logits"] = arrays["logits"].copy(order)
    if removal == "weight":
        w[[4, 20]] = 0
    else:
        arrays["target"][[4, 20]] = IGNORED
    for reduction in ("mean", "none"):
        expected = call(name, arrays, reduction=reduction, sample_weight=w)
        own = arrays | {"logits": arrays["logits"].copy(order)}
        own["logits"][[4, 20]] = bad
        inputs.assert_same(call(name, own, reduction=reduction, sample_weight=w), expected)
        assert not expected[1][[4, 20]].any()
        assert not expected[2][[4, 20]].any()


@pytest.mark.fault(22)
@pytest.mark.parametrize("big", [1e4, 1e19, 1e38])
@pytest.mark.parametrize("length", [3, 63, 65, 1025])
@pytest.mark.parametrize("order", ["C", "F"])
@BY_DTYPE
def test_extreme_logits(dtype, order, length, big):
    x = np.zeros((2, length), dtype, order)
    x[0, 0] = x[1, 1] = big
    value, grad, hess = cross_entropy.value_grad_hess(x, [0, 0], reduction="none")
    p = np.eye(length)[:2]
    np.testing.assert_allclose(value, np.float64([0, big]), rtol=1e-6)
    np.testing.assert_allclose(grad, p - np.eye(length)[[0, 0]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(hess, p * (1 - p), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1e4, -1e6, -1e38])
@pytest.mark.parametrize("length", [3, 65, 1025])
@BY_DTYPE
def test_what_all_logits_share_does_not_matter(dtype, length, shift):
    """The loss is made of differences, which are exact here: `lse - logit` would round at the size of the shift."""
    x = (np.random.default_rng(0).integers(-16, 17, (20, length)) / 8).astype(dtype)
    x = np.zeros_like(x) if abs(shift) > 1e6 else x
    target = np.arange(20) % length
    expected = cross_entropy.value_grad_hess(x, target, reduction="none")
    moved = cross_entropy.value_grad_hess(x + np.asarray(shift, dtype), target, reduction="none")
    for result, wanted in zip(moved, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=16 * float(np.finfo(dtype).eps) * np.abs(wanted).max())


@pytest.mark.fault(21)
@pytest.mark.parametrize("length", [3, 63, 65, 1025])
@pytest.mark.parametrize("order", ["C", "F"])
@BY_DTYPE
def test_infinite_logits(dtype, order, length):
    """A class of -inf is impossible; where the limit does not exist there is NaN, and only in that row."""
    x = np.random.default_rng(0).normal(size=(6, length)).astype(dtype, order=order)
    target = np.array([0, 1, 0, 0, 0, 1])
    clean = cross_entropy.value_grad_hess(x, target, reduction="none")
    x[0, 2] = -np.inf  # impossible, and not the label: as if it were not there
    x[1, 1] = -np.inf  # impossible, and the label
    x[2, 1] = np.inf
    x[3] = -np.inf
    value, grad, hess = cross_entropy.value_grad_hess(x, target, reduction="none")
    rest = cross_entropy.value_grad_hess(np.delete(x[:1], 2, 1), target[:1], reduction="none")
    assert value[0] == pytest.approx(rest[0][0], rel=1e-6)
    np.testing.assert_allclose(np.delete(grad[0], 2), rest[1][0], atol=1e-6)
    np.testing.assert_allclose(np.delete(hess[0], 2), rest[2][0], atol=1e-6)
    assert grad[0, 2] == hess[0, 2] == 0
    assert value[1] == np.inf
    assert grad[1, 1] == -1
    assert np.isfinite(grad[1]).all()
    assert np.isnan(value[3])
    assert value[2] == np.inf or np.isnan(value[2])
    inputs.assert_same(tuple(a[4:] for a in (value, grad, hess)), tuple(a[4:] for a in clean))


@pytest.mark.parametrize("length", [3, 100])
def test_plus_infinity_at_the_label_has_no_loss(length):
    x = np.zeros((2, length))
    x[0, 1] = np.inf
    value = cross_entropy(x, [1, 1], reduction="none")
    assert value[0] == 0
    assert value[1] == pytest.approx(np.log(length))


@pytest.mark.filterwarnings("error")
@BY_LOSS
def test_numpys_error_state_does_not_matter(name):
    with np.errstate(all="raise"):
        for length in (3, 100):
            arrays = make(name, (20, length), np.float32)
            arrays["logits"][3] = np.inf
            arrays["logits"][5] *= 1e30
            call(name, arrays)


# --- loops ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 63, 65, 1025, 5000])
@pytest.mark.parametrize("order", ["C", "F"])
@BY_DTYPE
def test_a_loop_goes_on_for_as_long_as_each_row_needs(dtype, order, length):
    """From two to ten repeats, for rows side by side."""
    even = np.linspace(0, 1, length)
    x = np.array([even, np.zeros(length), -np.sqrt(even), 1 / (even + 1 / length), 0.3 * even, 9 * even])
    x, target = x.astype(dtype, order=order), np.array([0, 1, length - 1] * 2)
    expected = sparsemax_reference(x, target, None)
    value, grad, _ = sparsemax.value_grad_hess(x, target, reduction="none")
    bound = 64 * float(np.finfo(dtype).eps)
    assert (np.abs(value - expected[0]) <= bound * expected[3]).all()
    np.testing.assert_allclose(grad, expected[1], rtol=0, atol=bound)


@pytest.mark.parametrize("length", [3, 65, 100_000])
@pytest.mark.parametrize("order", ["C", "F"])
@BY_DTYPE
def test_sparsemax_of_infinities(dtype, order, length):
    x = np.zeros((6, length), dtype, order)
    x[0, 1] = x[1, 1] = x[2, :2] = np.inf
    x[3] = -np.inf
    x[4, :2] = [-np.inf, 9]
    x[5, 1:] = -np.inf
    value, grad, hess = sparsemax.value_grad_hess(x, [1, 0, 0, 0, 0, 0], reduction="none")
    np.testing.assert_array_equal(value[[0, 1, 3, 4, 5]], [0, np.inf, np.nan, np.inf, 0])
    miss = np.zeros(length)
    miss[:2] = [-1, 1]
    np.testing.assert_array_equal(grad[[0, 1, 4, 5]], [0 * miss, miss, miss, 0 * miss])
    assert np.isnan(grad[3]).all()
    assert np.isnan(hess[3]).all()
    assert not hess[[0, 1, 4, 5]].any()


@pytest.mark.parametrize("there", [(), ("class_weight",)], ids=str)
def test_sparsemax_derivatives_are_those_of_its_value(there):
    """Which is declared, as a sum without cancellation, beside what is differentiated."""
    pytest.importorskip("mpmath")
    formula = sparsemax.formula
    traced = formula.trace(formula.choice({}, there))
    for seed, spread in enumerate((0.1, 0.4, 1, 4)):
        rng = np.random.default_rng(seed)
        point = {"logits": (spread * rng.normal(size=6)).tolist(), "target": seed, "class_weight": [0.5, 2, 1.5, 3, 1, 1]}
        point = {name: x for name, x in point.items() if name in traced.inputs}
        exact, numerical = oracle.evaluate(traced, point, []), oracle.differentiate(traced, point, [])
        for role in ("grad_logits", "hess_logits"):
            mine = [float(x) for x in exact[role]]
            mine[seed] += float(exact[f"label_{role}"])
            np.testing.assert_allclose(mine, [float(x) for x in numerical[role]], rtol=1e-14, atol=1e-14, err_msg=role)


@pytest.mark.parametrize("length", [2, 10, 100])
@BY_DTYPE
def test_sparsemax_is_not_negative_and_0_beyond_its_margin(dtype, length):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20_000, length)) * 10.0 ** rng.uniform(-6, 1, (20_000, 1)) + rng.normal(size=(20_000, 1))).astype(
        dtype
    )
    target = rng.integers(0, length, 20_000)
    rest = np.where(np.arange(length) == target[:, None], -np.inf, x).max(1)
    x[::4, :][np.arange(5000), target[::4]] = np.ceil(rest[::4]) + 2
    value, grad = sparsemax.value_and_grad(x, target, reduction="none")
    assert value.min() >= 0
    assert not value[::4].any()
    assert not grad[::4].any()
    assert (value[1::4] > 0).mean() > 0.9


# --- running sums --------------------------------------------------------------------------------------------------------


def two_rows_of_probabilities(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.ones(shape[1]), shape[0]).astype(dtype) for _ in range(2)]


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 1023, 1024, 1025, 2100, 70_000])
@pytest.mark.parametrize("order", ["C", "F"])
@BY_DTYPE
def test_wasserstein_is_a_sum_of_cumulative_sums(dtype, order, length):
    pred, target = (np.asarray(a, order=order) for a in two_rows_of_probabilities((20, length), dtype))
    sums = np.cumsum((pred - target).astype(np.float64), 1)[:, :-1]
    value, (grad, other), hess = wasserstein_1d.value_grad_hess(pred, target, reduction="none")
    steps = np.concatenate([np.sign(sums), np.zeros((20, 1))], 1)
    assert value.dtype == dtype
    # NumPy sums up one element after the other, in double, as do long rows side by side, in their own precision.
    bound = 8 * float(np.finfo(dtype).eps) * (np.sqrt(length) if order == "F" or dtype == "float64" else 1)
    np.testing.assert_allclose(value, np.abs(sums).sum(1), rtol=bound)
    np.testing.assert_array_equal(grad, np.cumsum(steps[:, ::-1], 1)[:, ::-1])
    np.testing.assert_array_equal(other, -grad)
    assert not np.any(hess)


def test_wasserstein_of_rows_that_agree_or_do_not_sum_to_1():
    x = two_rows_of_probabilities((7, 100))[0]
    value, grad = wasserstein_1d.value_and_grad(x, x, reduction="none")
    assert not value.any()
    assert not np.any(grad)
    assert wasserstein_1d([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]) == 1
    assert wasserstein_1d([0.5, 0.5, 1.0], [0.5, 0.5, 0.0]) == 0
    assert wasserstein_1d([0.5, 0.5, 0.0], [0.25, 0.5, 0.0]) == 0.5
    assert wasserstein_1d([0.5], [0.75]) == 0


@pytest.mark.parametrize("shape", [(40_000, 3), (3000, 65), (3, 200_001), (1, 70_000)], ids=str)
@BY_DTYPE
def test_running_sums_do_not_depend_on_the_number_of_threads(dtype, shape):
    arrays = two_rows_of_probabilities(shape, dtype)
    before = fl.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            fl.set_num_threads(threads)
            found.append(wasserstein_1d.value_and_grad(*arrays, reduction="none"))
        for value, grads in found[1:]:
            inputs.assert_same((value, *grads), (found[0][0], *found[0][1]))
    finally:
        fl.set_num_threads(before)
    alone = wasserstein_1d.value_and_grad(*(a[-1] for a in arrays), reduction="none")
    assert alone[0] == found[0][0][-1]
    inputs.assert_same(alone[1], tuple(grad[-1] for grad in found[0][1]))


@pytest.mark.parametrize("length", [3, 65, 1025])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_nan_takes_its_whole_row_of_running_sums(order, length):
    pred, target = (np.asarray(a, order=order) for a in two_rows_of_probabilities((9, length)))
    expected = wasserstein_1d.value_and_grad(pred, target, reduction="none")
    pred[4, 1] = np.nan
    value, grads = wasserstein_1d.value_and_grad(pred, target, reduction="none")
    rest = np.arange(9) != 4
    assert np.isnan(value[4])
    assert all(np.isnan(grad[4]).all() for grad in grads)
    inputs.assert_same((value[rest], *(g[rest] for g in grads)), (expected[0][rest], *(g[rest] for g in expected[1])))


def test_running_sums_of_single_precision_are_carried_in_double():
    """A carry in float32 would lose each of these after the first."""
    pred = np.full((1, 100_000), 2.0**-30, np.float32)
    pred[0, 0] = 1
    value = wasserstein_1d(pred, np.zeros_like(pred), reduction="none")
    np.testing.assert_allclose(value, 99_999 + 2.0**-30 * 99_998 * 99_999 / 2, rtol=1e-7)
