"""Hard IoU against counted pixels, intervals against known ones, and the paper's numbers against its tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.evaluation import (
    PAPER,
    beside_paper,
    bootstrap_interval,
    iou,
    iou_table,
    provenance,
    summarise,
    write_table,
)
from helpers.files import ROOT, commit

TABLES = ROOT.parent / "shared/paper"


def make_maps(seed, n=3, size=5, classes=4):
    return torch.randint(0, classes, (2, n, size, size), generator=torch.Generator().manual_seed(seed))


# --- iou --------------------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_iou_is_what_counting_pixels_gives(seed, size):
    predictions, labels = make_maps(seed, n=2, size=size)
    found = iou(predictions, labels, classes=(1, 3, 2))
    assert found.shape == (2, 3) and found.dtype == torch.float32
    for i in range(2):
        for k, c in enumerate((1, 3, 2)):
            pairs = list(zip(predictions[i].flatten().tolist(), labels[i].flatten().tolist(), strict=True))
            both = sum(p == c and t == c for p, t in pairs)
            either = sum(p == c or t == c for p, t in pairs)
            expected = 100 * both / either if either else math.nan
            assert float(found[i, k]) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_class_in_neither_map_is_undefined_and_a_class_in_one_of_them_scores_0():
    predictions, labels = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 2, 0]]])
    found = iou(predictions, labels, classes=(1, 2, 3))[0]
    assert found[:2].tolist() == [50, 0] and found[2].isnan()
    assert iou(labels, predictions, classes=(2,)).tolist() == [[0]]


def test_identical_maps_score_100_and_the_order_of_the_two_does_not_matter():
    predictions, labels = make_maps(0)
    assert (iou(labels, labels, classes=range(4)) == 100).all()
    assert torch.equal(iou(predictions, labels, classes=range(4)), iou(labels, predictions, classes=range(4)))


def test_an_image_s_iou_does_not_depend_on_the_batch():
    predictions, labels = make_maps(1, n=4)
    order = torch.tensor([2, 0, 3, 1])
    whole = iou(predictions, labels, classes=(1, 2))
    assert torch.equal(iou(predictions[order], labels[order], classes=(1, 2)), whole[order])
    assert torch.equal(iou(predictions[1:2], labels[1:2], classes=(1, 2)), whole[1:2])
    assert iou(predictions[:0], labels[:0], classes=(1, 2)).shape == (0, 2)


def test_maps_of_different_shapes_are_refused():
    predictions, labels = make_maps(0)
    with pytest.raises(ValueError, match=r"\(3, 5, 5\).*\(2, 5, 5\)"):
        iou(predictions, labels[:2], classes=(1,))
    with pytest.raises(ValueError, match=r"\(3, 5, 5\).*\(1, 5, 5\)"):  # would broadcast
        iou(predictions, labels[:1], classes=(1,))


def test_the_table_has_a_row_for_each_case_and_structure():
    predictions, labels = make_maps(2)
    table = iou_table(predictions, labels, ids=["c", "a", "b"], structures=("x", "y", "z"), attack="none", epsilon=0.5)
    assert list(table.columns) == ["attack", "epsilon", "id", "structure", "iou"]
    assert table["id"].tolist() == [id for id in "cab" for _ in range(3)]
    assert table["structure"].tolist() == ["x", "y", "z"] * 3
    assert set(table["attack"]) == {"none"} and set(table["epsilon"]) == {0.5}
    np.testing.assert_array_equal(table["iou"], iou(predictions, labels, classes=(1, 2, 3)).flatten())


# --- intervals and means ----------------------------------------------------------------------------------------------


def test_the_interval_of_a_normal_sample_is_the_known_one():
    values = np.random.default_rng(0).normal(70, 10, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)
    narrow = bootstrap_interval(values, level=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.6745 * values.std() / 20, rel=0.06)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = [low <= 5 <= high for low, high in (bootstrap_interval(generator.normal(5, 1, 40)) for _ in range(60))]
    assert 0.85 <= np.mean(hits) <= 1


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)  # a quarter of the resamples each


@pytest.mark.filterwarnings("error")
def test_the_interval_of_constant_values_is_that_value():
    assert bootstrap_interval([42.0] * 20) == (42.0, 42.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [1.0], [math.nan], [1.0, math.nan]])
def test_fewer_than_two_values_have_no_interval(values):
    assert np.isnan(bootstrap_interval(values)).all()


def test_undefined_values_do_not_count_and_the_seed_decides():
    values = np.random.default_rng(2).normal(size=30)
    assert bootstrap_interval([*values, math.nan]) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def tidy(rows):
    return pd.DataFrame(rows, columns=["attack", "id", "structure", "iou"])


def test_structures_are_averaged_within_a_case_before_cases_are():
    table = tidy([("a", "1", "x", 10), ("a", "1", "y", math.nan), ("a", "2", "x", 30), ("a", "2", "y", 70)])
    summary = summarise(table, by=["attack"])
    assert list(summary.columns) == ["attack", "n", "iou", "low", "high"]
    (row,) = summary.to_dict("records")
    assert (row["attack"], row["n"], row["iou"], row["low"], row["high"]) == ("a", 2, 30, 10, 50)  # not 36.7


def test_a_case_without_any_value_is_left_out_and_n_says_so():
    table = tidy([("a", str(i), "x", value) for i, value in enumerate([10, math.nan, 20, math.nan])])
    (row,) = summarise(table, by=["attack"]).to_dict("records")
    assert (row["n"], row["iou"]) == (2, 15)


def test_a_row_without_any_case_stays_in_the_table_with_n_0():
    table = tidy([("a", "1", "x", math.nan), ("a", "2", "x", math.nan), ("b", "1", "x", 5)])
    first, second = summarise(table, by=["attack"]).to_dict("records")
    assert (first["attack"], first["n"], second["attack"], second["n"]) == ("a", 0, "b", 1)
    assert math.isnan(first["iou"]) and math.isnan(first["low"]) and math.isnan(first["high"])


def test_rows_come_in_order_of_first_appearance_and_keep_their_intervals():
    generator = np.random.default_rng(3)
    table = tidy([(a, str(i), s, v) for a in "zam" for i in range(6) for s, v in zip("yx", generator.random(2) * 100,
                                                                                    strict=True)])  # fmt: skip
    summary = summarise(table, by=["attack", "structure"])
    assert list(zip(summary["attack"], summary["structure"], strict=True)) == [(a, s) for a in "zam" for s in "yx"]
    for row in summary.to_dict("records"):
        values = table[(table.attack == row["attack"]) & (table.structure == row["structure"])]["iou"]
        assert row["iou"] == pytest.approx(values.mean()) and row["n"] == 6
        assert (row["low"], row["high"]) == bootstrap_interval(values)


# --- the paper --------------------------------------------------------------------------------------------------------


def test_the_paper_s_table_1_stands_beside_ours_and_controls_have_no_number():
    attacks, levels = ("random-noise", "white-box", "black-box"), (0.08, 0.01, 0.03)
    summary = pd.DataFrame([(a, e, 20, 1.0, 0.0, 2.0) for a in attacks for e in levels],
                           columns=["attack", "epsilon", "n", "iou", "low", "high"])  # fmt: skip
    found = beside_paper(summary, "table1")
    assert list(found.columns) == ["attack", "epsilon", "n", "iou", "low", "high", "paper"]
    pd.testing.assert_frame_equal(found.drop(columns="paper"), summary)
    expected = [math.nan] * 3 + [0.0, 30.5, math.nan] + [45.5, 87.4, math.nan]
    np.testing.assert_array_equal(found["paper"], expected)


def test_the_paper_s_clean_values_stand_beside_each_network_and_structure():
    summary = pd.DataFrame({"network": ["surrogate", "target", "target"], "structure": ["heart", "heart", "liver"]})
    np.testing.assert_array_equal(beside_paper(summary, "clean")["paper"], [87.5, 87.3, math.nan])


ALL_TABLES = ["clean", "table1", "table2", "table3", "table4"]


def keys_of(table):
    paper = pd.read_csv(PAPER)
    return paper[paper["table"] == table].dropna(axis="columns", how="all").drop(columns=["table", "paper"])


@pytest.mark.parametrize("table", ALL_TABLES)
def test_every_number_of_the_paper_finds_its_row(table):
    keys = keys_of(table)
    assert not keys.duplicated().any()
    found = beside_paper(keys.iloc[::-1], table)
    assert len(found) == len(keys) and found["paper"].notna().all()


@pytest.mark.parametrize("table", ALL_TABLES)
def test_a_summary_without_a_column_that_tells_the_paper_s_rows_apart_is_refused(table):
    for column in keys_of(table):
        summary = keys_of(table).drop(columns=column).drop_duplicates().assign(iou=1.0)
        with pytest.raises(ValueError, match=column):
            beside_paper(summary, table)


def test_an_unknown_table_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="'table5'.*clean, table1, table2, table3, table4"):
        beside_paper(pd.DataFrame({"attack": ["white-box"]}), "table5")


@pytest.mark.parametrize("table, rows", [("table1", 10), ("table2", 40), ("table3", 20), ("table4", 35)])
def test_the_numbers_in_the_package_are_those_of_the_paper_s_tables(table, rows):
    path = TABLES / f"{table}.csv"
    if not path.exists():
        pytest.skip(f"the paper's {path.name} is not beside this copy")
    ours, theirs = pd.read_csv(PAPER, dtype=str), pd.read_csv(path, dtype=str)
    numbers = ours[ours["table"] == table]
    if "factor" in theirs.columns:
        clean = theirs[theirs["factor"] == "clean"].set_index("structure")["iou"].astype(float)
        known = ours[(ours["table"] == "clean") & (ours["network"] == "target")].set_index("structure")["paper"]
        pd.testing.assert_series_equal(known[clean.index].astype(float), clean, check_names=False)
        theirs = theirs[theirs["factor"] != "clean"]
    keys = [column for column in theirs.columns if column != "iou"]
    row = lambda record, value: (*(number(record[k]) for k in keys), float(record[value]))  # noqa: E731
    found = sorted(row(record, "paper") for record in numbers.to_dict("records"))
    assert found == sorted(row(record, "iou") for record in theirs.to_dict("records")) and len(found) == rows


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


# --- files ------------------------------------------------------------------------------------------------------------


class Stub:
    def __init__(self, **values):
        self.__dict__.update(values)


def test_provenance_names_dataset_networks_run_and_commit():
    dataset = Stub(name="phantom", size=64)
    networks = [Stub(digest=c * 64, recipe=Stub(depth=d)) for c, d in (("a", 3), ("b", 3))]
    found = provenance(dataset, networks, steps=7, seed=5)
    assert list(found) == ["dataset", "size", "depth", "weights", "steps", "seed", "commit"]
    assert found == {"dataset": "phantom", "size": 64, "depth": "3", "weights": "a" * 12 + "/" + "b" * 12, "steps": 7,
                     "seed": 5, "commit": commit()}  # fmt: skip
    assert provenance(dataset, networks)["steps"] == ""


def test_a_table_comes_back_from_its_file_with_its_provenance(tmp_path):
    table = pd.DataFrame({"attack": ["white-box", "black-box"], "n": [20, 19], "iou": [1.234, math.nan]})
    where = {"dataset": "phantom", "size": 64, "steps": 100, "seed": 0, "commit": "abc"}
    write_table(tmp_path / "new" / "table.csv", table, where)
    text = (tmp_path / "new" / "table.csv").read_bytes()
    assert text.startswith(b"attack,n,iou,dataset,size,steps,seed,commit\nwhite-box,20,1.23,phantom,64,100,0,abc\n")
    back = pd.read_csv(tmp_path / "new" / "table.csv")
    pd.testing.assert_frame_equal(back, table.round(2).assign(**where), check_dtype=False)
    assert list(table.columns) == ["attack", "n", "iou"]  # the caller's table is not changed


def test_noise_levels_and_factors_keep_all_their_digits_in_a_file(tmp_path):
    table = pd.DataFrame({"epsilon": [0.001, 0.005, 0.0125], "factor": [0.375, 1.0, 1.125], "iou": [1.0, 2.0, 3.0]})
    write_table(tmp_path / "table.csv", table, {})
    back = pd.read_csv(tmp_path / "table.csv")
    assert back["epsilon"].tolist() == [0.001, 0.005, 0.0125] and back["factor"].tolist() == [0.375, 1.0, 1.125]
