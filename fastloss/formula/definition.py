"""Definitions: what a formula's author writes, and how it is traced.

A `Formula` is a plain Python function plus the domains of its arguments. Arguments whose domain has a default are
hyperparameters; the others are input arrays. Tracing calls the function with symbols, once per `Variant`: a flag, a special
value and an absent optional parameter are plain Python values there, so the function may branch on them.
"""

import itertools
from collections.abc import Callable
from typing import ClassVar

from .derive import carries_nan, derivative, guard_nan
from .domains import Class, Classes, ClassWeight, Each, Flag, Interval, PerRow, Real, WeightDecay
from .graph import CALL, FOLDS, INT, ROW, RUNS, FormulaError, Graph, Parameter, Symbol, select, walk
from .lazy import lazy
from .located import located
from .record import field, frozen, record
from .rows import ALONG, row_derivatives, row_tangent

# What one pass may return: v(alue), g(radient), h(essian).
WANTS = ("v", "g", "vg", "gh", "vgh")
# A variant of a row formula that takes probabilities where others take a label.
PROBABILITIES = "probabilities"
# What the elements are called whose squares an update rule sums.
SQUARED = "squared"
# What a row with a list of labels has besides, from the engine: 1 for each element that the list names, 0 for the others.
MEMBERS = "members"


@frozen
class Precision:
    """A native floating-point type: its name, the widths of its parts, and its names in C."""

    name: str
    width: int
    mantissa: int
    bias: int
    c_name: str
    c_integer: str

    @property
    def f32(self):
        return self.width == 32


F32 = Precision("f32", 32, 23, 127, "float", "int32_t")
F64 = Precision("f64", 64, 52, 1023, "double", "int64_t")
PRECISIONS = (F32, F64)


@record
class Traced:
    """One variant of a formula, as a graph: its arrays in order, and the outputs by role."""

    name: str
    graph: Graph
    inputs: dict[str, Symbol]
    parameters: list[Symbol]
    outputs: dict[str, Symbol]
    # Of a row formula: the rows that a product with the Hessian takes, and the outputs that are numbers beside the value.
    directions: dict[str, Symbol] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    # Of an update rule: the sums over the tensor, by the roles of what is summed, or squared and summed.
    folds: dict[str, Symbol] = field(default_factory=dict)


def _ascii(name):
    """The name as linkers take it."""
    return "".join(c if c.isascii() else f"u{ord(c):x}" for c in name)


