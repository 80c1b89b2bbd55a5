"""`python -m singlelife`, the same as the command `singlelife`."""

import sys

from singlelife.cli import main

sys.exit(main())
