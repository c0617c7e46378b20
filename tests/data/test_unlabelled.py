"""Radiographs that nobody has outlined, and the one that comes with a package."""

import numpy as np
import pytest
import torch
from skimage.io import imsave

from helpers.data import load
from helpers.labels import OUTSIDE, UNLABELLED


@pytest.fixture
def images_only(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        imsave(tmp_path / f"images/{name}.png", rng.integers(0, 255, (40, 64)).astype(np.uint8))
    return tmp_path


def test_without_masks_every_case_is_a_test_case_of_unknown_pixels(images_only):
    data = load("folder", root=images_only, size=32, masks=False)
    assert set(data.split) == {"test"} and set(data.split["test"]) == {"a", "b", "c"}
    assert data.structures == ()
    assert set(data.labels.unique().tolist()) == {OUTSIDE, UNLABELLED}
    assert (data.labels[:, 16] == UNLABELLED).all() and (data.labels[:, 0] == OUTSIDE).all()


def test_few_test_cases_are_the_first_of_many(images_only):
    many = load("folder", root=images_only, size=32, masks=False).split["test"]
    assert (
        load("folder", root=images_only, size=32, masks=False, test_cases=2).split["test"]
        == many[:2]
    )


def test_images_alone_are_refused_where_masks_are_wanted(images_only):
    with pytest.raises(ValueError, match="holds no masks"):
        load("folder", root=images_only, size=32)


def test_masks_do_not_count_if_they_are_not_wanted(images_only):
    plain = load("folder", root=images_only, size=32, masks=False)
    (images_only / "masks/heart").mkdir(parents=True)
    assert load("folder", root=images_only, size=32, masks=False).digest == plain.digest


def test_phantoms_always_have_masks():
    with pytest.raises(ValueError, match="masks.*False"):
        load("phantom", size=32, masks=False)


def test_the_example_is_a_radiograph_with_dense_tissue_bright():
    data = load("example", size=64)
    (image,) = data.images
    picture = data.labels[0] != OUTSIDE
    assert len(data.ids) == 1 and data.split == {"test": data.ids}
    assert torch.isfinite(image).all() and image.min() == -1 and image.std() > 0.2
    middle = image[0, 40:60, 26:38].mean()  # spine and diaphragm
    assert middle > image[0][picture].mean()


def test_the_example_takes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="root"):
        load("example", size=64, root=tmp_path)