@record
class Formula:
    """A loss: `f(pred, target, *parameters)`, per element."""

    function: Callable
    domains: dict[str, object]
    reference: str = ""
    peers: dict[str, str] = field(default_factory=dict)
    differentiable: tuple[str, ...] = ()

    def __post_init__(self):
        code = self.function.__code__
        self.name = self.function.__name__ if self.function.__name__.isidentifier() else "formula"  # a lambda
        self.arguments = code.co_varnames[: code.co_argcount]
        self.line = code.co_firstlineno
        self.doc = self.function.__doc__ or ""
        unknown = set(self.domains) - set(self.arguments)
        if unknown:
            raise FormulaError(f"{self.name}: {sorted(unknown)} must be arguments of the formula {self.arguments}")
        self.parameters = {n: d for n, d in self.domains.items() if not self._is_input(n)}
        self.inputs = tuple(n for n in self.arguments if self._is_input(n))
        self.input_domains = {n: self.domains.get(n, Real()) for n in self.inputs}
        self.differentiable = self.differentiable or self.inputs[:1]

    def _is_input(self, name):
        domain = self.domains.get(name)
        return domain is None or not domain.is_parameter

    in_place = False
    has_kernels = True
    fold_level = ROW
    optional: ClassVar[tuple] = ()  # inputs that may be left out
    options: ClassVar[dict] = {}  # keywords of a call beside those of all losses, and their defaults

    @classmethod
    def define(cls, function, reference="", peers=None, differentiable=(), **domains):
        """The formula that a decorator's options describe."""
        return cls(function, domains, reference, peers or {}, tuple(differentiable))

    @property
    def module(self):
        """Where the function was defined; text that is run in a bare namespace has no module."""
        return self.function.__module__ or "__main__"

    @property
    def is_built_in(self):
        return self.module.startswith("fastloss.")

    @property
    def source(self):
        """The formula's module and line, as the emitted text names it."""
        return f"{self.module.replace('.', '/')}.py:{self.line}"

    def choice(self, values):
        """The choice of each hyperparameter that decides which kernel runs."""
        return tuple(domain.choice(values[name]) for name, domain in self.parameters.items())

    def choices(self):
        return itertools.product(*(domain.choices for domain in self.parameters.values()))

    def domains_given(self, values):
        """The domain of each input under these hyperparameters."""
        return {name: d.given(values) if isinstance(d, Interval) else d for name, d in self.input_domains.items()}

    def variant_name(self, choice):
        parts = [_ascii(self.name)]
        for name, value in zip(map(_ascii, self.parameters), choice, strict=True):
            if value is True:
                parts.append(name)
            elif value == "none":
                parts.append(f"{name}_none")
            elif value is not None and value is not False:
                parts.append(f"{name}_{value:g}".replace(".", "p").replace("-", "m"))
        return "__".join(parts)

    def slots(self):
        """The hyperparameters as the kernel's parameter vector holds them: (name, index within a tuple or None)."""
        for name, domain in self.parameters.items():
            if isinstance(domain, Each):
                yield from ((name, i) for i in range(len(domain.default)))
            else:
                yield name, None

    def vector(self, values):
        """The parameter vector (floats) for these values."""
        flat = (values[n] if i is None else values[n][i] for n, i in self.slots())
        return [float("nan") if v is None else float(v) for v in flat]

    def call_with_symbols(self, choice, absent=(), soft=()):
        """Call the function with symbols; returns the graph, the inputs, the parameters and what the function returned.

        Inputs in `soft` hold one number for each element, whatever their domain.
        """
        graph = Graph(fold_level=self.fold_level)
        arguments = {n: None if n in absent else self.input_symbol(graph, n) for n in self.inputs}
        arguments |= {n: graph.node("input", n) for n in soft}
        leaves = []
        for (name, domain), chosen in zip(self.parameters.items(), choice, strict=True):
            several = isinstance(domain, Each)
            names = [f"{name.rstrip('s')}{i + 1}" for i in range(len(domain.default))] if several else [name]
            symbols = [Parameter(graph, "parameter", (len(leaves) + i, n), "real") for i, n in enumerate(names)]
            leaves += symbols
            for symbol in symbols:
                symbol.special = getattr(getattr(domain, "domain", domain), "special", ())
            if chosen is None:
                arguments[name] = tuple(symbols) if several else symbols[0]
            else:
                arguments[name] = None if chosen == "none" else chosen
        inputs = {n: arguments[n] for n in self.inputs if n not in absent}
        with located(self.name):
            return graph, inputs, leaves, self.apply(arguments)

    def apply(self, arguments):
        """What the formula makes of its arguments."""
        return self.function(**arguments)

    def input_symbol(self, graph, name):
        return graph.node("input", name)

    def trace(self, choice):
        graph, inputs, leaves, value = self.call_with_symbols(choice)
        value = graph.literal(value)
        outputs = {"value": value}
        for name in self.differentiable:
            outputs[f"grad_{name}"] = derivative(value, inputs[name])
        for name in self.differentiable:
            outputs[f"hess_{name}"] = derivative(outputs[f"grad_{name}"], inputs[name])
        outputs = {role: guard_nan(node, inputs.values()) for role, node in outputs.items()}
        return Traced(self.variant_name(choice), graph, inputs, leaves, outputs)

    def passes(self, traced):
        """The kernels of a variant: a suffix, and the outputs in order."""
        return [(want, self.roles(want)) for want in WANTS]

    def roles(self, want):
        """What a pass returns, in order."""
        order = {"v": ("value",), "g": self._each("grad"), "h": self._each("hess")}
        return tuple(role for letter in want for role in order[letter])

    def _each(self, kind):
        return tuple(f"{kind}_{name}" for name in self.differentiable)


