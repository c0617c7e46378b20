"""Figures from tiny arrays: what is drawn, on which scale, in which colour, and how it is written."""

import ast
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from helpers import plots
from helpers.common.paths import ROOT
from helpers.common.provenance import versions
from helpers.labels import OUTSIDE, UNLABELLED

pytestmark = pytest.mark.filterwarnings("error")
STRUCTURES = ("heart", "left lung", "right lung")


@pytest.fixture(autouse=True)
def settings_stay_as_they_are():
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before


def make_maps(n=2, size=12):
    """Label maps in which each structure is a rectangle, a column narrower in every second case."""
    maps = torch.zeros(n, size, size, dtype=torch.int64)
    for k in range(n):
        for c, (rows, columns) in enumerate(
            [((2, 5), (3, 7)), ((6, 9), (1, 4)), ((6, 10), (6, 11))], start=1
        ):
            maps[k, slice(*rows), slice(columns[0], columns[1] - k % 2)] = c
    return maps


def make_images(n=2, size=12, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def outlines(ax):
    """Colours of the contours of an axis, in the order of drawing."""
    return [to_hex(part.get_edgecolor()[0]).upper() for part in ax.collections]


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def check_image(ax, image):
    (shown,) = ax.images
    np.testing.assert_array_equal(shown.get_array(), image)
    assert shown.get_clim() == (-1, 1) and shown.get_cmap().name == "gray"


def check_noise(ax, noise, epsilon):
    (shown,) = ax.images
    np.testing.assert_array_equal(shown.get_array(), noise)
    assert shown.get_clim() == (-epsilon, epsilon)


def legend_of(figure):
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(
        zip(texts, (to_hex(line.get_color()).upper() for line in legend.get_lines()), strict=True)
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_grid_has_named_rows_and_columns_of_axes_without_ticks():
    figure, axes = plots.image_grid("ab", "xyz")
    assert axes.shape == (2, 3) and len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes] == ["x", "y", "z", "", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes] == ["a", "", "", "b", "", ""]
    for ax in axes.flat:
        assert (
            not len(ax.get_xticks())
            and not len(ax.get_yticks())
            and not ax.spines["left"].get_visible()
        )


def test_a_radiograph_is_grey_from_minus_1_to_1_whatever_it_holds():
    for image in (np.zeros((4, 4)), torch.full((4, 4), 0.3), make_images()[0, 0]):
        _, ax = plt.subplots()
        plots.show_image(ax, image)
        check_image(ax, np.asarray(image))


@pytest.mark.parametrize("epsilon", [0.01, 0.16])
def test_noise_is_white_at_0_and_on_the_same_scale_up_and_down(epsilon):
    _, ax = plt.subplots()
    noise = np.array([[0.0, epsilon], [-epsilon, epsilon / 4]])
    plots.show_noise(ax, noise, epsilon=epsilon)
    check_noise(ax, noise, epsilon)
    zero, up, down, _ = ax.images[0].to_rgba(noise).reshape(4, 4)[[0, 1, 2, 3]]
    assert min(zero[:3]) > 0.95
    assert up[0] > up[2] and down[2] > down[0]  # red above, blue below


def test_each_structure_has_its_own_colour_and_grey_is_none_of_them():
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) >= 5
    assert plots.REFERENCE not in plots.COLOURS


def test_contours_are_drawn_only_for_classes_that_are_there_in_their_own_colour():
    labels = make_maps()[0]
    labels[labels == 2] = 0
    _, ax = plt.subplots()
    plots.show_contours(ax, labels)
    assert outlines(ax) == [plots.COLOURS[0], plots.COLOURS[2]]
    _, ax = plt.subplots()
    plots.show_contours(ax, labels, reference=True)
    assert outlines(ax) == [plots.REFERENCE] * 2
    for c in (0, 1):  # nothing but background, and nothing but one structure
        _, ax = plt.subplots()
        plots.show_contours(ax, torch.full((12, 12), c))
        assert not ax.collections


def test_no_outline_is_drawn_of_what_has_no_label():
    labels = make_maps()[0]
    labels[:, :3], labels[:, 9:] = OUTSIDE, UNLABELLED
    _, ax = plt.subplots()
    plots.show_contours(ax, labels)
    assert set(outlines(ax)) <= set(plots.COLOURS[:3])
    _, bx = plt.subplots()
    plots.show_contours(bx, labels.where((labels != OUTSIDE) & (labels != UNLABELLED), 0))
    assert outlines(ax) == outlines(bx)


