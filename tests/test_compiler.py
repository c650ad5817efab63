"""The formula compiler, piece by piece: graph, derivatives, NaN, errors, domains, and the emitted Python."""

import itertools
import math

import numpy as np
import pytest

import fastloss as fl
import fastloss.vecmath
from fastloss._kernels.jit import interpreted
from fastloss.formula import (
    TABLE,
    Each,
    Flag,
    Formula,
    FormulaError,
    Fraction,
    Interval,
    Label,
    NonNegative,
    Optional,
    Positive,
    Real,
    Symbol,
    UpdateRule,
    absolute,
    c,
    definition,
    derive,
    exp,
    log,
    log1p,
    maximum,
    oracle,
    power,
    primitives,
    python,
    sign,
    softplus,
    sqrt,
    weighted,
    where,
    with_derivative,
)
from fastloss.formula.contract import contracted
from fastloss.formula.graph import Graph, walk
from fastloss.formula.rows import dot, largest, length, logsumexp, mean, norm2, preceding, total

mpmath = pytest.importorskip("mpmath")


def symbols(*names, reassociate=True):
    graph = Graph(reassociate)
    return [graph.node("input", name) for name in names]


def trace(function, **domains):
    formula = Formula.define(function, **domains)
    values = {name: domain.default for name, domain in formula.parameters.items()}
    return formula.trace(formula.choice(values))


def evaluate(node, **inputs):
    """A node's value in mpmath's arithmetic, at its present precision."""
    graph = node.graph
    leaves = {name: graph.node("input", name) for name in inputs}
    traced = definition.Traced("", graph, leaves, [], {"result": node})
    return oracle.Point(traced, inputs, []).value(node, 0)


# --- the graph --------------------------------------------------------------------------------------------------------------


def test_equal_expressions_are_one_node():
    x, y = symbols("x", "y")
    assert x + y is x + y
    assert exp(x * y) is exp(x * y)
    assert (x < y) is (x < y)
    assert where(x < y, x, y) is where(x < y, x, y)
    assert 2 * x is 2.0 * x
    assert x.graph.literal(0.1) is x.graph.literal(0.1)
    assert x * x + exp(x) is x * x + exp(x)
    assert (x + y) * (x - y) is not (x - y) * (x + y) or (x + y) * (x - y) is (x - y) * (x + y)


def test_different_expressions_are_different_nodes():
    x, y = symbols("x", "y")
    assert x - y is not y - x
    assert x / y is not y / x
    assert exp(x) is not exp(y)
    assert (x < y) is not (x <= y)
    g = x.graph
    assert g.literal(True) is not g.literal(1.0)
    assert g.literal(True) is not g.integer(1)
    assert g.literal(1.0) is not g.integer(1)
    assert g.literal(0.1) is not g.literal(0.1 + 2**-56)
    assert symbols("x")[0] is not x


def test_a_common_subexpression_is_emitted_once():
    def shared(pred, target):
        return exp(pred - target) + log1p(exp(pred - target)) * exp(pred - target)

    traced = trace(shared)
    text = python.variant_text(traced, ["value", "grad_pred", "hess_pred"], "f")
    assert text.count("exp(pred - target)") == 1
    assert text.count("pred - target") == 1


def test_walk_gives_arguments_first_and_each_node_once():
    x, y = symbols("x", "y")
    node = exp(x * y) + x * y
    order = list(walk([node, x]))
    assert len({id(n) for n in order}) == len(order)
    seen = set()
    for n in order:
        assert all(id(a) in seen for a in n.operands)
        seen.add(id(n))
    assert [n for n in walk([node], stop=[x * y]) if n is x] == []


@pytest.mark.fault(59)
def test_deep_formulas_do_not_exhaust_the_stack():
    (x,) = symbols("x")
    node = x
    for depth in range(2000):
        if depth == 50:
            assert derive.derivative(node, x).operands
        node = 1 / (1 + node)
    assert len(list(walk([node]))) == 4000 + 2


def test_uniform_nodes_depend_on_parameters_alone():
    def f(pred, target, scale):
        return sqrt(scale) * pred + 3 * target

    traced = trace(f, scale=Positive(2.0))
    uniform = {n.op for n in walk([traced.outputs["value"]]) if n.uniform and n.op not in ("literal", "parameter")}
    assert uniform == {"sqrt"}


# --- simplifications --------------------------------------------------------------------------------------------------------

