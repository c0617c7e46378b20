"""helpers.data: the datasets, their split and their cache."""

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from radiographs import FIVE, message, same, write
from threadpoolctl import threadpool_limits

from helpers import phantom
from helpers.data import PHANTOM_IDS, dataset, label_map, load
from helpers.data.folders import Source
from helpers.data.split import split_cases


def test_the_earlier_structure_wins_where_masks_overlap():
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], bool)
    assert label_map(masks).tolist() == [[1, 1, 2, 0]]
    assert label_map(masks[::-1]).tolist() == [[2, 1, 1, 0]]
    assert label_map(np.stack([masks, masks[::-1]])).tolist() == [[[1, 1, 2, 0]], [[2, 1, 1, 0]]]


def test_phantoms_are_numbered_like_jsrt_and_split_by_odd_and_even(monkeypatch):
    def draw(case, size, **_):
        return np.full((size, size), case / 1000), np.zeros((5, size, size), bool)

    monkeypatch.setattr(phantom, "draw_case", draw)
    dataset = load(size=32)
    assert (
        dataset.ids == PHANTOM_IDS
        and dataset.ids[0] == "phantom-001"
        and dataset.ids[-1] == "phantom-247"
    )
    assert dataset.images[:, 0, 0, 0].tolist() == pytest.approx(
        [case / 1000 for case in range(1, 248)]
    )
    assert dataset.name == "phantom" and dataset.structures == FIVE
    assert dataset.num_classes == 6 and dataset.classes == (1, 2, 3, 4, 5)
    parts = {name: set(ids) for name, ids in dataset.split.items()}
    assert list(parts) == [
        "target-training",
        "target-validation",
        "surrogate-training",
        "surrogate-validation",
        "test",
    ]
    assert [len(ids) for ids in dataset.split.values()] == [100, 23, 100, 23, 20]
    assert len(dataset.spare) == 104 and not set(dataset.spare) & set().union(*parts.values())
    even = {id for id in PHANTOM_IDS if int(id[-3:]) % 2 == 0}
    assert parts["target-training"] | parts["target-validation"] == even
    assert parts["surrogate-training"] | parts["surrogate-validation"] == even
    assert not parts["target-training"] & parts["target-validation"]
    assert not parts["surrogate-training"] & parts["surrogate-validation"]
    assert not parts["target-validation"] & parts["surrogate-validation"]
    assert len(parts["target-training"] & parts["surrogate-training"]) == 77
    assert not parts["test"] & even


def test_fewer_test_cases_are_the_first_of_more_and_change_nothing_else():
    source = dataset._phantom_source()
    splits = [split_cases(source, test_cases=n, seed=3) for n in (8, 20, None)]
    assert [len(split["test"]) for split in splits] == [8, 20, 124]
    assert splits[0].pop("test") == splits[1]["test"][:8] == splits[2].pop("test")[:8]
    splits[1].pop("test")
    assert splits[0] == splits[1] == splits[2]


def test_further_phantoms_are_for_training_alone_and_change_nothing_else(few_phantoms):
    plain, more = load(size=32), load(size=32, extra=2)
    new = more.ids[len(plain.ids) :]
    assert len(new) == 2 and more.ids[: len(plain.ids)] == plain.ids
    for part, ids in plain.split.items():
        assert more.split[part] == ids + (new if "training" in part else ())
    assert more.digest == plain.digest and more.origin["extra"] == 2
    assert torch.equal(more.images[: len(plain.ids)], plain.images)
    assert not torch.equal(more.images[-1], more.images[-2])
    for id, image in zip(new, more.images[-2:], strict=True):
        case = int(id.removeprefix("phantom-"))
        variety = dataset.VARIETIES[case % len(dataset.VARIETIES)]
        drawn, _ = phantom.draw_case(case, 32, variety=variety)
        assert torch.equal(image[0], torch.from_numpy(drawn))


