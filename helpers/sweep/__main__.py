"""``python -m helpers.sweep status STORE`` ; with ``--help`` the rest."""

import argparse
import sys
import warnings
from pathlib import Path

from helpers.common.arguments import require
from helpers.sweep.report import export, status
from helpers.sweep.runner import rerun_failed

COMMANDS = """
Commands: `status` verifies every result, and says what the store holds and what failed; `export`
prints the table of all results as CSV; `run` computes a failed experiment alone.
"""


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        The exit code: 0 done, 1 something is damaged or failed, 2 bad usage.
    """
    parser = argparse.ArgumentParser("python -m helpers.sweep", description=COMMANDS)
    parser.add_argument("command", choices=("status", "export", "run"))
    parser.add_argument("store", help="folder of the store")
    parser.add_argument("key", nargs="?", default="", help="first characters of a failed key")
    options = parser.parse_args(argv)
    folder, healthy = Path(options.store), True
    try:
        require(
            (folder / "format.json").exists(),
            "store",
            options.store,
            "this is not a store of results",
        )
        with warnings.catch_warnings(record=True, action="always") as caught:
            if options.command == "export":
                export(folder).to_csv(sys.stdout, index=False, lineterminator="\n")
            elif options.command == "run":
                result = rerun_failed(folder, options.key)
                print(f"done: IoU with the target {result.iou['target']}")
            else:
                text, healthy = status(folder)
                print(text)
    except (ValueError, OSError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    for warning in caught:
        print(f"sweep: {warning.message}", file=sys.stderr)
    return int(bool(caught) or not healthy)


if __name__ == "__main__":
    sys.exit(main())
