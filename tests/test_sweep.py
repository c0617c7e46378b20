"""Grids of attacks: each cell equals the attack run alone, and controls have the same size."""

import math
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from helpers.attack import pgd
from helpers.evaluation import iou_table
from helpers.loss import iou, iou_loss
from helpers.network import UNet, predict
from helpers.sweep import compare, craft, craft_each, score, smallest_epsilon

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


IDS = ["c", "a", "b"]
run = partial(craft, ids=IDS, epsilons=LEVELS, loss=LOSS, steps=4, precision="fp32")


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


def test_a_case_s_controls_do_not_depend_on_its_place_in_the_queue(networks, case):
    images, labels = case
    whole = run(networks, images, labels)
    moved = run(networks, images[[2, 0]], labels[[2, 0]], ids=[IDS[2], IDS[0]])
    for key in whole:
        assert torch.equal(moved[key], whole[key][[2, 0]])


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
    crafted = run(networks, case[0][:0], case[1][:0], ids=[])
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


# --- several targets and regions --------------------------------------------------------------------------------------


def make_targets(names, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 3, (3, 16, 16), generator=generator) for name in names}


@pytest.mark.parametrize("batch_size", [2, 20])
def test_each_target_is_reached_as_by_an_attack_of_its_own(networks, case, batch_size):
    network, images = networks["white-box"], case[0]
    targets = make_targets([("heart", 0.4), ("heart", 1.8), "symbol"])
    options = {"loss": LOSS, "epsilon": 0.05, "steps": 4, "precision": "fp32"}
    crafted = craft_each(network, images, targets, batch_size=batch_size, **options)
    assert list(crafted) == list(targets)
    for name, target in targets.items():
        alone = pgd(network, images, target, targeted=True, **options)
        assert torch.equal(crafted[name], alone.adv_images)
    assert not torch.equal(crafted["symbol"], crafted["heart", 0.4])


def test_each_target_keeps_its_own_region_whatever_the_order_of_the_regions(networks, case):
    network, images = networks["white-box"], case[0]
    targets = make_targets("abc")
    regions = {"c": torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2)) < 0.5,
               "a": torch.zeros(3, 16, 16, dtype=torch.bool), "b": case[1] == 1}  # fmt: skip
    options = {"loss": LOSS, "epsilon": 0.05, "steps": 4, "precision": "fp32"}
    crafted = craft_each(network, images, targets, regions=regions, **options)
    assert torch.equal(crafted["a"], images)  # an empty region
    for name, target in targets.items():
        alone = pgd(network, images, target, targeted=True, region=regions[name], **options)
        assert torch.equal(crafted[name], alone.adv_images)
        assert not (crafted[name] - images)[:, 0][~regions[name]].any()


def test_no_images_give_an_empty_result_for_each_target(networks, case):
    targets = dict.fromkeys("ab", case[1][:0])
    crafted = craft_each(networks["white-box"], case[0][:0], targets, loss=LOSS, epsilon=0.05, steps=4)
    assert list(crafted) == ["a", "b"] and all(images.shape == (0, 1, 16, 16) for images in crafted.values())


# --- the smallest noise level -----------------------------------------------------------------------------------------


