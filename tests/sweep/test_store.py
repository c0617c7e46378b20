"""The store: what it gives back is what was put in, or nothing; also after damage, and with several at work."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from toys import cell, dataset

from helpers.common.files import digest_json
from helpers.sweep import Result, Store
from helpers.sweep.store import FORMAT, _digest

DATA = dataset(3)
CELL = cell(DATA)


def outcome(seed=0, n=3, noise=True):
    draw = np.random.default_rng(seed)
    scores = {name: draw.random((n, 2), dtype=np.float32) * 100 for name in ("target", "truth")}
    scores["truth"][0, 1] = np.nan
    steps = draw.integers(-127, 128, (n, 1, 16, 16)).astype(np.int8)
    return Result(
        scores,
        draw.random(n, dtype=np.float32),
        draw.random(n, dtype=np.float32),
        ("", "no gradient; …", "")[:n],
        draw.integers(0, 3, (n, 16, 16)).astype(np.uint8),
        steps if noise else None,
        0.25,
        {"commit": "abc+", "threads": 1},
    )


def assert_same(found, expected, noise):
    for name in ("target", "truth"):
        assert found.iou[name].tobytes() == expected.iou[name].tobytes()
    for name in ("linf", "loss", "predictions"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    assert np.array_equal(found.noise, expected.noise) if noise else found.noise is None
    assert (found.warnings, found.seconds, found.about) == (
        expected.warnings,
        expected.seconds,
        expected.about,
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "a" / "store")


@pytest.mark.parametrize("noise", [False, True])
def test_what_is_read_is_what_was_written(store, noise):
    assert store.read(CELL) is None and store.keys() == []
    store.write(CELL, outcome(), noise=noise)
    assert store.keys() == [CELL.key]
    assert_same(Store(store.folder).read(CELL), outcome(), noise)
    found, result = store.read_key(CELL.key)
    assert found == CELL and result.predictions is None and result.iou["target"].shape == (3, 2)


def test_a_cell_without_noise_does_not_count_where_noise_is_asked_for(store):
    store.write(CELL, outcome())
    assert store.read(CELL, noise=True) is None and store.read(CELL) is not None
    store.write(CELL, outcome(), noise=True)
    assert_same(store.read(CELL, noise=True), outcome(), True)


def test_nothing_half_written_is_left_after_an_error(store):
    broken = replace(outcome(), about={"threads": object()})
    with pytest.raises(TypeError):
        store.write(CELL, broken)
    store.write(CELL, outcome())
    assert [path.name for path in store.path(CELL.key).parent.iterdir()] == [
        f"{CELL.key}.safetensors"
    ]


def test_a_file_is_small_where_maps_are_smooth(store):
    smooth = replace(outcome(), predictions=np.zeros((3, 256, 256), np.uint8))
    store.write(CELL, smooth)
    assert store.path(CELL.key).stat().st_size < 6000


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(store):
    """Read a cell that is damaged: the file goes aside, with a warning, and can be written again."""
    before = store.path(CELL.key).read_bytes()
    with pytest.warns(
        UserWarning, match="moved to damaged/.*, and a sweep computes it again"
    ) as caught:
        assert store.read(CELL) is None
    assert (
        len(caught) == 1
        and CELL.key[:12] in str(caught[0].message)
        and "\n" not in str(caught[0].message)
    )
    assert not store.path(CELL.key).exists() and store.keys() == []
    kept = {path.read_bytes() for path in (store.folder / "damaged").iterdir()}
    assert before in kept  # set aside, not altered
    store.write(CELL, outcome())
    assert_same(store.read(CELL), outcome(), False)


@pytest.mark.parametrize("length", [0, 1, 7, 100, -1])
def test_a_truncated_file_is_set_aside(store, length):
    store.write(CELL, outcome())
    content = store.path(CELL.key).read_bytes()
    store.path(CELL.key).write_bytes(content[:length])
    damaged(store)


def test_any_flipped_bit_is_noticed(tmp_path):
    store = Store(tmp_path)
    store.write(CELL, outcome(), noise=True)
    path = store.path(CELL.key)
    content = path.read_bytes()

    @given(st.integers(0, len(content) - 1), st.integers(0, 7))
    def flip(place, bit):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = store.read(CELL, noise=True)
        if found is not None:  # a space of the header, or a name that stayed the same in effect
            assert_same(found, outcome(), True)
        else:
            assert not path.exists()

    flip()


def test_the_file_of_another_cell_is_set_aside(store):
    other = replace(CELL, seed=5)
    store.write(other, outcome(1))
    store.path(CELL.key).parent.mkdir(exist_ok=True)
    shutil.copy(store.path(other.key), store.path(CELL.key))
    with pytest.warns(UserWarning, match="file of another cell"):
        assert store.read_key(CELL.key) == (None, None)
    assert_same(store.read(other), outcome(1), False)
    assert store.read(CELL) is None


def test_a_second_damaged_file_does_not_take_the_place_of_the_first(store):
    for text in (b"one", b"two", b"three"):
        store.write(CELL, outcome())
        store.path(CELL.key).write_bytes(text)
        damaged(store)
    assert sorted(path.read_bytes() for path in (store.folder / "damaged").iterdir()) == [
        b"one",
        b"three",
        b"two",
    ]


def test_a_store_of_a_newer_format_is_left_alone(store):
    (store.folder / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ValueError) as caught:
        Store(store.folder)
    assert f"format {FORMAT + 1}, newer than {FORMAT}" in str(caught.value) and "\n" not in str(
        caught.value
    )


def test_a_damaged_file_that_cannot_be_moved_is_told_as_that(store, monkeypatch):
    store.write(CELL, outcome())
    store.path(CELL.key).write_bytes(b"")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("helpers.sweep.store.os.replace", refuse)
    with pytest.warns(
        UserWarning, match="cannot be moved away .Permission denied.; a sweep computes it again"
    ):
        assert store.read(CELL) is None


def test_a_cell_that_another_process_has_mended_meanwhile_is_used_and_stays(store, monkeypatch):
    store.write(CELL, outcome())
    store.path(CELL.key).write_bytes(b"damaged")
    aside = Store._set_aside

    def late(self, *words):
        monkeypatch.undo()
        Store(store.folder).write(CELL, outcome(1))
        return aside(self, *words)

    monkeypatch.setattr(Store, "_set_aside", late)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(store.read(CELL), outcome(1), False)
    assert store.keys() == [CELL.key] and not list((store.folder / "damaged").iterdir())


def test_a_cell_that_changes_each_time_that_it_is_read_is_given_up(store, monkeypatch):
    store.write(CELL, outcome())
    store.path(CELL.key).write_bytes(b"damaged")
    stamps = iter(range(99))
    monkeypatch.setattr("helpers.sweep.store._stamp", lambda file: next(stamps))
    with pytest.warns(UserWarning, match="changes while it is read"):
        assert store.read(CELL) is None


def about(store, **changed):
    """Write a sound file whose description has other entries."""
    store.write(CELL, outcome())
    path = store.path(CELL.key)
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        text = json.dumps(json.loads(file.metadata()["about"]) | changed)
    path.write_bytes(save(arrays, {"about": text, "digest": _digest(arrays, text)}))
    return path


def test_a_file_of_a_newer_format_is_left_alone(store):
    path = about(store, format=FORMAT + 1)
    with pytest.raises(
        ValueError, match=f"{path.name} has format {FORMAT + 1}, newer than {FORMAT}: update"
    ):
        store.read(CELL)
    assert path.exists() and not (store.folder / "damaged").exists()


@pytest.mark.parametrize(
    "values", [CELL.values() | {"restarts": 3}, CELL.values() | {"goal": None}, {"size": 3}]
)
def test_a_cell_of_other_fields_is_left_alone(store, values):
    path, key = about(store, cell=values), digest_json(values)
    other = store.path(key)
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    with pytest.warns(UserWarning, match="another version of this software .* is left alone"):
        assert store.read_key(key) == (None, None)
    assert other.exists()


def test_a_cell_that_cannot_be_read_is_not_one_that_is_missing(store):
    store.path(CELL.key).mkdir(parents=True)
    with pytest.raises(
        ValueError, match=f"{CELL.key}.safetensors cannot be read .*: mend that, or move it away"
    ):
        store.read(CELL)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "x"}', '{"format": null}'])
def test_a_damaged_mark_says_what_to_do(store, text):
    (store.folder / "format.json").write_text(text)
    with pytest.raises(ValueError, match="damaged: delete it"):
        Store(store.folder)


def test_a_folder_that_is_a_file_cannot_be_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be used .*: name another folder"):
        Store(tmp_path / "file")


@pytest.mark.parametrize("years", [-30, 30])
def test_clocks_decide_nothing(store, years):
    store.write(CELL, outcome())
    with store.claimed([replace(CELL, seed=1).key]):
        for path in store.folder.rglob("*.*"):
            os.utime(path, (time.time() + years * 3e7,) * 2)
        stamp = store.path(CELL.key).stat().st_mtime_ns
        assert_same(store.read(CELL), outcome(), False)
        assert store.path(CELL.key).stat().st_mtime_ns == stamp
        with Store(store.folder).claimed([replace(CELL, seed=1).key]) as mine:
            assert mine == []


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_keeps_others_away_until_it_ends(store):
    one, two = CELL.key, replace(CELL, seed=1).key
    other = Store(store.folder)
    with store.claimed([one]) as mine:
        assert mine == [one]
        with other.claimed([one, two]) as theirs:
            assert theirs == [two]
    with other.claimed([one]) as theirs:
        assert theirs == [one]


def test_the_claim_of_a_finished_cell_leaves_no_file(store):
    with store.claimed([CELL.key]):
        store.write(CELL, outcome())
    assert not list((store.folder / "claims").iterdir())


HOLDER = """
import sys, time
from helpers.store import Store
with Store(sys.argv[1]).claimed([sys.argv[2]]) as mine:
    print(len(mine), flush=True)
    time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_at_once(store):
    words = [sys.executable, "-c", HOLDER, store.folder, CELL.key]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        with store.claimed([CELL.key]) as mine:
            assert mine == []
        process.kill()
        process.wait()
    with store.claimed([CELL.key]) as mine:
        assert mine == [CELL.key]
