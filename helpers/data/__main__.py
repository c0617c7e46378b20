"""`python -m helpers.data check` looks through a copy on disk before anything is trained on it."""

import argparse
import sys
from pathlib import Path

from helpers.data.check import check


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0 if training could start, else 1."""
    parser = argparse.ArgumentParser(
        "python -m helpers.data",
        description="Read every file of a dataset and report counts, sizes and unusable files by "
        "name. The exit status is 0 if training could start with all of them and 1 if not. Without "
        "an option: the JSRT copy in $JSRT_DIR or data/jsrt.",
    )
    parser.add_argument("command", choices=["check"])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--jsrt", type=Path, metavar="DIR", help="a copy of JSRT with SCR's masks")
    form = "a dataset of images with masks or label maps, as data/README.md lays them out"
    which.add_argument("--folder", type=Path, metavar="DIR", help=form)
    options = parser.parse_args(arguments)
    try:
        ready = check("folder" if options.folder else "jsrt", options.folder or options.jsrt)
    except OSError as error:
        print(error)
        ready = False
    return int(not ready)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a name may be in no code
    sys.exit(main())