@record
class RowFormula(Formula):
    """A loss of whole rows: `f(*rows, *numbers of the row, *parameters)`, one number made of folds over the rows.

    An input whose domain is `Class` holds the row's label, one whose domain is `PerRow` a number of the row; all others hold rows.
    Beside `grad_x` and `hess_x`, for every element, stand `label_grad_x` and `label_hess_x`: what the label's element has besides.
    With `curvature` there is `hvp_x` too, the Hessian of the first differentiable input times the row `vector`. The function may
    return, beside the value, other numbers of the row by name, to be had on request.
    """

    curvature: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.label = next((name for name, domain in self.input_domains.items() if isinstance(domain, Class)), None)
        self.optional = tuple(name for name, domain in self.input_domains.items() if isinstance(domain, ClassWeight))
        self.is_soft = self.label is not None and self.input_domains[self.label].or_probabilities
        # What a variant is made for beside its hyperparameters: optional inputs, probabilities in the place of a label.
        self.flags = (*self.optional, PROBABILITIES) if self.is_soft else self.optional
        # A gradient needs what the value needs.
        self.wants = ("v", "vg", "vgh", "p") if self.curvature else ("v", "vg", "vgh")
        self.has_lists = isinstance(self.input_domains.get(self.label), Classes)
        self.options = {"axis": -1, "ignore_index": -100} if self.label and not self.has_lists else {"axis": -1}
        for name in self.differentiable:
            if isinstance(self.input_domains[name], Class | ClassWeight | PerRow):
                raise FormulaError(f"{self.name}: {name} must hold rows to be differentiable")

    @classmethod
    def define(cls, function, reference="", peers=None, differentiable=(), curvature=False, **domains):
        return cls(function, domains, reference, peers or {}, tuple(differentiable), curvature)

    def input_symbol(self, graph, name):
        domain = self.input_domains[name]
        if isinstance(domain, Class):
            if self.has_lists:
                graph.members = graph.node("input", MEMBERS)
            return graph.node("input", name, kind=INT, level=ROW)
        return graph.node("input", name, level=ROW if isinstance(domain, PerRow) else None)

    def choices(self):
        """As for every formula, and each of the flags."""
        there = itertools.product((False, True), repeat=len(self.flags))
        return ((*choice, *flags) for choice, flags in itertools.product(super().choices(), list(there)))

    def choice(self, values, there=()):
        return (*super().choice(values), *(name in there for name in self.flags))

    def variant_name(self, choice):
        count = len(self.parameters)
        there = [name for name, flag in zip(self.flags, choice[count:], strict=True) if flag]
        return "__".join([super().variant_name(choice[:count]), *there])

    def trace(self, choice):
        count = len(self.parameters)
        there = dict(zip(self.flags, choice[count:], strict=True))
        absent = [name for name in self.optional if not there[name]]
        soft = [self.label] if there.get(PROBABILITIES) else []
        graph, inputs, leaves, value = self.call_with_symbols(choice[:count], absent, soft)
        if self.has_lists:
            inputs[MEMBERS] = graph.members
        value, others = value if isinstance(value, tuple) else (value, {})
        outputs = {"value": value, **others}
        for condition in graph.needs:
            outputs["value"] = select(condition, outputs["value"], float("nan"))
        if graph.left_out is not None:
            outputs["value"] = select(graph.left_out, 0, outputs["value"])
        label = None if soft else inputs.get(self.label)
        for name in self.differentiable:
            first, second = row_derivatives(value, inputs[name], label)
            outputs[f"grad_{name}"], outputs[f"label_grad_{name}"] = first
            outputs[f"hess_{name}"], outputs[f"label_hess_{name}"] = second
        directions = {}
        if self.curvature:
            name = self.differentiable[0]
            directions["vector"] = graph.node("input", "vector")
            first = outputs[f"grad_{name}"], outputs[f"label_grad_{name}"]
            outputs[f"hvp_{name}"], outputs[f"label_hvp_{name}"] = row_tangent(first, inputs[name], directions["vector"], label)
        own = (self.label, MEMBERS, *self.optional)
        sources = [symbol for name, symbol in inputs.items() if name not in own]
        for role, node in outputs.items():
            if role.startswith(ALONG) and not all(carries_nan(node, source) for source in sources):
                outputs[role] = select(outputs["value"] == outputs["value"], node, outputs["value"])
            if graph.left_out is not None and role.startswith((*ALONG, "label_")):
                outputs[role] = select(graph.left_out, 0, outputs[role])
        return Traced(self.variant_name(choice), graph, inputs, leaves, outputs, directions, tuple(others))

    def roles(self, want):
        """What a pass returns: the results along the row, and every number of it."""
        if want == "p":
            return tuple(f"{prefix}hvp_{self.differentiable[0]}" for prefix in ("", "label_"))
        return (*super().roles(want), *self.others)

    @lazy
    def others(self):
        """The names of the numbers that the formula returns beside the value."""
        return self.trace(next(iter(self.choices()))).others

    def _each(self, kind):
        return tuple(f"{prefix}{kind}_{name}" for prefix in ("", "label_") for name in self.differentiable)


