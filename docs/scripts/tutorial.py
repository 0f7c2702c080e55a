"""The tutorial, run from its first cell to its last: `python -m docs.scripts.tutorial` writes what came out into docs/tutorial.ipynb."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "tutorial.ipynb"
TIME_LIMIT_S = 300


def executed() -> NotebookNode:
    """The notebook with new outputs. Raises CellExecutionError where a cell fails."""
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=TIME_LIMIT_S, resources={"metadata": {"path": NOTEBOOK.parent}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of this run
        # Notes and warnings are of this machine, and one form of a picture is enough.
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        for output in cell.outputs:
            output.get("data", {}).pop("image/jpeg", None)
        if cell.cell_type == "markdown":
            del cell["outputs"]
    # Which Python ran it is nobody's business, and would change the file with every release.
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Write the notebook, or with a path on the command line write it there."""
    nbformat.write(executed(), Path(sys.argv[1]) if sys.argv[1:] else NOTEBOOK)


if __name__ == "__main__":
    main()
