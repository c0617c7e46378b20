"""The explorer: every control without a browser, wrong inputs, and the real thing in Chromium."""

import base64
import gc
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import weakref
import zlib
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import browsers
import ipywidgets as widgets
import nbformat
import numpy as np
import papermill
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from traitlets import TraitError

from helpers.common.paths import EXPERIMENTS, NOTEBOOKS, ROOT, RUNS
from helpers.data import Dataset, load
from helpers.explorer import __main__ as animation
from helpers.explorer import explore
from helpers.explorer import job as background
from helpers.explorer import widget as module
from helpers.explorer.attack_cache import AttackCache
from helpers.network import UNet, predict
from helpers.shapes import png_text, read_shape
from helpers.study import plan
from helpers.sweep import Goal, Store, compute_results
from helpers.targets import place_shape
from helpers.training import make_recipe, train
from helpers.weights import Trained

pytestmark = pytest.mark.slow

LEVELS = (0.1, 0.2, 0.4)
STEPS = 12

# A dataset of squares and a network that finds them, in a second: also the first cell of notebooks.
TINY = """
import torch
from helpers.data import Dataset
from helpers.loss import iou_loss
from helpers.network import UNet, predict
from helpers.training import make_recipe
from helpers.weights import Trained

def tiny(size=32):
    labels = torch.zeros(6, size, size, dtype=torch.int64)
    for k in range(6):
        labels[k, 8 + k : 18 + k, 6:16] = 1
        labels[k, 8:24, 20:28] = 2
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(6, 1, size, size, generator=generator)
    images = (torch.tensor([-0.5, 0.6, 0.1])[labels][:, None] + noise).clamp(-1, 1)
    ids = tuple(f"case-{k}" for k in range(6))
    split = {"target-training": ids[2:], "target-validation": ids[2:], "surrogate-training": ids[2:],
             "surrogate-validation": ids[2:], "test": ids[:2]}
    return Dataset("squares", size, ids, ("heart", "lung"), images, labels, split, "0" * 64)

def fit(data, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(1, 3, 1, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        iou_loss(network(data.images[2:]), data.labels[2:], classes=(0, 1, 2)).mean().backward()
        optimizer.step()
    recipe = make_recipe(data, "target", depth=1, epochs=1, features=4, seed=seed)
    return Trained(network.eval(), f"{seed:064}", recipe, ())

data = tiny()
target, surrogate = fit(data, 1), fit(data, 2)
"""


@pytest.fixture(scope="module")
def squares():
    values = {}
    exec(TINY, values)
    return values["data"], values["target"], values["surrogate"]


@pytest.fixture
def make(squares, tmp_path):
    """Function that makes an explorer; all are closed at the end."""
    made = []

    def make(*, wait=True, store=tmp_path / "cells", **options):
        options = {
            "epsilons": LEVELS,
            "steps": STEPS,
            "folder": tmp_path / "saved",
            "precision": "fp32",
        } | options
        made.append(explore(*squares, store=store, **options))
        assert not wait or made[-1].wait(), "still computing"
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def computed(squares, tmp_path_factory):
    """A store with all noise levels of an explorer's first goal."""
    store = tmp_path_factory.mktemp("computed") / "cells"
    with closing(
        explore(*squares, store=store, epsilons=LEVELS, steps=STEPS, precision="fp32")
    ) as explorer:
        compute_every_level(explorer)
    return store


def compute_every_level(explorer):
    for epsilon in LEVELS:
        explorer.controls.epsilon.value = epsilon
        assert explorer.wait() and not explorer.error


@pytest.fixture
def attacks(monkeypatch):
    """The experiments that were attacked, a list that grows."""
    made, compute = [], AttackCache.compute

    def counting(self, experiment, observe):
        made.append(experiment)
        return compute(self, experiment, observe)

    monkeypatch.setattr(AttackCache, "compute", counting)
    return made


@pytest.fixture
def complete(make, computed, tmp_path):
    """An explorer all of whose noise levels, of the first goal, are in the store."""
    shutil.copytree(computed, tmp_path / "cells")
    explorer = make(wait=False)
    assert not explorer.error and explorer.job is None, "nothing has to be attacked"
    return explorer


def truth_of(explorer, cell):
    """The result of an experiment, computed alone."""
    cache = explorer.cache
    about = {"structures": cache.dataset.structures, "networks": cache.networks}
    return compute_results([cell], cache.images, cache.truth, **about)[0]


# frames


@pytest.mark.gpu
def test_an_explorer_works_on_a_gpu(make):
    explorer = make(device="cuda")
    compute_every_level(explorer)


@pytest.mark.parametrize("attacker", ["white-box", "black-box"])
def test_a_step_on_the_way_is_what_an_attack_of_so_many_steps_comes_to(make, attacks, attacker):
    explorer = make()
    c = explorer.controls
    c.attacker.value = attacker
    assert explorer.wait() and not explorer.error
    made = len(attacks)
    for step in explorer.cache.counts[1:-1]:
        c.step.value = step
        frame = explorer.shown
        assert frame.experiment == explorer.wanted and frame.experiment.steps == step
        alone = truth_of(explorer, frame.experiment)
        assert np.array_equal(frame.prediction, alone.predictions[0])
        assert abs(np.abs(frame.noise).max() - alone.linf[0]) < 1e-6
        for name, scores in alone.iou.items():
            assert np.array_equal(frame.iou[name], scores[0], equal_nan=True)
        assert frame.warnings == "", "only whole attacks are checked"
    assert len(attacks) == made


def test_steps_on_the_way_are_never_stored(make):
    explorer = make()
    explorer.controls.step.value = 5
    assert explorer.wait() and explorer.shown.experiment.steps == 5
    store = Store(explorer.cache.store.folder)
    steps = [store.read_key(key)[0].steps for key in store.keys()]
    assert steps == [STEPS]


