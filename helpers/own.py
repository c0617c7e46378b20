"""Networks of one's own: made to take the study's images, found by name, matched to a dataset."""

import ast
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import chdir, suppress
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from helpers.common.arguments import require, require_choice
from helpers.common.files import digest_bytes
from helpers.network import Network
from helpers.outputs import ACTIVATIONS, class_names, to_logits, with_background
from helpers.weights import Trained, state_digest

Range = float | Sequence[float]
_TEXTS: WeakKeyDictionary = WeakKeyDictionary()  # of modules, as they were imported
FORM = (
    "write file.py:function or package.module:function, of a function without arguments that "
    "returns a network; helpers.own.adapt fits channels, range and size"
)


class Adapted(nn.Module):
    """A network made to take images (N, 1, H, W) of −1 … 1 and to return logits; see `adapt`.

    Attributes:
        structures: names of the network's classes after the background; None if it has none.
        order: the network's class of each class of a dataset; None for all, as they are.
        spec: what `load_network` made it of; None otherwise.
    """

    factor: Tensor
    middle: Tensor

    def __init__(
        self,
        network: Network,
        low: Tensor,
        high: Tensor,
        channels: int,
        size: int | None,
        activation: str | None,
        structures: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        self.size = size
        said = getattr(network, "activation", None)  # of other networks a module or a function
        self.activation = activation or (said if said in ACTIVATIONS else None)
        names = list(structures) if structures else getattr(network, "structures", None)
        self.structures = class_names(names)
        self.order: list | None = None
        self.spec: tuple | None = None
        self.register_buffer("factor", (high - low) / 2, persistent=False)
        self.register_buffer("middle", (high + low) / 2, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of images (N, 1, H, W) of −1 … 1."""
        x = images.expand(-1, self.channels, -1, -1) * self.factor + self.middle
        if self.size:
            side = self.size, self.size
            small = interpolate(x.float(), size=side, mode="bilinear", antialias=True)
            x = small.to(x.dtype)  # torch has no antialias in bf16
        logits = to_logits(self.network(x), x.shape, self)
        if self.size:
            logits = interpolate(logits, size=images.shape[2:], mode="bilinear")
        return logits if self.order is None else self._ordered(with_background(logits))

    def _ordered(self, logits):
        """The dataset's classes; what it does not know is background."""
        others = [k for k in range(logits.shape[1]) if k not in self.order]
        background = logits[:, [0, *others]].amax(dim=1, keepdim=True)
        return torch.cat([background, logits[:, self.order[1:]]], dim=1)


def adapt(
    network: Network,
    *,
    channels: int | None = None,
    value_range: tuple[Range, Range] = (-1.0, 1.0),
    mean: Range | None = None,
    std: Range | None = None,
    size: int | None = None,
    structures: Sequence[str] | None = None,
    activation: str | None = None,
) -> Adapted:
    """Make a network take the study's images, and say what it returns.

    Args:
        network: any module or function from images to an answer that `outputs.to_logits` knows.
        channels: of its images; a grey image is repeated. Default: as many as the numbers of the
            next arguments.
        value_range: what it takes for black and for white, each a number or one for each channel.
        mean, std: instead, of images of 0 … 1: it takes (image − mean) / std, as for ImageNet.
        size: side of its images [pixels], if only one will do; images and logits are interpolated.
        structures: names of its classes after the background.
        activation: that its logits are made for, "softmax" or "sigmoid"; see `outputs.to_logits`.

    Raises:
        ValueError: numbers of channels that do not agree, mean without std, or a range of nothing.
    """
    require((mean is None) == (std is None), "mean, std", (mean, std), "give both or neither")
    if activation is not None:
        require_choice("activation", activation, ACTIVATIONS)
    one_name = isinstance(structures, str)
    require(not one_name, "structures", structures, "give a list of names")
    low, high = (torch.as_tensor(limit, dtype=torch.float32).flatten() for limit in value_range)
    if mean is not None:
        middle, spread = torch.as_tensor(mean).flatten(), torch.as_tensor(std).flatten()
        low, high = -middle / spread, (1 - middle) / spread
    number = channels or max(len(low), len(high))
    require(
        {len(low), len(high)} <= {1, number},
        "range of the network's images",
        f"{low.tolist()} … {high.tolist()} for {number} channels",
        "give one number, or one for each channel",
    )
    rises = (low < high) & (high - low).isfinite()
    found = f"{low.tolist()} … {high.tolist()}"
    require(rises.all(), "range of the network's images", found, "give finite ones, black first")
    low, high = low.view(1, -1, 1, 1), high.view(1, -1, 1, 1)
    return Adapted(network, low, high, number, size, activation, structures)


def load_network(spec: str, structures: tuple, size: int, what: str = "network") -> Trained:
    """Call the function that a text names, and match the network to a dataset.

    Classes are matched by name where the network has the attribute `structures`, else by number.
    Classes that the dataset lacks count as background. Paths that a function of a file opens are
    relative to that file's folder.

    Args:
        spec: `file.py:function` or `package.module:function`; the function takes no arguments and
            returns a module or function from images to logits, see `adapt`.
        structures: the dataset's; none if they are not known yet.
        size: of its images [pixels].
        what: the parameter, for messages.

    Returns:
        The network on the CPU, in evaluation mode, with a digest of its weights and its code; it
        has neither recipe nor history.

    Raises:
        ValueError: the text names no such function, it fails, or what it returns cannot be used;
            it answers with what is not finite.
    """
    place, colon, name = spec.rpartition(":")
    require(colon and name.isidentifier(), what, spec, FORM)
    probe = torch.linspace(-1, 1, size * size).view(1, 1, size, size)
    try:
        is_file = place.endswith(".py")
        module = _import_file(Path(place).expanduser()) if is_file else import_module(place)
        function = getattr(module, name)
        with chdir(Path(place).expanduser().parent if is_file else "."):
            network = function()
        adapted = network if isinstance(network, Adapted) else adapt(network)
        with torch.no_grad():
            answer = with_background(adapted.eval()(probe))
        finite = bool(answer.isfinite().all())
        require(finite, "the network's answer", "not finite", "look at its weights and its range")
        state = state_digest(adapted.state_dict())
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        told = f"{what} {spec!r} fails for an image of {size}×{size} ({reason}); {FORM}"
        raise ValueError(told) from error
    adapted.spec = spec, structures, size
    if structures:
        adapted.order = _match(what, spec, adapted.structures, structures, answer.shape[1])
    return Trained(adapted, _digest(adapted, function, spec, answer), None, (), state)


def _import_file(path: Path) -> ModuleType:
    """A file as a module, which may import its neighbours."""
    name = f"own_{digest_bytes(str(path.resolve()).encode())[:12]}"
    about: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(about)
    sys.modules[name] = module
    folder = path.resolve().parent
    for top in {
        each.partition(".")[0] for each in _imported(path.read_text("utf-8", "replace"), "")
    }:
        beside = {folder / f"{top}.py", folder / top / "__init__.py"}
        taken = Path(getattr(sys.modules[top], "__file__", None) or "").resolve() not in beside
        clash = taken and any(map(Path.exists, beside))
        require(not clash, "module", top, "another one of this name is in use: rename this one")
    neighbours = str(folder)
    sys.path.insert(0, neighbours)
    try:
        about.loader.exec_module(module)
    finally:
        sys.path.remove(neighbours)
    return module


def _match(what, spec, names, structures, count):
    """The network's class of each of the dataset's classes; None if they are the same."""
    if names is None:
        number = len(structures) + 1
        advice = f"the data have {number} (background, {', '.join(structures)}): name the network's"
        require(count == number, f"{what}: number of classes", count, f"{advice} structures")
        return None
    own, wanted = map(_plain, (names, structures))
    require(count == len(own) + 1, f"{what}: structures", names, f"it returns {count} classes")
    missing = [name for name in wanted if name not in own]
    require(
        not missing,
        f"{what} {spec!r}: missing structures",
        missing,
        f"the network knows {', '.join(own)}",
    )
    return [0, *(own.index(name) + 1 for name in wanted)]


def _plain(names):
    """Names in small letters, with single spaces between their words."""
    return [" ".join(str(name).lower().replace("_", " ").split()) for name in names]


def _digest(adapted, function, spec, answer):
    """SHA-256 of weights, code and settings; of one without weights, of its answer too."""
    state = adapted.state_dict()
    about = [adapted.channels, adapted.size, adapted.activation, adapted.structures, adapted.order]
    parts = [spec.rpartition(":")[2], str(about), repr(adapted), state_digest(state)]
    parts += [str(buffer.tolist()) for buffer in (adapted.factor, adapted.middle)]
    made_by = getattr(function, "func", function)  # of a partial
    parts += _sources([made_by, *map(type, adapted.modules())])
    parts += [m.code for m in adapted.modules() if isinstance(getattr(m, "code", None), str)]
    if not state:
        parts.append(str(answer.mean(dim=(2, 3)).tolist()))
    return digest_bytes(*(part.encode() for part in parts))


def _sources(things):
    """Texts of the files in which things are defined, and of what these import from beside them;
    name and version of installed packages that things come from.

    A text is read when its module is first seen: one that is edited later is not imported anew.
    """
    installed = packages_distributions()
    found: set[str] = set()
    todo = [thing.__module__ for thing in things]
    for name in todo:  # grows
        top = name.partition(".")[0]
        module = sys.modules.get(name)
        if top in installed:
            found |= {f"{package} {version(package)}" for package in installed[top]}
        elif getattr(module, "__file__", None):
            if module not in _TEXTS:
                _TEXTS[module] = Path(module.__file__).read_text("utf-8", errors="replace")
            found.add(_TEXTS[module])
            others = {*installed, *sys.stdlib_module_names, "helpers"}
            is_python = module.__file__.endswith(".py")
            imported = _imported(_TEXTS[module], module.__package__) if is_python else set()
            todo += [new for new in imported - {*todo} if new.partition(".")[0] not in others]
        else:
            found.add(name)
    return sorted(found)


def _imported(text, package):
    """Names of the modules that a file's text imports, among those in use."""
    found = set()
    tree = ast.Module([], [])
    with suppress(SyntaxError):  # of a text that is not UTF-8
        tree = ast.parse(text.removeprefix("\ufeff"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found & {*sys.modules}
