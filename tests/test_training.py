"""Training that survives a kill, weights files that notice damage, and augmentation that does what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import combinations
from threading import Thread

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from helpers import augmentation, training
from helpers.augmentation import augment, elastic_field, warp
from helpers.common.paths import ROOT
from helpers.data import Dataset, load
from helpers.evaluation import iou_table
from helpers.network import UNet, predict
from helpers.training import (
    load_weights,
    make_recipe,
    save_weights,
    state_digest,
    train,
    weights_path,
)

SETTINGS = {"depth": 1, "features": 4, "epochs": 2, "batch_size": 4, "precision": "fp32"}


def toy(n=8, size=16, seed=0):
    """Bright squares on a dark ground: a structure that a threshold finds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(n, size, size, dtype=torch.int64)
    corners = torch.randint(1, size // 2, (n, 2), generator=generator).tolist()
    for label, (row, column) in zip(labels, corners, strict=True):
        label[row : row + size // 2, column : column + size // 2] = 1
    images = (labels * 1.2 - 0.6)[:, None] + torch.randn(
        n, 1, size, size, generator=generator
    ) * 0.1
    ids = tuple(f"case {i}" for i in range(n))
    cut = n - n // 4
    split = {
        "target-training": ids[:cut],
        "target-validation": ids[cut:],
        "surrogate-training": ids[n - cut :],
        "surrogate-validation": ids[: n - cut],
        "test": ids[:1],
    }
    return Dataset(
        "toy",
        size,
        ids,
        ("square",),
        images.clamp(-1, 1),
        labels,
        split,
        f"digest {n} {size} {seed}",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return train(toy(), "target", folder=folder, **SETTINGS), folder


@pytest.fixture
def weights(tmp_path):
    network = UNet(1, 2, 1, 2)
    recipe = make_recipe(toy(), "target", **SETTINGS | {"features": 2})
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, recipe, [{"epoch": 1, "loss": -0.5, "iou": 0.5, "seconds": 0.1}])
    return path, network, recipe


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"role": "judge"}, "'judge'.*surrogate, target"),
        ({"augmentation": "elastic colour"}, "'colour'"),
        ({"precision": "fp16"}, "'fp16'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"depth": 0}, "depth.* 0"),
        ({"features": 0}, "features.* 0"),
        ({"depth": 5}, r"16 is not divisible by 32 \(2\*\*depth\)"),
    ],
)
def test_a_bad_setting_is_a_one_line_error_that_names_it(changes, found, tmp_path):
    settings = {"role": "target"} | SETTINGS | changes
    role = settings.pop("role")
    with pytest.raises(ValueError, match=found) as error:
        make_recipe(toy(), role, **settings)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=found):
        train(toy(), role, folder=tmp_path / "weights", **settings)
    assert not (tmp_path / "weights").exists()


def test_every_part_of_a_recipe_changes_its_key():
    recipe = make_recipe(toy(), "target", **SETTINGS)
    other = {str: lambda v: v + "x", int: lambda v: v + 1, tuple: lambda v: v[:-1]}
    keys = {replace(recipe, **{name: other[type(v)](v)}).key for name, v in asdict(recipe).items()}
    assert len(keys | {recipe.key}) == len(asdict(recipe)) + 1
    assert make_recipe(toy(), "target", **SETTINGS).key == recipe.key


def test_the_order_of_augmentation_words_does_not_matter():
    one, other = (
        make_recipe(toy(), "target", **SETTINGS, augmentation=words).key
        for words in ("affine elastic", "elastic  affine")
    )
    assert one == other != make_recipe(toy(), "target", **SETTINGS).key


