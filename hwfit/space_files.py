"""Spaces as data: presets and a user's own in YAML, in absolute widths or as fractions of whatever model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import yaml

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.precision import Precision
from hwfit.space import AXES, DEFAULTS, PrecisionPer, Space, fractions_of
from hwfit.subnet import ModelShape

FOLDER = Path(__file__).parent / "data" / "spaces"
AUTO = "auto"
FLAGS = ("mlp_per_block", "fit_groups")
KEYS = (*AXES, "precisions", "lm_head", "embed", "precision_per", *FLAGS)
AXIS_KEYS = ("fractions", "multiple", "range", "step")
SHOWN = 6
FORMS = "a list of widths, {fractions: [1, 3/4], multiple: 64}, or {range: [1, 32]}"


@dataclass(frozen=True)
class Opened:
    """A space for one model, what it was asked for as, and in words what was left out of it."""

    space: Space
    name: str = AUTO
    left_out: tuple[str, ...] = ()


def presets() -> list[str]:
    """Names that `--space` takes besides a file."""
    return [AUTO, *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def open_space(
    name: str, shape: ModelShape, device: str = "cpu", precisions: Sequence[str] = (), sm: int | None = None
) -> Opened:
    """The checked space of a preset or a .yaml file for a model. `precisions`, if any, take the place of its own.

    `auto` is `Space.for_device`; `sm` is a GPU's compute capability. Raises `HwfitError` listing everything that is
    wrong with the file, and every axis that does not fit the model.
    """
    if name == AUTO:
        space, left_out = Space.for_device(shape, device, tuple(precisions), sm), []
        if not precisions and space.group_problems():
            space, widths = _dividing(space)
            space, groups = _fitting(space)
            left_out = [f"--space {AUTO}: {line}" for line in (*widths, *groups)]
        space.check()
        return Opened(space, AUTO, tuple(left_out))
    told = f"--space {name}"
    raw = _read(name, told)
    if precisions:
        raw = {**raw, "precisions": list(precisions)}
    space, problems = _built(raw, shape, device)
    raise_all([f"{told}: {problem}" for problem in problems])
    left_out: list[str] = []
    if raw.get("fit_groups"):
        space, left_out = _fitting(space)
    try:
        space.check()
    except HwfitError as error:
        raise HwfitError([f"{told}: {p.removeprefix('space: ')}" for p in error.problems]) from error
    return Opened(space, name, tuple(f"{told}: {line}" for line in left_out))


def _read(name: str, told: str) -> dict[str, Any]:
    """The mapping in a preset's or user's file, its keys known."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in presets():
            raise HwfitError(f"{told} is neither a preset nor a .yaml file; {nearest(name, presets())}")
        path = FOLDER / f"{name}.yaml"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise HwfitError(f"{told} cannot be read ({' '.join(str(error).split())}); give a YAML file") from error
    if not isinstance(raw, dict):
        raise HwfitError(f"{told}: must be a mapping of axes to widths, such as `mlp: [1536, 1024]`")
    raise_all([f"{told}: key '{key}' is unknown; {nearest(str(key), KEYS)}" for key in raw if key not in KEYS])
    return raw


def _built(raw: Mapping[str, Any], shape: ModelShape, device: str) -> tuple[Space, list[str]]:
    """The space that a file means for a model, and every problem; with problems it is not to be used."""
    problems: list[str] = []
    wholes = {
        "hidden": (shape.hidden, 1),
        "heads": (shape.heads, shape.queries_per_kv),
        "head_size": (shape.head_size, 1),
        "mlp": (shape.mlp, 1),
        "depth": (shape.blocks, 1),
    }
    axes = {axis: _axis(axis, raw.get(axis), *whole, problems) for axis, whole in wholes.items()}
    of = DEFAULTS.get(device, DEFAULTS["cpu"])

    def read(key: str, default: Sequence[str]) -> tuple[Precision, ...]:
        value = raw.get(key, list(default))
        if isinstance(value, dict):
            problems.extend(
                f"{key}: device '{d}' is unknown; {nearest(str(d), DEFAULTS)}" for d in value if d not in DEFAULTS
            )
            if device not in value:
                problems.append(
                    f"{key}: says nothing about device '{device}'; it does about: {', '.join(map(str, value))}"
                )
                return ()
            value = value[device]
        found = []
        for name in value if isinstance(value, list) else [value]:
            try:
                found.append(Precision.parse(str(name)))
            except HwfitError as error:
                problems.extend(f"{key}: {p}" for p in error.problems)
        return tuple(dict.fromkeys(found))

    linears, heads = read("precisions", of.precisions), read("lm_head", ())
    embed = read("embed", (of.embed,))
    if "embed" in raw and len(embed) > 1:
        problems.append(f"embed: one precision, not {len(embed)}")
    per = raw.get("precision_per", "linear")
    if per not in get_args(PrecisionPer):
        problems.append(f"precision_per: '{per}' is unknown; {nearest(str(per), get_args(PrecisionPer))}")
    for flag in FLAGS:
        if not isinstance(raw.get(flag, False), bool):
            problems.append(f"{flag}: '{raw[flag]}' must be true or false")
    extra = tuple(p for p in heads if p not in linears)
    space = Space(
        shape=shape,
        **axes,
        precisions=(*extra, *linears),
        embed=(*embed, Precision.parse(of.embed))[0],
        precision_per=per,
        mlp_per_block=raw.get("mlp_per_block", False) is True,
        linears=linears if extra else (),
        lm_head=heads,
    )
    return space, problems


