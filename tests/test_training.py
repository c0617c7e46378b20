"""Recipes, and training that survives a kill, here and in workers."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import toys
from filelock import FileLock
from safetensors.torch import load_file

from helpers import training
from helpers.common import progress
from helpers.common.files import digest_json
from helpers.common.paths import ROOT
from helpers.data import Dataset, dataset, load
from helpers.evaluation import iou_table
from helpers.labels import OUTSIDE, UNLABELLED
from helpers.loss import cross_entropy
from helpers.network import evaluating, predict
from helpers.phantom import STRUCTURES
from helpers.sweep import start_engine
from helpers.training import make_recipe, train, train_all
from helpers.weights import Trained, load_weights, state_digest, weights_path

pytestmark = pytest.mark.slow

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


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"role": "judge"}, "'judge'.*target, surrogate"),
        ({"augmentation": "elastic colour"}, "'colour'"),
        ({"precision": "fp16"}, "'fp16'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"depth": 0}, "depth.* 0"),
        ({"features": 0}, "features.* 0"),
        ({"depth": 5}, r"size is 16; it is not divisible by 32 \(2\*\*depth\)"),
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
    other[float] = other[int]
    keys = {replace(recipe, **{name: other[type(v)](v)}).key for name, v in asdict(recipe).items()}
    assert len(keys | {recipe.key}) == len(asdict(recipe)) + 1
    assert make_recipe(toy(), "target", **SETTINGS).key == recipe.key


def test_a_recipe_of_before_schedules_and_attacks_keeps_its_key():
    recipe = make_recipe(toy(), "target", **SETTINGS)
    later = {"schedule": "constant", "epsilon": 0.0, "attack_steps": 0, "mix": 1.0, "start": ""}
    assert asdict(recipe).items() >= later.items()
    before = {name: value for name, value in asdict(recipe).items() if name not in later}
    assert recipe.key == digest_json(before)


def test_the_world_needs_the_five_structures():
    with pytest.raises(ValueError, match=r"structures is \('square',\); the augmentation world"):
        make_recipe(toy(), "target", **SETTINGS, augmentation="world")


def test_the_world_needs_a_label_for_each_pixel():
    data = replace(toy(), structures=STRUCTURES)
    make_recipe(data, "target", **SETTINGS, augmentation="world")
    for nothing in (OUTSIDE, UNLABELLED):
        padded = replace(data, labels=data.labels.clone())
        padded.labels[0, :2] = nothing
        with pytest.raises(ValueError, match="augmentation is 'world'; pixels without a label"):
            make_recipe(padded, "target", **SETTINGS, augmentation="world")


def test_whole_floats_make_the_same_recipe():
    recipe = make_recipe(toy(), "target", **SETTINGS)
    floats = {name: float(SETTINGS[name]) for name in ("depth", "epochs", "features")}
    assert make_recipe(toy(), "target", **SETTINGS | floats).key == recipe.key


def test_a_growing_schedule_needs_a_size_that_can_be_halved():
    make_recipe(toy(size=16), "target", **SETTINGS | {"depth": 3, "schedule": "growing"})
    with pytest.raises(ValueError, match="size is 16; it is not divisible by 32"):
        make_recipe(toy(size=16), "target", **SETTINGS | {"depth": 4, "schedule": "growing"})
    with pytest.raises(ValueError, match="schedule 'rising' is unknown"):
        make_recipe(toy(), "target", **SETTINGS, schedule="rising")


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


def test_training_against_attacks_sees_nothing_but_attacked_images(tmp_path, monkeypatch):
    seen, attack = [], training._attacked

    def spy(network, images, labels, recipe, seed):
        made = attack(network, images, labels, recipe, seed)
        with evaluating(network), torch.no_grad():
            losses = [cross_entropy(network(x), labels).sum() for x in (images, made)]
        seen.append((images, made, *losses))
        return made

    monkeypatch.setattr(training, "_attacked", spy)
    against = {"epsilon": 0.2, "attack_steps": 3}
    trained = train(toy(), "target", folder=tmp_path, **SETTINGS | against)
    assert trained.recipe.epsilon == 0.2
    assert len(seen) == 2 * (2 + 1)  # an epoch has two batches and a validation
    for images, made, before, after in seen:
        assert 0.1 < (made - images).abs().max() <= 0.2 + 1e-6 and made.abs().max() <= 1
        assert after > before


def test_of_each_batch_a_share_is_attacked(tmp_path, monkeypatch):
    seen = []

    def spy(network, images, labels, recipe, seed):
        seen.append(len(images))
        return images

    monkeypatch.setattr(training, "_attacked", spy)
    train(toy(), "target", folder=tmp_path, **SETTINGS | {"epsilon": 0.2, "mix": 0.5, "epochs": 1})
    batch = SETTINGS.get("batch_size", 4)
    assert max(seen[:-1]) == batch / 2 and len(seen) == 3
    for mix in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"mix is {mix}; give a share above 0"):
            make_recipe(toy(), "target", **SETTINGS, epsilon=0.1, mix=mix)


def test_epochs_without_attacks_go_on_from_the_weights_that_they_start_from(tmp_path):
    data, options = toy(), {"folder": tmp_path} | SETTINGS
    first = train(data, "target", **options)
    more = train(data, "target", **options | {"start": first.digest})
    assert more.history[0]["loss"] < first.history[0]["loss"] and more.digest != first.digest


def test_weights_to_start_from_that_are_nowhere_are_told(tmp_path):
    with pytest.raises(ValueError, match="start is 'abc'; there are no such weights"):
        train(toy(), "target", folder=tmp_path, **SETTINGS, start="abc")
    with pytest.raises(ValueError, match="epsilon is -1"):
        make_recipe(toy(), "target", **SETTINGS, epsilon=-1.0)
    with pytest.raises(ValueError, match="attack_steps is 0"):
        make_recipe(toy(), "target", **SETTINGS, epsilon=0.1, attack_steps=0)


@pytest.mark.parametrize("schedule, sides", [("constant", {16}), ("growing", {8, 16})])
def test_a_schedule_lets_images_grow_after_half_of_the_epochs(
    schedule, sides, tmp_path, monkeypatch
):
    seen = []

    def forward(self, images):
        if self.training:
            seen.append(images.shape[-1])
        return original(self, images)

    original = training.UNet.forward
    monkeypatch.setattr(training.UNet, "forward", forward)
    settings = SETTINGS | {"epochs": 10, "batch_size": 6, "schedule": schedule}
    train(toy(), "target", folder=tmp_path, **settings)
    assert set(seen) == sides and seen == sorted(seen) and seen[5:] == [16] * 5


def test_a_falling_schedule_lowers_the_rate_to_nearly_0(tmp_path, monkeypatch):
    rates = []

    def step(self, closure=None):
        rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim.Adadelta, "step", step)
    settings = SETTINGS | {"epochs": 10, "batch_size": 6}
    for schedule, last in (("constant", [1.0] * 3), ("falling", [0.75, 0.5, 0.25])):
        rates.clear()
        train(toy(), "target", folder=tmp_path, schedule=schedule, **settings)
        assert rates == pytest.approx([1.0] * 7 + last)


def test_a_growing_network_is_the_average_of_its_weights_over_the_steps(tmp_path, monkeypatch):
    """With the rate at 1 and no growth left, by hand: the first weights, then a little of each."""
    steps = []
    original = torch.optim.swa_utils.AveragedModel.update_parameters

    def update(average, network):
        steps.append(network.head.bias.detach().clone())
        original(average, network)

    monkeypatch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", update)
    result = train(toy(), "target", folder=tmp_path, **SETTINGS | {"schedule": "growing"})
    expected = steps[0]
    averages = [expected]
    for bias in steps[1:]:
        expected = training.MEMORY * expected + (1 - training.MEMORY) * bias
        averages.append(expected)
    found = result.network.head.bias
    assert any(torch.equal(found, average.half().float()) for average in averages)
    assert not torch.equal(found, steps[-1].half().float())


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
    logged, found = [], []
    monkeypatch.setattr(progress, "log", logged.append)
    monkeypatch.setattr(training, "_fit", None)
    path = weights_path(result.recipe, tmp_path)
    with FileLock(path.with_suffix(".lock")):
        waiting = Thread(
            target=lambda: found.append(train(toy(), "target", folder=tmp_path, **SETTINGS))
        )
        waiting.start()
        while not logged:
            assert waiting.is_alive()
            waiting.join(0.1)
        assert (
            logged == ["target: waiting for another process, which trains the same network"]
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
    assert second.endswith(" 00:00 left")


# --- killed and resumed -----------------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # which the optimiser imports: once here, not in every child
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from helpers import training
from helpers.common import progress
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
    "after-epoch-1": lambda: at_call(training, "write_checkpoint", 1, False),
    "before-checkpoint-2": lambda: at_call(training, "write_checkpoint", 2, True),
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


def test_training_in_the_world_goes_on_after_a_stop_with_the_same_bits(tmp_path, monkeypatch):
    settings = SETTINGS | {"augmentation": "world", "schedule": "growing", "epochs": 3}
    monkeypatch.setattr(dataset, "PHANTOM_IDS", dataset.PHANTOM_IDS[:12])
    data = load("phantom", size=32, extra=3)
    data = replace(data, split=data.split | {"target-training": data.ids[-12:]})
    whole = train(data, "target", folder=tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        patched.setattr(training, "_report", stop)
        for _ in range(2):
            with pytest.raises(InterruptedError):
                train(data, "target", folder=tmp_path / "parts", **settings)
    parts = train(data, "target", folder=tmp_path / "parts", **settings)
    assert parts.digest == whole.digest
    assert [row["loss"] for row in parts.history] == [row["loss"] for row in whole.history]


def stop(*_):
    raise InterruptedError


def interrupted(folder, monkeypatch):
    """Train one epoch, stop, and return the checkpoint."""

    def stop(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        original = training.write_checkpoint
        patch.setattr(training, "write_checkpoint", lambda *args: (original(*args), stop()))
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


def test_a_setting_that_does_not_exist_is_refused_by_name():
    for name in ("batchsize", "size", "version"):
        with pytest.raises(TypeError, match=name):
            make_recipe(toy(), "target", **SETTINGS, **{name: 3})


def test_a_validation_that_is_not_a_number_stops_the_training_too(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_validate", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="epoch 1 is -0.*validation IoU is nan"):
        train(toy(), "target", folder=tmp_path, **SETTINGS)


# --- several networks -------------------------------------------------------------------------------------------------

SMALL = {"depth": 1, "features": 2, "epochs": 1}


def digests(networks):
    return {role: trained.digest for role, trained in networks.items()}


class Engine:
    """An engine whose only worker pickles what it gets, as another process would."""

    in_process = False
    device = "cpu"

    def __init__(self, error=None):
        self.tasks, self.error = [], error

    def map(self, function, next_task, shared):
        shared = pickle.dumps(shared)
        while (task := next_task()) is not None:
            self.tasks.append(task["role"])
            result = None if self.error else function(pickle.loads(shared), task)
            yield task, result, self.error


def test_workers_train_the_same_networks(tmp_path):
    data, roles = toys.on_disk(tmp_path / "data"), ("target", ("surrogate", 3))
    here = train_all(data, roles, folder=tmp_path / "here", **SMALL)
    with start_engine("workers=2 threads=1") as engine:
        there = train_all(data, roles, engine=engine, folder=tmp_path / "there", **SMALL)
    assert digests(here) == digests(there) and list(there) == list(roles)
    assert all(isinstance(trained, Trained) for trained in there.values())
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(names) == 4 and names == sorted(path.name for path in (tmp_path / "there").iterdir())


def test_the_seed_of_a_role_is_its_own_or_that_of_all(tmp_path):
    data = toys.on_disk(tmp_path / "data")
    networks = train_all(data, ["target", ("target", 4)], folder=tmp_path, seed=4, **SMALL)
    assert networks["target"].digest == networks["target", 4].digest
    assert networks["target"].recipe == make_recipe(data, "target", seed=4, **SMALL)


def test_workers_get_the_origin_of_a_dataset_and_train_what_is_missing(tmp_path):
    data, engine = toys.on_disk(tmp_path / "data"), Engine()
    train(data, "target", folder=tmp_path, **SMALL)
    networks = train_all(data, ["target", "surrogate"], engine=engine, folder=tmp_path, **SMALL)
    assert engine.tasks == ["surrogate"] and list(networks) == ["target", "surrogate"]


def test_workers_train_on_the_cases_of_a_changed_split(tmp_path):
    data = toys.on_disk(tmp_path / "data")
    half = data.split["surrogate-training"][::2]
    other = replace(data, split=data.split | {"surrogate-training": half})
    here = train_all(other, ["surrogate"], folder=tmp_path / "here", **SMALL)
    assert here["surrogate"].recipe.training == half
    there = train_all(other, ["surrogate"], engine=Engine(), folder=tmp_path, **SMALL)
    assert digests(here) == digests(there) and len([*tmp_path.glob("*.safetensors")]) == 1


def test_a_dataset_without_an_origin_is_sent_to_the_workers(tmp_path):
    engine = Engine()
    there = train_all(toy(), ["target"], engine=engine, folder=tmp_path / "there", **SETTINGS)
    here = train_all(toy(), ["target"], folder=tmp_path / "here", **SETTINGS)
    assert engine.tasks == ["target"] and digests(here) == digests(there)


def test_what_a_worker_has_no_data_for_is_trained_here(tmp_path, monkeypatch):
    data = toys.on_disk(tmp_path / "data")
    other = replace(data, digest="of other files")
    trained = train_all(other, ["target"], engine=Engine(), folder=tmp_path, **SMALL)["target"]
    assert trained.recipe.source == "of other files"
    monkeypatch.setattr(training, "_fit", None)
    with pytest.raises(TypeError):
        train_all(other, ["surrogate"], engine=Engine(), folder=tmp_path, **SMALL)


def test_an_engine_in_this_process_trains_with_the_data_that_are_here(tmp_path):
    engine = SimpleNamespace(device="cpu", in_process=True)
    networks = train_all(toy(), ["target"], engine=engine, folder=tmp_path, **SETTINGS)
    assert list(networks) == ["target"]


def test_training_that_kills_its_workers_is_told_in_one_line(tmp_path):
    class Deadly(Dataset):  # of this function, so that it is pickled with its code
        def take(self, which):
            os._exit(3)

    data = Deadly(**vars(toy()))
    with start_engine("workers=2 threads=1") as engine:
        with pytest.raises(RuntimeError, match="killed while they trained the target network: st"):
            train_all(data, ["target"], engine=engine, folder=tmp_path, **SETTINGS)


def test_an_error_of_a_worker_is_the_caller_s(tmp_path):
    lost = ConnectionError("the scheduler has gone")
    with pytest.raises(ConnectionError, match="has gone"):
        train_all(toy(), ["target"], engine=Engine(lost), folder=tmp_path, **SETTINGS)


# --- a log that cannot be written -------------------------------------------------------------------------------------


def test_a_log_in_a_folder_that_is_gone_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "gone" / "log"))
    trained = train(toy(), "target", folder=tmp_path, **SETTINGS)
    assert len(trained.history) == 2 and "target: epoch 2/2" in capsys.readouterr().out


def test_a_worker_trains_though_the_log_that_it_inherits_is_not_there(tmp_path, monkeypatch):
    folder = tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv("STUDY_LOG", str(folder / "log"))
    data = toys.on_disk(tmp_path / "data")
    with start_engine("workers=1 threads=1") as engine:
        shutil.rmtree(folder)
        networks = train_all(data, ["target"], engine=engine, folder=tmp_path, **SMALL)
    assert len(networks["target"].history) == 1
