"""The same as `gnomon migrate`, from a checkout: `python cmd/migrate.py --help`."""

import sys
from pathlib import Path

# In place of this folder: the source root, so that nothing has to be installed but the requirements.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "internal")

from gnomon.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(["migrate", *sys.argv[1:]])
