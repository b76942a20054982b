"""Reading off a net which axis of which parameter carries which hidden units.

The net runs once on the meta device, where tensors have shapes and no numbers. `Trace` sees every function of torch
that is called, knows which blocks of units lie along axis 1 of each activation (B, C, *S), and lets the function's rule
(`fusion.operations`) say what becomes of them. A function without a rule is refused: a guess could permute what must
stay.
"""

# ruff: noqa: ANN401 - torch functions take and return anything

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedmerge.errors import NetError
from fedmerge.fusion.tied import Block, Span, fix, resolve, tie

Axis = tuple[str, int]  # a parameter's name and one of its axes
Spans = list[Span]
Rule = Callable[..., "Spans | tuple[Spans, ...]"]
"""Called with the trace, what the function returned, and the function's own arguments: the spans of the result."""


class Refusal(Exception):
    """Why an operation cannot be followed; `Trace` adds which operation and layer it was."""


class Trace(TorchFunctionMode):
    """Blocks along the activations and parameters of a net under way; see the module's docstring.

    Args:
        parameters: of the net, on the meta device.
        buffers: likewise.
        rules: name of a torch function -> its rule.

    Attributes:
        axes: (name, axis) -> spans, in the order in which the net first uses them.
        where: the path of the module that is running.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], rules: Mapping[str, Rule]
    ) -> None:
        super().__init__()
        self._rules = rules
        self.axes: dict[Axis, Spans] = {}
        self.where = ""
        self._parameters = {id(value): name for name, value in parameters.items()}
        self._buffers = {id(value): name for name, value in buffers.items()}
        self._known: dict[int, tuple[Tensor, Spans]] = {}  # the tensor too, so that its id is not used again
        self._unread: dict[int, Spans] = {}

    def image(self, x: Tensor) -> None:
        """`x` (B, C, *S) is what the net is given: its channels stay."""
        self._put(x, [(Block(x.shape[1], fixed=True), 1)])

    def close(self, out: Any) -> None:
        """What the net returns, and what no function has read, is an output: its channels stay."""
        for spans in [*self._unread.values(), *(self.of(x) for x in tensors(out) if self.given(x))]:
            fix(spans)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and follow the units through it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        given = list(tensors((args, kwargs)))
        ours = [x for x in given if id(x) in self._known or id(x) in self._parameters]
        try:
            out = func(*args, **kwargs)
            if ours and (out is None or any(True for _ in tensors(out))):
                self._follow(name, out, args, kwargs)
                for x in ours:
                    if not any(x is y for y in tensors(out)):
                        self._unread.pop(id(x), None)
        except (Refusal, RuntimeError) as error:
            layer = f"layer '{self.where}'" if self.where else "the net itself"
            raise NetError(f"units cannot be followed through '{name}' in {layer}: {error}") from None
        return out

    def _follow(self, name: str, out: Any, args: Any, kwargs: Any) -> None:
        rule = self._rules.get(name.strip("_"))
        if rule is None or "out" in kwargs:
            raise Refusal("no rule for this operation is known")
        try:
            bound = signature(rule).bind(self, out, *args, **kwargs)
        except TypeError:
            raise Refusal("its arguments are others than the rule for it expects") from None
        result = rule(*bound.args, **bound.kwargs)
        outs = [out] if isinstance(out, Tensor) else list(out)
        for x, spans in zip(outs, result if isinstance(result, tuple) else (result,), strict=True):
            self._put(x, spans)

    def _put(self, x: Tensor, spans: Spans) -> None:
        self._known[id(x)] = x, spans
        self._unread[id(x)] = spans

    def of(self, x: Tensor) -> Spans:
        """What lies along axis 1 of an activation."""
        if id(x) not in self._known:
            what = f"'{self._parameters[id(x)]}'" if id(x) in self._parameters else "a tensor made in the net"
            raise Refusal(f"it works on {what}, which is not an activation")
        return resolve(self._known[id(x)][1])

    def given(self, x: Tensor) -> bool:
        """Whether `x` is an activation."""
        return id(x) in self._known

    def meet(self, x: Tensor, axis: int, spans: Spans) -> Spans:
        """The parameter's (or statistic's) axis carries what lies along `spans`."""
        own = self.own(x, axis, spans)
        tie(own, spans)
        return resolve(spans)

    def own(self, x: Tensor, axis: int, new: Spans | None = None) -> Spans:
        """What lies along a parameter's axis: when it is first used, `new`, or units of its own."""
        name = self._parameters.get(id(x)) or self._buffers.get(id(x))
        if name is None:
            raise Refusal("its weights are computed in the net, so they are nobody's parameters")
        if (name, axis) not in self.axes:
            self.axes[name, axis] = [(Block(x.shape[axis]), 1)] if new is None else list(new)
        return resolve(self.axes[name, axis])

    def is_parameter(self, x: Tensor) -> bool:
        """Whether `x` is a parameter of the net."""
        return id(x) in self._parameters


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors among the arguments or results of a function."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