def test_a_whole_attack_keeps_its_warnings(make, monkeypatch):
    explorer = make(wait=False)
    real = explorer.cache.store.write
    written = []
    monkeypatch.setattr(
        explorer.cache.store,
        "write",
        lambda experiment, result, **options: (
            written.append(result)
            or real(experiment, replace(result, warnings=("odd",)), **options)
        ),
    )
    explorer.controls.epsilon.value = 0.4
    assert explorer.wait() and written and explorer.shown.warnings == written[-1].warnings[0]
    explorer.cache.clear()
    explorer.controls.gain.value = 5.0
    assert explorer.cache.find(explorer.wanted).warnings == "odd"


def test_a_goal_that_another_thread_makes_the_cache_forget_is_returned(make):
    cache = make().cache

    class Forgetting:
        """A lock; in the moment when it is released, another thread clears the cache."""

        clearing = False

        def __enter__(self):
            pass

        def __exit__(self, *_):
            if not self.clearing:
                self.clearing = True
                cache.clear()
                self.clearing = False

    cache.lock = Forgetting()
    for factor in (0.5, 1.5):
        wanted = cache.experiment("case-0", "white-box", Goal("resize", "heart", factor), 0.2, 5)
        assert cache.goal("case-0", wanted.goal).any()
        assert cache.find(replace(wanted, attack="no attack", epsilon=0.0)).iou["target"].any()


def test_a_frame_of_a_sweep_over_all_cases_is_used(make, attacks, tmp_path):
    first = make()
    goal = Goal("shape", "heart", 0.34)
    whole = replace(
        first.cache.experiment("case-0", "black-box", goal, 0.4, STEPS), ids=first.cache.ids
    )
    Store(tmp_path / "swept").write(whole, truth_of(first, whole), noise=True)
    explorer = make(store=tmp_path / "swept", wait=False)
    explorer.controls.attacker.value, explorer.controls.epsilon.value = "black-box", 0.4
    explorer.wait()
    attacks.clear()
    for k, case in enumerate(explorer.cache.ids):
        explorer.controls.case.value = case
        assert explorer.shown.experiment == explorer.wanted and not attacks and explorer.job is None
        assert np.array_equal(explorer.shown.prediction, truth_of(first, whole).predictions[k])


def test_the_attacked_image_is_that_of_the_attack(complete):
    cache, wanted = complete.cache, complete.wanted
    seen = {}
    compute_results(
        [wanted],
        cache.images,
        cache.truth,
        structures=cache.dataset.structures,
        networks=cache.networks,
        observe=lambda k, adv, _: seen.update({k: adv.clone()}),
    )
    difference = np.abs(complete.shown.adv_image - seen[STEPS][0, 0].numpy())
    assert difference.max() <= wanted.epsilon / 254 + 1e-6


# controls


def test_every_control_that_is_set_changes_what_is_shown_and_cached_frames_attack_nothing(
    complete, attacks
):
    c, seen = complete.controls, []
    for epsilon in LEVELS:
        c.epsilon.value, c.step.value = epsilon, 1
        assert complete.wait()
    attacks.clear()
    for epsilon in complete.settings.levels:
        for step in (0, 1, 5, STEPS):
            c.epsilon.value, c.step.value = epsilon, step
            assert (
                not complete.error
                and complete.shown.experiment == complete.wanted
                and complete.job is None
            )
            cell = complete.shown.experiment
            assert (cell.epsilon, cell.attack) == (
                (epsilon, "pgd") if epsilon and step else (0.0, "no attack")
            )
            alone = truth_of(complete, cell)
            assert np.array_equal(complete.shown.prediction, alone.predictions[0])
            score = alone.iou["target"][0, 0]
            assert (
                f"its target {score:.1f}," in complete.view.text
                and f">{score:.1f}<" in complete.view.bars.value
            )
            seen.append(complete.view.picture.value)
    assert not attacks and len(set(seen)) > 5
    for name, value in (("window", (-0.5, 0.25)), ("gain", 5.0)):
        before = complete.view.picture.value
        getattr(c, name).value = value
        assert complete.view.picture.value != before, name
    assert not attacks


@pytest.mark.parametrize(
    ("values", "goal"),
    [
        ({"goal": "untargeted"}, Goal()),
        ({"goal": "large symbol"}, Goal("shape", "heart", 2.25)),
        ({"goal": "large symbol", "structure": "lung"}, Goal("shape", "lung", 2.25)),
        ({"goal": "resize", "factor": 0.6}, Goal("resize", "heart", 0.6)),
        ({"goal": "small symbol", "attacker": "black-box"}, Goal("shape", "heart", 0.34)),
        ({"goal": "small symbol", "case": "case-1"}, Goal("shape", "heart", 0.34)),
    ],
)
def test_a_miss_is_computed_and_kept(make, squares, values, goal):
    explorer = make()
    for name, value in values.items():
        getattr(explorer.controls, name).value = value
    assert explorer.wait() and not explorer.error and explorer.shown.experiment == explorer.wanted
    cell = explorer.shown.experiment
    assert cell.goal == goal and cell.ids == (values.get("case", "case-0"),)
    assert cell.crafted_on == squares[2 if "attacker" in values else 1].digest
    assert np.array_equal(explorer.shown.prediction, truth_of(explorer, cell).predictions[0])
    assert explorer.cache.store.read(cell, noise=True) is not None


CHEST = ("heart", "left lung", "right lung")
GREYS = (0.5, 0.8, 0.0, 0.25)  # of background and structures


class ByGrey(torch.nn.Module):
    """A network that knows each class by its grey value."""

    def forward(self, images):
        return -40 * (images - torch.tensor(GREYS)[:, None, None]) ** 2