SIMPLIFIED = {
    "x + 0": (lambda x, y: x + 0, lambda x, y: x),
    "0 + x": (lambda x, y: 0 + x, lambda x, y: x),
    "x - 0": (lambda x, y: x - 0, lambda x, y: x),
    "0 - x": (lambda x, y: 0 - x, lambda x, y: -x),
    "x * 1": (lambda x, y: x * 1, lambda x, y: x),
    "1 * x": (lambda x, y: 1 * x, lambda x, y: x),
    "x * -1": (lambda x, y: x * -1, lambda x, y: -x),
    "x / 1": (lambda x, y: x / 1, lambda x, y: x),
    "--x": (lambda x, y: -(-x), lambda x, y: x),  # noqa: B002
    "x + -y": (lambda x, y: x + -y, lambda x, y: x - y),
    "-x + y": (lambda x, y: -x + y, lambda x, y: y - x),
    "x - -y": (lambda x, y: x - -y, lambda x, y: x + y),
    "-x * -y": (lambda x, y: -x * -y, lambda x, y: x * y),
    "2 (3 x)": (lambda x, y: 2 * (3 * x), lambda x, y: 6 * x),
    "(2 x) (3 y)": (lambda x, y: (2 * x) * (3 * y), lambda x, y: 6 * (x * y)),
    "sign(x) |x|": (lambda x, y: sign(x) * absolute(x), lambda x, y: x),
    "where both": (lambda x, y: where(x < y, x, x), lambda x, y: x),
    "x ** 1": (lambda x, y: x**1, lambda x, y: x),
    "x ** 2": (lambda x, y: x**2, lambda x, y: x * x),
    "x ** 0.5": (lambda x, y: x**0.5, lambda x, y: sqrt(x)),
    "x ** -1": (lambda x, y: x**-1, lambda x, y: 1 / x),
    "2 (where 3, 4)": (lambda x, y: 2 * where(x < y, 3, 4), lambda x, y: where(x < y, 6, 8)),
}


@pytest.mark.parametrize("case", SIMPLIFIED)
def test_simplifications(case):
    x, y = symbols("x", "y")
    given, expected = SIMPLIFIED[case]
    assert given(x, y) is expected(x, y)


def test_literals_are_folded_in_double():
    (x,) = symbols("x")
    g = x.graph
    one, three = g.literal(1), g.literal(3)
    assert (one / three).args[0] == 1 / 3
    assert (one - three).args[0] == -2
    assert (three / g.literal(0)).args[0] == math.inf
    assert (-three / g.literal(0)).args[0] == -math.inf
    assert math.isnan((g.literal(0) / g.literal(0)).args[0])


def test_vecmath_is_not_reassociated():
    """There the order of operations is the method."""
    (x,) = symbols("x", reassociate=False)
    assert 2 * (3 * x) is not 6 * x
    assert (2 * x) * x is not 2 * (x * x)


def test_simplifications_keep_the_values():
    """Random expressions: what the graph makes of them, against the same expression on exact numbers."""
    rng = np.random.default_rng(0)

    def build(depth, leaves):
        if depth == 0 or rng.random() < 0.15:
            return leaves[rng.integers(len(leaves))]
        a, b = build(depth - 1, leaves), build(depth - 1, leaves)
        kind = rng.integers(8)
        return {
            0: lambda: ("+", a, b),
            1: lambda: ("-", a, b),
            2: lambda: ("*", a, b),
            3: lambda: ("/", a, b),
            4: lambda: ("neg", a),
            5: lambda: ("abs", a),
            6: lambda: ("sign*abs", a),
            7: lambda: ("where", a, b),
        }[int(kind)]()

    def run(tree, values):
        if not isinstance(tree, tuple):
            return values[tree] if isinstance(tree, str) else values["number"](tree)
        op, *parts = tree
        a = run(parts[0], values)
        b = run(parts[1], values) if len(parts) > 1 else None
        exact = not isinstance(a, Symbol) and not isinstance(b, Symbol)
        if op == "/":
            return a / b if not exact else oracle._quotient(mpmath, mpmath.mpf(a), mpmath.mpf(b))
        if op == "abs":
            return abs(a) if exact else absolute(a)
        if op == "sign*abs":
            return a if exact else sign(a) * absolute(a)
        if op == "where":
            return (a if a < b else b) if exact else where(a < b, a, b)
        return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "neg": lambda: -a}[op]()

    leaves = ["x", "y", "z", 0.0, 1.0, -1.0, 2.0, 0.5, -3.0]
    compared = 0
    for _ in range(600):
        tree = build(4, leaves)
        x, y, z = symbols("x", "y", "z")
        point = {"x": mpmath.mpf(rng.normal()), "y": mpmath.mpf(rng.normal() * 7), "z": mpmath.mpf(rng.normal() / 7)}
        leaf = {"x": x, "y": y, "z": z, "number": x.graph.literal}
        with mpmath.workdps(50):
            expected = run(tree, point | {"number": mpmath.mpf})
            node = run(tree, leaf)
            if not mpmath.isfinite(expected):
                continue
            found = evaluate(node, **point)
            assert mpmath.almosteq(found, expected, 1e-12, 1e-12), tree  # literals are folded in double
            compared += 1
    assert compared > 300


