"""helpers.data: the three datasets, their split and cache, and what it says about files it cannot use."""

import csv
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from threadpoolctl import threadpool_limits

from helpers import phantom
from helpers.common.paths import ROOT
from helpers.data import JSRT_IDS, PHANTOM_IDS, check, dataset, label_map, load
from helpers.data.dataset import main

HANNOVER = ROOT.parent / "shared/data/hannover"
FIVE = phantom.STRUCTURES
CASES = {
    "JPCLN001": 1,
    "JPCLN002": 2,
    "JPCLN004": 4,
    "JPCNN002": 156,
}  # one to test on, three to train on


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the project's cache, or finds the user's JSRT copy."""
    monkeypatch.setattr(dataset, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(dataset, "DATA", tmp_path / "data")
    monkeypatch.delenv("JSRT_DIR", raising=False)


def blow_up(pixels, times):
    return np.repeat(np.repeat(pixels, times, axis=-2), times, axis=-1)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def true_cases():
    """Phantoms at 256 by JSRT name: images in [−1, 1] and masks."""
    return {id: phantom.draw_case(case, 256) for id, case in CASES.items()}


def write_scr(root, cases, *, folder="scratch/fold{fold}/masks/{structure}", suffix=".gif"):
    for id, (_, masks) in cases.items():
        for structure, mask in zip(FIVE, masks, strict=True):
            fold, underscored = 2 - int(id[-3:]) % 2, structure.replace(" ", "_")
            place = root / folder.format(fold=fold, structure=structure, underscored=underscored)
            write(
                place / f"{id}{suffix}",
                blow_up(mask, 1024 // mask.shape[-1]).astype(np.uint8) * 255,
            )


def write_jsrt(root, cases, **layout):
    """JSRT and SCR in their true formats: 12-bit big-endian .IMG, high where dark; 1024×1024 masks."""
    for id, (image, _) in cases.items():
        dark = 4095 - np.rint((blow_up(image, 8) + 1) / 2 * 4095)
        (root / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "All247images" / f"{id}.IMG").write_bytes(dark.astype(">u2").tobytes())
    write_scr(root, cases, **layout)
    return root


@pytest.fixture
def jsrt(tmp_path, true_cases):
    return write_jsrt(tmp_path / "jsrt", true_cases)


def write_names(root, ids, folder="masks/{structure}"):
    """A JSRT tree of empty files: enough to be sorted, not to be read."""
    for id in ids:
        for name in (
            f"images/{id}.IMG",
            *(f"{folder.format(structure=structure)}/{id}.gif" for structure in FIVE),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return root


@pytest.fixture
def own(tmp_path):
    """A dataset folder of eight cases of four patients, with two structures that overlap."""
    rng, root = np.random.default_rng(0), tmp_path / "own"
    for case in range(8):
        write(root / "images" / f"case{case}.png", rng.integers(5, 200, (64, 64), dtype=np.uint8))
        for structure in ("liver", "spleen"):
            write(
                root / "masks" / structure / f"case{case}.png",
                (rng.random((64, 64)) < 0.3).astype(np.uint8) * 255,
            )
    (root / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case // 2}\n" for case in range(8))
    )
    return root


def message(error, *parts):
    """The error's text, which must be one line with these parts in it."""
    text = str(error.value)
    assert "\n" not in text and text.strip()
    for part in parts:
        assert str(part) in text, text
    return text


# ---- Label maps and area averages


def test_the_earlier_structure_wins_where_masks_overlap():
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], bool)
    assert label_map(masks).tolist() == [[1, 1, 2, 0]]
    assert label_map(masks[::-1]).tolist() == [[2, 1, 1, 0]]
    assert label_map(np.stack([masks, masks[::-1]])).tolist() == [[[1, 1, 2, 0]], [[2, 1, 1, 0]]]


def exact_average(pixels, size):
    """The mean over each output pixel's area, in fractions: each pixel cut into size × size equal crumbs."""
    n = len(pixels)
    crumbs = blow_up(pixels, size)  # (n·size, n·size), n × n of them in an output pixel
    sums = crumbs.reshape(size, n, size, n).sum((1, 3))
    return [[float(Fraction(int(total), n * n)) for total in row] for row in sums]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_an_area_average_is_exact_at_any_ratio(n, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 4096, (n, n))
    assert np.allclose(dataset._area_average(pixels, size), exact_average(pixels, size), rtol=1e-12)


