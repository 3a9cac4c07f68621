"""`python -m runtime.bench.known_tasks NAME`: is there such a task? Exit code 2 and one sentence where not.
For programs that may not import the bench.
"""

from __future__ import annotations

import sys

from runtime.bench.tasks import UnknownTask, find_task


def main() -> int:
    try:
        find_task(sys.argv[1].replace("-", "_"))
    except UnknownTask as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
