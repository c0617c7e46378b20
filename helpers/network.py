"""The U-Net of the study; predictions and frozen copies of any segmentation network."""

from contextlib import contextmanager

import torch
from torch import nn

PRECISIONS = ("auto", "bf16", "fp32")


class UNet(nn.Module):
    """U-Net with strided convolutions for pooling and batch norm after every convolution.

    Two 3×3 convolutions a level, 2×2 convolutions of stride 2 down and transposed up, zero padding, features doubling
    from level to level. One-channel images (N, 1, H, W) become logits (N, num_classes, H, W).

    Args:
        in_channels: channels of the image.
        num_classes: structures plus background.
        depth: number of downsamplings; H and W must be multiples of 2**depth.
        features: channels of the first level.

    Raises:
        ValueError: (on a call) the image's shape does not fit.

    Source: paper, section 2.4: the U-Net of Ronneberger et al. with a quarter of its features. Differs: zero padding.
    """

    def __init__(self, in_channels=1, num_classes=6, depth=4, features=16):
        super().__init__()
        if depth < 1 or features < 1 or num_classes < 2:
            raise ValueError(
                f"depth {depth} and features {features} must be 1 or more, num_classes {num_classes} 2 or more"
            )
        self.config = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "depth": depth,
            "features": features,
        }
        widths = [features * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _block(before, width)
            for before, width in zip([in_channels, *widths[1:-1]], widths[:-1], strict=True)
        )
        self.down = nn.ModuleList(
            _convolution(w, 2 * w, kernel_size=2, stride=2) for w in widths[:-1]
        )
        self.bottom = _block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            _convolution(2 * w, w, kernel_size=2, stride=2, up=True) for w in widths[:-1]
        )
        self.decoder = nn.ModuleList(_block(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(features, num_classes, kernel_size=1)

    def forward(self, images):
        """Logits (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        _check_images(images, self.config["in_channels"], 2 ** self.config["depth"])
        x, skips = images, []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.bottom(x)
        for up, block, skip in zip(
            reversed(self.up), reversed(self.decoder), reversed(skips), strict=True
        ):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


def receptive_field(depth):
    """Side [pixels] of the receptive field of a `UNet`: 184 for depth 4, 88 for 3, 40 for 2.

    Source: paper, section 2.4. The border that the unpadded network would lose; with padding and strided convolutions
    a pixel depends on up to 2**depth + 4 pixels more, according to its place on the grid.
    """
    return 12 * 2**depth - 8


def find_device(name="auto"):
    """The torch device called "cpu" or "cuda"; "auto" is the GPU, or the processor where there is none.

    On a GPU float32 is from then on not rounded to TF32, and a run is the same every time. A torch.device stays itself.

    Raises:
        ValueError: another name, or "cuda" without a GPU.
    """
    kind = name.type if isinstance(name, torch.device) else name
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {kind!r} is unknown; choose auto, cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU here; choose auto or cpu")
    if kind == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    return name if isinstance(name, torch.device) else torch.device("cuda")


def native_bf16(device="cpu"):
    """Whether this device multiplies bfloat16 matrices in hardware (elsewhere float32 is faster)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def find_precision(name, device="cpu"):
    """The precision called "bf16" or "fp32"; "auto" is bf16 where the device multiplies it in hardware, else fp32.

    Raises:
        ValueError: another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    return name if name != "auto" else "bf16" if native_bf16(device) else "fp32"


@contextmanager
def evaluating(network):
    """Put a network into evaluation mode; every module's own mode comes back afterwards, also after an error."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield network
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(network, images, *, batch_size=16):
    """Label map of each image: the class of the largest logit, computed in float32 in evaluation mode.

    Args:
        network: any module from images (N, C, H, W) to logits (N, K, H, W); its mode is given back as it was.
        images: float32 (N, C, H, W); none gives no label maps.
        batch_size: images at a time.

    Returns:
        int64 (N, H, W), on the device of `images`.
    """
    with evaluating(network):
        maps = [network(part).argmax(dim=1) for part in images.split(batch_size) if len(part)]
    return torch.cat(maps) if maps else images.new_empty((0, *images.shape[2:]), dtype=torch.int64)


def _convolution(before, after, *, kernel_size=3, stride=1, up=False):
    kind, padding = (nn.ConvTranspose2d, 0) if up else (nn.Conv2d, (kernel_size - 1) // 2)
    convolution = kind(before, after, kernel_size, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _block(before, after):
    return nn.Sequential(*_convolution(before, after), *_convolution(after, after))


def _check_images(images, channels, multiple):
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; the network takes (N, {channels}, H, W)"
        )
    if images.shape[2] % multiple or images.shape[3] % multiple:
        raise ValueError(
            f"image size {images.shape[2]}×{images.shape[3]} is not divisible by {multiple} (2**depth): "
            "choose another size or a smaller depth"
        )
