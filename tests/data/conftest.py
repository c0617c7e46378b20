"""Datasets on disk for the tests, and a cache of their own."""

import numpy as np
import pytest
from radiographs import CASES, write, write_jsrt

from helpers import phantom
from helpers.data import PHANTOM_IDS, dataset, folders


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the project's cache, or finds the user's JSRT copy."""
    monkeypatch.setattr(dataset, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(folders, "DATA", tmp_path / "data")
    monkeypatch.delenv("JSRT_DIR", raising=False)


@pytest.fixture(scope="session")
def true_cases():
    """Phantoms at 256 by JSRT name: images in [−1, 1] and masks."""
    return {id: phantom.draw_case(case, 256) for id, case in CASES.items()}


@pytest.fixture
def jsrt(tmp_path, true_cases):
    return write_jsrt(tmp_path / "jsrt", true_cases)


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


@pytest.fixture
def few_phantoms(monkeypatch):
    monkeypatch.setattr(dataset, "PHANTOM_IDS", PHANTOM_IDS[:8])