def _axis(axis: str, value: Any, whole: int, unit: int, problems: list[str]) -> tuple[int, ...]:
    """Widths of one axis, descending. Fractions are of `whole` and land on multiples of `unit` at least; an axis that
    is not named stays whole."""
    told = f"{axis}: {value!r}"
    if value is None:
        return (whole,)
    try:
        if isinstance(value, dict):
            unknown = [key for key in value if key not in AXIS_KEYS]
            problems += [f"{axis}: key '{key}' is unknown; {nearest(str(key), AXIS_KEYS)}" for key in unknown]
            widths = _spelled(value, whole, unit)
        else:
            widths = [_integer(v) for v in (value if isinstance(value, list) else [value])]
    except (ValueError, TypeError, ZeroDivisionError, KeyError):
        problems.append(f"{told} is no axis; allowed: {FORMS}")
        return (whole,)
    over = [w for w in widths if w > whole]
    if over or not widths or min(widths) < 1:
        wrong = sorted(over or (w for w in widths if w < 1), reverse=True)
        shown = f"{wrong[0]}…{wrong[-1]}" if len(wrong) > SHOWN else ", ".join(map(str, wrong)) or "nothing"
        problems.append(
            f"{axis}={shown} does not fit the model, whose {axis} is {whole}; allowed: 1…{whole}, or fractions of it, "
            f"`{axis}: {{fractions: [1, 3/4, 1/2]}}` (such as --space fine)"
        )
    return tuple(sorted(set(widths), reverse=True))


def _spelled(value: Mapping[str, Any], whole: int, unit: int) -> list[int]:
    """`{fractions, multiple}` or `{range, step}` as widths."""
    if "range" in value:
        low, high = map(_integer, value["range"])
        return list(range(low, high + 1, _integer(value.get("step", 1))))
    shares = [Fraction(str(f)) for f in value["fractions"]]
    if not all(0 < f <= 1 for f in shares):
        raise ValueError(shares)
    multiple = _integer(value.get("multiple", 1))
    found = fractions_of(whole // unit, [1.0, *(float(f) for f in shares if f < 1)], multiple)
    return [w * unit for w in found if w < whole // unit or 1 in shares]


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _dividing(space: Space) -> tuple[Space, list[str]]:
    """Without the widths, other than the whole model's, that some group does not divide, and which those are."""
    group = max(p.group or 1 for p in (*space.precisions, space.embed))
    sizes = [d for d in space.head_size if d == space.head_size[0] or space.heads[0] * d % group == 0]
    heads = [a for a in space.heads if a == space.heads[0] or not any(a * d % group for d in sizes)]
    kept = {"heads": tuple(heads), "head_size": tuple(sizes)}
    for axis in ("hidden", "mlp"):
        values = getattr(space, axis)
        kept[axis] = tuple(v for v in values if v == values[0] or v % group == 0)
    gone = [f"{axis}={v}" for axis, values in kept.items() for v in getattr(space, axis) if v not in values]
    told = [f"left out {', '.join(gone)}: groups of {group} do not divide it"] if gone else []
    return replace(space, **kept), told


def _fitting(space: Space) -> tuple[Space, list[str]]:
    """Without the precisions whose groups do not divide every width, and which those are."""
    bad = [
        p
        for p in space.precisions
        if p.group and replace(space, precisions=(p,), embed=p, linears=(), lm_head=()).group_problems()
    ]
    if not bad:
        return space, []
    kept = {
        part: tuple(p for p in getattr(space, part) if p not in bad) for part in ("precisions", "linears", "lm_head")
    }
    names = ", ".join(p.name for p in bad)
    return replace(space, **kept), [f"left out {names}: their groups do not divide every width of this model"]
