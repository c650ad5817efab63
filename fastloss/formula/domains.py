"""Domains: what a parameter or an input may be, as data. They check, they generate test inputs, they print docs.

A domain with a default describes a hyperparameter, one without describes an input array.
"""

import math
import operator

from .record import frozen

# What users may write in a decorator.
__all__ = [
    "Class",
    "ClassWeight",
    "Classes",
    "Decay",
    "Each",
    "Flag",
    "Fraction",
    "Interval",
    "Label",
    "NonNegative",
    "Optional",
    "PerRow",
    "Positive",
    "Real",
]


@frozen
class Interval:
    """The real numbers from `low` to `high`.

    `special` values of a hyperparameter get kernels of their own, in which the formula sees them as plain numbers. An input that
    is not `checked` usually lies in the interval, but the formula means something beyond it.
    """

    low: float = -math.inf
    high: float = math.inf
    default: float | None = None
    open_low: bool = False
    open_high: bool = False
    special: tuple[float, ...] = ()
    checked: bool = True
    # Narrower domains of an input: (hyperparameter, its values, domain); see `when`.
    cases: tuple = ()

    def when(self, parameter, values, domain):
        """This domain of an input, but `domain` where the hyperparameter lies in `values`: an Interval, or True or False."""
        fields = {name: getattr(self, name) for name in self._fields}
        return type(self)(**fields | {"cases": (*self.cases, (parameter, values, domain))})

    def given(self, parameters):
        """The domain of an input under these hyperparameters."""
        for name, values, domain in self.cases:
            value = parameters[name]
            if value is values if isinstance(values, bool) else values.contains(value):
                return domain
        return self

    def contains(self, value):
        """Whether the number lies in the interval."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self):
        if self.low == -math.inf and self.high == math.inf:
            return "a real number"
        left, right = "(["[not self.open_low], ")]"[not self.open_high]
        if self.high == math.inf:
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        if self.low == -math.inf:
            return f"{'<' if self.open_high else '<='} {self.high:g}"
        return f"in {left}{self.low:g}, {self.high:g}{right}"

    @property
    def is_parameter(self):
        return self.default is not None

    @property
    def is_checked(self):
        return self.checked and (self.low > -math.inf or self.high < math.inf)

    @property
    def choices(self):
        """The values that change the kernel: each special one, and None for all others."""
        return (*map(float, self.special), None)

    def choice(self, value):
        """Which of `choices` the value takes: the kernel that serves it."""
        return value if value in self.special else None

    def check(self, who, name, value):
        """The value as a float; ValueError or TypeError in the house's shape."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_scalar = getattr(value, "shape", None) == () and value.dtype.kind in "fiu"  # NumPy's scalars and 0-d arrays
        if not is_number and not is_scalar:
            raise TypeError(f"{who}: {name} must be a number {self._phrase()}, got {value!r}")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{who}: {name} must be {self}, got a whole number beyond all floats") from None
        if not self.contains(value):
            raise ValueError(f"{who}: {name} must be {self}, got {value:g}")
        return value

    def _phrase(self):
        return "" if str(self) == "a real number" else str(self)


def Real(default: float | None = None, special: tuple[float, ...] = ()) -> Interval:
    """Any finite number."""
    return Interval(default=default, open_low=True, open_high=True, special=special)


def Positive(default: float | None = None, special: tuple[float, ...] = ()) -> Interval:
    """A finite number above zero."""
    return Interval(0.0, math.inf, default, open_low=True, open_high=True, special=special)


def NonNegative(default: float | None = None, special: tuple[float, ...] = ()) -> Interval:
    """A finite number, zero or above."""
    return Interval(0.0, math.inf, default, open_high=True, special=special)


def Fraction(
    default: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    special: tuple[float, ...] = (),
    checked: bool = True,
) -> Interval:
    """A number from zero to one."""
    return Interval(0.0, 1.0, default, open_low, open_high, special, checked)


@frozen
class Whole:
    """The whole numbers from `low` to 2**53: beyond that not every one is a double, and the optimizers count no further."""

    low: int = 0

    def __str__(self):
        return f"a whole number from {self.low} to 2**53"

    def check(self, who, name, value):
        """The value as the kernels take it; ValueError or TypeError in the house's shape."""
        try:
            number = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = None
        if number is None:
            raise TypeError(f"{who}: {name} must be {self}, got {value!r}")
        if not self.low <= number <= 2**53:
            raise ValueError(f"{who}: {name} must be {self}, got {number}")
        return number


@frozen
class WeightDecay(Interval):
    """How fast parameters shrink: `Decay`."""

    decoupled: bool | None = False


