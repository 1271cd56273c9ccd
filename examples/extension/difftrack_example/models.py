"""The transformer and the autoencoder, with diffusers' way of saving and loading."""

from types import SimpleNamespace

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["ToyAttention", "ToyAutoencoder", "ToyTransformer3DModel"]


class ToyAttention(nn.Module):
    """Self-attention through torch's `scaled_dot_product_attention`, which is where DiffTrack captures it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, token, width] to tokens of the same shape."""
        split = self.to_qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*split)  # [batch, head, token, channel] each
        return self.to_out(attended.transpose(1, 2).flatten(2))


class ToyBlock(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), ToyAttention(width, num_heads)
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.out = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, token, width] to tokens of the same shape."""
        tokens = tokens + self.attention(self.norm(tokens))
        return tokens + self.out(self.feed_forward(tokens))


class ToyTransformer3DModel(ModelMixin, ConfigMixin):
    """Text tokens first, then video tokens in (latent frame, row, col) order; attention over all of them."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        patch_size: int = 2,
        num_layers: int = 3,
        num_attention_heads: int = 2,
        attention_head_dim: int = 8,
        text_length: int = 12,
        text_channels: int = 6,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.letters, self.text = nn.Embedding(128, text_channels), nn.Linear(text_channels, width)
        self.position, self.time = nn.Linear(3, width), nn.Linear(1, width)
        self.blocks = nn.ModuleList([ToyBlock(width, num_attention_heads) for _ in range(num_layers)])
        self.out = nn.Linear(width, out_channels * patch_size**2)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Map latents [batch, latent_frame, channel, row, col] and text [batch, token, channel] to the velocity."""
        batch, frames = hidden_states.shape[:2]
        patched = self.patches(hidden_states.flatten(0, 1))
        rows, cols = patched.shape[2:]
        video = patched.unflatten(0, (batch, frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        axes = [torch.linspace(-1, 1, size, device=video.device, dtype=video.dtype) for size in (frames, rows, cols)]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
        time = self.time(timestep.to(video.dtype).view(-1, 1, 1) / 1000)
        text = self.text(encoder_hidden_states)
        tokens = torch.cat([text, video + self.position(place) + time], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        size = self.config.patch_size
        out = self.out(tokens[:, text.shape[1] :]).view(batch, frames, rows, cols, -1, size, size)
        return (out.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4),)


class ToyAutoencoder(ModelMixin, ConfigMixin):
    """One convolution each way: 4 x 4 pixels to a latent pixel, 4 frames to a latent frame after the first."""

    @register_to_config
    def __init__(self, latent_channels: int = 4, spatial_stride: int = 4, temporal_stride: int = 4) -> None:
        super().__init__()
        kernel = (temporal_stride, spatial_stride, spatial_stride)
        self.encoder = nn.Conv3d(3, latent_channels, kernel, stride=kernel)
        self.decoder = nn.ConvTranspose3d(latent_channels, 3, kernel, stride=kernel)

    def encode(self, videos: Tensor) -> SimpleNamespace:
        """Encode videos [batch, rgb, frame, row, col] in [-1, 1]; the first frame is repeated in front."""
        padded = torch.cat([videos[:, :, :1].expand(-1, -1, self.config.temporal_stride - 1, -1, -1), videos], dim=2)
        return SimpleNamespace(latents=self.encoder(padded))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [batch, channel, latent_frame, row, col] to videos in [-1, 1]."""
        return self.decoder(latents)[:, :, self.config.temporal_stride - 1 :].clamp(-1, 1)
