"""Row formulas, without the compiled core: their language, their derivatives, and the programs made of them."""

import re
from collections import namedtuple

import numpy as np
import peers
import pytest
import twin

from fastloss.formula import (
    F32,
    F64,
    WANTS,
    Class,
    FormulaError,
    Fraction,
    NonNegative,
    PerRow,
    Positive,
    RowFormula,
    Traced,
    exp,
    maximum,
    minimum,
    oracle,
    power,
    sqrt,
    tanh,
    where,
)
from fastloss.formula.graph import FOLDS, INT, ROW, RUNS, Graph
from fastloss.formula.program import NUMBERS, OUTPUTS, Program
from fastloss.formula.rows import (
    below_peak,
    dot,
    following,
    iterate,
    largest,
    length,
    logsumexp,
    mean,
    norm2,
    pick,
    preceding,
    running,
    total,
)

ROWS, LENGTH = 5, 7

Sample = namedtuple("Sample", "formula values traced vector")
SAMPLES = {}


def define(function, *differentiable, **domains):
    """A sample; each hyperparameter is a pair of its domain and a value."""
    values = {name: domain[1] for name, domain in domains.items() if isinstance(domain, tuple)}
    domains = {name: domain[0] if name in values else domain for name, domain in domains.items()}
    formula = RowFormula.define(function, differentiable=differentiable, **domains)
    return Sample(formula, values, formula.trace(formula.choice(values)), formula.vector(values))


def sample(*differentiable, **domains):
    def enter(function):
        SAMPLES[function.__name__] = define(function, *differentiable, **domains)
        return function

    return enter


@sample(
    "logits",
    target=Class(),
    label_smoothing=(Fraction(0.0), 0.15),
    z_loss=(NonNegative(0.0), 0.02),
    temperature=(Positive(1.0), 1.7),
)
def cross_entropy(logits, weight, target, label_smoothing, z_loss, temperature):
    x = logits / temperature
    normalizer = logsumexp(x)
    hit = pick(weight * (normalizer - x), target)
    smooth = normalizer * mean(weight) - mean(weight * x)
    return (1 - label_smoothing) * hit + label_smoothing * smooth + z_loss * normalizer * normalizer


@sample(
    "logits",
    target=Class(),
    label_smoothing=(Fraction(0.0), 0.15),
    z_loss=(NonNegative(0.0), 0.02),
    temperature=(Positive(1.0), 1.7),
    cap=(Positive(30.0), 1.3),
)
def softcapped_cross_entropy(logits, weight, target, label_smoothing, z_loss, temperature, cap):
    return cross_entropy(cap * tanh(logits / cap), weight, target, label_smoothing, z_loss, temperature)


@sample("pred", "target", temperature=(Positive(1.0), 1.7))
def kl_divergence(pred, target, temperature):
    p, q = pred / temperature, target / temperature
    p, q = p - logsumexp(p), q - logsumexp(q)
    return temperature * temperature * dot(exp(q), q - p)


@sample("x", "y")
def squares(x, y):
    return dot(x, y) / sqrt(total(x * x) * total(y * y))


@sample("x", "y")
def cosine_distance(x, y):
    return 1 - dot(x, y) / (norm2(x) * norm2(y))


@sample("anchor", "positive", "negative", margin=(Positive(1.0), 2.6))
def triplet(anchor, positive, negative, margin):
    far = minimum(norm2(anchor - negative), norm2(positive - negative))
    return maximum(norm2(anchor - positive) - far + margin, 0)


@sample("logits", target=Class(), margin=(Positive(1.0), 1.3))
def multi_margin(logits, target, margin):
    short = maximum(margin - pick(logits, target) + logits, 0)
    return (total(short * short) - margin * margin) / length(logits)


@sample("logits", target=Class(), q=(Fraction(0.7, open_low=True), 0.4))
def generalized_cross_entropy(logits, target, q):
    return (1 - power(exp(pick(logits, target) - logsumexp(logits)), q)) / q


@sample("x", slope=(Positive(1.0), 0.6))
def peak_over_mean(x, slope):
    return largest(exp(slope * x) + x * x) - mean(x)


@sample("x", floor=(Positive(1e-3), 0.1))
def kurtosis(x, floor):
    centered = x - mean(x)
    return mean(power(centered / sqrt(mean(centered * centered) + floor), 4))


