"""The features of a face that ConsisID reads beside a prompt and an image.

Models outside diffusers and transformers compute them, from pickles and ONNX files, which are never loaded here. The
user runs them once for a face (diffusers' `process_face_embeddings_infer`) and puts what they give beside the pipeline,
as `face.safetensors`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from difftrack.backbones._errors import BackboneError

__all__ = ["FACE_FILE", "FaceFeatures", "read_face"]

FACE_FILE = "face.safetensors"
"""In the folder of the pipeline: `id_cond` and `id_vit_hidden`, the hidden states stacked."""
_IDENTITY, _HIDDEN = "id_cond", "id_vit_hidden"


@dataclass(frozen=True, slots=True)
class FaceFeatures:
    """A face, as ConsisID's transformer reads it."""

    identity: Float[Tensor, "1 channel"]
    """Embedding of a face recogniser, and beside it one of an image encoder."""
    vit_hidden: Float[Tensor, "depth 1 token vit_channel"]
    """Hidden states of the image encoder."""

    def digest(self) -> str:
        """Hash of all numbers."""
        numbers = hashlib.sha256()
        for tensor in (self.identity, self.vit_hidden):
            numbers.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return numbers.hexdigest()[:16]


def read_face(folder: Path | None, *, name: str) -> FaceFeatures:
    """Read the features of a face from the folder of a pipeline.

    Args:
        folder: Of the pipeline; None where it was made from no folder.
        name: Of the backbone, for messages.

    Raises:
        BackboneError: the file is missing, damaged, or holds something else.
    """
    way_out = (
        f"write {FACE_FILE} into the pipeline's folder, with {_IDENTITY} and the stacked {_HIDDEN} that diffusers' "
        f"process_face_embeddings_infer gives, or set the backbone's `face` (docs/backbones.md)"
    )
    file = None if folder is None else folder / FACE_FILE
    if file is None or not file.is_file():
        raise BackboneError(f"{name} reads the features of a face, but none are given; {way_out}")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{file} cannot be read ({' '.join(str(error).split())}); {way_out}") from error
    identity, hidden = tensors.get(_IDENTITY), tensors.get(_HIDDEN)
    if identity is None or hidden is None or identity.ndim != 2 or hidden.ndim != 4:
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        raise BackboneError(
            f"{file} holds {shapes}; expected {_IDENTITY} [1, channel] and {_HIDDEN} [depth, 1, token, channel]; "
            f"{way_out}"
        )
    if not (torch.isfinite(identity).all() and torch.isfinite(hidden).all()):
        raise BackboneError(f"{file} holds numbers that are not finite; {way_out}")
    return FaceFeatures(identity, hidden)
