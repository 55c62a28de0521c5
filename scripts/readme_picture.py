"""Makes the README's picture: the ladder of the guided notebook, as the notebook draws it.

    python scripts/readme_picture.py [--browser chromium]

Executes the notebook up to its last rung and photographs that cell's html with a headless browser.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from hfgpu_magic.views._style import page

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "ladder.png"


def ladder_html() -> str:
    """The html of the cell that shows all four rungs."""
    book = nbformat.read(ROOT / "notebooks" / "clear_the_oom.ipynb", as_version=4)
    last = max(i for i, cell in enumerate(book.cells) if cell.source.rstrip().endswith("compare(ladder)"))
    del book.cells[last + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=900, resources={"metadata": {"path": folder}}).execute()
    html = [o["data"]["text/html"] for o in book.cells[last].outputs if "text/html" in o.get("data", {})]
    return str(html[-1])


def photograph(html: str, browser: str, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "page.html"
        document.write_text(page("hfgpu_magic", html), encoding="utf-8")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command = [
            browser, *flags, *quiet, f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2",
            f"--window-size={width},{height}", f"--screenshot={PICTURE}", document.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", default="chromium")
    options = parser.parse_args()
    photograph(ladder_html(), options.browser, 860, 330)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