# --- products that meet a sum -----------------------------------------------------------------------------------------------


def test_products_that_meet_a_sum_become_one_operation():
    x, y, z = symbols("x", "y", "z")
    for node, parts in (
        (x * y + z, (x, y, z)),
        (z + x * y, (x, y, z)),
        (z - x * y, (-x, y, z)),
        (x * y - z, (x, y, -z)),
        (x * x + y * z, (y, z, x * x)),
        (x * x - y * z, (-y, z, x * x)),
    ):
        (fused,) = contracted([node])
        assert fused.op == "fma"
        assert all(a is b for a, b in zip(fused.args, parts, strict=True)), node


def test_what_has_no_product_to_fuse_stays_itself():
    x, y = symbols("x", "y")
    uniform = x.graph.node("parameter", 0, "u") * x.graph.node("parameter", 1, "v")
    for node in (
        x + y,
        x * y,
        uniform + x,
        exp(x) - y,
        (primitives.bits(x) + 2) - primitives.bits(y),
        where(x < y, x, y / (x + 1)),
    ):
        assert contracted([node])[0] is node


def test_a_fused_sum_deep_in_a_graph_is_found_by_all_who_use_it():
    x, y = symbols("x", "y")
    inner = x * y + 1
    first, second = contracted([exp(inner), inner / y])
    assert first.args[0] is second.args[0]
    assert first.args[0].op == "fma"


# --- derivatives ------------------------------------------------------------------------------------------------------------

# Where each primitive is tried: inside its domain, away from kinks; with its second derivative where that has a rule.
POINTS = {
    "absolute": [(-2.5,), (0.3,), (7.0,)],
    "sign": [(-2.5,), (0.3,)],
    "maximum": [(1.0, 2.0), (2.0, 1.0), (-1.0, -3.5)],
    "minimum": [(1.0, 2.0), (2.0, 1.0), (-1.0, -3.5)],
    "sqrt": [(0.25,), (3.0,), (1e-3,)],
    "sqrt1pm1": [(-0.75,), (1e-6,), (2.0,)],
    "exp": [(-3.0,), (0.0,), (2.5,)],
    "exp_nonpositive": [(-3.0,), (-0.1,)],
    "scaled_exp": [(2.5, -3.0), (-0.5, 2.0)],
    "out_of_range": [(3.0,)],
    "range_scale": [(0.0,)],
    "expm1": [(-3.0,), (1e-6,), (2.5,)],
    "log": [(0.1,), (1.0,), (8.0,)],
    "log1p": [(-0.9,), (1e-6,), (8.0,)],
    "log1pmx": [(-0.9,), (1e-4,), (0.4,), (8.0,)],
    "tanh": [(-2.0,), (0.01,), (1.0,)],
    "sigmoid": [(-5.0,), (0.0,), (3.0,)],
    "softplus": [(-5.0,), (0.0,), (3.0,)],
    "log_sigmoid": [(-5.0,), (0.0,), (3.0,)],
    "logaddexp": [(1.0, 2.0), (3.0, -4.0), (0.5, 0.5)],
    "log_cosh": [(-2.0,), (0.01,), (1.5,)],
    "xlogy": [(1.5, 2.5), (-2.0, 0.3), (1.0, 4.0)],
    "power": [(1.5, 2.5), (0.3, -1.7), (4.0, 0.1)],
    "atan": [(-3.0,), (0.1,), (1.0,)],
    "sin": [(-3.0,), (0.1,), (1.0,)],
    "cos": [(-3.0,), (0.1,), (1.0,)],
    "lgamma": [(0.3,), (1.7,), (6.0,), (-1.4,)],
    "digamma": [(0.3,), (1.7,), (6.0,), (-1.4,)],
    "trigamma": [(0.3,)],
}


