"""Run with TRITON_INTERPRET=1: a whole model with the GPU's packed weights and kernels; prints relative errors."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import torch
from deploy_llama import llama_with, parts, tiny_llama

from hwfit.deploy.bundle import dense_weights, quantise_bundle
from hwfit.deploy.cuda_model import CudaModel
from hwfit.deploy.slice import subnet_config
from hwfit.kernels.cuda_graph import EagerLauncher
from hwfit.kernels.cuda_kit import TritonKit
from hwfit.precision import Precision
from hwfit.subnet import Subnet

CPU = torch.device("cpu")
ROWS = (
    ("w16a16", "w8a8", "w8a16", "w4a16g32", "w8a16g32", "w4a8g32", "w4a16g64"),
    ("w4a16g32", "w8a16g32", "w4a16", "w16a16", "w4a8g64", "w8a8g32", "w8a8"),
)
IDS = np.random.default_rng(0).integers(0, 256, (1, 9))

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
weights, shape, config = parts(tiny_llama(**sizes, **heads))
rows = tuple(tuple(Precision.parse(p) for p in row) for row in ROWS)
subnet = dataclasses.replace(Subnet.whole(shape, "w8a8", "w16a16"), precision=rows, lm_head=Precision.parse("w4a16g32"))
bundle = quantise_bundle(weights, shape, config, subnet)
with torch.no_grad():
    twin = llama_with(dense_weights(bundle), subnet_config(config, subnet)).double()
    expected = twin(torch.from_numpy(IDS)).logits[0].numpy()
model = CudaModel.of(bundle, TritonKit(CPU, 90, torch.float16), EagerLauncher(CPU), 32)
got = [model.prefill(IDS[0, :6])] + [model.decode(int(i)) for i in IDS[0, 6:]]
norm = np.linalg.norm
errors = [float(norm(g.numpy() - e) / norm(e)) for g, e in zip(got, expected[5:], strict=True)]
random = CudaModel.random(subnet, config, TritonKit(CPU, 90, torch.float16), EagerLauncher(CPU), 32)
finite = bool(random.prefill(IDS[0]).isfinite().all())
print(json.dumps({"errors": errors, "random_is_finite": finite, "bytes": model.weights.nbytes}))