@pytest.fixture
def chest(squares, tmp_path):
    """Function that makes an explorer of two cases with heart and lungs: one normal, one enlarged."""
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[:, 4:28, 3:14], labels[:, 4:28, 18:29] = 3, 2
    labels[0, 14:26, 11:21], labels[1, 14:26, 8:24] = 1, 1
    images = torch.tensor(GREYS)[labels][:, None]
    split = {name: ("normal", "enlarged") for name in (*squares[0].split, "test")}
    data = Dataset("chests", 32, split["test"], CHEST, images, labels, split, "1" * 64)
    recipe = make_recipe(data, "target", depth=1, epochs=1, features=4, seed=0)
    trained = Trained(ByGrey(), "2" * 64, recipe, ())
    options = {"store": tmp_path / "cells", "steps": STEPS, "precision": "fp32"}
    with closing(explore(data, trained, epsilons=(0.3, 1.2), goal="ratio", **options)) as made:
        assert made.wait()
        yield made


@pytest.mark.parametrize(
    ("case", "wanted", "before", "after"),
    [("normal", 0.6, "normal", "enlarged"), ("enlarged", 0.4, "enlarged", "normal")],
)
def test_the_goal_ratio_takes_a_case_to_the_other_side(chest, case, wanted, before, after):
    c = chest.controls
    c.case.value = case
    assert chest.wait() and c.structure.disabled and not chest.error
    goal = chest.wanted.goal
    assert (goal.kind, goal.structure) == ("ratio", "heart") and goal.ratio == pytest.approx(wanted)
    c.epsilon.value = 0
    assert re.search(rf"no attack: cardiothoracic ratio 0\.\d{{3}}, {before}$", chest.view.text)
    c.epsilon.value = 1.2
    assert chest.wait() and re.search(rf"ratio 0\.\d{{3}}, {after}$", chest.view.text)


def test_the_goal_ratio_draws_calipers(chest):
    c = chest.controls
    c.epsilon.value = 0
    yellow = []
    for goal in ("ratio", "untargeted"):
        c.goal.value = goal
        assert chest.wait()
        shown = Image.open(io.BytesIO(chest.view.picture.value)).convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(shown).astype(int), -1, 0)
        yellow.append(((red > 150) & (green > 150) & (blue < 100)).sum())
    assert yellow[0] > yellow[1] + 50


def test_the_goal_ratio_says_what_a_dataset_lacks(make):
    explorer = make(goal="ratio", wait=False)
    assert (
        "the cardiothoracic ratio needs 'heart' and two whose names hold 'lung'" in explorer.error
    )


def test_a_miss_shows_the_nearest_frame_then_partial_ones_and_can_be_cancelled(make, monkeypatch):
    explorer = make()
    monkeypatch.setattr(background, "EVERY", 0)
    real, messages, shown = explorer.cache.compute, [], []

    def slow(cell, observe):
        def watch(step, make_frame):
            observe(step, make_frame)
            messages.append(explorer.view.message.value)
            shown.append(explorer.shown.experiment)
            time.sleep(0.05)

        return real(cell, watch)

    monkeypatch.setattr(explorer.cache, "compute", slow)
    before = explorer.shown
    start = time.monotonic()
    explorer.controls.epsilon.value = 0.4
    assert time.monotonic() - start < 0.3 and explorer.job is not None  # the callback does not wait
    assert (
        "computing… step 0/12" in explorer.view.message.value and before.experiment.epsilon == 0.1
    )
    while len(messages) < 5:
        time.sleep(0.01)
    assert not explorer.controls.cancel.disabled
    job = explorer.job
    explorer.controls.cancel.click()
    job.join(5)
    assert (
        not job.is_alive() and explorer.job is None and "cancelled" in explorer.view.message.value
    )
    assert any("step 3/12" in text for text in messages) and 3 in [cell.steps for cell in shown]
    assert (
        explorer.shown.experiment.epsilon == 0.1 and explorer.wanted.epsilon == 0.4
    )  # the nearest at hand
    explorer.controls.epsilon.value = 0.2
    explorer.controls.epsilon.value = 0.4
    assert explorer.wait() and explorer.shown.experiment == explorer.wanted


def test_every_control_has_a_description_and_none_says_something_by_colour_alone(complete):
    for name, control in vars(complete.controls).items():
        if not isinstance(control, widgets.Box):
            assert len(control.description) > 3, name
            assert control.tabbable is not False, name
    for k, structure in enumerate(complete.cache.dataset.structures):
        assert f"{k + 1} {structure}" in complete.view.bars.value
    assert complete.view.text in complete.view.heading.value


def test_an_error_in_a_callback_is_shown_and_the_next_change_clears_it(complete, monkeypatch):
    monkeypatch.setattr(complete.cache, "find", lambda cell: 1 / 0)
    complete.controls.epsilon.value = 0.4
    assert "Error: division by zero" in complete.view.message.value
    monkeypatch.undo()
    complete.controls.epsilon.value = 0.2
    assert "Error" not in complete.view.message.value and complete.shown.experiment.epsilon == 0.2


def test_an_error_of_an_attack_is_shown(make, monkeypatch):
    explorer = make()
    monkeypatch.setattr(
        explorer.cache.store, "write", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    )
    explorer.controls.epsilon.value = 0.4
    assert explorer.wait() and "Error: disk full" in explorer.view.message.value


def test_a_structure_that_a_case_lacks_is_told_of(squares, make):
    data, *_ = squares
    labels = data.labels.clone()
    labels[1][labels[1] == 1] = 0
    explorer = make()
    explorer.cache.truth["case-1"] = labels[1]
    explorer.controls.case.value = "case-1"
    assert "case case-1 has no pixel of 'heart'" in explorer.error
    explorer.controls.case.value = "case-0"
    assert not explorer.error


