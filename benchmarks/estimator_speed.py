"""How many subnets of the paper's quantised space the differentiable estimator prices a second, in one batch.

Space: QLlama3 (arXiv 2606.04063, Table 1): Llama-3.1-8B, one choice of {2, 4, 8} weight and {2, 4, 8, 16} activation
bits for each block. Prices are a roofline of an A100's data sheet: speed does not depend on them, and no latency is
claimed. Values and gradients are held against the plain predictor's, one subnet at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import parser, publish
from hwfit.kernels.op import Op
from hwfit.latency_models.differentiable import Choices, ExpectedCost, one_hot
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.features import LAUNCH, trend
from hwfit.latency_models.transfer_subnets import LLAMA_8B
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision
from hwfit.progress import track
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import Phase, Workload

A100 = Facts(2.039e12, 3.12e14, 6.24e14, multiprocessors=108)
BITS = tuple(f"w{w}a{max(a, 8)}g128" for w in (8, 4, 2) for a in (16, 8, 4, 2))
"""Activations of 4 and 2 bits run on the int8 path, so three activation choices of a weight share their price."""
SPACE = Space(
    shape=LLAMA_8B,
    hidden=tuple(2**i for i in range(12, 6, -1)),
    heads=(32, 16),
    head_size=(128, 64, 32),
    mlp=(14336, 12288, 8192, 4096),
    depth=tuple(range(32, 0, -1)),
    precisions=tuple(Precision.parse(name) for name in BITS),
    embed=Precision.parse("w16a16"),
)
CHECKED = 50


@dataclass(frozen=True)
class Roofline:
    """Prices from a data sheet."""

    device: str = "a100-data-sheet"

    @property
    def precisions(self) -> set[str]:
        return set(BITS)

    def predict(self, op: Op) -> Estimate:
        value = self.price(op)
        return Estimate(value, value, value, "data sheet")

    def price(self, op: Op) -> float:
        if op.kind == "linear":
            return float(np.exp(trend(np.array([[op.m, op.n, op.k]], float), Precision.parse(op.precision), A100))[0])
        return LAUNCH + 4.0 * op.m * max(op.k, op.context * op.head_size) / A100.bandwidth


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, default=4096, help="subnets priced in one call")
    arguments.add_argument("--seconds", type=float, default=5.0, help="for each of the two figures")
    options = arguments.parse_args()
    prices, phase, order = Roofline(), Workload(batch=1, prompt=512, context=512).decode, list(range(LLAMA_8B.blocks))
    exact = ExpectedCost(SPACE, order, phase, prices.price)
    fast = ExpectedCost(SPACE, order, phase, prices.price, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    widths = [len(axis) for axis in (SPACE.hidden, SPACE.heads, SPACE.head_size, SPACE.mlp, SPACE.depth)]
    sizes = [*((w,) for w in widths), (LLAMA_8B.blocks, 1, len(BITS)), (len(BITS),)]
    batch = Choices(*(torch.rand(options.batch, *size, generator=generator).softmax(-1) for size in sizes))

    def forward() -> None:
        with torch.no_grad():
            fast(batch)

    leaves = batch.map(lambda t: t.clone().requires_grad_())

    def both() -> None:
        fast(leaves).sum().backward()

    figures = {"threads": float(torch.get_num_threads()), "batch": float(options.batch)}
    with track(2 * options.seconds, "estimator") as advance:
        for name, call in (("subnets_per_s", forward), ("subnets_per_s_with_gradient", both)):
            times = _times(call, options.seconds)
            figures |= {name: options.batch / float(np.median(times)), f"{name}_p90": options.batch / min(times)}
            figures[f"{name}_p10"] = options.batch / float(np.quantile(times, 0.9))
            advance(options.seconds)
    figures |= _agreement(exact, WholeModel(prices), order, phase)
    single = float((fast(batch) / exact(batch) - 1).abs().max())
    publish("estimator_speed", figures | {"fp32_error": single}, options.json)


def _times(call: Callable[[], None], seconds: float) -> list[float]:
    call()
    out, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        out.append(time.perf_counter() - start)
    return out


def _agreement(cost: ExpectedCost, plain: WholeModel, order: list[int], phase: Phase) -> dict[str, float]:
    """Largest relative errors of values, and of the gradient between two choices of an axis, over random subnets."""
    rng, value, gradient = random.Random(0), 0.0, 0.0
    for _ in range(CHECKED):
        subnet = _draw(rng)
        other = replace(subnet, hidden=rng.choice([h for h in SPACE.hidden if h != subnet.hidden]))
        true = plain.predict(subnet, phase).value
        choices = _shared(one_hot(SPACE, subnet, order)).map(Tensor.requires_grad_)
        found = cost(choices)
        found.backward()
        slope = choices.hidden.grad
        assert slope is not None
        step = float(slope[SPACE.hidden.index(other.hidden)] - slope[SPACE.hidden.index(subnet.hidden)])
        value = max(value, abs(float(found.detach()) / true - 1))
        gradient = max(gradient, abs(step / (plain.predict(other, phase).value - true) - 1))
    return {"value_error": value, "gradient_error": gradient}


def _draw(rng: random.Random) -> Subnet:
    """A subnet of the space whose blocks are the first ones and have one precision each."""
    drawn = SPACE.sample(rng)
    rows = tuple((rng.choice(SPACE.precisions),) * len(LINEARS) for _ in drawn.blocks)
    return replace(drawn, blocks=tuple(range(len(drawn.blocks))), precision=rows)


def _shared(choices: Choices) -> Choices:
    return replace(choices, precision=choices.precision[:, :1].contiguous())


if __name__ == "__main__":
    main()
