"""Experiments: each equals its attack run alone, its key is stable and says all, and its noise rebuilds the image."""

import json
import pickle
from dataclasses import asdict, fields, replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from toys import NETWORKS, dataset, experiment, grid

from helpers import attack as attacks
from helpers import noise
from helpers.common.files import digest_json
from helpers.evaluation import iou
from helpers.network import predict
from helpers.sweep import (
    Experiment,
    Goal,
    Region,
    check_experiment,
    compute_results,
    restore_images,
    white_box,
)
from helpers.sweep.compute import loss_of
from helpers.transfer import Transfer
from helpers.weights import Trained

pytestmark = pytest.mark.slow

DATA = dataset(5, size=32)
LITERAL = Experiment(
    "phantom",
    "abc",
    128,
    ("p1", "p2"),
    "0123",
    "4567",
    (1, 2, 3),
    Goal("shape", "heart", 0.34),
    Region("box", "heart", 4),
    "pgd",
    0.04,
    100,
    "iou",
    None,
    0,
    "fp32",
    7,
    1,
)
OTHER = {
    "dataset": "jsrt",
    "source": "abd",
    "size": 256,
    "ids": ("p2", "p1"),
    "attacked": "0124",
    "crafted_on": "0123",
    "classes": (1, 2),
    "goal": Goal("shape", "heart", 0.35),
    "region": Region("box", "heart", 5),
    "attack": "fgsm",
    "epsilon": 0.05,
    "steps": 99,
    "loss": "margin",
    "stop_at": 95.0,
    "bits": 8,
    "precision": "bf16",
    "seed": 8,
    "version": 2,
    "transfer": Transfer(momentum=1.0),
    "queries": 10,
    "random_start": True,
}


def results(experiments, data=DATA, *, batch_size=8, order=None):
    images, truth = (dict(zip(data.ids, part, strict=True)) for part in (data.images, data.labels))
    order = list(order or experiments)
    listed = [experiments[name] for name in order]
    found = compute_results(
        listed, images, truth, structures=data.structures, networks=NETWORKS, batch_size=batch_size
    )
    return dict(zip(order, found, strict=True))


@cache
def by_itself(experiment):
    return results({"": experiment})[""]


def on_a(**values):
    return experiment(DATA, **{"attacked": "a", "crafted_on": "a", "epsilon": 0.05} | values)


def same(one, other):
    """Whether two results are equal to the last bit, but for the seconds."""
    arrays = [
        (one.iou["target"], other.iou["target"]),
        (one.iou["truth"], other.iou["truth"]),
        (one.linf, other.linf),
        (one.loss, other.loss),
        (one.predictions, other.predictions),
        (one.noise, other.noise),
    ]
    return one.warnings == other.warnings and all(a.tobytes() == b.tobytes() for a, b in arrays)


def assert_is(result, experiment, adv_images, labels, doubts=None):
    """An result is that of these adversarial images."""
    images, truth = DATA.take(experiment.ids)
    noise = adv_images - images
    linf = noise.abs().flatten(1).amax(dim=1)
    assert torch.equal(torch.from_numpy(result.linf), linf)
    steps = (noise / linf.clamp(min=1e-12)[:, None, None, None] * 127).round()
    assert np.array_equal(result.noise, steps.numpy().astype(np.int8))
    maps = predict(NETWORKS[experiment.attacked], adv_images)
    assert np.array_equal(result.predictions, maps.numpy())
    for name, other in (("target", labels), ("truth", truth)):
        assert np.array_equal(
            result.iou[name], iou(maps, other, classes=DATA.classes).numpy(), equal_nan=True
        )
    with torch.no_grad():
        loss = loss_of(experiment)(NETWORKS[experiment.attacked](adv_images), labels)
    assert result.loss == pytest.approx(loss.numpy(), abs=1e-6)
    if doubts is not None:
        assert result.warnings == tuple(
            "; ".join(t for t, which in doubts.items() if which[k]) for k in range(len(maps))
        )


# --- each experiment is its attack alone ------------------------------------------------------------------------------------

