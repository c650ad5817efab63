"""Records: classes of annotated fields, as those of `dataclasses`, which compile source text for every class at import.

Here one `__init__` goes by a table of the fields: two thirds of the import's time less.
"""

import inspect
from collections.abc import Callable
from typing import Any, dataclass_transform

_REQUIRED = inspect.Parameter.empty


class _Made:
    """A default that is made anew for each record."""

    def __init__(self, make):
        self.make = make


def field(*, default_factory: Callable[[], Any]) -> Any:
    """A field whose default is made anew for each record."""
    return _Made(default_factory)


@dataclass_transform(field_specifiers=(field,))
def record(cls: type) -> Any:
    """A class of its annotated fields."""
    own = {name: vars(cls).get(name, _REQUIRED) for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)}
    cls._fields = {**getattr(cls, "_fields", {}), **own}  # type: ignore[attr-defined]
    cls.__init__ = _init  # type: ignore[misc]
    cls.__repr__ = _repr  # type: ignore[assignment]
    cls.__signature__ = _Signature()  # type: ignore[attr-defined]
    return cls


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type) -> Any:
    """A record that stays as it is, and is equal to another of the same fields."""
    cls = record(cls)
    cls.__eq__ = _eq  # type: ignore[assignment]
    cls.__hash__ = _hash  # type: ignore[assignment]
    cls.__setattr__ = cls.__delattr__ = _refuse  # type: ignore[assignment]
    return cls


class _Signature:
    """What `help` shows."""

    def __get__(self, instance, cls):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = ((n, d.make() if isinstance(d, _Made) else d) for n, d in cls._fields.items())
        return inspect.Signature([inspect.Parameter(name, kind, default=default) for name, default in defaults])


def _init(self, *given, **named):
    fields = self._fields
    values = dict(zip(fields, given, strict=False))
    unknown = [name for name in named if name not in fields or name in values]
    if len(given) > len(fields) or unknown:
        what = repr(unknown[0]) if unknown else f"{len(given)} values"
        raise TypeError(f"{type(self).__name__}: arguments must be among {', '.join(fields)}, each once, got {what}")
    values |= named
    for name, default in fields.items():
        if name not in values:
            if default is _REQUIRED:
                raise TypeError(f"{type(self).__name__}: {name} must be given")
            values[name] = default.make() if isinstance(default, _Made) else default
    vars(self).update(values)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _values(self):
    return tuple(vars(self)[name] for name in self._fields)


def _eq(self, other):
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self):
    return hash(_values(self))


def _repr(self):
    return f"{type(self).__qualname__}({', '.join(f'{name}={vars(self)[name]!r}' for name in self._fields)})"


def _refuse(self, name, *value):
    raise AttributeError(f"{type(self).__name__}: {name} must stay as it is")
