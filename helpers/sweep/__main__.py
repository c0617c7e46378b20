"""``python -m helpers.sweep status STORE`` ; with ``--help`` the rest."""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np

from helpers.sweep.report import export, status
from helpers.sweep.runner import rerun_failed

COMMANDS = {
    "status": "verify every result, and say what the store holds and what failed",
    "export": "print the table of all results as CSV",
    "run": "compute a failed experiment alone",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sweep: {message} (--help lists the options)\n")


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        The exit code: 0 done, 1 something is damaged or failed, 2 bad usage.
    """
    parser = _Parser(prog="python -m helpers.sweep", description="The store of a sweep.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("store", help="folder of the store")
        if name == "run":
            command.add_argument("key", help="first characters of the experiment's key")
    options = parser.parse_args(argv)
    healthy = True
    try:
        if not (Path(options.store) / "format.json").exists():
            raise ValueError(f"{options.store} is not a store of results (it has no format.json)")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if options.command == "export":
                export(options.store).to_csv(sys.stdout, index=False, lineterminator="\n")
            elif options.command == "run":
                result = rerun_failed(options.store, options.key)
                print(f"done: IoU with the target {np.nanmean(result.iou['target']):.1f}")
            else:
                text, healthy = status(options.store)
                print(text)
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    for warning in caught:
        print(f"sweep: {warning.message}", file=sys.stderr)
    return int(bool(caught) or not healthy)


if __name__ == "__main__":
    sys.exit(main())
