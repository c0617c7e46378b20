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
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.common.arguments import require
from helpers.network import Network, evaluating, find_precision
from helpers.outputs import logits_of, to_logits, with_background

SENSITIVE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
PROVEN_ON = 2  # images


@dataclass(frozen=True)
class Form:
    """What a copy of a network is; `str` gives it in words."""

    copied: bool = True
    folded: bool = False
    channels_last: bool = False
    bf16: bool = False
    batch: int = 0  # images at a time, of a network that takes no other number

    def __str__(self) -> str:
        if not self.copied:
            return "as it is"
        words = ["bf16" if self.bf16 else "fp32"]
        words += [name for name in ("folded", "channels_last") if getattr(self, name)]
        return ", ".join(words)


FORMS = (
    Form(folded=True, channels_last=True),
    Form(channels_last=True),
    Form(folded=True),
    Form(),
)
_PROVEN: WeakKeyDictionary = WeakKeyDictionary()  # the forms of networks, found before


class Frozen(nn.Module):
    """A network as an attack uses it: evaluation mode, no weight gradients.

    If its form is not copied, it is so within a `with` block only.

    Attributes:
        form: what it is.
        in_training: whether the network was handed in in training mode, and that matters.
        activation: its answers are logits already, see `outputs.to_logits`.
    """

    activation = "softmax"

    def __init__(self, network: Network, form: Form, in_training: bool) -> None:
        super().__init__()
        self.training = False
        self.network = network
        self.form = form
        self.in_training = in_training
        self._block: Any = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `input_of` images; a batch that is too small for the network is filled up."""
        number = len(images)
        missing = self.form.batch - number
        if missing > 0:
            images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
        return to_logits(self.network(images), images.shape, self.network)[:number]

    def __enter__(self) -> Self:
        self._block = nullcontext() if self.form.copied else _frozen_in_place(self.network)
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(*error)


def frozen_copy(
    network: Network, *, example: Tensor, precision: str = "auto", batch_size: int = 1
) -> Frozen:
    """The fastest copy of a network that gives the network's own answers, for attacks.

    Args:
        network: any module or function from images to an answer that `outputs.to_logits` knows; it
            stays as it is.
        example: images (N, C, H, W); a copy proves itself on the first of these. Without any, the
            network itself is returned.
        precision: of weights and activations, as in `find_precision`; "bf16" gives way to "fp32"
            where the answers would change.
        batch_size: images at a time, should the network take no other number.

    Returns:
        A module from `input_of` images to logits. Use it in a `with` block, since it may be the
        network itself.

    Raises:
        ValueError: unknown precision, or the network's answer cannot be turned into logits.
        Exception: what the network itself raises.
    """
    bf16 = find_precision(precision, example.device) == "bf16"
    if not len(example):
        return _make(network, Form(copied=False))
    about = bf16, batch_size, example.device, tuple(example.shape[1:]), _state(network)
    known: dict = {}
    with suppress(TypeError):  # a network that cannot be remembered
        known = _PROVEN.setdefault(network, known)
    if about in known:
        with suppress(Exception):  # what a network holds, such as features, may have changed
            return _make(network, known[about])
    if len(known) >= 100:
        known.clear()
    known[about] = _find_form(network, example[:PROVEN_ON], bf16, batch_size)
    return _make(network, known[about])


def input_of(frozen: nn.Module, images: Tensor) -> Tensor:
    """Images in the type and memory format of a frozen copy."""
    tensors = chain(frozen.parameters(), frozen.buffers())
    types = (t.dtype for t in tensors if t.is_floating_point())
    form = getattr(frozen, "form", FORMS[0])
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    return images.to(next(types, images.dtype), memory_format=layout)


def _state(network):
    """What changes when the weights do."""
    if not isinstance(network, nn.Module):
        return 0
    tensors = chain(network.parameters(), network.buffers())
    return hash(tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors))


def _find_form(network, example, bf16, batch_size):
    """The fastest form of a network that gives its own answer to the example."""
    itself, expected = _own_answer(network, example, batch_size)
    if not isinstance(network, nn.Module):
        return itself
    for form in FORMS:
        form = replace(form, batch=itself.batch)
        if _proves(network, form, example, expected):
            fast = replace(form, bf16=True)
            return fast if bf16 and _proves(network, fast, example, expected) else form
    return itself


def _own_answer(network, example, batch_size):
    """The form of the network itself, with the batch that it takes, and its logits."""
    form = Form(copied=False)
    try:
        return form, _answer(_make(network, form), example)
    except Exception as error:
        full = replace(form, batch=batch_size)
        with suppress(Exception):
            return full, _answer(_make(network, full), example)
        raise error


def _proves(network, form, example, expected):
    """Whether the copy of a form gives the expected logits, and a gradient without an error."""
    try:
        frozen = _make(network, form)
        with _no_calls_of(network):
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
    gpu = example.device.type == "cuda"
    with torch.random.fork_rng([example.device] if gpu else []), frozen:
        torch.default_generator.manual_seed(0)
        if gpu:
            torch.cuda.manual_seed(0)
        return logits_of(frozen, input_of(frozen, example))


@torch.enable_grad()
def _try_gradient(frozen, example):
    x = input_of(frozen, example).detach().requires_grad_()
    total = logits_of(frozen, x).sum()
    if total.requires_grad:
        torch.autograd.grad(total, x, allow_unused=True)


@contextmanager
def _no_calls_of(network):
    """An error where a copy calls a module of the network: it is no copy then."""
    own = {id(module) for module in network.modules()}

    def check(module, _):
        require(id(module) not in own, "a module", module, "the copy calls the network's own")

    handle = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


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


def _make(network, form):
    """The network in a form; an error if that is the same as another form."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    in_training = any(map(_in_training, modules))
    if not form.copied:
        return Frozen(network, form, in_training)
    copied = _copy(network, modules)
    if form.folded:
        folded = [_fold_batch_norms(part) for part in copied.modules()]
        require(any(folded), "number of folded batch norms", 0, "take a form without folding")
    if form.bf16:
        tensors = chain(copied.parameters(), copied.buffers())
        casts = any(t.is_floating_point() for t in tensors)
        require(casts, "number of tensors in bf16", 0, "take a form in fp32")
        scripted = isinstance(copied, torch.jit.ScriptModule)  # these have no `bfloat16`
        copied = copied.to(torch.bfloat16) if scripted else copied.bfloat16()
    if form.channels_last:
        copied = copied.to(memory_format=torch.channels_last)
    return Frozen(copied, form, in_training)


def _in_training(module):
    """Whether a module is of a kind that has modes, and in training mode."""
    name = getattr(module, "original_name", "")  # of TorchScript
    scripted = "BatchNorm" in name or "Dropout" in name
    return getattr(module, "training", False) and (scripted or isinstance(module, SENSITIVE))


def _copy(network, modules):
    """Copy of a network in evaluation mode, in float32 and without weight gradients."""
    kept = [v for module in modules for v in vars(module).values() if torch.is_tensor(v)]
    # torch copies no tensor that was computed, such as features kept from the last call
    memo: dict = {id(tensor): tensor.detach() for tensor in kept if not tensor.is_leaf}
    with torch.no_grad():  # or TorchScript's copies have a history
        copied = copy.deepcopy(network, memo)
    with suppress(NotImplementedError):  # an exported program has no modes
        copied.eval()
    for parameter in copied.parameters():  # TorchScript has no `requires_grad_` of a module
        parameter.requires_grad_(False)
    return copied.float()


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
