"""`python -m ustat_grpo.command_line` is `ustat-grpo`."""

import sys

from ustat_grpo.command_line import main

if __name__ == "__main__":
    sys.exit(main())