def call(name, *args):
    return getattr(primitives, "_power" if name == "power" else name)(*args)


def test_every_primitive_is_tried():
    assert set(POINTS) == set(TABLE)


@pytest.mark.parametrize(("name", "point"), [(n, p) for n, points in POINTS.items() for p in points])
def test_derivative_rules(name, point):
    if name == "trigamma":
        (x,) = symbols("x")
        with pytest.raises(FormulaError, match="trigamma has no derivative"):
            derive.derivative(call(name, x), x)
        return
    names = ["x", "y"][: len(point)]
    for position, wrt in enumerate(names):
        leaves = symbols(*names)
        values = dict(zip(names, map(mpmath.mpf, point), strict=True))

        def along(t, position=position, values=values, wrt=wrt):
            arguments = values | {wrt: t}
            return TABLE[name].exact(mpmath, *arguments.values())

        node = call(name, *leaves)
        first = derive.derivative(node, leaves[position])
        with mpmath.workdps(50):
            expected = mpmath.diff(along, values[wrt])
            assert mpmath.almosteq(evaluate(first, **values), expected, 1e-18, 1e-20), (name, wrt)
            if name == "digamma":
                continue
            second = derive.derivative(first, leaves[position])
            expected = mpmath.diff(along, values[wrt], 2)
            assert mpmath.almosteq(evaluate(second, **values), expected, 1e-14, 1e-16), (name, wrt)


RULES = {
    "sum": lambda x, y: x + 3 * y + x,
    "difference": lambda x, y: y - x,
    "product": lambda x, y: x * y * x,
    "square": lambda x, y: x * x,
    "quotient": lambda x, y: x / y,
    "under": lambda x, y: y / (1 + x * x),
    "constant over": lambda x, y: 1 / x,
    "negative": lambda x, y: -(x * y),
    "where": lambda x, y: where(x < y, x * x, x * y),
    "chain": lambda x, y: exp(log1p(x * x) * y),
    "exponent": lambda x, y: y**x,
    "number to the x": lambda x, y: 2.0**x,
    "cube": lambda x, y: x**3,
    "fourth": lambda x, y: x**4,
    "inverse square": lambda x, y: x**-2,
    "half": lambda x, y: x**1.5,
    "weighted": lambda x, y: weighted(y, x * x),
    "shared": lambda x, y: softplus(x) * softplus(x) - softplus(x),
}


@pytest.mark.parametrize("case", RULES)
def test_derivatives_of_combinations(case):
    for point in ((0.7, 2.3), (1.9, 0.4)):
        x, y = symbols("x", "y")
        node = RULES[case](x, y)
        values = {"x": mpmath.mpf(point[0]), "y": mpmath.mpf(point[1])}

        def along(t, node=node, values=values):
            return evaluate(node, **values | {"x": t})

        first = derive.derivative(node, x)
        second = derive.derivative(first, x)
        with mpmath.workdps(50):
            assert mpmath.almosteq(evaluate(first, **values), mpmath.diff(along, values["x"]), 1e-18, 1e-20)
            assert mpmath.almosteq(evaluate(second, **values), mpmath.diff(along, values["x"], 2), 1e-14, 1e-16)


def test_slopes_that_a_comparison_of_the_rules_would_get_wrong():
    """Why these are primitives: softplus through max and abs has the slope 0 at 0."""
    (x,) = symbols("x")
    naive = maximum(x, 0) + log1p(exp(-absolute(x)))
    assert evaluate(derive.derivative(naive, x), x=0.0) != 0.5
    assert evaluate(derive.derivative(softplus(x), x), x=0.0) == 0.5


def test_with_derivative_declares_the_slope():
    x, y = symbols("x", "y")
    declared = with_derivative(exp(x * 1.0) + 0.0, x, 5 * x)
    assert derive.derivative(declared, x) is 5 * x
    assert derive.derivative(3 * declared, x) is 15 * x
    assert derive.derivative(-declared, x) is -(5 * x)
    assert derive.derivative(declared, y).is_literal(0)
    with mpmath.workdps(50):
        inner = with_derivative(log(x + 1) * 2.0, x, x)
        assert evaluate(derive.derivative(inner, x), x=3.0) == 3
        assert evaluate(derive.derivative(with_derivative(-log(x + 2), x, x), x), x=3.0) == 3


