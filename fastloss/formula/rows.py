"""Folds over a row, or over an update rule's tensor, and the derivatives of what is made of them.

A fold makes one number of a row's elements: `total`, `mean`, `largest`, `logsumexp`, `dot`, `norm2`, and `pick`, the element that
the label names. A running sum (`preceding`, `following`) makes of each element the sum of those on one side of it, to be folded
in turn. A row formula is a number made of folds. Its derivative with respect to an element goes through every fold the
element enters, and through folds of folds: those bring one more fold into the derivative. What a label's element has besides the
others is kept apart, one number a row, for the engine to add there: no element is asked whether it is the label's.
"""

from math import inf, nan

from .derive import derivative
from .graph import ELEMENT, FOLDS, INT, ROW, RUNS, FormulaError, Symbol, walk
from .primitives import (
    absolute,
    exp_nonpositive,
    log,
    maximum,
    out_of_range,
    power,
    range_scale,
    sqrt,
    weighted,
    where,
    with_derivative,
)
from .record import frozen

# How the results are called that a row formula has for every element.
ALONG = ("grad_", "hess_", "hvp_")

# --- the language -----------------------------------------------------------------------------------------------------------


def length(x):
    """The number of elements in a row, or in an update rule's tensor."""
    return x.graph.node("length")


def total(x):
    """The sum over the row, or over an update rule's tensor."""
    if not isinstance(x, Symbol):
        raise FormulaError(f"total must be of what a formula computes, got {x!r}")
    if x.level < ELEMENT:
        return x * length(x)
    if x.op == "neg" and id(x) not in x.graph.slopes:
        return -total(x.args[0])
    if x.op == "mul" and id(x) not in x.graph.slopes:  # what is the same for the whole row need not be in the sum
        for factor, rest in (x.args, reversed(x.args)):
            if factor.level < ELEMENT:
                return factor * total(rest)
    return x.graph.node("total", x, level=x.graph.fold_level)


def mean(x):
    return total(x) / length(x)


def largest(x):
    """The maximum over the row; where several are the largest they share its derivative, as in PyTorch's `amax`."""
    return x.graph.node("largest", x, level=ROW) if x.level == ELEMENT else x


def below_peak(x):
    """`x` less the row's largest element, and that element; 0 where they are equal, be they infinite.

    For results that do not depend on what is taken off the whole row: the derivative goes past the largest element. A formula
    whose row holds a NaN, nothing above -inf or several elements of +inf has the value NaN.
    """
    below, peak = shifted(x)
    need_one_peak(peak, total(where(x == peak, 1, 0)))
    return below, peak


def shifted(x):
    peak = x.graph.node("shift", x, level=ROW)
    gap = x - peak
    return with_derivative(where(gap < 0, gap, 0), x, 1), peak


def need(condition):
    """Of rows for which this does not hold the value, and with it every derivative, is NaN."""
    condition.graph.needs.append(condition)


def need_one_peak(peak, count):
    """Without a largest element above -inf, and if it is +inf without a single one, the row's value is NaN.

    `count` must be the number of largest elements if they are infinite.
    """
    need((peak > -inf) & ((peak < inf) | (count < 1.5)))


def softmax_terms(x, scale=1):
    """`below_peak` of x, exp(scale * below), and the sum of these: softmax is the terms over their sum. The scale must be above 0."""
    below, peak = shifted(x)
    terms = exp_nonpositive(scale * below)
    terms_sum = total(terms)
    need_one_peak(peak, terms_sum)  # below +inf all terms are 0
    return below, peak, terms, terms_sum


def logsumexp(x, scale=1):
    """log(sum(exp(scale * x))), without overflow; the scale must be above 0. Of several +inf it is +inf, its derivative NaN."""
    below, peak = shifted(x)
    terms_sum = total(exp_nonpositive(scale * below))
    defined = (peak < inf) | (terms_sum < 1.5)
    finite = scale * peak + log(where(defined, terms_sum, nan))
    return where(peak > -inf, with_derivative(where(peak < inf, finite, peak), finite, 1), peak)


def dot(a, b):
    return total(a * b)


