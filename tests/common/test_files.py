"""Whole files or none, digests, and tensors that are as they were written."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from helpers.common import files, paths

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_new_file_holds_exactly_what_was_written_and_missing_folders_are_made(tmp_path):
    with files.atomic_write(tmp_path / "a" / "b" / "file.bin") as file:
        file.write(b"\x00\r\n\xff")
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"\x00\r\n\xff"
    with files.atomic_write(str(tmp_path / "text.csv"), "w") as file:
        file.write("ε\n")
    assert (tmp_path / "text.csv").read_bytes() == "ε\n".encode()


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), files.atomic_write(path) as file:
            file.write(b"half of the new")
            raise error
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "file"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_the_old_file_is_seen_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from helpers.common.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=paths.ROOT)
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"


def test_of_concurrent_writers_one_wins_with_a_whole_file(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(16)]

    def write(content):
        with files.atomic_write(path) as file:
            file.write(content)
        return path.read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, contents))
    assert os.listdir(tmp_path) == ["file"]


def test_a_replaced_file_has_the_permissions_of_an_ordinary_new_file(tmp_path):
    with files.atomic_write(tmp_path / "ours") as file:
        file.write(b"x")
    (tmp_path / "ordinary").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), JSON, max_size=5), st.randoms(use_true_random=False))
def test_the_digest_of_json_does_not_depend_on_the_order_of_keys(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert files.digest_json(value) == files.digest_json({key: value[key] for key in keys})
    assert files.digest_json(value) == files.digest_json(json.loads(json.dumps(value)))


def test_the_digest_of_json_is_the_sha256_of_its_canonical_text():
    assert (
        files.digest_json({"b": (1, 2.5), "a": None})
        == hashlib.sha256(b'{"a":null,"b":[1,2.5]}').hexdigest()
    )


def test_different_values_have_different_digests():
    values = [1, "1", [1], {"a": 1}, {"a": 2}, {"b": 1}, None, [], {}, [[]], "", True]
    assert len({files.digest_json(value) for value in values}) == len(values)


def test_nan_has_no_digest():
    with pytest.raises(ValueError):
        files.digest_json({"a": float("nan")})


def test_the_digest_of_bytes_is_that_of_the_parts_in_a_row():
    assert files.digest_bytes(b"ab", b"", b"c") == hashlib.sha256(b"abc").hexdigest()


# --- tensors ----------------------------------------------------------------------------------------------------------

ABOUT = {"name": "ε", "numbers": [1, 2.5, None]}


def arrays():
    generator = np.random.default_rng(0)
    return {
        "noise": generator.integers(-127, 127, (2, 3, 4)).astype(np.int8),
        "scores": generator.random((5,), dtype=np.float32),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
        "number": np.array(7, np.int64),
    }


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


def test_tensors_and_their_description_come_back_as_they_were_written(tmp_path):
    files.write_tensors(tmp_path / "new" / "a.safetensors", arrays(), ABOUT)
    found, about = files.read_tensors(str(tmp_path / "new" / "a.safetensors"))
    assert about == ABOUT and found.keys() == arrays().keys()
    assert all(same(found[name], array) for name, array in arrays().items())
    assert os.listdir(tmp_path / "new") == ["a.safetensors"]


def test_tensors_may_lie_in_memory_in_any_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    files.write_tensors(tmp_path / "a", {"turned": array.T, "every second": array[:, ::2]}, {})
    found, _ = files.read_tensors(tmp_path / "a")
    assert same(found["turned"], array.T) and same(found["every second"], array[:, ::2])


def test_no_tensors_are_a_file_too(tmp_path):
    files.write_tensors(tmp_path / "a", {}, ABOUT)
    assert files.read_tensors(tmp_path / "a") == ({}, ABOUT)


def metadata_of(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


def test_the_digest_does_not_depend_on_the_order_of_names(tmp_path):
    files.write_tensors(tmp_path / "a", arrays(), {"x": 1, "y": 2})
    files.write_tensors(tmp_path / "b", dict(reversed(arrays().items())), {"y": 2, "x": 1})
    assert metadata_of(tmp_path / "a") == metadata_of(tmp_path / "b")


def test_a_file_that_is_not_there_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_tensors(tmp_path / "none")


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a"
    files.write_tensors(path, arrays(), ABOUT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            found, about = files.read_tensors(path)
        except files.DamagedFileError:
            continue
        # a space of the header's padding, or the digest's own name, says nothing
        assert about == ABOUT and all(same(found[name], a) for name, a in arrays().items())


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -40])
def test_a_file_that_was_cut_off_is_noticed(tmp_path, size):
    files.write_tensors(tmp_path / "a", arrays(), ABOUT)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:size])
    with pytest.raises(files.DamagedFileError):
        files.read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04 not ours"]
)
def test_a_file_of_something_else_is_damaged(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(files.DamagedFileError):
        files.read_tensors(tmp_path / "a")


def test_bytes_after_the_end_are_noticed(tmp_path):
    files.write_tensors(tmp_path / "a", arrays(), ABOUT)
    with open(tmp_path / "a", "ab") as file:
        file.write(b"\x00")
    with pytest.raises(files.DamagedFileError):
        files.read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    "what", ["none", "no digest", "wrong", "of other arrays", "of another text"]
)
def test_a_digest_that_is_not_that_of_the_content_is_refused(tmp_path, what):
    path = tmp_path / "a"
    files.write_tensors(path, arrays(), ABOUT)
    text, digest = json.dumps(ABOUT, sort_keys=True), "0" * 64
    if what.startswith("of"):
        other = arrays() | {"number": np.array(8, np.int64)} if "arrays" in what else arrays()
        about = ABOUT if "arrays" in what else {"name": "δ"}
        files.write_tensors(tmp_path / "b", other, about)
        digest = metadata_of(tmp_path / "b")["digest"]
    metadata = {"none": None, "no digest": {"about": text}}.get(
        what, {"about": text, "digest": digest}
    )
    save_file(arrays(), path, metadata)
    with pytest.raises(files.DamagedFileError, match="digest"):
        files.read_tensors(path)


def test_a_name_a_type_or_a_shape_is_part_of_the_digest(tmp_path):
    files.write_tensors(tmp_path / "a", {"x": np.zeros((2, 3), np.float32)}, {})
    metadata = metadata_of(tmp_path / "a")
    for other in (
        {"y": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((3, 2), np.float32)},
        {"x": np.zeros((2, 3), np.int32)},
    ):
        save_file(other, tmp_path / "a", metadata)
        with pytest.raises(files.DamagedFileError, match="digest"):
            files.read_tensors(tmp_path / "a")


def test_a_folder_in_the_place_of_a_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError):
        files.read_tensors(tmp_path)


def test_an_error_while_tensors_are_written_leaves_the_old_ones(tmp_path):
    files.write_tensors(tmp_path / "a", arrays(), ABOUT)
    with pytest.raises(TypeError):
        files.write_tensors(tmp_path / "a", {}, {"network": object()})
    assert files.read_tensors(tmp_path / "a")[1] == ABOUT and os.listdir(tmp_path) == ["a"]
