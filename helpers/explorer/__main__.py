"""``python -m helpers.explorer`` draws figures/explorer.gif, the moving picture of the README."""

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
        picture = explorer.view.picture(explorer.shown)
        pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    explorer.close()
    first, *others = pictures
    times = [LEVEL] * len(others) + [3 * LEVEL]
    with atomic_write(FIGURES / "explorer.gif") as file:
        first.save(
            file,
            "GIF",
            save_all=True,
            append_images=others,
            duration=times,
            loop=0,
            optimize=True,
        )


if __name__ == "__main__":
    main()
