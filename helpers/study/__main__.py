"""``python -m helpers.study --profile full -p steps=50`` ; with ``--help`` the rest."""

import signal
import sys

from helpers.study.runner import main

signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
