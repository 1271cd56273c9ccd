"""Text encoders that several families share."""

__all__ = ["T5", "UMT5"]

_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
T5 = {"text_encoder": ("T5EncoderModel", {**_XXL, "vocab_size": 32128})}
UMT5 = {"text_encoder": ("UMT5EncoderModel", {**_XXL, "vocab_size": 256384})}
