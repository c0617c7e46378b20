"""Defences: filters before a network, and what can be proven about it."""

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from scipy.stats import binom, norm
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from helpers.common.arguments import require, require_choice
from helpers.common.files import digest_json
from helpers.loss import with_background
from helpers.network import Network, predict
from helpers.noise import generators, round_to_bits
from helpers.outputs import logits_of
from helpers.transfer import Transfer, smoother
from helpers.weights import Trained, state_digest


class Guarded(nn.Module):
    """A network behind a filter.

    A gradient passes rounding and JPEG as if they were not there, the others as it should.

    Source: Athalye et al., arXiv:1802.00420 (straight-through estimate of a gradient).
    """

    spec: tuple | None = None

    def __init__(self, network: nn.Module, kind: str, strength: float) -> None:
        """See `FILTERS` for the kinds and their strengths."""
        super().__init__()
        self.network, self.kind, self.strength = network, kind, strength

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the filtered images (N, C, H, W)."""
        filtered = FILTERS[self.kind](images.float(), self.strength)
        return logits_of(self.network, filtered.to(images.dtype))


class Averaged(nn.Module):
    """A network's mean probabilities over copies of each image with Gaussian noise.

    The noise depends on the seed alone, and is the same each time.
    """

    spec: tuple | None = None

    def __init__(self, network: nn.Module, sigma: float, copies: int = 8, seed: int = 0) -> None:
        """Sigma of the noise in units of the images."""
        super().__init__()
        self.network, self.sigma, self.copies, self.seed = network, sigma, copies, seed

    def forward(self, images: Tensor) -> Tensor:
        """Logarithm of the mean probabilities (N, K, H, W)."""
        answers = []
        for generator in generators(self.seed, self.copies):
            noise = self.sigma * torch.randn(images.shape[1:], generator=generator).to(images)
            answers.append(checkpoint(self._answer, images + noise, use_reentrant=False))
        return torch.stack(answers).mean(dim=0).clamp(min=1e-12).log()

    def _answer(self, images):
        """Probabilities; `checkpoint` computes them again rather than keep what made them."""
        return with_background(logits_of(self.network, images)).float().softmax(dim=1)


def parse_defence(text: str) -> tuple[str, float]:
    """Kind and strength of a defence: a filter of `FILTERS`, such as "jpeg 75", or "average 0.03".

    Raises:
        ValueError: there is no such defence, or it has no strength above 0.
    """
    kind, _, number = text.partition(" ")
    require_choice("defence", kind, (*FILTERS, "average"))
    fits = number.replace(".", "", 1).isdigit() and float(number) > 0
    require(fits, "defence", text, "give a strength above 0 after its name, as in jpeg 75")
    strength = float(number)
    if kind in ("bits", "jpeg", "median"):
        fits = strength == int(strength) <= 100
        require(fits, "defence", text, "give a whole number, 100 at most")
    return kind, strength


def guard(trained: Trained, defence: str, *, copies: int = 8, seed: int = 0) -> Trained:
    """A network behind a defence, for `sweep.run` like any other.

    Args:
        trained: the network.
        defence: as of `parse_defence`; the strength of "average" is the sigma of `Averaged`.
        copies, seed: of the noise of "average".
    """
    kind, strength = parse_defence(defence)
    if kind == "average":
        guarded: Guarded | Averaged = Averaged(trained.network, strength, copies, seed)
    else:
        guarded, seed, copies = Guarded(trained.network, kind, strength), 0, 0
    own = getattr(trained.network, "spec", None)
    guarded.spec = own and (*own, defence, seed, copies)  # a worker makes it anew
    digest = digest_json([trained.digest, kind, strength, seed, copies])
    return Trained(guarded.eval(), digest, None, (), state_digest(guarded.state_dict()))


def adaptive(trained: Trained, defence: str, guarded: Trained) -> dict:
    """How an attacker who knows a defence makes noise: fields of a `sweep.Experiment`.

    Through a filter, since the filter has a gradient. The noise of an average is secret: on the
    bare network, with other noise on two copies at each step.
    """
    kind, strength = parse_defence(defence)
    if kind == "average":
        noisy = Transfer(noise=strength, copies=2)
        return {"crafted_on": trained.digest, "transfer": noisy}
    return {"crafted_on": guarded.digest}


def _jpeg(images, quality):
    grey = (127.5 * (images.clamp(-1, 1) + 1)).round().byte().cpu().numpy()
    planes = []
    for plane in grey.reshape(-1, *grey.shape[2:]):
        file = io.BytesIO()
        Image.fromarray(plane).save(file, format="JPEG", quality=int(quality))
        planes.append(np.asarray(Image.open(file), dtype=np.float32) / 127.5 - 1)
    return torch.from_numpy(np.stack(planes)).reshape(images.shape).to(images)


def _median(images, side):
    side = int(side)
    low = side // 2
    edges = (low, side - 1 - low, low, side - 1 - low)
    windows = pad(images, edges, mode="replicate").unfold(2, side, 1).unfold(3, side, 1)
    return windows.flatten(4).median(dim=4).values


def _straight(function):
    """A filter that has no gradient, with that of no filter."""

    def filtered(images: Tensor, strength: float) -> Tensor:
        with torch.no_grad():
            made = function(images, strength)
        return images - images.detach() + made

    return filtered


# What stands before a network: functions of images (N, C, H, W) and a strength: bits per pixel,
# quality of a JPEG (of 8 bits), side of a window [pixels], sigma of a Gaussian [pixels].
FILTERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "bits": _straight(lambda images, bits: round_to_bits(images.clamp(-1, 1), int(bits))),
    "jpeg": _straight(_jpeg),
    "median": _median,
    "gaussian": lambda images, sigma: smoother(sigma)(images),
}


@torch.no_grad()
def certify(
    network: Network,
    images: Tensor,
    *,
    sigma: float,
    tau: float = 0.75,
    first: int = 10,
    number: int = 100,
    level: float = 0.001,
    seed: int = 0,
) -> Tensor:
    """Label maps that no noise of L2 norm below `certified_radius` changes, where they are sure.

    Of each pixel the most frequent class of a few noisy predictions is guessed, and its share of
    many others tested to be above tau: a binomial test, with Holm's correction over the pixels.

    Args:
        network: from images to logits.
        images: (N, C, H, W).
        sigma: of the Gaussian noise [units of the images].
        tau: share of the noisy predictions, 0.5 or more.
        first, number: of noisy predictions to guess from, and to test with.
        level: probability, at most, that any pixel of an image is wrongly sure.
        seed: of the noise.

    Returns:
        int64 (N, H, W): the smoothed network's class, −1 where it abstains.

    Source: Fischer et al., arXiv:2107.00228 (SegCertify).
    """
    require(0.5 <= tau < 1, "tau", tau, "give a share from 0.5 to below 1")
    require(sigma > 0, "sigma", sigma, "give a number above 0 [units of the images]")
    maps = []
    for image, generator in zip(images, generators(seed, len(images)), strict=True):
        noise = sigma * torch.randn(first + number, *image.shape, generator=generator)
        seen = predict(network, image + noise.to(image))
        guess = seen[:first].mode(dim=0).values
        hits = (seen[first:] == guess).sum(dim=0).cpu().numpy()
        p = binom.sf(hits - 1, number, tau)  # of so many or more, if the share were tau
        sure = torch.from_numpy(_holm(p.ravel(), level).reshape(p.shape))
        maps.append(guess.masked_fill(~sure.to(guess.device), -1))
    return torch.stack(maps)


def _holm(p, level):
    """Which of many hypotheses are rejected, the probability of any error being at most `level`."""
    order = np.argsort(p)
    kept = p[order] > level / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[: kept.argmax() if kept.any() else len(p)]] = True
    return rejected


def certified_radius(sigma: float, tau: float, pixels: int) -> Mapping[str, float]:
    """Noise that cannot change what `certify` is sure of.

    Args:
        sigma, tau: as of `certify`.
        pixels: of an image.

    Returns:
        l2: norm of the noise; linf: the ε whose noise of every kind is within it.
    """
    radius = float(sigma * norm.ppf(tau))
    return {"l2": radius, "linf": radius / pixels**0.5}