@frozen
class Scaled:
    """Elements `x`, the same times `scale`, a power of two, and the sum of the squares of those: in range whatever the size of x."""

    x: Symbol
    scale: Symbol
    scaled: Symbol
    square: Symbol

    @property
    def root(self):
        """The square root of `square`; its derivative at 0 is 0."""
        root = sqrt(self.square)
        return with_derivative(root, self.square, where(self.square == 0, 0, 0.5 / root))

    @property
    def half_scaled(self):
        """The sum of squares of x, times the scale: by way of which derivatives are declared, not to be computed itself.

        Its own derivative is twice the scaled x; that of `square`, times the scale once more, may leave the range.
        """
        return total(with_derivative(self.scaled * self.x, self.x, 2 * self.scaled))

    def toward(self, other):
        """The sum of the products of x and the other's scaled elements, as far as x is concerned: to declare derivatives by."""
        return total(with_derivative(self.x * other.scaled, self.x, other.scaled))

    @property
    def length(self):
        """The Euclidean length of x; its derivative at 0 is 0."""
        return with_derivative(self.root / self.scale, self.half_scaled, where(self.square == 0, 0, 0.5 / self.root))


def scaled_squares(*xs, product=False):
    """A `Scaled` for each x; with `product` also the sum of the products of two scaled ones.

    It takes one pass over the row, which is repeated with other scales where a plain sum of squares overflows or underflows.
    """
    found = []

    def step(_, state):
        """`state` holds for each x, in digits of base 3, what `out_of_range` said of its squares; 0 the first time."""
        rest, scales = state, []
        for k in reversed(range(len(xs))):
            digit = where(rest > 2 * 3**k - 0.5, 2, where(rest > 3**k - 0.5, 1, 0))
            rest = rest - 3**k * digit
            scales.insert(0, range_scale(digit))
        scaled = [x * scale for x, scale in zip(xs, scales, strict=True)]
        squares = [total(x * x) for x in scaled]
        found.extend(map(Scaled, xs, scales, scaled, squares))
        state = where(state > 0, state, sum(3**k * out_of_range(square) for k, square in enumerate(squares)))
        if not product:
            return state
        found.append(total(scaled[0] * scaled[1]))
        return where(found[-1] == 0, maximum(state, 0), state)  # the state either way: so that one pass sums the products too

    iterate(xs[0], 0, step)
    return found


def norm2(x):
    """The Euclidean length; its derivative at 0 is 0."""
    if x.graph.fold_level == ROW:
        return scaled_squares(x)[0].length
    return sqrt(total(x * x))  # over an update rule's tensor the engine sums squares in double


def norm(x, p):
    """The p-norm for p of 1 or more; its derivative at 0 is 0, and so is that of an element of 0."""
    if p == 1:
        return total(absolute(x))
    if p == 2:
        return norm2(x)
    size = absolute(x)
    # All relative to the largest: powers overflow. What all are divided by does not matter, so the derivative goes past it.
    peak = x.graph.node("shift", size, level=ROW)
    unit = where(peak > 0, peak, 1)
    share = size / unit
    # The derivative of the power, with its own: power(0, p - 2) is infinite below 2.
    steep = with_derivative(power(share, p - 1), size, where(size > 0, (p - 1) * power(share, p - 2) / unit, 0))
    powers = total(with_derivative(power(share, p), size, p * steep / unit))
    root = power(powers, 1 / p)
    return unit * with_derivative(root, powers, where(powers > 0, root / (p * powers), 0))


def class_weighted(weight, value):
    """`weight * value` for the weight of the row's class; a row of weight 0 is left out: its results are 0, NaN or not."""
    leave_out(weight == 0)
    return weighted(weight, value)


def leave_out(condition):
    """Of rows for which this holds all results are 0."""
    condition.graph.left_out = condition


def norms(xs, p):
    """The p-norms of several x, those of p = 2 in one pass."""
    return [found.length for found in scaled_squares(*xs)] if p == 2 else [norm(x, p) for x in xs]


def pick(x, label):
    """The element of `x` that the label names; where the label is a row of probabilities, the mean of `x` under them."""
    if label.kind == INT:
        return _at(x, label, {}) if isinstance(x, Symbol) else x
    return total(weighted(label, x) if isinstance(x, Symbol) else x * label)


def is_among(labels):
    """Whether the row's list of labels names the element."""
    return labels.graph.members > 0


