"""Attacks on a linear network whose best attack is known, and the promises that hold on any network."""

import copy
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import IOU, Linear, attack, healthy, make_case, unet
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import loss as losses
from helpers.attack import fast_pgd, fgsm, pgd
from helpers.common.paths import ROOT
from helpers.evaluation import iou
from helpers.loss import iou_loss
from helpers.network import UNet, predict
from helpers.noise import shuffle_noise, uniform_noise

# --- the optimum ------------------------------------------------------------------------------------------------------


def best_attack(network, images, labels, epsilon, targeted):
    """Soft IoU of class 1 grows with the margin inside the label and falls with it outside."""
    towards = network.weight.detach().sign() * (2 * labels - 1)
    return (images + (1 if targeted else -1) * epsilon * towards[:, None]).clamp(-1, 1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("epsilon", [0.01, 0.16, 0.5])
def test_pgd_and_fgsm_reach_the_best_attack_on_a_linear_network(epsilon, targeted):
    network, (images, labels) = Linear(), make_case(size=4, classes=2)
    best = best_attack(network, images, labels, epsilon, targeted)
    options = {"loss": IOU, "epsilon": epsilon, "targeted": targeted, "precision": "fp32"}
    assert (best.abs() == 1).any() or epsilon < 0.1  # large noise meets the valid range
    assert torch.equal(pgd(network, images, labels, **options).adv_images, best)
    assert torch.equal(pgd(network, images, labels, steps=21, **options).adv_images, best)
    assert torch.equal(fgsm(network, images, labels, **options).adv_images, best)
    started = pgd(network, images, labels, random_start=True, steps=41, **options).adv_images
    assert torch.equal(started, best)


@pytest.mark.parametrize("steps", [1, 7, 19])
def test_before_it_arrives_pgd_has_gone_a_twentieth_of_epsilon_a_step(steps):
    network, (images, labels) = Linear(), make_case(size=4, classes=2)
    images = images * 0.5  # away from the ends of the valid range
    found = attack(network, images, labels, steps=steps).adv_images - images
    expected = best_attack(network, images, labels, 0.1, targeted=False) - images
    torch.testing.assert_close(found, expected * steps / 20)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fgsm_is_pgd_with_one_step_of_epsilon(targeted, precision):
    network, (images, labels) = unet(), make_case()
    options = {"loss": IOU, "epsilon": 0.05, "targeted": targeted, "precision": precision}
    one = fgsm(network, images, labels, **options)
    other = pgd(network, images, labels, steps=1, step_size=0.05, **options)
    assert torch.equal(one.adv_images, other.adv_images) and torch.equal(one.loss, other.loss)
    assert not torch.equal(one.adv_images, images)


def test_fgsm_takes_an_epsilon_for_each_image():
    network, (images, labels) = unet(), make_case()
    epsilon = torch.tensor([0.01, 0.02, 0.0, 0.3])
    noise = fgsm(network, images, labels, loss=IOU, epsilon=epsilon).adv_images - images
    torch.testing.assert_close(noise.abs().amax(dim=(1, 2, 3)), epsilon)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_the_loss_moves_where_the_attack_wants_it(targeted, precision):
    network, (images, labels) = unet(), make_case()
    loss = pgd(
        network,
        images,
        labels,
        loss=IOU,
        epsilon=0.1,
        steps=20,
        targeted=targeted,
        precision=precision,
    ).loss
    assert loss.shape == (21, 4)
    assert ((loss[-1] < loss[0]) if targeted else (loss[-1] > loss[0])).all()


def test_the_first_loss_is_that_of_the_images_and_each_next_one_that_after_a_step():
    network, (images, labels) = unet(), make_case()
    loss = attack(network, images, labels, steps=3).loss
    for step in range(4):
        at = images if step == 0 else attack(network, images, labels, steps=step).adv_images
        torch.testing.assert_close(loss[step], IOU(network(at), labels).detach(), atol=1e-5, rtol=0)


def test_any_per_image_loss_will_do():
    network, (images, labels) = unet(), make_case()

    def per_image(logits, labels):
        return cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))

    loss = attack(network, images, labels, loss=per_image, steps=10).loss
    assert (loss[-1] > loss[0]).all()


