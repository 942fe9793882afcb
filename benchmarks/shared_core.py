"""How much slower each kind of arithmetic runs while another program keeps the processor's other core busy.

In turns, quiet and busy, in one process: the anchors of `profiler.anchor`, and a layer of each kind that is in cache.
Processor time of this thread: what is slower is the core, which the two share where they are threads of one.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from benchmarks.common import parser, publish
from benchmarks.repeatability import BUSY
from hwfit.kernels.op import linear
from hwfit.profiler.anchor import FLOAT, FROM_MEMORY, INTEGER
from hwfit.profiler.clock import timer
from hwfit.profiler.device_kinds import get_backend
from hwfit.profiler.protocol import no_gc
from hwfit.progress import track

PIECES = {
    "float": FLOAT,
    "integer": INTEGER,
    "w4_from_memory": FROM_MEMORY[0],
    "w8_one_row": (linear(1, 384, 192, "w8a8g32"), 48),
    "w4_one_row": (linear(1, 576, 576, "w4a8g32"), 24),
    "w2_one_row": (linear(1, 576, 576, "w2a8g32"), 24),
    "w4_matrix": (linear(128, 576, 576, "w4a8g32"), 4),
}
PASSES = 100
START = 0.3
"""Seconds that the other program has to get going."""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=6, help="of one quiet and one busy stretch")
    options = arguments.parse_args()
    backend = get_backend("cpu")
    clock = timer(backend)
    chains = {name: backend.build(*pair, seed=0) for name, pair in PIECES.items()}
    times: dict[tuple[str, bool], list[float]] = {(name, busy): [] for name in chains for busy in (False, True)}
    with no_gc(), track(2 * options.rounds, "quiet and busy") as advance:
        for i in range(2 * options.rounds):
            busy = i % 2 == 1
            program = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            time.sleep(START)
            try:
                for _ in range(PASSES):
                    for name, chain in chains.items():
                        times[name, busy].append(clock.timed(chain.run))
            finally:
                if program:
                    program.kill()
                    program.wait()
            advance()
    median = {key: float(np.median(values)) for key, values in times.items()}
    figures = {f"{name}.slowdown": median[name, True] / median[name, False] for name in chains}
    publish("shared_core", figures, options.json)


if __name__ == "__main__":
    main()
