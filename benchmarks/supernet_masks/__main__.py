"""What mixing width choices costs in a Llama-3.1-8B block: factorised masks against nested loops and stacked masks.

    python -m benchmarks.supernet_masks --json
    python -m benchmarks.supernet_masks --device cuda --tokens 512

Candidates are all subnets of a space: hidden sizes x heads x head sizes x MLP widths x 32 depths (`setting.COUNTS`;
15,360 is the paper's llama3 space, 8 x 3 x 5 x 4 x 32). What a linear has to mix are the pairs of choices of its output
and input: 15 x 8 = 120 for q, k, v and o there, 4 x 8 = 32 for gate, up and down. The rivals are in `rivals`.

`layers`: forward and backward of the seven mixed linears at full precision, gradients of inputs and of all choices.
`step`: a whole training step with quantisation on (`step`). Its loops are mixed one linear at a time, as for `layers`,
and added to the time of the rest: remembered at once, what autograd keeps of all slices would take 42 GB at 15,360.
All slices and masks are really run at 15,360. Elsewhere about `--sample` slices of each linear, spread evenly, and as
small a part of the stack's rows are run, and the rest is charged at the same rate (`all_run` is 0 then). Loops that are
tight are always run whole. What is run whole is run once.

Seconds are medians over turns in which all forms alternate, `_spread` is (largest - smallest) / median over turns.
`extra_mb` is the peak memory of a forward and backward of the block at full precision beyond that of the same block
without any choice of width; `step.copies_mb` what `o_proj` holds in copies of each head size, with quantisation on.
`max_abs_diff`: outputs and gradients, ours against loops and stacked masks that were run whole, over the largest
magnitude of each; `_off_float64` that of each form from ours computed in float64. With quantisation on, values at a
rounding boundary can fall to either side, so `step.rms_diff` (and that of the gradients of precisions and pairs) is a
relative root mean square.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.common import parser, publish
from benchmarks.gpu_common import publish as publish_gpu
from benchmarks.supernet_masks.layers import OURS, Layers, Times
from benchmarks.supernet_masks.rivals import RIVALS
from benchmarks.supernet_masks.setting import (
    BLOCK,
    COUNTS,
    QUANTISED,
    Clock,
    config,
    offer,
    peak_bytes,
    random_weights,
    soft_choices,
    space_of,
)
from benchmarks.supernet_masks.step import Step, leaves
from hwfit.progress import out_console, track
from hwfit.search.supernet import CUT, Mix, Supernet
from hwfit.subnet import ModelShape

Figures = dict[str, float]
EVERYTHING = (15360,)
"""Counts at which nothing is sampled."""


def main() -> None:
    options = _options()
    figures = measure(BLOCK, options)
    if options.device == "cuda":
        publish_gpu("supernet_masks", figures, options.json)
    else:
        publish("supernet_masks", figures, options.json)


def _options() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--tokens", type=int, default=512, help="a step")
    arguments.add_argument("--rounds", type=int, default=2, help="turns of every form")
    arguments.add_argument("--sample", type=int, default=4, help="slices of a linear that loops run, if not all")
    arguments.add_argument("--counts", type=int, nargs="+", choices=tuple(COUNTS), default=list(COUNTS))
    return arguments.parse_args()


def measure(shape: ModelShape, options: argparse.Namespace) -> Figures:
    device, clock = torch.device(options.device), Clock(torch.device(options.device))
    weights = random_weights(shape, device)
    total = len(options.counts) * (4 * len(RIVALS) * options.rounds + 2 * options.rounds)
    figures: Figures = {"tokens": float(options.tokens), "threads": float(torch.get_num_threads())}
    worst = 0.0
    with track(total, "supernet masks") as advance:
        net = Supernet(weights, config(shape), space_of(1, ["w32"], shape), (0,))
        for p in net.parameters():
            p.requires_grad_(False)
        plain = _block_peak(net, options.tokens)
        found: dict[int, Times] = {}
        for count in options.counts:
            offer(net, space_of(count, ["w32"], shape))
            found[count] = Layers(net, options.tokens, clock).measure(
                options.rounds, options.sample, count in EVERYTHING, advance
            )
            worst = max(worst, found[count].difference)
            figures |= {f"c{count}.layers.{form}_off_float64": off for form, off in found[count].off.items()}
            figures |= _told(_of_layers(f"c{count}", found[count], (_block_peak(net, options.tokens) - plain) / 1e6))
        del net
        net = Supernet(weights, config(shape), space_of(options.counts[0], QUANTISED, shape), (0,))
        for count in options.counts:
            offer(net, space_of(count, QUANTISED, shape))
            figures |= _told(_of_step(count, net, options, clock, found[count], advance))
    return figures | {"max_abs_diff": worst}


def _told(figures: Figures) -> Figures:
    """Shown as soon as they are known: the whole takes minutes."""
    out_console.print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return figures


def _block_peak(net: Supernet, tokens: int) -> int:
    """Bytes at the peak of a forward and backward of the block as it is offered."""
    step, choices = Step(net, tokens), soft_choices(net.space, net.device)
    step.x.requires_grad_()
    return peak_bytes(lambda: step.run(Mix(net, choices)), net.device)


def _of_layers(at: str, times: Times, extra: float) -> Figures:
    ours = times.total(OURS)
    spread = (times.total(OURS, max) - times.total(OURS, min)) / ours
    out = {f"{at}.layers.ours_s": ours, f"{at}.layers.ours_spread": spread}
    for form in RIVALS:
        out |= {
            f"{at}.layers.{form}_s": times.total(form),
            f"{at}.layers.speedup_over_{form}": times.total(form) / ours,
        }
    return out | {f"{at}.layers.all_run": float(all(times.whole.values())), f"{at}.extra_mb": extra}


def _of_step(
    count: int, net: Supernet, options: argparse.Namespace, clock: Clock, layers: Times, advance: Callable[..., None]
) -> Figures:
    at, step, choices = f"c{count}.step", Step(net, options.tokens), soft_choices(net.space, net.device)
    handed = leaves(step.handed(choices))
    ours, rest = [], []
    for turn in range(options.rounds):
        ours.append(clock.seconds(lambda: step.ours(choices)))
        if turn == 0 or count in EVERYTHING:
            rest.append(clock.seconds(lambda: step.rest_of_theirs(choices, handed)))
        advance(2, note="step")
    out = {f"{at}.ours_s": median(ours), f"{at}.ours_spread": (max(ours) - min(ours)) / median(ours)}
    out |= {f"{at}.rounding_what_is_mixed_s": median(rest)}
    for form in RIVALS:
        whole = median(rest) + layers.mixed(form)
        out |= {f"{at}.{form}_s": whole, f"{at}.speedup_over_{form}": whole / median(ours)}
    if count in EVERYTHING:
        output, gradient = step.difference()
        out |= {f"{at}.rms_diff": output, f"{at}.gradient_rms_diff": gradient}
    return out | {f"{at}.copies_mb": net.linear(0, CUT).bank.nbytes * (1 - 1 / max(1, len(net.cuts))) / 1e6}


if __name__ == "__main__":
    main()
