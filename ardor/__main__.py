"""`python -m ardor` is `ardor`."""

import sys

from ardor.cli.main import main

sys.exit(main())
