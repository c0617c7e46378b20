"""Transfer: truths of moves, ensembles, questions and universal noise on networks that are known by heart."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from small_networks import Linear, make_case, unet
from torch import nn

from helpers.attack import pgd
from helpers.evaluation import (
    bootstrap_interval,
    iou,
    tabulate_gains,
)
from helpers.labels import OUTSIDE
from helpers.loss import cross_entropy
from helpers.noise import jitter, scramble_phases
from helpers.sweep import Experiment, Goal, check_experiment, compute_results
from helpers.transfer import (
    Ensemble,
    Transfer,
    alignment,
    ask,
    mover,
    other_cases,
    over_networks,
    smoother,
    universal,
)

EVERYTHING = Transfer(0.2, 1.0, "both", elastic=True, intensity=True, smooth=0.7, copies=2)
TARGETED = {"loss": cross_entropy, "epsilon": 0.1, "targeted": True, "precision": "fp32"}


class Pixelwise(nn.Module):
    """Class 1 where a pixel is above 0: what moves with the image moves its answer."""

    def forward(self, images):
        return torch.cat([-3 * images, 3 * images], dim=1)


def blobs(n=2, size=48):
    """Smooth images, and stripes as labels."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    images = torch.stack([torch.cos(3 * x + k) * torch.cos(2 * y) for k in range(n)])[:, None] / 2
    labels = torch.stack([(torch.cos(14 * x + k) > 0).long() for k in range(n)])
    return images, labels


def mean_gradient(images, labels, transform, copies=30):
    x = images.clone().requires_grad_()
    for copy in range(copies):
        moved, wanted = transform(x, labels, [(copy, k) for k in range(len(x))])
        cross_entropy(Pixelwise()(moved), wanted).sum().backward()
    return x.grad


def cosine(one, other):
    return torch.cosine_similarity(one.flatten(1), other.flatten(1)).min()


# --- moves ------------------------------------------------------------------------------------------------------------


def test_an_equivariant_network_has_the_same_gradient_where_image_and_target_move():
    images, labels = blobs()
    still = mean_gradient(images, labels, mover("nothing"), 1)
    both = cosine(mean_gradient(images, labels, mover("both")), still)
    alone = cosine(mean_gradient(images, labels, mover("image")), still)
    assert both > 0.95 and alone < both - 0.1


def test_a_target_moves_as_its_image_does():
    images, labels = blobs()
    moved, wanted = mover("both", elastic=True)(labels[:, None] * 1.2 - 0.6, labels, [1, 2])
    assert ((moved[:, 0] > 0).long() != wanted).float().mean() < 0.01
    assert (wanted != labels).any(dim=(1, 2)).any()
    _, kept = mover("image", elastic=True)(images, labels, [1, 2])
    assert torch.equal(kept, labels)


def test_intensities_leave_the_target_and_the_range_alone():
    images, labels = blobs()
    changed, kept = mover("nothing", intensity=True)(images, labels, ["a", "c"])
    assert torch.equal(kept, labels) and changed.abs().max() <= 1
    assert not torch.equal(changed, images)


def test_each_image_step_and_copy_moves_in_its_own_way():
    images, labels = blobs(1)
    keys = [(step, copy, key) for step in (0, 1) for copy in (0, 1) for key in "abc"]
    moved, _ = mover()(images.expand(len(keys), -1, -1, -1), labels.expand(len(keys), -1, -1), keys)
    changed = [row.numpy().tobytes() for row in moved if (row - images[0]).abs().max() > 1e-3]
    assert len(keys) > len(changed) == len({*changed}) > 3  # some copies stay as they are
    again, _ = mover()(images, labels, keys[5:6])
    assert torch.allclose(again[0], moved[5], atol=1e-6)


def test_an_image_s_noise_does_not_depend_on_its_batch():
    network = unet()
    images, labels = make_case(4)
    options = TARGETED | EVERYTHING.options() | {"steps": 4}
    keys = ["a", "b", "c", "d"]
    whole = pgd(network, images, labels, seed=keys, **options).adv_images
    single = pgd(network, images, labels, seed=keys, batch_size=1, **options).adv_images
    two = pgd(network, images[1:3], labels[1:3], seed=keys[1:3], **options).adv_images
    assert torch.allclose(whole, single, atol=1e-5) and torch.allclose(whole[1:3], two, atol=1e-5)