def test_a_recipe_is_the_same_on_machines_with_and_without_bfloat16(monkeypatch):
    recipes = []
    for native in (True, False):
        monkeypatch.setattr("helpers.network.native_bf16", lambda device, native=native: native)
        recipes.append(make_recipe(toy(), "target", **SETTINGS | {"precision": "auto"}))
    assert recipes[0] == recipes[1] and recipes[0].precision == "fp32"


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_epochs_on_small_phantoms_teach_a_network_to_outline_all_structures(tmp_path):
    data = load("phantom", size=48, seed=1)
    images, truth = data.take("test")
    predictions = predict(
        train(data, "target", folder=tmp_path, depth=2, epochs=10).network, images
    )
    table = iou_table(predictions, truth, ids=data.split["test"], structures=data.structures)
    assert table["iou"].mean() > 80  # two seeds gave 84.7 and 85.0
    assert table.groupby("structure")["iou"].mean().min() > 60  # 72.9, a clavicle


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trains_and_its_weights_work_on_the_processor(tmp_path, precision):
    settings = SETTINGS | {
        "epochs": 20,
        "augmentation": "elastic affine intensity",
        "precision": precision,
    }
    there = train(toy(24), "target", folder=tmp_path / "there", device="cuda", **settings)
    again = train(toy(24), "target", folder=tmp_path / "again", device="cuda", **settings)
    assert there.digest == again.digest and next(there.network.parameters()).is_cuda
    here = load_weights(next((tmp_path / "there").glob("*.safetensors"))).network
    images, labels = toy(24).take("target-validation")
    assert (here(images).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_epochs_lower_the_loss_on_an_easy_set(precision, tmp_path):
    result = train(
        toy(24), "target", folder=tmp_path, **SETTINGS | {"precision": precision, "batch_size": 2}
    )
    first, second = result.history
    assert second["loss"] < first["loss"] - 0.02
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert all(
        -1 <= row["loss"] <= 0 <= row["iou"] <= 1 and row["seconds"] > 0 for row in result.history
    )


def test_the_weights_are_those_of_the_best_validation_epoch(tmp_path, monkeypatch):
    scores, states = iter([0.2, 0.6, 0.6, 0.4]), []

    def validate(network, *_):
        states.append(state_digest(network.state_dict()))
        return next(scores)

    monkeypatch.setattr(training, "_validate", validate)
    result = train(toy(), "target", folder=tmp_path, **SETTINGS | {"epochs": 4})
    assert len(set(states)) == 4 and result.digest == states[1]
    assert state_digest(result.network.state_dict()) == result.digest


def test_a_trained_network_comes_in_evaluation_mode_with_its_recipe(trained):
    result, folder = trained
    assert not any(module.training for module in result.network.modules())
    assert result.recipe == make_recipe(toy(), "target", **SETTINGS)
    assert sorted(path.suffix for path in folder.iterdir()) == [
        ".json",
        ".safetensors",
    ]  # no checkpoint is left


def test_the_same_recipe_is_loaded_and_not_trained_again(trained, monkeypatch):
    result, folder = trained
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(training, "_fit", None)
    again = train(toy(), "target", folder=folder, **SETTINGS)
    assert (again.digest, again.recipe, again.history) == (
        result.digest,
        result.recipe,
        result.history,
    )
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(
        torch.equal(v, result.network.state_dict()[n])
        for n, v in again.network.state_dict().items()
    )


def test_another_process_that_trains_the_same_is_waited_for(trained, tmp_path, monkeypatch):
    result, folder = trained
    told, found = [], []
    monkeypatch.setattr(training, "tell", told.append)
    monkeypatch.setattr(training, "_fit", None)
    path = training.weights_path(result.recipe, tmp_path)
    with FileLock(path.with_suffix(".lock")):
        waiting = Thread(
            target=lambda: found.append(train(toy(), "target", folder=tmp_path, **SETTINGS))
        )
        waiting.start()
        while not told:
            assert waiting.is_alive()
            waiting.join(0.1)
        assert (
            told == ["target: waiting for another process, which trains the same network"]
            and not found
        )
        for file in folder.iterdir():
            shutil.copy(file, tmp_path)
    waiting.join(30)
    assert found[0].digest == result.digest and not list(tmp_path.glob("*.lock"))


def test_another_recipe_is_another_file(trained, tmp_path):
    result, folder = trained
    (first,) = folder.glob("*.safetensors")
    train(toy(), "target", folder=tmp_path, **SETTINGS)
    train(toy(), "surrogate", folder=tmp_path, **SETTINGS)
    train(toy(), "target", folder=tmp_path, **SETTINGS, seed=1)
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert first.name in names and len(names) == 3
    assert (
        load_weights(tmp_path / first.name).digest == result.digest
    )  # the same recipe gives the same weights
    assert len({load_weights(tmp_path / name).digest for name in names}) == 3


def test_every_network_of_every_seed_starts_from_weights_of_its_own():
    seeds = [
        make_recipe(toy(), role, **SETTINGS, seed=seed).seed
        for seed in (0, 1)
        for role in ("target", "surrogate")
    ]
    assert len(set(seeds)) == 4


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    train(toy(), "target", folder=tmp_path, **SETTINGS | {"epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_depend_on_the_global_random_state(trained, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        assert train(toy(), "target", folder=tmp_path, **SETTINGS).digest == trained[0].digest


def test_a_loss_that_is_not_a_number_stops_the_training_and_writes_no_weights(tmp_path):
    dataset = toy()
    dataset.images[:] = float("nan")
    with pytest.raises(ValueError, match="loss of epoch 1 is nan"):
        train(dataset, "target", folder=tmp_path, **SETTINGS)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_batch_log_gets_a_line_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
    train(toy(), "surrogate", folder=tmp_path, **SETTINGS)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("surrogate: epoch 1/2, loss -0.") and second.startswith(
        "surrogate: epoch 2/2, loss -0."
    )
    assert second.endswith(" 0:00 left")


# --- killed and resumed -----------------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # which the optimiser imports: once here, not in every child
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from helpers import training
from test_training import toy, SETTINGS

die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

def at_call(module, name, count, before):
    original, calls = getattr(module, name), []
    def patched(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and before:
            die()
        result = original(*args, **kwargs)
        if len(calls) == count:
            die()
        return result
    setattr(module, name, patched)

def run(folder, precision, prepare=lambda: None):
    child = os.fork()
    if child == 0:
        try:
            os.environ["STUDY_LOG"] = os.devnull
            prepare()
            training.train(toy(), "target", folder=folder, **SETTINGS | {"epochs": 4, "precision": precision})
            os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc()
        os._exit(1)
    return child

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

MOMENTS = {  # 6 cases in batches of 4: 2 batches an epoch
    "before-anything": lambda: at_call(training, "augment", 1, True),
    "after-epoch-1": lambda: at_call(training, "_write_checkpoint", 1, False),
    "before-checkpoint-2": lambda: at_call(training, "_write_checkpoint", 2, True),
    "writing-checkpoint-2": lambda: at_call(os, "fsync", 2, True),
    "placing-checkpoint-2": lambda: at_call(os, "replace", 2, True),
    "amid-epoch-3": lambda: at_call(training, "augment", 6, True),
    "after-all-epochs": lambda: at_call(training, "save_weights", 1, True),
    "between-card-and-weights": lambda: at_call(os, "replace", 6, True),
    "before-cleaning-up": lambda: at_call(Path, "unlink", 1, True),
}
root = Path(sys.argv[1])
for precision in ("fp32", "bf16"):
    assert wait(run(root / precision / "uninterrupted", precision)) == 0
    for name, prepare in MOMENTS.items():
        folder = root / precision / name
        code = wait(run(folder, precision, prepare))
        assert code == -signal.SIGKILL, (name, code)
        assert wait(run(folder, precision)) == 0, name
    for index in range(3):  # killed from outside, again and again
        folder = root / precision / f"from-outside-{index}"
        for delay in (0.0, 0.003, 0.011):
            known = {p: p.stat().st_mtime_ns for p in folder.glob("*.checkpoint")}
            child = run(folder, precision)
            while {p: p.stat().st_mtime_ns for p in folder.glob("*.checkpoint")} == known:
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
                time.sleep(0.0005)
            else:
                time.sleep(delay * index)
                os.kill(child, signal.SIGKILL)
                wait(child)
        assert wait(run(folder, precision)) == 0, index
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_any_moment_and_resumed_training_ends_with_the_same_weights(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    driver = [sys.executable, "-c", DRIVER, str(tmp_path), os.path.dirname(__file__)]
    result = subprocess.run(driver, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for precision in ("fp32", "bf16"):
        (whole,) = (tmp_path / precision / "uninterrupted").glob("*.safetensors")
        expected, history = load_file(whole), load_weights(whole).history
        folders = [
            folder for folder in (tmp_path / precision).iterdir() if folder.name != "uninterrupted"
        ]
        assert len(folders) == 12
        for folder in folders:
            found = load_file(folder / whole.name)
            assert all(torch.equal(found[name], value) for name, value in expected.items()), (
                folder.name
            )
            assert [(r["loss"], r["iou"]) for r in load_weights(folder / whole.name).history] == [
                (r["loss"], r["iou"]) for r in history
            ], folder.name


def interrupted(folder, monkeypatch):
    """Train one epoch, stop, and return the checkpoint."""

    def stop(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        original = training._write_checkpoint
        patch.setattr(training, "_write_checkpoint", lambda *args: (original(*args), stop()))
        with pytest.raises(InterruptedError):
            train(toy(), "target", folder=folder, **SETTINGS)
    (checkpoint,) = folder.glob("*.checkpoint")
    return checkpoint


def test_an_interrupted_training_goes_on_and_does_not_start_anew(trained, tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch)
    epochs, original = [], training._epoch
    monkeypatch.setattr(training, "_epoch", lambda *args: (epochs.append(1), original(*args))[1])
    result = train(toy(), "target", folder=tmp_path, **SETTINGS)
    assert len(epochs) == 1 and result.digest == trained[0].digest
    assert not list(tmp_path.glob("*.checkpoint"))


def flip(position):
    def damage(data):
        index = position(data)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: b"{}" + data,
        flip(lambda data: 0),
        flip(lambda data: len(data) - 1),
        flip(lambda data: len(data) // 2),
        flip(lambda data: re.search(rb'iou\\*": 0\.', data).end()),  # a digit of the history
        flip(lambda data: re.search(rb'\\*"iou', data).start()),  # the history is not JSON any more
        flip(lambda data: data.index(b'"digest"') + 1),  # no digest
        flip(lambda data: data.index(b"__metadata__")),  # no metadata
    ],
    ids="empty cut short longer length last-byte middle-byte history-digit history-json no-digest no-metadata".split(),
)
def test_after_damage_to_a_checkpoint_training_starts_anew_and_says_so(
    damage, trained, tmp_path, monkeypatch, capsys
):
    checkpoint = interrupted(tmp_path, monkeypatch)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    result = train(toy(), "target", folder=tmp_path, **SETTINGS)
    message = [line for line in capsys.readouterr().err.splitlines() if checkpoint.name in line]
    assert len(message) == 1 and "starts anew" in message[0]
    assert result.digest == trained[0].digest
    assert [(r["loss"], r["iou"]) for r in result.history] == [
        (r["loss"], r["iou"]) for r in trained[0].history
    ]


# --- weights files ----------------------------------------------------------------------------------------------------


def test_weights_come_back_exactly(weights):
    path, network, recipe = weights
    loaded = load_weights(path)
    assert all(
        torch.equal(value, loaded.network.state_dict()[name])
        for name, value in network.state_dict().items()
    )
    assert loaded.recipe == recipe and loaded.recipe.key == recipe.key
    assert loaded.digest == state_digest(network.state_dict())
    assert loaded.history == ({"epoch": 1, "loss": -0.5, "iou": 0.5, "seconds": 0.1},)
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"weights", "architecture", "recipe", "history", "versions", "commit"} <= set(card)


def refuse(path, *, words, error=ValueError):
    with pytest.raises(error, match=words) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_truncated_weights_are_refused(weights, length):
    path = weights[0]
    path.write_bytes(path.read_bytes()[:length])
    assert "train again" in refuse(path, words=path.name)


@pytest.mark.parametrize("place", [-1, -100, 0.5, 0.7])
def test_weights_altered_by_one_byte_are_refused(weights, place):
    path, data = weights[0], bytearray(weights[0].read_bytes())
    data[place if place < 0 else int(len(data) * place)] ^= 1
    path.write_bytes(data)
    assert "train again" in refuse(path, words=path.name)


def test_no_byte_of_a_weights_file_can_change_unnoticed(weights):
    path, data = weights[0], weights[0].read_bytes()
    expected = weights[1].state_dict()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            found = load_weights(path).network.state_dict()
            assert all(torch.equal(value, found[name]) for name, value in expected.items()), place
        except ValueError as error:
            assert "\n" not in str(error) and path.name in str(error), place


def test_missing_weights_are_named_with_the_notebook_that_makes_them(tmp_path):
    refuse(
        tmp_path / "none.safetensors",
        error=FileNotFoundError,
        words=r"none\.safetensors.*02_training",
    )


def test_a_missing_side_car_is_named_and_the_advice_gets_one_out_of_it(weights):
    path = weights[0]
    path.with_suffix(".json").unlink()
    message = refuse(path, error=(ValueError, FileNotFoundError), words=r"weights\.json")
    assert (
        "delete" in message
    )  # training again would find the weights file and stop at the same place


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"architecture": {"depth": "two"}}'],
)
def test_a_side_car_that_is_not_one_is_refused(weights, content):
    path = weights[0]
    path.with_suffix(".json").write_bytes(content)
    assert "train again" in refuse(path, words=path.name)


@pytest.mark.parametrize("part", ["weights", "architecture", "recipe", "history"])
def test_a_side_car_without_one_of_its_parts_is_refused(weights, part):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    del card[part]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


def test_a_side_car_whose_recipe_lacks_an_entry_is_refused(weights):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    del card["recipe"]["seed"]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


OTHERS = [{"depth": 2}, {"features": 3}, {"num_classes": 3}, {"in_channels": 3}, {"depth": 0}]


@pytest.mark.parametrize("config", OTHERS, ids=str)
def test_weights_of_another_architecture_are_refused(weights, config):
    path = weights[0]
    card = json.loads(path.with_suffix(".json").read_text())
    card["architecture"] |= config
    path.with_suffix(".json").write_text(json.dumps(card))
    assert "train again" in refuse(path, words=path.name)


def test_weights_beside_the_side_car_of_others_are_refused(weights, tmp_path):
    path, _, recipe = weights
    save_weights(tmp_path / "other.safetensors", UNet(1, 2, 1, 2), recipe, [])
    path.with_suffix(".json").write_bytes((tmp_path / "other.json").read_bytes())
    refuse(path, words="altered.*train again")


def test_the_digest_of_a_state_sees_names_types_shapes_and_values():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1, 1.0000001])},
    ]
    assert len({state_digest(s) for s in [state, *others]}) == 5
    assert state_digest(dict(reversed(state.items()))) == state_digest(state)
    assert state_digest({"a": torch.zeros(3, 2).T, "b": torch.ones(2)}) == state_digest(state)