def test_two_explorers_do_not_disturb_each_other_and_closing_one_frees_it(make, tmp_path):
    one, other = make(), make(store=tmp_path / "other")
    text, picture = other.view.text, other.view.picture.value
    one.controls.epsilon.value = 0.4
    one.wait()
    assert (other.view.text, other.view.picture.value) == (text, picture)
    one.controls.goal.value = "resize"
    job = one.job
    one.close()
    assert not one.cache.memory and one.shown is None
    if job is not None:
        job.join(30)
        assert not job.is_alive() and not one.cache.memory
    other.controls.epsilon.value = 0.2
    assert other.wait() and other.shown.experiment.epsilon == 0.2


def test_a_closed_explorer_is_garbage(squares, tmp_path):
    explorer = explore(*squares, store=tmp_path, epsilons=LEVELS, steps=STEPS)
    explorer.wait()
    gone = weakref.ref(explorer.cache)
    explorer.close()
    explorer.controls.epsilon.value = 0.4  # too late: nothing happens
    assert explorer.job is None
    del explorer
    assert until(lambda: gc.collect() >= 0 and gone() is None), "its threads end in a moment"


# a job that is replaced


class Slow:
    """An attack in place of `AttackCache.compute`: it goes on until it is let go, or ended."""

    def __init__(self, explorer, monkeypatch):
        self.started, self.ended, self.go = [], [], threading.Event()
        self.frame = explorer.shown
        monkeypatch.setattr(explorer.cache, "compute", self)

    def __call__(self, experiment, observe):
        self.started.append(experiment.epsilon)
        try:
            for step in range(10**6):
                observe(step % STEPS, lambda: self.frame)
                if self.go.wait(0.01):
                    return self.frame
        finally:
            self.ended.append(experiment.epsilon)

    def starts(self, epsilon):
        return until(lambda: self.started[-1:] == [epsilon])


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_a_replaced_job_ends_at_once_and_the_wanted_attack_begins(make, monkeypatch):
    explorer = make()
    monkeypatch.setattr(module, "AGAIN", 60)
    slow = Slow(explorer, monkeypatch)
    c = explorer.controls
    jobs = []
    for epsilon in (0.2, 0.4, 0.2, 0.4, 0.2):
        c.epsilon.value = epsilon
        jobs.append(explorer.job)
    assert slow.starts(0.2)
    assert until(lambda: not any(job.is_alive() for job in jobs[:-1])), "no job sleeps on"
    assert explorer.job is jobs[-1] and jobs[-1].is_alive()
    assert slow.started.count(0.4) == 0 or slow.ended.count(0.4) == slow.started.count(0.4)
    slow.go.set()
    assert explorer.wait() and not explorer.error


def test_only_one_job_attacks_at_a_time(make, monkeypatch):
    explorer = make()
    slow = Slow(explorer, monkeypatch)
    for epsilon in (0.2, 0.4):
        explorer.controls.epsilon.value = epsilon
        assert slow.starts(epsilon)
        assert len(slow.started) - len(slow.ended) == 1


def test_closing_does_not_wait_for_the_attack_that_runs(make, monkeypatch):
    explorer = make()
    go = threading.Event()

    def compute(experiment, observe):
        observe(0, lambda: None)
        go.wait(60)  # one long step
        observe(1, lambda: None)

    monkeypatch.setattr(explorer.cache, "compute", compute)
    explorer.controls.epsilon.value = 0.4
    job = explorer.job
    start = time.monotonic()
    explorer.close()
    assert time.monotonic() - start < 5 and job.is_alive()
    go.set()
    job.join(20)
    assert not job.is_alive()


