"""Weights files: they come back exactly, and damage is noticed."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.data import load
from helpers.network import UNet
from helpers.training import make_recipe
from helpers.weights import (
    Recipe,
    find_weights,
    install,
    load_weights,
    save_weights,
    state_digest,
    weights_path,
)

RECIPE = Recipe(
    dataset="toy",
    source="digest",
    size=16,
    num_classes=2,
    training=("a", "b"),
    validation=("c",),
    depth=1,
    features=2,
    epochs=1,
    batch_size=4,
    seed=1,
    augmentation="elastic",
    precision="fp32",
)


@pytest.fixture
def weights(tmp_path):
    network, path = UNet(1, 2, 1, 2), tmp_path / "weights.safetensors"
    save_weights(path, network, RECIPE, [{"epoch": 1, "loss": -0.5, "iou": 0.5, "seconds": 0.1}])
    return path, network, RECIPE


def test_weights_come_back_exactly(weights):
    path, network, recipe = weights
    loaded = load_weights(path)
    assert all(
        torch.equal(value, loaded.network.state_dict()[name])
        for name, value in network.state_dict().items()
    )
    assert loaded.recipe == recipe and loaded.recipe.key == recipe.key
    assert loaded.digest == state_digest(network.state_dict())
    assert loaded.history == ({"epoch": 1, "loss": -0.5, "iou": 0.5, "seconds": 0.1},)
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"weights", "architecture", "recipe", "history", "versions", "commit"} <= set(card)


def refuse(path, *, words, error=ValueError):
    with pytest.raises(error, match=words) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_truncated_weights_are_refused(weights, length):
    path = weights[0]
    path.write_bytes(path.read_bytes()[:length])
    assert "train again" in refuse(path, words=path.name)


@pytest.mark.parametrize("place", [-1, -100, 0.5, 0.7])
def test_weights_altered_by_one_byte_are_refused(weights, place):
    path, data = weights[0], bytearray(weights[0].read_bytes())
    data[place if place < 0 else int(len(data) * place)] ^= 1
    path.write_bytes(data)
    assert "train again" in refuse(path, words=path.name)


def test_no_byte_of_a_weights_file_can_change_unnoticed(weights):
    path, data = weights[0], weights[0].read_bytes()
    expected = weights[1].state_dict()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            found = load_weights(path).network.state_dict()
            assert all(torch.equal(value, found[name]) for name, value in expected.items()), place
        except ValueError as error:
            assert "\n" not in str(error) and path.name in str(error), place


def test_missing_weights_are_named_with_the_notebook_that_makes_them(tmp_path):
    refuse(
        tmp_path / "none.safetensors",
        error=FileNotFoundError,
        words=r"none\.safetensors.*02_training",
    )


def test_a_missing_side_car_is_named_and_the_advice_gets_one_out_of_it(weights):
    path = weights[0]
    path.with_suffix(".json").unlink()
    message = refuse(path, error=(ValueError, FileNotFoundError), words=r"weights\.json")
    assert (
        "delete" in message
    )  # training again would find the weights file and stop at the same place


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"architecture": {"depth": "two"}}'],
)
def test_a_side_car_that_is_not_one_is_refused(weights, content):
    path = weights[0]
    path.with_suffix(".json").write_bytes(content)
    assert "train again" in refuse(path, words=path.name)


@pytest.mark.parametrize("part", ["weights", "architecture", "recipe", "history"])
def test_a_side_car_without_one_of_its_parts_is_refused(weights, part):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    del card[part]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


def test_a_side_car_whose_recipe_lacks_an_entry_is_refused(weights):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    del card["recipe"]["seed"]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


OTHERS = [{"depth": 2}, {"features": 3}, {"num_classes": 3}, {"in_channels": 3}, {"depth": 0}]


@pytest.mark.parametrize("config", OTHERS, ids=str)
def test_weights_of_another_architecture_are_refused(weights, config):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    card["architecture"] |= config
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


def test_weights_beside_the_side_car_of_others_are_refused(weights, tmp_path):
    path, _, recipe = weights
    save_weights(tmp_path / "other.safetensors", UNet(1, 2, 1, 2), recipe, [])
    path.with_suffix(".json").write_bytes((tmp_path / "other.json").read_bytes())
    refuse(path, words="altered.*train again")


def test_the_digest_of_a_state_sees_names_types_shapes_and_values():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1, 1.0000001])},
    ]
    assert len({state_digest(s) for s in [state, *others]}) == 5
    assert state_digest(dict(reversed(state.items()))) == state_digest(state)
    assert state_digest({"a": torch.zeros(3, 2).T, "b": torch.ones(2)}) == state_digest(state)


SHIPPED = {
    (128, "target"): "59caed69bc1d7af1",
    (128, "surrogate"): "adad34df3506faba",
    (256, "target"): "9663b4f850dcc0b1",
    (256, "surrogate"): "c4cdb4f8c35748d7",
}


@pytest.mark.slow
@pytest.mark.parametrize("size, role", SHIPPED)
def test_the_shipped_networks_are_found_by_their_names(size, role):
    features, epochs = {128: (8, 80), 256: (16, 60)}[size]
    phantoms = replace(load(size=32), size=size)  # the digest of phantoms is the same at every size
    recipe = make_recipe(phantoms, role, depth=3, features=features, epochs=epochs)
    path = weights_path(recipe)
    assert path.stem == SHIPPED[size, role] and path.exists()
    assert load_weights(path).recipe == recipe


@pytest.mark.parametrize("stale", [b"of other weights", b"{"])
def test_weights_that_arrive_replace_a_side_car_that_a_killed_training_left(
    weights, tmp_path, stale
):
    path, folder = weights[0], tmp_path / "other"
    folder.mkdir()
    (folder / "weights.json").write_bytes(stale)
    install(path.name, path.read_bytes(), path.with_suffix(".json").read_bytes(), folder)
    assert load_weights(folder / path.name).recipe == RECIPE


def test_weights_that_are_there_are_not_replaced(weights, tmp_path):
    path = weights[0]
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    install(path.name, b"others", b"others", tmp_path)
    assert before == (path.read_bytes(), path.with_suffix(".json").read_bytes())


def test_weights_are_found_by_the_beginning_of_their_digest(weights, tmp_path):
    (tmp_path / "damaged.json").write_text("[]")
    digest = state_digest(weights[1].state_dict())
    assert find_weights(digest, tmp_path) == find_weights(digest[:9], tmp_path) == weights[0]
    assert find_weights("no digest", tmp_path) is None
