import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: its kernels then run on CPU tensors

import torch

torch.set_num_threads(1)  # small tensors: a second thread only waits, most of all on a busy machine
