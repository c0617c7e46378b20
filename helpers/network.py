"""The U-Net of the study; predictions, devices and precisions for any segmentation network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from helpers.common.arguments import require, require_choice, whole_number
from helpers.outputs import label_maps, logits_of

Network = nn.Module | Callable[[Tensor], Any]
PRECISIONS = ("auto", "bf16", "fp32")


class UNet(nn.Module):
    """U-Net with strided convolutions for pooling and batch norm after every convolution.

    Two 3×3 convolutions a level, 2×2 convolutions of stride 2 down and transposed up, zero padding,
    features doubling from level to level. Images (N, in_channels, H, W) become logits
    (N, num_classes, H, W).

    Args:
        in_channels: channels of the image.
        num_classes: structures plus background.
        depth: number of downsamplings; H and W must be multiples of 2**depth.
        features: channels of the first level.

    Raises:
        ValueError: a size is too small; on a call, the sides of the images do not fit.

    Source: paper, section 2.4: the U-Net of Ronneberger et al. with a quarter of its features.
    Differs: zero padding.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 6, depth: int = 4, features: int = 16
    ) -> None:
        super().__init__()
        depth = whole_number("depth", depth)
        features = whole_number("features", features)
        num_classes = whole_number("num_classes", num_classes, 2)
        self.config = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "depth": depth,
            "features": features,
        }
        widths = [features * 2**level for level in range(depth)]
        deepest = 2 * widths[-1]
        self.encoder = nn.ModuleList(map(_block, [in_channels, *widths[1:]], widths))
        self.down = nn.ModuleList(_layer(nn.Conv2d, w, 2 * w, 2, 2) for w in widths)
        self.bottom = _block(deepest, deepest)
        self.up = nn.ModuleList(_layer(nn.ConvTranspose2d, 2 * w, w, 2, 2) for w in widths)
        self.decoder = nn.ModuleList(_block(2 * w, w) for w in widths)
        self.head = nn.Conv2d(features, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        multiple = 2 ** self.config["depth"]
        fits = not any(side % multiple for side in images.shape[2:])
        wanted = f"give (N, C, H, W), H and W divisible by {multiple} (2**depth)"
        require(fits, "shape of the images", tuple(images.shape), wanted)
        x, skips = images, []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.bottom(x)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


def receptive_field(depth: int) -> int:
    """Side [pixels] of the receptive field of a `UNet`: 184 for depth 4, 88 for 3, 40 for 2.

    Source: paper, section 2.4. The border that the unpadded network would lose; with padding and
    strided convolutions a pixel depends on up to 2**depth + 4 pixels more, according to its place
    on the grid.
    """
    return 12 * 2**depth - 8


def find_depth(network: Network, images: Tensor) -> int:
    """Depth of the smallest `UNet` that sees as far as any network, measured on images.

    How far it sees is what the logits in the middle of the images depend on; a network that sees
    their border is taken to see all.

    Args:
        images: (N, C, H, H).
    """
    half = images.shape[-1] // 2
    images = images.detach().requires_grad_()
    with evaluating(network):
        middle = logits_of(network, images)[..., half, half]
    (gradient,) = torch.autograd.grad(middle.square().sum(), images)
    reach = max((gradient.nonzero()[:, 2:] - half).abs().flatten().tolist(), default=0)
    if reach >= half - 1:
        reach = 2 * half
    return next(depth for depth in count(1) if receptive_field(depth) // 2 >= reach)


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The torch device called "cpu" or "cuda"; "auto" is the GPU, or the CPU where there is none.

    Side effect where there is a GPU: TF32 is switched off and cuDNN made deterministic, for the
    whole process. A `torch.device` is returned unchanged.

    Raises:
        ValueError: another name, or "cuda" without a GPU.
    """
    kind = name.type if isinstance(name, torch.device) else name
    require_choice("device", kind, ("auto", "cpu", "cuda"))
    gpu = torch.cuda.is_available()
    require(gpu or kind != "cuda", "device", kind, "torch finds no GPU here; choose auto or cpu")
    if gpu:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    if kind == "auto":
        name = "cuda" if gpu else "cpu"
    return torch.device(name)


def native_bf16(device: str | torch.device = "cpu") -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware (elsewhere fp32 is faster)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # private
    return supported()


def find_precision(name: str, device: str | torch.device = "cpu") -> str:
    """The precision called "bf16" or "fp32"; "auto" is bf16 where `native_bf16`, else fp32.

    Raises:
        ValueError: another name.
    """
    require_choice("precision", name, PRECISIONS)
    if name != "auto":
        return name
    return "bf16" if native_bf16(device) else "fp32"


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Put a network into evaluation mode; each module's own mode comes back, always.

    What is no module has no mode; nor has a module of TorchScript that was frozen, or exported.
    """
    modules = network.modules() if isinstance(network, nn.Module) else ()
    modes = [(module, module.training) for module in modules if hasattr(module, "training")]
    if modes:
        with suppress(NotImplementedError):  # an exported program
            network.eval()  # type: ignore[union-attr]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(network: Network, images: Tensor, *, batch_size: int = 16) -> Tensor:
    """Label map of each image: the class of the largest logit, in float32 and evaluation mode.

    Args:
        network: any module or function from images to an answer that `outputs.to_logits` knows;
            its mode is given back as it was.
        images: float32 (N, C, H, W); none gives no label maps.
        batch_size: images at a time.

    Returns:
        int64 (N, H, W), on the device of `images`.
    """
    maps = [images.new_empty((0, *images.shape[2:]), dtype=torch.int64)]
    with evaluating(network):
        for part in images.split(batch_size):
            if len(part):
                maps.append(label_maps(logits_of(network, part)))
    return torch.cat(maps)


def _layer(kind, before, after, size, stride):
    """A convolution that halves, doubles or keeps the size; batch norm; ReLU."""
    convolution = kind(before, after, size, stride, padding=(size - stride) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _block(before, after):
    first = _layer(nn.Conv2d, before, after, 3, 1)
    return nn.Sequential(*first, *_layer(nn.Conv2d, after, after, 3, 1))