# --- elastic deformation ----------------------------------------------------------------------------------------------


def expected_rms(size=512, magnitude=1000.0, sigma=100.0):
    """Root mean square of uniform noise after a Gaussian filter: the filter is linear, so no noise has to be drawn."""
    matrix = gaussian_filter1d(np.eye(size), sigma, axis=0)
    return magnitude / 3**0.5 * (matrix**2).sum(axis=1).mean()


def test_the_expected_rms_is_that_of_filtered_uniform_noise():
    generator = np.random.default_rng(0)
    noise = generator.uniform(-1000, 1000, (600, 64, 64))
    fields = gaussian_filter(noise, (0, 12.5, 12.5))
    assert np.sqrt((fields**2).mean()) == pytest.approx(expected_rms(64, sigma=12.5), rel=0.1)
    centre = (gaussian_filter1d(np.eye(1024), 100, axis=0)[512] ** 2).sum()  # far from the border
    assert centre == pytest.approx(1 / (2 * np.pi**0.5 * 100), rel=0.01)
    assert (
        1000 / 3**0.5 * centre < expected_rms() < 1.5 * 1000 / 3**0.5 * centre
    )  # the border reflects


@pytest.mark.parametrize("size", [16, 64, 512])
def test_the_elastic_field_has_the_rms_of_the_paper_s_scaled_with_the_size(size):
    fields = elastic_field(3000 if size < 512 else 40, size, torch.Generator().manual_seed(0))
    assert fields.shape == (len(fields), 2, size, size) and fields.dtype == torch.float32
    rms = fields.double().square().mean().sqrt().item()
    assert rms == pytest.approx(expected_rms() * size / 512, rel=0.1 if size < 512 else 0.25)


