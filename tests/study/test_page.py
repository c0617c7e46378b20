"""The page of a run: self-contained, its numbers those of the tables, its pictures only where they may be shown."""

import base64
import io
import json
import re
import zlib
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from itertools import product

import browsers
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import toys
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from helpers.claims import evaluate
from helpers.common import paths
from helpers.common.provenance import versions
from helpers.study import Study, page
from helpers.study.frames import read_frames
from helpers.study.parameters import read_parameters, source_digest
from helpers.study.runner import digest_file
from helpers.sweep import open_engine
from helpers.tables import write_table
from helpers.weights import Trained

LEVELS = (0.02, 0.04, 0.08)
KEYS = [
    (symbol, *key)
    for symbol in ("small", "large")
    for key in [("no attack", 0.0), *product(("white-box", "black-box", "random-noise"), LEVELS)]
]
STRUCTURES = ("heart", "lung")


@pytest.fixture
def made(place):
    """A finished run of one notebook, made without a kernel."""
    make_run(place, "phantom")
    return place


def make_run(place, dataset):
    folder = place.runs / "quick"
    data = toys.dataset(n=3, name=dataset)
    source = {
        "dataset": dataset,
        "size": 16,
        "weights": "ab/cd",
        "steps": 5,
        "seed": 0,
        "commit": "abc",
    }
    study = Study(
        folder,
        data,
        {"target": Trained(toys.unet(), "d" * 64, None, ())},
        open_engine(),
        source,
        {},
    )
    study.save_frames(
        *attacked(data), {name: data.labels for name in ("small", "large")}, structure="heart"
    )
    study.write("table2", table2(), results())
    for name, draw in (
        ("04_curve", lambda ax: ax.plot([1, 2])),
        ("04_picture", lambda ax: ax.imshow(data.images[0, 0].numpy())),
    ):
        figure, ax = plt.subplots()
        draw(ax)
        study.save(figure, name)
        plt.close(figure)
    finish(
        place,
        "04_heart_attack",
        f'dataset = "{dataset}"\nsize = 16',
        ["frames.csv", "frames.json", "table2.csv", "04_curve.png", "04_picture.png"],
    )
    return folder


def finish(place, name, parameters, files):
    """Write a notebook, its executed copy and its marker."""
    text = new_output(
        "execute_result",
        {"text/markdown": "Noise reaches 93.\nNext: **05** goes on."},
        execution_count=6,
    )
    picture = new_output(
        "display_data", {"image/png": base64.b64encode(b"pixels of a radiograph").decode()}
    )
    cells = [
        new_markdown_cell("# 04 · Heart attack\n\nCan noise draw a *symbol*?\n\nThe paper: yes."),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell('study.write("table2", table2, results)'),
        new_markdown_cell("*Table 4.1, of the paper. Mean IoU\nx 100.*\n\n## More"),
        new_code_cell(
            'study.save(figure, "04_curve")\nstudy.save(figure, "04_picture", epsilon=1)',
            outputs=[picture],
        ),
        new_markdown_cell("*Figure 4.1. Curves.*\n\n## Summary"),
        new_code_cell("Markdown(text)", outputs=[text]),
    ]
    notebook = place.notebooks / f"{name}.ipynb"
    folder = place.runs / "quick"
    for path in (notebook, folder / notebook.name):
        nbformat.write(new_notebook(cells=cells), path)
    record = {
        "source": source_digest(notebook),
        "parameters": read_parameters(notebook),
        "seconds": 1.5,
        "finished": "2026-01-02T03:04:05+0000",
        "commit": "abc",
        "versions": versions(),
        "files": {each: digest_file(folder / each) for each in files},
    }
    (folder / f"{name}.ok.json").write_text(json.dumps(record))


def attacked(data):
    """Results, attacked images and predictions of every experiment."""
    generator = torch.Generator().manual_seed(0)
    crafted = {
        key: data.images + key[2] * torch.randn(data.images.shape, generator=generator).clip(-1, 1)
        for key in KEYS
    }
    predictions = {
        key: data.labels.roll(place, dims=2).to(torch.uint8) for place, key in enumerate(KEYS)
    }
    return results(), crafted, predictions