# --- limits -----------------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    epsilon=st.floats(0, 2.5),
    step=st.floats(0, 3),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
    targeted=st.booleans(),
    random_start=st.booleans(),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_noise_never_exceeds_epsilon_nor_leaves_its_region_nor_the_valid_range(
    epsilon, step, steps, seed, targeted, random_start, precision
):
    network, (images, labels) = Linear(), make_case(size=4, classes=2, seed=seed)
    region = make_case(size=4, classes=2, seed=seed + 100)[1] == 1
    for done in range(
        1, steps + 1
    ):  # an attack is deterministic: these are the iterates of the longest one
        adv_images = pgd(
            network,
            images,
            labels,
            loss=IOU,
            epsilon=epsilon,
            step_size=step,
            steps=done,
            targeted=targeted,
            random_start=random_start,
            precision=precision,
            region=region,
        ).adv_images
        assert (adv_images.double() - images.double()).abs().max() <= epsilon + 1e-7
        assert adv_images.abs().max() <= 1
        assert torch.equal(adv_images[~region[:, None]], images[~region[:, None]])


def test_at_every_step_noise_on_a_real_network_stays_within_its_limits():
    network, (images, labels) = unet(), make_case()
    epsilon = torch.tensor([0.01, 0.05, 0.2, 1.5])
    for steps in range(1, 9):
        options = {"epsilon": epsilon, "step_size": epsilon / 3, "steps": steps}
        noise = attack(network, images, labels, **options).adv_images - images
        assert (noise.abs().amax(dim=(1, 2, 3)) <= epsilon + 1e-6).all()
        assert (images + noise).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("shape", ["one for all", "one each"])
def test_noise_stays_in_its_region_and_fills_it(shape):
    network, (images, labels) = unet(), make_case()
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[4:9, 6:12] = True
    if shape == "one each":
        region = torch.stack([region.roll(i, 0) for i in range(4)])
    noise = attack(network, images, labels, region=region, random_start=True).adv_images - images
    inside = region.expand(4, 16, 16)[:, None]
    assert (noise[~inside] == 0).all()
    assert (noise[inside] != 0).float().mean() > 0.9


def test_an_empty_region_leaves_the_images_as_they_are():
    network, (images, labels) = unet(), make_case()
    region = torch.zeros(16, 16, dtype=torch.bool)
    assert torch.equal(
        attack(network, images, labels, region=region, random_start=True).adv_images, images
    )


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_epsilon_0_is_the_identity(random_start, precision):
    network, (images, labels) = unet(), make_case()
    options = {"epsilon": 0, "random_start": random_start, "precision": precision}
    assert torch.equal(attack(network, images, labels, **options).adv_images, images)


def test_another_valid_range_is_kept():
    network, (images, labels) = unet(), make_case()
    images = (images + 1) / 2
    found = attack(
        network, images, labels, epsilon=0.5, step_size=0.5, value_range=(0, 1)
    ).adv_images
    assert found.min() == 0 and found.max() == 1


def test_the_images_handed_in_are_not_changed():
    network, (images, labels) = unet(), make_case()
    before = images.clone(), labels.clone()
    attack(network, images, labels, random_start=True)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


