"""Feed one kind of file of `test_fuzz.py` with inputs that atheris changes towards new code.

    PYTHONPATH=tests:tests/hostile python tests/hostile/by_coverage.py KIND FOLDER SOURCE INPUTS

FOLDER is for what the kind writes, SOURCE is a dataset or a weights file. The exit code is not 0
where an input does harm; it lies in FOLDER then.
"""

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oculox"]):
    import test_fuzz


def main():
    name, folder, source, inputs = sys.argv[1:]
    folder = Path(folder)
    kind = getattr(test_fuzz, name)(folder, Path(source))
    good = folder / "good"
    good.mkdir()
    (good / "input").write_bytes(kind.good)
    options = [
        f"-runs={inputs}",
        f"-timeout={test_fuzz.SECONDS}",
        f"-rss_limit_mb={test_fuzz.MEMORY >> 20}",
        f"-max_len={4 * len(kind.good)}",
        f"-artifact_prefix={folder}{os.sep}",
    ]
    atheris.Setup([sys.argv[0], *options, str(good)], kind)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
