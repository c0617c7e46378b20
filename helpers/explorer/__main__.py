"""``python -m helpers.explorer`` draws figures/explorer.gif."""

import sys

from helpers.explorer.widget import main

sys.exit(main())
