"""`python -m ardor` is `ardor`."""

import sys

from ardor.cli import main

sys.exit(main())
