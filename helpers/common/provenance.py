"""Where a number comes from: dataset, networks, settings, versions, and the commit that made it."""

import platform
import subprocess
from importlib.metadata import version
from typing import Any

from helpers.common.paths import ROOT

ORIGIN = ("torch", "device", "commit")


def commit() -> str:
    """The git commit, with "+" if `helpers` or notebooks differ from it.

    "unknown" outside a git clone, and where the package lies in somebody else's.
    """
    try:
        _git("ls-files", "--error-unmatch", "helpers/common/provenance.py")
        changed = _git("status", "--porcelain", "--", "helpers", "notebooks")
        return _git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words):
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict:
    """Versions of what decides a number: Python and the numerical packages."""
    python = {"python": platform.python_version()}
    return python | {name: version(name) for name in ("torch", "numpy", "scipy")}


def provenance(
    dataset: Any,
    networks: Any = (),
    *,
    steps: Any = "",
    seed: int = 0,
    precision: str = "",
    device: Any = "cpu",
) -> dict:
    """Where a table or figure comes from, made by the running code here.

    Args:
        dataset: a `data.Dataset`.
        networks: the `training.Trained` that took part, the attacked one first.
        steps: of the attack, if there is one.
        seed: of the run.
        precision: of what was computed, "bf16" or "fp32".
        device: where it was computed.
    """
    depths = dict.fromkeys(trained.recipe.depth for trained in networks if trained.recipe)
    return {
        "dataset": dataset.name,
        "size": dataset.size,
        "depth": "/".join(map(str, depths)),
        "weights": "/".join(trained.digest[:12] for trained in networks),
        "steps": steps,
        "seed": seed,
        "precision": precision,
        "torch": version("torch"),
        "device": str(device),
        "commit": commit(),
    }


def origin_of(results: Any) -> dict:
    """Torch, device and commit of stored results: what replaces those of the running code.

    Args:
        results: a table of `sweep.run`; several values are joined with "/".
    """
    return {name: "/".join(sorted(results[name].astype(str).unique())) for name in ORIGIN}
