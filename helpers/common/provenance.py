"""Where a number comes from: commit, versions, data and networks."""

import platform
import subprocess
from importlib.metadata import version

from helpers.common.paths import ROOT


def commit():
    """The project's git commit, with "+" if `helpers` or notebooks differ from it; "unknown" outside a git clone."""
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", ROOT, *args], capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("rev-parse", "--short=10", "HEAD") + (
            "+" if run("status", "--porcelain", "--", "helpers", "notebooks") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    """Versions of what decides a number: Python and the numerical packages, as a dict of strings."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "numpy", "scipy")
    }


def provenance(dataset, networks, *, steps=None, seed=0):
    """Where a table or figure comes from: dataset, size, depth, weights, steps, seed, commit, as a dict.

    Args:
        dataset: a `helpers.data.Dataset`.
        networks: the `helpers.training.Trained` that took part.
        steps: of the attack, if there is one.
        seed: of the run.
    """
    depths = sorted({trained.recipe.depth for trained in networks})
    weights = "/".join(trained.digest[:12] for trained in networks)
    return {
        "dataset": dataset.name,
        "size": dataset.size,
        "depth": "/".join(map(str, depths)),
        "weights": weights,
        "steps": "" if steps is None else steps,
        "seed": seed,
        "commit": commit(),
    }