@pytest.mark.parametrize("last", ["explorer.close()", ""])
def test_a_program_may_end_while_an_attack_runs(tmp_path, last):
    lines = [
        TINY,
        "from helpers.explorer import explore",
        f"explorer = explore(data, target, epsilons=[0.1], steps=100_000, store={str(tmp_path)!r})",
        "import time; time.sleep(1)",
        "assert explorer.job is not None",
        last,
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and "terminate" not in ended.stderr, ended.stderr


def test_the_next_change_and_closing_call_off_the_sending_again(make):
    explorer = make()
    first = explorer.timer
    assert first.is_alive()
    explorer.controls.step.value = 5
    assert first.finished.is_set() and explorer.wait()
    second = explorer.timer
    explorer.close()
    assert second.finished.is_set()


def test_a_job_that_was_cancelled_sends_nothing_again(make, monkeypatch):
    explorer = make()
    slow = Slow(explorer, monkeypatch)
    explorer.controls.epsilon.value = 0.4
    timer = explorer.timer
    assert slow.starts(0.4)
    explorer.controls.cancel.click()
    assert until(lambda: slow.ended == [0.4])
    assert explorer.timer is timer and timer.finished.is_set()


def test_a_replaced_job_changes_nothing(make, monkeypatch):
    explorer = make()
    c = explorer.controls
    slow = Slow(explorer, monkeypatch)
    c.epsilon.value = 0.2
    assert slow.starts(0.2)
    old = explorer.job
    c.epsilon.value = 0.4
    shown = explorer.view.picture.value, explorer.view.message.value
    explorer.on_step(old, STEPS, slow.frame)
    explorer.on_end(old, None)
    assert explorer.job is not old and explorer.job is not None
    assert (explorer.view.picture.value, explorer.view.message.value) == shown
    slow.go.set()
    assert explorer.wait()


# options


def test_an_unknown_option_is_refused_and_the_known_ones_are_named(make):
    with pytest.raises(
        ValueError, match="option 'stepps' is unknown; choose one .*steps.*precision"
    ):
        make(stepps=3)


@pytest.mark.parametrize("epsilons", [0.04, None, "0.04", ["a"], np.float32(0.04)])
def test_noise_levels_that_are_no_list_of_numbers_are_refused(make, epsilons):
    with pytest.raises(ValueError, match="epsilons is .*; give a list of numbers"):
        make(epsilons=epsilons)


def test_the_user_s_home_is_understood_in_folders(make, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    explorer = make(folder="~/saved", store="~/cells")
    explorer.controls.save_image.click()
    assert not explorer.error and len(list((tmp_path / "home/saved").glob("*.png"))) == 1
    assert (tmp_path / "home/cells").is_dir()


def test_it_opens_on_a_case_that_has_the_structure(squares, tmp_path):
    data, *networks = squares
    for lacking, text in (((0,), "case-1, ε"), ((0, 1), "case case-0 has no pixel of 'heart'")):
        labels = data.labels.clone()
        for k in lacking:
            labels[k][labels[k] == 1] = 0
        part = replace(data, labels=labels)
        options = {"epsilons": LEVELS, "steps": STEPS, "store": tmp_path}
        with closing(explore(part, *networks, **options)) as explorer:
            assert explorer.wait()
            assert text in (explorer.error or explorer.view.text)
            bundle = explorer._repr_mimebundle_()
            assert text in bundle["text/plain"]
            assert ("image/png" in bundle) == (explorer.shown is not None)


def test_the_factor_says_whether_it_is_of_lengths_or_of_areas(complete):
    c = complete.controls
    c.goal.value = "resize"
    assert c.factor.description == "Length ×" and not c.factor.disabled
    c.goal.value = "own shape"
    assert c.factor.description == "Area ×" and not c.factor.disabled
    c.goal.value = "large symbol"
    assert c.factor.disabled


# wrong inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilons": [-0.1]}, "epsilons is [-0.1, 0.0]; give noise levels above 0"),
        ({"epsilons": []}, "give noise levels"),
        ({"epsilons": [float("nan")]}, "give noise levels"),
        ({"structure": "liver"}, "structure 'liver' is unknown; choose one of heart, lung"),
        ({"goal": "crown"}, "goal 'crown' is unknown; choose one of untargeted"),
        ({"which": "exam"}, "split 'exam' is unknown; choose one of"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": "auto"}, "steps is 'auto'"),
        ({"attack": "fgsm"}, "attack 'fgsm' is unknown; choose one of pgd, fast pgd"),
    ],
)
def test_what_cannot_be_explored_is_refused(make, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)


def test_a_noise_level_outside_the_grid_is_refused_and_changes_nothing(complete):
    text = complete.view.text
    with pytest.raises(TraitError, match="Invalid selection"):
        complete.controls.epsilon.value = 0.3
    assert (
        complete.view.text == text and complete.controls.epsilon.value in complete.settings.levels
    )


def huge_png(width, height):
    """Head of a PNG of this size, with nothing in it that could be decoded."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def upload(explorer, content, name="a.png"):
    file = {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": datetime.now(),
    }
    explorer.controls.upload.set_trait("value", (file,))


def disc():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    file = io.BytesIO()
    Image.fromarray(np.where(x**2 + y**2 < 0.8, 255, 0).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "shape PNG: not a PNG file"),
        (huge_png(10_000, 10_000), "shape PNG: number of pixels is 100000000; make it 16,000,000"),
        (huge_png(100, 100), "shape PNG: image file is truncated"),
        (b"", "not a PNG file"),
        (b"\0" * 9_000_000, "not a PNG file"),
    ],
    ids=["no picture", "100 megapixels", "cut off", "empty", "9 MB"],
)
def test_a_file_that_is_no_shape_is_refused(complete, monkeypatch, content, message):
    complete.controls.goal.value = "own shape"
    assert "load a PNG or paste SVG path data" in complete.error
    if b"IHDR" in content[:20] and "pixels" in message:
        monkeypatch.setattr(
            "helpers.shapes.Image.open", lambda *_, **__: pytest.fail("it was decoded")
        )
    upload(complete, content)
    assert message in complete.error and complete.job is None
    assert "Error" in complete.view.message.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<svg><script>alert(1)</script></svg>", "paste what stands in"),
        ('<image href="https://example.org/a.png"/>', "paste what stands in"),
        ("/etc/secret.png", "paste what stands in"),
        ("shape.svg", "paste what stands in"),
        ("M0 0 L5 5 Z", "is empty: no area lies inside it"),
        ("M0 0 H9 V9", "it is not closed"),
        ("M0 0 " + "H9 V9 " * 5000 + "Z", "paste what stands in"),
    ],
)
def test_a_text_that_is_no_shape_is_refused(complete, text, message):
    complete.controls.goal.value = "own shape"
    complete.controls.path.value = text
    assert (
        message in complete.error
        and complete.job is None
        and "<script" not in complete.view.message.value
    )


def test_a_polygon_of_two_points_is_refused():
    with pytest.raises(ValueError, match=re.escape("polygon (K, 2)")):
        read_shape([(0, 0), (5, 5)])


@pytest.mark.parametrize("text", ["M0 0 H9 V9 Z", None])
def test_a_shape_of_one_s_own_becomes_the_target(make, text):
    explorer = make()
    c = explorer.controls
    c.goal.value, c.structure.value, c.factor.value = "own shape", "lung", 0.6
    if text:
        c.path.value = text
    else:
        upload(explorer, disc())
    assert explorer.wait() and not explorer.error and explorer.shown.experiment == explorer.wanted
    goal = explorer.shown.experiment.goal
    assert (goal.kind, goal.structure, goal.ratio) == ("shape", "lung", 0.6)
    data = explorer.cache.dataset
    shape = text or read_shape("data:image/png;base64," + base64.b64encode(disc()).decode())
    wanted = place_shape(data.labels[:1], "lung", data.structures, shape, area_ratio=0.6).labels[0]
    assert np.array_equal(explorer.cache.goal("case-0", goal), wanted.numpy())


def test_a_text_that_is_pasted_again_after_a_file_counts(make):
    explorer = make()
    c, text = explorer.controls, "M0 0 H9 V9 Z"
    c.goal.value, c.path.value = "own shape", text
    upload(explorer, disc())
    assert explorer.wait() and explorer.wanted.goal.shape != text and c.path.value == ""
    c.path.value = text
    assert explorer.wait() and explorer.wanted.goal.shape == text and not explorer.error


def test_a_file_that_is_loaded_again_after_a_text_counts(make):
    explorer = make()
    c = explorer.controls
    c.goal.value = "own shape"
    upload(explorer, disc())
    shape = explorer.shape
    c.path.value = "M0 0 H9 V9 Z"
    assert explorer.shape != shape
    upload(explorer, disc())
    assert explorer.wait() and explorer.shape == shape


def test_a_shape_as_text_is_the_shape():
    shape = np.random.default_rng(0).random((40, 60)) > 0.5
    assert np.array_equal(read_shape(png_text(shape)), read_shape(shape))
    assert max(read_shape(png_text(np.ones((3000, 1000), dtype=bool))).shape) == 512
    with pytest.raises(ValueError, match="Only base64 data is allowed"):
        read_shape("data:image/png;base64,?")


# files


def test_a_saved_image_read_back_gives_the_prediction_shown(complete):
    for epsilon in complete.settings.levels:
        complete.controls.epsilon.value = epsilon
        complete.controls.save_image.click()
        assert not complete.error and "rounded to 16 bits" in complete.view.saved.value
        path = max(
            complete.settings.folder.glob("*_image.png"), key=lambda path: path.stat().st_mtime_ns
        )
        with Image.open(path) as file:
            image = (np.asarray(file) / 32767.5 - 1).astype(np.float32)
        assert np.abs(image - complete.shown.adv_image).max() <= 1 / 65535 + 1e-7
        assert np.array_equal(
            complete.cache.predict(complete.shown.experiment.ids[0], image),
            complete.shown.prediction,
        )
        with Image.open(path) as file:
            assert (
                file.mode == "I;16" and json.loads(file.text["Description"])["epsilon"] == epsilon
            )
            about = json.loads(file.text["Description"])
        assert about["cell"] == complete.shown.experiment.key and about["dataset"] == "squares"
        assert (about["case"], about["attacker"]) == ("case-0", "white-box")
        assert about["steps"] == (STEPS if epsilon else 0) and about["goal"]["kind"] == "shape"
    assert len(list(complete.settings.folder.glob("*_image.png"))) == len(complete.settings.levels)
    name = f"case-0_white-box_shape-0.34_heart_epsilon-0.4_step-12_{complete.shown.experiment.key[:8]}_image.png"
    assert f'download="{name}"' in complete.view.saved.value


def test_what_is_not_there_cannot_be_saved(complete):
    complete.shown = None
    for name in ("save_dicom", "save_image"):
        complete.controls.__dict__[name].click()
        assert "choose another goal or structure" in complete.error
    assert not complete.settings.folder.exists() or not list(complete.settings.folder.iterdir())


def test_a_saved_dicom_read_back_gives_the_prediction_shown(complete):
    complete.controls.save_dicom.click()
    assert not complete.error and "rounded to 16 bits" in complete.view.saved.value
    (path,) = complete.settings.folder.glob("*.dcm")
    record = dcmread(path)
    image = (record.pixel_array / 32767.5 - 1).astype(np.float32)
    assert np.array_equal(
        complete.cache.predict(complete.shown.experiment.ids[0], image), complete.shown.prediction
    )
    assert record.PhotometricInterpretation == "MONOCHROME2" and record.BitsStored == 16
    assert json.loads(record.ImageComments)["cell"] == complete.shown.experiment.key


# without a browser


def test_without_a_browser_a_picture_and_text_are_left_and_no_widget_state(tmp_path):
    last = f"explore(data, target, surrogate, store={str(tmp_path / 'cells')!r}, epsilons={list(LEVELS)}, steps={STEPS})"
    path = notebook(tmp_path / "in.ipynb", last)
    found = papermill.execute_notebook(
        path,
        tmp_path / "out.ipynb",
        store_widget_state=False,
        kernel_name="python3",
        cwd=ROOT,
        progress_bar=False,
    )
    (output,) = found.cells[-1].outputs
    assert (
        output.data["text/plain"].startswith("Explorer: case-0, ")
        and "IoU" in output.data["text/plain"]
    )
    assert Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).width > 600
    assert (
        "application/vnd.jupyter.widget-view+json" in output.data
        and "widgets" not in found.metadata
    )
    assert (tmp_path / "out.ipynb").stat().st_size < 200_000


def notebook(path, last):
    cells = [
        nbformat.v4.new_code_cell(source)
        for source in (TINY, "from helpers.explorer import explore", last)
    ]
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), path)
    return path


# how fast


def test_how_long_a_frame_takes_is_printed(complete, attacks, record_property):
    times = []
    for _ in range(5):
        for place in range(len(complete.settings.levels)):
            start = time.perf_counter()
            complete.controls.epsilon.index = place
            times.append(1000 * (time.perf_counter() - start))
    record_property("frame change in the kernel", spread(times))
    assert np.median(times) < 500 and not attacks


def test_a_result_is_sent_once_more_to_a_page_that_was_just_connecting(make, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.2)
    explorer, sent = make(), []
    explorer.controls.epsilon.value = 0.4
    for widget in (explorer.view.message, explorer.view.heading, explorer.view.picture):
        monkeypatch.setattr(
            widget, "send_state", lambda *keys, widget=widget: sent.append((widget, keys))
        )
    assert explorer.wait()
    told = explorer.view.message.value
    end = time.monotonic() + 30
    while len([widget for widget, keys in sent if not keys]) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    whole = [widget for widget, keys in sent if not keys]
    assert {explorer.view.message, explorer.view.heading, explorer.view.picture} <= set(
        whole
    ) and explorer.view.message.value == told


def test_the_moving_picture_is_of_the_network_of_make_study_at_every_noise_level(
    complete, tmp_path, monkeypatch
):
    asked = {}
    monkeypatch.setattr(animation, "FIGURES", tmp_path)
    monkeypatch.setattr(animation, "load", lambda *_, **settings: asked.update(settings))
    monkeypatch.setattr(animation, "train", lambda *_, **settings: asked.update(settings))
    monkeypatch.setattr(animation, "explore", lambda *_, **__: complete)
    animation.main()
    ((_, values),) = plan(NOTEBOOKS, "quick", only=["02"])
    assert {"size", "depth", "features", "epochs"} <= set(asked) <= set(values)
    assert asked == {name: values[name] for name in asked}
    with Image.open(tmp_path / "explorer.gif") as picture:
        assert picture.n_frames == len(complete.settings.levels)


def test_how_long_a_frame_takes_that_is_computed_is_printed(tmp_path, record_property):
    """At 128×128, with a network like that of the quick profile."""
    scope, seen = {}, []
    exec(TINY, scope)
    deep = replace(
        scope["target"], network=UNet(num_classes=3, depth=3, features=8).eval(), digest="3" * 64
    )
    explorer = explore(scope["tiny"](128), deep, store=tmp_path, epsilons=[0.02, 0.04])
    assert explorer.wait(300)
    start = time.perf_counter()
    explorer.view.heading.observe(
        lambda change: seen.append((change["new"], time.perf_counter() - start)), "value"
    )
    explorer.controls.epsilon.value = 0.02
    assert explorer.wait(300) and not explorer.error
    seen = [(text, seconds) for text, seconds in seen if "ε = 0.02" in text]
    explorer.close()
    record_property(
        "a frame that is computed",
        f"first steps after {seen[0][1]:.1f} s, all after {seen[-1][1]:.1f} s",
    )
    assert "step 100:" not in seen[0][0] and "step 100:" in seen[-1][0]


def spread(times):
    return f"median {np.median(times):.0f} ms, longest {max(times):.0f} ms"


# in a browser


@contextmanager
def serving(folder, *words, path):
    """A Jupyter server or Voilà with nothing of the user's own; yields the address of a page."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {
        name: str(folder / name.lower())
        for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    }
    env = os.environ | home | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", *words, f"--port={port}", "--no-browser"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    with closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                        break
                except OSError:
                    time.sleep(0.25)
            else:
                pytest.fail((folder / "server.log").read_text()[-2000:])
            yield address + path
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


