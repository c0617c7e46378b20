"""What networks return becomes logits of the images' size, or is named."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from helpers.evaluation import iou
from helpers.loss import cross_entropy, soft_iou
from helpers.network import predict
from helpers.outputs import label_maps, logits_of, to_logits

SHAPE = (2, 1, 8, 8)


class Returns(nn.Module):
    """Returns what it is given."""

    def __init__(self, answer, **attributes):
        super().__init__()
        self.answer = answer
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.answer


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


LOGITS = random(2, 3, 8, 8)


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        {"out": LOGITS, "aux": LOGITS + 1},
        {"logits": LOGITS, "loss": torch.tensor(0.0)},
        SimpleNamespace(logits=LOGITS, hidden_states=None),
        [LOGITS, LOGITS + 1],
        (LOGITS,),
        ([LOGITS, LOGITS + 1], "features"),
        [{"out": LOGITS}],
        LOGITS.double(),
    ],
)
def test_logits_are_found_where_libraries_put_them(answer):
    assert torch.equal(to_logits(answer, SHAPE, None), LOGITS)
    assert torch.equal(predict(Returns(answer), torch.zeros(SHAPE)), LOGITS.argmax(dim=1))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"masks": LOGITS, "boxes": LOGITS}, "'dict of masks, boxes'; hand in"),
        ("logits", "'str'; hand in"),
        ([], "'list'; hand in"),
        (None, "'NoneType'; hand in"),
        (LOGITS.argmax(dim=1), r"torch.int64 \(2, 1, 8, 8\)'; it must return logits \(2, K"),
        (LOGITS[0, 0], r"torch.float32 \(8, 8\)"),
        (LOGITS[:1], r"torch.float32 \(1, 3, 8, 8\)"),
        (LOGITS[:, :, None], r"torch.float32 \(2, 3, 1, 8, 8\)"),
        (
            LOGITS[:, :, 1:7, 1:7],
            r"size of the network's answer is \(6, 6\); for images of \(8, 8\)",
        ),
        (LOGITS[:, :, ::2], r"size of the network's answer is \(4, 8\)"),
    ],
)
def test_what_is_no_logits_is_named_in_one_line(answer, told):
    with pytest.raises(ValueError, match=told) as error:
        to_logits(answer, SHAPE, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(8, 8), (10, 7), (9, 9)])
def test_a_quarter_of_the_size_is_interpolated(size):
    small = random(2, 3, -(-size[0] // 4), -(-size[1] // 4))
    found = to_logits(small, (2, 1, *size), None)
    expected = interpolate(small, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_channel_is_the_structure_against_a_background_of_0(squeezed):
    logit = random(2, 1, 8, 8)
    found = to_logits(logit[:, 0] if squeezed else logit, SHAPE, None)
    assert torch.equal(found, logit)
    assert torch.equal(label_maps(found), (logit[:, 0] > 0).long())
    truth = (random(2, 8, 8, seed=1) > 0).long()
    expected = binary_cross_entropy_with_logits(logit[:, 0], truth.float(), reduction="none")
    torch.testing.assert_close(cross_entropy(logit, truth), expected.mean(dim=(1, 2)))
    certain = soft_iou(1e4 * logit, truth, classes=(1,))
    torch.testing.assert_close(100 * certain, iou(label_maps(found), truth, classes=(1,)))


def test_probabilities_of_a_sigmoid_are_turned_back_with_their_gradient():
    logit = random(2, 1, 8, 8).requires_grad_()
    found = to_logits(logit.sigmoid(), SHAPE, None)
    torch.testing.assert_close(found, logit, atol=1e-3, rtol=1e-3)
    (gradient,) = torch.autograd.grad(found.sum(), logit)
    torch.testing.assert_close(gradient, torch.ones_like(logit), atol=1e-2, rtol=0)


def test_what_an_image_s_numbers_mean_does_not_depend_on_its_batch():
    logits = torch.tensor([0.3, -0.2]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    each = [to_logits(part, (1, 1, 8, 8), None) for part in logits.split(1)]
    assert torch.equal(to_logits(logits, SHAPE, None), torch.cat(each))


@pytest.mark.parametrize("about", [{"activation": "sigmoid"}, {"structures": ["a", "b", "c"]}])
@pytest.mark.parametrize("probabilities", [False, True])
def test_several_sigmoids_stand_against_a_background_of_0(about, probabilities):
    network = Returns(LOGITS.sigmoid() if probabilities else LOGITS, **about)
    found = predict(network, torch.zeros(SHAPE))
    best = LOGITS.max(dim=1)
    assert torch.equal(found, torch.where(best.values > 0, best.indices + 1, 0))


@pytest.mark.parametrize(
    "about",
    [
        {"structures": ["a", "b"]},
        {"activation": nn.ReLU()},
        {"activation": "gelu"},
        {"structures": 3},
        {"structures": ["background", "a", "b"]},
    ],
)
def test_several_channels_are_a_softmax_s_unless_the_network_says_otherwise(about):
    assert torch.equal(logits_of(Returns(LOGITS, **about), torch.zeros(SHAPE)), LOGITS)
