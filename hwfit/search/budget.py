"""Budgets as people have them (`latency=6ms`, `tokens_per_s=200`, `params>=80M`) on the few metrics a search prices.

    metric     unit            limited by
    decode     seconds         decode, latency; tokens_per_s from below
    prefill    seconds         prefill, ttft (time to the first token)
    memory     bytes           memory: packed weights and KV cache
    disk       bytes           disk: what is stored of a model
    params     weights         params
    1/params   1/weights       params>=: from below
    energy     joules a token  energy, of decode
    power      watts           power: energy over time, of decode

A floor is a ceiling on the reciprocal, so that all of the search knows one kind of limit: cost / limit <= 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hwfit.errors import nearest, raise_all
from hwfit.workload import PHASES, PhaseName

_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_COUNT = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Quantity:
    """What a user may limit: its units, and the metrics that its `ceiling` and its `floor` are kept on."""

    units: Mapping[str, float]
    ceiling: str | None = None
    floor: str | None = None

    def metric(self, sign: str) -> str | None:
        return {"<=": self.ceiling, ">=": self.floor, "=": self.ceiling or self.floor}[sign]


QUANTITIES: Mapping[str, Quantity] = {
    "decode": Quantity(_TIME, "decode"),
    "latency": Quantity(_TIME, "decode"),
    "tokens_per_s": Quantity({"": 1.0}, floor="decode"),
    "prefill": Quantity(_TIME, "prefill"),
    "ttft": Quantity(_TIME, "prefill"),
    "memory": Quantity(_BYTES, "memory"),
    "disk": Quantity(_BYTES, "disk"),
    "params": Quantity(_COUNT, "params", floor="1/params"),
    "energy": Quantity({"uJ": 1e-6, "mJ": 1e-3, "J": 1.0}, "energy"),
    "power": Quantity({"mW": 1e-3, "W": 1.0, "kW": 1e3}, "power"),
}
_SHOWN = {  # metric -> (name and sign, unit, its size)
    **{phase: (f"{phase}=", "ms", 1e-3) for phase in ("decode", "prefill")},
    **{size: (f"{size}=", "MB", 1e6) for size in ("memory", "disk")},
    **{"params": ("params=", "M", 1e6), "1/params": ("params>=", "M", 1e6)},
    **{"energy": ("energy=", "mJ", 1e-3), "power": ("power=", "W", 1.0)},
}
METRICS = tuple(_SHOWN)
EXACT = ("memory", "disk", "params", "1/params")
"""Known from the subnet alone: no device tells otherwise."""
_TEXT = re.compile(r"\s*(\w+)\s*(<=|>=|=)(.*)")
_VALUE = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True)
class Budget:
    """Upper limits by metric, in the metrics' units. `flag` is where a user gave them."""

    limits: tuple[tuple[str, float], ...]
    flag: str = field(default="--budget", compare=False, repr=False)

    @classmethod
    def parse(cls, texts: Iterable[str], flag: str = "--budget") -> Budget:
        """One `name=value`, `name<=value` or `name>=value` a text; `=` means the sense that a name is limited in.

        Raises `HwfitError` listing every one that cannot be read, as an option `flag`.
        """
        limits: dict[str, tuple[float, str]] = {}
        problems = []
        for text in texts:
            match = _TEXT.fullmatch(text)
            name, sign, value = match.groups() if match else (text.partition("=")[0], "=", "")
            if name not in QUANTITIES:
                problems.append(f"{flag} {text}: metric '{name}' is unknown; {nearest(name, QUANTITIES)}")
                continue
            quantity = QUANTITIES[name]
            metric, number = quantity.metric(sign), _number(value, quantity.units)
            if metric is None:
                kind, right = ("an upper", "<=") if quantity.ceiling else ("a lower", ">=")
                problems.append(f"{flag} {text}: {name} takes {kind} limit; allowed: {name}{right}VALUE")
            elif number is None:
                units = [unit for unit in quantity.units if unit]
                unit = "" if not units else f" with one of the units {units}" if "" not in quantity.units else ""
                optional = f", {units} allowed" if units and "" in quantity.units else ""
                problems.append(f"{flag} {text}: '{value}' is no positive number{unit}{optional}")
            elif metric in limits:
                other = limits[metric][1]
                both = f"{name} is given twice" if other == name else f"{name} and {other} limit the same"
                problems.append(f"{flag} {text}: {both}; give one")
            else:
                inverse = metric == quantity.floor and metric != quantity.ceiling
                limits[metric] = (1 / number if inverse else number, name)
        if not problems and not limits:
            problems.append(f"{flag} is missing; give at least one, such as {flag} decode=6ms")
        raise_all(problems)
        return cls(tuple(sorted((metric, limit) for metric, (limit, _) in limits.items())), flag)

    def as_dict(self) -> dict[str, float]:
        return dict(self.limits)

    @property
    def phase(self) -> PhaseName:
        """The phase whose time is limited; decode if both or neither are."""
        limited: list[PhaseName] = [phase for phase in PHASES if phase in self.as_dict()]
        return limited[0] if limited else PHASES[0]

    def scaled(self, factor: float) -> Budget:
        """Every limit times `factor`: looser above 1, floors too."""
        return Budget(tuple((metric, limit * factor) for metric, limit in self.limits), self.flag)

    def aimed(self, share: float) -> Budget:
        """Every limit that a device decides times `share`; those known from the subnet alone stay."""
        return Budget(tuple((m, limit if m in EXACT else limit * share) for m, limit in self.limits), self.flag)

    def within(self, costs: Mapping[str, float], tolerance: float = 0.0) -> bool:
        return all(costs[metric] <= limit * (1 + tolerance) for metric, limit in self.limits)

    def used(self, costs: Mapping[str, float]) -> float:
        """The largest share of a limit that `costs` take."""
        return max(costs[metric] / limit for metric, limit in self.limits)

    def __str__(self) -> str:
        return " ".join(format_limit(metric, limit) for metric, limit in self.limits)


