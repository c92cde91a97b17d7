"""`python -m lebureau_relay`: the same program as the `lebureau-relay` script."""

import sys

from lebureau_relay.cli import main

sys.exit(main())
