"""``python -m helpers.sweep status STORE`` ; with ``--help`` the rest."""

import sys

from helpers.sweep.runner import main

sys.exit(main())