def test_label_maps_of_small_integers_have_the_same_outlines():
    _, ax = plt.subplots()
    plots.show_contours(ax, make_maps()[0].to(torch.uint8))
    assert outlines(ax) == list(plots.COLOURS[:3])
    heights = [part.get_zorder() for part in ax.collections]
    assert heights == sorted(heights, reverse=True)  # where two meet, the earlier class is seen


def test_a_contour_runs_between_the_pixels_and_is_closed_at_the_border_of_the_image():
    labels = np.zeros((6, 8), dtype=int)
    labels[0:3, 5:8] = 1  # in the corner
    _, ax = plt.subplots()
    plots.show_contours(ax, labels)
    (part,) = ax.collections
    (path,) = part.get_paths()
    x, y = path.vertices.T
    assert (x.min(), x.max(), y.min(), y.max()) == (4.5, 7.5, -0.5, 2.5)
    np.testing.assert_array_equal(path.vertices[0], path.vertices[-1])
    assert ax.get_xlim() == (-0.5, 7.5) and ax.get_ylim() == (5.5, -0.5)


def test_the_legend_names_each_structure_with_the_colour_of_its_contour():
    figure, _ = plots.image_grid("a", "x")
    plots.add_legend(figure, STRUCTURES, reference="truth")
    expected = dict(zip(STRUCTURES, plots.COLOURS, strict=False))
    assert legend_of(figure) == expected | {"truth": plots.REFERENCE}


# --- pictures of cases ------------------------------------------------------------------------------------------------


def test_a_contact_sheet_shows_each_case_once_and_hides_what_is_left():
    images, labels = make_images(7), make_maps(7)
    figure = plots.plot_cases(images, labels, structures=STRUCTURES, titles="abcdefg")
    assert len(figure.axes) == 12 and len(visible(figure)) == 7
    for ax, image, title in zip(visible(figure), images, "abcdefg", strict=True):
        check_image(ax, image[0])
        assert ax.get_title() == title and outlines(ax) == list(plots.COLOURS[:3])
    assert list(legend_of(figure)) == list(STRUCTURES)


def test_a_contact_sheet_without_labels_has_no_outlines_and_no_legend():
    figure = plots.plot_cases(make_images(2), None, structures=STRUCTURES, titles="ab")
    assert len(figure.axes) == 2 and not figure.legends
    assert all(not ax.collections for ax in figure.axes)


def test_predictions_are_in_colour_over_the_truth_in_grey():
    images, maps = make_images(2)[:, 0], make_maps(2)
    predictions = torch.where(maps == 1, 0, maps)
    figure = plots.plot_predictions(images, predictions, maps, structures=STRUCTURES, titles="ab")
    assert len(figure.axes) == 2
    for ax, image in zip(figure.axes, images, strict=True):
        check_image(ax, image)
        assert outlines(ax) == [plots.REFERENCE] * 3 + list(plots.COLOURS[1:3])
    assert "truth" in legend_of(figure)


def test_an_attack_is_shown_as_what_was_seen_before_noise_attacked_image_prediction_and_target():
    images, noise, maps = (
        make_images(2)[:, 0] * 0.5,
        make_images(2, seed=1)[:, 0] * 0.04,
        make_maps(2),
    )
    goal = torch.where(maps == 3, 0, maps)
    before = torch.where(maps == 1, 0, maps)
    attacks = {
        name: (images[k], images[k] + noise[k], before[k], maps[k], goal[1 - k])
        for k, name in enumerate(("one", "two"))
    }
    figure = plots.plot_attacks(attacks, structures=STRUCTURES, epsilon=0.04, target_name="wanted")
    assert len(figure.axes) == 10
    for k, row in enumerate((figure.axes[:5], figure.axes[5:])):
        clean, added, attacked, prediction, target = row
        check_image(clean, images[k])
        check_noise(added, images[k] + noise[k] - images[k], 0.04)
        check_image(attacked, images[k] + noise[k])
        check_image(prediction, images[k] + noise[k])
        check_image(target, images[k])
        assert outlines(clean) == list(plots.COLOURS[1:3])
        assert [outlines(ax) for ax in row[1:]] == [
            [],
            [],
            list(plots.COLOURS[:3]),
            list(plots.COLOURS[:2]),
        ]
        assert clean.get_ylabel() == ("one", "two")[k]
    titles = [ax.get_title() for ax in figure.axes[:5]]
    assert titles == ["no attack", "noise × 25", "attacked, ε = 0.04", "prediction", "wanted"]
    assert not any(ax.get_title() for ax in figure.axes[5:])