def test_no_images_give_an_empty_result():
    images, labels = (part[:0] for part in make_case())
    empty = attack(unet(), images, labels, random_start=True)
    assert empty.adv_images.shape == (0, 1, 16, 16) and empty.loss.shape == (4, 0)
    assert (
        uniform_noise(images, epsilon=0.1).shape
        == shuffle_noise(images, images).shape
        == (0, 1, 16, 16)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_result_drags_no_gradients_along(precision, layout):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    images, labels = make_case(channels=3)
    result = attack(network, images.to(memory_format=layout), labels, precision=precision)
    assert not result.adv_images.requires_grad and not result.loss.requires_grad


def test_images_that_ask_for_gradients_may_be_attacked():
    network, (images, labels) = unet(), make_case()
    result = attack(network, images.clone().requires_grad_(), labels)
    assert not result.adv_images.requires_grad
    assert torch.equal(result.adv_images, attack(network, images, labels).adv_images)


def test_an_attack_works_where_gradients_are_switched_off():
    network, (images, labels) = unet(), make_case()
    with torch.no_grad():
        found = attack(network, images, labels).adv_images
        assert not torch.is_grad_enabled()
    assert torch.equal(found, attack(network, images, labels).adv_images)


# --- independence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("random_start", [False, True])
def test_the_result_does_not_depend_on_the_batch_size(batch_size, random_start):
    network, (images, labels) = unet(depth=2), make_case(7)
    options = {"steps": 10, "random_start": random_start}
    whole = attack(network, images, labels, batch_size=7, **options)
    parts = attack(network, images, labels, batch_size=batch_size, **options)
    assert torch.equal(parts.adv_images, whole.adv_images)
    torch.testing.assert_close(parts.loss, whole.loss, atol=1e-6, rtol=0)


def test_the_result_does_not_depend_on_what_else_is_in_the_batch():
    network, (images, labels) = unet(depth=2), make_case(5)
    whole = attack(network, images, labels, steps=10).adv_images
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(
        attack(network, images[order], labels[order], steps=10).adv_images, whole[order]
    )
    assert torch.equal(attack(network, images[1:3], labels[1:3], steps=10).adv_images, whole[1:3])


def test_an_epsilon_for_each_image_gives_the_same_as_separate_attacks():
    network, (images, labels) = unet(depth=2), make_case(1)
    levels = [0.0, 0.01, 0.02, 0.04, 0.16]
    together = attack(
        network,
        images.repeat(5, 1, 1, 1),
        labels.repeat(5, 1, 1),
        epsilon=torch.tensor(levels),
        steps=10,
    ).adv_images
    for one, epsilon in zip(together, levels, strict=True):
        assert torch.equal(
            attack(network, images, labels, epsilon=epsilon, steps=10).adv_images[0], one
        )


def test_a_step_size_for_each_image_gives_the_same_as_separate_attacks():
    network, (images, labels) = unet(), make_case(3)
    sizes = torch.tensor([0.001, 0.02, 0.1])
    together = attack(network, images, labels, step_size=sizes).adv_images
    for i in range(3):
        alone = attack(
            network, images[i : i + 1], labels[i : i + 1], step_size=float(sizes[i])
        ).adv_images
        assert torch.equal(alone[0], together[i])


def test_the_same_seed_gives_the_same_random_start_and_another_seed_another():
    network, (images, labels) = unet(), make_case()
    first, again, other = (
        attack(network, images, labels, random_start=True, seed=s, steps=1).adv_images
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_attack_leaves_the_global_random_state_alone():
    network, (images, labels) = unet(), make_case()
    before = torch.get_rng_state()
    attack(network, images, labels, random_start=True)
    shuffle_noise(images, images * 0.9)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attack", [pgd, fast_pgd])
def test_a_gpu_gives_nearly_the_same_answer(trained, attack, precision):
    network, images, labels = trained
    options = {
        "loss": partial(iou_loss, classes=(1, 2)),
        "epsilon": 0.2,
        "classes": (1, 2),
    }
    here = attack(network, images, labels, precision="fp32", **options)
    there = attack(
        copy.deepcopy(network).cuda(), images.cuda(), labels.cuda(), precision=precision, **options
    )
    assert there.adv_images.is_cuda and (there.adv_images.cpu() - images).abs().max() <= 0.2 + 1e-6
    torch.testing.assert_close(there.iou[-1].mean().cpu(), here.iou[-1].mean(), atol=3, rtol=0)


# --- the network ------------------------------------------------------------------------------------------------------


def fails(logits, labels):
    raise ArithmeticError


@pytest.mark.parametrize("loss", [IOU, fails])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_is_given_back_exactly_as_it_was(loss, precision):
    network, (images, labels) = unet(), make_case()
    IOU(network(images), labels).sum().backward()
    network.train()
    network.bottom.eval()
    network.head.requires_grad_(False)

    def look():
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return (
            {
                n: (
                    t.clone(),
                    t.grad.clone() if t.grad is not None else None,
                    t.requires_grad,
                    t.dtype,
                    t.stride(),
                )
                for n, t in tensors.items()
            },
            {n: (m.training, type(m), len(m._forward_hooks)) for n, m in network.named_modules()},
            [id(t) for t in tensors.values()],
        )

    before = look()
    assert any(grad is not None for _, grad, *_ in before[0].values())
    try:
        attack(network, images, labels, loss=loss, precision=precision)
        assert loss is IOU
    except ArithmeticError:
        assert loss is fails
    after = look()
    assert before[1:] == after[1:]
    for name, (value, grad, *rest) in before[0].items():
        assert torch.equal(after[0][name][0], value) and after[0][name][2:] == tuple(rest)
        assert (grad is None and after[0][name][1] is None) or torch.equal(after[0][name][1], grad)


def test_a_network_left_in_train_mode_is_attacked_in_evaluation_mode():
    network, (images, labels) = unet(), make_case()
    expected = attack(network.eval(), images, labels)
    found = attack(network.train(), images, labels)
    assert torch.equal(found.adv_images, expected.adv_images) and torch.equal(
        found.loss, expected.loss
    )
    assert not torch.allclose(
        IOU(network(images), labels), expected.loss[0], atol=1e-3
    )  # or it would show nothing


def test_a_loss_that_is_not_a_number_is_told():
    images, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="loss is .*nan"):
        pgd(
            nn.Conv2d(1, 2, 1),
            images,
            labels,
            loss=lambda z, y: z.mean(dim=(1, 2, 3)) * float("nan"),
            epsilon=0.1,
        )


@pytest.mark.parametrize("keep", ["last", "loss"])
def test_a_step_whose_loss_is_not_a_number_does_not_count(keep):
    network, images, labels = healthy()
    steps = iter(range(100))

    def failing(logits, labels):
        return IOU(logits, labels) / (next(steps) < 4)

    with pytest.warns(UserWarning, match="these steps do not count"):
        result = attack(network, images, labels, loss=failing, steps=6, keep=keep)
    assert (result.taken < 4).all() and result.loss.gather(0, result.taken[None]).isfinite().all()


def test_the_faster_attack_has_a_label_map_as_its_target():
    network, images, labels = healthy()
    masks = torch.stack([labels, 1 - labels], dim=1)
    with pytest.raises(ValueError, match=r"shape of labels is .*; give a map \(N, H, W\)"):
        fast_pgd(network, images, masks, loss=IOU, epsilon=0.1, targeted=True)


def test_a_structure_that_is_neither_wanted_nor_there_counts_as_done():
    network, images, labels = healthy()
    nothing = torch.zeros_like(labels)
    result = attack(
        network, images, nothing, epsilon=2, steps=30, targeted=True, classes=(1,), stop_at=90
    )
    assert result.iou.gather(0, result.taken[None]).isnan().all() and (result.taken < 30).all()
    best = attack(
        network, images, nothing, epsilon=2, steps=30, targeted=True, classes=(1,), keep="iou"
    )
    assert (network(best.adv_images).argmax(dim=1) == 0).all()


def test_a_network_without_a_gradient_is_told():
    class Steps(Linear):
        def forward(self, images):
            return super().forward(images).detach().sign()

    _, images, labels = healthy()
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        attack(Steps(16).eval(), images, labels)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_a_loss_may_be_of_any_type(precision, dtype):
    network, (images, labels) = unet(), make_case()

    def plain(logits, labels):
        return cross_entropy(logits.to(dtype or logits.dtype), labels, reduction="none").mean(
            dim=(1, 2)
        )

    result = attack(network, images, labels, loss=plain, precision=precision, steps=10)
    assert result.loss.dtype == torch.float32 and (result.loss[-1] > result.loss[0]).all()


# --- options ----------------------------------------------------------------------------------------------------------


def plain_momentum(network, images, labels, *, epsilon, steps, momentum, factors, sign):
    """Momentum iterative FGSM, written out for one image after the other."""
    found = []
    for image, label in zip(images, labels, strict=True):
        x, direction = image[None].clone(), torch.zeros_like(image[None])
        for step in range(steps):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(IOU(network(x), label[None]).sum(), x)
            direction = momentum * direction + gradient / gradient.abs().mean()
            moved = x.detach() + sign * epsilon / 20 * factors[step] * direction.sign()
            x = (image + (moved - image).clamp(-epsilon, epsilon)).clamp(-1, 1)
        found.append(x)
    return torch.cat(found)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_momentum_and_schedule_do_what_they_say(targeted, momentum):
    network, (images, labels) = unet(), make_case()
    options = {"epsilon": 0.1, "steps": 7, "momentum": momentum}
    found = attack(
        network, images, labels, targeted=targeted, schedule=lambda done: 5 - 4 * done, **options
    ).adv_images
    factors = [5 - 4 * step / 7 for step in range(7)]
    expected = plain_momentum(
        network, images, labels, factors=factors, sign=-1 if targeted else 1, **options
    )
    assert (found - expected).abs().gt(1e-5).float().mean() < 0.01


def plain_adam(network, images, labels, *, epsilon, steps, momentum):
    """Ascent along torch's own Adam direction, clipped to ±1, one image after the other."""
    found = []
    for image, label in zip(images, labels, strict=True):
        x = image[None].clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=1.0, betas=(momentum, 0.9), maximize=True)
        for _ in range(steps):
            before = x.detach().clone()
            (gradient,) = torch.autograd.grad(IOU(network(x), label[None]).sum(), x)
            x.grad = gradient / gradient.abs().mean()
            adam.step()
            moved = before + epsilon / 20 * (x.detach() - before).clamp(-1, 1)
            with torch.no_grad():
                x.copy_((image + (moved - image).clamp(-epsilon, epsilon)).clamp(-1, 1))
        found.append(x.detach())
    return torch.cat(found)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_adams_direction_is_that_of_torch_clipped(momentum):
    network, (images, labels) = unet(), make_case()
    options = {"epsilon": 0.1, "steps": 7, "momentum": momentum}
    found = attack(network, images, labels, direction="adam", **options).adv_images
    expected = plain_adam(network, images, labels, **options)
    assert (found - expected).abs().gt(1e-4).float().mean() < 0.01


