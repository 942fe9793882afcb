"""What measured tables make the search choose: the workload and the device decide, in the direction the tables predict.

Shipped tables and the knapsack; no training. The damages are those of one-shot choices measured on SmolLM2-135M (log of
WikiText perplexity over the original's: depth, MLP and hidden sizes, 8 and 4 bits), the same for every device, spread
over linears by seeded sensitivities.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch

from hwfit.kernels.op import linear
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.shipped import SHIPPED, open_table
from hwfit.search.costs import predicted_cost
from hwfit.search.discretise import WIDTHS, Picked, Problem
from hwfit.search.knapsack import best_by_damage
from hwfit.space import Space
from hwfit.subnet import LINEARS, ModelShape, Subnet
from hwfit.workload import PHASES, PhaseName, Workload

SMOLLM2 = ModelShape(hidden=576, heads=9, kv_heads=3, head_size=64, mlp=1536, blocks=30, vocab=49152)
LLAMA_8B = ModelShape(hidden=4096, heads=32, kv_heads=8, head_size=128, mlp=14336, blocks=32, vocab=128_256)
HARM = {
    "hidden": (0.0, 0.74, 1.84, 2.6),
    "heads": (0.0, 1.0),
    "head_size": (0.0, 2.0),
    "mlp": (0.0, 0.45, 1.0, 1.76),
    "depth": (0.0, 0.32, 0.70, 1.13, 1.53, 2.1, 2.8, 3.6),
}
ROUNDING = {"w32": 0.0, "w16a16": 0.0, "w8a8": 0.03, "w8a8g32": 0.004, "w4a8g32": 0.38, "w4a16g128": 0.5}
"""Of all linears at once."""


@dataclass(frozen=True)
class Setting:
    """A device with the model that its shipped table prices."""

    kind: str
    shape: ModelShape
    workload: Workload
    precisions: tuple[str, ...]
    embed: str

    @property
    def space(self) -> Space:
        return Space.default(self.shape, self.precisions, self.embed, 64 if self.kind == "cpu" else 128)

    @property
    def latency(self) -> WholeModel:
        return _table(self.kind)

    def seconds(self, precision: str, phase: PhaseName) -> float:
        """Of the whole model at one precision."""
        whole = Subnet.whole(self.shape, precision, self.embed)
        return self.latency.predict(whole, self.workload.phase(phase)).value

    def best(self, phase: PhaseName, seconds: float, seed: int = 0, widths: tuple[str, ...] = WIDTHS) -> Picked:
        cost = partial(predicted_cost, self.latency, self.workload, metrics=(phase,))
        problem = Problem(
            damage(self.space, seed), self.space, range(self.shape.blocks), cost, {phase: seconds}, widths
        )
        picked = best_by_damage(problem)
        assert picked is not None
        assert cost(picked.subnet(self.space, range(self.shape.blocks)))[phase] <= seconds * (1 + 1e-9)
        return picked

    def used(self, picked: Picked) -> Counter[str]:
        """How many linears of the kept blocks are at each precision."""
        kept = range(self.space.depth[picked.depth])
        return Counter(self.precisions[p] for b in kept for p in picked.precision[b])

    def of_linear(self, picked: Picked, *names: str) -> Counter[str]:
        return Counter(self.precisions[row[LINEARS.index(name)]] for row in picked.precision for name in names)


CPU = Setting("cpu", SMOLLM2, Workload(), ("w32", "w8a8", "w8a8g32", "w4a8g32"), "w8a8g32")
CPU_ALIKE = Setting("cpu", SMOLLM2, Workload(), ("w32", "w8a8", "w4a8g32"), "w8a8g32")
H200 = Setting("cuda", LLAMA_8B, Workload(1, 1024, 128, 1024), ("w16a16", "w8a8", "w4a16g128"), "w16a16")
FLOAT: Mapping[str, str] = {"cpu": "w32", "cuda": "w16a16"}
FOUR: Mapping[str, str] = {"cpu": "w4a8g32", "cuda": "w4a16g128"}


@cache
def _table(kind: str) -> WholeModel:
    return load_latency(next(key for key in open_table(SHIPPED).devices() if key.startswith(f"{kind}-")), SHIPPED)


def damage(space: Space, seed: int) -> Choices:
    g = torch.Generator().manual_seed(seed)
    sensitivity = torch.randn(space.shape.blocks, len(LINEARS), generator=g).mul(0.8).exp()
    sensitivity /= sensitivity.sum()
    rounding = torch.tensor([ROUNDING[p.name] for p in space.precisions])
    widths = {axis: torch.tensor(HARM[axis][: len(getattr(space, axis))]) for axis in WIDTHS}
    return Choices(precision=sensitivity[..., None] * rounding, lm_head=rounding / 20, **widths)


@pytest.mark.parametrize("share", [0.42, 0.38, 0.35, 0.32, 0.28])
@pytest.mark.parametrize("seed", [0, 1])
def test_prefill_takes_per_channel_8_bits_and_decode_group_wise_4_bits_at_equal_relative_budgets(share, seed):
    """On this processor 8 bits a channel are 2.6 times as fast as 4 bits in prefill, and slower in decode, where they
    alone reach 36 % of fp32: above that nothing needs 4 bits."""
    assert CPU.seconds("w8a8", "prefill") < 0.5 * CPU.seconds("w4a8g32", "prefill")
    assert CPU.seconds("w8a8", "decode") > 1.1 * CPU.seconds("w4a8g32", "decode")
    decode, prefill = (CPU.used(CPU.best(p, share * CPU.seconds("w32", p), seed)) for p in PHASES)
    assert prefill["w8a8"] / prefill.total() > decode["w8a8"] / decode.total()
    if share < 0.36:
        assert decode["w4a8g32"] / decode.total() > prefill["w4a8g32"] / prefill.total()


def test_the_choice_made_for_one_workload_breaks_the_budget_of_the_other():
    """So it matters which one is asked for: neither pick serves both."""
    order, budgets = range(CPU.shape.blocks), {p: 0.36 * CPU.seconds("w32", p) for p in PHASES}
    picks = {p: CPU.best(p, budgets[p]).subnet(CPU.space, order) for p in PHASES}
    assert picks["decode"] != picks["prefill"]
    assert CPU.latency.predict(picks["decode"], CPU.workload.prefill).value > 1.05 * budgets["prefill"]


def price(setting: Setting, phase: PhaseName, name: str, precision: str) -> float:
    n, k, _ = Subnet.whole(setting.shape, precision, setting.embed).block_linears(0)[name]
    return setting.latency.price(linear(setting.workload.phase(phase).m, n, k, precision))


def test_small_projections_go_to_4_bits_on_the_gpu_only():
    """In decode the processor's 4-bit kernel is slower than its 8-bit one on k_proj and v_proj, the GPU's is faster."""
    for setting, sign in ((CPU_ALIKE, 1), (H200, -1)):
        for name in ("k_proj", "v_proj"):
            slower = price(setting, "decode", name, FOUR[setting.kind]) - price(setting, "decode", name, "w8a8")
            assert math.copysign(1, slower) == sign
        tight = 0.92 * setting.seconds("w8a8", "decode")
        picked = setting.best("decode", tight, widths=())
        small, large = setting.of_linear(picked, "k_proj", "v_proj"), setting.of_linear(picked, "gate_proj", "up_proj")
        assert large[FOUR[setting.kind]] > 0
        assert (small[FOUR[setting.kind]] > 0) == (sign < 0)


def test_prefill_keeps_16_bits_where_the_gpu_gains_nothing_from_8():
    """1024 rows of k_proj and v_proj are slower at 8 bits than at 16 on the GPU; on the processor 8 bits always win."""
    for setting, sign in ((CPU_ALIKE, -1), (H200, 1)):
        for name in ("k_proj", "v_proj"):
            slower = price(setting, "prefill", name, "w8a8") - price(setting, "prefill", name, FLOAT[setting.kind])
            assert math.copysign(1, slower) == sign
        tight = 1.005 * setting.seconds("w8a8", "prefill")
        used = setting.of_linear(setting.best("prefill", tight, widths=()), "k_proj", "v_proj")
        assert (used[FLOAT[setting.kind]] == used.total()) == (sign > 0)
        assert used[FOUR[setting.kind]] == 0


def test_the_less_8_bits_save_the_more_linears_take_them():
    """They save 63 % of prefill on the processor and 6 % on the GPU: the same 4 % take far more linears there."""
    saved, rounded = {}, {}
    for s in (CPU_ALIKE, H200):
        whole = s.seconds(FLOAT[s.kind], "prefill")
        saved[s.kind] = 1 - s.seconds("w8a8", "prefill") / whole
        used = s.used(s.best("prefill", 0.96 * whole, widths=()))
        rounded[s.kind] = used["w8a8"] / used.total()
    assert saved["cpu"] > 5 * saved["cuda"]
    assert rounded["cuda"] > 2 * rounded["cpu"]


@pytest.mark.parametrize("share", [0.9, 0.8])
def test_below_8_bits_the_gpu_rounds_and_the_processor_narrows(share):
    """For a share of uniform 8-bit decode that 4 bits alone reach on the GPU (81 %) and nearly not on the processor."""
    narrowed = {}
    for s in (CPU_ALIKE, H200):
        picked = s.best("decode", share * s.seconds("w8a8", "decode"))
        narrowed[s.kind] = sum(HARM[axis][getattr(picked, axis)] for axis in WIDTHS)
    assert narrowed["cpu"] >= narrowed["cuda"]
    if share < 0.85:
        assert narrowed["cpu"] > narrowed["cuda"]
