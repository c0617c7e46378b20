"""``python -m helpers.sweep status STORE`` ; with ``--help`` the rest."""

import argparse
import os
import sys
import warnings
from pathlib import Path

import numpy as np

from helpers.sweep.report import export, status
from helpers.sweep.runner import rerun_failed

COMMANDS = {
    "status": "say what a store holds",
    "verify": "read every cell and set damaged ones aside",
    "export": "print the table of all cells as CSV",
    "run": "compute a failed cell alone",
}


def main(argv=None):
    """The command line. Returns the exit code: 0 done, 1 something is damaged or failed, 2 bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.sweep", description=__doc__.splitlines()[0]
    )
    parser.error = lambda message: parser.exit(2, f"sweep: {message} (--help lists the options)\n")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.error = parser.error
        command.add_argument("store", help="folder of the store")
        if name == "run":
            command.add_argument("cell", help="first characters of the cell's key")
    options, healthy = parser.parse_args(argv), True
    try:
        if not (Path(options.store) / "format.json").exists():
            raise ValueError(f"{options.store} is not a store of cells (it has no format.json)")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if options.command == "export":
                export(options.store).to_csv(sys.stdout, index=False, lineterminator="\n")
            elif options.command == "run":
                outcome = rerun_failed(options.store, options.cell)
                print(f"done: IoU with the target {np.nanmean(outcome.iou['target']):.1f}")
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