@sample("x", "y", same=PerRow(Fraction()), margin=(Positive(1.0), 3.3))
def contrastive(x, y, same, margin):
    distance = norm2(x - y)
    short = maximum(margin - distance, 0)
    return same * distance * distance + (1 - same) * short * short


@sample("x")
def average(x):
    return mean(x)


def toward_one(x, t):
    """A Newton step toward where what exceeds it sums to 1."""
    return t + (total(maximum(x - t, 0)) - 1) / total(where(x > t, 1, 0))


@sample("logits", target=Class(), temperature=(Positive(1.0), 1.7))
def sparsemax(logits, target, temperature):
    below = below_peak(logits / temperature)[0]
    chances = maximum(below - iterate(below, -1, toward_one), 0)
    return 0.5 * (total(chances * chances) + 1) - pick(below, target) + iterate(below, -1, toward_one)


@sample("x", "y", power=(Positive(1.0), 1.6))
def earth_movers(x, y, power):
    p, q = exp(x) / total(exp(x)), exp(y) / total(exp(y))
    return dot(exp(-power * running(p)), sqrt(1 + preceding(q - p) * following(p)))


def draw(formula, rng, rows, columns):
    """Arrays inside the inputs' domains: (rows, columns), or (rows, 1) for a number of the row."""
    found = {}
    for name, domain in formula.input_domains.items():
        if isinstance(domain, Class):
            found[name] = rng.integers(columns, size=(rows, 1))
        elif isinstance(domain, PerRow):
            found[name] = rng.uniform(0.1, 0.9, size=(rows, 1))
        else:
            found[name] = rng.lognormal(size=(rows, columns)) if name == "weight" else rng.normal(size=(rows, columns))
    return found


def row(formula, arrays, k=0):
    """One row, as the oracle takes it."""
    return {n: a[k, 0].item() if n in formula.domains else a[k].tolist() for n, a in arrays.items()}


def outputs(traced, point, vector):
    """The oracle's value and derivatives, the label's share added to its element."""
    mpmath = pytest.importorskip("mpmath")
    columns = max(len(x) for x in point.values() if isinstance(x, list))
    with mpmath.workdps(oracle.DIGITS):
        exact = oracle.evaluate(traced, point, vector)
        label = next((point[name] for name, symbol in traced.inputs.items() if symbol.kind == INT), 0)
        found = {"value": exact.pop("value")}
        for role in (role for role in exact if not role.startswith("label_")):
            found[role] = list(exact[role]) if isinstance(exact[role], list) else columns * [exact[role]]
            found[role][label] += exact[f"label_{role}"]
    return found


BY_NAME = pytest.mark.parametrize("name", SAMPLES)


def test_no_hyperparameter_hides():
    for s in SAMPLES.values():
        assert set(s.values) == set(s.formula.parameters)
        assert all(value not in (0, s.formula.parameters[name].default) for name, value in s.values.items())


# --- derivatives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2, 7])
@BY_NAME
def test_derivatives_are_those_of_the_value(name, columns):
    mpmath = pytest.importorskip("mpmath")
    s = SAMPLES[name]
    for seed in range(3):
        point = row(s.formula, draw(s.formula, np.random.default_rng(seed), 1, columns))
        exact = outputs(s.traced, point, s.vector)
        numerical = oracle.differentiate(s.traced, point, s.vector)
        assert numerical.keys() == exact.keys() - {"value"}
        with mpmath.workdps(oracle.DIGITS):
            for role, derivatives in numerical.items():
                for a, b in zip(exact[role], derivatives, strict=True):
                    assert abs(a - b) <= mpmath.mpf("1e-42") * max(1, abs(b)), (role, point)