def test_flat_functions_have_no_slope():
    x, y = symbols("x", "y")
    assert derive.derivative(sign(x), x).is_literal(0)
    assert derive.derivative(y * y, x).is_literal(0)
    assert derive.derivative(x.graph.literal(3.0), x).is_literal(0)
    assert derive.derivative(x, x).is_literal(1)


# --- NaN --------------------------------------------------------------------------------------------------------------------


def test_the_guard_is_there_where_a_comparison_forgets_a_nan():
    x, y = symbols("x", "y")
    for node, needed in (
        (x - y, False),
        (exp(x) * y, False),
        (where(x < y, x, y), True),
        (where(x < y, x * y, x + y), False),
        (where(x < 0, 1, 2) * y, True),
        (power(x, y), True),
        (primitives.xlogy(x, y), True),
        (x.graph.literal(1.0), True),
    ):
        guarded = derive.guard_nan(node, (x, y))
        assert (guarded is not node) == needed, node


def test_nan_reaches_every_output_of_every_loss():
    """Through the traced graph: a NaN in any input makes value, gradient and Hessian NaN, whatever the other input is."""
    for name in fl.losses.POINTWISE:
        formula = getattr(fl, name).formula
        for choice in formula.choices():
            traced = formula.trace(choice)
            for role, node in traced.outputs.items():
                for source in traced.inputs.values():
                    assert derive.carries_nan(node, source) or _is_guarded(node, source), (name, choice, role)


def _is_guarded(node, source):
    """Whether the node is a select that a NaN of any of the tested sources turns to a NaN, and any other passes."""
    if node.op != "where":
        return False
    tests = [node.args[0]]
    while any(test.op == "and" for test in tests):
        tests = [part for test in tests for part in (test.args if test.op == "and" else [test])]
    tested = [test.args[0] for test in tests if test.op == "eq" and test.args[0] is test.args[1]]
    assert all(derive.carries_nan(node.args[2], symbol) for symbol in tested)
    return any(symbol is source for symbol in tested) or derive.carries_nan(node.args[1], source)


# --- what a formula must not do ---------------------------------------------------------------------------------------------


def branching(pred, target):
    if pred > target:
        return pred
    return target


def converting(pred, target):
    return math.exp(pred - target)


def chained(pred, target):
    return where(0 < pred < target, pred, target)


def naming_strings(pred, target):
    return pred + "1"


def returning_none(pred, target):
    pass


MISTAKES = {
    branching: "cannot branch on a symbol.*write where",
    converting: "a symbol has no value.*use the functions of fastloss.math",
    chained: "cannot branch on a symbol",
    naming_strings: "a formula holds numbers and symbols, got '1'",
    returning_none: "a formula holds numbers and symbols, got None",
}


@pytest.mark.parametrize("formula", MISTAKES, ids=lambda f: f.__name__)
def test_mistakes_in_formulas(formula):
    with pytest.raises(FormulaError, match=MISTAKES[formula]):
        trace(formula)


def test_mistakes_in_definitions():
    def f(pred, target):
        return pred - target

    with pytest.raises(FormulaError, match=r"f: \['delta'\] must be arguments of the formula \('pred', 'target'\)"):
        Formula.define(f, delta=Positive(1.0))
    (x,) = symbols("x")
    with pytest.raises(FormulaError, match="exp takes 1 arguments, got 2"):
        exp(x, x)
    with pytest.raises(FormulaError, match="maximum takes 2 arguments, got 1"):
        maximum(x)
    assert issubclass(FormulaError, TypeError)


# --- sums over an update rule's tensor ----------------------------------------------------------------------------------------


def rule_of(step):
    """The only variant of a rule whose new parameter and state are what `step(param, grad, held, lr)` says."""

    def rule(param, grad, held, step, lr):
        return following(param, grad, held, lr)

    following = step
    made = UpdateRule.define(rule, lr=NonNegative(1.0))
    return made, made.trace(made.choice({"step": None, "lr": 1.0}))


