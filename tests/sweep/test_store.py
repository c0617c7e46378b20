"""The store: what it gives back is what was put in, or nothing; also after damage, and with several at work."""

import base64
import json
import os
import shutil
import time
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import dataset, experiment

from helpers.common.files import digest_json, read_tensors, write_tensors
from helpers.sweep import Experiment, Result, Store
from helpers.sweep.store import FORMAT

DATA = dataset(3)
EXPERIMENT = experiment(DATA)


def example(seed=0, n=3, noise=True):
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
    assert store.read(EXPERIMENT) is None and store.keys() == []
    store.write(EXPERIMENT, example(), noise=noise)
    assert store.keys() == [EXPERIMENT.key]
    assert_same(Store(store.folder).read(EXPERIMENT), example(), noise)
    found, result = store.read_key(EXPERIMENT.key)
    assert (
        found == EXPERIMENT and result.predictions is None and result.iou["target"].shape == (3, 2)
    )


def test_an_experiment_without_noise_does_not_count_where_noise_is_asked_for(store):
    store.write(EXPERIMENT, example())
    assert store.read(EXPERIMENT, noise=True) is None and store.read(EXPERIMENT) is not None
    store.write(EXPERIMENT, example(), noise=True)
    assert_same(store.read(EXPERIMENT, noise=True), example(), True)


def test_a_result_with_noise_is_not_replaced_by_one_without(store):
    store.write(EXPERIMENT, example(), noise=True)
    store.write(EXPERIMENT, example())
    assert_same(store.read(EXPERIMENT, noise=True), example(), True)


def test_nothing_half_written_is_left_after_an_error(store):
    broken = replace(example(), about={"threads": object()})
    with pytest.raises(TypeError):
        store.write(EXPERIMENT, broken)
    store.write(EXPERIMENT, example())
    assert [path.name for path in store.path(EXPERIMENT.key).parent.iterdir()] == [
        f"{EXPERIMENT.key}.safetensors"
    ]


def test_a_file_is_small_where_maps_are_smooth(store):
    smooth = replace(example(), predictions=np.zeros((3, 256, 256), np.uint8))
    store.write(EXPERIMENT, smooth)
    assert store.path(EXPERIMENT.key).stat().st_size < 6000


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(store):
    """Read an experiment that is damaged: the file goes aside, with a warning, and can be written again."""
    before = store.path(EXPERIMENT.key).read_bytes()
    with pytest.warns(
        UserWarning, match="moved to damaged/.*, and a sweep computes it again"
    ) as caught:
        assert store.read(EXPERIMENT) is None
    assert (
        len(caught) == 1
        and EXPERIMENT.key[:12] in str(caught[0].message)
        and "\n" not in str(caught[0].message)
    )
    assert not store.path(EXPERIMENT.key).exists() and store.keys() == []
    kept = {path.read_bytes() for path in (store.folder / "damaged").iterdir()}
    assert before in kept  # set aside, not altered
    store.write(EXPERIMENT, example())
    assert_same(store.read(EXPERIMENT), example(), False)


@pytest.mark.parametrize("length", [0, 1, 7, 100, -1])
def test_a_truncated_file_is_set_aside(store, length):
    store.write(EXPERIMENT, example())
    content = store.path(EXPERIMENT.key).read_bytes()
    store.path(EXPERIMENT.key).write_bytes(content[:length])
    damaged(store)


def test_any_flipped_bit_is_noticed(tmp_path):
    store = Store(tmp_path)
    store.write(EXPERIMENT, example(), noise=True)
    path = store.path(EXPERIMENT.key)
    content = path.read_bytes()

    @given(st.integers(0, len(content) - 1), st.integers(0, 7))
    def flip(place, bit):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = store.read(EXPERIMENT, noise=True)
        if found is not None:  # a space of the header, or a name that stayed the same in effect
            assert_same(found, example(), True)
        else:
            assert not path.exists()

    flip()


def test_the_file_of_another_experiment_is_set_aside(store):
    other = replace(EXPERIMENT, seed=5)
    store.write(other, example(1))
    store.path(EXPERIMENT.key).parent.mkdir(exist_ok=True)
    shutil.copy(store.path(other.key), store.path(EXPERIMENT.key))
    with pytest.warns(UserWarning, match="file of another experiment"):
        assert store.read_key(EXPERIMENT.key) is None
    assert_same(store.read(other), example(1), False)
    assert store.read(EXPERIMENT) is None


def test_a_second_damaged_file_does_not_take_the_place_of_the_first(store):
    for text in (b"one", b"two", b"three"):
        store.write(EXPERIMENT, example())
        store.path(EXPERIMENT.key).write_bytes(text)
        damaged(store)
    assert sorted(path.read_bytes() for path in (store.folder / "damaged").iterdir()) == [
        b"one",
        b"three",
        b"two",
    ]


def test_a_store_of_a_newer_format_is_left_alone(store):
    (store.folder / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ValueError, match="update this software if it is newer") as caught:
        Store(store.folder)
    assert f'"format": {FORMAT + 1}' in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_that_cannot_be_moved_is_named(store, monkeypatch):
    store.write(EXPERIMENT, example())
    store.path(EXPERIMENT.key).write_bytes(b"")
    monkeypatch.setattr("helpers.sweep.store.Path.replace", refuse)
    with pytest.raises(PermissionError, match=f"Permission denied: .*{EXPERIMENT.key}"):
        store.read(EXPERIMENT)
    assert store.path(EXPERIMENT.key).exists()


