"""The primitives: every function a formula may call, with its derivatives and its 50-digit twin, one row each.

A primitive exists where a derivative taken through smaller pieces would be wrong or unstable: softplus written with `max` and
`abs` has slope 0 at 0 instead of 1/2. Its code for the processor is the function of the same name in `fastloss.vecmath`.
"""

from collections.abc import Callable

from .graph import INT, FormulaError, Symbol, select
from .record import frozen


@frozen
class Primitive:
    """One function of the formula language.

    `derivatives` holds, for each argument, a rule `(node, *args) -> Symbol`; None where the function is flat almost everywhere.
    `exact` names the function for mpmath, as `(mpmath, *args) -> mpf`. `cost` is its price in additions, for the choice of
    threads.
    """

    name: str
    derivatives: tuple[Callable | None, ...]
    exact: Callable
    cost: int
    is_public: bool = True  # whether users' formulas may call it


TABLE: dict[str, Primitive] = {}


def primitive(name, *derivatives, exact, cost, is_public=True):
    """Enter a row into the table and return the function that formulas call."""
    TABLE[name] = Primitive(name, derivatives, exact, cost, is_public)

    def call(*args):
        graph = next((a.graph for a in args if isinstance(a, Symbol)), None)
        if graph is None:
            import mpmath  # numbers alone: the exact twin will do

            return float(TABLE[name].exact(mpmath, *map(mpmath.mpf, args)))
        if len(args) != len(derivatives):
            raise FormulaError(f"{name} takes {len(derivatives)} arguments, got {len(args)}")
        return graph.node(name, *map(graph.literal, args))

    call.__name__ = call.__qualname__ = name
    return call


def _softplus(mp, x):
    return (x if x > 0 else 0) + mp.log1p(mp.exp(-abs(x)))


absolute = primitive("absolute", lambda n, x: sign(x), exact=lambda mp, x: abs(x), cost=1)
sign = primitive("sign", None, exact=lambda mp, x: mp.sign(x), cost=2)
maximum = primitive(
    "maximum",
    lambda n, a, b: where(a > b, 1, 0),
    lambda n, a, b: where(a > b, 0, 1),
    exact=lambda mp, a, b: max(a, b),
    cost=1,
)
minimum = primitive(
    "minimum",
    lambda n, a, b: where(a < b, 1, 0),
    lambda n, a, b: where(a < b, 0, 1),
    exact=lambda mp, a, b: min(a, b),
    cost=1,
)
sqrt = primitive("sqrt", lambda n, x: 0.5 / n, exact=lambda mp, x: mp.sqrt(x), cost=8)
# sqrt(1 + x) - 1 without the cancellation at small x
sqrt1pm1 = primitive("sqrt1pm1", lambda n, x: 0.5 / sqrt(1 + x), exact=lambda mp, x: x / (1 + mp.sqrt(1 + x)), cost=16)
exp = primitive("exp", lambda n, x: n, exact=lambda mp, x: mp.exp(x), cost=12)
# For arguments that are known not to exceed 0, as those of a softmax: exp for half the price.
exp_nonpositive = primitive("exp_nonpositive", lambda n, x: n, exact=lambda mp, x: mp.exp(x), cost=9)
# Of sums of squares, see rows.py: to 50 digits everything is in range.
out_of_range = primitive("out_of_range", None, exact=lambda mp, square: mp.mpf(0), cost=4, is_public=False)
range_scale = primitive("range_scale", None, exact=lambda mp, code: mp.mpf(1), cost=2, is_public=False)
# scale * exp(x), which only the product need be in range for; 0 where the scale is, whatever x is.
scaled_exp = primitive(
    "scaled_exp",
    lambda n, scale, x: exp(x),
    lambda n, scale, x: n,
    exact=lambda mp, scale, x: scale * mp.exp(x) if scale else mp.mpf(0),
    cost=15,
)
expm1 = primitive("expm1", lambda n, x: exp(x), exact=lambda mp, x: mp.expm1(x), cost=16)
log = primitive("log", lambda n, x: 1 / x, exact=lambda mp, x: mp.log(x), cost=16)
log1p = primitive("log1p", lambda n, x: 1 / (1 + x), exact=lambda mp, x: mp.log1p(x), cost=18)
# log(1 + x) - x without the cancellation at small x
log1pmx = primitive(
    "log1pmx",
    lambda n, x: with_derivative(-x / (1 + x), x, -1 / (1 + x) * (1 / (1 + x))),
    exact=lambda mp, x: mp.log1p(x) - x,
    cost=30,
)
tanh = primitive("tanh", lambda n, x: 4 * sigmoid(2 * x) * sigmoid(-2 * x), exact=lambda mp, x: mp.tanh(x), cost=20)
sigmoid = primitive("sigmoid", lambda n, x: n * sigmoid(-x), exact=lambda mp, x: 1 / (1 + mp.exp(-x)), cost=20)
softplus = primitive("softplus", lambda n, x: sigmoid(x), exact=_softplus, cost=30)
log_sigmoid = primitive("log_sigmoid", lambda n, x: sigmoid(-x), exact=lambda mp, x: -_softplus(mp, -x), cost=30)
logaddexp = primitive(
    "logaddexp",
    lambda n, a, b: sigmoid(a - b),
    lambda n, a, b: sigmoid(b - a),
    exact=lambda mp, a, b: b + _softplus(mp, a - b),
    cost=32,
)
log_cosh = primitive(
    "log_cosh",
    lambda n, x: tanh(x),
    exact=lambda mp, x: abs(x) + mp.log1p(mp.expm1(-2 * abs(x)) / 2) if x else mp.mpf(0),
    cost=36,
)
xlogy = primitive(
    "xlogy",
    lambda n, x, y: log(y),
    lambda n, x, y: x / y,
    exact=lambda mp, x, y: mp.mpf(0) if x == 0 else x * mp.log(y),
    cost=20,
)
# The exponent's rule is only built where the exponent depends on the input.
_power = primitive(
    "power",
    lambda n, x, y: y * power(x, y - 1),
    lambda n, x, y: n * log(x),
    exact=lambda mp, x, y: mp.power(x, y),
    cost=40,
)
atan = primitive("atan", lambda n, x: 1 / (1 + x * x), exact=lambda mp, x: mp.atan(x), cost=20)
sin = primitive("sin", lambda n, x: cos(x), exact=lambda mp, x: mp.sin(x), cost=20)
cos = primitive("cos", lambda n, x: -sin(x), exact=lambda mp, x: mp.cos(x), cost=20)
lgamma = primitive("lgamma", lambda n, x: digamma(x), exact=lambda mp, x: mp.loggamma(x).real, cost=60)
digamma = primitive("digamma", lambda n, x: trigamma(x), exact=lambda mp, x: mp.digamma(x), cost=60)
trigamma = primitive(
    "trigamma",
    lambda n, x: _no_rule("trigamma"),
    exact=lambda mp, x: mp.psi(1, x),
    cost=60,
)


