"""Formulas of rows that meet arrays which all rows share: a layer's weights before a row loss, or centers.

Such a loss is no formula of one row: the gradient of what is shared is a sum over all rows. So no kernel is derived from it; it
is computed block by block by hand-written code (`fastloss/_kernels/linear.py`, `centers.py`) around a row loss whose kernels are.
"""

from dataclasses import dataclass

from .definition import Formula
from .domains import Class, Shaped


@dataclass
class BlockFormula(Formula):
    """A row loss of what rows and shared arrays give: `f(x, *shared, **options)`, every row's loss.

    The function is the definition, for arrays that NumPy's operators take: what the blocks must come to. Its hyperparameters and
    optional inputs are those of `rows`, the row loss (while the build runs, its bare formula).
    """

    rows: object = None

    loss_class = "BlockLoss"

    def __post_init__(self):
        super().__post_init__()
        rows = getattr(self.rows, "formula", self.rows)
        known = rows.input_domains | self.domains
        # What the row loss is given as it is, with its hyperparameters.
        self.row_inputs = rows.optional
        self.input_domains = {name: known[name] for name in (*self.inputs, *rows.optional)}
        self.inputs = tuple(self.input_domains)
        self.parameters = rows.parameters
        shaped = {name: domain for name, domain in self.input_domains.items() if isinstance(domain, Shaped)}
        self.shared = tuple(shaped)[1:]
        self.optional = (*(name for name, domain in shaped.items() if domain.is_optional), *rows.optional)
        self.label = rows.label or next((n for n, domain in self.input_domains.items() if isinstance(domain, Class)), None)
        self.is_soft = rows.is_soft
        self.options = {"ignore_index": -100} if self.label else {}

    @classmethod
    def define(cls, function, rows, reference="", peers=None, differentiable=(), **domains):
        return cls(function, domains, reference, peers or {}, tuple(differentiable), rows)


class NearestCenterFormula(BlockFormula):
    """One whose rows belong to the nearest of the shared rows: its loss can say to which."""

    loss_class = "NearestCenterLoss"
