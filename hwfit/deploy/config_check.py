"""What of an original's config no deployed form computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwfit.rotary import rotary_problems

ONLY = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


def config_problems(config: Mapping[str, Any], where: str) -> list[str]:
    """One line each; `where` says which form asks, such as "in GGUF export"."""
    problems = [
        f"config: {key}={config[key]} is not supported {where}; allowed: {allowed}"
        for key, allowed in ONLY.items()
        if config.get(key, allowed) != allowed
    ]
    return problems + rotary_problems(config)