def torch_twins():
    """The samples in PyTorch, with its own function where it has one."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def cross_entropy(logits, weight, target, label_smoothing, z_loss, temperature):
        x = logits / temperature
        # Over one row, the sum is not divided by the label's weight, as the mean is.
        loss = F.cross_entropy(x, target, weight, reduction="sum", label_smoothing=label_smoothing)
        return loss + z_loss * torch.logsumexp(x, 0) ** 2

    def softcapped_cross_entropy(logits, *args, cap, **options):
        return cross_entropy(cap * torch.tanh(logits / cap), *args, **options)

    def kl_divergence(pred, target, temperature):
        p, q = (F.log_softmax(x / temperature, 0) for x in (pred, target))
        return temperature**2 * F.kl_div(p, q, reduction="sum", log_target=True)

    def squares(x, y):
        return F.cosine_similarity(x, y, 0)

    def cosine_distance(x, y):
        return 1 - F.cosine_similarity(x, y, 0)

    def triplet(anchor, positive, negative, margin):
        options = {"distance_function": lambda a, b: torch.linalg.vector_norm(a - b, dim=-1), "margin": margin, "swap": True}
        return F.triplet_margin_with_distance_loss(anchor[None], positive[None], negative[None], reduction="sum", **options)

    def multi_margin(logits, target, margin):
        return F.multi_margin_loss(logits, target, p=2, margin=margin)

    def generalized_cross_entropy(logits, target, q):
        return (1 - F.softmax(logits, 0)[target] ** q) / q

    def peak_over_mean(x, slope):
        return torch.amax(torch.exp(slope * x) + x * x, 0) - x.mean()

    def kurtosis(x, floor):
        return (((x - x.mean()) / torch.sqrt(x.var(correction=0) + floor)) ** 4).mean()

    def contrastive(x, y, same, margin):
        distance = torch.linalg.vector_norm(x - y)
        return same * distance**2 + (1 - same) * F.relu(margin - distance) ** 2

    def average(x):
        return x.mean()

    def earth_movers(x, y, power):
        p, q = torch.softmax(x, 0), torch.softmax(y, 0)
        until = p.cumsum(0)
        return (torch.exp(-power * until) * torch.sqrt(1 + (q.cumsum(0) - q - until + p) * (1 - until))).sum()

    def sparsemax(logits, target, temperature):
        return peers.sparsemax_martins(logits / temperature, target)

    return {name: function for name, function in locals().items() if name in SAMPLES}


@BY_NAME
def test_value_and_gradients_equal_torch(name):
    torch = pytest.importorskip("torch")
    function = torch_twins()[name]
    s = SAMPLES[name]
    arrays = draw(s.formula, np.random.default_rng(1), ROWS, LENGTH)
    for k in range(ROWS):
        point = row(s.formula, arrays, k)
        tensors = {n: torch.tensor(x, dtype=None if isinstance(x, int) else torch.float64) for n, x in point.items()}
        for n in s.formula.differentiable:
            tensors[n].requires_grad_()
        value = function(*tensors.values(), **s.values)
        value.backward()
        exact = outputs(s.traced, point, s.vector)
        assert value.item() == pytest.approx(float(exact["value"]), rel=1e-12, abs=1e-13)
        for n in s.formula.differentiable:
            expected = np.array(exact[f"grad_{n}"], float)
            np.testing.assert_allclose(tensors[n].grad.numpy(), expected, rtol=1e-11, atol=1e-13, err_msg=n)


# --- programs ---------------------------------------------------------------------------------------------------------------


def function_of(op):
    own = {"fma": lambda a, b, c: a * b + c, "lesser": np.minimum, "greater": np.maximum}
    return own.get(op) or twin._OPERATORS.get(op) or twin._FUNCTIONS.get(op) or getattr(np, op)


def gather(op, elements):
    """A fold over each row: (rows, columns) to (rows, 1)."""
    return np.sum(elements, 1, keepdims=True) if op == "total" else np.max(elements, 1, keepdims=True)


def summed(op, elements):
    """What precedes or follows each element of a row, added up."""
    ordered = elements[:, ::-1] if op == "following" else elements
    sums = np.cumsum(ordered, 1) - ordered
    return sums[:, ::-1] if op == "following" else sums


class Values:
    """Nodes in NumPy, from known ones: (rows, columns), (rows, 1) or a scalar. Leaves that are not known must not be needed."""

    def __init__(self, known, folds=False):
        self.known, self.folds = {id(node): value for node, value in known.items()}, folds

    def __call__(self, node):
        if id(node) not in self.known:
            with np.errstate(all="ignore"):
                self.known[id(node)] = self.compute(node)
        return self.known[id(node)]

    def compute(self, node):
        if node.op == "literal":
            return node.args[0]
        if self.folds and node.op == "pick":
            return np.take_along_axis(*map(self, node.args), 1)
        if self.folds and node.op == "iterate":
            return self.iterated(node)
        if self.folds and node.op in FOLDS:
            return gather(node.op, self(node.args[0]))
        if self.folds and node.op in RUNS:
            whole = np.broadcast_shapes(*map(np.shape, self.known.values()))
            return summed(node.op, np.broadcast_to(self(node.args[0]), whole))
        assert node.args and node.op not in {"input", "parameter", *FOLDS, *RUNS}, f"{node} is not declared"
        return function_of(node.op)(*map(self, node.args))

    def iterated(self, node):
        held = {"reached": np.full((ROWS, 1), self(node.args[0]), float)}
        while True:
            following = Values({}, folds=True)
            following.known = self.known | {id(node): held["reached"]}
            held["following"] = following(node.graph.loops[id(node)])
            if not rises(held, "reached", "following"):
                return held["reached"]


def rises(held, number, following):
    """Let each row's number be what follows if that is greater; whether one is."""
    before = held[number]
    held[number] = np.where(held[following] > before, held[following], before)
    return (held[number] > before).any()


