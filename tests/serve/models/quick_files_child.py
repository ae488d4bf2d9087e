"""A child process of the supervisor that looks for changed files often: `python quick_files_child.py ROLE DESCRIPTOR`."""

from __future__ import annotations

import sys

from fletcher.serve.fronts import child
from fletcher.serve.models import readiness

#: Seconds between two looks at the files of an artifact.
FILES_SECONDS = 0.2

if __name__ == "__main__":
    readiness.FILES_SECONDS = FILES_SECONDS
    sys.exit(child.main(sys.argv[1:]))
