"""Execute docs/tour.ipynb from scratch and write its outputs back: `make tour`.

Progress bars go to standard error and are not kept; anything else there fails the execution, so
that no warning is lost with them.
"""

import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
SECONDS = 900
"""The most that a cell may take: two of them train a network."""
PROGRESS = re.compile(r"^(draw|likelihood|check|errors)\b.*\[\d+:\d\d[<,]")


def executed(folder: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh kernel, without progress bars.

    Args:
        folder: the kernel's working directory, also of its temporary files.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        RuntimeError: a cell warned.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of the user's
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, **own})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    return notebook


def is_progress(output: NotebookNode) -> bool:
    """Whether an output of a cell is that of progress bars.

    Raises:
        RuntimeError: it is something else on standard error.
    """
    if output.get("name") != "stderr":
        return False
    lines = re.split(r"[\r\n]+", output.text)
    others = [line for line in lines if line.strip() and not PROGRESS.match(line)]
    if others:
        raise RuntimeError(f"a cell of {NOTEBOOK.name} wrote to standard error: {others[0]}")
    return True


def main() -> None:
    """Execute the notebook and write it back, under the metadata that it had."""
    metadata = nbformat.read(NOTEBOOK, as_version=4).metadata
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    notebook.metadata = metadata
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
