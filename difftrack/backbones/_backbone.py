"""How a backbone samples clips and records their latents."""

import warnings
from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from difftrack.backbones._capturing import CapturingBackbone
from difftrack.backbones._conditions import Generated, PromptEmbedding, Trajectory
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder, to_uint8
from difftrack.backbones._words import unknown_words
from difftrack.geometry import TokenGrid
from difftrack.media import resize_frames
from difftrack.provenance import MadeBy, code_of, code_of_class, has_file, versions_of

__all__ = ["Backbone"]

TABLES = frozenset(f"difftrack.backbones.{name}" for name in ("_family", "_load", "_names", "_registry", "_words"))
"""Modules that list backbones. Their entries are part of fingerprints, loading choices or specs, so a new line in them
invalidates nothing.
"""

APART = frozenset(f"difftrack.{name}" for name in ("locks", "ownership", "wording"))
"""Rooms for locks, removal and messages, which do not affect the contents of artifacts."""

_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "opencv-python-headless")
"""Libraries that compute embeddings, latents and descriptors, or resize frames. Libraries that only write files do not
count: frames and descriptors are stored without loss and verified by fingerprints and checksums.
"""


class Backbone(CapturingBackbone):
    """One video diffusion transformer, its autoencoder, text encoder and sampler, loaded lazily.

    Latents are `[latent_frame, channel, row, col]`, scaled as the transformer expects them. Where the transformer folds
    several latent frames into one token frame (CogVideoX 1.5), `latents_per_token_frame` is their number.

    The base of every family, built in or from a package (docs/extending.md). A family defines `text_position`,
    `channels_before_frames`, the names of its config entries where they differ (`layers_key` and the like), and the
    abstract methods: `embed`, `text_mask`, `schedule`, `transformer_inputs`, `sampling_inputs` and `encode_videos`. It
        may override any other public method where its model differs; `difftrack.testing.BackboneLaws` checks the
        result.
    """

    samples_in_own_dtype: ClassVar[bool] = False
    """Whether the stock pipeline keeps latents in the weights' dtype between steps; else in float32."""

    reads_guidance: ClassVar[bool] = False
    """Whether the transformer was distilled to read a guidance scale as an input."""

    def __repr__(self) -> str:
        components = self.components
        counts = f"{self.num_layers} layers x {self.num_heads} heads x {self.num_channels} channels"
        outline = components.pipeline_outline()
        scheduler = [] if outline is None else [outline.components.get("scheduler", "no scheduler")]
        where = f"{self.params.dtype} on {self.device}"
        said = [f"{self.name}: {components.pipeline_name}", counts, where, *scheduler, *components.alterations()]
        return f"<{type(self).__name__} {'; '.join(said)}>"

    def loading_choices(self) -> dict[str, object]:
        """The loading choices that change numbers; together with `fingerprint` they determine all numbers.

        Entries without meaning for a backbone are None, or left out where that keeps older artifacts valid.
        """
        params = self.params
        return {
            **({} if self.revision is None else {"revision": self.revision}),
            "dtype": params.dtype,
            "vae_tiling": params.vae_tiling,
            "image_condition": params.image_condition if self.needs_image else None,
            "text_encoder_quantization": params.text_encoder_quantization,
            **({"embedded_guidance": params.embedded_guidance} if self.reads_guidance else {}),
            **({"expert": params.expert} if self.experts else {}),
            **({"compile": True} if params.compile else {}),
        }

    def made_by(self, *modules: str, without: Collection[str] = ()) -> MadeBy:
        """Return the provenance of an artifact that this backbone makes.

        Args:
            modules: Dotted names of the modules that make it; the code of the backbone and of components from the
                user's packages always counts, that of other families does not.
            without: Modules that these import but that do not affect the artifact.
        """
        kinds = {type(self), *(self.components.classes() if self.library is not None else ())}
        own = {kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES}
        filed = sorted({kind.__module__ for kind in own if has_file(kind.__module__)})
        unfiled = {
            f"{kind.__module__}.{kind.__qualname__}": code_of_class(kind)
            for kind in own
            if not has_file(kind.__module__)
        }
        code = code_of(*modules, *filed, without=TABLES | APART | frozenset(without))
        return MadeBy(
            code={**code, **dict(sorted(unfiled.items()))},
            versions=versions_of(*_LIBRARIES),
            loaded={
                **self.loading_choices(),
                **self.components.in_memory(),
                **({"alterations": list(altered)} if (altered := self.components.alterations()) else {}),
            },
        )

    @property
    def draws_own_noise(self) -> bool:
        """Whether the stock pipeline accepts only a seeded generator; otherwise it accepts the noise."""
        return False

    @abstractmethod
    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        """Arguments of the stock pipeline that replace a prompt and a negative prompt."""

    def sampling_scheduler(self) -> Any:  # noqa: ANN401
        """The scheduler to sample with; `schedule` returns its levels."""
        return self.components.scheduler()

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        """The sampling pipeline, for embedded prompts."""
        return self.components.pipeline(scheduler=scheduler)

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Run the pipeline with a recorder; return frames in [0, 1]."""
        sampled = pipeline(**arguments, guidance_scale=cfg_scale, callback_on_step_end=recorder, output_type="np")
        frames: np.ndarray = sampled.frames[0]
        return frames

    def latents_as_read(self, latents: Tensor, step: int, scheduler: Any) -> Tensor:  # noqa: ANN401
        """The sampler's latents at a step as the transformer reads them."""
        return latents

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
        image: UInt8[np.ndarray, "image_height image_width rgb"] | None = None,
    ) -> Generated:
        """Sample a clip through the stock pipeline, and record the latents that enter every step.

        Args:
            prompt: What to show.
            seed: Seed of the initial noise, which is drawn on the CPU so that all devices start alike.
            num_inference_steps: Denoising steps.
            cfg_scale: Guidance scale, as the stock pipeline means it.
            num_frames: Video frames.
            height: In pixels.
            width: In pixels.
            image: First frame, for a backbone that `needs_image`; it is resized.

        Raises:
            BackboneError: the backbone cannot run this size, or an image is missing or not accepted.
        """
        grid = self.token_grid(num_frames, height, width)
        self.check_levels(num_inference_steps, grid)
        start = self._starting_image(image, height, width)
        num_latents = grid.num_latent_frames * self.latents_per_token_frame
        shape = (num_latents, self.num_latent_channels, height // self.spatial_stride, width // self.spatial_stride)
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = self.draw_noise(shape, generator)
        recorder = TrajectoryRecorder(noise)
        inputs = self.sampling_inputs(self.embed(prompt))
        scheduler = self.sampling_scheduler()
        arguments: dict[str, Any] = {"latents": noise, "generator": generator}
        if self.draws_own_noise:
            arguments = {"generator": torch.Generator("cpu").manual_seed(seed)}
        if start is not None:
            arguments["image"] = Image.fromarray(start)
        frames = self.sample(
            self.sampling_pipeline(scheduler),
            recorder,
            **inputs,
            **arguments,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            cfg_scale=cfg_scale,
        )
        entering = [self.latents_as_read(latents, step, scheduler) for step, latents in enumerate(recorder.entering)]
        trajectory = torch.stack([self.from_batch(latents, shape) for latents in entering])
        return Generated(frames=to_uint8(frames), trajectory=Trajectory(trajectory, start, recorder.inputs))

    def check_levels(self, num_inference_steps: int, grid: TokenGrid) -> None:
        """Check, before any model is loaded, for errors that would otherwise occur after a clip was sampled.

        Raises:
            BackboneError: the layers cannot be listed, or this family does not support the scheduler.
        """
        _ = self.num_layers
        try:
            self.schedule(num_inference_steps, grid=grid)
        except BackboneError:
            raise
        except (AssertionError, AttributeError, TypeError, KeyError, ValueError) as error:
            kind, words = type(self.components["scheduler"]).__name__, " ".join(str(error).split())
            raise BackboneError(
                f"{self.name}: the levels of its scheduler {kind} are not known ({type(error).__name__}: {words}); set "
                f"the scheduler that it was published with"
            ) from error

    def draw_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        """The noise that the stock pipeline would draw for latents of this shape, in its layout."""
        noise: Tensor = randn_tensor(
            self.to_batch(torch.empty(shape, device="meta")).shape,
            generator=generator,
            device=self.device,
            dtype=self.components.dtype if self.samples_in_own_dtype else torch.float32,
        )
        return noise

    def _starting_image(
        self, image: UInt8[np.ndarray, "image_height image_width rgb"] | None, height: int, width: int
    ) -> UInt8[np.ndarray, "height width rgb"] | None:
        if self.needs_image != (image is not None):
            raise BackboneError(
                f"{self.name} makes videos from an image; give generate() the first frame"
                if self.needs_image
                else f"{self.name} makes videos from text alone and reads no image"
            )
        return None if image is None else resize_frames(image[None], height, width)[0]

    def warn_where_cut(self, prompt: str) -> None:
        """Warn of words that are cut off, or that a backbone with a closed vocabulary does not know."""
        if unknown := unknown_words(self.name, prompt):
            message = (
                f"{self.name} was not trained on the words {', '.join(unknown)} of {prompt!r}; `difftrack models "
                f"{self.name} --words` lists those that it knows"
            )
            warnings.warn(message, stacklevel=3)
        tokenizer = self.components["tokenizer"]
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of text and images holds the tokenizer
        ids = tokenizer(prompt).input_ids
        if len(ids) > self.text_length:
            cut = tokenizer.decode(ids[self.text_length - 1 :], skip_special_tokens=True)
            message = f"{self.name} reads {self.text_length} text tokens; cut from the prompt: {cut!r}"
            warnings.warn(message, stacklevel=3)
