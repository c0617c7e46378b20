"""Anybody's network, made ready for an attack: its fastest faithful copy.

A copy proves itself: on a few images it must give the network's own answer. Tried in turn, until
one does:

- batch norms folded into convolutions, channels_last memory format; then also in bf16, if asked for
- the same without folding
- folded, in the usual memory format; the same without folding
- the network itself, put into evaluation mode for the time of the attack
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.common.arguments import require
from helpers.network import Network, evaluating, find_precision
from helpers.outputs import logits_of, with_background

PROVEN_ON = 2  # images


@dataclass(frozen=True)
class Form:
    """What a copy of a network is; `str` gives it in words."""

    copied: bool = True
    folded: bool = False
    channels_last: bool = False
    bf16: bool = False

    def __str__(self) -> str:
        if not self.copied:
            return "as it is"
        words = ["bf16" if self.bf16 else "fp32"]
        words += [name for name in ("folded", "channels_last") if getattr(self, name)]
        return ", ".join(words)


AS_IT_IS = Form(copied=False)
FORMS = (
    Form(folded=True, channels_last=True),
    Form(channels_last=True),
    Form(folded=True),
    Form(),
)


class Frozen(nn.Module):
    """A network as an attack uses it: evaluation mode, no weight gradients.

    Attributes:
        form: what it is.
        in_training: whether the network was handed in in training mode, and that matters.
    """

    def __init__(self, network: Network, form: Form, in_training: bool) -> None:
        super().__init__()
        self.training = False
        self.network = network
        self.form = form
        self.in_training = in_training

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, which are put into the type and memory format of the network."""
        types = (t.dtype for t in _tensors(self) if t.is_floating_point())
        layout = torch.channels_last if self.form.channels_last else torch.contiguous_format
        x = images.to(next(types, images.dtype), memory_format=layout)
        return logits_of(self.network, x)


@contextmanager
def frozen_copy(network: Network, *, example: Tensor, precision: str = "auto") -> Iterator[Frozen]:
    """The fastest copy of a network that gives the network's own answers, for attacks.

    Args:
        network: any module or function from images to an answer that `outputs.to_logits` knows; it
            stays as it is.
        example: images (N, C, H, W); a copy proves itself on the first of these. Without any, the
            network itself is given, frozen until the `with` block ends.
        precision: of weights and activations, as in `find_precision`; "bf16" gives way to "fp32"
            where the answers would change.

    Yields:
        A module from images to logits.

    Raises:
        ValueError: unknown precision, or the network asserts another number of images, or its
            answer cannot be turned into logits.
        Exception: what the network itself raises.
    """
    form = AS_IT_IS
    bf16 = find_precision(precision, example.device) == "bf16"
    if isinstance(network, nn.Module) and len(example):
        form = _find_form(network, example[:PROVEN_ON], bf16)
    with _in_form(network, form) as frozen:
        yield frozen


def _tensors(network):
    return chain(network.parameters(), network.buffers())


def _find_form(network, example, bf16):
    """The fastest form of a network that gives its own answer to the example."""
    with _in_form(network, AS_IT_IS) as itself:
        try:
            expected = _answer(itself, example)
        except AssertionError as error:  # of an exported program, for one
            refused = f"the network refuses images of shape {tuple(example.shape)}: {error}"
            raise ValueError(f"{refused}; hand in one that takes any number of images") from error
    for form in FORMS:
        if _proves(network, form, example, expected):
            fast = replace(form, bf16=True)
            return fast if bf16 and _proves(network, fast, example, expected) else form
    return AS_IT_IS


def _proves(network, form, example, expected):
    """Whether the copy of a form gives the expected logits, and a gradient without an error."""
    try:
        with _in_form(network, form) as frozen:
            found = _answer(frozen, example)
            same = _close(found, expected) if form.bf16 else _equal(found, expected)
            if same:
                _try_gradient(frozen, example[:1])
    except Exception:  # whatever it is, the network itself works
        return False
    return same


@torch.no_grad()
def _answer(frozen, example):
    """Logits of the example; what is random in a network draws the same numbers each time."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return frozen(example)


@torch.enable_grad()
def _try_gradient(frozen, example):
    x = example.detach().requires_grad_()
    total = frozen(x).sum()
    if total.requires_grad:
        torch.autograd.grad(total, x, allow_unused=True)


def _equal(found, expected):
    """Whether logits are the same but for rounding in float32."""
    tolerance = 1e-4 * float(expected.nan_to_num().abs().max())
    return torch.allclose(expected, found, rtol=1e-3, atol=tolerance, equal_nan=True)


def _close(found, expected):
    """Whether logits in bf16 decide the same.

    The relative error of logits in bf16 was 0.2 to 0.8 % with the study's networks, and 1 to 2.4 %
    with untrained ones of MONAI, whose logits are so close that up to 1.2 % of the pixels differ.
    """
    found, expected = with_background(found), with_background(expected)
    difference = found - expected
    error, size = (x - x.mean(dim=1, keepdim=True) for x in (difference, expected))
    relative = error.nan_to_num().norm() / size.nan_to_num().norm().clamp(min=1e-30)
    agreement = (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean()
    return bool(relative <= 0.03 or (relative <= 0.1 and agreement >= 0.99))


@contextmanager
def _in_form(network, form):
    """The network in a form; itself is frozen meanwhile, for a copy may call what it calls."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    in_training = any(map(_in_training, modules))
    with _frozen_in_place(network):
        yield Frozen(_copy(network, form) if form.copied else network, form, in_training)


def _copy(network, form):
    """Copy of a frozen network in a form; an error if that is the same as another form."""
    with torch.no_grad():  # or TorchScript's copies have a history
        copied = copy.deepcopy(network).float()
    if form.folded:
        folded = [_fold_batch_norms(part) for part in copied.modules()]
        require(any(folded), "number of folded batch norms", 0, "take a form without folding")
    if form.bf16:
        casts = any(t.is_floating_point() for t in _tensors(copied))
        require(casts, "number of tensors in bf16", 0, "take a form in fp32")
        scripted = isinstance(copied, torch.jit.ScriptModule)  # these have no `bfloat16`
        copied = copied.to(torch.bfloat16) if scripted else copied.bfloat16()
    return copied.to(memory_format=torch.channels_last) if form.channels_last else copied


def _in_training(module):
    """Whether a module is of a kind that has modes, and in training mode."""
    kind = getattr(module, "original_name", type(module).__name__)  # the first, of TorchScript
    return getattr(module, "training", False) and ("BatchNorm" in kind or "Dropout" in kind)


@contextmanager
def _frozen_in_place(network: Network) -> Iterator[None]:
    """Put a network into evaluation mode without weight gradients; all comes back, always."""
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    learning = [p for p in parameters if p.requires_grad and p.is_leaf]
    with evaluating(network):
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def _fold_batch_norms(part):
    """Fold batch norms into the convolutions before them in a Sequential; whether there are any."""
    found = False
    if type(part) is not nn.Sequential:  # a subclass may use its parts in another order
        return found
    for index, (first, second) in enumerate(pairwise(part)):
        transposed = type(first) is nn.ConvTranspose2d
        if type(second) is nn.BatchNorm2d and (transposed or type(first) is nn.Conv2d):
            part[index] = fuse_conv_bn_eval(first, second, transposed)
            part[index + 1] = nn.Identity()
            found = True
    return found