class Pixelwise(nn.Module):
    """Two-class network: class 1 where the pixel is above 0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return torch.cat([-images, images], dim=1) * self.scale


least = partial(smallest_epsilon, Pixelwise(), structure=1, loss=partial(iou_loss, classes=(1,)), steps=20,
                precision="fp32")  # fmt: skip


def test_the_smallest_epsilon_is_that_at_which_the_pixels_turn():
    needed = torch.tensor([0.0021, 0.013, 0.05, 0.15])
    images = -needed[:, None, None, None].expand(4, 1, 4, 4)
    found = least(images, torch.ones(4, 4, 4, dtype=torch.int64), rounds=10)
    width = math.log(160) / 2**10  # of the last interval of log ε
    assert found.shape == (4,)
    assert (found > needed).all() and (found < needed * math.exp(1.01 * width)).all()


@pytest.mark.parametrize("rounds", [0, 1, 3, 6])
def test_each_round_halves_the_logarithmic_interval(rounds):
    needed = torch.tensor([0.0021, 0.013, 0.05, 0.15])
    images = -needed[:, None, None, None].expand(4, 1, 4, 4)
    found = least(images, torch.ones(4, 4, 4, dtype=torch.int64), rounds=rounds)
    cells = torch.log(needed / 0.001) / math.log(160) * 2**rounds
    torch.testing.assert_close(found, 0.001 * 160 ** (cells.ceil() / 2**rounds), rtol=1e-5, atol=0)


@pytest.mark.parametrize("reached, pixels", [(50.0, 50), (95.0, 95), (100.0, 100)])
def test_so_many_pixels_must_turn_as_the_iou_asks_for(reached, pixels):
    depths = torch.linspace(0.01, 0.1, 100)
    images = -depths[torch.randperm(100, generator=torch.Generator().manual_seed(0))].view(1, 1, 10, 10)
    found = least(images, torch.ones(1, 10, 10, dtype=torch.int64), reached=reached, rounds=12)
    assert float(found) == pytest.approx(float(depths[pixels - 1]), rel=2e-3) and found > depths[pixels - 1]


def test_a_case_beyond_the_range_has_no_smallest_epsilon_and_one_below_it_the_lower_end():
    images = -torch.tensor([0.2, 1e-5])[:, None, None, None].expand(2, 1, 4, 4)
    found = least(images, torch.ones(2, 4, 4, dtype=torch.int64), rounds=10)
    assert found[0] == torch.inf and 0.001 <= found[1] < 0.00101
    assert least(images, torch.ones(2, 4, 4, dtype=torch.int64), high=0.25)[0] <= 0.25


def test_the_smallest_epsilon_of_a_case_does_not_depend_on_the_others():
    images = -torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(3)) * 0.1
    labels = torch.ones(5, 4, 4, dtype=torch.int64)
    whole = least(images, labels)
    assert torch.equal(least(images, labels, batch_size=2), whole)
    assert torch.equal(torch.cat([least(images[k : k + 1], labels[k : k + 1]) for k in range(5)]), whole)


def test_an_attack_at_the_smallest_epsilon_reaches_what_was_asked(networks, case):
    network, images, options = networks["white-box"], case[0], {"loss": LOSS, "steps": 5, "precision": "fp32"}
    labels = predict(network, (images + 0.05).clamp(-1, 1))
    found = smallest_epsilon(network, images, labels, structure=1, reached=70.0, high=0.3, **options)
    assert torch.isfinite(found).any()
    for k, epsilon in enumerate(found):
        level = float(epsilon.clamp(max=0.3))
        result = pgd(network, images[k : k + 1], labels[k : k + 1], epsilon=level, targeted=True, **options)
        reached = iou(predict(network, result.adv_images), labels[k : k + 1], classes=[1]) >= 70
        assert bool(reached) == math.isfinite(epsilon)


# --- tables of many predictions ---------------------------------------------------------------------------------------


def test_each_prediction_is_compared_with_its_own_labels(case):
    predictions, labels = make_targets([("small", 10), ("large", 30)]), make_targets([("large", 30), ("small", 10)], 5)
    about = {"ids": ["c", "a", "b"], "structures": ("x", "y")}
    table = compare(predictions, labels, names=("symbol", "steps"), compared_with="target", **about)
    expected = [
        iou_table(predictions[key], labels[key], compared_with="target", symbol=key[0], steps=key[1], **about)
        for key in predictions
    ]
    pd.testing.assert_frame_equal(table, pd.concat(expected, ignore_index=True))
    one = compare(predictions, case[1], names=("symbol", "steps"), **about)
    assert one["iou"][:2].tolist() == iou(predictions["small", 10], case[1], classes=(1, 2))[0].tolist()


def test_a_key_of_one_part_needs_no_tuple_and_a_key_without_a_name_is_refused(case):
    predictions = make_targets(["all", "box"])
    about = {"ids": ["c", "a", "b"], "structures": ("x", "y")}
    table = compare(predictions, case[1], names=("setting",), **about)
    assert list(table.columns) == ["setting", "id", "structure", "iou"]
    assert table["setting"].tolist() == ["all"] * 6 + ["box"] * 6
    with pytest.raises(ValueError):
        compare(predictions, case[1], **about)


def test_scores_take_names_and_labels_for_each_key(networks, case):
    targets = make_targets([("heart", 0.4), ("lung", 1.8)])
    crafted = {key: case[0] * (0.5 + k / 4) for k, key in enumerate(targets)}
    about = {"ids": ["c", "a", "b"], "structures": ("x", "y"), "names": ("resized", "factor")}
    table, predictions = score(networks["white-box"], crafted, targets, **about)
    assert list(table.columns) == ["resized", "factor", "id", "structure", "iou"]
    assert all(torch.equal(predictions[key], predict(networks["white-box"], crafted[key])) for key in crafted)
    pd.testing.assert_frame_equal(table, compare(predictions, targets, **about))
