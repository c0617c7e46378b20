"""Networks that were trained on phantoms alone, and what they are said to see."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import patients
from helpers.data import load
from helpers.labels import OUTSIDE, UNLABELLED
from helpers.own import adapt
from helpers.phantom import STRUCTURES
from helpers.weights import Trained

SIZE = 64
HEART, LEFT, RIGHT = 1, 4, 5


class Drawn(nn.Module):
    """Sees the same label map in every image."""

    structures = STRUCTURES

    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def forward(self, images):
        logits = nn.functional.one_hot(self.labels, 6).permute(2, 0, 1).float()
        return 9 * logits.expand(len(images), -1, -1, -1)


def chest():
    """Right lung, heart and left lung, as rectangles; the right lung is on the image's left."""
    labels = torch.zeros(SIZE, SIZE, dtype=torch.int64)
    labels[10:50, 6:26] = RIGHT
    labels[10:50, 38:58] = LEFT
    labels[30:50, 26:46] = HEART
    return labels


def trained(labels):
    return Trained(adapt(Drawn(labels)), "digest", None, ())


@pytest.fixture
def lungs():
    """Two phantoms' images with lungs alone; the left one goes on behind the heart."""
    data = load("phantom", size=SIZE, test_cases=2)
    images, _ = data.take("test")
    labels = torch.zeros(2, SIZE, SIZE, dtype=torch.int64)
    labels[:, 10:50, 32:58] = 1
    labels[:, 10:50, 6:26] = 2
    names = ("left lung", "right lung")
    return replace(data, ids=("a", "b"), images=images, labels=labels, structures=names)


def test_what_a_network_sees_becomes_the_truth_of_the_same_images(lungs):
    lungs.labels[:, :4] = OUTSIDE
    seen = patients.outline(lungs, trained(chest()))
    assert seen.structures == STRUCTURES and seen.num_classes == 6
    assert torch.equal(seen.images, lungs.images)
    assert (seen.labels[:, :4] == OUTSIDE).all()
    assert torch.equal(seen.labels[0, 4:], chest()[4:])
    assert seen.digest != lungs.digest and seen.origin is None


def test_classes_without_names_are_numbered_also_those_that_no_image_shows(lungs):
    labels = chest()
    labels[labels == RIGHT] = 0
    nameless = trained(labels)
    nameless.network.structures = None
    seen = patients.outline(lungs, nameless)
    assert seen.structures == tuple(f"class {k}" for k in range(1, 6))


def test_another_network_gives_other_data(lungs):
    one, other = trained(chest()), replace(trained(chest()), digest="another")
    assert patients.outline(lungs, one).digest != patients.outline(lungs, other).digest


def test_the_heart_before_the_left_lung_counts_as_found(lungs):
    table, _ = patients.compare(lungs, trained(chest()))
    found = table[table["id"] == "a"].set_index("structure")["iou"]
    left, heart_before_it, whole = 40 * 20 - 20 * 8, 20 * 14, 40 * 26
    assert found["right lung"] == 100
    assert found["left lung"] == pytest.approx(100 * left / whole)
    assert found["left lung with the heart"] == pytest.approx(
        100 * (left + heart_before_it) / whole
    )


def test_the_clavicle_before_the_right_lung_counts_as_found_where_it_crosses_it(lungs):
    labels = chest()
    labels[12:16, :20] = 3  # 14 of its 20 columns cross the lung
    found = patients.compare(lungs, trained(labels))[0].groupby("structure")["iou"].mean()
    assert found["right lung"] == pytest.approx(100 * (40 * 20 - 4 * 14) / (40 * 20))
    assert found["right lung with the right clavicle"] == 100


def test_no_table_without_lungs_or_without_a_network_that_knows_the_heart(lungs):
    phantoms = load("phantom", size=SIZE, test_cases=2)
    assert patients.compare(phantoms, trained(chest())) == (None, None)
    nameless = trained(chest())
    nameless.network.structures = None
    assert patients.compare(lungs, nameless) == (None, None)


@pytest.mark.parametrize(
    "change, plausible",
    [
        ({}, True),
        ({"heart": (30, 50, 26, 30)}, False),  # too small
        ({"heart": (5, 60, 20, 46)}, False),  # too large
        ({"heart": (30, 50, 2, 20)}, False),  # right of the right lung's middle
        ({"heart": (20, 40, 26, 38), "also": (55, 60, 26, 38)}, False),  # in two pieces
    ],
)
def test_a_heart_is_plausible_by_size_in_one_piece_and_between_the_lungs(change, plausible, lungs):
    labels = chest()
    if change:
        labels[labels == HEART] = 0
    for top, bottom, left, right in change.values():
        labels[top:bottom, left:right] = HEART
    table = patients.find_hearts(patients.outline(lungs, trained(labels)))
    assert list(table["plausible"]) == [plausible] * 2


def test_no_heart_is_not_plausible(lungs):
    labels = chest()
    labels[labels == HEART] = 0
    table = patients.find_hearts(patients.outline(lungs, trained(labels)))
    assert not table["plausible"].any() and (table["area"] == 0).all()


@pytest.mark.parametrize("size", [128, 256])
def test_the_networks_that_come_with_the_study_see_a_heart_in_a_patient(size):
    for role in ("target", "surrogate"):
        network = patients.find_network(role, size)
        assert network.recipe.size == size and "world" in network.recipe.augmentation
        assert network.recipe.dataset == "phantom"
        seen = patients.outline(load("example", size=size), network)
        assert not (seen.labels == UNLABELLED).any()
        assert patients.find_hearts(seen)["plausible"].all()


def test_target_and_surrogate_differ():
    one, other = patients.target(), patients.surrogate()
    assert (
        patients.find_network("target", 256).digest
        != patients.find_network("surrogate", 256).digest
    )
    assert one.structures == other.structures == STRUCTURES