@pytest.mark.parametrize("setting", [{"magnitude": 500.0}, {"sigma": 60.0}])
def test_magnitude_and_sigma_have_their_meaning(setting):
    fields = elastic_field(3000, 32, torch.Generator().manual_seed(0), **setting)
    assert fields.square().mean().sqrt().item() == pytest.approx(
        expected_rms(**setting) / 16, rel=0.1
    )


def test_the_elastic_field_varies_over_the_image_as_the_paper_s_does():
    """The rms at a place (larger at the reflecting border) is the direct definition's, and so is the correlation."""
    matrix = gaussian_filter1d(np.eye(512), 100, axis=0)
    covariance = 1e6 / 3 * np.multiply.outer(*[(matrix**2).sum(axis=1)] * 2)
    fields = elastic_field(6000, 32, torch.Generator().manual_seed(1))[:, 0].double() * 16
    direct = covariance.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(
        fields.square().mean(dim=0).sqrt().numpy(), np.sqrt(direct), rtol=0.08
    )
    across = 1e6 / 3 * (matrix[8] @ matrix[256 + 8]) * (matrix[264] @ matrix[264])
    assert (fields[:, 0, 16] * fields[:, 16, 16]).mean().item() == pytest.approx(
        across, abs=0.1 * direct.max()
    )


