"""Save a pipeline folder with random weights: python -m difftrack_example.save FOLDER."""

import sys
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from difftrack_example.models import ToyAutoencoder, ToyTransformer3DModel
from difftrack_example.pipeline import ToyPipeline

__all__ = ["save"]


def save(folder: Path) -> Path:
    """Save a folder that `load_backbone("path:FOLDER")` reads: one folder per component, and model_index.json."""
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = ToyPipeline(transformer=ToyTransformer3DModel(), vae=ToyAutoencoder(), scheduler=scheduler)
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    for module in ("models", "pipeline"):  # diffusers names the module of a class; a folder names the family's library
        index.write_text(index.read_text().replace(f'"difftrack_example.{module}"', '"difftrack_example"'))
    return folder


if __name__ == "__main__":
    save(Path(sys.argv[1]))
