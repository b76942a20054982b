"""Gradient inversion: an image comes back from a small net's gradient, and does not from one drowned in noise."""

import pytest
import torch
from small_nets import make

from fedmerge import losses, params
from fedmerge.errors import DataError, NetError
from fedmerge.privacy import inversion

SIZE = 8


pytestmark = pytest.mark.usefixtures("one_thread")


def patient(number):
    """A disc in a disc at a place of its own, on stripes: image (1, 8, 8), label (1, 8, 8)."""
    g = torch.Generator().manual_seed(number)
    at = (0.3 + 0.4 * torch.rand(2, 1, 1, generator=g)) * SIZE
    grid = torch.stack(torch.meshgrid(torch.arange(1.0 * SIZE), torch.arange(1.0 * SIZE), indexing="ij"))
    far = ((grid - at) ** 2).sum(0)
    label = (far < (SIZE / 4) ** 2).long() + (far < (SIZE / 8) ** 2).long()
    image = label + torch.sin(0.9 * grid[0] + number) + 0.15 * torch.randn(label.shape, generator=g)
    return ((image - image.mean()) / image.std())[None], label[None]


def seen(net, noise=0.0):
    """The gradient of patient 0, with noise in units of its own root mean square."""
    found = inversion.gradient(net, *patient(0), [name for name, _ in net.named_parameters()], losses.dice_ce())
    size = torch.cat([value.flatten() for value in found.values()]).square().mean().sqrt()
    g = torch.Generator().manual_seed(1)
    return {name: value + noise * size * torch.randn(value.shape, generator=g) for name, value in found.items()}


def drawn(net, noise):
    """How near the image that comes back is to the patient's."""
    image, label = patient(0)
    back = inversion.invert(net, seen(net, noise), label, image.shape, losses.dice_ce(), steps=120)
    return inversion.likeness(back, image)


def test_a_patient_s_image_comes_back_from_its_gradient_and_not_from_noise():
    """Nearer than the mean image of seven others; noise of ten times the gradient's size takes that away."""
    net, image = make(2, width=8), patient(0)[0]
    baseline = inversion.likeness(torch.stack([patient(k)[0] for k in range(1, 8)]).mean(0), image)
    plain, drowned = drawn(net, 0.0), drawn(net, 10.0)
    assert plain.ncc > 0.8 > baseline.ncc + 0.3
    assert drowned.ncc < plain.ncc - 0.4
    assert plain.psnr > drowned.psnr


def test_the_gradient_is_that_of_one_patient_in_evaluation_mode():
    """As autograd has it with dropout off; net and flags are as before, for a parameter that is not trained too."""
    net, (image, label) = make(2).train(), patient(0)
    net.head.bias.requires_grad_(False)
    before = params.of(net)
    found = inversion.gradient(net, image, label, ["stem.weight", "head.bias"], losses.dice_ce())
    assert net.training
    assert not net.head.bias.requires_grad
    assert params.digest(before) == params.digest(params.of(net))
    net.eval()
    losses.dice_ce()(net(image[None]), label[None]).backward()
    torch.testing.assert_close(found["stem.weight"], net.stem.weight.grad)
    assert list(found) == ["stem.weight", "head.bias"]


def test_the_same_seed_draws_the_same_image():
    """Bit for bit, in 3D too; another seed another one."""
    net, g = make(3, width=2), torch.Generator().manual_seed(0)
    image, label = torch.randn(1, 4, 4, 4, generator=g), torch.randint(0, 3, (1, 4, 4, 4), generator=g)
    loss = losses.dice_ce()
    target = inversion.gradient(net, image, label, ["stem.weight", "down.weight"], loss)
    one, two, other = (
        inversion.invert(net, target, label, image.shape, loss, steps=5, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_likeness_by_hand():
    """Range 3 and a constant error of 0.3 are 20 decibels; correlation does not see brightness, nor a constant."""
    truth = torch.tensor([0.0, 1.0, 2.0, 3.0])
    found = inversion.likeness(truth + 0.3, truth)
    assert found.ncc == pytest.approx(1.0)
    assert found.psnr == pytest.approx(20.0, abs=1e-4)
    assert inversion.likeness(torch.ones(4), truth).ncc == 0.0
    assert inversion.likeness(-truth, truth).ncc == pytest.approx(-1.0)


def test_total_variation_by_hand():
    """Rows 0 0 and 1 3: down 1 and 3, mean 2; across 0 and 2, mean 1."""
    assert inversion.total_variation(torch.tensor([[[0.0, 0.0], [1.0, 3.0]]])).item() == 3.0


def test_what_cannot_be_inverted_is_refused():
    """A gradient of zeros, and a name that the net does not have."""
    net, (image, label) = make(2), patient(0)
    with pytest.raises(DataError, match="zeros"):
        inversion.invert(net, {"head.bias": torch.zeros(3)}, label, image.shape, losses.dice_ce(), steps=1)
    with pytest.raises(NetError, match="nonsense"):
        inversion.gradient(net, image, label, ["nonsense"], losses.dice_ce())
