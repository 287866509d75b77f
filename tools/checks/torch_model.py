"""A real model with its word embeddings replaced by a store: are the outputs those of the dequantized table?

Builds the encoder of a BERT checkpoint (all-MiniLM-L6-v2: 6 layers, 384 columns) in torch from its
.safetensors file, quantizes its table of word embeddings into a store, and runs sentences through the model
with three tables: float32 as it came, dequantized, and ``qstore.torch.Embedding``. The last two must be equal
bit for bit, in float32 and in bfloat16; exits 1 if not. Words are looked up whole in ``vocab.txt`` beside the
checkpoint, so this is no tokenizer.

    python tools/checks/torch_model.py model.safetensors
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import qstore
import qstore.torch

_HEADS = 12
_WORDS = "embeddings.word_embeddings.weight"
_SENTENCES = (
    "the cat sat on the mat in front of the fire",
    "a small animal slept beside the warm stove",
    "interest rates rose again in the third quarter of the year",
    "the central bank made money more expensive",
)


class Encoder(nn.Module):
    """BERT's encoder: sentences of token numbers to normalized means of the last layer."""

    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__()
        words = weights[_WORDS]
        self.words: nn.Module = nn.Embedding.from_pretrained(words)
        self.places = nn.Parameter(
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = nn.LayerNorm(words.shape[1], eps=1e-12)
        self.norm.load_state_dict(_taken(weights, "embeddings.LayerNorm."))
        layers = sum(name.endswith("intermediate.dense.bias") for name in weights)
        self.layers = nn.ModuleList(_layer(_taken(weights, f"encoder.layer.{i}.")) for i in range(layers))

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Vectors of sentences of tokens, shape (n, length), where `present` is 1."""
        states = self.norm(self.words(tokens) + self.places[: tokens.shape[1]])
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=present == 0)
        means = (states * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        return nn.functional.normalize(means, dim=1)


def _taken(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _layer(weights: dict[str, Any]) -> nn.TransformerEncoderLayer:
    """One layer: torch's has the same parts under other names."""
    dim, wide = weights["output.dense.weight"].shape
    layer = nn.TransformerEncoderLayer(
        dim, _HEADS, wide, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    state = {
        f"{ours}.{kind}": weights[f"{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [weights[f"attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(state)
    return layer


def main() -> int:
    """Check one checkpoint and print what was found."""
    parser = argparse.ArgumentParser(description="A real model whose word embeddings are a store.")
    parser.add_argument("path", type=Path, help="model.safetensors of a BERT encoder with 12 heads")
    path = parser.parse_args().path
    weights = load_file(path)
    tokens, present = tokenized((path.parent / "vocab.txt").read_text().splitlines())
    # The fused layers of inference do other arithmetic; one path for all makes outputs comparable.
    torch.backends.mha.set_fastpath_enabled(False)
    model = Encoder(weights).eval()
    with tempfile.TemporaryDirectory(prefix="qstore-model-") as folder, torch.no_grad():
        qstore.build(weights[_WORDS], Path(folder, "words.h5"))
        with qstore.open(Path(folder, "words.h5")) as store:
            return compare(model, store, tokens, present)


def tokenized(vocabulary: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers of the sentences, and 1 where there is a token."""
    numbers = {word: number for number, word in enumerate(vocabulary)}
    lines = [
        torch.tensor(
            [
                numbers["[CLS]"],
                *(numbers.get(word, numbers["[UNK]"]) for word in text.split()),
                numbers["[SEP]"],
            ]
        )
        for text in _SENTENCES
    ]
    present = nn.utils.rnn.pad_sequence([torch.ones(len(line)) for line in lines], batch_first=True)
    return nn.utils.rnn.pad_sequence(lines, batch_first=True), present


def compare(model: Encoder, store: qstore.Store, tokens: torch.Tensor, present: torch.Tensor) -> int:
    """Run the three tables; the exit status."""
    status = 0
    original = model(tokens, present)
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        model.words = nn.Embedding.from_pretrained(qstore.torch.take(store, range(len(store)), dtype=dtype))
        expected = model(tokens, present.to(dtype))
        model.words = qstore.torch.Embedding(store, dtype=dtype)
        found = model(tokens, present.to(dtype))
        equal = torch.equal(found, expected)
        status |= not equal
        cosines = (found.float() * original).sum(1)
        print(
            f"{dtype}: {'equal to' if equal else 'DIFFERS FROM'} the model with dequantized weights; "
            f"cosine with the float32 model at least {cosines.min():.6f}"
        )
    print("cosines of the sentences, float32 table:")
    print((original @ original.T).numpy().round(3))
    return status


if __name__ == "__main__":
    sys.exit(main())
