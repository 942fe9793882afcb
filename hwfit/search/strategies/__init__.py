"""Strategies: ways to look for the best subnet, behind one ask/tell interface over the same losses and costs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from hwfit.errors import nearest, raise_all
from hwfit.search.strategies.base import Planned
from hwfit.search.strategies.differentiable import Differentiable
from hwfit.search.strategies.evolutionary import Evolutionary
from hwfit.search.strategies.integer_programme import IntegerProgramme
from hwfit.search.strategies.random_search import Random
from hwfit.search.strategies.sequential import Bits, QuantiseFirst, Sequential, Uniform

STRATEGIES: Mapping[str, type[Planned]] = {
    "joint": Differentiable,
    "integer_programme": IntegerProgramme,
    "evolutionary": Evolutionary,
    "random": Random,
    "sequential": Sequential,
    "quantise_first": QuantiseFirst,
    "bits": Bits,
    "uniform": Uniform,
}


def strategy_named(name: str) -> type[Planned]:
    """Raises `HwfitError` for an unknown name, and for one whose package is not installed."""
    raise_all(strategy_problems(name))
    return STRATEGIES[name]


def strategy_problems(name: str) -> list[str]:
    if name not in STRATEGIES:
        return [f"--strategy '{name}' is unknown; {nearest(name, STRATEGIES)}"]
    package = STRATEGIES[name].needs
    return [f"--strategy {name} needs {package}; pip install 'hwfit[strategies]'"] if _lacks(package) else []


def _lacks(package: str | None) -> bool:
    return package is not None and find_spec(package) is None
