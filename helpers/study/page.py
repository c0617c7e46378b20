"""A run as one page: verdicts, figures, tables, provenance, and the ε slider without a kernel."""

import base64
import io
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from helpers.claims import CLAIMS, evaluate
from helpers.common.files import write_file
from helpers.plots import COLOURS
from helpers.study.frames import FILE, NUMBERS, read_frames
from helpers.study.readme import readable_table
from helpers.study.runner import find_fault, read_record
from helpers.tables import format_interval

TEMPLATES = Path(__file__).with_name("template")
LIMIT = 5_000_000  # bytes of a page that can be sent by mail
QUALITIES = (75, 50, 25, 10)  # of figures with pictures: the first that keeps the page within it
PRIVATE = ("jsrt",)  # datasets of which no pixel may be passed on
ELSEWHERE = (FILE, NUMBERS, "verdicts.csv", "transfer_verdicts.csv")  # not among a chapter's files
WRITES = re.compile(r'(?:study|patient)\.(?:save|write)\((?:\w+, )?"(\w+)"')
CAPTION = re.compile(r"^\*((?:Figure|Table) \d.+?)\*(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)


def write_page(folder: Path, wanted: Mapping) -> Path:
    """Write index.html of what has finished in a folder, and beside it each notebook as HTML.

    Nothing is computed: all numbers are those of the run's tables. A notebook that has not finished
    with these parameters, or whose files have changed since, is named and takes no part.

    Args:
        folder: of the run's results.
        wanted: the study's notebooks with the parameters that the run gave them.

    Returns:
        The path of the page.
    """
    faults = {notebook.stem: find_fault(folder, notebook, own) for notebook, own in wanted.items()}
    records = {each.stem: read_record(folder, each) for each in wanted if not faults[each.stem]}
    private = any(each["parameters"].get("dataset") in PRIVATE for each in records.values())
    names = [name for record in records.values() for name in record["files"]]
    about = {
        "profile": folder.name,
        "private": private,
        "faults": faults,
        "records": records,
        "chapters": {stem: _read_chapter(folder, stem, records[stem]) for stem in records},
        "claims": _read_claims(folder, names),
        "frames": read_frames(folder) if FILE in names and not private else None,
        "colours": COLOURS,
    }
    for stem in records:
        _write_notebook(folder / stem, private)
    for quality in QUALITIES:
        page = _render(about, partial(_read_figure, folder, private, quality))
        if len(page.encode()) <= LIMIT:
            break
    return write_file(folder / "index.html", page)


def _render(about, read_figure):
    from nbconvert.filters import markdown2html  # here: it takes a second, and bad usage none

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = markdown2html
    return environment.get_template("page.html").render(about, read_figure=read_figure)


def _write_notebook(path, private):
    """Write an executed notebook as HTML; if private without its outputs."""
    from nbconvert import HTMLExporter

    template = str(TEMPLATES / "notebook.html")
    exporter = HTMLExporter(template_file=template, exclude_output=private)
    write_file(path.with_suffix(".html"), exporter.from_filename(path.with_suffix(".ipynb"))[0])


def _read_chapter(folder, stem, record):
    """What the page shows of a notebook: its question, finding, figures and tables, in its order.

    A file that does not say where it comes from is named, and not shown.
    """
    import nbformat

    cells = nbformat.read(folder / f"{stem}.ipynb", as_version=4).cells
    captions = _captions(cells)
    names = [name for name in record["files"] if name not in ELSEWHERE]
    order = {name: place for place, name in enumerate(captions)}
    names.sort(key=lambda name: order.get(Path(name).stem, len(order)))
    known = [name for name in names if _has_provenance(folder / name)]
    return {
        "head": cells[0].source.split("\n\n"),
        "finding": _finding(cells),
        "captions": {name: captions.get(Path(name).stem, "") for name in known},
        "tables": {name: _read_table(folder / name) for name in known if name.endswith(".csv")},
        "unknown": [name for name in names if name not in known],
    }


def _captions(cells):
    """{name of a figure or table: the caption below the cell that writes it}."""
    found: dict = {}
    waiting: list = []
    for cell in cells:
        waiting += WRITES.findall(cell.source)
        for caption in CAPTION.findall(cell.source):
            found |= dict.fromkeys(waiting, caption)
            waiting = []
    return found


def _finding(cells):
    """The notebook's summary, most of which it has computed; without what comes next."""
    texts: list = []
    for cell in cells:
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        if texts:
            texts += [data.get("text/markdown", "") for data in outputs]
            break
        texts += cell.source.split("## Summary")[1:]
    return "\n".join(texts).partition("Next:")[0].strip()


def _has_provenance(path):
    """Whether a table (with rows) or the metadata of a figure name a dataset."""
    text = path.read_bytes()
    if path.suffix == ".csv":
        header, _, rows = text.partition(b"\n")
        return b"dataset" in header and rows != b""
    return b"dataset" in text


def _read_figure(folder, private, quality, name):
    """Address and size of a figure; None if it holds pictures that are not to be passed on."""
    with Image.open(folder / name) as image:
        has_pictures = json.loads(image.info["Description"]).get("pictures", True)
        if private and has_pictures:
            return None
        options = {"quality": quality} if has_pictures else {"lossless": True}
        packed = io.BytesIO()
        image.convert("RGB").save(packed, "WEBP", **options)
    return {"data": base64.b64encode(packed.getvalue()).decode(), "size": image.size}


def _read_table(path):
    """Columns and rows of a result table as texts; a mean is followed by its interval."""
    table, facts = readable_table(path)
    exact = pd.read_csv(path, dtype=str)
    texts = table if table.columns.name else exact.loc[table.index, table.columns]
    if "low" in table and not table.columns.name:
        name = table.columns[table.columns.get_loc("low") - 1]
        means = map(format_interval, table[name], table["low"], table["high"])
        if name != "iou":  # such as a ratio, of which one decimal shows nothing
            means = texts[name] + " (" + texts["low"] + "–" + texts["high"] + ")"
        texts = texts.assign(**{name: list(means)}).drop(columns=["low", "high"])
    return {
        "across": table.columns.name,
        "columns": list(map(str, texts.columns)),
        "rows": texts.astype(object).fillna("").values.tolist(),
        "facts": facts,
    }


def _read_claims(folder, names):
    """The verdicts on the claims whose tables are all of this run."""
    known = [claim.name for claim in CLAIMS if {f"{each}.csv" for each in claim.tables} <= {*names}]
    verdicts = evaluate(folder)
    return verdicts[verdicts["claim"].isin(known)].to_dict("records")