@pytest.mark.parametrize("as_dict", [True, False])
def test_a_grid_of_attacks_shows_each_at_its_row_and_column(as_dict):
    rows, columns = [("small", "white-box"), ("large", "black-box")], [0.01, 0.04, 0.16]
    keys = [(*row, column) for row in rows for column in columns]
    crafted = {key: make_images(2, seed=k) for k, key in enumerate(keys)}
    maps, empty = make_maps(2), torch.zeros(2, 12, 12, dtype=torch.int64)
    predictions = {key: torch.where(maps == 1 + k % 3, 0, maps) for k, key in enumerate(keys)}
    references = {key: maps if key[0] == "small" else empty for key in keys} if as_dict else maps
    figure = plots.plot_grid(
        crafted,
        predictions,
        references,
        case=1,
        rows=rows,
        columns={column: f"ε = {column:g}" for column in columns},
        structures=STRUCTURES,
        reference_name="target",
    )
    assert len(figure.axes) == 6
    for k, (key, ax) in enumerate(zip(keys, figure.axes, strict=True)):
        check_image(ax, crafted[key][1, 0])
        grey = [plots.REFERENCE] * (0 if as_dict and key[0] == "large" else 3)
        assert outlines(ax) == grey + [c for c in plots.COLOURS[:3] if c != plots.COLOURS[k % 3]]
        assert ax.get_title() == (f"ε = {key[-1]:g}" if k < 3 else "")
        assert ax.get_ylabel() == (" · ".join(key[:2]) if k % 3 == 0 else "")
    assert legend_of(figure)["target"] == plots.REFERENCE


def test_settings_show_every_noise_on_one_scale_above_its_attacked_image():
    image, maps, names = make_images(1)[0, 0], make_maps(1)[0], ("all", "bounding box")
    made = {name: image + 0.04 * make_images(1, seed=k + 1)[0, 0] for k, name in enumerate(names)}
    clean = torch.where(maps == 2, 0, maps)
    figure = plots.plot_settings(
        image, made, clean, dict.fromkeys(names, maps), maps, structures=STRUCTURES, epsilon=0.04
    )
    assert len(figure.axes) == 6
    for top, bottom, (name, picture) in zip(
        figure.axes[:3], figure.axes[3:], [("no attack", image), *made.items()], strict=True
    ):
        check_noise(top, picture - image, 0.04)
        check_image(bottom, picture)
        assert top.get_title() == name and outlines(bottom)[:3] == [plots.REFERENCE] * 3
    assert outlines(figure.axes[3])[3:] == [plots.COLOURS[0], plots.COLOURS[2]]
    assert outlines(figure.axes[4])[3:] == list(plots.COLOURS[:3])