def refuse(path, _):
    raise PermissionError(13, "Permission denied", str(path))


def about(store, **changed):
    """Write a sound file whose description has other entries."""
    store.write(EXPERIMENT, example())
    path = store.path(EXPERIMENT.key)
    arrays, found = read_tensors(path)
    write_tensors(path, arrays, found | changed)
    return path


@pytest.mark.parametrize(
    "values",
    [EXPERIMENT.values() | {"restarts": 3}, EXPERIMENT.values() | {"goal": None}, {"size": 3}],
)
def test_an_experiment_of_other_fields_is_left_alone(store, values):
    path, key = about(store, cell=values), digest_json(values)
    other = store.path(key)
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    with pytest.warns(UserWarning, match="another version of this software, and is left alone"):
        assert store.read_key(key) is None
    assert other.exists()


def test_an_experiment_that_cannot_be_read_is_not_one_that_is_missing(store):
    store.path(EXPERIMENT.key).mkdir(parents=True)
    with pytest.raises(OSError):
        store.read(EXPERIMENT)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "x"}', '{"format": null}'])
def test_a_damaged_mark_says_what_to_do(store, text):
    (store.folder / "format.json").write_text(text)
    with pytest.raises(ValueError, match="delete it if damaged"):
        Store(store.folder)


def test_a_folder_that_is_a_file_cannot_be_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file")


@pytest.mark.parametrize("years", [-30, 30])
def test_clocks_decide_nothing(store, years):
    store.write(EXPERIMENT, example())
    for path in store.folder.rglob("*.*"):
        os.utime(path, (time.time() + years * 3e7,) * 2)
    stamp = store.path(EXPERIMENT.key).stat().st_mtime_ns
    assert_same(store.read(EXPERIMENT), example(), False)
    assert store.path(EXPERIMENT.key).stat().st_mtime_ns == stamp


OLD = (  # a file of commit 7754d39, compressed
    "c-oazL2lGA6ip?hN~}1-$ZXS*<4I;FBO#!RiVLvnjDq8QXRK!ID0b+SYSa_-4%`HmEZFxL2(dy4fnz5_MJZCFEaGRs"
    "|KERk$@@ovyDm|dZNSii8k%Kjafu31f;MP@BAm_>GMUmOr4$o9P10zd(}-Y_Bs2!jSPnVoIKg?r*^DyGX+fq*p7IDL"
    "ISLWYRoj)iT>8f)T8!*7Q=5%&izS-PlDL?pOBC9LSvNon-R(rX4q#AKJ&77a*_kKRW#I`Pgu=rTjE8e!ToLSQR8(tl"
    ">(eM4k(C1*$_*5ml7CS<BQ*5ljJohB)LK;jEFR;ygGxmQX*tzG_l%}BYtK0ove(s0Lz@x|^r{<bgmOcUokG2)HTa`z"
    "piQqt+gi-DO~125&Jp45Ikh9;C33S=O84D`YCX4ZfC(*z>3BUMeQPLt)ar(<0crL|{Sgdrp}9C;L)ZI$DH^=-eg^T*"
    "?K*F?Y8wW7509dwcqn9@bdzJxGOEs~lOWrw>LA;C5biU;RkQI&BHxuM=}o|6lI;D{{ZLW~4a3W}w-pqxdQS?$tn+f8"
    "1-Iv#oYO`MSq|PxH7Xlg2xre~XXov_9sAelz7lg$gH86ygxH)r0cc@M+H|=HWr}kfBW*z(&Q}A!OUDE0^Dvrr{7Ojv"
    "AL?CVGz|%MOq-7fF$oSy=Zp99Hud%V7Lz3ZpvGaGcGO#L-&-J>+$|8N;gqa)yOF<w;MH*ue7p*R&o6`E)A8e*r_bzf"
    ">%;co$JcK+U!Gt6`dPjya!!FA2Kn~z`}Tm@^^21rxDKBD28)D$X8"
)


def test_a_file_of_the_first_release_is_still_read(store):
    experiment = Experiment("toy", "toy-1-4", 4, ("c0",), "net", "net", (1, 2))
    path = store.path(experiment.key)
    path.parent.mkdir()
    path.write_bytes(zlib.decompress(base64.b85decode("".join(OLD))))
    result = store.read(experiment, noise=True)
    assert np.array_equal(result.iou["target"], [[50, np.nan]], equal_nan=True)
    assert np.array_equal(result.iou["truth"], [[25.5, 100]])
    assert (result.linf, result.loss) == (np.float32(0.04), np.float32(-0.5))
    assert np.array_equal(result.predictions, np.arange(16).reshape(1, 4, 4) % 3)
    assert np.array_equal(result.noise, np.arange(16).reshape(1, 1, 4, 4) - 8)
    assert (result.warnings, result.seconds) == (("no gradient",), 0.25)
    assert result.about == {"commit": "7754d39", "threads": 1}
    assert store.read_key(experiment.key)[0] == experiment