def _at(node, label, memo):
    """A node with the label's element in the place of each row input's."""
    graph, waiting, declared = node.graph, [node], []
    while waiting:
        for inner in walk([waiting.pop()], into=lambda node: node.level == ELEMENT and id(node) not in memo):
            if id(inner) in memo:
                continue
            if inner.level < ELEMENT:
                memo[id(inner)] = inner
            elif inner.op in RUNS:
                raise FormulaError(f"pick must be of what an element has of its own, got {inner!r}")
            elif inner.op == "input":
                memo[id(inner)] = graph.node("pick", inner, label, level=ROW)
            else:
                memo[id(inner)] = graph.node(inner.op, *(memo[id(a)] for a in inner.args), kind=inner.kind)
                if id(inner) in graph.slopes:
                    declared.append(inner)
                    waiting += (part for pair in graph.slopes[id(inner)] for part in pair)
    for inner in declared:
        graph.slopes[id(memo[id(inner)])] = tuple((memo[id(x)], memo[id(slope)]) for x, slope in graph.slopes[id(inner)])
    return memo[id(node)]


def preceding(x):
    """For each element the sum of those before it."""
    return _run("preceding", x)


def following(x):
    """For each element the sum of those after it."""
    return _run("following", x)


def running(x):
    """For each element the sum up to and including it."""
    return preceding(x) + x


def _run(op, x):
    if not isinstance(x, Symbol):
        raise FormulaError(f"{op} must be of what a row formula computes, got {x!r}")
    if x.level < ELEMENT and not x.is_literal(1):
        return x if x.is_literal(0) else x * _run(op, x.graph.literal(1))
    if x.op == "neg" and id(x) not in x.graph.slopes:
        return -_run(op, x.args[0])
    if x.op == "mul" and id(x) not in x.graph.slopes:
        for factor, rest in (x.args, reversed(x.args)):
            if factor.level < ELEMENT:
                return factor * _run(op, rest)
    return x.graph.node(op, x, level=ELEMENT)


def iterate(x, start, step):
    """The number of the row that `t = step(x, t)` comes to when it is repeated from `start` on for as long as it rises.

    A step may fold the row, in one pass. The derivative is that of the last step alone: for a Newton step at its root that is the
    implicit one. Second derivatives take the step's own derivative not to vary with `t`, as where it is linear in pieces.
    """
    graph = x.graph
    # Numbered: what tells two loops from the same start apart is made only now.
    node = graph.node("iterate", graph.literal(start), len(graph.loops), level=ROW)
    graph.loops[id(node)] = last = step(x, node)
    if not isinstance(last, Symbol) or last.level != ROW:
        raise FormulaError(f"the step of iterate must give a number of the row made of the one before, got {last!r}")
    return last


# --- derivatives ------------------------------------------------------------------------------------------------------------


def row_derivatives(value, x, label=None):
    """First and second derivatives of a row's value with respect to its own elements of the input `x`.

    Each is a pair: an expression for every element, and a number that the label's element has besides.
    """
    if not isinstance(value, Symbol) or value.level == ELEMENT:
        raise FormulaError("a row formula must return a number made of folds, not an element")
    everywhere, at_label = _gradient(value, x)
    return (everywhere, at_label), _curvature(everywhere, at_label, x, label)


def _gradient(value, x):
    """From the value back through the folds, the outermost first."""
    # A declared derivative may be with respect to what the value does not mention.
    declared = [x for node in walk([value]) for x, _ in value.graph.slopes.get(id(node), ())]
    folds = [node for node in walk([*declared, value]) if node.op in FOLDS or node.op in RUNS]
    literal = value.graph.literal
    everywhere, at_label, reached = literal(0), literal(0), []
    for fold in reversed(folds):
        slope = derivative(value, fold)
        for outer, outer_slope in reached:
            slope = slope + _passed_on(outer, outer_slope, fold)
        reached.append((fold, slope))
        if fold.op in RUNS:
            everywhere = everywhere + _run(RUNS[fold.op], slope) * derivative(fold.args[0], x)
        elif fold.op != "pick":
            everywhere = everywhere + slope * _own_slope(fold, x)
        elif fold.args[0] is x:
            at_label = at_label + slope
    return everywhere, at_label


def _passed_on(outer, slope, inner):
    """What of the slope at an outer fold or running sum comes down to one inside it: an element for a running sum."""
    if outer.op == "pick" or (outer.op not in RUNS and inner.op not in RUNS):
        return slope * _through(outer, inner)
    each = _run(RUNS[outer.op], slope) if outer.op in RUNS else slope * _share(outer)
    each = each * derivative(outer.args[0], inner)
    return each if inner.op in RUNS else total(each)


