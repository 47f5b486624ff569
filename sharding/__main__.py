"""`python -m sharding`, for where the console script is not installed."""

import sys

from sharding.cli import main

sys.exit(main())
