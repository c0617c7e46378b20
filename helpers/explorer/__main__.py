"""``python -m helpers.explorer`` draws figures/explorer.gif, the moving picture of the README."""

import sys

from PIL import Image

from helpers.common.files import atomic_write
from helpers.common.paths import FIGURES
from helpers.data import load
from helpers.explorer import explore
from helpers.training import train

LEVEL = 900  # time of a noise level [ms]; the last one stays three times as long


def main() -> int:
    """Draw the slider going through all noise levels, with the networks of `make study`.

    Returns:
        The exit code.
    """
    data = load("phantom", size=128, test_cases=4)
    target = train(data, "target", depth=3, features=8, epochs=80)
    explorer = explore(data, target, epsilons=[0.01, 0.02, 0.04, 0.08, 0.16])
    pictures = []
    for epsilon in explorer.settings.levels:
        explorer.controls.epsilon.value = epsilon
        if not explorer.wait(600):
            raise TimeoutError(f"the attack at epsilon {epsilon:g} took longer than ten minutes")
        pictures.append(explorer.picture().quantize(64, dither=Image.Dither.NONE))
    explorer.close()
    first, *others = pictures
    frames = {"append_images": others, "duration": [LEVEL] * len(others) + [3 * LEVEL]}
    with atomic_write(FIGURES / "explorer.gif") as file:
        first.save(file, "GIF", save_all=True, loop=0, optimize=True, **frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
