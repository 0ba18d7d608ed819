"""Where the process begins: `gateway`, and `python -m gateway`, which is the same.

Rules of this file: before anything else is imported, which takes longer than a service manager may wait with its first
reload, signals are held for the command that obeys them.
"""

from __future__ import annotations

import sys

from gateway import starting


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["run"]:
        starting.hold()
    from gateway import cli

    cli.main(prog_name="gateway")


if __name__ == "__main__":
    main()