def constants(traced, vector, columns):
    """The hyperparameters and the length, which need no declaration."""
    length_node = traced.graph.node("length")
    return dict(zip(traced.parameters, map(np.float64, vector), strict=True)) | {length_node: np.float64(columns)}


def shape_of(program, name):
    """The arrays along a row, and those of the row's numbers."""
    return (ROWS, LENGTH) if name in program.rows or name in program.passes[-1].writes else (ROWS, 1)


def filled(program, arrays):
    """The arrays that the engine has before the first step: inputs, and the picked elements."""
    given = {name: array for name, array in arrays.items() if name in program.rows or name in program.numbers}
    names = {id(symbol): name for name, symbol in program.traced.inputs.items()}
    for name, node in program.picks.items():
        x, label = (arrays[names[id(a)]] for a in node.args)
        given[name] = np.take_along_axis(x, label, 1)
    return given


def run_nodes(program, arrays, vector):
    """The program, node by node; it sees the uniforms and what each step and pass declares, nothing else."""
    uniform = Values(constants(program.traced, vector, LENGTH))
    uniforms = {node: uniform(node) for node in program.uniforms}
    found = filled(program, arrays)

    def compute(reads, writes):
        values = Values(uniforms | {node: found[name] for name, node in reads.items()})
        found.update({name: np.broadcast_to(values(node), shape_of(program, name)) for name, node in writes.items()})

    for step, here in zip(program.steps, program.passes, strict=True):
        compute(step.reads, step.writes)
        while True:
            compute(here.rows | here.numbers, here.writes)
            for fold, name in here.folds.items():
                found[fold] = gather(program.numbers[fold].op, found[name])
            compute(here.again.reads, here.again.writes)
            if not here.loop or not rises(found, *here.loop):
                break
        found |= {name: summed(op, found[name]) for name, op in here.runs.items()}
    return found


def compiled(program):
    """The emitted kernels for float64 as Python functions `(count, arrays, uniforms)`, by kind and place."""
    scope, found = {"INFINITY": np.inf, "NAN": np.nan}, {}
    for name, text in program.kernels("x", F64, "x"):
        python = re.sub(r"^    double [\w, ]+;\n", "", text.replace("/*", "#").rstrip("} \n"), flags=re.M)
        python = re.sub(r"static void (\w+)\(.+", r"def \1(count, arrays, uniforms):", python)
        python = re.sub(r"for \(.+\{", "for i in range(count):", python)
        scope |= {f"{op}_f64": function_of(op) for op in re.findall(r"(\w+)_f64\((?!count)", python)}
        exec(re.sub(r"double(_tile)? |\(double\)|;", "", python), scope)
        kind, k = re.search(r"(step|along|across|again)(\d+)_f64$", name).groups()
        found[kind, int(k)] = scope[name]
    return found


def prepared(program, arrays, vector):
    """What an engine holds: the kernels, its uniforms, and every array by its code of the layout."""
    layout, given = program.layout(), filled(program, arrays)
    uniforms = list(map(Values(constants(program.traced, vector, LENGTH)), program.uniforms))
    codes = {name: k for k, (name, _) in enumerate(layout["rows"])}
    codes |= {name: NUMBERS + k for k, name in enumerate(layout["numbers"])}
    codes |= {name: OUTPUTS + k for k, name in enumerate(layout["outputs"])}
    held = {code: np.array(given.get(n, np.full(shape_of(program, n), np.nan)), float) for n, code in codes.items()}
    for number, x in layout["picks"]:
        np.testing.assert_array_equal(held[number], np.take_along_axis(held[x], arrays["target"], 1))
    return layout, uniforms, codes, held, compiled(program)


