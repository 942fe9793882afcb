"""Mutations of a file: of its bytes, of the values it holds, and of what stands at its path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from benchmarks.fuzz.forms import Form

Put = bytes | Literal["folder", "missing"]
JUNK = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31, 2**63, 10**30, -(10**18), 0.5, 1e308, -1e-308),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "1",
        "w8a8",
        "w99",
        "fp8",
        "\ud800",
        "a\0b",
        "../../etc",
        "F32",
        "9" * 5000,
    ),
    *([], {}, [[]], [None], {"x": 1}, [1, 2, 3], ["w8a8"], [math.nan], [-1, 10**12]),
)


@dataclass(frozen=True)
class Case:
    """What stands at the path of `file`, and in words how it came about."""

    file: str
    put: Put
    how: str


@st.composite
def cases(draw: st.DrawFn, files: Mapping[str, tuple[bytes, Form]]) -> Case | None:
    """One damaged file of `files` (valid content and form, by name); None for values the form cannot write."""
    name = draw(st.sampled_from(sorted(files)))
    data, form = files[name]
    how = draw(st.sampled_from(("value", "value", "value", "bytes", "bytes", "extra", "whole")))
    if how == "value":
        value, told = draw(changed(form.decode(data)))
        try:
            return Case(name, form.encode(value), told)
        except Exception:  # whatever a writer of the form says of what cannot be written in it
            return None
    if how == "extra" and form.extras:
        return Case(name, draw(st.sampled_from(form.extras)), "an extra of its form")
    if how == "whole":
        put: Put = draw(st.one_of(st.sampled_from((b"", "folder", "missing")), st.binary(max_size=200)))
        return Case(name, put, put if isinstance(put, str) else "random bytes")
    return Case(name, *draw(damaged(data)))


@st.composite
def changed(draw: st.DrawFn, value: Any) -> tuple[Any, str]:
    """`value` with one to three places dropped, renamed, repeated or replaced by junk."""
    value, told = deepcopy(value), []
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        holder = value
        for key in way:
            holder = holder[key]
        act = draw(st.sampled_from(("drop", "rename", "junk", "junk", "junk", "any")))
        if act == "drop":
            del holder[last]
        elif act == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from((f"{last}s", "", "x")))] = holder.pop(last)
        elif act == "rename":
            holder.append(deepcopy(holder[last]))
        else:
            holder[last] = deepcopy(draw(st.sampled_from(JUNK) if act == "junk" else scalars))
            act = f"{holder[last]!r:.40} at"
        told.append(f"{act} {'.'.join(map(str, (*way, last)))}")
    return value, "; ".join(told)


scalars = st.one_of(st.integers(), st.floats(), st.text(max_size=8))


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every key and index in `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (key,)
        yield from ((key, *rest) for rest in _places(item))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> tuple[bytes, str]:
    """`data` cut, with bits flipped, a stretch lost, repeated or overwritten; half of the time near its start."""
    end = len(data) if draw(st.booleans()) else min(len(data), 512)
    at, size = draw(st.integers(0, max(end - 1, 0))), draw(st.integers(1, 16))
    act = draw(st.sampled_from(("cut", "flip", "lose", "repeat", "overwrite")))
    if act == "cut":
        return data[:at], f"cut at {at}"
    if act == "flip":
        out = bytearray(data)
        for spot in draw(st.lists(st.integers(0, max(end - 1, 0)), min_size=1, max_size=4)):
            if out:
                out[spot] ^= 1 << draw(st.integers(0, 7))
        return bytes(out), "bits flipped"
    middle = {
        "lose": b"",
        "repeat": data[at : at + size] * 2,
        "overwrite": draw(st.binary(min_size=size, max_size=size)),
    }[act]
    return data[:at] + middle + data[at + size :], f"{act} {size} bytes at {at}"
