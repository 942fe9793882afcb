"""Typed: plain JSON values into frozen dataclasses, driven by their annotations, collecting every problem."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hwfit.errors import HwfitError, nearest
from hwfit.files import is_number
from hwfit.subnet import Subnet

Positive = Annotated[float, "above 0"]


def decode(kind: Any, raw: object, where: str, problems: list[str]) -> Any:
    """`raw` as a `kind`: a dataclass, `Subnet`, scalar, Literal, `X | None`, `tuple[X, ...]`, `list[X]` or
    `dict[str, X]`.

    Fields a dataclass does not have are ignored. What does not fit is appended to `problems`, each line starting
    with `where`, and comes back as None; so the result is of use only if `problems` stays empty.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Subnet:
        return _subnet(raw, where, problems)
    if is_dataclass(kind):
        return _dataclass(kind, raw, where, problems)
    if origin is Annotated:
        value = _scalar(raw, where, problems, *_NUMBERS[args[1]])
        return math.nan if value is None else value
    if origin in (Union, types.UnionType):
        inner = next(a for a in args if a is not types.NoneType)
        return None if raw is None else decode(inner, raw, where, problems)
    if origin is Literal:
        if raw not in args:
            problems.append(f"{where} is {raw!r}; {nearest(str(raw), args)}")
            return None
        return raw
    if origin in (tuple, list):
        if not isinstance(raw, list):
            return _scalar(raw, where, problems, "a list", lambda v: False)
        return origin(decode(args[0], item, f"{where}[{i}]", problems) for i, item in enumerate(raw))
    if origin is dict:
        if not isinstance(raw, dict):
            return _scalar(raw, where, problems, "an object", lambda v: False)
        return {str(key): decode(args[1], item, f"{where}.{key}", problems) for key, item in raw.items()}
    allowed, fits = _SCALARS[kind]
    return _scalar(raw, where, problems, allowed, fits)


_NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "above 0": ("a number above 0", lambda v: is_number(v) and v > 0),
    "or null": ("a finite number, or null where there is none", lambda v: v is None or is_number(v)),
}
"""What the annotation of a float says, in words and as a test; null comes back as NaN."""
_SCALARS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    float: ("a finite number", is_number),
    int: ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    str: ("a text", lambda v: isinstance(v, str)),
    bool: ("true or false", lambda v: isinstance(v, bool)),
    Any: ("anything", lambda v: True),
}


def _scalar(raw: object, where: str, problems: list[str], allowed: str, fits: Callable[[Any], bool]) -> Any:
    if fits(raw):
        return raw
    text = repr(raw)
    problems.append(f"{where} is {text if len(text) < 60 else text[:57] + '...'}; it must be {allowed}")
    return None


def _dataclass(kind: Any, raw: object, where: str, problems: list[str]) -> Any:
    if not isinstance(raw, dict):
        return _scalar(raw, where, problems, "an object", lambda v: False)
    hints, values, before = get_type_hints(kind, include_extras=True), {}, len(problems)
    for field in fields(kind):
        if field.name in raw:
            values[field.name] = decode(hints[field.name], raw[field.name], f"{where}.{field.name}", problems)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{where}.{field.name} is missing")
    return kind(**values) if len(problems) == before else None


def _subnet(raw: object, where: str, problems: list[str]) -> Subnet | None:
    try:
        return Subnet.from_json(json.dumps(raw), source=where)
    except HwfitError as error:
        problems += error.problems
        return None
