"""Augmentation that does what it says."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from helpers import augmentation
from helpers.augmentation import augment, elastic_field, warp
from helpers.world import randomise

# --- elastic deformation ----------------------------------------------------------------------------------------------


def expected_rms(size=512, magnitude=1000.0, sigma=100.0):
    """Root mean square of uniform noise after a Gaussian filter: the filter is linear, so no noise has to be drawn."""
    matrix = gaussian_filter1d(np.eye(size), sigma, axis=0)
    return magnitude / 3**0.5 * (matrix**2).sum(axis=1).mean()


def test_the_expected_rms_is_that_of_filtered_uniform_noise():
    generator = np.random.default_rng(0)
    noise = generator.uniform(-1000, 1000, (600, 64, 64))
    fields = gaussian_filter(noise, (0, 12.5, 12.5))
    assert np.sqrt((fields**2).mean()) == pytest.approx(expected_rms(64, sigma=12.5), rel=0.1)
    centre = (gaussian_filter1d(np.eye(1024), 100, axis=0)[512] ** 2).sum()  # far from the border
    assert centre == pytest.approx(1 / (2 * np.pi**0.5 * 100), rel=0.01)
    assert (
        1000 / 3**0.5 * centre < expected_rms() < 1.5 * 1000 / 3**0.5 * centre
    )  # the border reflects


@pytest.mark.parametrize("size", [16, 64, 512])
def test_the_elastic_field_has_the_rms_of_the_paper_s_scaled_with_the_size(size):
    fields = elastic_field(3000 if size < 512 else 40, size, torch.Generator().manual_seed(0))
    assert fields.shape == (len(fields), 2, size, size) and fields.dtype == torch.float32
    rms = fields.double().square().mean().sqrt().item()
    assert rms == pytest.approx(expected_rms() * size / 512, rel=0.1 if size < 512 else 0.25)


def test_the_elastic_field_varies_over_the_image_as_the_paper_s_does():
    """The rms at a place (larger at the reflecting border) is the direct definition's, and so is the correlation."""
    matrix = gaussian_filter1d(np.eye(512), 100, axis=0)
    covariance = 1e6 / 3 * np.multiply.outer(*[(matrix**2).sum(axis=1)] * 2)
    fields = elastic_field(6000, 32, torch.Generator().manual_seed(1))[:, 0].double() * 16
    direct = covariance.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(
        fields.square().mean(dim=0).sqrt().numpy(), np.sqrt(direct), rtol=0.08
    )
    across = 1e6 / 3 * (matrix[8] @ matrix[256 + 8]) * (matrix[264] @ matrix[264])
    assert (fields[:, 0, 16] * fields[:, 16, 16]).mean().item() == pytest.approx(
        across, abs=0.1 * direct.max()
    )


def test_the_elastic_field_is_smooth():
    fields = elastic_field(20, 128, torch.Generator().manual_seed(0))
    rms = fields.square().mean().sqrt()
    for axis in (2, 3):
        assert fields.diff(dim=axis).square().mean().sqrt() < 0.1 * rms  # sigma is 25 pixels here
        assert fields.diff(2, dim=axis).abs().max() < 0.05 * rms


def test_the_elastic_field_depends_on_its_generator_alone():
    one, same, other = (
        elastic_field(2, 16, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0, 0], one[0, 1])


# --- warp and augment -------------------------------------------------------------------------------------------------


def make_batch(n=4, size=16, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 1, size, size, generator=generator) * 2 - 1
    return images, torch.randint(0, classes, (n, size, size), generator=generator)


def test_no_displacement_is_the_identity():
    images, labels = make_batch()
    moved, classes = warp(images, labels, torch.zeros(4, 2, 16, 16))
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(classes, labels)


@pytest.mark.parametrize("right, down", [(3, 0), (0, 2), (-1, 4)])
def test_a_whole_displacement_takes_each_pixel_from_there_and_repeats_the_border(right, down):
    images, labels = make_batch()
    field = torch.tensor([right, down]).float()[None, :, None, None].expand(4, 2, 16, 16)
    moved, classes = warp(images, labels, field)
    rows, columns = ((torch.arange(16) + shift).clamp(0, 15) for shift in (down, right))
    torch.testing.assert_close(moved, images[:, :, rows][..., columns], atol=1e-4, rtol=0)
    assert torch.equal(classes, labels[:, rows][..., columns])


def test_images_move_by_cubic_splines_and_keep_their_range():
    ramp = torch.linspace(-0.8, 0.8, 16).expand(1, 1, 16, 16)
    field = torch.zeros(1, 2, 16, 16)
    field[:, 0] = 0.4
    moved = warp(ramp, torch.zeros(1, 16, 16, dtype=torch.int64), field)[0]
    torch.testing.assert_close(
        moved[..., 2:-3], ramp[..., 2:-3] + 0.4 * 1.6 / 15, atol=0.005, rtol=0
    )
    for height in (0.5, 1.0):  # a spline overshoots at an edge; linear interpolation would not
        edge = torch.where(torch.arange(16) < 8, -height, height).expand(1, 1, 16, 16)
        peak = warp(edge, torch.zeros(1, 16, 16, dtype=torch.int64), field)[0].abs().max()
        assert peak == 1 if height == 1 else 0.51 < peak < 0.7


