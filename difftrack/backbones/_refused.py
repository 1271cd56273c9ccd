"""Video transformers of diffusers that are not captured, and why."""

from collections.abc import Mapping

__all__ = ["REFUSED"]

REFUSED: Mapping[str, str] = {
    "Cosmos3OmniTransformer": (
        "one attention module attends twice, causally over text and fully over all, and several query heads share a key"
    ),
    "SanaVideoTransformer3DModel": "its attention is linear: there is no softmax of queries and keys to read",
    "SanaWMTransformer3DModel": "its attention is linear: there is no softmax of queries and keys to read",
    "LatteTransformer3DModel": (
        "its attention is factorised: a layer attends within a frame, or along time at one place, never to another "
        "place of another frame"
    ),
    "AnyFlowFARTransformer3DModel": "it denoises chunk after chunk, with compressed tokens of the chunks before",
    "WanAnimateTransformer3DModel": "it reads the pose and the face of another clip",
    "WanAnimate2Transformer3DModel": "it reads the pose and the face of another clip",
    "Kandinsky6SRTransformer3DModel": "it enlarges a clip that another model made",
}
"""Transformer class -> reason; a family that a package registers for such a class is still used."""
