"""What a plan cannot run: methods that its other settings stand against, and settings that exclude each other."""

from typing import TYPE_CHECKING

from fedmerge import fusion, heads, nets, training
from fedmerge.errors import ConfigError, FedmergeError
from fedmerge.fusion import recipe
from fedmerge.privacy import accountant, dpsgd
from fedmerge.privacy.hello import MOST
from fedmerge.privacy.transcript import LEAST
from server.stages import Evaluate

if TYPE_CHECKING:
    from server.plan import Plan


def check_method(plan: "Plan", method: fusion.Method) -> None:
    """Refuse what this plan cannot run.

    Raises:
        ConfigError: the method would show the target a single source's model although the fit is far, or needs sources
            where there are none.
    """
    if plan.fit == "far" and (method.sources in ("one", "last") or method.heads == "stitched"):
        raise ConfigError(
            f"{method.name} shows the target one hospital's own model, which fit = 'far' promises not to do"
        )
    if plan.fit == "far" and (method.sources == "rounds" or recipe.combines(method) or method.norms == "merged"):
        raise ConfigError(f"{method.name} merges before the target's part begins: run it with fit = 'near'")
    if plan.trust != "server" and method.sources == "rounds":
        raise ConfigError(
            f"{method.name} averages at the server, and with trust = '{plan.trust}' it can read no weights"
        )
    if plan.fit == "far" and method.admit:
        raise ConfigError(f"{method.name} tries merges of some sources at the target: run it with fit = 'near'")
    if method.training in fusion.CHAINED and plan.schedule != "chain":
        raise ConfigError(f"{method.name} trains each source on the one before: it needs schedule = 'chain'")
    if plan.train.fisher == "target" and method.training in ("ewc", "fedavg-fisher"):
        raise ConfigError(f"{method.name} needs the sources' Fishers, and with [train] fisher = 'target' none leaves")
    if plan.train.private and (method.sources == "rounds" or method.training == "ewc"):
        why = "every round is a release of its own" if method.sources == "rounds" else "it needs the sources' Fishers"
        raise ConfigError(f"{method.name} does not go with differential privacy ([train] epsilon, dp_noise): {why}")
    if method.training != "plain" and any(member.contribution for member in plan.members):
        raise ConfigError(
            f"{method.name} trains its sources in its own way, and a given contribution cannot stand for it"
        )
    if method.heads == "stitched":
        channels = {"in_channels": 1, "out_channels": 2}
        heads.axes(nets.on_meta(plan.net, **channels), nets.heads(plan.net, **channels))
    if method.soup and plan.finetune.validate_every == 0:
        raise ConfigError(f"{method.name} chooses by validation: it needs [finetune] validate_every")
    if method.sources == "pooled":
        for site in plan.raw.get("site", []):
            if site.get("role") == "source" and "data" in site and "pooled_labels" not in site["data"]:
                raise ConfigError(f"{site['name']}: the method 'pooled' needs pooled_labels in [site.data], got none")
    if method.sources in ("all", "last", "rounds", "candidates") and not plan.sources:
        raise ConfigError(f'{method.name} needs at least one site with role = "source", got none')
    if plan.trust == "group":
        _check_summed(method)


def check_trust(plan: "Plan") -> None:
    """Refuse settings that a campaign cannot have in which the server reads no weights.

    Raises:
        ConfigError: names the key.
    """
    if plan.groups and plan.trust != "group":
        raise ConfigError(f"groups are for trust = 'group', got them with trust = '{plan.trust}'")
    if plan.trust == "server":
        return
    why = f"with trust = '{plan.trust}' the server can read no weights"
    if plan.fit == "far":
        raise ConfigError(f"fit = 'far' merges at the server: {why}")
    for member in plan.members:
        if member.contribution:
            raise ConfigError(f"site '{member.name}': contribution = FILE lies open at the server: {why}")
    if plan.trust == "group":
        _check_groups(plan)