def Decay(default: float = 0.0, decoupled: bool | None = False) -> WeightDecay:
    """Weight decay, seen to around an update rule: added to the gradient, or `decoupled` from it, a part of the parameter itself.

    Where `decoupled` is None the optimizer has a flag `decoupled_weight_decay`.
    """
    return WeightDecay(0.0, math.inf, default, open_high=True, decoupled=decoupled)


@frozen
class Label:
    """A binary label: above zero is the positive class, anything else the negative one."""

    is_parameter = False
    is_checked = False

    def __str__(self):
        return "a label, positive class > 0 (so -1/+1 and 0/1 mean the same)"


@frozen
class Class:
    """The class of a row: which of its elements the label names, or which of `of` that all rows share.

    With `or_probabilities` an input may hold a probability for each element instead.
    """

    of: str = "classes"
    or_probabilities: bool = False

    is_parameter = False
    is_checked = True

    def __str__(self):
        return f"a whole number from 0 to the number of {self.of} less one"


@frozen
class Classes(Class):
    """A row's list of its classes, ended by -1: what the formula gives for one of them is summed over the list."""

    def __str__(self):
        return f"whole numbers from 0 to the number of {self.of} less one, ended by -1"


@frozen
class ClassWeight:
    """An input that may be left out: a weight for each class, the same for all rows."""

    is_parameter = False
    is_checked = False

    def __str__(self):
        return "None or a weight for each class, finite and not negative"


@frozen
class PerRow:
    """An input that holds one number for a whole row."""

    domain: Interval | Label

    is_parameter = False

    @property
    def is_checked(self):
        return self.domain.is_checked

    def __str__(self):
        return f"{self.domain}, one for each row"


@frozen
class Shaped:
    """An input of a shape of its own: a name for each dimension, "..." for any number of them; of one name is one length."""

    dimensions: tuple[str, ...]
    is_optional: bool = False
    is_finite: bool = False  # anything else is an error

    is_parameter = False
    is_checked = False

    def __str__(self):
        return f"of shape {_shape_text(self.dimensions)}{', finite' * self.is_finite}"

    def check_shape(self, who, name, shape, lengths):
        """ValueError unless the shape agrees with the lengths known by name, to which it adds its own; none may be 0."""
        own = [dimension for dimension in self.dimensions if dimension != "..."]
        last = shape[max(0, len(shape) - len(own)) :]
        fits = len(last) == len(own) and (len(own) < len(self.dimensions) or len(shape) == len(own))
        if not fits or any(lengths.get(*pair) != pair[1] for pair in zip(own, last, strict=True)):
            expected = _shape_text([str(lengths.get(dimension, dimension)) for dimension in self.dimensions])
            raise ValueError(f"{who}: {name} must have shape {expected}, got {shape}")
        if 0 in last:
            raise ValueError(f"{who}: {name} must have at least one of its {own[last.index(0)]}, got shape {shape}")
        lengths.update(zip(own, last, strict=True))


def _shape_text(dimensions):
    return f"({', '.join(dimensions)}{',' * (len(dimensions) == 1)})"


@frozen
class Flag:
    """A switch; each setting has a kernel of its own."""

    default: bool

    is_parameter = True
    choices = (False, True)

    def __str__(self):
        return "True or False"

    def choice(self, value):
        """Which of `choices` the value takes: the kernel that serves it."""
        return value

    def check(self, who, name, value):
        """The value as the kernels take it; ValueError or TypeError in the house's shape."""
        if getattr(value, "shape", ()) != () or value not in (True, False):
            raise TypeError(f"{who}: {name} must be True or False, got {value!r}")
        return bool(value)


@frozen
class Optional:
    """A parameter that may be None; without it the formula has a kernel of its own."""

    domain: Interval

    is_parameter = True
    default = None

    def __str__(self):
        return f"None or {self.domain}"

    @property
    def choices(self):
        return ("none", *self.domain.choices)

    def choice(self, value):
        """Which of `choices` the value takes: the kernel that serves it."""
        return "none" if value is None else self.domain.choice(value)

    def check(self, who, name, value):
        """The value as the kernels take it; ValueError or TypeError in the house's shape."""
        return None if value is None else self.domain.check(who, name, value)


@frozen
class Each:
    """A tuple of numbers of one domain, such as Adam's `betas`."""

    domain: Interval
    default: tuple[float, ...]

    is_parameter = True
    choices = (None,)

    def __str__(self):
        return f"{len(self.default)} numbers, each {self.domain}"

    def choice(self, value):
        """Which of `choices` the value takes: the kernel that serves it."""
        return None

    def check(self, who, name, value):
        """The value as the kernels take it; ValueError or TypeError in the house's shape."""
        if not isinstance(value, tuple | list) or len(value) != len(self.default):
            raise TypeError(f"{who}: {name} must be {self}, got {value!r}")
        return tuple(self.domain.check(who, f"{name}[{i}]", v) for i, v in enumerate(value))
