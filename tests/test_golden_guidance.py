"""Parity with numbers that the released code produced (golden 10), at the sizes that a set has."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import about, golden_files, load
from torch import Tensor, nn

from difftrack.guidance import Guidance, SequenceLayout, Variant, guide_transformer, perturbed_attention

FILE = "10_cag.npz"

sets = pytest.mark.parametrize("path", golden_files(FILE))


def read(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in load(path).items()}


def layout_of(golden: dict[str, Tensor]) -> SequenceLayout:
    """Mask text first; a token of a frame sees the text and its own frame, which is how many tokens a frame has."""
    num_text, num_tokens = golden["text"].shape[1], golden["q"].shape[2]
    per_frame = int(golden["allowed"][num_text].sum()) - num_text
    return SequenceLayout((num_tokens - num_text) // per_frame, per_frame, "first")


@pytest.mark.parametrize(
    ("variant", "names"), [("zeroed", ("out_post", "out_post_chunk17", "out_boolmask")), ("masked", ("out_pre",))]
)
@sets
def test_perturbed_attention_is_the_released_one(path: Path, variant: Variant, names: tuple[str, ...]) -> None:
    golden = read(path)
    found = perturbed_attention(golden["q"], golden["k"], golden["v"], layout_of(golden), variant=variant)
    for name in names:
        if name in golden:
            torch.testing.assert_close(found, golden[name], rtol=0, atol=1e-6)


@sets
def test_attention_goes_where_the_released_mask_lets_it_and_nowhere_else(path: Path) -> None:
    golden = read(path)
    query, key = golden["q"][:1, :1], golden["k"][:1, :1]
    num_tokens, num_channels = query.shape[2:]
    spread = nn.functional.pad(torch.eye(num_tokens), (0, -num_tokens % num_channels))  # values that reveal the weights
    pieces = [
        perturbed_attention(query, key, piece[None, None].contiguous(), layout_of(golden), variant="masked")
        for piece in spread.split(num_channels, dim=1)
    ]
    weights = torch.cat(pieces, dim=-1)[..., :num_tokens]
    assert torch.equal(weights[0, 0] > 0, golden["allowed"])
    if "out_nomask" in golden:
        plain = nn.functional.scaled_dot_product_attention(golden["q"], golden["k"], golden["v"])
        torch.testing.assert_close(plain, golden["out_nomask"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("variant", "name"), [("zeroed", "cfg"), ("masked", "nocfg")])
@sets
def test_whole_attention_is_the_released_one_in_the_perturbed_batch_element(
    path: Path, variant: Variant, name: str
) -> None:
    golden = read(path)
    batch = len(golden[f"{name}_hidden"])
    num_text, num_heads = golden["text"].shape[1], golden["q"].shape[1]
    tokens = torch.cat([golden["text"], golden["hidden"]], dim=1)[
        -batch:
    ].double()  # leaves room for the released code's rounding
    query, key, value = (
        (tokens @ golden[weight].double()).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        for weight in ("wq", "wk", "wv")
    )
    perturbed = perturbed_attention(query[-1:], key[-1:], value[-1:], layout_of(golden), variant=variant)
    plain = nn.functional.scaled_dot_product_attention(query[:-1], key[:-1], value[:-1])
    found = torch.cat([plain, perturbed]).transpose(1, 2).flatten(2).float()
    torch.testing.assert_close(found[:, :num_text], golden[f"{name}_text"], rtol=0, atol=2e-6)
    torch.testing.assert_close(found[:, num_text:], golden[f"{name}_hidden"], rtol=0, atol=2e-6)


class Predicting(nn.Module):
    """A model that returns given predictions: rows of a plain forward's batch, and one with its layer perturbed."""

    def __init__(self, plain: Tensor, perturbed: Tensor) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.plain, self.perturbed = plain, perturbed
        self.layer.forward = self.attend  # type: ignore[method-assign]

    def attend(self, tokens: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        tokens = torch.arange(6.0).view(1, 1, 6, 1)
        own = self.attend(tokens)
        return (self.plain[-len(hidden_states) :] if torch.equal(self.layer(tokens), own) else self.perturbed,)


def guided_cases() -> list[object]:
    """Each guided prediction of each set, with its scales as the README gives them."""
    found: list[object] = []
    for entry in golden_files(FILE):
        (path,) = entry.values
        names = [name for name in load(path) if name.startswith("guided")] if path.exists() else [""]
        found += [pytest.param(path, name, marks=entry.marks, id=f"{entry.id}-{name}") for name in names]
    return found


def scales_of(path: Path, name: str) -> tuple[float | None, float]:
    """Scales of classifier-free guidance (None without it) and of cross-attention guidance."""
    cfg = re.fullmatch(r"guided_(nocfg|\d+)_\d+", name)
    scale = re.search(r"scale (\d+(?:\.\d+)?)", about(path, name))
    assert cfg is not None
    assert scale is not None
    return None if cfg[1] == "nocfg" else float(cfg[1]), float(scale[1])


@pytest.mark.parametrize(("path", "name"), guided_cases())
def test_guided_predictions_are_the_released_ones(path: Path, name: str) -> None:
    golden = read(path)
    cfg_scale, scale = scales_of(path, name)
    noise = golden["noise3"]
    model, timestep = Predicting(noise[:2], noise[2:]), torch.tensor(999)
    layout, guidance = SequenceLayout(3, 2, "none"), Guidance(layers=(0,), scale=scale)
    latents = torch.zeros(1 if cfg_scale is None else 2, 6)
    with torch.no_grad(), guide_transformer(model, [model.layer], layout, guidance, calls="batched"):
        predictions = model(latents, timestep)[0]
    if cfg_scale is not None:
        uncond, cond = predictions.chunk(2)
        predictions = uncond + cfg_scale * (cond - uncond)
    # Relative too: numbers go up to 22, where the released numbers' own rounding is 3.6e-6.
    torch.testing.assert_close(predictions, golden[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", golden_files("10_cag_layers.json"))
def test_layers_are_those_asked_for_and_none_whose_number_begins_alike(path: Path) -> None:
    recorded = json.loads(path.read_text())
    assert recorded["mask_rule"] == "text sees all, all see text, a frame sees itself"
    patched = recorded["requested_to_patched_layers"]
    too_many = {requested for requested, layers in patched.items() if json.loads(requested) != layers}
    assert too_many == {
        requested for requested in patched if any(layer < 3 for layer in json.loads(requested)) and requested != "[0]"
    }
    for requested in patched:
        asked, seen = tuple(json.loads(requested)), []
        model = ManyLayers(seen)
        layout = SequenceLayout(3, 2, "none")
        with (
            torch.no_grad(),
            guide_transformer(model, list(model.blocks), layout, Guidance(layers=asked), calls="cond"),
        ):
            model(torch.ones(1, 6), torch.tensor(0))
        plain, perturbed = np.array_split(np.asarray(seen), 2)
        assert [i for i, (a, b) in enumerate(zip(plain, perturbed, strict=True)) if a != b] == list(asked)


class ManyLayers(nn.Module):
    """A model of 30 layers that attend over the same tokens and record their results."""

    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attending() for _ in range(30))
        self.seen = seen

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        self.seen += [float(block(torch.arange(6.0).view(1, 1, 6, 1)).sum()) for block in self.blocks]
        return (hidden_states,)


class Attending(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
