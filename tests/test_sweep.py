"""Grids of attacks: each cell equals the attack run alone, and controls have the same size."""

from functools import partial

import pytest
import torch

from helpers.attack import pgd
from helpers.evaluation import iou
from helpers.loss import iou_loss
from helpers.network import UNet, predict
from helpers.sweep import craft, score

LEVELS = (0.01, 0.05, 0.2)
LOSS = partial(iou_loss, classes=(1, 2))


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"white-box": UNet(1, 3, 1, 4).eval(), "black-box": UNet(1, 3, 1, 4).eval()}


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 16, 16, generator=generator) * 2 - 1
    return images, torch.randint(0, 3, (3, 16, 16), generator=generator)


run = partial(craft, epsilons=LEVELS, loss=LOSS, steps=4, precision="fp32")


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("batch_size", [2, 20])
def test_each_cell_is_the_attack_run_alone(networks, case, targeted, batch_size):
    crafted = run(networks, *case, targeted=targeted, batch_size=batch_size)
    for name, network in networks.items():
        for epsilon in LEVELS:
            alone = pgd(network, *case, loss=LOSS, epsilon=epsilon, targeted=targeted, steps=4, precision="fp32")
            assert torch.equal(crafted[name, epsilon], alone.adv_images)
    assert not torch.equal(crafted["white-box", 0.2], crafted["black-box", 0.2])


def test_every_attack_and_control_is_there_at_every_level(networks, case):
    crafted = run(networks, *case)
    attacks = ("white-box", "black-box", "random-noise", "shuffled-noise")
    assert set(crafted) == {(attack, epsilon) for attack in attacks for epsilon in LEVELS}
    for (_, epsilon), images in crafted.items():
        assert images.shape == case[0].shape and images.abs().max() <= 1
        assert (images - case[0]).abs().max() <= epsilon + 1e-6


def test_shuffled_noise_has_the_values_of_the_first_attack_s_noise(networks, case):
    images = case[0] * 0.5  # far from the ends of the valid range
    crafted = run(networks, images, case[1])
    for epsilon in LEVELS:
        one, other = (
            (crafted[attack, epsilon] - images).flatten(1).sort().values for attack in ("white-box", "shuffled-noise")
        )
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert not torch.equal(crafted["white-box", epsilon], crafted["shuffled-noise", epsilon])


def test_random_noise_is_the_same_pattern_at_every_level_and_the_seed_decides_it(networks, case):
    images = case[0] * 0.5
    one, other = run(networks, images, case[1], seed=1), run(networks, images, case[1], seed=2)
    noise = {epsilon: one["random-noise", epsilon] - images for epsilon in LEVELS}
    torch.testing.assert_close(noise[0.05] * 4, noise[0.2], atol=1e-5, rtol=0)
    for control in ("random-noise", "shuffled-noise"):
        assert not torch.equal(one[control, 0.2], other[control, 0.2])
        assert torch.equal(one[control, 0.2], run(networks, images, case[1], seed=1)[control, 0.2])


def test_controls_keep_another_valid_range_too(networks, case):
    images = case[0] * 50 + 100
    crafted = run(networks, images, case[1], epsilons=(5.0,), value_range=(0.0, 255.0))
    for attack in ("white-box", "random-noise", "shuffled-noise"):
        noise = crafted[attack, 5.0] - images
        assert 0 < noise.abs().max() <= 5.001, attack


def test_a_region_for_each_image_holds_at_every_level(networks, case):
    region = case[1] == 1
    crafted = run(networks, *case, region=region)
    for epsilon in LEVELS:
        alone = pgd(networks["white-box"], *case, loss=LOSS, epsilon=epsilon, steps=4, precision="fp32", region=region)
        assert torch.equal(crafted["white-box", epsilon], alone.adv_images)


def test_a_step_size_for_each_image_holds_at_every_level(networks, case):
    step_size = torch.tensor([0.001, 0.01, 0.1])
    crafted = run(networks, *case, step_size=step_size)
    alone = pgd(networks["white-box"], *case, loss=LOSS, epsilon=0.2, steps=4, precision="fp32", step_size=step_size)
    assert torch.equal(crafted["white-box", 0.2], alone.adv_images)


def test_the_seed_decides_a_random_start(networks, case):
    one, same, other = (run(networks, *case, random_start=True, seed=seed)["white-box", 0.2] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_no_images_give_empty_cells(networks, case):
    crafted = run(networks, case[0][:0], case[1][:0])
    assert len(crafted) == 12 and all(images.shape == (0, 1, 16, 16) for images in crafted.values())


def test_scores_are_those_of_the_attacked_network_s_predictions(networks, case):
    crafted, ids = run(networks, *case), ["c", "a", "b"]
    table, predictions = score(networks["white-box"], crafted, case[1], ids=ids, structures=("x", "y"))
    assert list(table.columns) == ["attack", "epsilon", "id", "structure", "iou"] and len(table) == 12 * 3 * 2
    assert set(predictions) == set(crafted)
    for (attack, epsilon), images in crafted.items():
        maps = predict(networks["white-box"], images)
        assert torch.equal(predictions[attack, epsilon], maps)
        rows = table[(table["attack"] == attack) & (table["epsilon"] == epsilon)]
        expected = iou(maps, case[1], classes=(1, 2)).flatten().tolist()
        assert rows["iou"].tolist() == pytest.approx(expected, nan_ok=True)
        assert rows["id"].tolist() == [id for id in ids for _ in "xy"]
