"""``python -m lqcompile``."""

import sys

from lqcompile.cli import main

if __name__ == "__main__":
    sys.exit(main())
