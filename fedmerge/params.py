"""Parameters: a dictionary from a net's own names to tensors, the one noun of the library.

Names come from `named_parameters()`, which lists a shared tensor once; buffers are not parameters.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedmerge.errors import NetError

Params = dict[str, Tensor]


def of(net: nn.Module) -> Params:
    """The net's parameters as detached float32 copies on the CPU.

    Args:
        net: any module; its parameters may live on any device.

    Returns:
        name -> tensor of the parameter's shape, float32, contiguous.
    """
    return {name: p.detach().to("cpu", torch.float32, copy=True).contiguous() for name, p in net.named_parameters()}


def load(net: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Copy `params` into the net, in place; names that are not in `params` keep their values.

    Args:
        net: the module whose parameters are overwritten.
        params: name -> tensor of the parameter's shape.

    Raises:
        NetError: a name is not the net's, or a shape differs.
    """
    own = dict(net.named_parameters())
    for name, value in params.items():
        if name not in own:
            raise NetError(f"the net has no parameter '{name}'")
        if own[name].shape != value.shape:
            raise NetError(f"'{name}' expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}")
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(value)


def split(params: Mapping[str, Tensor], names: Iterable[str]) -> tuple[Params, Params]:
    """Two dictionaries: what `names` lists, and the rest; `join` puts them together again."""
    chosen = set(names)
    inside = {name: value for name, value in params.items() if name in chosen}
    outside = {name: value for name, value in params.items() if name not in chosen}
    return inside, outside


def join(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Params:
    """One dictionary out of two that share no name.

    Raises:
        NetError: a name is in both.
    """
    both = first.keys() & second.keys()
    if both:
        raise NetError(f"'{min(both)}' is in both sets of parameters")
    return {**first, **second}


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter; works for a net on the meta device too."""
    return {name: tuple(p.shape) for name, p in net.named_parameters()}


def digest(params: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values in the order of the names: `"sha256:<hex>"`.

    Two sets of parameters have the same digest if and only if they are equal bit for bit (as float32),
    whatever the order of the dictionary.
    """
    total = hashlib.sha256()
    for name in sorted(params):
        value = params[name].detach().to("cpu", torch.float32).contiguous()
        total.update(f"{name}\0{tuple(value.shape)}\0".encode())
        total.update(value.numpy().data)
    return f"sha256:{total.hexdigest()}"


@contextmanager
def holding(net: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the net has these parameters and buffers; what is not named stays its own.

    Gradients flow into the given tensors. `torch.func.functional_call` does not put the own ones back where a module
    stands at two places of a net, as in MONAI's DynUNet.
    """
    new = {id(own): values[name] for name, own in [*net.named_parameters(), *net.named_buffers()] if name in values}
    slots = [
        (store, key, own)
        for module in net.modules()
        for store in (module._parameters, module._buffers)
        for key, own in store.items()
        if id(own) in new
    ]
    for store, key, own in slots:
        store[key] = new[id(own)]  # type: ignore[assignment]
    try:
        yield
    finally:
        for store, key, own in slots:
            store[key] = own  # type: ignore[assignment]