def test_sums_over_a_tensor_are_made_by_a_kernel_before_the_step():
    rule, traced = rule_of(lambda p, g, h, lr: (p - lr * norm2(p) / mean(absolute(g)) * g, h + g))
    assert dict(rule.passes(traced)) == {"step": ["param", "held"], "fold": ["squared_0", "summed_1"]}
    # Behind step and lr; the state is in no sum.
    assert rule.layout(traced) == {"length": 2, "squares": [True, False], "reads": [0, 1]}
    step, fold = (c.kernel_text(traced, suffix, roles, definition.F32, "x.py:1", True) for suffix, roles in rule.passes(traced))
    assert "t0 = absolute_f32(grad[i]);\n        squared_0[i] = param[i];\n        summed_1[i] = t0;" in fold
    assert " param[i] = " not in fold and " held[i] = " not in fold and "summed" not in step
    numbers = c.uniforms_text(traced, "x.py:1", definition.F64)
    assert "t0 = parameters[1] * sqrt_f64(parameters[3]) / (parameters[4] / parameters[2]);\n    uniforms[0] = t0;" in numbers


def test_what_is_the_same_for_the_tensor_is_not_in_its_sum():
    rule, traced = rule_of(lambda p, g, h, lr: (p - total(lr * g) * total(lr * (p * p)) * dot(lr, lr), h))
    assert [role for role in traced.outputs if role in traced.folds] == ["summed_0", "squared_1"]
    assert rule.layout(traced) == {"length": 2, "squares": [False, True], "reads": [0, 1]}


def test_rules_that_know_the_length_alone_and_rules_that_know_nothing():
    rule, traced = rule_of(lambda p, g, h, lr: (p - lr / length(p) * g, h))
    assert dict(rule.passes(traced)) == {"step": ["param", "held"]}
    assert rule.layout(traced) == {"length": 2, "squares": [], "reads": []}
    rule, traced = rule_of(lambda p, g, h, lr: (p - lr * g, h))
    assert rule.layout(traced) is None


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda p, g, h, lr: (p - norm2(g - mean(g)), h), "rule: what an update rule sums .* must use no other such sum"),
        (lambda p, g, h, lr: (p - g / total(where(h > norm2(p), h, 0)), h), "must use no other such sum"),
        (lambda p, g, h, lr: (p - largest(g), h), "rule: an update rule must fold its tensor by total alone, got largest"),
        (lambda p, g, h, lr: (p - logsumexp(g), h), "must fold its tensor by total alone, got shift"),
        (lambda p, g, h, lr: (p - preceding(g), h), "must fold its tensor by total alone, got preceding"),
    ],
)
def test_folds_that_an_update_rule_must_not_have(step, message):
    with pytest.raises(FormulaError, match=message):
        rule_of(step)


def test_primitives_of_plain_numbers_are_plain_numbers():
    assert exp(0.0) == 1.0
    assert maximum(2, 3) == 3.0
    assert isinstance(softplus(1), float)
    assert where(True, 1, 2) == 1
    assert where(False, 1, 2) == 2
    assert power(9.0, 0.5) == 3.0


def test_special_values_are_plain_numbers_in_the_formula():
    """A formula may branch on them, and there `parameter == special` is False elsewhere."""
    seen = []

    def f(pred, target, order, flag, maybe):
        seen.append((order == 2, order == 1, order != 2, flag, maybe is None))
        if order == 2:
            return pred * pred
        return power(absolute(pred - target), order) * (2 if flag else 1) + (0 if maybe is None else maybe)

    formula = Formula.define(f, order=Positive(1.5, special=(2, 1)), flag=Flag(False), maybe=Optional(Positive()))
    choices = list(formula.choices())
    assert len(choices) == 3 * 2 * 2 == len(set(choices))
    names = {formula.variant_name(choice) for choice in choices}
    assert len(names) == len(choices)
    assert all(name.isidentifier() for name in names)
    for choice in choices:
        formula.trace(choice)
    assert {s[:3] for s in seen} == {(True, False, False), (False, True, True), (False, False, True)}
    assert formula.choice({"order": 2.0, "flag": True, "maybe": None}) == (2, True, "none")
    assert formula.choice({"order": 2.5, "flag": False, "maybe": 3.0}) == (None, False, None)


def test_variant_names_are_names_of_functions():
    for name in (*fl.losses.__all__, *fl.optimizers.__all__):
        found = getattr(fl, name)
        formula = getattr(found, "formula", None) or found.rule
        names = [formula.variant_name(choice) for choice in formula.choices()]
        assert len(set(names)) == len(names)
        assert all(n.isidentifier() for n in names)


