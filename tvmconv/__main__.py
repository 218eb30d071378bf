"""``python -m tvmconv`` is the command line."""

import sys

from tvmconv.cli import main

sys.exit(main())
