"""Folds over a row, or over an update rule's tensor, and the derivatives of what is made of them.

A fold makes one number of a row's elements: `total`, `mean`, `largest`, `logsumexp`, `dot`, `norm2`, and `pick`, the element that
the label names. A running sum (`preceding`, `following`) makes of each element the sum of those on one side of it, to be folded
in turn. A row formula is a number made of folds. Its derivative with respect to an element goes through every fold the
element enters, and through folds of folds: those bring one more fold into the derivative. What a label's element has besides the
others is kept apart, one number a row, for the engine to add there: no element is asked whether it is the label's.
"""

from .derive import derivative
from .graph import ELEMENT, FOLDS, INT, ROW, RUNS, FormulaError, Symbol, walk
from .primitives import absolute, exp_nonpositive, log, power, sqrt, weighted, where, with_derivative

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
    whose row holds a NaN, or nothing above -inf, has the value NaN.
    """
    peak = x.graph.node("shift", x, level=ROW)
    x.graph.needs.append(peak > float("-inf"))
    return _below(x, peak), peak


def _below(x, peak):
    gap = x - peak
    return with_derivative(where(gap < 0, gap, 0), x, 1)


def logsumexp(x, scale=1):
    """log(sum(exp(scale * x))), without overflow; the scale must be above 0."""
    peak = x.graph.node("shift", x, level=ROW)
    far = log(total(exp_nonpositive(scale * _below(x, peak))))
    return where(peak > float("-inf"), scale * peak + far, peak)


def dot(a, b):
    return total(a * b)


def norm2(x):
    """The Euclidean length; its derivative at 0 is 0."""
    square = total(x * x)
    root = sqrt(square)
    return with_derivative(root, square, where(square == 0, 0, 0.5 / root))


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
    if node.level < ELEMENT:
        return node
    if node.op in RUNS:
        raise FormulaError(f"pick must be of what an element has of its own, got {node!r}")
    if id(node) not in memo:
        if node.op == "input":
            memo[id(node)] = node.graph.node("pick", node, label, level=ROW)
        else:
            args = [_at(a, label, memo) for a in node.args]
            memo[id(node)] = new = node.graph.node(node.op, *args, kind=node.kind)
            if id(node) in node.graph.slopes:
                node.graph.slopes[id(new)] = tuple(_at(part, label, memo) for part in node.graph.slopes[id(node)])
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
    declared = [value.graph.slopes[id(node)][0] for node in walk([value]) if id(node) in value.graph.slopes]
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
