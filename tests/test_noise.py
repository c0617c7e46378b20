"""Random and shuffled noise, and the rounding of image files."""

import pytest
import torch
from small_networks import attack, make_case, unet

from helpers.noise import round_to_bits, shuffle_noise, uniform_noise


def test_uniform_noise_is_uniform_within_epsilon():
    noise = uniform_noise(torch.zeros(4, 1, 100, 100), epsilon=0.2, seed=3)
    assert noise.dtype == torch.float32 and noise.abs().max() <= 0.2
    for image in noise:
        assert abs(image.mean()) < 0.005 and abs(image.std() - 0.2 / 3**0.5) < 0.003
        assert torch.histc(image, 10, -0.2, 0.2).sub(1000).abs().max() < 150


def test_an_image_gets_the_same_uniform_noise_whatever_epsilon_and_the_rest_of_the_batch_are():
    images = torch.zeros(5, 1, 7, 7)
    noise = uniform_noise(images, epsilon=torch.tensor([0, 0.1, 0.2, 0.4, 1]), seed=1)
    alike = uniform_noise(images, epsilon=1.0, seed=1)
    torch.testing.assert_close(
        noise, alike * torch.tensor([0, 0.1, 0.2, 0.4, 1])[:, None, None, None]
    )
    assert torch.equal(uniform_noise(images[:2], epsilon=1.0, seed=1), alike[:2])
    assert not torch.equal(alike[0], alike[1])
    assert not torch.equal(uniform_noise(images, epsilon=1.0, seed=2), alike)


def test_shuffled_noise_keeps_its_values_and_loses_its_places():
    images = make_case(3)[0] * 0.5
    noise = make_case(3, seed=1)[0] * 0.1
    shuffled = shuffle_noise(images, images + noise, seed=4)
    moved = shuffled - images
    torch.testing.assert_close(
        moved.flatten(1).sort().values, noise.flatten(1).sort().values, atol=1e-6, rtol=0
    )
    assert (moved - noise).abs().gt(1e-4).float().mean() > 0.9
    assert torch.equal(shuffled, shuffle_noise(images, images + noise, seed=4))
    assert not torch.equal(shuffled, shuffle_noise(images, images + noise, seed=5))


def test_shuffled_noise_takes_another_permutation_for_each_image_and_stays_in_the_valid_range():
    images, noise = (
        torch.zeros(2, 1, 8, 8),
        torch.linspace(-0.5, 0.5, 64).view(1, 1, 8, 8).expand(2, 1, 8, 8),
    )
    shuffled = shuffle_noise(images, images + noise)
    assert not torch.equal(shuffled[0], shuffled[1])
    found = shuffle_noise(images + 0.8, images + 0.8 + noise)
    assert float(found.min()) == pytest.approx(0.3) and float(found.max()) == 1


@pytest.mark.parametrize("bits", [1, 2, 8, 12])
def test_rounding_keeps_the_extremes_is_at_most_half_a_level_off_and_done_once(bits):
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(bits)) * 2 - 1
    images[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    rounded, level = round_to_bits(images, bits), 2 / (2**bits - 1)
    assert rounded.dtype == torch.float32 and rounded.shape == images.shape
    assert rounded[0, 0, 0, :2].tolist() == [-1, 1] and rounded.abs().max() <= 1
    assert (rounded - images).abs().max() <= level * 0.5 + 2e-6
    assert torch.equal(round_to_bits(rounded, bits), rounded)
    assert len(rounded.unique()) <= 2**bits
    steps = (rounded.double() + 1) / level
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)


def test_one_bit_is_black_and_white():
    images = torch.tensor([-1, -0.51, -0.01, 0.01, 0.51, 1]).view(1, 1, 1, 6)
    assert round_to_bits(images, 1).flatten().tolist() == [-1, -1, -1, 1, 1, 1]


def test_images_of_so_many_bits_come_through_rounding_unchanged():
    grey = torch.arange(256, dtype=torch.float32)
    torch.testing.assert_close(
        round_to_bits(grey / 127.5 - 1, 8), grey / 127.5 - 1, atol=2e-7, rtol=0
    )


@pytest.mark.parametrize("epsilon", [0.01, 0.04])
def test_a_rounded_attack_is_at_most_half_a_level_beyond_epsilon_and_can_be_attacked_again(epsilon):
    network, (images, labels) = unet(), make_case(2)
    adv_images = attack(network, images, labels, epsilon=epsilon).adv_images
    rounded = round_to_bits(adv_images, 8)
    assert not torch.equal(rounded, adv_images)
    assert (rounded - images).abs().max() <= epsilon + 1 / 255 + 1e-6
    attack(network, rounded, labels, epsilon=epsilon)  # still within the valid range


def test_uniform_noise_refuses_a_bad_epsilon():
    with pytest.raises(ValueError, match="epsilon is nan"):
        uniform_noise(torch.zeros(2, 1, 4, 4), epsilon=float("nan"))
    with pytest.raises(ValueError, match=r"epsilon is \[1\.0, 1\.0, 1\.0\]"):
        uniform_noise(torch.zeros(2, 1, 4, 4), epsilon=torch.ones(3))
