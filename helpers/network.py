"""The U-Net of the study; predictions, devices and precisions for any segmentation network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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
        ValueError: a size is too small; on a call, the shape of the images does not fit.

    Source: paper, section 2.4: the U-Net of Ronneberger et al. with a quarter of its features.
    Differs: zero padding.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 6, depth: int = 4, features: int = 16
    ) -> None:
        super().__init__()
        if depth < 1 or features < 1 or num_classes < 2:
            raise ValueError(
                f"depth {depth} and features {features} must be 1 or more, "
                f"num_classes {num_classes} 2 or more"
            )
        self.config = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "depth": depth,
            "features": features,
        }
        widths = [features * 2**level for level in range(depth)]
        deepest = 2 * widths[-1]
        double = {"kernel_size": 2, "stride": 2}
        self.encoder = nn.ModuleList(map(_block, [in_channels, *widths[1:]], widths))
        self.down = nn.ModuleList(_layer(nn.Conv2d, w, 2 * w, **double) for w in widths)
        self.bottom = _block(deepest, deepest)
        self.up = nn.ModuleList(_layer(nn.ConvTranspose2d, 2 * w, w, **double) for w in widths)
        self.decoder = nn.ModuleList(_block(2 * w, w) for w in widths)
        self.head = nn.Conv2d(features, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        self._check(images)
        x, skips = images, []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.bottom(x)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)

    def _check(self, images):
        channels, multiple = self.config["in_channels"], 2 ** self.config["depth"]
        if images.ndim != 4 or images.shape[1] != channels:
            found = tuple(images.shape)
            raise ValueError(f"images have shape {found}; the network takes (N, {channels}, H, W)")
        height, width = images.shape[2:]
        if height % multiple or width % multiple:
            raise ValueError(
                f"image size {height}×{width} is not divisible by {multiple} (2**depth): "
                "choose another size or a smaller depth"
            )


def receptive_field(depth: int) -> int:
    """Side [pixels] of the receptive field of a `UNet`: 184 for depth 4, 88 for 3, 40 for 2.

    Source: paper, section 2.4. The border that the unpadded network would lose; with padding and
    strided convolutions a pixel depends on up to 2**depth + 4 pixels more, according to its place
    on the grid.
    """
    return 12 * 2**depth - 8


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The torch device called "cpu" or "cuda"; "auto" is the GPU, or the CPU where there is none.

    Side effect on a GPU: TF32 is switched off and cuDNN made deterministic, for the whole process.
    A `torch.device` is returned unchanged.

    Raises:
        ValueError: another name, or "cuda" without a GPU.
    """
    kind = name.type if isinstance(name, torch.device) else name
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {kind!r} is unknown; choose auto, cpu or cuda")
    if kind == "auto":
        kind = name = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU here; choose auto or cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return torch.device(name)


def native_bf16(device: str | torch.device = "cpu") -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware (elsewhere fp32 is faster)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so may be missing
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def find_precision(name: str, device: str | torch.device = "cpu") -> str:
    """The precision called "bf16" or "fp32"; "auto" is bf16 where `native_bf16`, else fp32.

    Raises:
        ValueError: another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16" if native_bf16(device) else "fp32"


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Put a network into evaluation mode; each module's own mode comes back, always."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield network
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, *, batch_size: int = 16) -> Tensor:
    """Label map of each image: the class of the largest logit, in float32 and evaluation mode.

    Args:
        network: any module from images to logits (N, K, H, W); its mode is given back as it was.
        images: float32 (N, C, H, W); none gives no label maps.
        batch_size: images at a time.

    Returns:
        int64 (N, H, W), on the device of `images`.
    """
    maps = [images.new_empty((0, *images.shape[2:]), dtype=torch.int64)]
    with evaluating(network):
        for part in images.split(batch_size):
            if len(part):
                maps.append(network(part).argmax(dim=1))
    return torch.cat(maps)


def _layer(kind, before, after, **options):
    convolution = kind(before, after, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _block(before, after):
    first = _layer(nn.Conv2d, before, after, kernel_size=3, padding=1)
    second = _layer(nn.Conv2d, after, after, kernel_size=3, padding=1)
    return nn.Sequential(*first, *second)