@record
class UpdateRule(Formula):
    """An optimizer's rule: `f(param, grad, *state, step, *parameters) -> (new param, *new state)`, per element.

    A state that the function returns as None is not held in that variant. `step` counts from 1. `requires` holds pairs of a
    predicate on all hyperparameters and what to say where it fails. `decay` is seen to before the rule: the function is handed
    a gradient with the decay in it, or a parameter that has shrunk. What ascends instead is handed the negative gradient.
    `carried` holds numbers of the whole group that no step count gives, such as a product over all steps: what they are before the
    first step, and a function of the number so far, of `step` and of all hyperparameters and carried numbers, by name.
    `abilities` names what its optimizer can do beside a step: classes of `fastloss.api.methods`.

    The function may use the length of its tensor and sums over it (`length`, `total`, `mean`, `dot`, `norm2` of rows.py), of
    elements that no other sum is in: these are computed before the step, of all that it sees.
    """

    requires: tuple = ()
    decay: WeightDecay | None = None
    carried: dict = field(default_factory=dict)
    abilities: tuple = ()

    def __post_init__(self):
        self.domains |= {name: Real(first) for name, (first, _) in self.carried.items()}
        super().__post_init__()
        self.inputs = tuple(n for n in self.inputs if n != "step")
        self.states = self.inputs[2:]
        # Those that a step fills in come first.
        self.parameters = {"step": Real(1.0), **{name: self.parameters[name] for name in self.carried}} | self.parameters
        if self.decay is not None:
            self.parameters["weight_decay"] = self.decay
            if self.decay.decoupled is None:
                self.parameters["decoupled_weight_decay"] = Flag(False)
        # Of an optimizer's call: the kernel's parameters but for what a step fills in, and the direction.
        filled_in = {"step", *self.carried}
        self.hyperparameters = {n: d for n, d in self.parameters.items() if n not in filled_in} | {"maximize": Flag(False)}
        self._states_of = {}

    def carry(self, carried, step, hyperparameters):
        """The carried numbers of a step, made of those of the one before."""
        return {name: following(step=step, **{**hyperparameters, **carried}) for name, (_, following) in self.carried.items()}

    def apply(self, arguments):
        if "step" not in self.arguments:
            del arguments["step"]
        if self.decay is not None:
            param, weight_decay = arguments["param"], arguments.pop("weight_decay")
            if arguments.pop("decoupled_weight_decay", self.decay.decoupled):
                # Not param * (1 - lr * weight_decay): in float32 that factor would be rounded to a decay 18 % off at lr = 1e-5.
                arguments["param"] = param - (arguments["lr"] * weight_decay) * param
            else:
                arguments["grad"] = arguments["grad"] + weight_decay * param
        return super().apply(arguments)

    in_place = True
    fold_level = CALL  # a kernel sees one tensor

    def passes(self, traced):
        passes = {"step": [role for role in traced.outputs if role not in traced.folds], "fold": list(traced.folds)}
        return [(suffix, roles) for suffix, roles in passes.items() if roles]

    def layout(self, traced):
        """What the engine is told of a variant that looks at its tensor as a whole; None of the others.

        Where among the parameters the length stands, the sums after it; for each of these whether it is of squares; which arrays
        they are made of.
        """
        nodes = walk(traced.outputs.values())
        if not traced.folds and all(node.op != "length" for node in nodes):
            return None
        summed = {id(node) for node in walk([traced.outputs[role] for role in traced.folds])}
        reads = [k for k, symbol in enumerate(traced.inputs.values()) if id(symbol) in summed]
        squares = [role.startswith(SQUARED) for role in traced.folds]
        return {"length": len(traced.parameters), "squares": squares, "reads": reads}

    @classmethod
    def define(cls, function, requires=(), weight_decay=None, carried=None, abilities=(), reference="", peers=None, **domains):
        """The rule that a decorator's options describe; `weight_decay` is a `Decay`, or an argument of the function like any other."""
        if weight_decay is not None and not isinstance(weight_decay, WeightDecay):
            domains["weight_decay"], weight_decay = weight_decay, None
        return cls(
            function,
            domains,
            reference,
            peers or {},
            requires=tuple(requires),
            decay=weight_decay,
            carried=carried or {},
            abilities=tuple(abilities),
        )

    def states_of(self, choice):
        """The names of the states that this variant holds."""
        if choice not in self._states_of:
            self._states_of[choice] = [name for name in self.trace(choice).inputs if name in self.states]
        return self._states_of[choice]

    def trace(self, choice):
        graph, inputs, leaves, new = self.call_with_symbols(choice)
        names = ("param", *self.states)
        outputs = {n: graph.literal(s) for n, s in zip(names, new, strict=True) if s is not None}
        inputs = {n: s for n, s in inputs.items() if n == "grad" or n in outputs}
        folds = {}
        for k, fold in enumerate(self._folds(outputs.values())):
            # Squares are for whoever sums, in double: those of a norm may be beyond float32.
            summed, is_square = fold.args[0], fold.args[0].op == "mul" and fold.args[0].args[0] is fold.args[0].args[1]
            role = f"{SQUARED if is_square else 'summed'}_{k}"
            outputs[role], folds[role] = summed.args[0] if is_square else summed, fold
        return Traced(self.variant_name(choice), graph, inputs, leaves, outputs, folds=folds)

    def _folds(self, outputs):
        """The sums over the tensor that the outputs use."""
        folds = [node for node in walk(outputs) if node.op in FOLDS or node.op in RUNS]
        for fold in folds:
            if fold.op != "total":
                raise FormulaError(f"{self.name}: an update rule must fold its tensor by total alone, got {fold.op}")
            if any(node.op == "total" for node in walk([fold.args[0]])):
                raise FormulaError(
                    f"{self.name}: what an update rule sums over its tensor must use no other such sum, got {fold!r}"
                )
        return folds


@frozen
class VectorFunction:
    """A function of fastloss.vecmath: traced once per precision."""

    function: Callable

    @property
    def name(self):
        return self.function.__name__

    @property
    def source(self):
        return f"{self.function.__module__.replace('.', '/')}.py:{self.function.__code__.co_firstlineno}"

    def trace(self, precision):
        graph = Graph(reassociate=False)
        names = self.function.__code__.co_varnames[: self.function.__code__.co_argcount - 1]
        inputs = {n: graph.node("input", n) for n in names}
        result = graph.literal(self.function(*inputs.values(), precision))
        return Traced(f"{self.name}_{precision.name}", graph, inputs, [], {"result": result})


VECTOR_FUNCTIONS: dict[str, VectorFunction] = {}


def vector_function(function):
    """Enter a function `f(*x, real)` into fastloss.vecmath; calling it from another one emits an inlined call."""
    definition = VectorFunction(function)
    VECTOR_FUNCTIONS[definition.name] = definition

    def call(*args):
        graph = next(a.graph for a in args if isinstance(a, Symbol))
        return graph.node(definition.name, *map(graph.literal, args))

    return call
