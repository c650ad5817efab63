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
        reduction: Any,
        normalizer: Any,
        value_out: Any,
        grad_out: Any,
        hess_out: Any,
        check: bool,
    ) -> tuple[Any, ...]: ...

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
        reduction: Any,
        normalizer: Any,
        value_out: Any,
        grad_out: Any,
        hess_out: Any,
        check: bool,
        others: tuple[str, ...] = (),
    ) -> tuple[Any, ...]: ...

class StepOptions:
    grad_scale: float
    max_norm: float
    clip_value: float
    measures: bool
    skips: bool
    row_lr: Any
    row_mask: Any
    counts: list[tuple[Any, str, Any]]
    step: int | None
    grads: list[Any]
    sparse: dict[int, Any] | None
    variants: list[Any]
    vectors: list[list[float]]
    signs: list[float]
    ema_weight: float
    result: Any
    usual: Any
    unusual: Any
    def __init__(self, *counts: tuple[Any, str, Any]) -> None: ...

class RuleVariant:
    def __init__(self, name: str, library: Library | None = ..., lr_slot: int = ...) -> None: ...

class Sweep:
    def __init__(self, who: str, tensors: list[tuple[int, str, Any, list[Any], dict[str, Any]]]) -> None: ...
    def step(self, args: StepOptions) -> Any: ...

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
