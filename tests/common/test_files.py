"""Whole files or none: replacing, digests and provenance."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.common import files, paths, progress, provenance

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


def test_outside_a_clone_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"


def test_the_commit_gets_a_plus_when_code_or_notebooks_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    git = [
        "git",
        "-C",
        tmp_path,
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "commit.gpgsign=false",
    ]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except OSError:
        pytest.skip("git is not installed")
    code = tmp_path / "helpers" / "attack.py"
    for path in (code, tmp_path / "README.md"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first", "--no-verify"], check=True)
    clean = provenance.commit()
    assert len(clean) == 10 and int(clean, 16) >= 0
    (tmp_path / "README.md").write_text("2")
    assert provenance.commit() == clean
    code.write_text("2")
    assert provenance.commit() == clean + "+"


def test_versions_name_python_and_the_numerical_packages():
    assert set(provenance.versions()) == {"python", "torch", "numpy", "scipy"}
    assert provenance.versions()["python"].split(".")[:2] == [
        str(part) for part in sys.version_info[:2]
    ]


@pytest.mark.parametrize("profile", ["", ".", "..", "../elsewhere", "/elsewhere", "a/b"])
def test_results_stay_in_the_run_folder(profile):
    assert paths.run_folder("quick") == paths.RUNS / "quick"
    with pytest.raises(ValueError, match="give the name of a folder"):
        paths.run_folder(profile)


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (0.2, "0:01"), (65, "1:05"), (7200, "2:00:00")]
)
def test_a_time_is_written_as_on_a_clock(seconds, text):
    assert progress.format_duration(seconds) == text