def test_each_image_step_and_copy_has_noise_of_its_own_of_the_sigma():
    images, labels = torch.zeros(6, 1, 64, 64), torch.zeros(6, 64, 64, dtype=torch.int64)
    keys = [(step, copy, "a") for step in range(3) for copy in range(2)]
    noisy, same = jitter(0.1)(images, labels, keys)
    assert torch.equal(same, labels) and len(noisy.flatten(1).unique(dim=0)) == 6
    assert noisy.std() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(jitter(0.1)(images[:1], labels[:1], keys[4:5])[0][0], noisy[4])


@pytest.mark.parametrize("move", ["nothing", "image", "both"])
def test_noise_stays_within_epsilon_and_the_valid_range(move):
    images, labels = make_case(3)
    bends = move != "nothing"
    options = replace(EVERYTHING, move=move, elastic=bends, stride=1.5).options()
    found = pgd(unet(), images, labels, steps=5, **TARGETED | options).adv_images
    assert (found - images).abs().max() <= 0.1 + 1e-6 and found.abs().max() <= 1
    assert not torch.equal(found, images)


def test_with_a_transform_the_images_as_they_are_are_measured():
    images, labels = make_case(2)
    result = pgd(unet(), images, labels, steps=2, transform=mover(), **TARGETED)
    with torch.no_grad():
        expected = cross_entropy(unet()(result.adv_images), labels)
    assert torch.allclose(result.loss[-1], expected, atol=1e-4)


def test_more_copies_come_nearer_to_the_mean_gradient():
    images, labels = blobs()
    many = mean_gradient(images, labels, mover(), 40)
    few = [mean_gradient(images, labels, mover(), copies) for copies in (1, 8)]
    assert cosine(few[0], many) < cosine(few[1], many)


# --- smoothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_gradient_stays_and_an_impulse_keeps_its_sum(channels):
    smooth = smoother(1.3)
    flat = torch.ones(2, channels, 9, 12)
    assert torch.allclose(smooth(flat), flat, atol=1e-6)
    impulse = torch.zeros(1, channels, 21, 21)
    impulse[0, -1, 10, 10] = 1
    made = smooth(impulse)
    assert made[0, -1].sum() == pytest.approx(1, abs=1e-5) and made[0, :-1].sum() == 0
    spread = (made[0, -1].sum(dim=0) * (torch.arange(21) - 10.0) ** 2).sum()
    assert spread == pytest.approx(1.3**2, rel=0.06)


# --- several surrogates -----------------------------------------------------------------------------------------------


class Scaled(Linear):
    """A network that differs from `Linear` in the size of its weights, not in their signs."""

    def __init__(self, factor):
        super().__init__()
        with torch.no_grad():
            self.weight.mul_(factor)


def test_noise_of_linear_surrogates_is_the_optimum_of_a_linear_network_of_the_same_signs():
    images, labels = make_case(3, size=4, classes=2)
    images = images * 0.5
    surrogates = Ensemble([Linear(), Scaled(3.0)]).eval()
    for combine in ("losses", "logits"):
        loss = over_networks(cross_entropy, 2, combine)
        options = TARGETED | {"loss": loss, "steps": 10}
        options |= Transfer(stride=0.2, momentum=1.0).options()
        found = pgd(surrogates, images, labels, **options).adv_images
        best = images + 0.1 * Scaled(0.7).weight.sign() * (2 * labels - 1)[:, None]
        assert torch.allclose(found, best, atol=1e-6)


def test_an_ensemble_of_equal_networks_has_the_loss_of_one():
    network = unet()
    images, labels = make_case(3)
    one = cross_entropy(network(images), labels)
    for combine in ("losses", "logits"):
        loss = over_networks(cross_entropy, 3, combine)
        assert torch.allclose(loss(Ensemble([network] * 3).eval()(images), labels), one, atol=1e-5)


def test_surrogates_of_another_number_of_classes_are_told():
    both = Ensemble([unet(), unet(num_classes=4)]).eval()
    with pytest.raises(ValueError, match=r"surrogates is .*give surrogates of the same number"):
        both(make_case(1)[0])


@pytest.mark.parametrize(
    "values, message",
    [
        ({"move": "labels"}, "move 'labels' is unknown"),
        ({"elastic": True}, "move is 'nothing'; say what is bent"),
        ({"combine": "votes"}, "combine 'votes' is unknown"),
        ({"smooth": -1.0}, "sigma is -1.0; give a number of pixels"),
        ({"copies": 0}, "copies is 0"),
        ({"momentum": -1.0}, "momentum is -1.0"),
        ({"stride": 0.0}, "stride is 0.0; give a share of ε"),
        ({"noise": -0.1}, "noise is -0.1; give 0 or more"),
        ({"noise": 0.1, "move": "both"}, "noise is 0.1; give 0 or more, and above 0 nothing"),
    ],
)
def test_an_ingredient_that_cannot_be_is_told(values, message):
    with pytest.raises(ValueError, match=message):
        Transfer(**values)