def test_the_parameter_vector():
    def f(pred, target, a, betas, maybe):
        return a * pred + betas[0] * target + betas[1] * (0 if maybe is None else maybe)

    formula = Formula.define(f, a=Positive(1.0), betas=Each(Fraction(), (0.5, 0.25)), maybe=Optional(Real()))
    assert list(formula.slots()) == [("a", None), ("betas", 0), ("betas", 1), ("maybe", None)]
    vector = formula.vector({"a": 3, "betas": (0.1, 0.2), "maybe": None})
    assert vector[:3] == [3.0, 0.1, 0.2]
    assert math.isnan(vector[3])


# --- domains ----------------------------------------------------------------------------------------------------------------

INSIDE, OUTSIDE = True, False
DOMAINS = [
    (Real(0.0), "a real number", {0.0: INSIDE, -1e300: INSIDE, math.inf: OUTSIDE, -math.inf: OUTSIDE, math.nan: OUTSIDE}),
    (Positive(1.0), "> 0", {5e-324: INSIDE, 0.0: OUTSIDE, -1.0: OUTSIDE, math.inf: OUTSIDE, math.nan: OUTSIDE}),
    (NonNegative(1.0), ">= 0", {0.0: INSIDE, -5e-324: OUTSIDE, math.inf: OUTSIDE, math.nan: OUTSIDE}),
    (Fraction(0.5), "in [0, 1]", {0.0: INSIDE, 1.0: INSIDE, 1.0000001: OUTSIDE, -1e-9: OUTSIDE, math.nan: OUTSIDE}),
    (Fraction(0.5, open_low=True, open_high=True), "in (0, 1)", {0.0: OUTSIDE, 1.0: OUTSIDE, 0.5: INSIDE, 1 - 2**-53: INSIDE}),
    (Fraction(0.5, open_high=True), "in [0, 1)", {0.0: INSIDE, 1.0: OUTSIDE}),
    (Interval(-2, 3, 0.0, open_low=True), "in (-2, 3]", {-2.0: OUTSIDE, 3.0: INSIDE, -1.999: INSIDE, 3.001: OUTSIDE}),
    (Interval(high=4.0, default=0.0), "<= 4", {-math.inf: INSIDE, 4.0: INSIDE, 4.1: OUTSIDE}),
    (Interval(high=4.0, default=0.0, open_high=True), "< 4", {4.0: OUTSIDE, 3.9: INSIDE}),
    (Interval(low=1.0, default=2.0), ">= 1", {1.0: INSIDE, math.inf: INSIDE, 0.9: OUTSIDE}),
    (Interval(default=1.0, open_high=True, special=(-math.inf,)), "a real number", {-math.inf: INSIDE, math.inf: OUTSIDE}),
]


@pytest.mark.parametrize(("domain", "text", "values"), DOMAINS, ids=[text for _, text, _ in DOMAINS])
def test_intervals(domain, text, values):
    assert str(domain) == text
    assert domain.is_parameter
    for value, inside in values.items():
        assert domain.contains(value) == inside, value
        if inside:
            assert domain.check("who", "name", value) == value
            assert isinstance(domain.check("who", "name", np.float64(value)), float)
        else:
            with pytest.raises(ValueError, match=r"^who: name must be ") as caught:
                domain.check("who", "name", value)
            assert text in str(caught.value)
            assert f"{value:g}" in str(caught.value)


@pytest.mark.parametrize("value", [None, "1", True, False, [1.0], 1j, np.ones(1), np.True_, object, np.array("a")], ids=repr)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="who: name must be a number > 0, got "):
        Positive(1.0).check("who", "name", value)


def test_numbers_of_every_kind():
    for value in (2, 2.0, np.float32(2), np.int8(2), np.uint64(2), np.array(2.0), np.array(2), np.float16(2)):
        got = Positive(1.0).check("who", "name", value)
        assert type(got) is float
        assert got == 2.0


def test_flags():
    flag = Flag(True)
    assert str(flag) == "True or False"
    assert flag.check("who", "name", np.False_) is False
    assert flag.check("who", "name", True) is True
    for bad in (None, 2, "yes", 0.5):
        with pytest.raises(TypeError, match="who: name must be True or False, got "):
            flag.check("who", "name", bad)