def test_the_elastic_field_is_smooth():
    fields = elastic_field(20, 128, torch.Generator().manual_seed(0))
    rms = fields.square().mean().sqrt()
    for axis in (2, 3):
        assert fields.diff(dim=axis).square().mean().sqrt() < 0.1 * rms  # sigma is 25 pixels here
        assert fields.diff(2, dim=axis).abs().max() < 0.05 * rms


def test_the_elastic_field_depends_on_its_generator_alone():
    one, same, other = (
        elastic_field(2, 16, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0, 0], one[0, 1])


# --- warp and augment -------------------------------------------------------------------------------------------------


def make_batch(n=4, size=16, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 1, size, size, generator=generator) * 2 - 1
    return images, torch.randint(0, classes, (n, size, size), generator=generator)


def test_no_displacement_is_the_identity():
    images, labels = make_batch()
    moved, classes = warp(images, labels, torch.zeros(4, 2, 16, 16))
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(classes, labels)


@pytest.mark.parametrize("right, down", [(3, 0), (0, 2), (-1, 4)])
def test_a_whole_displacement_takes_each_pixel_from_there_and_repeats_the_border(right, down):
    images, labels = make_batch()
    field = torch.tensor([right, down]).float()[None, :, None, None].expand(4, 2, 16, 16)
    moved, classes = warp(images, labels, field)
    rows, columns = ((torch.arange(16) + shift).clamp(0, 15) for shift in (down, right))
    torch.testing.assert_close(moved, images[:, :, rows][..., columns], atol=1e-4, rtol=0)
    assert torch.equal(classes, labels[:, rows][..., columns])