def _curvature(everywhere, at_label, x, label):
    """The total derivative of the gradient's two parts, each with respect to its own element."""
    graph, memo = x.graph, {}

    def of_folds(node):
        """How the folds in a node move with an element: for every element, and for the label's besides."""
        parts, extra = graph.literal(0), graph.literal(0)
        for fold in _inside(node):
            slope = derivative(node, fold)
            if fold.op == "pick":
                extra = extra + slope * (1 if fold.args[0] is x else 0)
            elif not slope.is_literal(0):
                moved, moved_extra = of_fold(fold)
                parts, extra = parts + slope * moved, extra + slope * moved_extra
        return parts, extra

    def of_fold(fold):
        if id(fold) not in memo and fold.op in RUNS:
            memo[id(fold)] = _run_movement(fold, x, of_fold), graph.literal(0)
        elif id(fold) not in memo and any(inner.op in RUNS for inner in _inside(fold.args[0])):
            memo[id(fold)] = _gradient(fold, x)
        elif id(fold) not in memo:
            moved, extra = _own_slope(fold, x), graph.literal(0)
            for inner in _inside(fold.args[0]):
                through = _through(fold, inner)
                if inner.op == "pick":
                    extra = extra + through * (1 if inner.args[0] is x else 0)
                elif not through.is_literal(0):
                    inner_moved, inner_extra = of_fold(inner)
                    moved, extra = moved + through * inner_moved, extra + through * inner_extra
            memo[id(fold)] = moved, extra
        return memo[id(fold)]

    moved, extra = of_folds(everywhere)
    second = derivative(everywhere, x) + moved
    label_moved, label_extra = of_folds(at_label)
    if label is None:
        return second, graph.literal(0)
    return second, _at(extra + label_moved, label, {}) + label_extra


def row_tangent(gradient, x, vector, label=None):
    """How the two parts of a row's gradient with respect to `x` move when `x` moves along the row `vector`: the Hessian times it."""
    memo = {}

    def along(node):
        """The sum over all that moves: the element itself, and the folds in the node."""
        moved = derivative(node, x) * vector
        for fold in _inside(node):
            slope = derivative(node, fold)
            if not slope.is_literal(0):
                moved = moved + slope * of_fold(fold)
        return moved

    def of_fold(fold):
        if id(fold) not in memo:
            if fold.op == "pick":
                memo[id(fold)] = _at(vector, label, {}) if fold.args[0] is x else x.graph.literal(0)
            elif fold.op in RUNS:
                memo[id(fold)] = _run(fold.op, along(fold.args[0]))
            else:
                memo[id(fold)] = total(_share(fold) * along(fold.args[0]))
        return memo[id(fold)]

    return tuple(along(part) for part in gradient)


def _run_movement(run, x, of_fold):
    """How an element of a running sum moves with the element of `x` at its place, which is not in the sum itself."""
    each, moved = run.args[0], x.graph.literal(0)

    def by_fold(slope, fold):
        """As far as the folds in the sum move, which `slope` says for each element."""
        if slope.is_literal(0) or (fold.op == "pick" and fold.args[0] is not x):
            return slope.graph.literal(0)
        own, at_label = (None, None) if fold.op in (*RUNS, "pick") else of_fold(fold)
        if own is None or not at_label.is_literal(0):
            raise FormulaError("second derivatives go through two running sums at most, and through no label inside of one")
        return _run(run.op, slope) * own

    for inner in _inside(each):
        slope = derivative(each, inner)
        if inner.op not in RUNS:
            moved = moved + by_fold(slope, inner)
            continue
        if inner.op != run.op:
            moved = moved + _run(run.op, slope) * derivative(inner.args[0], x)
        for fold in _inside(inner.args[0]):
            moved = moved + by_fold(slope * _run(inner.op, derivative(inner.args[0], fold)), fold)
    return moved


def _inside(node):
    """The folds and running sums that a node uses directly, not those inside of them."""
    found, stack, seen = [], [node], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.op in FOLDS or node.op in RUNS:
            found.append(node)
        else:
            stack.extend(node.operands)
            stack.extend(x for x, _ in node.graph.slopes.get(id(node), ()))
    return found


def _own_slope(fold, x):
    """How a fold moves with an element of `x`, the folds inside it held still."""
    return _share(fold) * derivative(fold.args[0], x)


def _through(outer, inner):
    """How a fold moves with another one inside it."""
    if outer.op == "pick" or not any(fold is inner for fold in _inside(outer.args[0])):
        return outer.graph.literal(0)
    return total(_share(outer) * derivative(outer.args[0], inner))


def _share(fold):
    """How much of an element's movement a fold takes on."""
    literal = fold.graph.literal
    if fold.op == "largest":
        is_largest = where(fold.args[0] == fold, 1, 0)
        return is_largest / total(is_largest)
    return literal(1 if fold.op == "total" else 0)
