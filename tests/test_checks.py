"""What speaks against trusting an attack is warned of, and nothing else is."""

import warnings

import pytest
import torch
from small_networks import IOU, Linear, attack, healthy
from torch import nn


class Failing(Linear):
    """Answers with not-a-number where a pixel is bright enough."""

    def forward(self, images):
        bright = images.detach().amax(dim=(1, 2, 3))[:, None, None, None] > 0.52
        return super().forward(images) * torch.where(bright, float("nan"), 1.0)


@pytest.mark.parametrize("options", [{"keep": "loss"}, {"keep": "iou"}, {"stop_at": 5}])
def test_an_iterate_that_is_not_a_number_is_no_success(options):
    _, images, labels = healthy()
    images = images.clamp(-0.5, 0.5)
    with pytest.warns(UserWarning, match="not a number at some steps"):
        result = attack(
            Failing(16).eval(), images, labels, steps=8, step_size=0.01, classes=(1,), **options
        )
    assert result.loss.isnan().any()
    if "keep" in options:
        assert Failing(16)(result.adv_images).isfinite().all()
        assert (result.iou.gather(0, result.taken[None]) > 5).all()


def test_a_network_whose_gradient_points_the_wrong_way_is_warned_of_whatever_is_kept():
    class Inverted(Linear):
        def forward(self, images):
            return super().forward(images.detach() * 2 - images)

    _, images, labels = healthy()
    for keep in ("last", "loss", "iou"):
        with pytest.warns(UserWarning, match="no better than without attack"):
            attack(Inverted(16).eval(), images, labels, keep=keep, classes=(1,), steps=20)


def test_a_network_that_couples_the_images_of_a_batch_is_warned_of():
    network = nn.Sequential(
        nn.BatchNorm2d(1, affine=False, track_running_stats=False), Linear(16)
    ).eval()
    _, images, labels = healthy()
    images[0] *= 0.1
    assert "depends on its batch" in warned(network, images, labels, steps=20)


def warned(network, images, labels, **options):
    with pytest.warns(UserWarning) as caught:
        result = attack(network, images, labels, **options)
    assert [str(w.message) for w in caught] == list(result.warnings)
    return "\n".join(result.warnings)


def test_a_healthy_attack_warns_of_nothing():
    network, images, labels = healthy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for targeted in (False, True):
            assert attack(network, images, labels, steps=20, targeted=targeted).warnings == ()
        assert attack(network, images, labels, epsilon=0).warnings == ()


def test_training_mode_is_warned_of_where_it_makes_a_difference():
    network, images, labels = healthy()
    assert not attack(network.train(), images, labels, steps=20).warnings
    network = nn.Sequential(nn.BatchNorm2d(1, affine=False), network).train()
    assert "training mode" in warned(network, images, labels, steps=20)


def test_random_answers_are_warned_of():
    class Noisy(Linear):
        def forward(self, images):
            return super().forward(images) + 0.01 * torch.randn(len(images), 2, *images.shape[2:])

    _, images, labels = healthy()
    assert "differently each time" in warned(Noisy(16).eval(), images, labels, steps=20)


def test_probabilities_are_warned_of():
    class Softmax(Linear):
        def forward(self, images):
            return super().forward(images).softmax(dim=1)

    _, images, labels = healthy()
    assert "probabilities" in warned(Softmax(16).eval(), images, labels, steps=20)


def test_probabilities_of_sigmoids_are_warned_of():
    class Sigmoids(Linear):
        def forward(self, images):
            return super().forward(images).sigmoid()

    _, images, labels = healthy()
    assert "probabilities" in warned(Sigmoids(16).eval(), images, labels, steps=20)


def test_images_of_0_to_1_in_the_default_range_are_asked_about():
    network, images, labels = healthy()
    bright = (images + 1) / 2
    asked = "no image is below 0, but noise may be: is value_range (0, 1)?"
    assert asked in warned(network, bright - bright.min(), labels, steps=20)
    assert not attack(network, bright, labels, steps=20, value_range=(0, 1)).warnings
    some = bright.clone()
    some[0] -= 0.5
    assert not attack(network, some, labels, steps=20).warnings


def test_images_without_a_gradient_are_warned_of():
    class Blind(Linear):
        def forward(self, images):
            return super().forward(images * (images[:, :, :1, :1] > 0))

    _, images, labels = healthy()
    images[:3, 0, 0, 0], images[3:, 0, 0, 0] = 0.4, -0.4
    assert "1 of 4 images: no gradient" in warned(Blind(16).eval(), images, labels, steps=20)


def test_a_loss_that_does_not_improve_is_warned_of():
    network, images, labels = healthy()
    worse = lambda logits, labels: -IOU(logits, labels).detach() + 0 * logits.sum(dim=(1, 2, 3))  # noqa: E731
    assert "no better than without attack" in warned(network, images, labels, loss=worse, steps=20)


def test_an_attack_weaker_than_random_noise_is_warned_of():
    class Staircase(Linear):  # flat but for steps, and its gradient points the wrong way
        def forward(self, images):
            stairs = (images * 20).round() / 20
            return super().forward(stairs.detach() - 1e-6 * (images - images.detach()))

    _, images, labels = healthy()
    assert "random noise of the same size does better" in warned(
        Staircase(16).eval(), images, labels, steps=20
    )


def test_logits_that_are_no_numbers_under_random_noise_do_not_end_an_attack():
    _, images, labels = healthy()
    images = images.clamp(-0.5, 0.5)
    images[0] *= 0.5  # the first image answers with numbers, others do not
    result = attack(Failing(16).eval(), images, labels, step_size=1e-6)
    assert result.adv_images.isfinite().all()
