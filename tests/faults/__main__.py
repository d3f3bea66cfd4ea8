"""python -m faults, from the folder tests: the long form."""

import sys

from faults.table import main

if __name__ == "__main__":
    sys.exit(main())
