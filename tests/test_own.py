"""Networks of one's own: found by a text, matched to a dataset, known again by what they are."""

import sys
from pathlib import Path

import pytest
import torch
from small_networks import unet
from torch import nn

from helpers.network import predict
from helpers.own import adapt, load_network

STRUCTURES = ("heart", "left lung")
FILE = """
import torch
from torch import nn
from helpers.own import adapt
from neighbour import LEVEL

class Levels(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(classes) * LEVEL)
    def forward(self, images):
        return images * self.weight.view(1, -1, 1, 1)

def build():
    return Levels()

def named():
    return adapt(Levels(4), structures=["Left_Lung", "spine", "HEART"])

def function():
    return lambda images: images * (torch.arange(3) * LEVEL).view(1, -1, 1, 1)

def four():
    return Levels(4)

def with_background():
    return adapt(Levels(), structures=["Background", "heart", "left lung"])

def by_path():
    return adapt(Levels(len(open("weights.txt").read())), structures=["heart", "left lung", "a", "b"])

def lacking():
    return adapt(Levels(3), structures=["heart", "spleen"])

def number():
    return 3

def failing():
    raise OSError("no weights\\nthere")

def rgb():
    return nn.Conv2d(3, 3, 1)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").write_text("LEVEL = 1.0\n")
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.delitem(__import__("sys").modules, "neighbour", raising=False)
    return tmp_path / "mine.py"


def load(file, function, structures=STRUCTURES):
    return load_network(f"{file}:{function}", structures, 8)


def test_a_function_of_a_file_makes_a_network_that_may_use_its_neighbours(file):
    found = load(file, "build")
    assert found.recipe is None and found.history == () and found.is_unchanged()
    images = torch.tensor([[-0.5, 0.5]]).view(1, 1, 1, 2)
    assert predict(found.network, images).tolist() == [[[0, 2]]]


def test_a_function_of_a_package_makes_a_network():
    found = load_network("small_networks:unet", STRUCTURES, 8)
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(found.network(images), unet()(images))


def test_classes_are_matched_by_name_and_others_are_background(file):
    found = load(file, "named").network
    images = torch.tensor([[-1.0, 1.0]]).view(1, 1, 1, 2)
    # four logits 0, x, 2 x, 3 x of background, left lung, spine, heart
    assert found(images)[0, :, 0].T.tolist() == [[0, -3, -1], [2, 3, 1]]


def test_a_folder_may_write_its_names_as_a_network_does(file):
    found = load_network(f"{file}:named", ("left_lung", "Heart"), 8).network
    images = torch.tensor([[-1.0, 1.0]]).view(1, 1, 1, 2)
    assert torch.equal(found(images), load(file, "named").network(images)[:, [0, 2, 1]])


def test_a_background_among_the_names_of_classes_is_no_structure(file):
    network = load(file, "with_background").network
    assert network.structures == ["heart", "left lung"] and network.activation is None
    images = torch.tensor([[-0.5, 0.5]]).view(1, 1, 1, 2)
    torch.testing.assert_close(network(images), load(file, "build").network(images))


def test_paths_that_a_function_opens_are_relative_to_its_file(file, tmp_path, monkeypatch):
    (file.parent / "weights.txt").write_text("three")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(file, "by_path").network.network.weight.numel() == 5
    assert Path.cwd().name == "elsewhere"


def test_a_function_is_a_network_too(file):
    found = load(file, "function").network
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(found(images), load(file, "build").network(images))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("gone", "fails .*AttributeError: .* no attribute .gone"),
        ("four", "number of classes is 4; the data have 3 .background, heart, left lung.: name"),
        ("lacking", r"missing structures is \['left lung'\]; the network knows heart, spleen"),
        ("number", "fails .*'int' object is not callable"),
        ("failing", "fails .*OSError: no weights there"),
        ("rgb", "fails for an image of 8×8 .RuntimeError: .* 3 channels"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(file, function, told):
    with pytest.raises(ValueError, match=told) as error:
        load(file, function)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("mine", "is 'mine'; write file.py:function or package.module:function"),
        ("no/where.py:build", "FileNotFoundError"),
        ("no.such.package:build", "ModuleNotFoundError"),
    ],
)
def test_a_text_that_names_no_function_is_refused(spec, told):
    with pytest.raises(ValueError, match=told):
        load_network(spec, STRUCTURES, 8)


@pytest.mark.parametrize("function", ["build", "function"])
@pytest.mark.parametrize(
    ("changed", "before", "after"),
    [
        ("neighbour.py", "1.0", "2.0"),
        ("mine.py", "images * ", "2 * images * "),
        ("mine.py", "import torch\n", "import torch  # changed\n"),
    ],
)
def test_a_network_that_changes_is_another_one(file, monkeypatch, function, changed, before, after):
    first = load(file, function).digest
    assert load(file, function).digest == first != load(file, "named").digest
    path = file.parent / changed
    path.write_text(path.read_text().replace(before, after))
    path.touch()
    monkeypatch.delitem(__import__("sys").modules, "neighbour")
    for cached in file.parent.glob("__pycache__/*"):
        cached.unlink()
    assert load(file, function).digest != first


def test_what_a_neighbour_imports_is_part_of_a_network_with_weights_too(file, monkeypatch):
    (file.parent / "further.py").write_text("FACTOR = 1\n")
    neighbour = file.parent / "neighbour.py"
    neighbour.write_text("import further\n" + neighbour.read_text())
    first = load(file, "build").digest
    (file.parent / "further.py").write_text("FACTOR = 2\n")
    for name in ("neighbour", "further"):
        monkeypatch.delitem(sys.modules, name)
    for cached in file.parent.glob("__pycache__/*"):
        cached.unlink()
    assert load(file, "build").digest != first


def test_settings_of_the_input_are_part_of_what_a_network_is(file):
    network = nn.Conv2d(1, 3, 1)
    digests = set()
    for text in ("channels=1", "value_range=(0, 1)", "value_range=(0, 255)", "size=4"):
        file.write_text(
            "import torch\nfrom torch import nn\nfrom helpers.own import adapt\n"
            f"def build():\n    torch.manual_seed(0)\n    return adapt(nn.Conv2d(1, 3, 1), {text})\n"
        )
        digests.add(load(file, "build").digest)
    assert len(digests) == 4
    assert isinstance(adapt(network), nn.Module)


def test_weights_that_change_are_noticed(file):
    found = load(file, "build")
    with torch.no_grad():
        found.network.network.weight += 1
    assert not found.is_unchanged()


class Sees(nn.Module):
    """Keeps what it is shown; three classes."""

    def forward(self, images):
        self.seen = images
        return images[:, :1].expand(-1, 3, -1, -1)


IMAGES = torch.tensor([-1.0, 0.0, 0.5, 1.0]).repeat(4, 1).view(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[-1, 0, 0.5, 1]]),
        ({"channels": 3}, [[-1, 0, 0.5, 1]] * 3),
        ({"value_range": (0, 1)}, [[0, 0.5, 0.75, 1]]),
        ({"value_range": (0, 255), "channels": 2}, [[0, 127.5, 191.25, 255]] * 2),
        ({"value_range": ([0, -1], [1, 1])}, [[0, 0.5, 0.75, 1], [-1, 0, 0.5, 1]]),
        ({"mean": 0.5, "std": 0.25}, [[-2, 0, 1, 2]]),
        ({"mean": [0.5, 0.0], "std": [0.25, 0.5]}, [[-2, 0, 1, 2], [0, 1, 1.5, 2]]),
    ],
)
def test_a_network_is_shown_the_channels_and_values_that_it_takes(options, expected):
    network = Sees()
    adapt(network, **options)(IMAGES)
    assert network.seen.shape == (1, len(expected), 4, 4)
    torch.testing.assert_close(network.seen[0, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_a_network_of_one_size_is_shown_it_and_answers_in_that_of_the_image():
    network = Sees()
    found = adapt(network, size=6)(IMAGES)
    assert network.seen.shape[2:] == (6, 6) and found.shape == (1, 3, 4, 4)
    blank = adapt(network, size=6)(torch.full((1, 1, 4, 4), 0.25))
    torch.testing.assert_close(blank, torch.full((1, 3, 4, 4), 0.25))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mean": 0.5}, "mean, std is .* give both or neither"),
        ({"value_range": (1, 0)}, "range of the network's images is .*; give finite ones, black"),
        ({"value_range": (0, float("inf"))}, "give finite ones"),
        ({"mean": 0.5, "std": 0.0}, "give finite ones"),
        ({"activation": "Softmax"}, "activation 'Softmax' is unknown; choose one of softmax"),
        ({"structures": "heart"}, "structures is 'heart'; give a list of names"),
        ({"structures": ["heart", "Background"]}, "the background comes first, or is left out"),
        ({"mean": [0.5, 0.4], "std": [0.1] * 3}, "size of tensor|range of the network's images"),
        (
            {"mean": [0.5, 0.4], "std": [0.1, 0.2], "channels": 3},
            "for 3 channels'; give one number",
        ),
    ],
)
def test_an_input_that_cannot_be_is_refused(options, told):
    with pytest.raises((ValueError, RuntimeError), match=told):
        adapt(Sees(), **options)


def test_a_partial_is_known_by_the_file_that_makes_it(file):
    made = "\nfrom functools import partial\ntwice = partial(Levels, 3)\n"
    file.write_text(FILE + made)
    first = load(file, "twice").digest
    file.write_text(FILE + made + "# changed\n")
    assert load(file, "twice").digest != first


def test_a_file_may_begin_with_a_mark_and_try_a_package_first(file):
    tried = (
        "try:\n    from .arch import Net\nexcept ImportError:\n    from neighbour import LEVEL\n"
    )
    file.write_text("\ufeff" + tried + FILE, encoding="utf-8")
    assert load(file, "build").digest


def test_an_activation_that_is_a_function_is_none_of_the_networks_answer(file):
    text = FILE.replace(
        "        super().__init__()\n",
        "        super().__init__()\n        self.activation = torch.relu\n",
    )
    file.write_text(text)
    assert load(file, "build").network.activation is None


def test_a_neighbour_is_not_mistaken_for_another_ones_of_the_same_name(file, tmp_path):
    load(file, "build")
    other = tmp_path / "other"
    other.mkdir()
    (other / "neighbour.py").write_text("LEVEL = 5.0\n")
    (other / "mine.py").write_text(FILE)
    with pytest.raises(
        ValueError, match="module is 'neighbour'; another one of this name is in use"
    ):
        load(other / "mine.py", "build")
