"""``python -m helpers.explorer`` draws figures/explorer.gif, the moving picture of the README."""

import sys
from pathlib import Path

from PIL import Image

from helpers.common.files import atomic_write
from helpers.common.paths import FIGURES
from helpers.data import load
from helpers.explorer import Explorer, explore
from helpers.training import train


def animate(explorer: Explorer, path: str | Path, *, hold: int = 900) -> None:
    """Write a GIF of the slider going through all noise levels, computing what is missing.

    Args:
        explorer: the one whose pictures are shown.
        path: the file.
        hold: time of a noise level [ms]; the last stays three times as long.
    """
    sheets = []
    for epsilon in explorer.settings.levels:
        explorer.controls.epsilon.value = epsilon
        if not explorer.wait(600):
            raise TimeoutError(f"the attack at epsilon {epsilon:g} took longer than ten minutes")
        sheets.append(explorer.picture().quantize(64, dither=Image.Dither.NONE))
    first, *others = sheets
    durations = [hold] * len(others) + [3 * hold]
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, loop=0, duration=durations)


def main() -> int:
    """Draw the picture with the networks of `make study`; returns the exit code."""
    data = load("phantom", size=128, test_cases=4)
    target = train(data, "target", depth=3, features=8, epochs=80)
    explorer = explore(data, target, epsilons=[0.01, 0.02, 0.04, 0.08, 0.16])
    animate(explorer, FIGURES / "explorer.gif")
    explorer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