def test_an_image_that_gains_next_to_nothing_ends_with_its_stage_and_the_others_go_on():
    network, (images, labels) = unet(), make_case()
    epsilon = torch.tensor([0.2, *[0.2] * (len(images) - 2), 0.0])  # the last can gain nothing
    options = {"epsilon": epsilon, "step_size": 0.002, "stages": (4, 8), "steps": 12}
    result = attack(network, images, labels, **options)
    assert result.taken[:-1].eq(12).all() and result.loss[:, :-1].isfinite().all()
    whole = attack(network, images, labels, **options | {"stages": ()})
    assert torch.equal(result.adv_images, whole.adv_images)
    far = attack(network, images, labels, **options | {"step_size": 0.2, "stages": (6, 9, 12)})
    alone = attack(
        network,
        images[1:2],
        labels[1:2],
        **options | {"epsilon": 0.2, "step_size": 0.2, "stages": (6, 9, 12)},
    )
    assert torch.equal(far.adv_images[1:2], alone.adv_images)


def test_as_many_steps_as_needed_are_few_where_the_optimum_is_near_and_reach_it():
    network, (images, labels) = Linear(), make_case(size=4, classes=2)
    options = {"loss": IOU, "epsilon": 0.1, "targeted": True, "precision": "fp32"}
    result = fast_pgd(network, images, labels, steps="auto", **options)
    assert torch.equal(result.adv_images, best_attack(network, images, labels, 0.1, True))
    assert result.taken.eq(60).all() and result.loss[61:].isnan().all()
    with pytest.raises(ValueError, match="steps 'many' is unknown; choose one of auto"):
        fast_pgd(network, images, labels, steps="many", **options)