def format_limit(metric: str, value: float, loosely: bool = False) -> str:
    """`decode=6ms`, `params>=80M`: what `Budget.parse` reads, to four digits; `loosely` rounds to the looser side."""
    name, unit, size = _SHOWN[metric]
    shown = (1 / value if metric == "1/params" else value) / size
    if loosely:
        step = 10.0 ** (math.floor(math.log10(shown)) - 3)
        shown = (math.floor if metric == "1/params" else math.ceil)(shown / step) * step
    return f"{name}{float(f'{shown:.4g}'):.12g}{unit}"


def format_cost(metric: str, value: float, loosely: bool = False) -> str:
    """The value alone: `6ms`, `80M`."""
    return format_limit(metric, value, loosely).removeprefix(_SHOWN[metric][0])


def needed(limits: Iterable[str]) -> tuple[str, ...]:
    """The metrics to price for `shares` of these limits."""
    names = dict.fromkeys(limits)
    return tuple(names | {"decode": None} if "power" in names else names)


def shares(limits: Mapping[str, float], costs: Mapping[str, float], pace: float = 1.0) -> list[float]:
    """What each limit is used to, 1 at the most, in a form that adds up over linears and blocks wherever costs do.

    Reciprocals and power do not add up, but 2 - weights / least <= 1 does, and so does energy - limit x time <= 0: in
    shares of the limit over `pace` seconds of decode.
    """
    return [_SHARES.get(metric, _plain)(metric, limit, costs, pace) for metric, limit in limits.items()]


def _plain(metric: str, limit: float, costs: Mapping[str, float], pace: float) -> float:
    return costs[metric] / limit


_SHARES = {
    "power": lambda metric, limit, costs, pace: 1 + (costs[metric] / limit - 1) * costs["decode"] / pace,
    "1/params": lambda metric, limit, costs, pace: 2 - limit / costs[metric],
}


def _number(text: str, units: Mapping[str, float]) -> float | None:
    match = _VALUE.fullmatch(text)
    if not match or match[2] not in units or not 0 < float(match[1]) < math.inf:
        return None
    return float(match[1]) * units[match[2]]