def results():
    rows = [
        (*key, id, structure, compared)
        for key in KEYS
        for id, structure, compared in product(("c0", "c1", "c2"), STRUCTURES, ("target", "truth"))
    ]
    table = pd.DataFrame(
        rows, columns=["symbol", "attack", "epsilon", "id", "structure", "compared_with"]
    )
    iou = np.random.default_rng(0).uniform(0, 100, len(table)).astype("float32")
    return table.assign(iou=iou, torch="2", device="cpu", commit="abc")


def table2():
    rows = [(compared, *key) for compared in ("target", "truth") for key in KEYS]
    table = pd.DataFrame(rows, columns=["compared_with", "symbol", "attack", "epsilon"])
    iou = np.random.default_rng(1).uniform(5, 95, len(table))
    return table.assign(
        n=3,
        iou=iou,
        low=iou - 1,
        high=iou + 1,
        paper=np.where(table["epsilon"] == 0.04, 50.0, np.nan),
    )


class Reader(HTMLParser):
    """What a page refers to, and the rows of its tables."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.rows, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action")
        ]
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, text):
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += text
        elif self.inside == "small" and self.rows:
            self.rows[-1][-1] += f" {text}"


def text_of(path):
    return path.read_text(encoding="utf-8")


def written(place, *words):
    assert place.main("--page", "quick", *words) == 0
    return text_of(place.runs / "quick/index.html")


def frames_in(text):
    found = re.search(
        r'<script type="application/json" id="frames">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(found[1])


def test_the_page_and_its_notebooks_load_nothing(made):
    text = written(made)
    addresses = Reader(text).addresses
    assert (
        "04_heart_attack.html" in addresses and (made.runs / "quick/04_heart_attack.html").exists()
    )
    for address in [
        *addresses,
        *Reader(text_of(made.runs / "quick/04_heart_attack.html")).addresses,
    ]:
        assert address.startswith(("#", "data:")) or address == "04_heart_attack.html"
    assert "@import" not in text and "url(" not in text and "http" not in text
    assert len(text.encode()) < page.LIMIT


def test_the_numbers_of_a_table_are_those_of_the_run(made):
    rows = Reader(written(made)).rows
    table = pd.read_csv(made.runs / "quick/table2.csv")
    for value in table[table["epsilon"] == 0.04].itertuples():
        shown = f"{value.iou:.1f} {value.low:.1f}–{value.high:.1f}"
        line = [
            row
            for row in rows
            if row[:4] == [value.compared_with, value.symbol, value.attack, "ours"]
        ]
        assert line[0][6] == shown
        assert rows[rows.index(line[0]) + 1][6] == "50.0"
    assert ["compared with", "symbol", "attack", "source", "0.0", "0.02", "0.04", "0.08"] in rows


def test_the_scores_beside_the_slider_are_those_of_the_table(made):
    shown = pd.DataFrame(frames_in(written(made))["scores"])
    table = pd.read_csv(made.runs / "quick/frames.csv")
    pd.testing.assert_frame_equal(shown, table[shown.columns], check_dtype=False)
    own = results()
    for row in shown.itertuples():
        same = own[
            (own["compared_with"] == "target")
            & (own["id"] == row.id)
            & (own["symbol"] == row.symbol)
        ]
        same = same[(same["attack"] == row.attack) & (same["epsilon"] == row.epsilon)]
        structure = "lung" if row.structure == "the others" else row.structure
        assert row.iou == pytest.approx(
            same[same["structure"] == structure]["iou"].item(), abs=0.0051
        )
    assert (
        set(shown["attack"]) == {"no attack", "white-box", "black-box"} and len(shown) == 3 * 14 * 3
    )


def test_ids_like_missing_values_and_long_noise_levels_find_their_scores(tmp_path):
    level = 2 / 255
    columns = ["id", "symbol", "attack", "epsilon", "structure", "iou"]
    rows = [("NA", "small", "white-box", level, "heart", 5.0)]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "frames.csv", index=False)
    (tmp_path / "frames.json").write_text("{}")
    (row,) = json.loads(json.dumps(read_frames(tmp_path)["scores"]))
    assert (row["id"], row["epsilon"], row["iou"]) == ("NA", level, 5.0)


def test_a_ratio_keeps_its_digits(tmp_path):
    table = pd.DataFrame({"way": ["8 bits"], "shift": [0.0712], "low": [0.0556], "high": [0.0894]})
    write_table(
        tmp_path / "ratio.csv", table, {"dataset": "phantom"}, exact=("shift", "low", "high")
    )
    assert page._read_table(tmp_path / "ratio.csv")["rows"] == [
        ["8 bits", "0.0712 (0.0556–0.0894)"]
    ]


def test_ids_that_look_like_numbers_stay_texts(tmp_path):
    columns = ["id", "symbol", "attack", "epsilon", "structure", "iou"]
    rows = [
        ("001", "small", "white-box", 0.04, "heart", 5.0),
        ("002", "small", "white-box", 0.04, "heart", None),
    ]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "frames.csv", index=False)
    (tmp_path / "frames.json").write_text("{}")
    scores = read_frames(tmp_path)["scores"]
    assert [row["id"] for row in scores] == ["001", "002"]
    assert [row["iou"] for row in scores] == [5.0, None]


def test_the_others_are_the_mean_of_all_but_the_attacked_structure(tmp_path):
    from helpers.study.frames import tabulate_frames

    rows = [
        ("c0", "small", "white-box", 0.1, name, "target", iou)
        for name, iou in (("a", 10.0), ("b", 20.0), ("c", 60.0))
    ]
    table = pd.DataFrame(
        rows, columns=["id", "symbol", "attack", "epsilon", "structure", "compared_with", "iou"]
    )
    found = tabulate_frames(table, "a").set_index("structure")["iou"]
    assert found.to_dict() == {"a": 10.0, "b": 20.0, "c": 60.0, "the others": 40.0}


def unpack(text, kind, size=16):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(size, size)


def test_picture_and_noise_add_up_to_the_attacked_image(made):
    data = toys.dataset(n=3)
    _, crafted, _ = attacked(data)
    frames = frames_in(written(made))
    assert list(frames["pictures"]) == list(data.ids) and len(frames["frames"]) == 3 * 14
    for frame in frames["frames"]:
        key = frame["symbol"], frame["attack"], frame["epsilon"]
        grey = unpack(frames["pictures"][frame["id"]], np.uint8) / 127.5 - 1
        shades = unpack(frame["noise"], np.int8)
        limit = (len(frames["colours"]) - 1) // 2
        made_up = grey + frame["epsilon"] * shades / limit
        image = crafted[key][data.ids.index(frame["id"]), 0].numpy()
        assert abs(made_up - image).max() <= frame["epsilon"] / (2 * limit) + 1 / 255 + 1e-6
        assert abs(shades).max() <= limit


def test_an_outline_runs_along_the_border_of_its_mask(made):
    frames = frames_in(written(made))
    heart = toys.dataset(n=3).labels[0].numpy() == 1
    (target,) = {frame["target"] for frame in frames["frames"] if frame["id"] == "c0"}
    x, y = corners(target).T
    rows, columns = np.nonzero(heart)
    assert (x.min(), x.max()) == (2 * columns.min(), 2 * columns.max() + 2)
    assert (y.min(), y.max()) == (2 * rows.min(), 2 * rows.max() + 2)
    area = abs((x * np.roll(y, 1) - y * np.roll(x, 1)).sum()) / 2 / 4
    assert area == pytest.approx(heart.sum(), abs=1)


def corners(path):
    start, steps = re.fullmatch(r"M(.*?)l(.*)z", path).groups()
    pairs = np.array([start.split(), *np.reshape(steps.split(), (-1, 2))], dtype=float)
    return pairs.cumsum(axis=0)


def test_captions_question_and_finding_are_the_notebooks(made):
    text = written(made)
    assert "<h2>04 · Heart attack</h2>" in text and "Can noise draw a <em>symbol</em>?" in text
    assert "Noise reaches 93." in text and "goes on" not in text
    assert "<strong>Table 4.1, of the paper.</strong> Mean IoU" in text
    assert text.count("<strong>Figure 4.1.</strong> Curves.") == 2 == text.count("data:image/webp")
    assert text.index("Table 4.1") < text.index("Figure 4.1")
    assert "dataset toy" not in text and "dataset phantom · size 16 · weights ab/cd" in text


def test_a_file_that_does_not_say_where_it_comes_from_is_named_and_not_shown(made):
    (made.runs / "quick/mine.csv").write_text("iou\n77.7\n")
    (made.runs / "quick/empty.csv").touch()
    Image.new("L", (8, 8)).save(made.runs / "quick/mine.png")
    finish(
        made,
        "04_heart_attack",
        'dataset = "phantom"\nsize = 16',
        ["mine.csv", "empty.csv", "mine.png", "04_curve.png"],
    )
    text = written(made)
    assert "does not say where it comes from: mine.csv, empty.csv, mine.png." in text
    assert "77.7" not in text and text.count("data:image/webp") == 1
    assert 'id="frames"' not in text  # those of an earlier run


def test_of_jsrt_no_pixel_is_on_a_page(place):
    folder = make_run(place, "jsrt")
    text = written(place)
    assert 'id="frames"' not in text and "forbid passing copies on" in text
    assert text.count("data:image/webp") == 1, "the curves have no pixel of a radiograph"
    assert "04_picture.png</code>, holds pictures of radiographs that may not be passed on" in text
    notebook = text_of(folder / "04_heart_attack.html")
    pixels = base64.b64encode(b"pixels of a radiograph").decode()
    assert pixels not in notebook and "Mean IoU" in notebook
    assert any(row[:4] == ["target", "small", "white-box", "ours"] for row in Reader(text).rows)


def test_pictures_of_phantoms_stay_in_the_notebooks(made):
    written(made)
    pixels = base64.b64encode(b"pixels of a radiograph").decode()
    assert pixels in text_of(made.runs / "quick/04_heart_attack.html")


def test_of_a_users_own_folder_the_page_warns_before_it_is_sent(place, tmp_path):
    make_run(place, "folder")
    assert "for their licence to say: look before you send" in " ".join(written(place).split())


def test_a_table_without_rows_is_named_and_not_shown(place):
    folder = make_run(place, "folder")
    table = pd.read_csv(folder / "table2.csv")
    table[:0].to_csv(folder / "table2.csv", index=False)
    finish(place, "04_heart_attack", 'dataset = "folder"', ["table2.csv"])
    assert "does not say where it comes from: table2.csv" in written(place)


def test_a_table_of_one_noise_level_is_shown_with_its_attacks(place):
    folder = make_run(place, "folder")
    levels = pd.DataFrame({"attack": ["white-box", "black-box"], "epsilon": 0.04, "n": 3})
    table = levels.assign(iou=[1.0, 70.0], low=0.5, high=80.0, dataset="folder-own")
    table.to_csv(folder / "table1.csv", index=False)
    finish(place, "03_untargeted_attack", 'dataset = "folder"', ["table1.csv"])
    rows = Reader(written(place)).rows
    assert ["white-box", "ours", "1.0 0.5–80.0"] in rows


@pytest.mark.parametrize(
    "path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_each_figure_of_a_notebook_stands_above_its_own_caption(path):
    cells = nbformat.read(path, as_version=4)["cells"]
    found = page._captions(cells)
    written = re.findall(
        r'\b(?:save|write)\((?:\w+, )?"(\w+)"', "".join(c["source"] for c in cells)
    )
    assert written and set(written) <= {*found}
    for kind in ("Figure", "Table"):
        numbers = [
            int(n) for text in found.values() for n in re.findall(rf"^{kind} \d\.(\d+)", text)
        ]
        assert numbers == sorted(numbers)


def test_of_several_attacked_networks_the_page_shows_their_mean(place):
    folder = make_run(place, "folder")
    table = pd.DataFrame({"step": "momentum", "target": ["1", "2", "all"], "n": 3})
    table = table.assign(iou=[31.0, 33.0, 32.0], low=30.0, high=34.0, dataset="folder-own")
    table.to_csv(folder / "transfer.csv", index=False)
    finish(place, "03_untargeted_attack", 'dataset = "folder"', ["transfer.csv"])
    (row,) = (row for row in Reader(written(place)).rows if row[0] == "momentum")
    assert row[1] == "3" and row[2].startswith("32.0 30.0–34.0")


def test_of_a_network_of_one_s_own_the_page_shows_the_name_and_no_folder(place):
    make_run(place, "folder")
    parameters = 'dataset = "folder"\nnetwork = "/home/me/secret/mine.py:build"'
    finish(place, "04_heart_attack", parameters, ["table2.csv"])
    text = written(place)
    assert "mine.py:build, not the study’s own" in text and "secret" not in text


def test_verdicts_are_those_of_the_runs_own_tables(made):
    folder = made.runs / "quick"
    for name in ("table1", "clean"):  # of an earlier run
        pd.DataFrame(
            {"attack": ["white-box"], "epsilon": 0.02, "iou": 1.0, "low": 0.0, "high": 2.0}
        ).to_csv(folder / f"{name}.csv")
    assert "untargeted white-box noise collapses the segmentation" in list(
        evaluate(folder)["claim"]
    )
    text = written(made)
    shown = re.findall(r'class="what" role="cell">(.*?)<small>', text)
    expected = evaluate(folder, "04")
    assert (
        shown
        == list(expected["claim"])
        == [
            "white-box noise draws the symbol",
            "the large symbol is harder than the small one",
            "black-box noise does not draw it",
        ]
    )
    words = {"holds": "holds here", "does not hold": "does not hold here"}
    verdicts = [words.get(each.partition(" (")[0], "not decided") for each in expected["verdict"]]
    assert re.findall(r'class="verdict \w+"><b>(.*?)</b>', text) == verdicts
    assert all(ours in text for ours in expected["ours"])


def test_a_run_that_has_not_finished_is_told_in_a_line(made, capsys):
    made.write("05_resizing", "1 / 0")
    assert made.main("--page", "quick") == 2
    error = capsys.readouterr().err
    assert error.startswith("study: 05_resizing has not finished in ") and error.count("\n") == 1
    assert not (made.runs / "quick/index.html").exists()
    text = written(made, "--only", "04")
    assert capsys.readouterr().out == f"{made.runs}/quick/index.html\n"
    assert "Not on this page: 05_resizing, which has not finished." in text


def test_what_was_changed_since_takes_no_part(made, capsys):
    path = made.runs / "quick/table2.csv"
    path.write_text(path.read_text().replace("white-box", "grey-box"))
    assert made.main("--page", "quick") == 2
    assert "04_heart_attack wrote another table2.csv in" in capsys.readouterr().err
    made.write("05_resizing")
    page.write_page(
        made.runs / "quick",
        {made.notebooks / "04_heart_attack.ipynb": {"dataset": "phantom", "size": 16}},
    )
    text = text_of(made.runs / "quick/index.html")
    assert "grey-box" not in text and "04_heart_attack, which wrote another table2.csv" in text


def test_a_page_that_would_be_too_large_to_send_has_coarser_figures(made, monkeypatch):
    sizes = []
    for limit in (10**9, 0):
        monkeypatch.setattr(page, "LIMIT", limit)
        sizes.append(
            [
                len(picture)
                for picture in re.findall(r"data:image/webp;base64,([\w+/=]*)", written(made))
            ]
        )
    (curve, fine), (same, coarse) = sizes
    assert curve == same, "figures without pictures lose nothing"
    assert coarse < fine


@pytest.mark.slow
def test_a_study_ends_with_the_path_of_its_page(place, capsys):
    place.write("01_first", "import pathlib\npathlib.Path('../runs/quick/a.csv').write_text('x')")
    assert place.main() == 0
    path = place.runs / "quick/index.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert "A title" in text_of(path)


# in a browser


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


def scores_on(tab):
    cells = tab.locator("#explore [data-structure]").all()
    return {cell.get_attribute("data-structure"): cell.inner_text() for cell in cells}


def expected_scores(table, *key):
    rows = table[(table[["id", "symbol", "attack", "epsilon"]] == list(key)).all(axis=1)]
    return {
        row.structure: str(Decimal(row.iou).quantize(Decimal("0.1"), ROUND_HALF_UP))
        for row in rows.itertuples()
    }


PICTURES = "() => [...document.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL())"


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser_slider_and_keys_change_picture_and_numbers(chromium, made, width):
    written(made)
    table = pd.read_csv(made.runs / "quick/frames.csv")
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(f"file://{made.runs}/quick/index.html")
    tab.wait_for_selector("#explore input[name=case]", state="attached")
    assert scores_on(tab) == expected_scores(table, "c0", "small", "no attack", 0.0)
    seen = [tuple(tab.evaluate(PICTURES))]
    tab.locator("#epsilon").focus()
    for epsilon in LEVELS:
        tab.keyboard.press("ArrowRight")
        assert scores_on(tab) == expected_scores(table, "c0", "small", "white-box", epsilon)
        seen.append(tuple(tab.evaluate(PICTURES)))
        assert tab.locator("#explore output").inner_text() == str(epsilon)
    box = tab.locator("#epsilon").bounding_box()
    tab.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert scores_on(tab) == expected_scores(table, "c0", "small", "no attack", 0.0)
    assert tuple(tab.evaluate(PICTURES)) == seen[0]
    tab.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert tuple(tab.evaluate(PICTURES)) == seen[-1]
    tab.get_by_label("black-box").check()
    assert scores_on(tab) == expected_scores(table, "c0", "small", "black-box", LEVELS[-1])
    seen.append(tuple(tab.evaluate(PICTURES)))
    tab.keyboard.press("s")
    tab.keyboard.press("c")
    assert scores_on(tab) == expected_scores(table, "c1", "large", "black-box", LEVELS[-1])
    seen.append(tuple(tab.evaluate(PICTURES)))
    assert (
        len({radiograph for radiograph, _ in seen})
        == len({noise for _, noise in seen})
        == len(seen)
    )
    assert tab.locator("svg path.line").count() == 2 and tab.locator("svg").is_visible()
    tab.keyboard.press("o")
    assert not tab.locator("svg").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not errors and {url for url in requests if not url.startswith("data:")} == {
        f"file://{made.runs}/quick/index.html"
    }
    tab.close()


@pytest.mark.slow
def test_in_a_browser_the_radiograph_is_picture_plus_noise(chromium, made):
    frames = frames_in(written(made))
    tab = chromium.new_page()
    tab.goto(f"file://{made.runs}/quick/index.html")
    tab.wait_for_selector("#explore input[name=case]", state="attached")
    for _ in LEVELS:
        tab.keyboard.press("ArrowRight")
    address, _ = tab.evaluate(PICTURES)
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
    )
    (frame,) = [
        each
        for each in frames["frames"]
        if (each["id"], each["symbol"], each["attack"], each["epsilon"])
        == ("c0", "small", "white-box", 0.08)
    ]
    grey = unpack(frames["pictures"]["c0"], np.uint8) + 127.5 * 0.08 / 7 * unpack(
        frame["noise"], np.int8
    )
    assert abs(shown - np.clip(grey, 0, 255)[..., None]).max() <= 0.5 + 1e-6
    tab.close()


@pytest.mark.slow
def test_in_a_browser_the_page_is_dark_where_the_reader_likes_it_dark(chromium, made):
    written(made)
    brightness = {}
    for scheme in ("light", "dark"):
        tab = chromium.new_page(color_scheme=scheme)
        tab.goto(f"file://{made.runs}/quick/index.html")
        colours = [
            tab.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        ]
        brightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
        tab.close()
    (paper, ink), (night, chalk) = brightness["light"], brightness["dark"]
    assert paper - ink > 500 and chalk - night > 500