def test_an_affine_map_turns_images_and_labels_alike():
    images, labels = make_batch()
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(4, 2, 3)
    moved, classes = warp(images, labels, torch.zeros(4, 2, 16, 16), matrix=quarter)
    assert torch.equal(classes, labels.rot90(-1, (1, 2))) or torch.equal(
        classes, labels.rot90(1, (1, 2))
    )
    turn = -1 if torch.equal(classes, labels.rot90(-1, (1, 2))) else 1
    torch.testing.assert_close(moved, images.rot90(turn, (2, 3)), atol=1e-4, rtol=0)


WORDS = [" ".join(chosen) for n in range(4) for chosen in combinations(augmentation.MILD, n)]


@pytest.mark.parametrize("words", WORDS)
def test_augmented_labels_are_valid_classes_and_images_stay_in_range(words):
    images, labels = make_batch(32)
    generator = torch.Generator().manual_seed(0)
    changed, classes = augment(images, labels, generator, words)
    assert classes.dtype == torch.int64 and changed.dtype == torch.float32
    assert changed.shape == images.shape and classes.shape == labels.shape
    assert set(classes.unique().tolist()) <= set(labels.unique().tolist())
    assert changed.abs().max() <= 1


def test_augmentation_draws_the_same_numbers_whatever_is_switched_on():
    images, labels = make_batch(5)
    states = []
    for words in WORDS:
        generator = torch.Generator().manual_seed(3)
        augment(images, labels, generator, words)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    assert not torch.equal(states[0], torch.Generator().manual_seed(3).get_state())


def changed_samples(words, n=400, size=16):
    images, labels = make_batch(n, size)
    changed, classes = augment(images, labels, torch.Generator().manual_seed(1), words)
    return (changed != images).flatten(1).any(dim=1), (classes != labels).flatten(1).any(dim=1)


@pytest.mark.parametrize("word", augmentation.MILD)
def test_each_augmentation_changes_about_half_of_the_samples(word):
    images, labels = changed_samples(word, size=64)
    assert 0.43 < images.float().mean() < 0.57
    if word == "intensity":
        assert not labels.any()
    else:
        assert torch.equal(images | labels, images)


def test_augmentations_choose_their_samples_independently():
    chosen = [changed_samples(word, size=32)[0] for word in augmentation.MILD]
    for one, other in combinations(chosen, 2):
        assert 0.17 < (one & other).float().mean() < 0.33
    together = changed_samples(" ".join(augmentation.MILD), size=32)[0]
    assert torch.equal(together, chosen[0] | chosen[1] | chosen[2])


def test_no_augmentation_gives_back_the_batch_and_none_changes_what_it_was_given():
    images, labels = make_batch(8)
    before = images.clone(), labels.clone()
    changed, classes = augment(images, labels, torch.Generator().manual_seed(0), "")
    assert torch.equal(changed, images) and torch.equal(classes, labels)
    augment(images, labels, torch.Generator().manual_seed(0), " ".join(augmentation.MILD))
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


def test_grain_differs_in_strength_from_image_to_image_and_moves_nothing():
    images, labels = torch.zeros(400, 1, 32, 32), make_batch(400, 32)[1]
    changed, classes = augment(images, labels, torch.Generator().manual_seed(1), "grain")
    deviations = changed.flatten(1).std(dim=1) / augmentation.GRAIN
    assert torch.equal(classes, labels)
    assert deviations.min() < 0.05 and 0.95 < deviations.max() < 1.1
    assert abs(deviations.mean() - 0.5) < 0.05 and abs(changed.mean()) < 1e-3
    again, _ = augment(images, labels, torch.Generator().manual_seed(1), "grain")
    assert torch.equal(again, changed)


def test_grain_is_added_after_what_moves_and_stays_within_the_range():
    images, labels = make_batch(20, 32)
    mild = " ".join(augmentation.MILD)
    generator = torch.Generator().manual_seed(1)
    moved, _ = augment(images, labels, generator, mild)
    expected = augmentation.add_grain(moved, generator)
    changed, _ = augment(images, labels, torch.Generator().manual_seed(1), f"grain {mild}")
    assert torch.equal(changed, expected) and changed.abs().max() <= 1


def test_the_word_world_changes_every_sample_after_the_others():
    images, labels = (
        part.repeat_interleave(2, -1).repeat_interleave(2, -2) for part in make_batch(8)
    )
    one, other = (
        augment(images, labels, torch.Generator().manual_seed(1), words)
        for words in ("world", "affine world")
    )
    generator = torch.Generator().manual_seed(1)
    before = augment(images, labels, generator, "affine")
    after = randomise(*before, generator)
    assert torch.equal(other[0], after[0]) and torch.equal(other[1], after[1])
    assert (one[0] != images).flatten(1).any(dim=1).all() and not torch.equal(one[0], other[0])