KINDS = {
    "untargeted": {},
    "black-box": {"crafted_on": "b"},
    "shape": {"goal": Goal("shape", "heart", 0.5)},
    "of the prediction": {"goal": Goal("resize", "lung", 1.2, basis="prediction")},
    "resize": {"goal": Goal("resize", "heart", 0.7)},
    "around": {"region": Region("around", "heart", 1)},
    "box": {"region": Region("box", "lung", 2), "goal": Goal("shape", "heart")},
    "until 20": {"goal": Goal("shape", "heart"), "stop_at": 20.0, "steps": 6},
    "cross-entropy": {"loss": "cross-entropy"},
    "margin": {"loss": "margin", "goal": Goal("shape", "heart")},
    "one class": {"classes": (2,)},
    "8 bits": {"bits": 8},
    "fast pgd": {"attack": "fast pgd", "steps": 5},
    "fast pgd to a shape": {"attack": "fast pgd", "steps": 5, "goal": Goal("shape", "heart")},
    "fgsm": {"attack": "fgsm"},
    "no noise": {"epsilon": 0},
}


def alone(experiment, images, truth):
    """(adversarial images, labels, doubts) of an experiment's attack, written out."""
    clean = predict(NETWORKS[experiment.attacked], images)
    labels = experiment.goal.labels(truth, clean, DATA.structures, experiment.ids)
    options = {
        "loss": loss_of(experiment),
        "epsilon": experiment.epsilon,
        "targeted": experiment.goal.kind != "untargeted",
        "precision": "fp32",
        "seed": [(experiment.seed, id) for id in experiment.ids],
    }
    if experiment.region.kind != "everywhere":
        options["region"] = experiment.region.masks(truth, DATA.structures, experiment.ids)
    if experiment.stop_at is not None:
        options |= {
            "stop_at": experiment.stop_at,
            "classes": [DATA.class_of(experiment.goal.structure)],
        }
    function = {"pgd": attacks.pgd, "fgsm": attacks.fgsm, "fast pgd": attacks.fast_pgd}[
        experiment.attack
    ]
    result = function(
        NETWORKS[experiment.crafted_on],
        images,
        labels,
        **options | ({} if experiment.attack == "fgsm" else {"steps": experiment.steps}),
    )
    adv_images = (
        noise.round_to_bits(result.adv_images, experiment.bits)
        if experiment.bits
        else result.adv_images
    )
    return adv_images, labels, result.findings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_is_its_attack_run_alone(kind):
    one = on_a(**KINDS[kind])
    assert_is(results({kind: one})[kind], one, *alone(one, *DATA.take(one.ids)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_an_experiment_is_the_same_in_any_company_order_and_batch(batch_size):
    experiments = {kind: on_a(**values) for kind, values in KINDS.items()} | grid(DATA)
    together = results(
        experiments, batch_size=batch_size, order=sorted(experiments, key=str, reverse=True)
    )
    for name, one in experiments.items():
        assert same(together[name], by_itself(one)), name


def test_a_case_is_the_same_with_any_others_in_its_experiment():
    whole = results({"all": on_a()})["all"]
    for ids in (["c3"], ["c4", "c1"]):
        part = results({"": replace(on_a(), ids=tuple(ids))})[""]
        rows = [DATA.ids.index(id) for id in ids]
        assert (
            part.linf.tobytes() == whole.linf[rows].tobytes()
            and part.loss.tobytes() == whole.loss[rows].tobytes()
        )
        assert np.array_equal(part.noise, whole.noise[rows])
        assert np.array_equal(part.predictions, whole.predictions[rows])


def test_the_goal_of_an_untargeted_experiment_is_the_truth_and_no_attack_has_no_noise():
    found = results({"away": on_a(), "none": on_a(attack="no attack")})
    for result in found.values():
        assert np.array_equal(result.iou["target"], result.iou["truth"], equal_nan=True)
    assert not found["none"].noise.any() and not found["none"].linf.any()
    assert found["away"].linf == pytest.approx(3 * 0.05 / 20, abs=1e-6)


def test_stop_at_ends_an_attack_when_the_structure_is_there():
    goal = Goal("shape", "heart")
    full, stopped = (
        results({"": on_a(goal=goal, stop_at=stop, steps=8)})[""] for stop in (100.0, 1.0)
    )
    reached = full.iou["target"][:, 0] >= 1
    assert (
        reached.any()
        and (stopped.iou["target"][reached, 0] >= 1).all()
        and (stopped.linf <= full.linf).all()
    )
    assert (stopped.linf[reached] < full.linf[reached]).any()


def test_rounded_images_are_on_the_grid_of_their_bits():
    result = results({"": on_a(bits=4, epsilon=0.2)})[""]
    levels = (restore_images(DATA.images, result) + 1) / 2 * 15
    assert (levels - levels.round()).abs().max() < 0.02


# --- controls ---------------------------------------------------------------------------------------------------------


def noise_of(name, **values):
    result = results({name: on_a(attack=name, **values)})[name]
    return (
        torch.from_numpy(result.noise).float()
        * torch.from_numpy(result.linf)[:, None, None, None]
        / 127
    )


def test_controls_are_no_larger_than_the_attack_and_in_its_region():
    region = Region("box", "heart", 1)
    masks = region.masks(DATA.labels, DATA.structures, DATA.ids)[:, None]
    for epsilon in (0.01, 0.2):
        random, shuffled = (
            noise_of(f"{name} noise", epsilon=epsilon, region=region)
            for name in ("random", "shuffled")
        )
        assert (
            0.9 * epsilon < random.abs().max() <= epsilon + 1e-6
            and shuffled.abs().max() <= epsilon + 1e-6
        )
        assert not random[~masks].any()


def test_shuffled_noise_has_the_values_of_the_attack_s_noise_in_other_places():
    plain, shuffled = noise_of("pgd"), noise_of("shuffled noise")
    torch.testing.assert_close(
        *(x.flatten(1).sort().values for x in (plain, shuffled)), atol=0.05 / 100, rtol=0
    )
    assert not torch.equal(plain, shuffled)


def test_a_case_s_random_noise_depends_on_its_id_and_the_seed_only():
    whole = noise_of("random noise")
    images, truth = (
        {"x": DATA.images[2], "c0": DATA.images[2]},
        {"x": DATA.labels[2], "c0": DATA.labels[2]},
    )
    moved = [replace(on_a(attack="random noise"), ids=ids) for ids in (("x", "c0"), ("c0",))]
    found = compute_results(moved, images, truth, structures=DATA.structures, networks=NETWORKS)
    assert np.array_equal(found[0].noise[1], found[1].noise[0]) and not np.array_equal(
        found[0].noise[0], found[0].noise[1]
    )
    assert np.array_equal(
        found[0].noise[1], results({"": on_a(attack="random noise")})[""].noise[0]
    )
    torch.testing.assert_close(noise_of("random noise", epsilon=0.2), whole * 4, atol=0.004, rtol=0)
    for control in ("random noise", "shuffled noise"):
        assert not torch.equal(noise_of(control, seed=1), noise_of(control, seed=2))
        assert torch.equal(noise_of(control, seed=1), noise_of(control, seed=1))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_that_of_the_experiment_s_canonical_json_and_never_changes():
    later = {"transfer": None, "queries": 0, "random_start": False}  # of no experiment of before
    assert LITERAL.values() | later == asdict(LITERAL)
    text = json.dumps(LITERAL.values(), sort_keys=True, separators=(",", ":"))
    assert LITERAL.key == digest_json(json.loads(text)) == PINNED
    assert replace(LITERAL, seed=8).key != LITERAL.key == replace(LITERAL).key


PINNED = "ce0a18474b061cd467f3b8f23e2aa97411594136cce19b1a6cb20cf83a8f5e13"


def test_an_experiment_of_the_first_release_has_the_key_it_had():
    one = Experiment(
        "jsrt",
        "f00",
        256,
        ("JPCLN001",),
        "aa",
        "bb",
        (1, 2, 3, 4, 5),
        goal=Goal("resize", "left lung", 0.8, basis="prediction"),
        attack="fast pgd",
        steps=30,
        stop_at=96.0,
        bits=8,
        precision="bf16",
        version=1,  # the fast attack is another today
    )
    assert one.key == "a74c5ccdfbbfb6520bdf39527db5ba4193f16c10680e5540da3e6d6d429b0a1d"


def test_every_field_changes_the_key():
    assert set(OTHER) == {field.name for field in fields(Experiment)}
    experiments = [LITERAL, *(replace(LITERAL, **{name: value}) for name, value in OTHER.items())]
    goals = {
        "kind": "resize",
        "structure": "lung",
        "ratio": 0.35,
        "shape": "♥",
        "basis": "prediction",
    }
    regions = {"kind": "around", "structure": "lung", "extent": 5}
    experiments += [
        replace(LITERAL, goal=replace(LITERAL.goal, **{name: value}))
        for name, value in goals.items()
        if name != "ratio"
    ]
    experiments += [
        replace(LITERAL, region=replace(LITERAL.region, **{n: v}))
        for n, v in regions.items()
        if n != "extent"
    ]
    assert set(goals) == {field.name for field in fields(Goal)} and set(regions) == {
        f.name for f in fields(Region)
    }
    assert len({each.key for each in experiments}) == len(experiments)


def test_an_experiment_comes_back_from_json():
    for one in [replace(LITERAL, version=0), *grid(DATA).values()]:
        back = Experiment.read(json.loads(json.dumps(one.values())))
        assert back == one and back.key == one.key and hash(back) == hash(one)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("epsilon", [0, 0.01, 0.3])
def test_the_kept_noise_rebuilds_the_images_to_half_a_step(epsilon):
    one = on_a(epsilon=epsilon)
    for kind in ("pgd", "random noise"):
        result = results({"": replace(one, attack=kind)})[""]
        images, truth = DATA.take(one.ids)
        random = noise.uniform_noise(images, epsilon=epsilon, seed=[(0, id) for id in one.ids])
        adv_images = (
            alone(one, images, truth)[0] if kind == "pgd" else (images + random).clamp(-1, 1)
        )
        off = (restore_images(images, result) - adv_images).abs().flatten(1).amax(dim=1)
        assert (off <= torch.from_numpy(result.linf) / 254 + 1e-6).all()


def test_a_template_is_the_white_box_attack_on_a_split():
    trained = Trained(NETWORKS["a"], "a", None, ())
    one = white_box(DATA, trained, epsilon=0.1, precision="fp32")
    assert (one.ids, one.attacked, one.crafted_on, one.classes) == (DATA.ids, "a", "a", (1, 2))
    assert white_box(DATA, trained, which=["c2"]).ids == ("c2",)


@pytest.mark.parametrize("native, precision", [(True, "bf16"), (False, "fp32")])
def test_the_automatic_precision_is_that_of_the_device(monkeypatch, native, precision):
    monkeypatch.setattr("helpers.network.native_bf16", lambda device: native)
    trained = Trained(NETWORKS["a"], "a", None, ())
    assert (
        white_box(DATA, trained).precision
        == white_box(DATA, trained, precision="auto").precision
        == precision
    )
    assert white_box(DATA, trained, precision="fp32").precision == "fp32"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("basis, crafted", [("truth", 1), ("prediction", 2)])
def test_noise_is_made_once_for_all_networks_that_are_shown_it(monkeypatch, basis, crafted):
    data = dataset(2)
    attacked = []

    def counting(network, images, labels, **options):
        attacked.extend(images)
        return pgd(network, images, labels, **options)

    pgd = attacks.pgd
    monkeypatch.setattr(attacks, "pgd", counting)
    goal = Goal("shape", "heart", 0.6, basis=basis)
    one = experiment(data, attacked="a", crafted_on="b", goal=goal, steps=2)
    found = results({"a": one, "b": replace(one, attacked="b")}, data)
    assert len(attacked) == 2 * crafted
    alone = results({"a": one}, data)["a"]
    np.testing.assert_array_equal(found["a"].noise, alone.noise)
    np.testing.assert_array_equal(found["a"].iou["target"], alone.iou["target"])


# --- versions ---------------------------------------------------------------------------------------------------------


SAME = {  # what the versions of the attacks make of three cases: a weighted sum of the noise in 127ths of ε
    "pgd": ({}, (665, -3454, 2232)),
    "fast pgd": ({"attack": "fast pgd"}, (1044, -5882, 5133)),
    "fgsm": ({"attack": "fgsm"}, (2794, -2286, 2286)),
    "a symbol": ({"goal": Goal("shape", "heart", 0.6)}, (-2636, 3656, 2841)),
    "resized": (
        {"goal": Goal("resize", "lung", 0.95), "region": Region("box", "lung", 1)},
        (-4826, -739, -3098),
    ),
    "random noise": ({"attack": "random noise"}, (-925, 2205, 1015)),
    "shuffled noise": ({"attack": "shuffled noise"}, (2338, -9444, -3709)),
    "cross-entropy": ({"loss": "cross-entropy"}, (1016, -1930, 1568)),
    "margin": ({"loss": "margin"}, (2887, -1176, -3249)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change, expected", SAME.values(), ids=SAME)
def test_an_experiment_comes_to_what_its_version_came_to_before(change, expected):
    """If it no longer does and shall not: raise VERSION of `helpers.attack`, so that no store mixes the two."""
    data = dataset(3)
    one = experiment(
        data,
        **{"attacked": "a", "crafted_on": "b", "epsilon": 0.05, "steps": 5} | change,
    )
    found = results({"": one}, data)[""]
    weights = np.arange(256).reshape(16, 16) % 7 - 3
    np.testing.assert_allclose(
        (found.noise[:, 0] * weights).sum(axis=(1, 2)), expected, atol=800
    )  # a pixel may differ


def test_an_experiment_of_another_version_of_the_attacks_is_not_computed():
    data = dataset(1)
    one = experiment(data, attacked="a", crafted_on="b", version=99)
    with pytest.raises(
        ValueError, match="version of the attacks is 99; this machine has 1: update this"
    ):
        results({"": one}, data)


def test_the_new_fast_attack_has_another_key_than_the_old_and_no_other_key_has_changed():
    data = dataset(1)
    plain = experiment(data, attacked="a", crafted_on="b")
    fast = replace(plain, attack="fast pgd")
    assert plain.values()["version"] == 1 and fast.values()["version"] == 2
    assert plain.key == replace(plain, version=1).key
    assert fast.key != replace(fast, version=1).key
    assert replace(fast, attack="pgd").key == plain.key


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("attack", ["pgd", "fast pgd"])
def test_an_experiment_comes_back_from_json_and_from_another_process(attack, version):
    one = experiment(dataset(1), attacked="a", crafted_on="b", attack=attack, version=version)
    for back in (
        Experiment.read(json.loads(json.dumps(one.values()))),
        pickle.loads(pickle.dumps(one)),
    ):
        assert back.key == one.key and back.values() == one.values()


def test_only_the_fast_attack_takes_as_many_steps_as_it_needs():
    fast = experiment(dataset(1), attacked="a", crafted_on="b", attack="fast pgd", steps="auto")
    with pytest.raises(ValueError, match="steps is 'auto'"):
        replace(fast, attack="pgd")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["own.png", "a folder/own.SVG"])
def test_a_shape_is_no_file_since_files_change(shape):
    with pytest.raises(ValueError, match="this is a file, which may change"):
        Goal("shape", "heart", shape=shape)


@pytest.mark.parametrize(
    "make, text",
    [
        (partial(Goal, "bend"), "goal 'bend' is unknown; choose one of untargeted, shape, resize"),
        (partial(Goal, "shape", "heart", -1), "ratio is -1"),
        (partial(Goal, "resize", "heart", 0), "ratio is 0; it must be above 0"),
        (partial(Goal, "shape", "heart", float("nan")), "ratio is nan"),
        (partial(Goal, basis="guess"), "basis 'guess'"),
        (partial(Region, "moon"), "region 'moon'"),
        (partial(on_a, epsilon=-0.1), "epsilon is -0.1; it must be 0 or more"),
        (partial(on_a, epsilon=float("nan")), "epsilon is nan"),
        (partial(on_a, epsilon=float("inf")), "epsilon is inf"),
        (partial(on_a, steps=0), "steps is 0"),
        (partial(on_a, steps=1.5), "steps is 1.5"),
        (partial(on_a, attack="magic"), "attack 'magic'"),
        (partial(on_a, loss="magic"), "loss 'magic'"),
        (partial(on_a, precision="int1"), "precision 'int1'"),
        (partial(on_a, stop_at=95.0), "stop_at is 95.0"),
        (partial(on_a, stop_at=195.0, goal=Goal("shape", "heart")), "stop_at is 195.0"),
        (partial(on_a, bits=-1), "bits is -1"),
        (lambda: replace(LITERAL, ids=()), "name one case or more"),
        (lambda: replace(LITERAL, ids=("a", "a")), "each once"),
    ],
)
def test_an_experiment_that_cannot_be_says_so_in_a_line(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values, text",
    [
        (
            {"goal": Goal("shape", "liver")},
            "structure 'liver' is unknown; choose one of heart, lung",
        ),
        ({"region": Region("box", "liver")}, "structure 'liver' is unknown"),
        ({"attacked": "nowhere"}, "weights is 'nowhere'; there are no such weights"),
        ({"crafted_on": "nowhere"}, "weights is 'nowhere'; there are no such weights"),
    ],
)
def test_what_a_dataset_or_the_networks_lack_is_named(values, text):
    with pytest.raises(ValueError) as caught:
        check_experiment(on_a(**values), DATA, NETWORKS)
    assert text in str(caught.value) and "\n" not in str(caught.value)