def drive(
    page,
    store,
    name,
    record_property,
    *,
    cases=("case-0", "case-1"),
    attacked=None,
    size=32,
    levels=LEVELS,
    steps=STEPS,
    patience=45,
):
    """Go through all noise levels by keyboard, another case and another goal; compare with the store."""
    from playwright.sync_api import expect

    page.wait_for_selector(".attack-explorer img.widget-image", timeout=1000 * patience)
    box = page.locator(".attack-explorer")
    status, heading = box.locator("[role=status]"), box.locator("b").first
    settled = lambda: page.wait_for_function(  # noqa: E731
        "document.querySelector('.attack-explorer [role=status]').innerText == 'ready'",
        timeout=60_000,
    )
    settled()
    for part in (box.locator("img.widget-image"), box.get_by_role("button", name="Save DICOM")):
        place = part.bounding_box()
        assert place["y"] + place["height"] < box.bounding_box()["y"] + 600, "one screen holds all"
    box.locator(".widget-hslider", has_text="Noise level ε").locator(".noUi-handle").focus()
    for key in ["Home"] + ["ArrowRight"] * len(levels):  # once, to compute what is not there
        page.keyboard.press(key)
        page.wait_for_timeout(1000)
        settled()
    page.evaluate(
        """() => {
        const image = document.querySelector(".attack-explorer img.widget-image");
        window.pressed = 0; window.times = [];
        document.addEventListener("keydown", () => { window.pressed = performance.now(); }, true);
        image.addEventListener("load", () => window.times.push(performance.now() - window.pressed));
    }"""
    )
    seen, last, picture = {}, heading.inner_text(), page.evaluate(PIXELS)
    for key in ["Home"] + ["ArrowRight"] * len(levels):
        count = page.evaluate("window.times.length")
        page.keyboard.press(key)
        page.wait_for_function(f"window.times.length > {count}", timeout=10_000)
        page.wait_for_function(
            f"document.querySelector('.attack-explorer b').innerText != {json.dumps(last)}"
        )
        last, before, end = heading.inner_text(), picture, time.monotonic() + 10
        while (picture := page.evaluate(PIXELS)) == before and time.monotonic() < end:
            page.wait_for_timeout(10)
        seen[last] = picture
    assert len(set(seen.values())) == len(seen) == len(levels) + 1
    found = {}
    for cell, outcome in (store.read_key(key) for key in store.keys()):
        plain = replace(
            cell,
            goal=Goal("shape", "heart", 0.34),
            attack="pgd",
            steps=steps,
            attacked=attacked or cell.attacked,
            crafted_on=cell.attacked,
            bits=0,
            stop_at=None,
        )
        if cell == plain and cell.epsilon and cell.size == size and cases[0] in cell.ids:
            found[f"{cell.epsilon:g}"] = f"{outcome.iou['target'][cell.ids.index(cases[0]), 0]:.1f}"
    shown = [re.search(r"ε = (\S+), .* its target (\S+),", text) for text in seen]
    assert {match[1]: match[2] for match in shown if match} == found and len(found) == len(levels)
    assert any(text.startswith(f"{cases[0]}, no attack") for text in seen)
    page.screenshot(path=str(RUNS / f"explorer-{name}.png"), full_page=True)
    box.locator(".widget-dropdown", has_text="Case").locator("select").select_option(label=cases[1])
    finished = re.compile(
        f"^{cases[1]}, ε = .*step {steps}"
    )  # before it comes the picture without noise
    expect(heading).to_have_text(finished, timeout=60_000)
    settled()
    box.locator(".widget-dropdown", has_text="Goal").locator("select").select_option(
        label="own shape"
    )
    page.wait_for_function(
        "document.querySelector('.attack-explorer [role=status]').innerText.startsWith('Error')"
    )
    assert "load a PNG or paste SVG path data" in status.inner_text()
    box.locator("textarea").fill("M0 0 H9 V9 Z")
    box.locator("textarea").blur()
    settled()
    expect(heading).to_have_text(finished, timeout=60_000)
    page.screenshot(path=str(RUNS / f"explorer-{name}-own.png"), full_page=True)
    record_property(
        f"key press to picture, {name}", spread(page.evaluate("window.times")[: len(levels) + 1])
    )


