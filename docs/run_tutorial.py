"""Run every `bash` block of docs/tutorial.md, in order and in one shell: the page is the script.

    python docs/run_tutorial.py                               as the page says, in the folder tutorial/
    T=/tmp/try STEPS=100 STEPS_2=50 python docs/run_tutorial.py   smaller; the page's first block lists the sizes

Ends with the exit code of the first command that fails. Needs the packages of `pip install -e '.[demo]'`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """The commands of a page, a text for each block."""
    return BLOCK.findall(page)


def script(page: str) -> str:
    """All blocks as one bash script, which prints each before it runs and stops at the first failure."""
    parts = ["set -euo pipefail"]
    for block in blocks(page):
        parts += [f"cat <<'END_OF_BLOCK'\n\n{block}END_OF_BLOCK", block]
    return "\n".join(parts)


def main() -> int:
    """Run the page in the repository; this Python and its commands are found first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    program = script(PAGE.read_text(encoding="utf-8"))
    return subprocess.run(["bash", "-c", program], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
