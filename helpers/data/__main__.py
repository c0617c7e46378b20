"""``python -m helpers.data check`` looks through a copy on disk before anything is trained on it."""

import sys

from helpers.data.dataset import main

sys.exit(main())