@pytest.mark.parametrize("options", [{"direction": "up"}, {"direction": "adam", "momentum": 1.0}])
def test_a_direction_that_does_not_exist_is_refused(options):
    network, (images, labels) = unet(), make_case()
    with pytest.raises(
        ValueError,
        match="direction 'up' is unknown|momentum is 1.0; give a number from 0 to below 1",
    ):
        attack(network, images, labels, **options)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("keep", ["loss", "iou"])
def test_the_best_iterate_is_never_worse_than_the_last(targeted, keep):
    network, (images, labels) = unet(depth=2), make_case(6)
    options = {
        "epsilon": 0.5,
        "step_size": 0.4,
        "steps": 12,
        "targeted": targeted,
        "classes": (1, 2),
    }
    last, best = (attack(network, images, labels, keep=k, **options) for k in ("last", keep))
    history = getattr(best, keep) * (-1 if targeted == (keep == "loss") else 1)
    assert torch.equal(history, getattr(last, keep) * (-1 if targeted == (keep == "loss") else 1))
    kept = history.gather(0, best.taken[None])[0]
    assert (kept == history.amax(dim=0)).all() and (kept > history[-1]).any()
    assert (last.taken == 12).all()
    for k in range(6):
        steps = int(best.taken[k])
        again = images[k : k + 1]
        if steps:
            again = attack(
                network, again, labels[k : k + 1], **options | {"steps": steps}
            ).adv_images
        assert torch.equal(again[0], best.adv_images[k])


