"""Training in less memory: of the forward pass only the results of convs and matrix products are kept.

Everything else (norms, activations, copies) is computed again when the backward pass asks for it. That is cheap where
convs are dear, and in a U-Net it is most of the memory. Computing again what was not kept is Chen et al. 2016
("Training deep nets with sublinear memory cost"), choosing by operation is PyTorch's selective checkpointing. It
needs no knowledge of the net, and the gradients are those of a plain pass, bit for bit, because the same
operations meet the same numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten
KEPT = frozenset(
    {
        aten.convolution.default,
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
    }
)
"""What is dear to compute, and therefore kept."""

Result = TypeVar("Result")


def sparingly(forward: Callable[[], Result], again: Callable[[], None]) -> Result:
    """What `forward` gives, with a graph that holds little.

    Args:
        forward: a forward pass without arguments; it is called once now and once in the backward pass.
        again: called before the second time, to put random numbers back to where they were before the first.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        first, second = create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]  # torch's
        return first, _after(again, second)

    result: Result = checkpoint(forward, use_reentrant=False, context_fn=contexts)
    return result


def _policy(_ctx: object, operation: object, *_args: object, **_options: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _after(first: Callable[[], None], then: AbstractContextManager[Any]) -> Iterator[None]:
    first()
    with then:
        yield
