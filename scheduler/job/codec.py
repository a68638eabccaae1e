"""Frozen dataclasses as JSON data and back, checked by their annotations.

Knows what job events and job states are made of: other dataclasses, enumerations, tuples, strings,
integers, floats, booleans, `| None`. JSON has no NaN and no infinity, so these are written as strings;
NaN is read as the one object `math.nan`, so that equal data compare equal. Fields that do not take part
in comparison are not written. What cannot be read raises FormatError.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from graphir.errors import FormatError

T = TypeVar("T")
Reader = Callable[[Any, str], Any]


def to_json(value: Any) -> Any:
    """The value as JSON data."""
    if is_dataclass(value):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value) if item.compare}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_json(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """The dataclass of this kind that `to_json` wrote; absent fields get their defaults."""
    hint: Any = kind
    value: T = _reader(hint)(data, where)
    return value


@cache
def _reader(hint: Any) -> Reader:
    if get_origin(hint) is UnionType:
        return _read_optional(hint)
    if get_origin(hint) is tuple:
        return _read_tuple(get_args(hint))
    if is_dataclass(hint):
        return _read_dataclass(hint)
    if issubclass(hint, Enum):
        return _read_enum(hint)
    return _read_float if hint is float else _read_exactly(hint)


def _read_dataclass(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    known = {item.name: (_reader(hints[item.name]), item) for item in fields(kind) if item.compare}
    required = [name for name, (_, item) in known.items() if _is_required(item)]

    def read(data: Any, where: str) -> Any:
        if not isinstance(data, Mapping):
            raise FormatError(f"{where} should be an object, not {data!r:.80}")
        for name in required:
            if name not in data:
                raise FormatError(f"{where} has no field {name!r}")
        for name in data:
            if name not in known:
                raise FormatError(f"{where} has unknown field {name!r:.80}; a newer release may have written it")
        return kind(**{name: known[name][0](value, f"{where}.{name}") for name, value in data.items()})

    return read


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _read_optional(hint: Any) -> Reader:
    (inner,) = (_reader(arm) for arm in get_args(hint) if arm is not NoneType)
    return lambda data, where: None if data is None else inner(data, where)


def _read_tuple(arms: tuple[Any, ...]) -> Reader:
    repeated = _reader(arms[0]) if arms[-1] is ... else None
    readers = [] if repeated else [_reader(arm) for arm in arms]

    def read(data: Any, where: str) -> Any:
        if not isinstance(data, list | tuple) or not (repeated or len(data) == len(readers)):
            raise FormatError(f"{where} should be a list, not {data!r:.80}")
        each = [repeated] * len(data) if repeated else readers
        return tuple(reader(item, where) for reader, item in zip(each, data, strict=True))

    return read


def _read_enum(kind: type[Enum]) -> Reader:
    def read(data: Any, where: str) -> Any:
        try:
            return kind(data)
        except ValueError:
            raise FormatError(f"{where} has unknown value {data!r:.80}") from None

    return read


def _read_float(data: Any, where: str) -> float:
    if isinstance(data, str) and data in {"nan", "inf", "-inf"}:
        return math.nan if data == "nan" else float(data)
    if not isinstance(data, int | float) or isinstance(data, bool):
        raise FormatError(f"{where} should be a number, not {data!r:.80}")
    return float(data)


def _read_exactly(kind: type) -> Reader:
    def read(data: Any, where: str) -> Any:
        if type(data) is not kind:
            raise FormatError(f"{where} should be {kind.__name__}, not {data!r:.80}")
        return data

    return read
