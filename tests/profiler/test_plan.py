import random
from collections import Counter

import model_shapes
import pytest
from fake_backend import FakeBackend, tiny_space

from hwfit.kernels.op import subnet_ops
from hwfit.profiler.plan import plan
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SMOLLM2 = Space.default(model_shapes.SMOLLM2)
BACKEND = FakeBackend(work=lambda seconds: None)


@pytest.mark.parametrize("space", [SMOLLM2, tiny_space()])
@pytest.mark.parametrize("workload", [Workload(), Workload(batch=3, prompt=64, context=200)])
def test_every_op_of_every_subnet_is_planned_once(space: Space, workload: Workload):
    """The original at fp32 included, which every search is compared with."""
    cells = plan(space, workload, BACKEND)
    planned = Counter(cell.op for cell in cells)
    assert max(planned.values()) == 1
    rng = random.Random(0)
    used = set()
    for subnet in [Subnet.whole(space.shape), *(space.sample(rng) for _ in range(60))]:
        for phase in (workload.decode, workload.prefill):
            used |= set(subnet_ops(subnet, phase))
    assert used <= set(planned)
    if space is not SMOLLM2:
        assert used == set(planned), "nothing is planned that no subnet uses"


def test_coarse_stage_of_smollm2_has_the_promised_size():
    cells = plan(SMOLLM2, Workload(), BACKEND)
    coarse = [cell for cell in cells if cell.stage == "coarse"]
    assert 200 <= len(coarse) <= 260
    assert cells[: len(coarse)] == coarse


def test_coarse_linears_bracket_every_subnet_linear():
    """Each linear's (n, k) lies in the rectangle of coarse points of the same precision and rows."""
    cells = plan(SMOLLM2, Workload(), BACKEND)
    points: dict[tuple, set] = {}
    for cell in cells:
        if cell.stage == "coarse" and cell.op.kind == "linear":
            points.setdefault((cell.op.m, cell.op.precision), set()).add((cell.op.n, cell.op.k))
    for cell in cells:
        op = cell.op
        if op.kind != "linear":
            assert cell.stage == "coarse"
            continue
        found = points[op.m, op.precision]
        for left in (True, False):
            for below in (True, False):
                assert any(
                    (n <= op.n if left else n >= op.n) and (k <= op.k if below else k >= op.k) for n, k in found
                ), op


def test_decode_is_complete_before_prefill_starts():
    coarse = [c.op for c in plan(SMOLLM2, Workload(), BACKEND) if c.stage == "coarse"]
    rows = [op.m for op in coarse]
    assert rows == sorted(rows)


def test_exact_linears_come_largest_first():
    sizes = [c.op.n * c.op.k for c in plan(SMOLLM2, Workload(), BACKEND) if c.stage == "exact"]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_device_cannot_run_carries_the_reason():
    cells = plan(tiny_space(), Workload(), FakeBackend(work=lambda seconds: None, cannot=("w8a8",)))
    reasons = {(c.op.kind, c.op.precision): c.why_not for c in cells}
    assert reasons["linear", "w8a8"] == "this device has no w8a8"
    assert reasons["linear", "w32"] is None


def test_several_workloads_share_their_cells():
    one, eight = Workload(), Workload(batch=8)
    both = [c.op for c in plan(tiny_space(), [one, eight], BACKEND)]
    assert len(both) == len(set(both))
    assert set(both) == {c.op for w in (one, eight) for c in plan(tiny_space(), w, BACKEND)}
    assert {op.m for op in both if op.kind == "linear"} == {1, 8, one.prompt, 8 * one.prompt}
