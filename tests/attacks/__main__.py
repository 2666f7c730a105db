"""`python -m tests.attacks [--json] [--seconds N] [NAME…]`: make each attack, or those that are
named, and print the table of what a well-behaved caller noticed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attacks import outages
from tests.attacks.measuring import Row, measured
from tests.attacks.rows import REQUESTS
from tests.attacks.table import markdown

SECONDS, BEFORE = 8.0, 4.0
OUTAGES: dict[str, Callable[[Path, float, float], Row]] = {
    "hostile-leanplum": outages.hostile_leanplum,
    "deleted-file": outages.deleted_file,
    "silent-database": outages.silent_database_alone,
}
NAMES = (*REQUESTS, *OUTAGES)


def rows(names: list[str], seconds: float) -> Iterator[Row]:
    for name in names:
        with tempfile.TemporaryDirectory(prefix="attack") as folder:
            if name in OUTAGES:
                # Longer: callers are to hear within GATEWAY_COMMIT_SECONDS, several times.
                yield OUTAGES[name](Path(folder), max(seconds, 25.0), BEFORE)
            else:
                yield from measured(Path(folder), [REQUESTS[name]], seconds, BEFORE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each attack")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    found = list(rows(given.names or list(NAMES), given.seconds))
    sys.stdout.write(
        json.dumps([row.as_dict() for row in found], indent=1) if given.json else markdown(found)
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
