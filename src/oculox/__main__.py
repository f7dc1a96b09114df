"""``python -m oculox``: the command line."""

from oculox.cli.main import run

if __name__ == "__main__":
    run()
