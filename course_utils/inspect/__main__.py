"""What a file of weights or a checkpoint holds, without running anything of it: python -m course_utils.inspect FILE

It says what kind of file it is, which tensors it holds, what it would run if it were loaded carelessly, whether its
bytes are whole, and what it lacks for an exact resume. It ends with 0 when the file is whole and would run nothing,
with 1 when not, and with 2 when it cannot be read. Source: notebook 08, section "What is in this file?".
"""

import argparse
import sys

from course_utils.inspect import Unreadable, look, report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.inspect", description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--all", action="store_true", help="name every tensor")
    options = parser.parse_args(arguments)
    try:
        found = look(options.file)
        print(report(found, options.all))
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 2
    return int(bool(found.runs or found.faults))


if __name__ == "__main__":
    sys.exit(main())
