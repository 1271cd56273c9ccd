"""CogVideoX, 1.0 and 1.5, text to video: joint attention, text first, velocity prediction."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from difftrack.backbones._backbone import Backbone, Generated, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder, to_uint8
from difftrack.backbones._schedule import VelocitySchedule

__all__ = ["CogVideoXBackbone"]


class CogVideoXBackbone(Backbone):
    """A CogVideoX pipeline folder. Its attention masks no text: padding takes part in it."""

    text_position = "first"

    @property
    def num_heads(self) -> int:
        return int(self._config.num_attention_heads)

    @property
    def num_channels(self) -> int:
        return int(self._config.attention_head_dim)

    @property
    def patch_size(self) -> int:
        return int(self._config.patch_size)

    @property
    def latents_per_token_frame(self) -> int:
        return int(self._config.patch_size_t or 1)

    @property
    def spatial_stride(self) -> int:
        return int(2 ** (len(self._component("vae").config.block_out_channels) - 1))

    @property
    def temporal_stride(self) -> int:
        return int(self._component("vae").config.temporal_compression_ratio)

    @property
    def text_length(self) -> int:
        return int(self._config.max_text_seq_length)

    @property
    def _config(self) -> Any:  # noqa: ANN401
        return self.transformer.config

    def attention_modules(self) -> Sequence[nn.Module]:
        return [block.attn1 for block in self._component("transformer").transformer_blocks]

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        tokenizer = self._component("tokenizer")
        ids = tokenizer(prompt).input_ids
        if len(ids) > self.text_length:
            cut = tokenizer.decode(ids[self.text_length - 1 :], skip_special_tokens=True)
            warnings.warn(
                f"{self.name} reads {self.text_length} text tokens; cut from the prompt: {cut!r}", stacklevel=2
            )
        padded = tokenizer(
            prompt, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        tokens = self._component("text_encoder")(padded.input_ids.to(self.device))[0][0].to(self.dtype)
        self._release_text_encoder()
        return PromptEmbedding(tokens, mask=torch.ones(len(tokens), dtype=torch.bool, device=tokens.device))

    def schedule(self, num_inference_steps: int, *, num_tokens: int | None = None) -> VelocitySchedule:
        """Trailing timesteps, whatever the checkpoint's copy says: its public copies disagree."""
        scheduler = self._scheduler()
        if scheduler.config.prediction_type != "v_prediction":
            raise BackboneError(
                f"{self.name}: its scheduler predicts {scheduler.config.prediction_type}; CogVideoX "
                f"schedules are known for v_prediction only"
            )
        scheduler.set_timesteps(num_inference_steps)
        return VelocitySchedule(
            scheduler.timesteps,
            alphas_cumprod=scheduler.alphas_cumprod,
            stride=scheduler.config.num_train_timesteps // num_inference_steps,
            final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
        )

    @torch.no_grad()
    def predict(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        timestep: Shaped[Tensor, ""],
        prompt: PromptEmbedding,
    ) -> Float[Tensor, "latent_frame channel row col"]:
        num_latent_frames, _, rows, cols = latents.shape
        output: Tensor = self.transformer(
            hidden_states=latents.to(self.device, self.dtype).unsqueeze(0),
            encoder_hidden_states=prompt.tokens.unsqueeze(0),
            timestep=timestep.to(self.device).expand(1),
            image_rotary_emb=self._rotary_embedding(num_latent_frames, rows, cols),
            return_dict=False,
        )[0]
        return output[0].to(latents.dtype)

    def generate(
        self,
        prompt: str,
        *,
        seed: int,
        num_inference_steps: int,
        cfg_scale: float,
        num_frames: int,
        height: int,
        width: int,
    ) -> Generated:
        grid = self.token_grid(num_frames, height, width)
        noise = randn_tensor(
            (
                1,
                grid.num_latent_frames * self.latents_per_token_frame,
                self._config.in_channels,
                height // self.spatial_stride,
                width // self.spatial_stride,
            ),
            generator=torch.Generator("cpu").manual_seed(seed),
            device=self.device,
            dtype=self.dtype,
        )
        recorder = TrajectoryRecorder(noise)
        frames = self._pipeline()(
            prompt_embeds=self.embed(prompt).tokens.unsqueeze(0),
            negative_prompt_embeds=self.embed("").tokens.unsqueeze(0),
            latents=noise,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=cfg_scale,
            callback_on_step_end=recorder,
            output_type="np",
        ).frames[0]
        return Generated(frames=to_uint8(frames), trajectory=recorder.trajectory())

    def _encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        vae = self._component("vae")
        latents: Tensor = vae.encode(videos).latent_dist.mode() * vae.config.scaling_factor
        return latents.transpose(1, 2)

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask

    def _rotary_embedding(self, num_latent_frames: int, rows: int, cols: int) -> tuple[Tensor, Tensor] | None:
        """As the stock pipeline prepares it, for any number of latent frames."""
        if not self._config.use_rotary_positional_embeddings:
            return None
        stride = self.spatial_stride
        rotary: tuple[Tensor, Tensor] = self._pipeline()._prepare_rotary_positional_embeddings(
            rows * stride, cols * stride, num_latent_frames, self.device
        )
        return rotary

    def _scheduler(self) -> Any:  # noqa: ANN401
        shipped = self._component("scheduler")
        return type(shipped).from_config(shipped.config, timestep_spacing="trailing")

    def _pipeline(self) -> Any:  # noqa: ANN401
        """The stock pipeline over the loaded components; prompts reach it embedded, so it has no text encoder."""
        pipeline = getattr(diffusers, self._folder.pipeline_class)(
            tokenizer=None,
            text_encoder=None,
            vae=self._component("vae"),
            transformer=self._component("transformer"),
            scheduler=self._scheduler(),
        )
        pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
        return pipeline