def test_the_history_holds_what_the_network_says():
    network, (images, labels) = unet(depth=2), make_case()
    result = attack(network, images, labels, steps=4, classes=(1, 2))
    for step in range(5):
        at = attack(network, images, labels, steps=step).adv_images if step else images
        expected = iou(predict(network, at), labels, classes=(1, 2)).mean(dim=1)
        torch.testing.assert_close(result.iou[step], expected, atol=0.5, rtol=0)
    assert result.iou.shape == (5, 4)
    assert attack(network, images, labels).iou is None


@pytest.mark.parametrize("targeted, level", [(True, 75.0), (False, 5.0)])
@pytest.mark.parametrize("keep", ["last", "loss", "iou"])
def test_a_stopped_image_has_reached_its_level_and_taken_no_more_steps_than_needed(
    targeted, level, keep
):
    network, images, labels = healthy(6)
    options = {"epsilon": 0.4, "steps": 40, "targeted": targeted, "classes": (1,)}
    whole = attack(network, images, labels, **options)
    result = attack(network, images, labels, stop_at=level, keep=keep, **options)
    done = whole.iou >= level if targeted else whole.iou <= level
    first = torch.where(done.any(dim=0), done.float().argmax(dim=0), 40)
    assert done.any(dim=0).any() and not done.all(dim=0).any() and len(first.unique()) > 1
    reached = done.any(dim=0)
    assert torch.equal(result.taken[reached], first[reached])
    for k in range(6):
        if reached[k]:
            assert (
                result.loss[first[k] + 1 :, k].isnan().all()
                and result.iou[: first[k] + 1, k].isfinite().all()
            )
            alone = attack(
                network, images[k : k + 1], labels[k : k + 1], **options | {"steps": int(first[k])}
            )
            assert torch.equal(alone.adv_images[0], result.adv_images[k])
    parts = attack(network, images, labels, stop_at=level, keep=keep, batch_size=1, **options)
    assert torch.equal(parts.adv_images, result.adv_images)


def test_a_level_reached_before_the_first_step_leaves_the_image_alone():
    network, images, labels = healthy()
    result = attack(network, images, labels, stop_at=0.0, classes=(1,), targeted=True)
    assert (
        torch.equal(result.adv_images, images) and (result.taken == 0).all() and not result.warnings
    )


def guide_of(loss):
    """A guide that follows a loss, however far the attack is."""
    return lambda logits, labels, progress: loss(logits, labels)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "margin_loss"])
def test_every_loss_reaches_the_best_attack_on_a_linear_network(name, targeted):
    network, images, labels = healthy(size=4)
    guide = guide_of(getattr(losses, name))
    found = attack(network, images, labels, guide=guide, steps=40, targeted=targeted).adv_images
    best = best_attack(network, images, labels, 0.1, targeted)
    assert torch.equal(found, best)


def test_a_guide_gets_the_share_of_the_steps_done():
    shares = []

    def guide(logits, labels, progress):
        shares.append(progress)
        return IOU(logits, labels)

    network, images, labels = healthy()
    result = attack(network, images, labels, guide=guide, steps=4)
    assert shares == [0, 0.25, 0.5, 0.75]
    assert torch.equal(result.adv_images, attack(network, images, labels, steps=4).adv_images)


