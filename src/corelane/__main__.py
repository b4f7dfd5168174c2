"""`python -m corelane` is the command `corelane`."""

import sys

from corelane.cli.main import main

sys.exit(main())