def _check_groups(plan: "Plan") -> None:
    """The plan of a campaign of masked sums."""
    if plan.schedule != "parallel":
        raise ConfigError(
            "schedule = 'chain' shows each source the model of the one before it; "
            "trust = 'group' needs schedule = 'parallel'"
        )
    if plan.absent == "without":
        raise ConfigError("absent = 'without': with trust = 'group' a group is summed as a whole or not at all")
    if len(plan.targets) != 1:
        raise ConfigError(f"trust = 'group' expected one target, which opens the sums, got {len(plan.targets)}")
    if not plan.groups:
        raise ConfigError('trust = "group" needs groups, such as groups = [["north", "south", "west"]], got none')
    placed = [site for group in plan.groups for site in group]
    for name, group in plan.grouped.items():
        if not LEAST <= len(group) <= MOST:
            raise ConfigError(f"groups: {name} expected {LEAST} to {MOST} sources, got {len(group)}")
        if name in plan.sources:
            raise ConfigError(f"groups: a site is called '{name}', as a group is; give it another name")
        for site in group:
            if site not in plan.sources:
                raise ConfigError(f"groups: {name} expected sources of {', '.join(plan.sources)}, got '{site}'")
    for site in plan.sources:
        if (times := placed.count(site)) != 1:
            raise ConfigError(f"groups expected each source in one of them, got {site} in {times or 'none'}")


def _check_summed(method: fusion.Method) -> None:
    """What a method can do with one sum of each group, of the layers that all sites share.

    Raises:
        ConfigError: it needs a source's own model, its heads or norms, or sources that began apart.
    """
    why = "with trust = 'group' the target has sums of the sources' shared layers only"
    if method.sources in ("one", "last"):
        raise ConfigError(f"{method.name} begins with a single model, and {why}")
    if method.sources == "all" and (method.heads == "stitched" or method.norms == "kept"):
        raise ConfigError(f"{method.name} takes heads or norms of a source's own, and {why}")
    if method.training not in ("plain", "parallel"):
        raise ConfigError(f"{method.name} trains its sources in another way than side by side from one start: {why}")


def check_volumes(plan: "Plan", where: str) -> None:
    """Refuse what is for volumes where images are answered by one class, and losses of levels that a net has not.

    Raises:
        ConfigError: names the key.
    """
    phases = {"train": plan.train, "adapt": plan.adapt, "finetune": plan.finetune}
    like = nets.on_meta(plan.net, in_channels=1, out_channels=2)
    for name, stage in phases.items():
        if stage.deep and not hasattr(like, "levels"):
            raise ConfigError(
                f"{where}: [{name}] deep expected a net with logits of several levels (isensee2017, or dynunet with "
                f"coarse_heads), got {plan.net['name']}"
            )
        if stage.augment and plan.task != "segmentation":
            raise ConfigError(f"{where}: [{name}] augment is for volumes, and [campaign] task is '{plan.task}'")
    if plan.task == "segmentation":
        return
    if plan.field != "centre":
        raise ConfigError(f"{where}: [net] field = '{plan.field}' is for volumes, and [campaign] task is '{plan.task}'")
    if plan.evaluate != Evaluate():
        raise ConfigError(f"{where}: [evaluate] is for volumes, and [campaign] task is '{plan.task}'")


def check_sources(plan: "Plan", place: str) -> None:
    """Refuse settings of `[train]` that stand against each other: the Fisher's place, and differential privacy.

    Raises:
        ConfigError: names the key.
    """
    if plan.trust == "group" and plan.train.fisher == "target":
        raise ConfigError(f"{place} fisher = 'target': a sum has no heads to draw labels from; leave the key out")
    train, given = plan.train, plan.raw.get("train", {})
    if train.fisher == "target" and plan.fit == "far":
        raise ConfigError(f"{place} fisher = 'target': the server has no Fisher to merge with; set fit = 'near'")
    if not train.private:
        return
    if train.epsilon and train.dp_noise:
        raise ConfigError(f"{place} expected either epsilon or dp_noise, got both")
    for key in ("fisher", "fisher_cases"):
        if key in given and train.fisher != "target":
            words = "no Fisher leaves with differential privacy; leave the key out, or set fisher = 'target'"
            raise ConfigError(f"{place} {key}: {words}")
    asked = {key: getattr(train, key) for key in ("validate_every", "patience")}
    try:
        like = nets.on_meta(plan.net, in_channels=1, out_channels=2)
        dpsgd.check(like, training.Settings(steps=1, lr=1.0, clip_norm=train.clip_norm or None, **asked))
        accountant.epsilon([accountant.Training(1.0, 1.0, 1)], train.delta, "rdp")
    except FedmergeError as error:
        raise ConfigError(f"{place} {error}") from None
