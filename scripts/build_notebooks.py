"""Writes each notebooks/NAME.py (the reviewable source, jupytext's percent format) as notebooks/NAME.ipynb.

python scripts/build_notebooks.py            # write
python scripts/build_notebooks.py --check    # only say whether they agree; exit 1 if not
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def built(source: Path) -> str:
    """The notebook as text: no outputs, no widget state, cell ids that do not change from run to run."""
    book = jupytext.read(source)
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata = {}
    book.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    book.nbformat, book.nbformat_minor = 4, 5
    return str(nbformat.writes(book)) + "\n"


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for source in sorted(FOLDER.glob("*.py")):
        target = source.with_suffix(".ipynb")
        text = built(source)
        if check:
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                stale.append(target.name)
        else:
            target.write_text(text, encoding="utf-8")
            print(target)
    if stale:
        print(f"Not built from their sources: {', '.join(stale)}. Run python scripts/build_notebooks.py.")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
