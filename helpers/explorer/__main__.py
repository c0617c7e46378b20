"""``python -m helpers.explorer`` draws figures/explorer.gif, the moving picture of the README."""

from io import BytesIO

from PIL import Image

from helpers.common.arguments import require
from helpers.common.files import atomic_write
from helpers.common.paths import FIGURES
from helpers.data import load
from helpers.explorer import explore
from helpers.training import train

LEVEL = 900  # time of a noise level [ms]; the last one stays three times as long


def main() -> None:
    """Draw the slider going through all noise levels, with the networks of `make study`."""
    data = load("phantom", size=128, test_cases=4)
    target = train(data, "target", depth=3, features=8, epochs=80)
    explorer = explore(data, target, epsilons=[0.01, 0.02, 0.04, 0.08, 0.16])
    pictures = []
    for epsilon in explorer.settings.levels:
        explorer.controls.epsilon.value = epsilon
        require(explorer.wait(600), "epsilon", epsilon, "its attack took longer than ten minutes")
        pictures.append(Image.open(BytesIO(explorer.view.still(explorer.shown))))
    explorer.close()
    times = [LEVEL] * (len(pictures) - 1) + [3 * LEVEL]
    options = {"append_images": pictures[1:], "duration": times, "loop": 0}
    with atomic_write(FIGURES / "explorer.gif") as file:
        pictures[0].save(file, "GIF", save_all=True, **options)


if __name__ == "__main__":
    main()
