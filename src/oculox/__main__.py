"""``python -m oculox``: the command line."""

from oculox.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
