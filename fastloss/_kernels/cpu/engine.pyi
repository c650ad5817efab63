"""What the engine offers to the modules above it."""

from typing import Any, Protocol

SUPPORTED: str
ISA: str

class Library(Protocol):
    """Where kernels come from: built in, or compiled at run time."""

    def address(self, name: str) -> int: ...
    def cost(self, name: str) -> int: ...
    def layout(self, name: str) -> dict[str, Any]: ...

class Plan:
    def __init__(
        self,
        who: str,
        variant: str,
        inputs: tuple[str, ...],
        domains: tuple[Any, ...],
        gradient_of: tuple[str, ...],
        vector: list[float],
        library: Library | None = ...,
    ) -> None: ...
    def evaluate(
        self,
        want: int,
        inputs: tuple[Any, ...],
        sample_weight: Any,
        reduction: str,
        normalizer: Any,
        value_out: Any,
        grad_out: Any,
        hess_out: Any,
        check: bool,
    ) -> tuple[Any, Any, Any]: ...

class RowPlan:
    def __init__(
        self,
        who: str,
        variant: str,
        inputs: tuple[str, ...],
        kinds: tuple[str, ...],
        domains: tuple[Any, ...],
        differentiable: tuple[str, ...],
        vector: list[float],
        axis: int,
        ignore_index: int,
        library: Library | None = ...,
    ) -> None: ...
    def evaluate(
        self,
        want: int,
        inputs: tuple[Any, ...],
        sample_weight: Any,
        reduction: str,
        normalizer: Any,
        value_out: Any,
        grad_out: Any,
        hess_out: Any,
        check: bool,
        others: tuple[str, ...] = (),
    ) -> tuple[Any, ...]: ...

class RuleVariant:
    def __init__(self, name: str, library: Library | None = ...) -> None: ...

class Sweep:
    def __init__(self, who: str, tensors: list[tuple[int, str, Any, list[Any], dict[str, Any]]]) -> None: ...
    def step(
        self,
        variants: list[RuleVariant],
        vectors: list[list[float]],
        grads: list[Any],
        factors: list[float],
        limit: float,
        max_norm: float,
        measures: bool,
        skips: bool,
        approach: float,
        step: int,
        sparse: dict[int, Any] | None,
        row_lr: Any,
        lr_slot: int,
        row_mask: Any,
    ) -> tuple[float, bool]: ...

def add_rows(sums: Any, labels: Any, rows: Any) -> None: ...
def nearest(products: Any, halves: Any, margins: Any, labels: Any, doubtful: Any) -> None: ...
def apply(name: str, *inputs: Any) -> Any: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def limit_threads(limit: int, by: int) -> None: ...
def available_cores() -> int: ...
def along(
    plan: Plan,
    inputs: tuple[Any, ...],
    direction: Any,
    step: float,
    sample_weight: Any,
    reduction: str,
    normalizer: Any,
    check: bool,
) -> tuple[float, float, float]: ...
def c_table(find_plan: Any) -> tuple[Any, int]: ...
def c_callable(plan: Plan) -> tuple[Any, Any]: ...