def test_images_move_by_cubic_splines_and_keep_their_range():
    ramp = torch.linspace(-0.8, 0.8, 16).expand(1, 1, 16, 16)
    field = torch.zeros(1, 2, 16, 16)
    field[:, 0] = 0.4
    moved = warp(ramp, torch.zeros(1, 16, 16, dtype=torch.int64), field)[0]
    torch.testing.assert_close(
        moved[..., 2:-3], ramp[..., 2:-3] + 0.4 * 1.6 / 15, atol=0.005, rtol=0
    )
    for height in (0.5, 1.0):  # a spline overshoots at an edge; linear interpolation would not
        edge = torch.where(torch.arange(16) < 8, -height, height).expand(1, 1, 16, 16)
        peak = warp(edge, torch.zeros(1, 16, 16, dtype=torch.int64), field)[0].abs().max()
        assert peak == 1 if height == 1 else 0.51 < peak < 0.7


def test_an_affine_map_turns_images_and_labels_alike():
    images, labels = make_batch()
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(4, 2, 3)
    moved, classes = warp(images, labels, torch.zeros(4, 2, 16, 16), matrix=quarter)
    assert torch.equal(classes, labels.rot90(-1, (1, 2))) or torch.equal(
        classes, labels.rot90(1, (1, 2))
    )
    turn = -1 if torch.equal(classes, labels.rot90(-1, (1, 2))) else 1
    torch.testing.assert_close(moved, images.rot90(turn, (2, 3)), atol=1e-4, rtol=0)