# --- gradients that agree ---------------------------------------------------------------------------------------------


def test_a_network_agrees_with_itself_and_not_with_its_opposite():
    images, labels = make_case(2, size=4, classes=2)
    compare = partial(alignment, Linear(), images=images, labels=labels, loss=cross_entropy)
    assert torch.allclose(compare(other=Linear()), torch.ones(2), atol=1e-5)
    assert (compare(other=Scaled(-1.0)) < 0).all()


# --- questions --------------------------------------------------------------------------------------------------------


def threshold(images):
    """Label maps of a network that sees class 1 where a pixel is above 0."""
    return (images[:, 0] > 0).long()


def test_questions_find_the_one_pixel_that_matters():
    images = torch.full((2, 1, 4, 4), -0.02)
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[0, 2, 1] = labels[1, 0, 3] = 1
    made = ask(threshold, images, images, labels, classes=(1,), epsilon=0.05, queries=400)
    assert torch.equal(threshold(made), labels)
    assert (made - images).abs().max() <= 0.05 + 1e-6


def test_questions_never_end_worse_than_they_start_and_more_go_on_where_fewer_end():
    images, labels = make_case(3, size=12, classes=2)
    seen = {}
    for queries in (1, 20, 60):
        shown = seen[queries] = []
        answer = lambda x, shown=shown: (shown.append(x.clone()), threshold(x))[1]  # noqa: E731
        options = {"classes": (1,), "epsilon": 0.3, "seed": ["a", "b", "c"]}
        made = ask(answer, images, images, labels, queries=queries, **options)
        assert len(shown) == queries
        seen[queries, "iou"] = iou(threshold(made), labels, classes=(1,))
    assert torch.equal(torch.stack(seen[20]), torch.stack(seen[60][:20]))
    assert (seen[1, "iou"] <= seen[20, "iou"]).all() and (seen[20, "iou"] <= seen[60, "iou"]).all()
    assert seen[60, "iou"].mean() > seen[1, "iou"].mean()


def test_questions_change_no_pixel_outside_the_region():
    images, labels = make_case(2, size=12, classes=2)
    region = torch.zeros_like(labels, dtype=torch.bool)
    region[:, :6] = True
    epsilon = 0.3 * region[:, None]
    made = ask(threshold, images, images, labels, classes=(1,), epsilon=epsilon, queries=50)
    assert torch.equal(made[:, :, 6:], images[:, :, 6:]) and not torch.equal(made, images)


def test_no_question_is_told():
    images, labels = make_case(1, classes=2)
    with pytest.raises(ValueError, match="queries is 0"):
        ask(threshold, images, images, labels, classes=(1,), epsilon=0.1, queries=0)


# --- one noise for all ------------------------------------------------------------------------------------------------


def test_one_noise_is_the_optimum_of_a_linear_network_whose_targets_agree():
    images, _ = make_case(5, size=4)
    labels = torch.ones(5, 4, 4, dtype=torch.int64)
    made = universal(Linear(), images * 0.5, labels, loss=cross_entropy, epsilon=0.1, steps=30)
    assert torch.allclose(made, 0.1 * Linear().weight.sign()[None, None], atol=1e-6)


def test_one_noise_needs_an_image():
    images, labels = make_case(1)
    with pytest.raises(ValueError, match="number of images is 0"):
        universal(unet(), images[:0], labels[:0], loss=cross_entropy, epsilon=0.1)


# --- the control ------------------------------------------------------------------------------------------------------


def test_scrambled_phases_keep_the_amplitude_of_every_frequency():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, 16, 16)
    noise = torch.randn(images.shape, generator=generator) * 0.01
    noise[:, :, 3, 4] = 0.2  # so that nothing is clipped
    made = scramble_phases(images, images + noise, seed=["a", "b"])
    found, before = (torch.fft.fft2(each).abs() for each in (made, noise))
    assert torch.allclose(found, before, atol=1e-4)
    assert torch.cosine_similarity(made.flatten(1), noise.flatten(1)).abs().max() < 0.5
    assert torch.equal(made, scramble_phases(images, images + noise, seed=["a", "b"]))


def test_scrambled_phases_are_clipped_to_the_largest_noise_and_the_range():
    images, _ = make_case(3)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).sign()
    made = scramble_phases(images, (images + noise).clamp(-1, 1))
    assert (made - images).abs().max() <= 0.1 + 1e-6 and made.abs().max() <= 1


# --- tables -----------------------------------------------------------------------------------------------------------


