"""Executes a notebook without a browser and writes what came of it as one html file.

    python scripts/execute_notebook.py NOTEBOOK PAGE

The page stands alone: no widget state, nothing to fetch.  A cell that fails unexpectedly ends the
run with exit status 1; the page is written all the same, up to and including that cell.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute a notebook and write it as a standalone html page.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="for one cell (1800)")
    options = parser.parse_args()
    if not options.notebook.is_file():
        parser.error(f"there is no notebook {options.notebook}")

    started = time.monotonic()
    book = nbformat.read(options.notebook, as_version=4)
    failure = execute(book, options.notebook.parent, options.timeout)
    without_widgets(book)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(as_html(book, options.notebook.stem), encoding="utf-8")
    print(f"{options.page} written after {time.monotonic() - started:.0f} s")
    if failure:
        print(f"The notebook did not run through: {failure}", file=sys.stderr)
        return 1
    return 0


def execute(book: Any, folder: Path, timeout: int) -> str | None:
    """Runs every cell in `folder`; the reason if one failed that may not."""
    code = [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]

    def tell(cell: Any, cell_index: int) -> None:
        if cell_index in code:
            title = next((line for line in cell.source.splitlines() if line.strip()), "")
            print(f"  cell {code.index(cell_index) + 1} of {len(code)}: {title[:70]}", flush=True)

    client = NotebookClient(
        book,
        timeout=timeout,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=tell,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own remarks on its transport
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        return str(e)
    return None


def without_widgets(book: Any) -> None:
    """Leaves the text and html of an output; a live view cannot live in a file."""
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET, None)


def as_html(book: Any, title: str) -> str:
    """The page.  Scripts that nbconvert would fetch for maths, diagrams and widgets are left out."""
    exporter = HTMLExporter(template_name="lab")
    for name in exporter.trait_names():
        if name.endswith("_url"):
            setattr(exporter, name, "")
    html: str
    html, _ = exporter.from_notebook_node(book, resources={"metadata": {"name": title}})
    return re.sub(r'<script src="">\s*</script>', "", html)


if __name__ == "__main__":
    sys.exit(main())
