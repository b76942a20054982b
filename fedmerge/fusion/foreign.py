"""Methods of other packages: entry points of the group `fedmerge.methods`. `docs/extending.md` is the contract.

An entry point gives a row, or a row and the function of its rule. The row's name is the entry point's.
"""

from collections.abc import Callable, Collection
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from fedmerge import plugins
from fedmerge.errors import ConfigError
from fedmerge.fusion.grains import GRAINS
from fedmerge.params import Params
from fedmerge.plugins import Plugin

if TYPE_CHECKING:
    from fedmerge.fusion import Method

GROUP = "fedmerge.methods"
BUILT_IN = ("mean", "mode", "task-arithmetic", "ties")
Rule = Callable[..., Params]


def names(taken: Collection[str]) -> tuple[str, ...]:
    """The methods that installed packages add."""
    return tuple(name for name in plugins.names(GROUP) if name not in taken)


def row(name: str, taken: Collection[str]) -> "Method | None":
    """The row of a name; None where no installed package has one.

    Raises:
        ConfigError: as `plugins.find` and `Plugin.load`; or what is there is no row that could be in the table.
    """
    found = _load(name, taken)
    return found[0] if found else None


def rule(name: str, taken: Collection[str]) -> Rule | None:
    """The function of a rule: (ancestor, models, names, scale=, density=) -> merged weights; None: nobody has it.

    Raises:
        ConfigError: as `row`.
    """
    found = _load(name, taken) if name not in BUILT_IN else None
    return found[1] if found else None


def _load(name: str, taken: Collection[str]) -> "tuple[Method, Rule | None] | None":
    found = plugins.find(GROUP, name, taken)
    if found is None:
        return None
    made = found.load()
    method, own = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    _check(found, method, own)
    return method, own


def _check(found: Plugin, method: Any, own: Any) -> None:  # noqa: ANN401 - whatever the package has there
    from fedmerge.fusion import Method  # the table's module imports this one

    if not isinstance(method, Method) or not (own is None or callable(own)):
        got = " and ".join(type(one).__name__ for one in (method, own) if one is not None)
        raise ConfigError(f"{found}: expected a Method, or a Method and a function, got {got}")
    if method.name != found.name:
        raise ConfigError(f"{found}: its row is called '{method.name}', expected the entry point's own name")
    for one in fields(Method):
        hint = get_type_hints(Method)[one.name]
        value = getattr(method, one.name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ConfigError(f"{found}: {one.name} expected one of {', '.join(get_args(hint))}, got {value!r}")
    if method.grain not in GRAINS:
        raise ConfigError(f"{found}: grain expected one of {', '.join(GRAINS)}, got {method.grain!r}")
    if own is None and method.rule not in (None, *BUILT_IN):
        raise ConfigError(f"{found}: rule expected one of {', '.join(BUILT_IN)}, or a function, got {method.rule!r}")
    if own is not None and method.rule != found.name:
        raise ConfigError(f"{found}: its row's rule expected '{found.name}', as the function is its own")
    if method.rule is not None and method.sources != "all":
        raise ConfigError(f"{found}: a rule merges several models, and sources is '{method.sources}', expected 'all'")
    if method.rule not in (None, "mean", "mode") and (method.chooser != "given" or method.norms == "merged"):
        raise ConfigError(
            f"{found}: the rule '{method.rule}' has no ratios: chooser expected 'given', norms not 'merged'"
        )