def _no_rule(name):
    raise FormulaError(f"{name} has no derivative in the formula language")


def where(condition, a, b):
    """`a` where the condition holds, `b` elsewhere."""
    if isinstance(condition, bool):
        return a if condition else b
    return select(condition, a, b)


def with_derivative(value, x, slope, *more):
    """`value`, a function of `x` alone as far as derivatives go, whose derivative is `slope` and not what the rules give.

    Of a function of several `more` holds another x, its slope, and so on.
    """
    graph = x.graph
    value, xs, slopes = graph.literal(value), (x, *more[::2]), [graph.literal(s) for s in (slope, *more[1::2])]
    # Signs and literal factors move through products: declare the slope of what they multiply.
    factor = -1 if value.op == "neg" else value.args[0].args[0] if value.op == "mul" and value.args[0].is_literal() else None
    if factor is None:
        graph.slopes[id(value)] = tuple(zip(xs, slopes, strict=True))
        return value
    pairs = ((x, slope * (1 / factor)) for x, slope in zip(xs, slopes, strict=True))
    return factor * with_derivative(value.args[-1], *(part for pair in pairs for part in pair))


def weighted(weight, x):
    """`weight * x`, where a weight of 0 takes out even an infinite `x`; only `x` is differentiated."""
    return with_derivative(where(weight == 0, 0, weight * x), x, weight)


def power(base, exponent):
    """`base ** exponent`; small whole and half exponents become products and roots."""
    if isinstance(exponent, Symbol) and exponent.is_literal():
        exponent = exponent.args[0]
    if isinstance(exponent, int | float) and isinstance(base, Symbol):
        if exponent < 0 and -exponent in (0.5, 1, 2, 3, 4):
            return 1 / power(base, -exponent)
        if exponent == 0.5:
            return sqrt(base)
        if exponent in (0, 1):
            return base if exponent else base.graph.literal(1)
        if exponent in (2, 3, 4):
            square = base * base
            return square * power(base, exponent - 2) if exponent > 2 else square
    return _power(base, exponent)


# The language of fastloss.vecmath alone: the bits of floating-point numbers.


def bits(x):
    """The floating-point number's pattern as a signed integer of the same width."""
    return x.graph.node("bits", x, kind=INT)


def from_bits(i):
    """The floating-point number with that pattern."""
    return i.graph.node("from_bits", i)


def to_float(i):
    """The integer's value as a floating-point number."""
    return i.graph.node("to_float", i)


def fma(a, b, c):
    """`a * b + c`, in one rounding where the machine has the instruction."""
    graph = next(x.graph for x in (a, b, c) if isinstance(x, Symbol))
    return graph.node("fma", *map(graph.literal, (a, b, c)))


__all__ = [*(name for name, row in TABLE.items() if row.is_public), "weighted", "where", "with_derivative"]
