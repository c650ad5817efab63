"""Pair formulas: how similar a row is to each of the columns that all rows share, and a row formula of one row of similarities.

The row formula is like any other: its kernels and its gradient with respect to the similarities are derived. What a similarity
passes on to the rows and to the columns is a product of matrices, which the engines compute block by block; no kernel is derived
for that. Beside labels, numbers per row and class weights, the row formula may have inputs that the engines make for each block:
`Same`, `Own` and `ColumnIndex`.
"""

import functools

from .definition import Formula, RowFormula
from .domains import Class, ClassWeight, PerRow, Real, Shaped
from .graph import FormulaError
from .primitives import maximum
from .record import frozen, record
from .rows import dot, norm2, total

# The least length that a row is divided by.
LEAST_LENGTH = 1e-8


def cosine(row, column):
    """The cosine of the angle between two rows; a length below 1e-8 counts as that."""
    return dot(row, column) / (maximum(norm2(row), LEAST_LENGTH) * maximum(norm2(column), LEAST_LENGTH))


def squared_distance(row, column):
    """The squared Euclidean distance."""
    gap = row - column
    return total(gap * gap)


def distance(row, column):
    """The Euclidean distance; its derivative at 0 is 0."""
    return norm2(row - column)


# Those that the engines have a product of matrices for.
SIMILARITIES = ("dot", "cosine", "squared_distance", "distance")


@frozen
class Group:
    """An input of whole numbers, one for each row or each column: what belongs together has the same one."""

    of: str

    is_parameter = False
    is_checked = False

    def __str__(self):
        return f"a whole number for each {self.of}"


@frozen
class Structural:
    """An input of the row formula that the engine makes, one number for each column: abstract."""

    is_parameter = False
    is_checked = False
    inputs = ()


@frozen
class Same(Structural):
    """1 for each column of the row's group, 0 for the others; the inputs `rows` and `columns` hold the groups."""

    rows: str
    columns: str

    @property
    def inputs(self):
        """The inputs that it is made of: (name, what one number is for)."""
        return (self.rows, "row"), (self.columns, "column")


@frozen
class Own(Structural):
    """1 for the column of the row's own number, 0 for the others: the row itself, where columns and rows are the same."""


@frozen
class ColumnIndex(Structural):
    """The column's number, from 0."""


@frozen
class RowIndex(Structural):
    """The row's own number, from 0."""


@frozen
class Nearest(Class):
    """The number of the column at the least distance, the first of equally near ones: a label that the engine finds."""


def _for_rows(domain):
    """The domain of a row formula's input, to which it makes no difference that the engine fills it in."""
    if isinstance(domain, Nearest):
        return Class(domain.of)
    return PerRow(Real()) if isinstance(domain, RowIndex) else domain


