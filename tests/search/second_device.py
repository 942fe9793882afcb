"""A second device to catch tensors that were forgotten on the first: real numbers behind tensors that say `meta`.

Under `Second()` whatever is moved to or made on `DEVICE` is computed on the CPU and labelled as elsewhere; an op
that mixes such a tensor with one of the CPU raises, as it would with a GPU. As there, zero-dimensional CPU tensors and
CPU indices may be mixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
INDEXING = ("aten.index.Tensor", "aten.index_put_.default", "aten._index_put_impl_.default")


class Elsewhere(Tensor):
    """A tensor on `DEVICE`; `held` holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        out = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        out.held = held
        return out

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Second(TorchDispatchMode):
    """Sees the calls that make tensors on `DEVICE` out of nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    wanted = kwargs.get("device")
    moving = str(func) in ("aten._to_copy.default", "aten.copy_.default")
    if there and not moving and str(func) not in INDEXING:
        strays = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
        if strays:
            raise RuntimeError(f"{func} mixes tensors of two devices: {[tuple(t.shape) for t in tensors]}")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result_there = torch.device(wanted) == DEVICE if wanted is not None else bool(there)
    if str(func) == "aten.copy_.default":
        args[0].held.copy_(_held(args[1])) if isinstance(args[0], Elsewhere) else args[0].copy_(_held(args[1]))
        return args[0]
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not result_there:
        return out
    by_held = {id(t.held): t for t in there}  # in-place ops and `out=` give back what they were given
    return tree_map(lambda t: by_held.get(id(t), Elsewhere(t)) if isinstance(t, Tensor) else t, out)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value
