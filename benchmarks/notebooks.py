"""Run the notebooks of examples/ from top to bottom and write their outputs into them.

Usage: python -m benchmarks.notebooks [NOTEBOOK ...]

Each runs in a separate empty folder, so that it finds nothing of an earlier run. Outputs hold no times and no counts of
executions, so that a run that changes nothing changes no file.
"""

import argparse
import base64
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

MOST_PX = 900
"""Approximate width to which a picture is reduced."""
EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    """Run all notebooks, or the named ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.ipynb")))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for file in parser.parse_args().notebooks:
        notebook = nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(
                notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
            ).execute()
        for cell in notebook.cells:
            cell.metadata.clear()
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = [kept(output) for output in cell.outputs if output.get("name") != "stderr"]
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(notebook, file)  # type: ignore[no-untyped-call]
        print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")


def kept(output: Any) -> Any:  # noqa: ANN401 - nbformat
    """Clean an output for a commit: without counts, a picture as one small PNG of 128 colours."""
    if "execution_count" in output:
        output.execution_count = None
    if "image/png" in output.get("data", {}):
        with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as picture:
            small = picture.convert("RGB").reduce(max(1, round(picture.width / MOST_PX))).quantize(128)
        encoded = io.BytesIO()
        small.save(encoded, "PNG", optimize=True)
        output.data = {"image/png": base64.b64encode(encoded.getvalue()).decode()}
    return output


if __name__ == "__main__":
    main()