@record
class PairFormula(Formula):
    """A row formula of a row of similarities: `f(similarities, *inputs of the row, *parameters)`.

    `similarity` is a function of two rows, or the row loss whose kernels compute it. `own` are the domains of the arrays that it
    compares: the rows, the columns, and a bias for each column, to be added. With `rows` the row formula is that of an existing row
    loss, whose kernels serve, and the function only documents it.
    """

    similarity: object = None
    own: object = None
    rows: object = None

    has_kernels = False

    def __post_init__(self):
        code = self.function.__code__
        self.name, self.line, self.doc = self.function.__name__, code.co_firstlineno, self.function.__doc__ or ""
        # While the build runs, a loss is its bare formula.
        self.similarity, rows = (getattr(given, "formula", given) for given in (self.similarity, self.rows))
        self.similarity_name = getattr(self.similarity, "name", None) or self.similarity.__name__
        if self.similarity_name not in SIMILARITIES:
            known = ", ".join(SIMILARITIES)
            raise FormulaError(f"{self.name}: similarity must be among {known}, got {self.similarity_name}")
        if rows is None:
            rows = RowFormula.define(self.function, **{n: _for_rows(domain) for n, domain in self.domains.items()})
        self.rows = rows
        self.arguments = (*self.own, *self.rows.arguments[1:])
        self.parameters = self.rows.parameters
        self.shared = tuple(self.own)[1:]
        self.differentiable = tuple(self.own)
        self._sort_inputs()

    def _sort_inputs(self):
        """The public inputs: those that must be there, then the optional ones."""
        rows, given = self.rows, {}
        self.structure, row_inputs = {}, []
        for name, domain in (rows.input_domains | self.domains).items():
            if name in rows.parameters:
                continue
            if isinstance(domain, Structural):
                self.structure[name] = domain
                given |= {each: Group(of) for each, of in domain.inputs}
            elif not isinstance(domain, Nearest) and name != rows.inputs[0]:
                given[name] = domain
                row_inputs.append(name)
        known = self.own | given
        left_out = {name for name, domain in self.own.items() if domain.is_optional} | set(rows.optional)
        self.optional = tuple(name for name in known if name in left_out)
        self.inputs = (*(name for name in known if name not in left_out), *self.optional)
        self.input_domains = {name: known[name] for name in self.inputs}
        # What the row formula is given as it is, in its order.
        self.row_inputs = tuple(row_inputs)
        self.label = rows.label if rows.label in given else None
        self.is_soft = rows.is_soft and self.label is not None
        # One number for each column, the same for all rows.
        self.column_weight = next((name for name in row_inputs if isinstance(given[name], ClassWeight)), None)
        self.options = {"ignore_index": -100} if self.label else {}

    @functools.cached_property
    def picks(self):
        """The label whose similarity is the loss, where the row formula is nothing else: then no other one is needed. Or None."""
        label = self.rows.label
        if label is None or self.parameters or self.structure:
            return None
        _, inputs, _, value = self.rows.call_with_symbols((), absent=self.rows.optional)
        is_pick = getattr(value, "op", None) == "pick" and value.args == (inputs[self.rows.inputs[0]], inputs[label])
        if self.finds_nearest and not (is_pick and self.similarity_name == "squared_distance"):
            raise FormulaError(f"{self.name}: the nearest column must be picked by its squared distance, and nothing else")
        return label if is_pick else None

    @functools.cached_property
    def kernels(self):
        """The row formula whose kernels run: of the row of similarities, or of a row and the column that it picks."""
        if self.picks is None:
            return self.rows
        if isinstance(self.similarity, RowFormula):
            return self.similarity
        names = self.similarity.__code__.co_varnames[: self.similarity.__code__.co_argcount]
        return RowFormula.define(self.similarity, differentiable=names)

    @property
    def finds_nearest(self):
        """Whether the rows belong to their nearest columns: then the loss can say to which."""
        return any(isinstance(domain, Nearest) for domain in self.domains.values())

    @property
    def loss_class(self):
        return "NearestCenterLoss" if self.finds_nearest else "BlockLoss"

    @classmethod
    def define(cls, function, similarity, rows=None, reference="", peers=None, **domains):
        """The formula that a decorator's options describe; domains of no argument of the function are those of what is compared."""
        code = function.__code__
        arguments = code.co_varnames[: code.co_argcount]
        own = [(name, domain) for name, domain in domains.items() if isinstance(domain, Shaped)]
        own = dict(sorted(own, key=lambda item: ("..." not in item[1].dimensions, -len(item[1].dimensions))))
        if not 2 <= len(own) <= 3:
            raise FormulaError(
                f"{function.__name__}: rows, columns and perhaps a bias must have shapes, got {', '.join(own) or 'none'}"
            )
        unknown = sorted(set(domains) - set(own) - set(arguments))
        if unknown:
            raise FormulaError(f"{function.__name__}: {unknown} must be arguments of the formula {arguments}")
        others = {name: domain for name, domain in domains.items() if name not in own}
        return cls(function, others, reference, peers or {}, similarity=similarity, own=own, rows=rows)
