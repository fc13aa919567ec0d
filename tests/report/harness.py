"""What the tests of the command's output share."""
import pathlib
import sys


def command_of(usage):
    """Takes the command's path off the program's arguments, whose rest is for unittest; without one, says how the program is used."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(usage, file=sys.stderr)
        sys.exit(2)
    return str(pathlib.Path(sys.argv.pop(1)).resolve())