def run_along(program, arrays, vector):
    """The emitted steps, and the passes that go along a row, placed as the layout says."""
    layout, uniforms, codes, held, kernels = prepared(program, arrays, vector)
    for k, folds in enumerate(layout["folds"]):
        if ("step", k) in kernels:
            kernels["step", k](ROWS, [held[c][:, 0] for c in layout["step"][k]], uniforms)
        while True:
            for r in range(ROWS):
                if ("along", k) in kernels:
                    kernels["along", k](LENGTH, [held[c][r] for c in layout["along"][k]], uniforms)
                for is_sum, fold, element in folds:
                    held[fold][r] = np.sum(held[element][r]) if is_sum else np.max(held[element][r])
            if not repeats(layout, k, held, kernels, uniforms):
                break
        for element, backwards in layout["runs"][k]:
            held[element] = summed("following" if backwards else "preceding", held[element])
    return {name: held[code] for name, code in codes.items()}


def repeats(layout, k, held, kernels, uniforms):
    """What the engine does after a pass; whether it does the pass once more."""
    if not layout["loops"][k]:
        return False
    kernels["again", k](ROWS, [held[c][:, 0] for c in layout["again"][k]], uniforms)
    return rises(held, *layout["loops"][k])


def run_across(program, arrays, vector):
    """The emitted steps, and the passes that go across rows, one element of each at a time."""
    layout, uniforms, codes, held, kernels = prepared(program, arrays, vector)
    for k, folds in enumerate(layout["folds"]):
        if ("step", k) in kernels:
            kernels["step", k](ROWS, [held[c][:, 0] for c in layout["step"][k]], uniforms)
        while True:
            for is_sum, fold, _ in folds:
                held[fold][:] = 0 if is_sum else -np.inf
            for j in range(LENGTH):
                tiles = [held[c][:, 0 if NUMBERS <= c < OUTPUTS else j] for c in layout["across"][k]]
                if ("across", k) in kernels:
                    kernels["across", k](ROWS, tiles, uniforms)
            if not repeats(layout, k, held, kernels, uniforms):
                break
        for element, backwards in layout["runs"][k]:
            held[element] = summed("following" if backwards else "preceding", held[element])
    return {name: held[code] for name, code in codes.items()}


def test_the_slow_twin_reads_nothing_undeclared():
    x, c, y = symbols()
    for node in (exp(x), exp(c), total(x) + 1, largest(x), pick(x, y), preceding(x), following(x) + x):
        with pytest.raises(AssertionError, match="is not declared"):
            Values({x: 1.0} if node.op in {*FOLDS, *RUNS} or node.level == ROW else {})(node)
    assert Values({total(x): 2.0})(total(x) + 1) == 3


@pytest.mark.parametrize("want", WANTS)
@BY_NAME
def test_a_program_computes_its_outputs(name, want):
    s = SAMPLES[name]
    roles = s.formula.roles(want)
    arrays = draw(s.formula, np.random.default_rng(2), ROWS, LENGTH)
    program = Program(s.traced, roles)
    direct = Values({s.traced.inputs[n]: a for n, a in arrays.items()} | constants(s.traced, s.vector, LENGTH), folds=True)
    expected = {role: np.broadcast_to(direct(s.traced.outputs[role]), shape_of(program, role)) for role in roles}
    # Where a label's element has nothing besides, there is nothing to compute.
    roles = [role for role in roles if not (role.startswith("label_") and s.traced.outputs[role].is_literal(0))]
    for run in (run_nodes, run_along, run_across):
        found = run(program, arrays, s.vector)
        assert {role for role in found if role.startswith("label_")} == {role for role in roles if role.startswith("label_")}
        for role in roles:
            # The kernels sum and multiply in another order, which shows where a derivative is the rest of larger numbers.
            atol = 0 if run is run_nodes else 1e-13
            np.testing.assert_allclose(found[role], expected[role], rtol=1e-12, atol=atol, err_msg=f"{run.__name__} {role}")