def test_an_interval_over_networks_and_cases_is_the_bootstrap_s_of_one_network_and_wider_of_several():
    cases = np.random.default_rng(1).normal(50, 5, 30)
    assert bootstrap_interval([cases]) == bootstrap_interval(cases)
    low, high = bootstrap_interval([cases - 10, cases, cases + 10])
    alone = bootstrap_interval(cases)
    assert low < alone[0] - 3 and high > alone[1] + 3
    assert np.isnan(bootstrap_interval([[1.0], [2.0]])).all()


def test_a_gain_is_over_no_attack_on_the_same_network_and_case():
    start = {"1": (30, 40), "2": (50, 20)}
    rows = [
        (step, "small", target, id, structure, "target", value + more * (structure == "heart"))
        for step, more in (("no attack", 0), ("moved", 42))
        for target, values in start.items()
        for id, value in zip("ab", values, strict=True)
        for structure in ("heart", "lung")
    ]
    names = ["step", "symbol", "target", "id", "structure", "compared_with", "iou"]
    found = tabulate_gains(pd.DataFrame(rows, columns=names), "heart")
    moved = found[found["step"] == "moved"].set_index("target")
    assert list(found["step"].unique()) == ["no attack", "moved"]
    assert moved["gain"].to_dict() == {"1": 42, "2": 42, "all": 42}
    assert moved["iou"].to_dict() == {"1": 77, "2": 77, "all": 77}
    assert moved["others"].to_dict() == {"1": 35, "2": 35, "all": 35}
    assert moved["reached"].to_dict() == {"1": 50, "2": 50, "all": 50}
    assert moved.loc["all", "gain_low"] == moved.loc["all", "gain_high"] == 42


# --- other training cases ---------------------------------------------------------------------------------------------


def split_data(n):
    data = toys.dataset(n)
    parts = {"target-training": data.ids[:4], "target-validation": data.ids[4:5]}
    parts |= {"surrogate-training": data.ids[:4], "surrogate-validation": data.ids[4:5]}
    return replace(data, split=parts | {"test": data.ids[5:6]}, spare=data.ids[6:])


def test_disjoint_cases_are_those_that_no_network_knows():
    found = other_cases(split_data(16))
    assert list(found) == ["disjoint cases", "a quarter of the cases"]
    split = found["disjoint cases"].split
    own = split["surrogate-training"] + split["surrogate-validation"]
    assert len(split["surrogate-training"]) == 4 and len(set(own)) == len(own)
    assert not {*own} & {*split_data(16).ids[:6]}
    assert found["a quarter of the cases"].split["surrogate-training"] == ("c0",) * 4


def test_where_every_case_is_known_there_are_no_disjoint_ones():
    assert list(other_cases(split_data(6))) == ["a quarter of the cases"]


# --- through the sweep ------------------------------------------------------------------------------------------------


def an_experiment(data, **values):
    own = {"attacked": "a", "crafted_on": "b", "goal": Goal("shape", "heart"), "epsilon": 0.05}
    return toys.experiment(data, **own | values)


def results(experiments, data):
    images, truth = data.take(data.ids)
    cases = (dict(zip(data.ids, part, strict=True)) for part in (images, truth))
    networks = toys.NETWORKS | {"c": toys.unet(2)}
    found = compute_results(experiments, *cases, structures=data.structures, networks=networks)
    return dict(zip(experiments, found, strict=True))


def test_a_sweep_makes_the_same_noise_for_every_network_that_is_shown_it():
    data = toys.dataset(3, size=32)
    transfer = replace(EVERYTHING, others=("c",))
    one = an_experiment(data, transfer=transfer, loss="cross-entropy")
    other = replace(one, attacked="b")
    found = results([one, other], data)
    assert np.array_equal(found[one].noise, found[other].noise)
    alone = results([one], data)[one]
    assert np.abs(alone.noise.astype(int) - found[one].noise).max() <= 1
    without = results([replace(one, transfer=replace(transfer, others=()))], data)
    assert not np.array_equal([*without.values()][0].noise, alone.noise)


def test_questions_of_a_sweep_never_lower_the_mean_iou_and_start_from_the_attack_or_from_nothing():
    data = toys.dataset(3, size=32)
    starts = an_experiment(data, transfer=EVERYTHING), an_experiment(data, attack="no attack")
    for start in starts:
        asked = replace(start, queries=20)
        found = results([start, asked], data)
        before, after = (np.nanmean(found[each].iou["target"], axis=1) for each in (start, asked))
        assert (after >= before - 1e-4).all() and after.sum() > before.sum()
        assert found[asked].linf.max() <= 0.05 + 1e-6


