"""Energy: the table's joules, priced and summed as its seconds are; and nothing where none was counted."""

import pytest

from hwfit.kernels.op import subnet_ops
from hwfit.latency_models.load import load_energy
from hwfit.latency_models.whole import sum_ops
from hwfit.lut_store.schema import op_of
from hwfit.lut_store.shipped import SHIPPED, open_table
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

LLAMA_8B = ModelShape(hidden=4096, heads=32, kv_heads=8, head_size=128, mlp=14336, blocks=32, vocab=128_256)
GPU = next(key for key in open_table(SHIPPED).devices() if key.startswith("cuda-"))


def test_measured_ops_cost_what_the_counter_said_and_a_model_the_sum_of_them():
    joules = load_energy(GPU, SHIPPED)
    assert joules is not None
    counted = {op_of(row): row["energy"] for row in open_table(SHIPPED).read(GPU).to_dict("records")}
    assert all(joules.price(op) == energy for op, energy in counted.items())
    workload = Workload(1, 1024, 128, 1024)
    for phase in (workload.decode, workload.prefill):
        subnet = Subnet.whole(LLAMA_8B, "w4a16g128", "w16a16")
        expected = sum(count * counted[op] for op, count in subnet_ops(subnet, phase).items())
        assert sum_ops(joules, subnet, phase).value == pytest.approx(expected, rel=1e-9)


def test_fewer_bits_take_less_energy_a_token_and_power_is_what_the_gpu_may_draw():
    from hwfit.latency_models.load import load_latency

    joules, latency, decode = load_energy(GPU, SHIPPED), load_latency(GPU, SHIPPED), Workload(1, 1024, 128, 1024).decode
    assert joules is not None
    models = [Subnet.whole(LLAMA_8B, p, "w16a16") for p in ("w16a16", "w8a8", "w4a16g128")]
    energies = [sum_ops(joules, model, decode).value for model in models]
    assert energies == sorted(energies, reverse=True)
    watts = [e / latency.predict(model, decode).value for e, model in zip(energies, models, strict=True)]
    assert all(100 < w < 700 for w in watts)  # an H200 idles at 80 W and is limited to 700 W


def test_a_processor_counts_no_energy():
    cpu = next(key for key in open_table(SHIPPED).devices() if key.startswith("cpu-"))
    assert load_energy(cpu, SHIPPED) is None
