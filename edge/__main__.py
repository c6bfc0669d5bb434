"""``python -m edge``."""

import sys

from edge.cli._main import main

sys.exit(main())
