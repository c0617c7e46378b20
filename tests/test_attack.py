"""Attacks on a linear network whose best attack is known, and the promises that hold on any network."""

import copy
import re
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import loss as losses
from helpers.adapters import frozen_copy
from helpers.attack import fast_pgd, fgsm, pgd
from helpers.common.paths import ROOT
from helpers.evaluation import iou
from helpers.loss import iou_loss
from helpers.network import UNet, predict
from helpers.noise import round_to_bits, shuffle_noise, uniform_noise

IOU = partial(iou_loss, classes=(1,))


class Linear(nn.Module):
    """Two-class network whose margin at a pixel is the pixel times its own weight."""

    def __init__(self, size=4):
        super().__init__()
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]).repeat(size * size)[: size * size]
        self.weight = nn.Parameter(
            signs.view(size, size) * torch.linspace(0.5, 2, size * size).view(size, size)
        )

    def forward(self, images):
        margin = images[:, 0] * self.weight
        return torch.stack([-margin, margin], dim=1)


def lively(network, seed=0):
    """Random weights and batch-norm statistics, so that folding them and forgetting them both show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight.numel() / module.out_channels
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
                )
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    if value is not None:
                        value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
                for value in (module.bias, module.running_mean):
                    if value is not None:
                        value.sub_(1)
    return network


def unet(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(
            UNet(**({"in_channels": 1, "num_classes": 3, "depth": 1, "features": 4} | changes))
        ).eval()


def make_case(n=4, size=16, channels=1, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, channels, size, size, generator=generator) * 2 - 1
    return images, torch.randint(0, classes, (n, size, size), generator=generator)


attack = partial(pgd, loss=IOU, epsilon=0.1, steps=3, precision="fp32")


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
    per_image = lambda logits, labels: cross_entropy(logits, labels, reduction="none").mean(
        dim=(1, 2)
    )  # noqa: E731
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
        "restarts": 2,
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


def check_frozen(network, images):
    with torch.no_grad():
        expected = network.eval()(images)
        found = frozen_copy(network.train(), precision="fp32", example=images)(images)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        return expected


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_frozen_copy_computes_what_the_network_does_in_evaluation_mode(depth):
    network, images = unet(depth=depth), make_case()[0]
    expected = check_frozen(network, images)
    assert not torch.allclose(network.train()(images), expected, atol=0.01)


def test_a_frozen_copy_asks_for_no_weight_gradients_and_shares_no_memory():
    network = unet()
    frozen = frozen_copy(network, example=make_case()[0])
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert not {p.data_ptr() for p in frozen.parameters()} & {
        p.data_ptr() for p in network.parameters()
    }
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


def test_batch_norms_stay_where_folding_them_would_change_the_logits():
    class Residual(nn.Sequential):
        def forward(self, images):
            first = self[0](images)
            return self[1](first) + first

    network = Residual(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)).eval()
    network[1].running_mean += 1
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    frozen = frozen_copy(network, precision="fp32", example=images)
    torch.testing.assert_close(frozen(images), network(images))


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


class Failing(Linear):
    """Answers with not-a-number where a pixel is bright enough."""

    def forward(self, images):
        bright = images.detach().amax(dim=(1, 2, 3))[:, None, None, None] > 0.52
        return super().forward(images) * torch.where(bright, float("nan"), 1.0)


@pytest.mark.parametrize(
    "options", [{"keep": "loss"}, {"keep": "iou"}, {"stop_at": 5}, {"keep": "loss", "restarts": 3}]
)
def test_an_iterate_that_is_not_a_number_is_no_success(options):
    _, images, labels = healthy()
    images = images.clamp(-0.5, 0.5)
    with pytest.warns(UserWarning, match="not a number at some steps"):
        result = attack(
            Failing(16).eval(), images, labels, steps=8, step_size=0.01, classes=(1,), **options
        )
    assert result.loss.isnan().any()
    if "keep" in options:
        assert Failing(16)(result.adv_images).isfinite().all()
        assert (result.iou.gather(0, result.taken[None]) > 5).all()


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


def test_restarts_leave_out_images_that_are_done():
    network, images, labels = healthy()
    Watched.shown.clear()
    attack(Watched(16).eval(), images, labels, targeted=True, classes=(1,), stop_at=0, restarts=5)
    alone = len(Watched.shown)
    Watched.shown.clear()
    attack(Watched(16).eval(), images, labels, targeted=True, classes=(1,), stop_at=0)
    assert len(Watched.shown) == alone - 1  # which looks at the images without attack once more


def test_a_network_without_a_gradient_is_told():
    class Steps(Linear):
        def forward(self, images):
            return super().forward(images).detach().sign()

    _, images, labels = healthy()
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        attack(Steps(16).eval(), images, labels)


def test_a_network_may_change_its_input_in_place():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 3, 3, padding=1)).eval()
    images, labels = make_case()
    before = images.clone()
    found = attack(network, images, labels).adv_images
    assert torch.equal(images, before) and not torch.equal(found, images)


def test_a_network_whose_gradient_points_the_wrong_way_is_warned_of_whatever_is_kept():
    class Inverted(Linear):
        def forward(self, images):
            return super().forward(images.detach() * 2 - images)

    _, images, labels = healthy()
    for keep in ("last", "loss", "iou"):
        with pytest.warns(UserWarning, match="no better than without attack"):
            attack(Inverted(16).eval(), images, labels, keep=keep, classes=(1,), steps=20)


def test_a_network_that_couples_the_images_of_a_batch_is_warned_of():
    network = nn.Sequential(
        nn.BatchNorm2d(1, affine=False, track_running_stats=False), Linear(16)
    ).eval()
    _, images, labels = healthy()
    images[0] *= 0.1
    assert "depends on its batch" in warned(network, images, labels, steps=20)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_a_loss_may_be_of_any_type(precision, dtype):
    network, (images, labels) = unet(), make_case()

    def plain(logits, labels):
        return cross_entropy(logits.to(dtype or logits.dtype), labels, reduction="none").mean(
            dim=(1, 2)
        )

    result = attack(network, images, labels, loss=plain, precision=precision, steps=10, restarts=2)
    assert result.loss.dtype == torch.float32 and (result.loss[-1] > result.loss[0]).all()


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm", "old"])
def test_parametrized_convolutions_are_attacked_too(kind):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    if kind == "old":
        nn.utils.spectral_norm(convolution)
    else:
        getattr(nn.utils.parametrizations, kind)(convolution)
    check_frozen(
        lively(nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))),
        make_case(channels=3)[0],
    )


def test_the_bfloat16_copy_stays_close():
    network, images = unet(), make_case()[0]
    expected = network(images)
    found = frozen_copy(network, precision="bf16", example=images)(images.bfloat16()).float()
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU()],
        [nn.Conv2d(3, 4, 3, padding=1, bias=False, groups=1), nn.ReLU(), nn.BatchNorm2d(4)],
        [
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh()),
        ],
        [nn.Conv2d(3, 6, 1, groups=3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)],
        [
            nn.Conv2d(3, 4, 2, 2),
            nn.BatchNorm2d(4),
            nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
            nn.BatchNorm2d(4),
        ],
        [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()],
    ],
    ids=[
        "no affine",
        "not adjacent",
        "nested",
        "grouped",
        "grouped transposed",
        "no running statistics",
    ],
)
def test_networks_that_are_not_ours_are_frozen_and_attacked_too(layers):
    network = lively(nn.Sequential(*layers, nn.Conv2d(4, 3, 1)))
    images, labels = make_case(channels=3)
    check_frozen(network, images)
    result = attack(network, images, labels, loss=partial(iou_loss, classes=(1, 2)), steps=8)
    assert result.adv_images.shape == images.shape
    assert (result.loss[-1] > result.loss[0]).all()


def test_a_network_without_parameters_can_be_attacked():
    class Threshold(nn.Module):
        def forward(self, images):
            return torch.cat([-images, images], dim=1) * 5

    images, labels = make_case(size=4, classes=2)
    found = fgsm(Threshold(), images, labels, loss=IOU, epsilon=0.1).adv_images
    assert torch.equal(found, (images - 0.1 * (2 * labels - 1)[:, None]).clamp(-1, 1))


# --- options ----------------------------------------------------------------------------------------------------------


def healthy(n=4, size=16):
    """A linear network, images away from the ends of the range, and labels: attacks on it succeed step by step."""
    images, labels = make_case(n, size=size, classes=2)
    return Linear(size).eval(), images * 0.5, labels


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
    assert result.zero_gradients.shape == (4, 4) and result.iou.shape == (5, 4)
    assert attack(network, images, labels).iou is None


def test_zero_gradients_are_counted():
    class Half(Linear):
        def forward(self, images):
            return super().forward(torch.cat([images[..., :8], images[..., 8:].detach()], dim=-1))

    _, images, labels = healthy()
    assert (attack(Half(16), images, labels).zero_gradients == 50).all()


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


@pytest.mark.parametrize("keep", ["last", "loss", "iou"])
@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_never_harm_and_help_some_images(keep, targeted):
    network, (images, labels) = unet(depth=2), make_case(8)
    options = {"epsilon": 0.2, "steps": 3, "targeted": targeted, "classes": (1, 2), "keep": keep}
    one, many, again = (attack(network, images, labels, restarts=r, **options) for r in (1, 4, 4))
    name, sign = ("iou", 1) if keep == "iou" else ("loss", -1)
    score = lambda r: getattr(r, name).gather(0, r.taken[None])[0] * sign * (1 if targeted else -1)  # noqa: E731
    assert (score(many) >= score(one)).all() and (score(many) > score(one)).any()
    assert torch.equal(many.adv_images, again.adv_images)
    assert (many.adv_images - images).abs().max() <= 0.2 + 1e-6
    parts = attack(network, images, labels, restarts=4, batch_size=3, **options)
    assert torch.equal(parts.adv_images, many.adv_images)


class Watched(Linear):
    """Keeps what it is shown."""

    shown = []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return super().forward(images)


@pytest.mark.parametrize("warmup", [1, 4, 6])
def test_noise_grows_to_epsilon_over_the_warm_up(warmup):
    _, images, labels = healthy()
    Watched.shown.clear()
    attack(Watched(16).eval(), images, labels, steps=6, step_size=1.0, warmup=warmup)
    noise = [float((shown - images).abs().max()) for shown in Watched.shown if len(shown) == 4][:7]
    assert noise == pytest.approx(
        [0] + [0.1 * min(1, step / warmup) for step in range(1, 7)], abs=1e-6
    )


def test_a_warm_up_leaves_random_starts_and_restarts_their_sense():
    network, (images, labels) = unet(depth=2), make_case()
    one, many = (
        attack(network, images, labels, warmup=3, restarts=restarts) for restarts in (1, 4)
    )
    assert not torch.equal(one.adv_images, many.adv_images)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "margin_loss", "segpgd_loss", "cospgd_loss"])
def test_every_loss_reaches_the_best_attack_on_a_linear_network(name, targeted):
    network, images, labels = healthy(size=4)
    loss = getattr(losses, name)
    found = attack(network, images, labels, guide=loss, steps=40, targeted=targeted).adv_images
    best = best_attack(network, images, labels, 0.1, targeted)
    assert torch.equal(found, best)


def test_a_guide_that_asks_for_progress_is_told_the_share_of_steps_done():
    told = []

    def guide(logits, labels, *, progress):
        told.append(progress)
        return IOU(logits, labels)

    network, images, labels = healthy()
    result = attack(network, images, labels, guide=guide, steps=4)
    assert told == [0, 0.25, 0.5, 0.75]
    assert torch.equal(result.adv_images, attack(network, images, labels, steps=4).adv_images)


def test_the_guide_leads_and_the_loss_measures():
    network, (images, labels) = unet(), make_case()
    guided = attack(network, images, labels, guide=losses.cross_entropy, steps=6)
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


# --- warnings ---------------------------------------------------------------------------------------------------------


def warned(network, images, labels, **options):
    with pytest.warns(UserWarning) as caught:
        result = attack(network, images, labels, **options)
    assert [str(w.message) for w in caught] == list(result.warnings)
    return "\n".join(result.warnings)


def test_a_healthy_attack_warns_of_nothing():
    network, images, labels = healthy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for targeted in (False, True):
            assert attack(network, images, labels, steps=20, targeted=targeted).warnings == ()
        assert attack(network, images, labels, epsilon=0).warnings == ()


def test_training_mode_is_warned_of_where_it_makes_a_difference():
    network, images, labels = healthy()
    assert not attack(network.train(), images, labels, steps=20).warnings
    network = nn.Sequential(nn.BatchNorm2d(1, affine=False), network).train()
    assert "training mode" in warned(network, images, labels, steps=20)


def test_random_answers_are_warned_of():
    class Noisy(Linear):
        def forward(self, images):
            return super().forward(images) + 0.01 * torch.randn(len(images), 2, *images.shape[2:])

    _, images, labels = healthy()
    assert "differently each time" in warned(Noisy(16).eval(), images, labels, steps=20)


def test_probabilities_are_warned_of():
    class Softmax(Linear):
        def forward(self, images):
            return super().forward(images).softmax(dim=1)

    _, images, labels = healthy()
    assert "probabilities" in warned(Softmax(16).eval(), images, labels, steps=20)


def test_images_without_a_gradient_are_warned_of():
    class Blind(Linear):
        def forward(self, images):
            return super().forward(images * (images[:, :, :1, :1] > 0))

    _, images, labels = healthy()
    images[:3, 0, 0, 0], images[3:, 0, 0, 0] = 0.4, -0.4
    assert "1 of 4 images: no gradient" in warned(Blind(16).eval(), images, labels, steps=20)


def test_a_loss_that_does_not_improve_is_warned_of():
    network, images, labels = healthy()
    worse = lambda logits, labels: -IOU(logits, labels).detach() + 0 * logits.sum(dim=(1, 2, 3))  # noqa: E731
    assert "no better than without attack" in warned(network, images, labels, loss=worse, steps=20)


def test_an_attack_weaker_than_random_noise_is_warned_of():
    class Staircase(Linear):  # flat but for steps, and its gradient points the wrong way
        def forward(self, images):
            stairs = (images * 20).round() / 20
            return super().forward(stairs.detach() - 1e-6 * (images - images.detach()))

    _, images, labels = healthy()
    assert "random noise of the same size does better" in warned(
        Staircase(16).eval(), images, labels, steps=20
    )


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


# --- controls ---------------------------------------------------------------------------------------------------------


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
    found = shuffle_noise(images, images + noise, value_range=(-0.1, 0.2))
    assert float(found.min()) == pytest.approx(-0.1) and float(found.max()) == pytest.approx(0.2)


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("bits", [1, 2, 8, 12])
def test_rounding_keeps_the_extremes_is_at_most_half_a_level_off_and_done_once(bits, value_range):
    low, high = value_range
    images = (
        torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(bits)) * (high - low) + low
    )
    images[0, 0, 0, :2] = torch.tensor(value_range)
    rounded, level = (
        round_to_bits(images, bits, value_range=value_range),
        (high - low) / (2**bits - 1),
    )
    assert rounded.dtype == torch.float32 and rounded.shape == images.shape
    assert (
        rounded[0, 0, 0, :2].tolist() == [low, high]
        and rounded.min() >= low
        and rounded.max() <= high
    )
    assert (rounded - images).abs().max() <= level * 0.5 + 1e-6 * (high - low)
    assert torch.equal(round_to_bits(rounded, bits, value_range=value_range), rounded)
    assert len(rounded.unique()) <= 2**bits
    steps = (rounded.double() - low) / level
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)


def test_one_bit_is_black_and_white():
    images = torch.tensor([-1, -0.51, -0.01, 0.01, 0.51, 1]).view(1, 1, 1, 6)
    assert round_to_bits(images, 1).flatten().tolist() == [-1, -1, -1, 1, 1, 1]


def test_images_of_so_many_bits_come_through_rounding_unchanged():
    grey = torch.arange(256, dtype=torch.float32)
    torch.testing.assert_close(
        round_to_bits(grey / 127.5 - 1, 8), grey / 127.5 - 1, atol=2e-7, rtol=0
    )
    assert torch.equal(round_to_bits(grey, 8, value_range=(0, 255)), grey)


@pytest.mark.parametrize("epsilon", [0.01, 0.04])
def test_a_rounded_attack_is_at_most_half_a_level_beyond_epsilon_and_can_be_attacked_again(epsilon):
    network, (images, labels) = unet(), make_case(2)
    adv_images = attack(network, images, labels, epsilon=epsilon).adv_images
    rounded = round_to_bits(adv_images, 8)
    assert not torch.equal(rounded, adv_images)
    assert (rounded - images).abs().max() <= epsilon + 1 / 255 + 1e-6
    attack(network, rounded, labels, epsilon=epsilon)  # still within the valid range


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
        ({"epsilon": torch.tensor([0.1, 0.1, 0.1])}, r"epsilon has shape \(3,\)"),
        ({"epsilon": torch.ones(2, 1)}, r"epsilon has shape \(2, 1\)"),
        ({"step_size": -1.0}, r"step_size is -1\.0"),
        ({"step_size": torch.ones(3)}, r"step_size has shape \(3,\)"),
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
        ({"labels": LABELS + 1}, "class 3"),
        ({"labels": LABELS - 1}, "class -1"),
        ({"region": torch.ones(8, 16, dtype=torch.bool)}, r"region .*\(8, 16\)"),
        ({"region": torch.ones(3, 16, 16, dtype=torch.bool)}, r"region .*\(3, 16, 16\)"),
        ({"region": torch.ones(16, 16)}, "region .*float32"),
        ({"images": IMAGES + 1}, "images reach .* … 1.99968;"),
        ({"images": IMAGES - 0.5}, r"images reach -1\.[45]"),
        ({"images": IMAGES, "value_range": (0, 1)}, r"images reach -.* 0 … 1"),
        ({"images": torch.where(IMAGES == IMAGES.max(), NAN, IMAGES)}, "images .*nan"),
        ({"images": IMAGES[:, 0]}, r"images .*\(2, 16, 16\)"),
        ({"images": IMAGES.long()}, "images .*int64"),
        ({"seed": ["a", "b", "c"]}, "seed has 3 keys"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup": 3}, "warmup is 3; give a whole number from 0 to 2"),
        ({"momentum": NAN}, "momentum is nan"),
        ({"schedule": lambda done: NAN}, "schedule returns nan"),
        ({"schedule": 3}, "schedule is 3"),
        ({"stop_at": NAN, "classes": (1,)}, "stop_at is nan"),
        ({"classes": (7,)}, r"classes \(7,\) must be"),
        ({"classes": ("heart",)}, r"classes \('heart',\) must be"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": "a"}, "steps is 'a'"),
        ({"loss": "iou"}, "loss is 'iou'"),
        ({"guide": cross_entropy}, r"guide has shape \(\)"),
        ({"loss": losses.cospgd_loss}, "hand it in as guide"),
        ({"value_range": (1, -1)}, r"value_range is \(1, -1\)"),
        ({"labels": LABELS.numpy()}, "labels are ndarray"),
        ({"images": IMAGES.double()}, "images are torch.float64"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"precision": None}, "precision None"),
        ({"keep": "first"}, "keep is 'first'"),
        ({"keep": "iou"}, "classes is None"),
        ({"stop_at": 95}, "classes is None"),
        ({"loss": losses.segpgd_loss}, "hand it in as guide"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 1.5}, r"restarts is 1\.5"),
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


def test_steps_may_be_a_whole_float():
    assert attack(unet(), IMAGES, LABELS, steps=2.0).loss.shape == (3, 2)


def test_uniform_noise_refuses_a_bad_epsilon():
    with pytest.raises(ValueError, match="epsilon is nan"):
        uniform_noise(IMAGES, epsilon=NAN)
    with pytest.raises(ValueError, match=r"epsilon has shape \(3,\)"):
        uniform_noise(IMAGES, epsilon=torch.ones(3))