# ---- Phantoms


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
    splits = [dataset._split(source, test_cases=n, seed=3) for n in (8, 20, None)]
    assert [len(split["test"]) for split in splits] == [8, 20, 124]
    assert splits[0].pop("test") == splits[1]["test"][:8] == splits[2].pop("test")[:8]
    splits[1].pop("test")
    assert splits[0] == splits[1] == splits[2]


def test_the_split_follows_the_seed():
    source = dataset._phantom_source()
    first, again, other = (dataset._split(source, test_cases=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (
        first["test"] != other["test"] and first["target-validation"] != other["target-validation"]
    )


# ---- Read when asked for


def test_a_streamed_dataset_gives_the_same_cases_and_holds_none(own, monkeypatch):
    whole, streamed = (load("folder", size=32, root=own, stream=stream) for stream in (False, True))
    assert streamed.images is None and streamed.labels is None
    assert (streamed.digest, streamed.split, streamed.ids) == (whole.digest, whole.split, whole.ids)
    for which in ("test", list(reversed(whole.ids))):
        for one, other in zip(whole.take(which), streamed.take(which), strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype
    with pytest.raises(ValueError, match="has no case 'nobody'"):
        streamed.take(["nobody"])
    # known by the files' names, sizes and dates
    monkeypatch.setattr(dataset, "_content_digest", lambda source: pytest.fail("read again"))
    assert load("folder", size=32, root=own, stream=True).digest == whole.digest


@pytest.mark.parametrize("changed", ["images", "masks/liver"])
def test_a_streamed_case_whose_files_have_changed_since_is_an_error(own, changed):
    streamed = load("folder", size=32, root=own, stream=True)
    write(own / changed / "case3.png", np.asarray(Image.open(own / changed / "case3.png"))[::-1])
    streamed.take(["case2"])
    with pytest.raises(ValueError) as error:
        streamed.take(["case3"])
    message(error, own, "case3", "have changed since they were loaded: load them again")
    load("folder", size=32, root=own, stream=True).take(["case3"])


def test_nothing_is_kept_without_a_cache(own):
    for stream in (False, True):
        load("folder", size=32, root=own, cache=False, stream=stream)
    assert not dataset.CACHE.exists() or not list(dataset.CACHE.iterdir())


@pytest.mark.parametrize("stream", [False, True])
def test_a_dataset_says_how_to_load_it_again(own, stream):
    first = load("folder", size=32, root=own, test_cases=2, seed=3, stream=stream)
    again = load(**first.origin)
    assert (
        again.digest == first.digest
        and again.split == first.split
        and (again.images is None) == stream
    )


@pytest.fixture
def few_phantoms(monkeypatch):
    monkeypatch.setattr(dataset, "PHANTOM_IDS", PHANTOM_IDS[:8])


def test_a_phantom_is_its_drawing(few_phantoms):
    dataset = load(size=64, seed=5, jitter=0.5)
    with threadpool_limits(1, "blas"):
        image, masks = phantom.draw_case(3, 64, seed=5, jitter=0.5)
    assert dataset.images.dtype == torch.float32 and dataset.images.shape == (8, 1, 64, 64)
    assert dataset.labels.dtype == torch.int64 and dataset.labels.shape == (8, 64, 64)
    assert torch.equal(dataset.images[2, 0], torch.from_numpy(image))
    assert np.array_equal(dataset.labels[2], label_map(masks))


def test_a_phantom_is_the_same_to_the_last_bit_with_any_number_of_threads(few_phantoms):
    drawn = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            drawn.append(load(size=128, cache=False).images)
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


# ---- The cache


def forbid_building(monkeypatch):
    def build(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(dataset, "_build", build)


def same(one, other):
    arrays = torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    return arrays and one.digest == other.digest


def test_a_second_load_builds_nothing_and_gives_the_same(few_phantoms, own, monkeypatch):
    first = load(size=32), load("folder", root=own, size=32)
    forbid_building(monkeypatch)
    second = load(size=32), load("folder", root=own, size=32)
    assert (
        same(first[0], second[0])
        and same(first[1], second[1])
        and first[1].split == second[1].split
    )
    for change in ({"size": 33}, {"seed": 1}, {"jitter": 0.0}, {"cache": False}):
        with pytest.raises(AssertionError, match="built again"):
            load(**{"size": 32} | change)


def test_a_second_load_of_247_cases_at_128_takes_a_fifth_of_a_second(monkeypatch):
    monkeypatch.setattr(
        dataset, "_draw_case", lambda id, **_: (np.zeros((128, 128)), np.ones((128, 128), int))
    )
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
    before = load("folder", size=32, root=own, cache=False).digest
    monkeypatch.setattr(dataset, "VERSION", 2)
    assert load("folder", size=32, root=own, cache=False).digest != before


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


def test_new_dates_alone_build_nothing(own, monkeypatch):
    first = load("folder", root=own, size=32)
    for path in own.rglob("*.png"):
        path.write_bytes(path.read_bytes())
    forbid_building(monkeypatch)
    assert same(load("folder", root=own, size=32), first)
    monkeypatch.setattr(
        dataset,
        "_content_digest",
        lambda source: pytest.fail("read although the new dates are known"),
    )
    assert same(load("folder", root=own, size=32), first)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte altered", "not a cache at all"])
def test_a_damaged_cache_file_is_built_anew(few_phantoms, damage):
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
    assert path.read_bytes() == whole


def test_what_comes_out_of_the_cache_can_be_changed_without_harm(few_phantoms):
    load(size=32)
    dataset = load(size=32)
    dataset.images.zero_()
    assert load(size=32).images.abs().max() > 0


def test_a_cache_that_cannot_be_written_is_only_a_warning(few_phantoms, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(dataset, "CACHE", tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(load(size=32).ids) == 8


# ---- JSRT and SCR


def test_a_jsrt_tree_in_true_formats_gives_the_labels_it_was_made_from(jsrt, true_cases):
    dataset = load("jsrt", root=jsrt, size=256)
    assert dataset.name == "jsrt" and dataset.ids == tuple(CASES) and dataset.structures == FIVE
    for row, (image, masks) in enumerate(true_cases.values()):
        assert np.array_equal(dataset.labels[row], label_map(masks))
        assert np.abs(dataset.images[row, 0].numpy() - image).max() <= 1.001 / 4095, (
            "within half a step of 12 bits"
        )
    assert dataset.split["test"] == ("JPCLN001",)
    assert {len(dataset.split[name]) for name in ("target-validation", "surrogate-validation")} == {
        1
    }


def test_masks_at_their_own_size_are_taken_exactly_and_smaller_ones_keep_what_is_half_covered(
    jsrt, true_cases
):
    at_1024, at_64 = (load("jsrt", root=jsrt, size=size, cache=False) for size in (1024, 64))
    for row, (_, masks) in enumerate(true_cases.values()):
        assert np.array_equal(at_1024.labels[row], blow_up(label_map(masks), 4))
        covered = masks.reshape(5, 64, 4, 64, 4).sum((2, 4))
        assert np.array_equal(at_64.labels[row], label_map(covered >= 8))


@pytest.mark.parametrize(
    "layout",
    [
        {"folder": "scratch/fold{fold}/masks/{underscored}"},
        {"folder": "{underscored}", "suffix": ".png"},
        {"folder": "SCR/Masks/{structure}", "suffix": ".TIF"},
    ],
)
def test_other_layouts_of_the_masks_load_the_same(jsrt, true_cases, tmp_path, layout):
    first = load("jsrt", root=jsrt, size=64)
    other = tmp_path / "other"
    other.mkdir()
    (other / "All247images").symlink_to(jsrt / "All247images")
    write_scr(other, true_cases, **layout)
    dataset = load("jsrt", root=other, size=64)
    assert torch.equal(dataset.labels, first.labels) and torch.equal(dataset.images, first.images)
    assert dataset.split == first.split


def test_the_digest_does_not_depend_on_the_place_of_the_files(jsrt):
    first = load("jsrt", root=jsrt, size=64)
    (jsrt / "All247images").rename(jsrt / "images")
    moved = jsrt.rename(jsrt.parent / "elsewhere")
    assert load("jsrt", root=moved, size=64).digest == first.digest


@pytest.mark.parametrize(
    ("dtype", "highest"), [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535)]
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_copies_of_the_images_are_scaled_by_their_bit_depth(
    tmp_path, true_cases, dtype, highest, suffix
):
    write_scr(tmp_path / "jsrt", true_cases)
    for id in true_cases:
        pixels = np.linspace(0, highest, 64).astype(dtype)[None].repeat(64, 0)
        write(tmp_path / "jsrt/png" / f"{id.lower()}{suffix}", pixels)
    images = load("jsrt", root=tmp_path / "jsrt", size=64).images
    assert torch.allclose(images[0, 0, 5], torch.linspace(-1, 1, 64), atol=2 / highest)
    assert images.min() == -1 and images.max() == pytest.approx(1, abs=1e-6)


def test_jsrt_is_found_where_the_environment_says_or_in_the_data_folder(
    jsrt, tmp_path, monkeypatch
):
    monkeypatch.setenv("JSRT_DIR", str(jsrt))
    assert dataset._scan("jsrt").root == jsrt
    monkeypatch.delenv("JSRT_DIR")
    (tmp_path / "data").mkdir()
    jsrt.rename(tmp_path / "data/jsrt")
    assert dataset._scan("jsrt").root == tmp_path / "data/jsrt"


def test_the_complete_jsrt_has_the_folds_of_scr(tmp_path):
    source = dataset._scan("jsrt", write_names(tmp_path, JSRT_IDS))
    assert not source.problems and len(source.images) == 247
    assert Counter(source.folds.values()) == {1: 124, 2: 123}
    assert (
        source.folds["JPCLN001"] == source.folds["JPCNN093"] == 1 and source.folds["JPCLN154"] == 2
    )
    split = dataset._split(source, test_cases=20, seed=0)
    assert [len(ids) for ids in split.values()] == [100, 23, 100, 23, 20]


def test_fold_folders_decide_where_there_are_any(tmp_path):
    write_names(tmp_path, ["JPCLN002"], "fold_1/masks/{structure}")
    write_names(tmp_path, ["JPCLN003"], "Fold 2/masks/{structure}")
    write_names(tmp_path, ["JPCLN004", "JPCLN005"])
    assert dataset._scan("jsrt", tmp_path).folds == {
        "JPCLN002": 1,
        "JPCLN003": 2,
        "JPCLN004": 2,
        "JPCLN005": 1,
    }


def test_a_case_in_both_folds_is_refused(tmp_path):
    write_names(tmp_path, list(CASES))
    (tmp_path / "fold1").mkdir()
    (tmp_path / "masks/heart").rename(tmp_path / "fold1/heart")
    (tmp_path / "fold2").mkdir()
    (tmp_path / "masks/left lung").rename(tmp_path / "fold2/left lung")
    with pytest.raises(ValueError) as error:
        load("jsrt", root=tmp_path)
    message(error, "JPCLN001.IMG", "keep one")


# ---- One's own folder


def test_a_folder_has_the_structures_of_its_mask_folders_and_its_masks_exactly(own):
    dataset = load("folder", root=own, size=64)
    assert (
        dataset.structures == ("liver", "spleen")
        and dataset.num_classes == 3
        and dataset.name == "folder-own"
    )
    read = lambda path: np.asarray(Image.open(own / path))  # noqa: E731
    for row, id in enumerate(dataset.ids):
        masks = [read(f"masks/{structure}/{id}.png") for structure in ("liver", "spleen")]
        assert np.array_equal(dataset.labels[row], label_map(masks))
        pixels = read(f"images/{id}.png").astype(float)
        scaled = (pixels - pixels.min()) / np.ptp(pixels) * 2 - 1
        assert np.allclose(dataset.images[row, 0], scaled, atol=1e-6)


def test_folder_images_may_be_deep_floating_or_grey_in_three_channels(own):
    ramp = np.linspace(0, 1, 64)[None].repeat(64, 0)
    (own / "images/case0.png").unlink()
    write(own / "images/case0.tif", (ramp * 60000 + 5000).astype(np.uint16))
    write(own / "images/case1.png", (ramp * 3000).astype(np.uint16))
    write(own / "images/case2.png", (ramp[..., None] * [250, 250, 250]).astype(np.uint8))
    (own / "images/case3.png").unlink()
    write(own / "images/case3.tiff", (ramp * 0.1 - 7).astype(np.float32))
    images = load("folder", root=own, size=64).images
    for row in range(4):
        assert torch.allclose(images[row, 0, 9], torch.linspace(-1, 1, 64), atol=0.01)


def test_images_of_odd_sizes_are_averaged_to_the_size_asked_for(own):
    for case in range(8):
        for path in own.rglob(f"case{case}.png"):
            write(path, blow_up(np.asarray(Image.open(path)), 3)[:145, :145])
    dataset = load("folder", root=own, size=50)
    assert dataset.images.shape == (8, 1, 50, 50) and dataset.labels.unique().tolist() == [0, 1, 2]


def test_no_patient_is_on_both_sides_of_a_boundary(tmp_path):
    rng = np.random.default_rng(1)
    for trial in range(50):
        patients = {f"{case:03d}": f"p{rng.integers(4 + trial // 5)}" for case in range(60)}
        split = dataset._split(
            dataset.Source("folder-x", tmp_path, ("a",), patients=patients),
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


def test_a_folder_is_split_in_about_the_same_shares(tmp_path):
    source = dataset.Source(
        "folder-x", tmp_path, ("a",), patients={f"{case:03d}": f"{case:03d}" for case in range(164)}
    )
    split = dataset._split(source, test_cases=None, seed=0)
    assert [len(ids) for ids in split.values()] == [100, 23, 100, 23, 41]
    assert dataset._split(source, test_cases=20, seed=0)["test"] == split["test"][:20]


def test_hannover_loads_with_both_lungs_and_is_split_by_patient(capsys):
    if not HANNOVER.is_dir():
        pytest.skip(f"the Hannover radiographs are not at {HANNOVER}")
    dataset = load("folder", root=HANNOVER, size=64)
    assert dataset.images.shape == (62, 1, 64, 64) and dataset.structures == (
        "left lung",
        "right lung",
    )
    columns = torch.arange(64.0)
    place = [
        ((dataset.labels == c) * columns).sum() / (dataset.labels == c).sum()
        for c in dataset.classes
    ]
    assert place[0] > 32 > place[1], "the patient's left lung is on the right of the image"
    with open(HANNOVER / "index.csv") as file:
        patients = {row["id"]: row["patient"] for row in csv.DictReader(file)}
    tested = {patients[id] for id in dataset.split["test"]}
    assert tested and not tested & {patients[id] for id in dataset.split["target-training"]}
    assert main(["check", "--folder", str(HANNOVER)]) == 0
    assert "62 images of 33 patients" in capsys.readouterr().out


# ---- What cannot be used: one line, with the name and what to do


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"name": "mnist"}, ["'mnist'", "phantom, jsrt or folder"]),
        ({"size": 0}, ["size is 0", "32"]),
        ({"size": -128}, ["-128", "32"]),
        ({"size": 128.0}, ["128.0", "whole"]),
        ({"size": True}, ["True"]),
        ({"test_cases": 0}, ["test_cases is 0", "None"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 0.5}, ["seed is 0.5"]),
        ({"jitter": float("nan")}, ["jitter is nan"]),
        ({"jitter": -1.0}, ["jitter is -1.0"]),
        ({"root": "somewhere"}, ["'somewhere'", "folder"]),
        ({"name": "folder"}, ["root is missing"]),
    ],
)
def test_a_value_out_of_range_is_refused(arguments, parts):
    with pytest.raises(ValueError) as error:
        load(**arguments)
    message(error, *parts)
    assert not dataset.CACHE.exists()


@pytest.mark.parametrize(
    ("name", "parts"),
    [("jsrt", ["db.jsrt.or.jp", "7056076", "JSRT_DIR"]), ("folder", ["images/<id>.png"])],
)
def test_a_missing_folder_is_named(tmp_path, name, parts):
    with pytest.raises(FileNotFoundError) as error:
        load(name, root=tmp_path / "nowhere")
    message(error, tmp_path / "nowhere", *parts)


def damage_img(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(path.read_bytes()[:-2])
    return path, "8388606", "8388608"


def swap_bytes(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(np.frombuffer(path.read_bytes(), ">u2").astype("<u2").tobytes())
    return path, "4095", "big-endian"


def blank_img(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(bytes(2 * 2048 * 2048))
    return path, "everywhere"


def shrink_mask(root):
    path = root / "scratch/fold2/masks/heart/JPCNN002.gif"
    write(path, np.asarray(Image.open(path))[::2, ::2])
    return path, "512×512", "1024×1024"


def drop_mask(root):
    (root / "scratch/fold2/masks/left clavicle/JPCLN004.gif").unlink()
    return "JPCLN004", "'left clavicle'", "add"


def double_image(root):
    write(root / "png/JPCLN001.png", np.eye(64, dtype=np.uint8) * 9)
    return root / "All247images/JPCLN001.IMG", root / "png/JPCLN001.png", "keep one"


def float_copy(root):
    path = root / "All247images/JPCLN001.IMG"
    path.unlink()
    return write(path.with_suffix(".tif"), np.eye(64, dtype=np.float32)), "float32", "16-bit"


def remove_masks(root):
    for path in root.rglob("*.gif"):
        path.unlink()
    return root, "holds no masks", "7056076"


def remove_tests(root):
    (root / "All247images/JPCLN001.IMG").unlink()
    return root, "odd-numbered", "3"


@pytest.mark.parametrize(
    "spoil",
    [
        damage_img,
        swap_bytes,
        blank_img,
        shrink_mask,
        drop_mask,
        double_image,
        float_copy,
        remove_masks,
        remove_tests,
    ],
)
def test_a_bad_file_of_a_jsrt_copy_is_named(jsrt, spoil, capsys):
    parts = spoil(jsrt)
    with pytest.raises(ValueError) as error:
        load("jsrt", root=jsrt, size=64)
    message(error, *parts)
    assert not dataset.CACHE.exists()
    assert main(["check", "--jsrt", str(jsrt)]) == 1
    report = capsys.readouterr().out
    assert str(parts[0]) in report and "Training cannot start" in report


def test_a_stray_value_above_12_bits_is_clipped(jsrt):
    first = load("jsrt", root=jsrt, size=64)
    path = jsrt / "All247images/JPCLN002.IMG"
    raw = np.frombuffer(path.read_bytes(), ">u2").copy()
    raw[:3] = 4100
    path.write_bytes(raw.tobytes())
    images = load("jsrt", root=jsrt, size=64).images
    assert images[1].min() >= -1 and (images[1] - first.images[1]).abs().max() < 0.01


def cut_png(root):
    path = root / "images/case1.png"
    path.write_bytes(path.read_bytes()[:900])
    return path, "cannot be read", "intact"


def cut_tif(root):
    (root / "images/case1.png").unlink()
    path = write(root / "images/case1.tif", np.eye(64, dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:3000])
    return path, "cannot be read"


def text_for_image(root):
    path = root / "images/case1.png"
    path.write_text("see the other folder")
    return path, "cannot be read"


def huge_image(root):
    path = write(root / "images/case1.png", np.eye(600, dtype=np.uint8))
    return path, "cannot be read", "decompression bomb"


def colour_image(root):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = np.arange(64)
    return write(root / "images/case1.png", pixels), "colour", "grey"


def nan_image(root):
    (root / "images/case1.png").unlink()
    pixels = np.eye(64, dtype=np.float32)
    pixels[3, 4] = np.nan
    return write(root / "images/case1.tif", pixels), "NaN", "repair"


def blank_image(root):
    return write(root / "images/case1.png", np.full((64, 64), 7, np.uint8)), "7 everywhere"


def oblong_image(root):
    return write(root / "images/case1.png", np.eye(64, 80, dtype=np.uint8)), "80×64", "square"


def small_mask(root):
    return write(root / "masks/spleen/case1.png", np.eye(32, dtype=np.uint8)), "32×32", "64×64"


def grey_mask(root):
    ramp = np.arange(64, dtype=np.uint8)[None].repeat(64, 0)
    return write(root / "masks/spleen/case1.png", ramp), "not binary", "0, 1, 2"


def two_valued_mask(root):
    return (
        write(root / "masks/spleen/case1.png", np.eye(64, dtype=np.uint8) + 1),
        "not binary",
        "1, 2",
        "255",
    )


def no_mask(root):
    (root / "masks/spleen/case1.png").unlink()
    return root / "images/case1.png", "'spleen'"


def same_stem(root):
    return (
        write(root / "images/case1.tif", np.eye(64, dtype=np.uint8)),
        root / "images/case1.png",
        "keep one",
    )


def twice_in_index(root):
    with open(root / "index.csv", "a") as file:
        file.write("case1,p9\n")
    return root / "index.csv", "case1", "keep one"


def not_in_index(root):
    (root / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case}\n" for case in range(7))
    )
    return root / "index.csv", "case7"


def short_line_in_index(root):
    lines = [f"p{case},case{case}\n" for case in range(7)]
    (root / "index.csv").write_text("".join(["patient,id\n", *lines, "p7\n"]))
    return root / "index.csv", "case7"


def no_patients(root):
    (root / "index.csv").write_text("id,age\ncase1,50\n")
    return root / "index.csv", "id, age", "patient"


def too_few_patients(root):
    (root / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case % 3}\n" for case in range(8))
    )
    return root, "3 patients", "four patients"


def no_images(root):
    (root / "images").rename(root / "pictures")
    return root, "holds no images", "images/<id>.png"


@pytest.mark.parametrize(
    "spoil",
    [
        cut_png,
        cut_tif,
        text_for_image,
        huge_image,
        colour_image,
        nan_image,
        blank_image,
        oblong_image,
        small_mask,
        grey_mask,
        two_valued_mask,
        no_mask,
        same_stem,
        twice_in_index,
        not_in_index,
        short_line_in_index,
        no_patients,
        too_few_patients,
        no_images,
    ],
)
def test_a_bad_file_of_a_folder_is_named(own, spoil, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    parts = spoil(own)
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, *parts)
    assert not dataset.CACHE.exists()
    assert main(["check", "--folder", str(own)]) == 1
    report = capsys.readouterr().out
    assert str(parts[0]) in report and "Training cannot start" in report


def test_hidden_and_foreign_files_are_left_alone(own):
    first = load("folder", root=own, size=32)
    (own / "images/._case1.png").write_text("of a file manager")
    (own / "images/notes.txt").write_text("mine")
    (own / "masks/.trash").mkdir()
    second = load("folder", root=own, size=32)
    assert same(first, second) and second.structures == ("liver", "spleen")


# ---- The report


def test_the_report_counts_what_is_there_and_names_what_is_not(jsrt, capsys):
    (jsrt / "scratch/fold2/masks/heart/JPCLN006.gif").touch()
    write(jsrt / "scratch/fold1/masks/left lung/JPCLN001.gif", np.zeros((1024, 1024), np.uint8))
    write(
        jsrt / "scratch/fold1/masks/right lung/JPCLN001.gif", np.full((1024, 1024), 255, np.uint8)
    )
    assert check("jsrt", jsrt)
    report = capsys.readouterr().out
    for part in (
        "4 images of 247",
        "4 heart",
        "2048×2048 (4)",
        "1024×1024 (20)",
        "243 of 247 images are missing: JPCLN003",
        "left out: 1, among them",
        "JPCLN006.gif",
        "left lung/JPCLN001.gif is empty",
        "right lung/JPCLN001.gif covers 100%",
        "1 target-validation",
        "Training can start.",
    ):
        assert part in report, report


def test_the_report_names_every_bad_file_but_not_without_end(own, capsys):
    cut_png(own)
    two_valued_mask(own)
    assert not check("folder", own)
    report = capsys.readouterr().out
    assert (
        "Problems (2):" in report
        and "images/case1.png" in report
        and "masks/spleen/case1.png" in report
    )
    for path in own.rglob("*.png"):
        path.write_bytes(b"")
    assert not check("folder", own)
    report = capsys.readouterr().out
    assert "Problems (24):" in report and "and 4 more" in report and len(report.splitlines()) < 40


def test_without_a_copy_the_report_says_where_to_put_one(tmp_path, capsys):
    assert main(["check"]) == 1
    report = capsys.readouterr().out
    assert (
        str(tmp_path / "data/jsrt") in report and "db.jsrt.or.jp" in report and "JSRT_DIR" in report
    )


def test_without_an_option_the_report_is_on_the_default_copy(jsrt, monkeypatch, capsys):
    monkeypatch.setenv("JSRT_DIR", str(jsrt))
    assert main(["check"]) == 0
    assert str(jsrt) in capsys.readouterr().out


def test_the_help_names_the_options_and_the_exit_status(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["check", "--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0
    for part in ("--jsrt DIR", "--folder DIR", "exit status", "JSRT_DIR"):
        assert part in text


def test_a_structure_has_its_class_and_an_unknown_one_is_named_with_those_there_are(few_phantoms):
    dataset = load("phantom", size=32, test_cases=2)
    assert [dataset.class_of(name) for name in dataset.structures] == list(dataset.classes)
    with pytest.raises(
        ValueError, match="there is no structure 'hart'; choose from heart, left clavicle"
    ):
        dataset.class_of("hart")
