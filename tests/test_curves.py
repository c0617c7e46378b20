"""Figures of numbers from tiny tables: what is drawn, where, and in which colour."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import curves
from helpers.curves import CURVES

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def settings_stay_as_they_are():
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before


def test_each_attack_has_its_own_colour_and_marker():
    colours, markers = zip(*CURVES.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(CURVES)


def make_summary(attacks=("white-box", "black-box"), paper=(30.0, math.nan)):
    rows = [
        (attack, e, 7 + k, 50 - 100 * e + k, 40 - 100 * e, 60.0, paper[k])
        for k, attack in enumerate(attacks)
        for e in (0.01, 0.04, 0.16)
    ]
    return pd.DataFrame(rows, columns=["attack", "epsilon", "n", "iou", "low", "high", "paper"])


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def test_curves_go_through_the_values_with_their_interval_and_the_paper_only_where_it_has_one():
    summary = make_summary()
    figure = curves.plot_curves(
        {"one": summary, "two": summary}, levels=dict.fromkeys(("one", "two"), ("none", 90.0))
    )
    assert len(figure.axes) == 2 and [ax.get_title() for ax in figure.axes] == ["one", "two"]
    for ax in figure.axes:
        lines = lines_of(ax)
        assert set(lines) == {"white-box", "black-box", "white-box, paper", "none"}
        for attack in ("white-box", "black-box"):
            rows = summary[summary["attack"] == attack]
            np.testing.assert_array_equal(lines[attack].get_xydata(), rows[["epsilon", "iou"]])
            assert (lines[attack].get_color(), lines[attack].get_marker()) == CURVES[attack]
        np.testing.assert_array_equal(lines["white-box, paper"].get_ydata(), [30] * 3)
        assert (
            lines["white-box, paper"].get_linestyle() == "--"
            and lines["white-box"].get_linestyle() == "-"
        )
        assert lines["none"].get_ydata()[0] == 90
        y = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert (y.min(), y.max()) == (24, 60)
        assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == [
            "0.01",
            "0.04",
            "0.16",
        ]
    assert figure.axes[0].get_ylim()[0] <= 0 and figure.axes[0].get_ylim()[1] >= 100
    assert figure.axes[1].get_legend().get_title().get_text() == "n = 7–8, bands: 95 %"


def test_more_than_three_panels_go_into_lines_with_the_legend_beside_the_last():
    summary = make_summary(("white-box",))
    figure = curves.plot_curves({name: summary for name in "abcde"}, scale="linear")
    drawn = figure.axes
    assert [ax.get_title() for ax in drawn] == list("abcde") and drawn[0].get_xscale() == "linear"
    assert [ax.get_ylabel() != "" for ax in drawn] == [True, False, False, True, False]
    figure.canvas.draw()
    legend = drawn[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["white-box", "white-box, paper"]
    assert legend.get_title().get_text() == "n = 7, bands: 95 %"
    box = legend.get_window_extent()
    panels = [ax.get_window_extent() for ax in drawn]
    assert not any(box.overlaps(panel) for panel in panels) and figure.bbox.contains(*box.max)


def test_a_ladder_has_a_dot_for_each_network_and_a_bar_for_their_mean():
    rows = [
        (step, symbol, target, gain, gain - 1, gain + 2)
        for step, gain in (("one", 3.0), ("two", 8.0))
        for symbol in ("small", "large")
        for target in ("1", "2", "all")
    ]
    names = ["step", "symbol", "target", "gain", "gain_low", "gain_high"]
    top = pd.Series({"small": 60.0, "large": 50.0})
    figure = curves.plot_ladder(pd.DataFrame(rows, columns=names), limit=10, top=top)
    figure.canvas.draw()
    for ax, title in zip(
        figure.axes, ("small symbol (white-box +60)", "large symbol (white-box +50)"), strict=True
    ):
        lines = lines_of(ax)
        assert ax.get_title() == title and ax.yaxis_inverted()
        assert lines["network 1"].get_xdata().tolist() == [3, 8]
        assert lines["network 1"].get_marker() != lines["network 2"].get_marker()
        (bars,) = ax.containers
        assert bars.get_label() == "mean, 95 %"
        assert [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()] == [
            [2, 5],
            [7, 10],
        ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["one", "two"]


def test_points_are_named_with_their_interval():
    table = pd.DataFrame(
        {"name": ["a", "b"], "x": [1.0, 2], "y": [5.0, 6], "y_low": [4.0, 5], "y_high": [7.0, 9]}
    )
    figure = curves.plot_points(table, x="x", y="y", by="name", xlabel="x", ylabel="y")
    assert [bars.get_label() for bars in figure.axes[0].containers] == ["a", "b"]


def test_curves_by_another_column_need_no_paper_and_have_different_colours():
    summary = (
        make_summary(("small", "large")).drop(columns="paper").rename(columns={"attack": "symbol"})
    )
    figure = curves.plot_curves({"steps": summary}, by="symbol", xlabel="steps", ylabel="IoU")
    lines = lines_of(figure.axes[0])
    assert (
        list(lines) == ["small", "large"]
        and lines["small"].get_color() != lines["large"].get_color()
    )
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("steps", "IoU")


def test_a_distribution_climbs_by_one_case_at_each_value_and_ends_at_the_share_that_got_there():
    values = {
        "small": torch.tensor([0.04, 0.01, torch.inf, 0.02]),
        "large": np.array([0.08, np.inf, np.inf, np.inf]),
    }
    figure = curves.plot_distribution(values, xlabel="smallest ε")
    lines = lines_of(figure.axes[0])
    expected = [(0.01, 0.25), (0.02, 0.5), (0.04, 0.75)]
    np.testing.assert_allclose(lines["small"].get_xydata()[1:4], expected, rtol=1e-6)
    np.testing.assert_allclose(lines["large"].get_xydata()[1], (0.08, 0.25))
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert 0.005 < low < 0.01 and 0.08 < high < 0.2
    assert (
        lines["small"].get_drawstyle() == "steps-post"
        and figure.axes[0].get_xlabel() == "smallest ε"
    )
    assert (
        lines["small"].get_linestyle() != lines["large"].get_linestyle()
    )  # where one lies on the other
    assert figure.axes[0].get_ylabel() == "share of 4 cases [%]"


def test_a_distribution_of_cases_that_never_got_there_can_be_drawn():
    figure = curves.plot_distribution({"small": np.full(3, np.inf)}, xlabel="ε")
    assert not np.isfinite(lines_of(figure.axes[0])["small"].get_xdata()).any()
    figure.canvas.draw()


def test_learning_curves_mark_the_epoch_that_was_kept():
    ious = {"target": [0.2, 0.9, 0.8], "surrogate": [0.3, 0.5, 0.7]}
    histories = {
        name: [{"epoch": k, "loss": -v, "iou": v} for k, v in enumerate(values, 1)]
        for name, values in ious.items()
    }
    figure = curves.plot_learning_curves(histories)
    assert len(figure.axes) == 2
    lines = lines_of(figure.axes[1])
    assert lines["kept, epoch 2"].get_xydata().tolist() == [[2, 90]]
    assert lines["kept, epoch 3"].get_xydata().tolist() == [[3, 70]]
    assert lines["target"].get_ydata().tolist() == [20, 90, 80]
    assert lines_of(figure.axes[0])["surrogate"].get_ydata().tolist() == [-0.3, -0.5, -0.7]


def test_a_margin_curve_shows_the_level_without_a_limit_and_the_receptive_field():
    curve = {
        "margin": [0, 8, 16],
        "n": 9,
        "iou": [60.0, 80, 90],
        "low": [55.0, 75, 85],
        "high": [65.0, 85, 95],
    }
    curve = pd.DataFrame(curve)
    figure = curves.plot_margin(curve, pd.Series({"all": 99.0, "structure only": 92.0}), reach=20)
    (ax,) = figure.axes
    line, level, reach = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), curve[["margin", "iou"]])
    assert level.get_ydata()[0] == 92 and reach.get_xdata()[0] == 20
    assert (level.get_label(), reach.get_label()) == ("noise everywhere", "half receptive field")
    assert ax.get_legend().get_title().get_text() == "n = 9, bands: 95 %"


def test_drawing_curves_does_not_change_their_table():
    summary = make_summary()
    kept = summary.copy()
    curves.plot_curves({"one": summary})
    pd.testing.assert_frame_equal(summary, kept)
