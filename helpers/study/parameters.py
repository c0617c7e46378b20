"""What a run is made with: notebooks, profiles, and the parameters that notebooks declare."""

import argparse
import ast
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from helpers.augmentation import AUGMENTATIONS
from helpers.common.arguments import require, require_choice
from helpers.common.files import digest_json
from helpers.common.progress import log
from helpers.data import scan
from helpers.defence import parse_defence
from helpers.network import find_device, find_precision
from helpers.own import load_network
from helpers.phantom import STRUCTURES
from helpers.ratio import ratio_classes
from helpers.sweep import parse_engine

Names = Sequence[str]
Parameters = dict
Overrides = Sequence[tuple]
Steps = list[tuple]

STRUCTURES_OF = {"phantom": STRUCTURES, "jsrt": STRUCTURES, "folder": ()}  # datasets
NETWORKS = ("network", "surrogate")
MAY_BE_0 = ("seed", "epsilons", "margins", "variant_epochs")


@lru_cache(maxsize=2)  # once for all notebooks
def _make_network(spec, structures, size, what):
    """Make a network of one's own as each notebook will: each must get the same."""
    one, another = (load_network(spec, structures, size, what) for _ in range(2))
    wanted = "it is another at each call: load its weights, or set a seed"
    require(one.digest == another.digest, what, spec, wanted)


def find_notebooks(notebooks: Path, only: Names = ()) -> list:
    """The notebooks NN_name.ipynb of a folder in order, or those whose number or name is in `only`.

    Raises:
        ValueError: there are none, or `only` names one that does not exist.
    """
    found = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    require(found, "the folder of notebooks", str(notebooks), "it holds no NN_name.ipynb")
    known = {name: path for path in found for name in (path.stem[:2], path.stem)}
    for name in only:
        require_choice("notebook", name.zfill(2), known)
    return sorted({known[name.zfill(2)] for name in only}) or found


def _read_profile(name, notebooks):
    """The parameters in profiles/<name>.yaml; "quick" has none, it is the notebooks' own defaults.

    Raises:
        ValueError: there is no such profile, or its file is not a list of `name: value` lines.
    """
    files = {path.stem: path for path in sorted(notebooks.glob("profiles/*.yaml"))}
    require_choice("profile", name, ["quick", *files])
    if name not in files:
        return {}
    try:
        return dict(yaml.load(files[name].read_text(encoding="utf-8"), yaml.BaseLoader) or {})
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"profile {name}.yaml: write lines `name: value`: {reason}") from error