def test_the_control_of_the_same_spectrum_is_no_larger_than_the_attack():
    data = toys.dataset(3, size=32)
    one = an_experiment(data)
    control = replace(one, attack="same spectrum")
    found = results([one, control], data)
    assert (found[control].linf <= found[one].linf + 1e-6).all()
    assert not np.array_equal(found[control].noise, found[one].noise)


def test_an_experiment_with_ingredients_comes_back_from_json_under_a_key_of_its_own():
    data = toys.dataset(2)
    plain = an_experiment(data)
    one = replace(plain, transfer=replace(EVERYTHING, others=("c",)), queries=5)
    back = Experiment.read(json.loads(json.dumps(one.values())))
    assert back == one and back.key == one.key and hash(back) == hash(one)
    changed = {replace(one, transfer=None).key, replace(one, queries=0).key, plain.key, one.key}
    assert len(changed) == 4


def test_an_experiment_of_another_version_of_the_transfer_is_read_but_not_computed():
    data = toys.dataset(2, size=32)
    older = an_experiment(data, transfer=replace(EVERYTHING, version=1))
    assert Experiment.read(json.loads(json.dumps(older.values()))) == older
    assert older.key != replace(older, transfer=EVERYTHING).key
    with pytest.raises(
        ValueError, match="version of the transfer is .*version=1.*this machine has"
    ):
        results([older], data)


def test_black_padding_does_not_stop_an_attack_that_changes_intensities():
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    images, keys = blobs(8)[0], range(8)
    images[..., :6] = -1
    for step in range(8):
        x = images.clone().requires_grad_()
        shown, _ = mover("nothing", intensity=True)(x, None, [(step, key) for key in keys])
        (gradient,) = torch.autograd.grad(network(shown).square().sum(), x)
        assert gradient.isfinite().all() and gradient[..., 8:].any()


def test_scrambled_noise_and_one_noise_for_all_leave_the_padding_alone():
    images = torch.rand(2, 1, 16, 16) - 0.5
    within = torch.zeros(2, 16, 16, dtype=torch.bool)
    within[0, :, 3:13], within[1] = True, True
    noise = 0.1 * torch.randn(images.shape) * within[:, None]
    made = scramble_phases(images, images + noise, seed=["a", "b"], within=within) - images
    assert not made[0][:, ~within[0]].any() and made[0][:, within[0]].all()
    energies = (made.square().sum() / noise.square().sum()).item()
    assert 0.8 < energies < 1.05
    alone = scramble_phases(images[1:], (images + noise)[1:], seed=["b"]) - images[1:]
    assert torch.equal(alone[0], made[1])
    labels = torch.ones(2, 16, 16, dtype=torch.int64)
    labels[:, :, :4] = OUTSIDE
    found = universal(Pixelwise(), images, labels, loss=cross_entropy, epsilon=0.1, steps=3)
    assert not found[..., :4].any() and found[..., 4:].all()


def test_the_faster_attack_keeps_its_steps_and_takes_noisy_copies():
    data = toys.dataset(3, size=32)
    fast = an_experiment(data, attack="fast pgd", steps=5)
    noisy = replace(fast, transfer=Transfer(noise=0.3, copies=2))
    stepping = replace(noisy, transfer=Transfer(noise=0.3, copies=2, stride=1.0, momentum=0.5))
    found = results([fast, noisy, stepping], data)
    assert np.array_equal(found[noisy].noise, found[stepping].noise)
    assert not np.array_equal(found[noisy].noise, found[fast].noise)
    (alone,) = results([replace(noisy, ids=data.ids[1:2])], data).values()
    assert np.abs(alone.noise[0].astype(int) - found[noisy].noise[1]).max() <= 1


def test_ingredients_need_pgd_and_their_surrogates():
    data = toys.dataset(2)
    with pytest.raises(ValueError, match="transfer of the attack is 'fgsm'; only pgd"):
        an_experiment(data, attack="fgsm", transfer=EVERYTHING)
    with pytest.raises(ValueError, match="queries is -1"):
        an_experiment(data, queries=-1)
    for change in ({"attack": "fast pgd"}, {"stop_at": 80.0}):
        with pytest.raises(ValueError, match="attack on several surrogates is '.*pgd'; "):
            an_experiment(data, transfer=replace(EVERYTHING, others=("b",)), **change)
    one = an_experiment(data, transfer=replace(EVERYTHING, others=("missing",)))
    with pytest.raises(ValueError, match="digest of the weights is 'missing'"):
        check_experiment(one, data, {"a", "b"})
