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


class _Loader(yaml.SafeLoader):
    """YAML in which 010 is ten."""


_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


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
        values = yaml.load(files[name].read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"profile {name}.yaml: not valid YAML: {reason}") from error
    is_mapping = isinstance(values, dict)
    require(is_mapping, f"profile {name}.yaml", values, "write lines `name: value`")
    return values


def _read_cells(notebook):
    """(type, tags, source) of each cell of a notebook file.

    Raises:
        ValueError: it is not a notebook.
    """
    try:
        return [
            (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
            for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook} is not a notebook: {error!r}") from error


def source_digest(notebook: Path) -> str:
    """SHA-256 of the notebook's cells without their outputs."""
    return digest_json(_read_cells(notebook))


def read_parameters(notebook: Path) -> Parameters:
    """{name: default} of a notebook's parameters cell.

    Raises:
        ValueError: a line of it is not `name = literal`.
    """
    source = "\n".join(source for _, tags, source in _read_cells(notebook) if "parameters" in tags)
    found = {}
    try:
        body: Any = ast.parse(source).body
        for node in body:  # a plain or an annotated assignment
            target = node.target if hasattr(node, "target") else node.targets[0]
            found[target.id] = ast.literal_eval(node.value)
    except (SyntaxError, AttributeError, ValueError) as error:
        advice = f"{notebook.name}: a parameter is not declared as `name = literal`"
        raise ValueError(f"{advice}: {error}") from error
    return found


def convert(name: str, value: Any, default: Any) -> Any:
    """`value` in the type of the declared `default`; text is read as YAML unless text is declared.

    Raises:
        ValueError: it is of another type.
    """
    kind = type(default)
    with suppress(yaml.YAMLError, TypeError, ValueError):
        if isinstance(value, str) and kind is not str:
            value = yaml.load(value, _Loader)
        if kind is float and not isinstance(value, bool):
            value = float(value)
    if kind is list and isinstance(value, list):
        return [convert(name, item, default[0]) for item in value]
    wanted = f"it must be of type {kind.__name__} like {default!r}"
    require(type(value) is kind, name, value, wanted)
    return value


def _check_values(values):
    """Refuse what no run can use, before anything is trained.

    Args:
        values: the parameters of a notebook, each of its declared type.

    Raises:
        ValueError: a value is out of range, unknown, or does not fit another one.
    """
    for name, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float):
                _check_number(name, number)
    levels = values.get("epsilons", [1])
    require(any(levels), "epsilons", levels, "give at least one noise level above 0")
    find_device(values.get("device", "auto"))
    find_precision(values.get("precision", "auto"))
    truth = values.get("truth", "masks")
    require_choice("truth", truth, ("masks", "network"))
    wanted = "it says what is true: name one, as file.py:function"
    require(truth == "masks" or values["network"], "network", values.get("network"), wanted)
    for word in values.get("augmentation", "").split():
        require_choice("augmentation", word, AUGMENTATIONS)
    size = values.get("size", 0)
    own = {name: values[name] for name in NETWORKS if name in values}
    if not own or not all(own.values()):  # a U-Net takes part
        multiple = 2 ** values.get("depth", 0)
        advice = f"it must be divisible by {multiple} (2**depth): choose another or a smaller depth"
        require(size % multiple == 0, "size", size, advice)
    if "dataset" in values:
        structures = _check_dataset(values["dataset"], values.get("root", ""))
        if truth == "network":
            structures = ()  # of the network, which has not been made yet
        if values.get("structure") and structures:
            require_choice("structure", values["structure"], structures)
        for name in filter(own.get, own):
            _check_network(name, own[name], structures, size)


def _check_number(name, number):
    least = "0 or more" if name in MAY_BE_0 else "above 0"
    fits = 0 < number < math.inf or number == 0 and name in MAY_BE_0
    require(fits, name, number, f"it must be {least}, and finite")
    if name.startswith("epsilon"):
        require(number <= 2, name, number, "it must be at most 2, the range of intensities")


def _check_dataset(dataset, root):
    """Names of a dataset's structures; none where its files do not say them."""
    require_choice("dataset", dataset, STRUCTURES_OF)
    if root:
        require(dataset != "phantom", "root", root, "leave it out, or choose jsrt or folder")
        require(Path(root).is_dir(), "root", root, "there is no such folder")
    else:
        require(dataset != "folder", "root", root, "name the folder, as in -p root=FOLDER")
    return STRUCTURES_OF[dataset] or tuple(scan(dataset, root).masks)


@lru_cache(maxsize=2)
def _check_network(name, spec, structures, size):
    """Make a network of one's own, once for all notebooks; a ValueError if it cannot be used."""
    load_network(spec, structures, size, name)


def resolve(notebooks: Path, profile: str, overrides: Overrides = (), only: Names = ()) -> dict:
    """Every notebook of a folder with each parameter that it declares; arguments as in `plan`.

    `only` decides which overrides are known. Values have their types; ranges are not checked.

    Raises:
        ValueError: an unknown profile, notebook, parameter or engine, or a value of the wrong type.
    """
    values = _read_profile(profile, notebooks)
    own = dict(overrides)
    if "profile" in values | own:
        raise ValueError("parameter profile is set by --profile")
    declared = {path: read_parameters(path) for path in find_notebooks(notebooks)}
    _check_names(values, declared.values(), f"profile {profile}")
    _check_names(own, [declared[path] for path in find_notebooks(notebooks, only)], "-p")
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


def _check_names(names, declared, source):
    known = sorted(set().union(*declared))
    for name in names:
        require_choice(f"{source}: parameter", name, known)


def _resolve_paths(values):
    """Make paths absolute, since notebooks run in their own folder."""
    engine = values.get("engine", "")
    names = ["root"]
    if parse_engine(engine)[0] == "slurm":
        require(Path(engine).expanduser().exists(), "engine", engine, "there is no such file")
        names.append("engine")
    for name in NETWORKS:
        if ".py:" in values.get(name, ""):
            path, _, function = values[name].rpartition(":")
            values[name] = f"{Path(path).expanduser().resolve()}:{function}"
    for name in names:
        if values.get(name):
            values[name] = str(Path(str(values[name])).expanduser().resolve())
