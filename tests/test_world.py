"""Phantoms changed as the world varies: seeded, in range, and with labels that go along."""

import numpy as np
import pytest
import torch

from helpers import world
from helpers.data import label_map
from helpers.phantom import draw_case
from helpers.world import HEART, LEFT_LUNG, LUNGS, RIGHT_LUNG, randomise

SIZE = 64


def phantoms(n=4, size=SIZE):
    images, masks = zip(*(draw_case(case, size) for case in range(n)), strict=True)
    images = torch.stack([torch.from_numpy(image) for image in images])
    return images[:, None], torch.stack([torch.from_numpy(label_map(mask)) for mask in masks])


IMAGES, LABELS = phantoms()


def changed(seed=0, n=4):
    return randomise(IMAGES[:n], LABELS[:n], torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_to_the_last_bit_and_another_gives_another():
    one, same, other = changed(), changed(), changed(1)
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


def test_a_sample_does_not_depend_on_the_rest_of_its_batch():
    images, labels = changed()
    few_images, few_labels = changed(n=2)
    assert torch.equal(images[:2], few_images) and torch.equal(labels[:2], few_labels)


def test_a_generator_that_is_set_back_goes_on_with_the_same_samples():
    generator = torch.Generator().manual_seed(3)
    randomise(IMAGES, LABELS, generator)
    state = generator.get_state()
    after = randomise(IMAGES, LABELS, generator)
    again = randomise(IMAGES, LABELS, torch.Generator().set_state(state))
    assert torch.equal(after[0], again[0]) and torch.equal(after[1], again[1])


def test_it_uses_no_random_numbers_but_the_generator_s_and_leaves_its_input_alone():
    images, labels, state = IMAGES.clone(), LABELS.clone(), torch.get_rng_state()
    changed()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, IMAGES) and torch.equal(labels, LABELS)


@pytest.mark.parametrize("seed", range(8))
def test_images_fill_their_range_and_labels_stay_classes(seed):
    images, labels = changed(seed)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.shape == IMAGES.shape and labels.shape == LABELS.shape
    assert (images.amin(dim=(1, 2, 3)) == -1).all() and (images.amax(dim=(1, 2, 3)) == 1).all()
    assert 0 <= labels.min() and labels.max() <= 5


def test_labels_move_with_their_pixels():
    """An image that shows the labels is still their picture after any pose, but for the edges."""
    for seed in range(40):
        shown = LABELS[0] / 5
        moved, labels = world._pose(shown, LABELS[0], np.random.default_rng(seed))
        sides = labels.unfold(0, 5, 1).unfold(1, 5, 1).flatten(2)  # each pixel's neighbours
        inner = (sides == sides[..., :1]).all(dim=2) & (sides[..., 0] > 0)
        assert inner.sum() > 50
        shown_class = moved[2:-2, 2:-2][inner] * 5
        assert ((shown_class - sides[inner][:, 0]).abs() < 1e-4).float().mean() > 0.99


def test_poses_keep_the_patient_s_right_on_the_image_s_left_and_most_of_the_lungs_in_sight():
    shares = []
    for seed in range(60):
        labels = world._pose(IMAGES[0, 0], LABELS[0], np.random.default_rng(seed))[1]
        left, right = (((labels == lung).nonzero()[:, 1]).float().mean() for lung in LUNGS)
        assert right < left
        shares.append(torch.isin(labels, torch.tensor(LUNGS)).float().mean())
    whole = torch.isin(LABELS[0], torch.tensor(LUNGS)).float().mean()
    assert 0.5 * whole < torch.stack(shares).median() < 1.2 * whole


@pytest.mark.parametrize("step", [world._devices, world._film, world._detector])
def test_what_lies_on_the_patient_and_the_film_changes_the_image_alone(step):
    image = (IMAGES[0, 0] + 1) / 2
    results = [step(image, np.random.default_rng(seed)) for seed in range(5)]
    assert all(result.shape == image.shape and result.isfinite().all() for result in results)
    assert any(not torch.equal(result, image) for result in results)


def test_diseases_change_the_lungs_and_nothing_far_from_them():
    image = (IMAGES[0, 0] + 1) / 2
    lungs = torch.isin(LABELS[0], torch.tensor([LEFT_LUNG, RIGHT_LUNG])).float()
    near = torch.nn.functional.max_pool2d(lungs[None, None], 9, 1, 4)[0, 0] > 0
    differences = [
        (world._diseases(image, LABELS[0], np.random.default_rng(seed))[0] - image).abs()
        for seed in range(30)
    ]
    difference = torch.stack(differences).mean(dim=0)
    assert difference[lungs > 0].mean() > 0.01 and difference[~near].max() < 0.002


class OnlyFluid:
    """Random numbers with which of all diseases effusions alone occur."""

    def __init__(self):
        self.rng, self.draws = np.random.default_rng(0), 0

    def random(self):
        self.draws += 1
        return float(self.draws % 3 != 0)

    def uniform(self, *bounds):
        return self.rng.uniform(*bounds)


def test_fluid_hides_the_lower_lung_and_the_wall_first_and_is_not_outlined():
    image = (IMAGES[0, 0] + 1) / 2
    dense = image[LABELS[0] == HEART].mean()
    found, outlined = world._diseases(image, LABELS[0], OnlyFluid())
    for lung in LUNGS:
        rows, columns = (LABELS[0] == lung).nonzero().unbind(dim=1)
        hidden = (found - image)[rows, columns] / (dense - image)[rows, columns]
        low = rows > rows.max() - 3
        assert hidden[low].median() > 0.6 and hidden[rows < rows.median()].abs().max() < 0.3
        kept = outlined[rows, columns] == lung
        assert kept[hidden < 0.2].all() and not kept[hidden > 0.9].any() and not kept.all()


def test_beyond_the_collimators_nothing_is_labelled():
    for seed in range(20):
        image, labels = world._borders(IMAGES[0, 0], LABELS[0], np.random.default_rng(seed))
        kept = labels == LABELS[0]
        assert (labels[~kept] == 0).all()
        assert torch.equal(image[kept & (labels > 0)], IMAGES[0, 0][kept & (labels > 0)])


def test_a_field_is_of_unit_variance_and_smooth():
    fields = torch.stack(
        [world._field(np.random.default_rng(seed), 6, IMAGES[0, 0]) for seed in range(400)]
    )
    assert fields.var(dim=0).mean() == pytest.approx(1, abs=0.1)
    assert fields.diff(dim=1).square().mean() < 0.05


def test_a_blur_keeps_the_mean_of_a_plane_and_widens_a_point_by_sigma():
    plane = torch.zeros(SIZE, SIZE)
    plane[32, 32] = 1
    spread = world._blur(plane, 4 / SIZE)
    away = torch.arange(SIZE) - 32.0
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    assert (spread.sum(dim=0) * away**2).sum().sqrt() == pytest.approx(4, rel=0.02)
    torch.testing.assert_close(world._blur(torch.ones(SIZE, SIZE), 0.1), torch.ones(SIZE, SIZE))


def test_a_picture_without_a_structure_is_no_problem():
    for missing in (HEART, *LUNGS):
        labels = torch.where(missing == LABELS, 0, LABELS)
        images, labels = randomise(IMAGES, labels, torch.Generator().manual_seed(0))
        assert images.isfinite().all() and not (labels == missing).any()