def _read_cells(notebook):
    """(type, tags, source) of each cell of a notebook file."""
    return [
        (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    ]


def source_digest(notebook: Path) -> str:
    """SHA-256 of the notebook's cells without their outputs."""
    return digest_json(_read_cells(notebook))


def read_parameters(notebook: Path) -> Parameters:
    """{name: default} of a notebook's parameters cell.

    Raises:
        ValueError: it is not a notebook, or a line of the cell is not `name = literal`.
    """
    found = {}
    try:
        cells = [source for _, tags, source in _read_cells(notebook) if "parameters" in tags]
        body: Any = ast.parse("\n".join(cells)).body
        for node in body:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    except (SyntaxError, AttributeError, ValueError, KeyError) as error:
        advice = "not a notebook whose parameters are declared as `name = literal`"
        raise ValueError(f"{notebook.name}: {advice}: {error}") from error
    return found


def convert(name: str, value: Any, default: Any) -> Any:
    """`value` in the type of the declared `default`; a list is read as YAML.

    Raises:
        ValueError: it is of another type.
    """
    kind = type(default)
    with suppress(yaml.YAMLError, ValueError):
        if kind is list:
            items = yaml.load(str(value), yaml.BaseLoader)
            require(isinstance(items, list), name, value, "give a list")
            return [convert(name, item, default[0]) for item in items]
        if kind in (int, float, str):
            return kind(str(value))
    raise ValueError(f"{name} is {value!r}; it must be of type {kind.__name__} like {default!r}")


def _check_values(values):
    """Refuse what no run can use, before anything is trained.

    Args:
        values: the parameters of a notebook, each of its declared type.

    Raises:
        ValueError: a value is out of range, unknown, or does not fit another one.
    """
    for name, value in values.items():
        few = value == [] and not name.endswith("_seeds")  # there may be no further networks
        require(not few, name, value, "give one or more")
        numbers = value if isinstance(value, list) else [value]
        require(len(numbers) == len(set(numbers)), name, value, "give each once")
        for number in numbers:
            if isinstance(number, int | float):
                _check_number(name, number)
    levels = values.get("epsilons", [1])
    require(any(levels), "epsilons", levels, "give at least one noise level above 0")
    find_device(values.get("device", "auto"))
    find_precision(values.get("precision", "auto"))
    for word in values.get("augmentation", "").split():
        require_choice("augmentation", word, AUGMENTATIONS)
    for text in values.get("filters", ()):
        parse_defence(text)
    require_choice("basis", values.get("basis", "truth"), ("truth", "prediction"))
    require(values.get("structure", "any"), "structure", "", "name one of the dataset's")
    own = {name: values[name] for name in NETWORKS if name in values}
    seen = check_truth(values.get("truth", "masks"), own.get("network"))
    advice = "without masks none can be trained: name one, as file.py:function"
    require(not seen or own.get("surrogate", "none"), "surrogate", "", advice)
    if not own or not all(own.values()):  # a U-Net takes part
        multiple = 2 ** min(values.get("depth", 0), 30)
        advice = f"it must be divisible by {multiple} (2**depth): choose another or a smaller depth"
        require(values.get("size", 0) % multiple == 0, "size", values.get("size"), advice)
    if "dataset" in values:
        structures = _check_dataset(values["dataset"], values.get("root", ""))
        if seen:
            structures = ()  # of the network, which has not been made yet
        if values.get("structure") and structures:
            require_choice("structure", values["structure"], structures)
        for name in filter(own.get, own):
            _make_network(own[name], structures, values["size"], name)


def _check_number(name, number):
    least = "0 or more" if name in MAY_BE_0 else "above 0"
    fits = 0 < number < math.inf or number == 0 and name in MAY_BE_0
    require(fits, name, number, f"it must be {least}, and finite")
    require(number < 2**31, name, number, f"it must be below {2**31}")
    if name.startswith("epsilon"):
        require(number <= 2, name, number, "it must be at most 2, the range of intensities")


def check_truth(truth: str, network: str | None) -> bool:
    """Whether it is the network that says what is true; a ValueError if that cannot be.

    Args:
        truth: "masks" or "network".
        network: the parameter.
    """
    require_choice("truth", truth, ("masks", "network"))
    seen = truth == "network"
    require(
        network or not seen,
        "network",
        network,
        "it says what is true: name one, as file.py:function",
    )
    return seen


def _check_dataset(dataset, root):
    """Names of a dataset's structures; none where its files do not say them."""
    require_choice("dataset", dataset, STRUCTURES_OF)
    if dataset == "phantom":
        fits = not root
    else:
        fits = Path(root).is_dir() if root else dataset == "jsrt"
    require(fits, "root", root, "name a folder that exists, as in -p root=FOLDER; phantom has none")
    return STRUCTURES_OF[dataset] or tuple(scan(dataset, root).masks)


def resolve(notebooks: Path, profile: str, overrides: Overrides = (), only: Names = ()) -> dict:
    """Every notebook of a folder with each parameter that it declares; arguments as in `plan`.

    `only` decides which overrides are known. Values have their types; ranges are not checked.

    Raises:
        ValueError: an unknown profile, notebook, parameter or engine, or a value of the wrong type.
    """
    values = _read_profile(profile, notebooks)
    own = dict(overrides)
    declared = {path: read_parameters(path) for path in find_notebooks(notebooks)}
    chosen = find_notebooks(notebooks, only)
    for source, names, among in ((f"profile {profile}", values, declared), ("-p", own, chosen)):
        known = sorted({name for path in among for name in declared[path]} - {"profile"})
        for name in names:
            require_choice(f"{source}: parameter", name, known)
    values |= own | {"profile": profile}
    _resolve_paths(values)
    for parameters in declared.values():
        for name in parameters.keys() & values.keys():
            parameters[name] = convert(name, values[name], parameters[name])
    return declared


def plan(notebooks: Path, profile: str, overrides: Overrides = (), only: Names = ()) -> Steps:
    """What to run: the chosen notebooks, each with every parameter that it declares.

    Without a choice, a notebook about structures that the dataset lacks is left out, with a line.

    Args:
        notebooks: the folder.
        profile: a profile's name; its parameters replace the notebooks' defaults.
        overrides: (name, text) pairs that replace both.
        only: numbers or names of notebooks; empty for all.

    Raises:
        ValueError: as `resolve`, or a value that no run can use.
    """
    values = resolve(notebooks, profile, overrides, only)
    steps = [(path, values[path]) for path in find_notebooks(notebooks, only)]
    for _, parameters in steps:
        _check_values(parameters)
    return [step for step in steps if only or _has_its_structures(*step)]


def _has_its_structures(path, parameters):
    """Whether a dataset has what a notebook is about; that of the ratio needs heart and lungs."""
    if "ratio_cases" in parameters:
        structures = _check_dataset(parameters["dataset"], parameters["root"])
        try:
            ratio_classes(structures or STRUCTURES)
        except ValueError as error:
            log(f"{path.stem} is left out: {error}")
            return False
    return True


def parse_override(text: str) -> tuple[str, str]:
    """Split name=value, for argparse."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected name=value, found {text!r}")
    return name, value


def _resolve_paths(values):
    """Make paths absolute, since notebooks run in their own folder."""
    engine = values.get("engine", "")
    if "path" in parse_engine(engine):
        require(Path(engine).expanduser().exists(), "engine", engine, "there is no such file")
        values["engine"] = _absolute(engine)
    if values.get("root"):
        values["root"] = _absolute(values["root"])
    for name in NETWORKS:
        path, _, function = values.get(name, "").rpartition(":")
        if path.endswith(".py"):
            values[name] = f"{_absolute(path)}:{function}"


def _absolute(path):
    return str(Path(path).expanduser().resolve())