def test_the_guide_leads_and_the_loss_measures():
    network, (images, labels) = unet(), make_case()
    guided = attack(network, images, labels, guide=guide_of(losses.cross_entropy), steps=6)
    led = attack(network, images, labels, loss=losses.cross_entropy, steps=6)
    assert torch.equal(guided.adv_images, led.adv_images)
    torch.testing.assert_close(
        guided.loss[-1], IOU(network(guided.adv_images), labels).detach(), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def trained():
    """A small U-Net that finds a bright disc and a dark one in noise, images, and their label maps."""

    def draw(n, generator):
        rows = torch.arange(32.0)
        centres = (
            torch.rand(n, 2, 2, 1, 1, generator=generator) * 16
            + torch.tensor([0, 8])[:, None, None]
            + 4
        )
        discs = (rows[:, None] - centres[:, :, 0]) ** 2 + (rows - centres[:, :, 1]) ** 2 < 25
        labels = discs[:, 0] + 2 * (discs[:, 1] & ~discs[:, 0]).long()
        grey = torch.tensor([0.0, 0.5, -0.5])[labels]
        return (grey + 0.2 * torch.randn(n, 32, 32, generator=generator)).clamp(-1, 1)[
            :, None
        ], labels

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(num_classes=3, depth=2, features=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(80):
        images, labels = draw(8, generator)
        optimizer.zero_grad()
        iou_loss(network(images), labels, classes=range(3)).mean().backward()
        optimizer.step()
    return network.eval(), *draw(6, generator)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_fast_attack_reaches_the_best_attack_on_a_linear_network(targeted):
    network, images, labels = healthy(size=4)
    found = fast_pgd(
        network, images, labels, loss=IOU, epsilon=0.1, targeted=targeted, precision="fp32"
    ).adv_images
    assert torch.equal(found, best_attack(network, images, labels, 0.1, targeted))


@pytest.mark.parametrize("targeted", [False, True])
def test_the_fast_attack_moves_a_trained_network_and_keeps_all_limits(trained, targeted):
    network, images, truth = trained
    labels = truth.roll((3, 3), (1, 2)) if targeted else truth
    options = {
        "loss": partial(iou_loss, classes=(1, 2)),
        "epsilon": 0.2,
        "targeted": targeted,
        "precision": "fp32",
    }
    fast, plain = (a(network, images, labels, classes=(1, 2), **options) for a in (fast_pgd, pgd))
    moved, expected = ((r.iou[-1] - r.iou[0]).mean().abs() for r in (fast, plain))
    assert (
        expected > 15 and moved > 0.8 * expected
    )  # it goes further than plain steps only where the network is sure
    assert (fast.adv_images - images).abs().max() <= 0.2 + 1e-6 and fast.adv_images.abs().max() <= 1
    assert fast.loss.shape == (31, 6) and not fast.warnings
    assert torch.equal(
        fast_pgd(network, images, labels, batch_size=1, **options).adv_images, fast.adv_images
    )


def test_the_whole_range_is_enough_to_bend_a_trained_network_with_steps_of_a_sensible_size(trained):
    network, images, truth = trained
    target, options = (
        truth.roll((3, 3), (1, 2)),
        {"loss": partial(iou_loss, classes=(1, 2)), "classes": (1, 2)},
    )
    result = pgd(
        network,
        images,
        target,
        epsilon=2,
        targeted=True,
        steps=200,
        step_size=0.02,
        keep="iou",
        precision="fp32",
        **options,
    )
    reached = result.iou.gather(0, result.taken[None])[0]
    assert (result.iou[0] < 60).all() and reached.mean() >= 97


def test_the_whole_range_is_enough_for_any_target():
    network, images, labels = healthy()
    result = attack(network, images, labels, epsilon=2, steps=100, targeted=True, classes=(1,))
    assert (result.iou[0] < 60).all() and (result.iou[-1] >= 97).all()


# --- the README's example ---------------------------------------------------------------------------------------------


def test_the_example_of_the_readme_attacks_a_network_that_is_not_ours():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, found)
    result, images = found["result"], found["images"]
    assert (result.adv_images - images).abs().max() <= 0.2 + 1e-6
    assert result.iou[-1].mean() > result.iou[0].mean() + 5 and not result.warnings


# --- bad input --------------------------------------------------------------------------------------------------------

IMAGES, LABELS = make_case(2)
NAN = float("nan")


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"epsilon": -0.1}, r"epsilon is -0\.1"),
        ({"epsilon": NAN}, "epsilon is nan"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"epsilon": torch.tensor([0.1, -0.5])}, r"epsilon is .*-0\.5"),
        (
            {"epsilon": torch.tensor([0.5, 0.5, 0.5])},
            r"epsilon is \[0\.5, 0\.5, 0\.5\].*one per image \(2\)",
        ),
        ({"epsilon": torch.ones(2, 1)}, r"epsilon is \[\[1\.0\], \[1\.0\]\]"),
        ({"step_size": -1.0}, r"step_size is -1\.0"),
        ({"step_size": torch.ones(3)}, r"step_size is \[1\.0, 1\.0, 1\.0\].*one per image \(2\)"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 2.5}, r"steps is 2\.5"),
        ({"steps": NAN}, "steps is nan"),
        ({"steps": float("inf")}, "steps is inf"),
        ({"labels": LABELS[:1]}, r"labels .*\(1, 16, 16\)"),
        ({"labels": LABELS[:, :8]}, r"labels .*\(2, 8, 16\)"),
        ({"labels": LABELS[:, None]}, r"labels .*\(2, 1, 16, 16\)"),
        ({"labels": LABELS.int()}, "labels .*int32"),
        ({"labels": LABELS.float()}, "labels .*float32"),
        ({"labels": LABELS + 1}, "class of the labels is 3"),
        ({"labels": LABELS - 1}, "class of the labels is -1"),
        ({"region": torch.ones(8, 16, dtype=torch.bool)}, r"region .*\(8, 16\)"),
        ({"region": torch.ones(3, 16, 16, dtype=torch.bool)}, r"region .*\(3, 16, 16\)"),
        ({"region": torch.ones(16, 16)}, "region .*float32"),
        ({"images": IMAGES + 1}, r"images reach \[.*, 1\.9996763.*\];"),
        ({"images": IMAGES - 0.5}, r"images reach \[-1\.[45]"),
        ({"images": IMAGES, "value_range": (0, 1)}, r"images reach \[-.* 0 … 1"),
        ({"images": torch.where(IMAGES == IMAGES.max(), NAN, IMAGES)}, "images .*nan"),
        ({"images": IMAGES[:, 0]}, r"images .*\(2, 16, 16\)"),
        ({"images": IMAGES.long()}, "images .*int64"),
        ({"seed": ["a", "b", "c"]}, r"seed is \['a', 'b', 'c'\]; .*one key per image \(2\)"),
        ({"momentum": NAN}, "momentum is nan"),
        ({"schedule": lambda done: NAN}, "schedule at step 0 is nan"),
        ({"stop_at": NAN, "classes": (1,)}, "stop_at is nan"),
        ({"classes": (7,)}, r"classes is \(7,\); give one or more of 0 … 2"),
        ({"classes": ("heart",)}, r"classes is \('heart',\); give"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": "a"}, "steps is 'a'"),
        (
            {"guide": lambda logits, labels, progress: cross_entropy(logits, labels)},
            r"shape of loss and guide is \(\(2,\), \(\)\)",
        ),
        ({"value_range": (1, -1)}, r"value_range is \(1, -1\)"),
        ({"labels": LABELS.numpy()}, "labels is 'int64 .* give a tensor torch.int64"),
        ({"images": IMAGES.double()}, "images is 'torch.float64"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"precision": None}, "precision None"),
        ({"keep": "first"}, "keep 'first' is unknown; choose one of last, loss, iou"),
        ({"keep": "iou"}, "classes is None"),
        ({"stop_at": 95}, "classes is None"),
        ({"loss": cross_entropy}, r"loss .*\(\)"),
        ({"loss": partial(cross_entropy, reduction="none")}, r"loss .*\(2, 16, 16\)"),
    ],
)
def test_bad_input_is_a_one_line_error_that_names_the_value(changes, found):
    options = {
        "images": IMAGES,
        "labels": LABELS,
        "loss": IOU,
        "epsilon": 0.1,
        "precision": "fp32",
    } | changes
    with pytest.raises(ValueError, match=found) as error:
        pgd(unet(), options.pop("images"), options.pop("labels"), **{"steps": 2} | options)
    assert "\n" not in str(error.value)


def test_images_a_little_out_of_range_are_told_by_how_much():
    images = IMAGES / IMAGES.abs().max() * 1.0000001
    with pytest.raises(
        ValueError, match=r"images reach .*1\.0000001.*; the valid range is -1\.0 …"
    ):
        attack(unet(), images, LABELS)


def test_steps_may_be_a_whole_float():
    assert attack(unet(), IMAGES, LABELS, steps=2.0).loss.shape == (3, 2)