def test_optional_values():
    optional = Optional(Positive(special=(2,)))
    assert str(optional) == "None or > 0"
    assert optional.check("who", "name", None) is None
    assert optional.check("who", "name", 3) == 3.0
    assert optional.choices == ("none", 2.0, None)
    assert optional.choice(None) == "none"
    assert optional.choice(2.0) == 2.0
    assert optional.choice(3.0) is None
    with pytest.raises(ValueError, match="who: name must be > 0, got -1"):
        optional.check("who", "name", -1)


def test_tuples_of_numbers():
    each = Each(Fraction(open_high=True), (0.9, 0.999))
    assert str(each) == "2 numbers, each in [0, 1)"
    assert each.check("who", "betas", [0.5, 0]) == (0.5, 0.0)
    with pytest.raises(ValueError, match=r"who: betas\[1\] must be in \[0, 1\), got 1"):
        each.check("who", "betas", (0.5, 1.0))
    for bad in (0.5, (0.5,), (0.1, 0.2, 0.3), None, "ab", np.array([0.1, 0.2])):
        with pytest.raises(TypeError, match="who: betas must be 2 numbers"):
            each.check("who", "betas", bad)


def test_labels_are_inputs_that_are_not_checked():
    assert not Label().is_parameter
    assert not Label().is_checked
    assert "positive class > 0" in str(Label())
    assert Fraction().is_checked
    assert not Fraction(checked=False).is_checked
    assert not Real().is_checked or Real().contains(0.0)
    assert not Fraction().is_parameter


def test_special_values_choose_kernels():
    domain = Interval(default=1.0, special=(2, 1, 0, -2, -math.inf))
    assert domain.choices == (2.0, 1.0, 0.0, -2.0, -math.inf, None)
    for value in (2, 2.0, 0.0, -0.0, -math.inf):
        assert domain.choice(value) == value
    assert domain.choice(1.5) is None


# --- the emitted Python against the kernels ---------------------------------------------------------------------------------


def away_from_defaults(formula):
    """Values for the hyperparameters, the special ones one by one, and others."""
    for choice in formula.choices():
        values = {}
        for (name, domain), chosen in zip(formula.parameters.items(), choice, strict=True):
            if chosen is not None:
                values[name] = None if chosen == "none" else chosen
                continue
            inner = getattr(domain, "domain", domain)
            low, high = max(inner.low, -1e3), min(inner.high, 1e3)
            values[name] = low + 0.37 * (high - low) if high - low < 100 else low + 1.3 if inner.low > -math.inf else 0.7
        yield choice, values


@pytest.mark.parametrize("precision", definition.PRECISIONS, ids=lambda precision: precision.name)
@pytest.mark.parametrize("name", fl.losses.POINTWISE)
def test_the_python_text_computes_what_the_kernels_do(name, precision):
    loss = getattr(fl, name)
    formula = loss.formula
    rng = np.random.default_rng(0)
    dtype = np.float32 if precision.f32 else np.float64
    compared = 0
    for choice, values in itertools.islice(away_from_defaults(formula), 12):
        traced = formula.trace(choice)
        inputs = []
        for domain in formula.input_domains.values():
            low, high = getattr(domain, "low", 0.0), getattr(domain, "high", 1.0)
            x = rng.uniform(max(low, -4), min(high, 4), 12)
            inputs.append(np.round(x).astype(dtype) if isinstance(domain, Label) else x.astype(dtype))
        roles = formula.roles("vgh")
        scalar = interpreted.interpreted(precision).define(python.variant_text(traced, roles, "scalar"), "scalar")
        numbers = interpreted.uniforms(python.uniforms_text(traced, "numbers"), "numbers", [*formula.vector(values), 0])
        with np.errstate(all="ignore"):
            rows = [scalar(*row, *map(dtype, numbers)) for row in zip(*inputs, strict=True)]
        rows = np.array([row if isinstance(row, tuple) else (row,) for row in rows], dtype).T
        value, grad, hess = loss.value_grad_hess(*inputs, reduction="none", check=False, **values)
        results = [value]
        for part in (grad, hess):
            results += list(part) if isinstance(part, tuple) else [part]
        for role, mine, theirs in zip(roles, results, rows, strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=f"{role} {choice}")
            compared += mine.size
    assert compared >= 36


@pytest.mark.parametrize("precision", definition.PRECISIONS, ids=lambda precision: precision.name)
def test_a_machine_has_what_the_text_is_made_of(precision):
    assert set(python.MACHINE) <= set(interpreted.interpreted(precision).operations)
