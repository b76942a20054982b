"""What becomes of hidden units in each operation that a net may use: the rules of `fusion.tracing`.

A rule has the arguments of its torch function, after the trace and what the function returned. It ties the axes of the
weights to what lies along the input, and gives what lies along axis 1 of the result. A rule may tie, cut or fix more
than it must; what it must not do is to leave out something.
"""

# ruff: noqa: ANN401 - torch functions take anything

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedmerge.fusion.tied import Block, cut, resolve, tie
from fedmerge.fusion.tracing import Refusal, Rule, Spans, Trace, tensors


def _conv(t: Trace, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
          padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Spans:  # fmt: skip
    """Weight (out, in / groups, *k). A depthwise conv hands its units through."""
    _batched(input, weight)
    spans = t.of(input)
    if groups == input.shape[1] == weight.shape[0]:
        made = t.meet(weight, 0, spans)
    else:
        for part in _parts(spans, groups, input.shape[1]):  # one axis serves all groups, so they are permuted alike
            t.meet(weight, 1, part)
        parts = _parts(t.own(weight, 0), groups, weight.shape[0])  # each group makes units of its own
        made = [span for part in parts for span in part]
    return made if bias is None else t.meet(bias, 0, made)


def _conv_transpose(t: Trace, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                    padding: Any = 0, output_padding: Any = 0, groups: int = 1, *rest: Any,
                    **others: Any) -> Spans:  # fmt: skip
    """Weight (in, out / groups, *k)."""
    _batched(input, weight)
    spans = t.meet(weight, 0, t.of(input))
    if groups == input.shape[1] and weight.shape[1] == 1:
        made = spans
    else:
        _parts(spans, groups, input.shape[1])
        made = t.own(weight, 1) * groups
    return made if bias is None else t.meet(bias, 0, made)


def _linear(t: Trace, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Spans:
    """Weight (out, in), of an input (B, in)."""
    if input.ndim != 2:
        raise Refusal(f"a linear layer can be followed on (B, C), not on {input.ndim} axes")
    t.meet(weight, 1, t.of(input))
    made = t.own(weight, 0)
    return made if bias is None else t.meet(bias, 0, made)


def _norm(t: Trace, out: Tensor, input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
          weight: Tensor | None = None, bias: Tensor | None = None, *rest: Any, **others: Any) -> Spans:  # fmt: skip
    """Instance and batch norm: every number belongs to one channel."""
    spans = t.of(input)
    for value in (running_mean, running_var, weight, bias):
        if value is not None:
            t.meet(value, 0, spans)
    return spans


def _group_norm(t: Trace, out: Tensor, input: Tensor, num_groups: int, weight: Tensor | None = None,
                bias: Tensor | None = None, eps: float = 1e-5) -> Spans:  # fmt: skip
    """Units of one group share a mean and a variance, so they change places within their group only."""
    spans = t.of(input)
    if num_groups < input.shape[1]:
        _parts(spans, num_groups, input.shape[1])
    for value in (weight, bias):
        if value is not None:
            t.meet(value, 0, spans)
    return resolve(spans)


def _prelu(t: Trace, out: Tensor, input: Tensor, weight: Tensor) -> Spans:
    """One slope for all channels, or one each."""
    return t.of(input) if weight.numel() == 1 else t.meet(weight, 0, t.of(input))


def _cat(t: Trace, out: Tensor, tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None) -> Spans:
    """Along axis 1 one after the other; along another axis all are permuted alike."""
    dim = (dim if axis is None else axis) % out.ndim
    if dim == 1:
        return [span for x in tensors for span in t.of(x)]
    spans = t.of(tensors[0])
    for x in tensors[1:]:
        tie(spans, t.of(x))
    return spans


def _pointwise(t: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Spans:
    """Entry by entry, with broadcasting: whatever has channels is permuted alike, a single channel serves all."""
    found: Spans = []
    if not any(t.given(x) for x in tensors((args, kwargs))):
        raise Refusal("it computes with parameters alone")
    for x in tensors((args, kwargs)):
        axis = 1 - (out.ndim - x.ndim)  # the axis of x that lies along axis 1 of the result
        if t.given(x) and axis != 1:
            raise Refusal("it joins activations with different numbers of axes")
        if axis < 0 or x.shape[axis] != out.shape[1]:
            continue
        if t.given(x):
            spans = t.of(x)
        elif t.is_parameter(x):
            spans = t.own(x, axis)
        else:  # constants
            spans = [(Block(x.shape[axis], fixed=out.shape[1] > 1), 1)]
        if found:
            tie(found, spans)
        else:
            found = spans
    return resolve(found)


def _same(t: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Spans:
    """The first argument with its channels in their places, whatever the others are."""
    return t.of(x)


def _spatial(t: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Spans:
    """Pooling and resampling: each channel by itself."""
    if not isinstance(out, Tensor) or out.ndim != x.ndim or out.shape[:2] != x.shape[:2]:
        raise Refusal("it gives more than one activation of as many channels")
    return t.of(x)


def _pool(sides: int) -> Rule:
    def rule(t: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Spans:
        if x.ndim != sides + 2:
            raise Refusal(f"expected (B, C) and {sides} sides, got {x.ndim} axes")
        return _spatial(t, out, x)

    return rule


def _pad(t: Trace, out: Tensor, input: Tensor, pad: Sequence[int], *args: Any, **kwargs: Any) -> Spans:
    """Margins around the image, never around the channels."""
    if len(pad) > 2 * (input.ndim - 2):
        raise Refusal("it adds channels")
    return t.of(input)


def _reshape(t: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Spans:
    """(B, C, *S) to (B, C, *S') with as many voxels, or to (B, C * voxels): then a unit takes several entries."""
    if out.ndim >= 2 and out.shape[:2] == x.shape[:2]:
        return t.of(x)
    if out.ndim == 2 and out.shape[0] == x.shape[0]:
        voxels = math.prod(x.shape[2:])
        return [(block, width * voxels) for block, width in t.of(x)]
    raise Refusal(f"from {tuple(x.shape)} to {tuple(out.shape)} the channels do not keep an axis of their own")


def _reduce(t: Trace, out: Tensor, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Spans:
    """A mean, sum or extreme over voxels keeps the units; one over the channels depends on no order of theirs."""
    dims = {d % input.ndim for d in ([dim] if isinstance(dim, int) else dim or range(input.ndim))}
    if 0 in dims or (1 in dims and not keepdim):
        raise Refusal("it takes the axis of the cases or of the channels away")
    return [(Block(1, fixed=True), 1)] if 1 in dims else t.of(input)


def _pieces(t: Trace, out: Sequence[Tensor], x: Tensor, size: Any, dim: int = 0) -> tuple[Spans, ...]:
    """`split` and `chunk`."""
    if dim % x.ndim != 1:
        return tuple(t.of(x) for _ in out)
    rest, pieces = t.of(x), []
    for piece in out:
        head, rest = cut(rest, piece.shape[1])
        pieces.append(head)
    return tuple(pieces)


def _getitem(t: Trace, out: Tensor, x: Tensor, index: Any) -> Spans:
    """Slices of any axis; of the channels only without a step."""
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, slice) or i is ... for i in index) or index.count(...) > 1:
        raise Refusal("it takes channels by something other than slices")
    axes = list(index)
    if ... in axes:
        at = axes.index(...)
        axes[at : at + 1] = [slice(None)] * (x.ndim - len(axes) + 1)
    start, stop, step = (axes[1] if len(axes) > 1 else slice(None)).indices(x.shape[1])
    if step != 1:
        raise Refusal("it takes channels with a step")
    return cut(cut(t.of(x), stop)[0], start)[1]


def _parts(spans: Spans, groups: int, channels: int) -> list[Spans]:
    """The spans of each group of channels."""
    parts, rest = [], spans
    for _ in range(groups):
        part, rest = cut(rest, channels // groups)
        parts.append(part)
    return [resolve(part) for part in parts]


def _batched(input: Tensor, weight: Tensor) -> None:
    if input.ndim != weight.ndim:
        raise Refusal("its input has no axis of cases")


POINTWISE = """
    abs add clamp clamp_max clamp_min div elu celu selu exp gelu hardsigmoid hardswish hardtanh iadd imul isub itruediv
    leaky_relu lerp log log1p log_softmax logsigmoid maximum minimum mish mul multiply neg pow radd rdiv relu relu6 rmul
    rsqrt rsub rtruediv sigmoid silu softmax softplus softsign sqrt square sub tanh true_divide truediv where
"""
SAME = """
    alpha_dropout clone contiguous cpu detach double dropout dropout1d dropout2d dropout3d feature_alpha_dropout float
    to type type_as
"""
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), _pointwise),
    **dict.fromkeys(SAME.split(), _same),
    **{f"conv{d}d": _conv for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _conv_transpose for d in (1, 2, 3)},
    **{f"{kind}_pool{d}d": _pool(d) for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)},
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduce),
    **dict.fromkeys(("split", "chunk"), _pieces),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "linear": _linear,
    "instance_norm": _norm,
    "batch_norm": _norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    "interpolate": _spatial,
    "pad": _pad,
    "getitem": _getitem,
}