PIXELS = """() => {
    const image = document.querySelector(".attack-explorer img.widget-image");
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def explored(tmp_path):
    """The last line of a notebook, and the store that it uses."""
    store = tmp_path / "cells"
    return (
        f"explore(data, target, surrogate, store={str(store)!r}, epsilons={list(LEVELS)}, steps={STEPS}, "
        f"folder={str(tmp_path / 'saved')!r})"
    ), store


def test_in_jupyterlab_keys_change_the_picture_of_04(chromium, tmp_path, record_property):
    levels, steps = [0.02, 0.04, 0.08], 10
    parameters = {
        "profile": "browser",
        "size": 48,
        "depth": 2,
        "epochs": 2,
        "test_cases": 3,
        "seed": 1,
        "epsilons": levels,
        "steps": steps,
        "step_counts": [steps],
    }
    papermill.execute_notebook(
        ROOT / "notebooks/04_heart_attack.ipynb",
        tmp_path / "04.ipynb",
        parameters,
        prepare_only=True,
        progress_bar=False,
    )
    words = [
        "jupyterlab",
        "--IdentityProvider.token=t",
        "--ServerApp.ip=127.0.0.1",
        "--allow-root",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with serving(tmp_path, *words, path="/lab/tree/04.ipynb?token=t&reset") as address:
        page = chromium.new_page(viewport={"width": 1400, "height": 1300})
        page.goto(address, timeout=120_000)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.wait_for_selector("text=/\\| Idle/", timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        data = load("phantom", size=48, test_cases=3, seed=1)
        target = train(data, "target", depth=2, features=8, epochs=2, seed=1)
        cases = data.split["test"]
        drive(
            page,
            Store(EXPERIMENTS),
            "JupyterLab",
            record_property,
            cases=cases,
            attacked=target.digest,
            size=48,
            levels=levels,
            steps=steps,
            patience=600,
        )
        page.close()


def test_under_voila_keys_change_the_picture(chromium, tmp_path, record_property):
    pytest.importorskip("voila", reason="pip install -e '.[app]'")
    last, store = explored(tmp_path)
    notebook(tmp_path / "explorer.ipynb", last)
    with serving(tmp_path, "voila", "explorer.ipynb", path="/") as address:
        page = chromium.new_page(viewport={"width": 1100, "height": 1300})
        page.goto(address, timeout=120_000)
        drive(page, Store(store), "Voilà", record_property)
        page.close()


def test_a_picture_that_was_saved_after_all_leaves_no_error(complete):
    folder = complete.settings.folder
    complete.settings.folder = complete.cache.store.folder / "format.json"
    complete.controls.save_image.click()
    assert complete.error
    complete.settings.folder = folder
    complete.controls.save_image.click()
    assert not complete.error and "Saved" in complete.view.saved.value


def test_a_step_of_the_faster_attack_is_not_taken_from_a_shorter_one(make, squares, attacks):
    with closing(
        explore(
            *squares,
            epsilons=LEVELS,
            steps=2,
            attack="fast pgd",
            store=make().cache.store.folder,
            precision="fp32",
        )
    ) as short:
        compute_every_level(short)
        experiment = short.shown.experiment
    explorer = make(attack="fast pgd")
    assert explorer.cache.store.read(experiment, noise=True)
    assert explorer.cache.find(experiment) is None


def test_a_case_of_another_study_does_not_take_the_place_of_one(make, squares):
    other = elsewhere(squares)
    other.data = replace(
        other.data, ids=("case-0", *other.data.ids[1:]), split={"test": ("case-0",)}
    )
    explorer = make(also=[other])
    assert explorer.controls.case.options == ("case-0", "case-1")
    assert explorer.shown.experiment.attacked == squares[1].digest


def elsewhere(squares, size=48):
    """A study of one more case, of another size, with networks of its own."""
    values = {}
    exec(TINY, values)
    data = values["tiny"](size)
    data = replace(
        data, ids=("patient", *data.ids[1:]), split={"test": ("patient",)}, digest="1" * 64
    )
    networks = {"target": values["fit"](values["tiny"](), 3), "surrogate": squares[2]}
    return SimpleNamespace(data=data, **networks)


def test_a_case_of_another_study_is_attacked_through_its_own_networks(make, squares, attacks):
    other = elsewhere(squares)
    explorer = make(also=[other])
    assert explorer.controls.case.options == ("case-0", "case-1", "patient")
    explorer.controls.case.value = "patient"
    assert explorer.wait() and not explorer.error
    experiment = explorer.shown.experiment
    assert experiment.attacked == other.target.digest and experiment.source == "1" * 64
    assert explorer.shown.adv_image.shape == (48, 48) and attacks[-1] == experiment
    clean = explorer.cache.predict("patient", explorer.cache.image("patient"))
    expected = predict(other.target.network, other.data.images[:1])[0]
    assert np.array_equal(clean, expected.numpy())
    explorer.controls.case.value = "case-0"
    assert explorer.wait() and explorer.shown.experiment.attacked == squares[1].digest


def test_a_study_with_other_structures_is_not_offered(make, squares):
    other = elsewhere(squares)
    other.data = replace(other.data, structures=("heart", "spleen"))
    assert make(also=[other]).controls.case.options == ("case-0", "case-1")