WORDS = [
    " ".join(chosen) for n in range(4) for chosen in combinations(augmentation.AUGMENTATIONS, n)
]


@pytest.mark.parametrize("words", WORDS)
def test_augmented_labels_are_valid_classes_and_images_stay_in_range(words):
    images, labels = make_batch(32)
    generator = torch.Generator().manual_seed(0)
    changed, classes = augment(images, labels, generator, words)
    assert classes.dtype == torch.int64 and changed.dtype == torch.float32
    assert changed.shape == images.shape and classes.shape == labels.shape
    assert set(classes.unique().tolist()) <= set(labels.unique().tolist())
    assert changed.abs().max() <= 1


def test_augmentation_draws_the_same_numbers_whatever_is_switched_on():
    images, labels = make_batch(5)
    states = []
    for words in WORDS:
        generator = torch.Generator().manual_seed(3)
        augment(images, labels, generator, words)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    assert not torch.equal(states[0], torch.Generator().manual_seed(3).get_state())


def changed_samples(words, n=400, size=16):
    images, labels = make_batch(n, size)
    changed, classes = augment(images, labels, torch.Generator().manual_seed(1), words)
    return (changed != images).flatten(1).any(dim=1), (classes != labels).flatten(1).any(dim=1)


@pytest.mark.parametrize("word", augmentation.AUGMENTATIONS)
def test_each_augmentation_changes_about_half_of_the_samples(word):
    images, labels = changed_samples(word, size=64)
    assert 0.43 < images.float().mean() < 0.57
    if word == "intensity":
        assert not labels.any()
    else:
        assert torch.equal(images | labels, images)


def test_augmentations_choose_their_samples_independently():
    chosen = [changed_samples(word, size=32)[0] for word in augmentation.AUGMENTATIONS]
    for one, other in combinations(chosen, 2):
        assert 0.17 < (one & other).float().mean() < 0.33
    together = changed_samples(" ".join(augmentation.AUGMENTATIONS), size=32)[0]
    assert torch.equal(together, chosen[0] | chosen[1] | chosen[2])


def test_no_augmentation_gives_back_the_batch_and_none_changes_what_it_was_given():
    images, labels = make_batch(8)
    before = images.clone(), labels.clone()
    changed, classes = augment(images, labels, torch.Generator().manual_seed(0), "")
    assert torch.equal(changed, images) and torch.equal(classes, labels)
    augment(images, labels, torch.Generator().manual_seed(0), " ".join(augmentation.AUGMENTATIONS))
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


SHIPPED = {
    (128, "target"): "59caed69bc1d7af1",
    (128, "surrogate"): "adad34df3506faba",
    (256, "target"): "9663b4f850dcc0b1",
    (256, "surrogate"): "c4cdb4f8c35748d7",
}


@pytest.mark.parametrize("size, role", SHIPPED)
def test_the_shipped_networks_are_found_by_their_names(size, role):
    features, epochs = {128: (8, 80), 256: (16, 60)}[size]
    phantoms = replace(load(size=32), size=size)  # the digest of phantoms is the same at every size
    recipe = make_recipe(phantoms, role, depth=3, features=features, epochs=epochs)
    path = weights_path(recipe)
    assert path.stem == SHIPPED[size, role] and path.exists()
    assert load_weights(path).recipe == recipe
