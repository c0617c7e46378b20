"""``python -m helpers.study --profile full -p steps=50`` ; with ``--help`` the rest."""

import argparse
import signal
import sys
from collections.abc import Sequence

from helpers import study
from helpers.common import paths
from helpers.study.page import write_page
from helpers.study.parameters import find_notebooks, parse_override, plan, resolve
from helpers.study.publish import publish
from helpers.study.runner import finished_files, run


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser("study", usage=argparse.SUPPRESS, description=study.__doc__)
    add = parser.add_argument
    add("--profile", default="quick", help="quick (default) or a file of notebooks/profiles")
    add(
        "--only",
        action="extend",
        default=[],
        type=lambda text: text.split(","),
        help="number of a notebook, or several: 03,04",
    )
    add(
        "-p",
        dest="overrides",
        action="append",
        default=[],
        type=parse_override,
        metavar="NAME=VALUE",
        help="a parameter that replaces the profile's, e.g. steps=10",
    )
    add("--page", metavar="PROFILE", help="write the page of a finished run again, and run nothing")
    add("--publish", metavar="PROFILE", help="copy a finished run's tables and figures to figures/")
    options = parser.parse_args(argv)
    if options.overrides and options.publish:
        parser.error("--publish takes no -p: a profile's own parameters are published")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        The exit code: 0 done, 1 a notebook failed, 2 bad usage, 130 interrupted.
    """
    options = parse(argv)
    try:
        if options.publish:
            print(*publish(options.publish, options.only), sep="\n")
            return 0
        profile = options.page or options.profile
        folder = paths.RUNS / profile
        wanted = (paths.NOTEBOOKS, profile, options.overrides, options.only)
        others = resolve(*wanted)
        if options.page:
            for notebook in find_notebooks(paths.NOTEBOOKS, options.only):
                finished_files(folder, notebook, others[notebook])
            print(write_page(folder, others))
            return 0
        steps = plan(*wanted)
    except ValueError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    try:
        code = run(steps, profile, folder, options.overrides)
        if not code:
            print("\nThe run as a page, to look at or to send:")
            print(write_page(folder, others))
    except (OSError, ValueError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a redirected console may lack a character
        stream.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