@BY_NAME
def test_kernels_declare_what_they_name(name):
    s = SAMPLES[name]
    program = Program(s.traced, s.formula.roles("vg"))
    arrays = {*program.rows, *program.numbers, *program.passes[-1].writes}
    for kernel, text in program.kernels("vg", F32, "x"):
        head, loop = re.split(r"    for \(.+\{\n", text)
        tiles = re.findall(r"float(?:_tile)? (\w+) = arrays\[(\d+)\]", head)
        assert [int(k) for _, k in tiles] == list(range(len(tiles))), kernel
        assert {tile for tile, _ in tiles} <= arrays, kernel
        local = re.findall(r"\bt\d+\b", "".join(re.findall(r"    (?:float|int) (t\d.*)", head)))
        uniform = re.findall(r"float (\w+) = \(float\)uniforms\[\d+\]", head)
        declared = [*(tile for tile, _ in tiles), *local, *uniform]
        assert len(set(declared)) == len(declared), kernel
        named = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*\b(?!\()", loop)) - {"i", "float", "INFINITY", "NAN"}
        assert named == set(declared), kernel


# --- the language -----------------------------------------------------------------------------------------------------------


def symbols():
    """A row, a number of the row, and a label."""
    graph = Graph()
    return graph.node("input", "x"), graph.node("input", "c", level=ROW), graph.node("input", "y", kind=INT, level=ROW)


def test_pick_of_an_expression_is_the_expression_of_the_picked():
    x, c, y = symbols()
    assert pick(exp(c * x) + largest(x), y) is exp(c * pick(x, y)) + largest(x)
    assert pick(x, y).level == ROW
    assert pick(c, y) is c


def test_total_takes_out_what_is_the_same_for_the_row():
    x, c, _ = symbols()
    assert total(c * x) is c * total(x)
    assert total(x * c) is c * total(x)
    assert total(-x) is -total(x)
    assert total(2 * x) is 2 * total(x)
    assert total(x * largest(x)) is largest(x) * total(x)
    assert total(x * x).op == "total"


def test_folds_of_what_does_not_vary():
    x, c, _ = symbols()
    assert total(c) is c * length(c)
    assert total(x.graph.literal(3.0)) is 3 * length(x)
    assert largest(c) is c
    assert mean(x) is total(x) / length(x)
    assert length(x).uniform


def test_a_row_formula_returns_a_number_of_the_row():
    def forgets_to_fold(x):
        return x - mean(x)

    with pytest.raises(FormulaError, match="must return a number made of folds, not an element"):
        define(forgets_to_fold, "x")


def in_doubles(function, *rows):
    """A fold of one row in float64."""
    x = symbols()[0]
    return [float(Values({x: np.array([r]), length(x): len(r)}, folds=True)(function(x))[0, 0]) for r in rows]


def test_logsumexp_does_not_overflow():
    inf = np.inf
    assert in_doubles(logsumexp, [-inf, -inf], [-inf], [-inf, 3.0], [inf, 0.0]) == [-inf, -inf, 3.0, inf]
    assert in_doubles(logsumexp, [1e300, -1e300], [-1e300, -1e300], [1000.0, 1000.0]) == [1e300, -1e300, 1000 + np.log(2)]
    assert np.isnan(in_doubles(logsumexp, [np.nan, 1.0])[0])
    mpmath = pytest.importorskip("mpmath")
    x = symbols()[0]
    traced = Traced("", x.graph, {"x": x}, [], {"value": logsumexp(x)})
    assert oracle.evaluate(traced, {"x": [-inf, -inf]}, [])["value"] == -mpmath.inf


def derivatives(function, x):
    """Gradient and second derivatives of a row formula of one row."""
    s = define(function, "x")
    found = outputs(s.traced, {"x": x}, s.vector)
    return [float(g) for g in found["grad_x"]], [float(h) for h in found["hess_x"]]


def test_the_largest_share_the_derivative():
    def peak(x):
        return largest(x)

    assert derivatives(peak, [3.0, 1.0, 3.0])[0] == [0.5, 0.0, 0.5]
    assert derivatives(peak, [1.0, 2.0])[0] == [0.0, 1.0]
    assert derivatives(peak, [2.0] * 4)[0] == [0.25] * 4


def test_the_derivative_of_norm2_at_zero():
    def size(x):
        return norm2(x)

    assert derivatives(size, [0.0, 0.0])[0] == [0.0, 0.0]
    assert derivatives(size, [3.0, -4.0])[0] == [0.6, -0.8]


def test_running_sums_take_out_what_is_the_same_for_the_row():
    x, c, y = symbols()
    assert preceding(c * x) is c * preceding(x)
    assert following(-x) is -following(x)
    assert preceding(2 * x) is 2 * preceding(x)
    assert following(c) is c * following(c.graph.literal(1.0))
    assert preceding(x.graph.literal(0)).is_literal(0)
    assert preceding(x * x).op == "preceding"
    with pytest.raises(FormulaError, match=r"pick must be of what an element has of its own, got preceding"):
        pick(x + preceding(x), y)
    with pytest.raises(FormulaError, match=r"following must be of what a row formula computes, got 2"):
        following(2)


def test_running_sums():
    def weighted_by_place(x):
        return total(running(x) * preceding(x.graph.literal(1)))

    assert in_doubles(weighted_by_place, [3.0, 5.0, -7.0], [2.0]) == [8.0 + 2 * 1.0, 0.0]
    assert in_doubles(lambda x: largest(following(x)), [3.0, 5.0, -7.0], [-2.0]) == [0.0, 0.0]
    assert derivatives(weighted_by_place, [3.0, 5.0, -7.0]) == ([3.0, 3.0, 2.0], [0.0, 0.0, 0.0])


def inner_runs(x):
    return total(exp(following(x * x) / 9))


def runs_of_runs(x):
    return dot(exp(x), preceding(mean(x) * running(x * x)) - following(x * preceding(x)))


def folds_of_runs_of_folds(x):
    return norm2(preceding(x / norm2(x) + 0.5) - x) / largest(1 + running(x * x))


@pytest.mark.parametrize("function", [inner_runs, runs_of_runs, folds_of_runs_of_folds])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_derivatives_through_running_sums(function, columns):
    pytest.importorskip("mpmath")
    point = np.random.default_rng(columns).normal(size=columns).tolist()
    s = define(function, "x")
    numerical = oracle.differentiate(s.traced, {"x": point}, [])
    for mine, exact in zip(derivatives(function, point), numerical.values(), strict=True):
        np.testing.assert_allclose(mine, [float(e) for e in exact], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("function", [inner_runs, runs_of_runs, folds_of_runs_of_folds])
def test_products_with_the_hessian_go_through_running_sums(function):
    mpmath = pytest.importorskip("mpmath")
    x, vector = np.random.default_rng(4).normal(size=(2, 5)).tolist()
    formula = RowFormula.define(function, differentiable=["x"], curvature=True)
    traced = formula.trace(formula.choice({}))
    product = oracle.evaluate(traced, {"x": x, "vector": vector}, [])["hvp_x"]
    with mpmath.workdps(3 * oracle.DIGITS):
        along = lambda s: oracle.Point(traced, {"x": [a + s * v for a, v in zip(x, vector, strict=True)]}, []).value(  # noqa: E731
            traced.outputs["value"], 0
        )
        assert float(mpmath.fdot(product, vector)) == pytest.approx(float(mpmath.diff(along, 0, 2)), rel=1e-14)


def test_second_derivatives_that_running_sums_do_not_have():
    for function in (
        lambda x, y: norm2(preceding(exp(following(x * preceding(x * x))))),
        lambda x, y: total(exp(preceding(exp(pick(x, y) * preceding(x * x))))),
    ):
        with pytest.raises(FormulaError, match="second derivatives go through two running sums at most"):
            define(function, "x", y=Class())


def test_iterate_ends_where_its_number_no_longer_rises():
    def count_up(x, t):
        return minimum(t + 1, total(x))

    assert in_doubles(lambda x: iterate(x, -2, count_up), [2.0, 1.25], [0.5], [-9.0]) == [3.25, 0.5, -9.0]
    assert in_doubles(lambda x: iterate(x, 5, count_up), [2.0]) == [2.0]  # the last step is taken, also if it falls
    assert np.isnan(in_doubles(lambda x: iterate(x, 0, count_up), [np.nan])[0])
    # What is made of the loop's number, and of numbers that stay, is computed in the pass.
    inside = lambda x, t: count_up(x, t) + 0.0 * t * total(maximum(x - exp(t), 0))  # noqa: E731
    assert in_doubles(lambda x: iterate(x, -2, inside), [2.0, 1.25])[0] == 3.25


def test_the_derivative_of_iterate_is_that_of_its_last_step():
    def threshold(x):
        return iterate(x, -1, toward_one)

    assert derivatives(threshold, [0.5, 0.25, -3.0]) == ([0.5, 0.5, 0.0], [0.0, 0.0, 0.0])


def test_a_step_of_iterate_must_give_a_number_in_one_pass():
    x = symbols()[0]
    for step in (lambda x, t: x - t, lambda x, t: 3.0, lambda x, t: "t", lambda x, t: x.graph.literal(1)):
        with pytest.raises(FormulaError, match="the step of iterate must give a number of the row"):
            iterate(x, 0, step)
    for step in (
        lambda x, t: total(maximum(x - total(maximum(x, t)), 0)),
        lambda x, t: iterate(maximum(x - t, 0), t, toward_one),
    ):
        s = define(eval("lambda x: iterate(x, 0, step)", globals() | {"step": step}), "x")
        with pytest.raises(FormulaError, match="the step of iterate must fold elements made of its number"):
            Program(s.traced, ["value"])


# --- stages -----------------------------------------------------------------------------------------------------------------


def folds_by_pass(name, want):
    s = SAMPLES[name]
    program = Program(s.traced, s.formula.roles(want))
    return [sorted(program.numbers[fold].op for fold in here.folds) for here in program.passes]


def test_folds_that_do_not_wait_share_a_pass():
    for want in WANTS:  # only the value needs the mean of the logits
        peaks = ["shift", "total", "total"] if "v" in want else ["shift", "total"]
        assert folds_by_pass("cross_entropy", want) == [peaks, ["total"], []]
        assert folds_by_pass("squares", want) == [["total"] * 3, []]
        # A length has a pass of its own, which is repeated where squares leave the range.
        assert folds_by_pass("triplet", want) == [["total"], ["total"], ["total"], []]
    assert folds_by_pass("average", "v") == [["total"], []]
    assert folds_by_pass("average", "g") == [["total"], []]  # for the sake of a NaN alone
    assert folds_by_pass("kurtosis", "v") == [["total"], ["total"], ["total"], []]


def test_a_loop_has_a_pass_of_its_own():
    for want in WANTS:
        s = SAMPLES["sparsemax"]
        program = Program(s.traced, s.formula.roles(want))
        loops = [sorted(program.numbers[fold].op for fold in here.folds) for here in program.passes if here.loop]
        assert loops == [["total"] * 2] * 2
        assert [bool(again) for again in program.layout()["again"]] == [bool(here.loop) for here in program.passes]
    assert folds_by_pass("sparsemax", "v") == [["shift"], ["total"], ["total"] * 2, ["total"] * 2, ["total"], []]


def test_exponentials_are_kept():
    """The exponentials that a fold sums up are those that the gradient reads."""
    s = SAMPLES["cross_entropy"]
    for want in WANTS:
        program = Program(s.traced, s.formula.roles(want))
        (kept,) = program.passes[1].folds.values()
        assert program.rows[kept].op == "exp_nonpositive"
        assert program.kept(kept) == (kept in program.passes[2].rows) == (want != "v")
        texts = dict(program.kernels(want, F32, "x"))
        for kind in ("along", "across"):
            assert sum(text.count("exp_nonpositive_f32(") for name, text in texts.items() if kind in name) == 1


def test_labels_take_no_pass():
    s = SAMPLES["cross_entropy"]
    program = Program(s.traced, s.formula.roles("vg"))
    assert set(program.picks) == {"picked_logits", "picked_weight"}
    assert all("target" not in {**step.reads, **here.rows} for step, here in zip(program.steps, program.passes, strict=True))


# --- the text ---------------------------------------------------------------------------------------------------------------


def text_of_cross_entropy():
    s = SAMPLES["cross_entropy"]
    program = Program(s.traced, s.formula.roles("vg"))
    return "\n\n\n".join(text for _, text in program.kernels("vg", F32, "tests/test_rows.py")) + "\n"
