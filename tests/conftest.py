import os

# Read when triton is imported, which transformers does as well: its kernels then run in Python, on CPU tensors.
os.environ.setdefault("TRITON_INTERPRET", "1")