def test_display_windows_are_those_of_the_evaluation():
    image, adv_image = make_images(2)[:, 0]
    figure = plots.plot_windows(image, adv_image, centre=-0.2, widths=[2.0, 1.0, 0.5])
    assert len(figure.axes) == 6
    for k, ax in enumerate(figure.axes):
        (shown,) = ax.images
        np.testing.assert_array_equal(shown.get_array(), (image, adv_image)[k // 3])
        assert shown.get_clim() == pytest.approx([(-1, 1), (-0.7, 0.3), (-0.45, 0.05)][k % 3])


def test_an_elastic_field_stands_between_before_and_after():
    images, maps = make_images(2, size=32)[:, 0], make_maps(2, size=32)
    field = torch.stack([torch.full((32, 32), 3.0), torch.full((32, 32), 4.0)])
    figure = plots.plot_field(images[0], maps[0], images[1], maps[1], field, structures=STRUCTURES)
    assert len(figure.axes) == 4  # the last one is the colour bar
    check_image(figure.axes[0], images[0])
    check_image(figure.axes[2], images[1])
    assert (figure.axes[1].images[0].get_array() == 5).all()  # its length
    arrows = figure.axes[1].collections[0]
    assert (arrows.U == 3).all() and (arrows.V == 4).all()


def test_missed_pixels_are_percent_of_the_targets_that_hold_them_where_half_of_the_targets_do():
    share, held = np.zeros((8, 8)), np.zeros((8, 8))
    held[1:5, 1:5], held[5, 1:5], held[6] = 1, 0.5, 0.4
    share[2, 2], share[5, 1], share[6, 1] = 0.25, 0.25, 0.4
    figure = plots.plot_missed({"heart": (share, held), "left lung": (share, held)}, title="× 1.8")
    assert len(figure.axes) == 3  # the last one is the colour bar
    expected = np.where(held >= 0.5, 0.0, np.nan)
    expected[2, 2], expected[5, 1] = 25, 50
    for ax, name in zip(figure.axes, ("heart", "left lung"), strict=False):
        (shown,) = ax.images
        assert np.array_equal(
            np.ma.filled(shown.get_array(), np.nan), expected[1:6, 1:5], equal_nan=True
        )
        assert shown.get_clim() == (0, 100) and ax.get_title() == f"{name} × 1.8"


def test_nothing_missed_where_no_target_is_held_by_half_can_be_drawn():
    figure = plots.plot_missed({"heart": (np.zeros((8, 8)), np.zeros((8, 8)))}, title="× 1.8")
    figure.canvas.draw()
    (shown,) = figure.axes[0].images
    assert (
        shown.get_array().shape == (8, 8)
        and np.isnan(np.ma.filled(shown.get_array(), np.nan)).all()
    )


# --- files ------------------------------------------------------------------------------------------------------------

PROVENANCE = {"dataset": "phantom", "size": 64, "note": "ε = 0.04"}


def small_figure():
    figure, ax = plt.subplots(figsize=(1.5, 1))
    ax.plot([0, 1])
    return figure


def test_a_saved_figure_is_a_png_that_says_where_it_comes_from(tmp_path):
    figure = small_figure()
    plots.save_figure(figure, tmp_path / "new" / "figure.png", PROVENANCE)
    with Image.open(tmp_path / "new" / "figure.png") as image:
        assert image.format == "PNG" and image.size == (225, 150)
        assert json.loads(image.text["Description"]) == PROVENANCE
        assert json.loads(image.text["Software"]) == versions()
    assert plt.fignum_exists(figure.number)  # a notebook still shows it


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save_figure(small_figure(), tmp_path / name, PROVENANCE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, figure = tmp_path / "figure.png", small_figure()
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        plots.save_figure(figure, path, {"network": object()})

    def stop_halfway(file, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        plots.save_figure(figure, path, PROVENANCE)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_plotting_changes_no_array_and_closes_no_figure():
    other = small_figure()
    image, maps, noise = make_images(1)[0, 0], make_maps(2), make_images(1, seed=1)[0, 0] * 0.01
    before = [part.clone() for part in (image, maps, noise)]
    plots.plot_attacks(
        {"": (image, image + noise, *maps, maps[0])}, structures=STRUCTURES, epsilon=0.01
    )
    assert all(torch.equal(a, b) for a, b in zip((image, maps, noise), before, strict=True))
    assert plt.fignum_exists(other.number) and len(plt.get_fignums()) == 2


# --- style ------------------------------------------------------------------------------------------------------------


def test_importing_plots_sets_no_style_and_using_it_does():
    code = (
        "import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt\n"
        "before = dict(plt.rcParams); from helpers import plots\n"
        "assert dict(plt.rcParams) == before\n"
        "plots.use_style()\n"
        "changed = {name for name in before if plt.rcParams[name] != before[name]}\n"
        "assert changed == {'font.size', 'axes.titlesize', 'axes.labelsize', 'legend.frameon',\n"
        "    'legend.fontsize', 'xtick.labelsize', 'ytick.labelsize', 'axes.spines.top',\n"
        "    'axes.spines.right', 'figure.constrained_layout.use'}, changed\n"
        "assert (plt.rcParams['font.size'], plt.rcParams['figure.dpi']) == (9, 100)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("kernel", [True, False])
def test_only_in_a_kernel_radiographs_become_jpeg(monkeypatch, kernel):
    asked = []
    record = lambda *formats, **options: asked.append((formats, options))  # noqa: E731
    monkeypatch.setattr("matplotlib_inline.backend_inline.set_matplotlib_formats", record)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if kernel:
        monkeypatch.setitem(sys.modules, "ipykernel", object())
    with plt.rc_context():
        plots.use_style()
    assert asked == [(("jpeg",), {"pil_kwargs": {"quality": 50}})] * kernel


# --- what plots may know ----------------------------------------------------------------------------------------------


def imported(module):
    """Modules that a module of `helpers` imports, and those of `helpers` that these import in turn."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names.union(*(imported(name) for name in names if name.startswith("helpers.")))


def test_plots_know_arrays_and_tables_but_no_network_no_data_and_no_attack():
    names = imported("helpers.plots")
    ours = {name.removeprefix("helpers.") for name in names if name.startswith("helpers.")}
    common = {"common.arguments", "common.files", "common.provenance", "common.paths"}
    assert ours == common | {"evaluation", "labels", "loss"}
    assert not {name for name in names if name.startswith(("torch.", "torchvision"))}
    for module in ("plots", "curves"):
        direct = (ROOT / "helpers" / f"{module}.py").read_text(encoding="utf-8")
        assert "import torch" not in direct and "from torch" not in direct
