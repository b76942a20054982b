"""The attacks that a site runs on its own contribution before it leaves: training patients against held-out ones.

What is attacked is the contribution as the policy would let it go. The attacker holds it and a patient's images and
labels, and says whether the patient was among those that it was trained on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge import answers, devices, fisher, losses, nets, params, partition, training
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, DataError
from fedmerge.params import Params
from fedmerge.privacy import attacks, inversion
from fedmerge.privacy.separation import Array
from sites import cases, outbound
from sites.cases import Found, Loaded
from sites.config import Site
from sites.progress import report
from sites.scores import Finding, References, evaluated, finding, halves

Patients = dict[str, list[Loaded]]  # patient, or case where the ids do not tell patients -> cases


@dataclass(frozen=True)
class Recipe:
    """How the contribution was made, as far as its file does not say.

    Attributes:
        patch: of the net.
        settings: of the training.
        fisher_cases: how many of the training cases the Fisher is of; 0: all.
        draws: the seed with which its labels were sampled, which the server knows that set the task.
        seed: of the audit's own dice.
        buffers: whether batch norms' statistics are refused or taken anew.
        precision: of the training.
    """

    patch: tuple[int, ...]
    settings: training.Settings
    fisher_cases: int = 0
    draws: int = 0
    seed: int = 0
    buffers: str = "refuse"
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class Drawn:
    """One training patient's image, what came back from the gradient, and the mean image of the other patients.

    Images are (C, *patch); `found` and `baseline` say how near the last two come to the first.
    """

    image: Tensor
    back: Tensor
    mean: Tensor
    found: inversion.Likeness
    baseline: inversion.Likeness


class Audit:
    """A contribution on the bench: the net with its weights, the patients it was trained on, and the others.

    Args:
        site: whose it is.
        made: the contribution in full; it is reduced as the policy says.
        recipe: how it was made.

    Raises:
        ConfigError: it is another site's, or of other labels, regions or channels.
        DataError: the site's cases are not those of the training any more, or none is held back.
    """

    def __init__(self, site: Site, made: Contribution, recipe: Recipe) -> None:
        _check(site, made)
        self.site, self.recipe = site, recipe
        self.made = outbound.reduced(site, made)
        split = cases.split(cases.select(cases.find(site.data), site.data.cases), site.data, seed=0)
        held = (*split.validate, *split.test)
        if len(split.train) != made.cases:
            raise DataError(f"{site.name}: trained on {made.cases} cases, and the site has {len(split.train)} to train")
        if not held:
            raise DataError(
                f"{site.name}: an audit needs cases that were not trained on: `test` or `validate` of [data]"
            )
        self.members, self.others = self._patients(split.train), self._patients(held)
        cohort = split.train[: recipe.fisher_cases or None]
        self.cohort, self.fisher_cases = self._patients(cohort), len(cohort)
        task = answers.of(made.net, made.labels, made.regions)
        self.loss: losses.Loss = task.loss()
        self.likelihood = task.likelihood
        self.net = self._built(0)
        params.load(self.net, {name: made.weights[name] for name in params.shapes(self.net)})
        self._settle(self.net, self.members)

    def _patients(self, found: Iterable[Found]) -> Patients:
        found = list(found)
        patients: Patients = {}
        for one, case in zip(found, cases.load(self.site, found, patch=self.recipe.patch), strict=True):
            patients.setdefault(one.patient or one.id, []).append(case)
        return patients

    def _built(self, seed: int) -> nn.Module:
        settings = self.made.net
        channels = {key: settings[key] for key in ("in_channels", "out_channels")}
        net = nets.build(settings, **channels, seed=seed)
        partition.check_buffers(net, reestimate=self.recipe.buffers == "re-estimate")
        devices.place(net, devices.resolve())
        return net

    def _settle(self, net: nn.Module, patients: Patients) -> None:
        if self.recipe.buffers == "re-estimate":
            partition.reestimate(net, [case.image[None] for case in _all(patients)])

    def membership(self, references: int | References = 0) -> list[Finding]:
        """All membership attacks.

        Args:
            references: models to train for the likelihood-ratio attack, in pairs, or what they told already; 0: it is
                not run.
        """
        loss, nll = self._scores(self.net)
        found = [self._finding("loss threshold", attacks.loss_threshold(loss))]
        if references:
            known = self.references(references) if isinstance(references, int) else references
            few: attacks.Variance = "global" if len(known.saw) < 64 else "patient"
            score = attacks.lira(attacks.logit(nll), known.confidence, known.saw, variance=few)
            found.append(self._finding("LiRA", score))
        else:
            found.append(Finding("LiRA", None, "no reference models were asked for"))
        return [*found, self._domination()]

    def _scores(self, net: nn.Module) -> tuple[Array, Array]:
        """Of each patient, members first: the mean over its cases of the loss, and of the negative log-likelihood."""
        patients = (*self.members.values(), *self.others.values())
        told = partial(evaluated, net, loss=self.loss, likelihood=self.likelihood)
        pairs = [np.mean([told(case) for case in patient], axis=0) for patient in patients]
        loss, nll = np.asarray(pairs, np.float64).T
        return loss, nll

    def _finding(self, attack: str, scores: Array) -> Finding:
        inside = dict(zip(self.members, scores.tolist()))
        outside = dict(zip(self.others, scores[len(self.members) :].tolist(), strict=True))
        return finding(attack, inside, outside)

    def references(self, count: int) -> References:
        """Models trained on halves of all patients, each half with its complement.

        Members and others have the same chance to be in a half, so a reference knows nothing of who was a member. All
        start from fresh weights and train as the campaign says, without validation.
        """
        if count < 4 or count % 2:
            raise ConfigError(f"references expected an even number from 4, got {count}: they come in pairs")
        everyone = [*self.members.values(), *self.others.values()]
        saw = halves(len(everyone), count, self.recipe.seed)
        told = []
        for number, chosen in enumerate(saw):
            report(self.site.name, "reference models", number, count)
            net = self._reference([everyone[k] for k in np.flatnonzero(chosen)], number)
            told.append(attacks.logit(self._scores(net)[1]))
        report(self.site.name, "reference models", count, count)
        return References(np.stack(told), saw)

    def _reference(self, patients: Sequence[list[Loaded]], number: int) -> nn.Module:
        seed, settings = self.recipe.seed + number, replace(self.recipe.settings, validate_every=0, patience=0)
        net, some = self._built(seed), [case for patient in patients for case in patient]
        training.train(
            net,
            cases.batches(some, settings.batch_size, seed, changes=settings.augment),
            settings,
            seed=seed,
            precision=self.recipe.precision,
            loss=self.loss,
        )
        self._settle(net, {str(k): patient for k, patient in enumerate(patients)})
        return net

    def _domination(self) -> Finding:
        """Whether n times the Fisher exceeds a patient's squared gradient; the highest share of its cases counts."""
        name = "Fisher domination"
        if self.made.fisher_labels in ("flat", "none"):
            return Finding(name, None, "no Fisher of these patients leaves")
        inside, outside = (
            {who: max(self._held(case) for case in patient) for who, patient in group.items()}
            for group in (self.cohort, self.others)
        )
        return finding(name, inside, outside)

    def _held(self, case: Loaded) -> float:
        """The share for one case; with sampled labels the highest over the draws of each of the cohort's places.

        The cohort's labels were drawn one case after the other from one generator: so are these, from the same one.
        """
        labels = self.made.fisher_labels
        draws = torch.Generator().manual_seed(self.recipe.draws)
        best = 0.0
        for _ in range(self.fisher_cases if labels == "sampled" else 1):
            squares = fisher.diagonal(
                self.net,
                [(case.image, case.label)],
                self.made.fisher,
                labels=labels,  # type: ignore[arg-type]  # one of the two words
                generator=draws,
                likelihood=self.likelihood,
            )
            if self.site.policy.fisher == "channel":
                squares = outbound.coarse("channel", squares)
            best = max(best, attacks.domination(self.made.fisher, self.fisher_cases, squares))
        return best

    def inversion(self, steps: int) -> Drawn:
        """Draw the first training patient's image back from the gradient that a far adaptation would send of it alone.

        Raises:
            DataError: there is no other patient whose image could be compared.
        """
        (case, *_), *rest = self.members.values()
        others = [*(other for patient in rest for other in patient), *_all(self.others)]
        mean = torch.stack([other.image for other in others]).mean(0)
        settings = self.made.net
        heads = nets.heads(settings, in_channels=settings["in_channels"], out_channels=settings["out_channels"])
        names = [name for name in params.shapes(self.net) if name not in heads]
        seen: Params = inversion.gradient(self.net, case.image, case.label, names, self.loss)
        back = inversion.invert(
            self.net, seen, case.label, tuple(case.image.shape), self.loss, steps=steps, seed=self.recipe.seed
        )
        found, baseline = (inversion.likeness(one, case.image) for one in (back, mean))
        return Drawn(case.image, back, mean, found, baseline)


def _all(patients: Mapping[str, list[Loaded]]) -> list[Loaded]:
    return [case for own in patients.values() for case in own]


def _check(site: Site, made: Contribution) -> None:
    for what, want, got in (
        ("site", site.name, made.site),
        ("labels", tuple(site.data.labels), made.labels),
        ("regions", site.data.answered, {name: list(own) for name, own in made.regions.items()}),
        ("channels", site.data.modalities, made.channels),
    ):
        if want != got:
            raise ConfigError(f"{site.name}: the contribution's {what} expected {want}, got {got}")