def test_the_split_follows_the_seed():
    source = dataset._phantom_source()
    first, again, other = (split_cases(source, test_cases=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (
        first["test"] != other["test"] and first["target-validation"] != other["target-validation"]
    )


def test_a_dataset_says_how_to_load_it_again(own):
    first = load("folder", size=32, root=own, test_cases=2, seed=3)
    again = load(**first.origin)
    assert same(again, first) and again.split == first.split


def test_a_phantom_is_its_drawing(few_phantoms):
    dataset = load(size=64, seed=5, jitter=0.5)
    with threadpool_limits(1, "blas"):
        image, masks = phantom.draw_case(3, 64, seed=5, jitter=0.5)
    assert dataset.images.dtype == torch.float32 and dataset.images.shape == (8, 1, 64, 64)
    assert dataset.labels.dtype == torch.int64 and dataset.labels.shape == (8, 64, 64)
    assert torch.equal(dataset.images[2, 0], torch.from_numpy(image))
    assert np.array_equal(dataset.labels[2], label_map(masks))


def test_a_phantom_is_the_same_to_the_last_bit_with_any_number_of_threads(
    few_phantoms, tmp_path, monkeypatch
):
    drawn = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            monkeypatch.setattr(dataset, "CACHE", tmp_path / f"cache{threads}")
            drawn.append(load(size=128).images)
    assert torch.equal(*drawn)


def test_take_gives_cases_in_the_order_asked_for(few_phantoms):
    dataset = load(size=32)
    images, labels = dataset.take(["phantom-005", "phantom-002"])
    assert torch.equal(images, dataset.images[[4, 1]]) and torch.equal(
        labels, dataset.labels[[4, 1]]
    )
    rows = [dataset.ids.index(id) for id in dataset.split["test"]]
    assert torch.equal(dataset.take("test")[0], dataset.images[rows])
    assert dataset.take([])[0].shape == (0, 1, 32, 32)
    with pytest.raises(ValueError) as error:
        dataset.take("tests")
    message(error, "'tests'", "target-training", "test")
    with pytest.raises(ValueError) as error:
        dataset.take(["phantom-999"])
    message(error, "phantom-999", "phantom-001")


def forbid_building(monkeypatch):
    def build(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(dataset, "_build", build)


def test_a_second_load_builds_nothing_and_gives_the_same(few_phantoms, own, monkeypatch):
    first = load(size=32), load("folder", root=own, size=32)
    forbid_building(monkeypatch)
    second = load(size=32), load("folder", root=own, size=32)
    assert (
        same(first[0], second[0])
        and same(first[1], second[1])
        and first[1].split == second[1].split
    )
    assert same(load(size=32.0, seed=0.0, jitter=1), first[0]), "a whole float is a whole number"
    for change in ({"size": 33}, {"seed": 1}, {"jitter": 0.0}):
        with pytest.raises(AssertionError, match="built again"):
            load(**{"size": 32} | change)


def test_a_second_load_of_247_cases_at_128_takes_a_fifth_of_a_second(monkeypatch):
    masks = np.ones((5, 128, 128), bool)
    monkeypatch.setattr(phantom, "draw_case", lambda *_, **__: (np.zeros((128, 128)), masks))
    load(size=128)
    forbid_building(monkeypatch)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        load(size=128)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_versions_and_parameters_of_phantoms_are_in_their_digest(few_phantoms, monkeypatch):
    digests = [load(size=32).digest, load(size=32, seed=1).digest, load(size=32, jitter=0.0).digest]
    monkeypatch.setattr(phantom, "VERSION", "another")
    digests.append(load(size=32).digest)
    monkeypatch.setattr(dataset, "VERSION", 2)
    digests.append(load(size=32).digest)
    assert len(set(digests)) == 5
    assert len(list(dataset.CACHE.iterdir())) == 3, (
        "the file of another version takes the old one's place"
    )


def test_the_version_of_the_conversion_is_in_a_folders_digest(own, monkeypatch):
    before = load("folder", size=32, root=own).digest
    monkeypatch.setattr(dataset, "VERSION", 2)
    assert load("folder", size=32, root=own).digest != before


def test_a_change_of_a_source_is_noticed(own, monkeypatch):
    first = load("folder", root=own, size=32)
    path = own / "images/case3.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[:20] = 0
    write(path, pixels)
    second = load("folder", root=own, size=32)
    assert second.digest != first.digest and not torch.equal(second.images[3], first.images[3])
    assert torch.equal(second.images[2], first.images[2])
    assert len(list(dataset.CACHE.iterdir())) == 1
    (own / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case}\n" for case in range(8))
    )
    third = load("folder", root=own, size=32)
    assert third.digest != second.digest and third.split != second.split


def test_new_dates_alone_change_nothing(own):
    first = load("folder", root=own, size=32)
    for path in own.rglob("*.png"):
        path.write_bytes(path.read_bytes())
    assert same(load("folder", root=own, size=32), first)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte altered", "not a cache at all"])
def test_a_damaged_cache_file_is_built_anew(few_phantoms, damage, monkeypatch):
    first = load(size=32)
    (path,) = dataset.CACHE.iterdir()
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    path.write_bytes(
        {"truncated": whole[:-1000], "empty": b"", "one byte altered": altered}.get(
            damage, b"x" * 5000
        )
    )
    assert same(load(size=32), first)
    forbid_building(monkeypatch)
    assert same(load(size=32), first), "the file is whole again"


def test_what_comes_out_of_the_cache_can_be_changed_without_harm(few_phantoms):
    load(size=32)
    dataset = load(size=32)
    dataset.images.zero_()
    assert load(size=32).images.abs().max() > 0


@pytest.mark.parametrize("obstacle", ["a file for the folder", "a folder for the file"])
@pytest.mark.parametrize("name", ["phantom", "folder"])
def test_a_cache_that_cannot_be_written_is_only_a_warning(
    few_phantoms, own, tmp_path, monkeypatch, name, obstacle
):
    root = own if name == "folder" else None
    if obstacle == "a file for the folder":
        (tmp_path / "file").touch()
        monkeypatch.setattr(dataset, "CACHE", tmp_path / "file")
    else:
        load(name, root=root, size=32)
        (path,) = dataset.CACHE.iterdir()
        path.unlink()
        (path / "within").mkdir(parents=True)
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(load(name, root=root, size=32).ids) == 8


def test_a_disk_that_is_full_is_only_a_warning(few_phantoms, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load(size=32).ids) == 8
    assert not list(dataset.CACHE.iterdir())


def test_the_digest_does_not_depend_on_the_place_of_the_files(jsrt):
    first = load("jsrt", root=jsrt, size=64)
    (jsrt / "All247images").rename(jsrt / "images")
    moved = jsrt.rename(jsrt.parent / "elsewhere")
    assert load("jsrt", root=moved, size=64).digest == first.digest


def test_no_patient_is_on_both_sides_of_a_boundary(tmp_path):
    rng = np.random.default_rng(1)
    for trial in range(50):
        patients = {f"{case:03d}": f"p{rng.integers(4 + trial // 5)}" for case in range(60)}
        split = split_cases(
            Source("folder-x", tmp_path, {"a": {}}, patients=patients),
            test_cases=None,
            seed=trial,
        )
        of = {name: {patients[id] for id in ids} for name, ids in split.items()}
        assert all(split.values())
        for network in ("target", "surrogate"):
            training, validation = of[f"{network}-training"], of[f"{network}-validation"]
            assert not training & validation and not (training | validation) & of["test"]
            assert (
                len(split[f"{network}-training"] + split[f"{network}-validation"] + split["test"])
                == 60
            )
        assert not of["target-validation"] & of["surrogate-validation"]


class Counted(str):
    """A name that counts how often one is looked up or compared."""

    times = 0

    def __hash__(self):
        Counted.times += 1
        return super().__hash__()

    def __eq__(self, other):
        Counted.times += 1
        return super().__eq__(other)


@pytest.mark.parametrize("folds", [False, True])
def test_a_split_looks_each_case_up_a_few_times_however_many_there_are(tmp_path, folds):
    ids = [Counted(f"{case:05d}") for case in range(2000)]
    source = Source("folder-x", tmp_path, {"a": {}}, patients={id: id for id in ids})
    if folds:
        source.folds = {id: 1 + k % 2 for k, id in enumerate(ids)}
    Counted.times = 0
    split_cases(source, test_cases=20, seed=0)
    assert Counted.times < 50 * len(ids)


def test_a_folder_is_split_in_about_the_same_shares(tmp_path):
    source = Source(
        "folder-x",
        tmp_path,
        {"a": {}},
        patients={f"{case:03d}": f"{case:03d}" for case in range(164)},
    )
    split = split_cases(source, test_cases=None, seed=0)
    assert [len(ids) for ids in split.values()] == [100, 23, 100, 23, 41]
    assert split_cases(source, test_cases=20, seed=0)["test"] == split["test"][:20]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"name": "mnist"}, ["'mnist'", "phantom, jsrt, folder"]),
        ({"size": 0}, ["size is 0", "32"]),
        ({"size": -128}, ["-128", "32"]),
        ({"size": 128.5}, ["128.5", "whole"]),
        ({"size": True}, ["True"]),
        ({"test_cases": 0}, ["test_cases is 0", "1 or more"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 0.5}, ["seed is 0.5"]),
        ({"jitter": float("nan")}, ["jitter is nan"]),
        ({"jitter": -1.0}, ["jitter is -1.0"]),
        ({"extra": -1}, ["extra is -1"]),
        ({"name": "jsrt", "extra": 3}, ["extra is 3", "phantoms"]),
        ({"root": "somewhere"}, ["'somewhere'", "folder"]),
        ({"name": "folder"}, ["root is None"]),
    ],
)
def test_a_value_out_of_range_is_refused(arguments, parts):
    with pytest.raises(ValueError) as error:
        load(**arguments)
    message(error, *parts)
    assert not dataset.CACHE.exists()


def test_a_structure_has_its_class_and_an_unknown_one_is_named_with_those_there_are(few_phantoms):
    dataset = load("phantom", size=32, test_cases=2)
    assert [dataset.class_of(name) for name in dataset.structures] == list(dataset.classes)
    with pytest.raises(ValueError, match="structure 'hart' is unknown; choose one of heart, left"):
        dataset.class_of("hart")
