"""Which parameters of a net can be fused, read off its modules, or off what the net itself declares.

Fusable (P) are the filters that several tasks can share. Task-specific (S) are the heads, the affine
parameters of normalisation layers, and every layer whose shape the tasks do not share.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from fedmerge import params
from fedmerge.errors import DataError, NetError

WORDS = ("fusable", "norms", "heads", "other")
NORMS: tuple[type[nn.Module], ...] = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)


@dataclass(frozen=True)
class Partition:
    """The parameter names of one net in four disjoint sets; each tuple is in the net's order.

    Attributes:
        fusable: P, what a fusion makes of several models.
        norms: affine parameters of normalisation layers.
        heads: the layers that end in the task's own labels.
        other: shapes that the tasks do not share, and what the user keeps apart.
        names: all of them.
    """

    fusable: tuple[str, ...]
    norms: tuple[str, ...]
    heads: tuple[str, ...]
    other: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def specific(self) -> tuple[str, ...]:
        """S: everything that is not fusable."""
        shared = set(self.fusable)
        return tuple(name for name in self.names if name not in shared)


def of(
    net: nn.Module,
    heads: Iterable[str],
    *,
    others: Iterable[Mapping[str, tuple[int, ...]]] = (),
    specific: Iterable[str] = (),
    fusable: Iterable[str] = (),
) -> Partition:
    """Sort the net's parameters into fusable and task-specific; what the net declares goes before what is read off.

    Args:
        net: any module; the meta device is enough.
        heads: parameter names, or module prefixes such as `"head"`.
        others: the shapes (`params.shapes`) of the other tasks' nets; a name that one of them lacks, or has
            in another shape, is `other`.
        specific: names or prefixes that the user keeps out of the fusion.
        fusable: names or prefixes that the user puts into it, norms included.

    Raises:
        NetError: a name or prefix is not the net's; one is asked to be both; a head, or a layer whose
            shape the tasks do not share, is asked to be fusable; nothing is left to fuse; or the net declares
            something else than it is (`declared`).
    """
    shapes = params.shapes(net)
    own = declared(net)
    head = _select(shapes, heads)
    apart = _select(shapes, specific)
    wanted = _select(shapes, fusable)
    norm = {name for name, module, _ in _parameters(net) if isinstance(module, NORMS)}
    if own is not None:
        _agree(own, head)
        head, norm = ({name for name in shapes if own[name] == kind} for kind in ("heads", "norms"))
    unlike = {name: other.get(name) for other in others for name in shapes if other.get(name) != shapes[name]}
    for name in wanted:
        if name in apart:
            raise NetError(f"'{name}' is listed both as fusable and as specific")
        if name in head:
            raise NetError(f"'{name}' belongs to a head, and heads are never fused")
        if name in unlike:
            got = unlike[name] or "none"
            raise NetError(f"'{name}' cannot be fused: shape {shapes[name]} here, {got} in another task")

    def kind(name: str) -> str:
        if name in wanted:
            return "fusable"
        if name in head:
            return "head"
        if name in norm:
            return "norm"
        return "other" if name in unlike or name in apart or (own and own[name] == "other") else "fusable"

    kinds = {name: kind(name) for name in shapes}
    if "fusable" not in kinds.values():
        raise NetError(f"none of the net's {len(shapes)} parameters can be fused")

    def of_kind(which: str) -> tuple[str, ...]:
        return tuple(name for name in shapes if kinds[name] == which)

    return Partition(of_kind("fusable"), of_kind("norm"), of_kind("head"), of_kind("other"), tuple(shapes))


def declared(net: nn.Module) -> dict[str, str] | None:
    """Name -> `"fusable"`, `"norms"`, `"heads"` or `"other"`, as the net's `fedmerge_partition` has it.

    That attribute maps each word to names or module prefixes; together they name every parameter once. None where the
    net has no such attribute.

    Raises:
        NetError: a word is unknown, or a parameter is named twice, not at all, or is not the net's.
    """
    table = getattr(net, "fedmerge_partition", None)
    if table is None:
        return None
    if not isinstance(table, Mapping) or not all(isinstance(names, list | tuple) for names in table.values()):
        raise NetError(f"fedmerge_partition expected lists of names by {', '.join(WORDS)}, got {table!r:.200}")
    names, found = list(params.shapes(net)), dict[str, str]()
    for word, wanted in table.items():
        if word not in WORDS:
            raise NetError(f"fedmerge_partition expected the words {', '.join(WORDS)}, got {word!r:.80}")
        for name in _select(names, wanted):
            if name in found:
                raise NetError(f"fedmerge_partition has '{name}' under {found[name]} and under {word}")
            found[name] = word
    if missing := [name for name in names if name not in found]:
        raise NetError(f"fedmerge_partition does not say what '{missing[0]}' is, and {len(missing) - 1} more")
    return {name: found[name] for name in names}


def heads(net: nn.Module, changing: Sequence[str]) -> tuple[str, ...]:
    """The heads of a net: what it declares, or else the parameters whose shape depends on the number of labels.

    Args:
        net: the meta device is enough.
        changing: those parameters.

    Raises:
        NetError: as `declared`; or it declares one of them to be something else than a head.
    """
    own = declared(net)
    if own is None:
        return tuple(changing)
    _agree(own, changing)
    return tuple(name for name in own if own[name] == "heads")


def _agree(own: Mapping[str, str], heads: Iterable[str]) -> None:
    for name in heads:
        if own[name] != "heads":
            raise NetError(
                f"fedmerge_partition has '{name}' under {own[name]}, and it is a head: "
                "its shape depends on the number of labels"
            )


def kernel_axes(net: nn.Module) -> dict[str, int]:
    """The axis of each parameter that counts output kernels.

    It is 0 for convolutions, linear layers and biases, and 1 for the weights of transposed convolutions,
    (in, out / groups, *k). In a grouped one, kernel j of every group shares index j; where each group makes
    one channel (out = groups), the axis is 0 instead.
    """
    return {
        name: int(
            isinstance(module, _ConvTransposeNd) and value.dim() > 1 and not (module.groups > 1 and value.shape[1] == 1)
        )
        for name, module, value in _parameters(net)
    }


def layers(names: Iterable[str]) -> dict[str, str]:
    """The layer of each name: `"a.conv.weight"` and `"a.conv.bias"` both belong to `"a.conv"`."""
    return {name: name.rpartition(".")[0] or name for name in names}


def check_buffers(net: nn.Module, reestimate: bool = False) -> None:
    """Refuse a net that reads floating-point buffers, since buffers do not travel.

    Non-persistent buffers pass: the net's constructor makes them anew, the same at every site.

    Args:
        net: any module.
        reestimate: running statistics of batch norms are allowed, because `reestimate` will renew them.

    Raises:
        NetError: names the layer and the buffer.
    """
    for path, module in net.named_modules():
        if reestimate and isinstance(module, _BatchNorm):
            continue
        for name, value in module.named_buffers(recurse=False):
            if value.is_floating_point() and name not in module._non_persistent_buffers_set:
                layer = f"layer '{path}' ({type(module).__name__})"
                hint = " (buffers = 're-estimate' allows it)" if isinstance(module, _BatchNorm) else ""
                raise NetError(f"{layer} keeps the floating-point buffer '{name}', which is not merged{hint}")


@torch.no_grad()
def reestimate(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Renew the running statistics of all batch norms, in place, as plain averages over `images`.

    Args:
        net: the net; all its other layers are in evaluation mode meanwhile.
        images: batches, float32, (B, C, *S).

    Raises:
        DataError: `images` is empty.
    """
    batch_norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = {module: module.training for module in net.modules()}
    momenta = [module.momentum for module in batch_norms]
    device = next(net.parameters()).device
    net.eval()
    for module in batch_norms:
        module.reset_running_stats()
        module.momentum = None  # None: a cumulative average, each batch weighs the same
        module.train()
    count = 0
    try:
        for count, image in enumerate(images, start=1):  # noqa: B007
            net(image.to(device))
    finally:
        for module, momentum in zip(batch_norms, momenta):
            module.momentum = momentum
        for layer, mode in modes.items():
            layer.training = mode
    if batch_norms and not count:
        raise DataError("batch-norm statistics cannot be re-estimated from no images")


def _parameters(net: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, owning module, parameter), under the names and in the order of `named_parameters()`."""
    seen: set[int] = set()
    for path, module in net.named_modules():
        for name, value in module.named_parameters(recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), module, value


def _select(names: Iterable[str], wanted: Iterable[str]) -> set[str]:
    """The names that `wanted` lists, by themselves or by a module prefix."""
    known = list(names)
    chosen: set[str] = set()
    for want in wanted:
        found = {name for name in known if name == want or name.startswith(f"{want}.")}
        if not found:
            raise NetError(f"the net has no parameter or layer '{want}'")
        chosen |= found
    return chosen
