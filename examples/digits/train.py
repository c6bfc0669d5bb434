"""Train the sample model on scikit-learn's digits, and write it with its pictures beside this file.

pip install torch==2.13.0 onnx scikit-learn opencv-python-headless
python examples/digits/train.py [--into FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    import torch

    Array = np.ndarray[Any, Any]

EVAL_COUNT = 450
CALIB_COUNT = 300
GRAY_PER_STEP = 15  # a scan holds 0..16, its picture 0..240: nothing is lost, and it looks right
SCALE = 1 / 256  # a power of two, so that a picture becomes the same floats wherever it is scaled
OPSET, IR = 17, 8  # what JetPack 5 still takes
EPOCHS = 40
BATCH = 32
SEED = 7


def split(labels: Array) -> tuple[Array, Array, Array]:
    """Indices of the scans to train on, to calibrate on (part of the former) and to hold out."""
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=EVAL_COUNT, stratify=labels, random_state=SEED
    )
    _, calib = train_test_split(
        train, test_size=CALIB_COUNT, stratify=labels[train], random_state=SEED
    )
    return train, calib, held_out


def pictures(scans: Array) -> Array:
    """Scans (n, 8, 8) of 0..16 as gray pictures, uint8 of 0..240."""
    return (scans * GRAY_PER_STEP).astype(np.uint8)


def tensors(gray: Array) -> Array:
    """What the network eats: float32 (n, 1, 8, 8); ``[image]`` in model.toml says the same."""
    return gray[:, None].astype(np.float32) * np.float32(SCALE)


def network() -> torch.nn.Module:
    """Three convolutions and a linear layer, 44,474 weights once BatchNorm is folded in."""
    from torch import nn

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32),
        *block(32, 48),
        nn.MaxPool2d(2),
        *block(48, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 10),
    )


def train(images: Array, labels: Array) -> torch.nn.Module:
    """Fit the network; the same weights on every run with the same PyTorch and processor."""
    import torch

    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of sums depends on the number of threads
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    batches = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * batches)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(x)).split(BATCH):
            logits = model(_jitter(x[chosen]))
            loss = torch.nn.functional.cross_entropy(logits, y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2} of {EPOCHS}  loss {total / batches:.3f}")
    return model.eval()


def _jitter(images: torch.Tensor) -> torch.Tensor:
    """Turn, scale and shift each picture a little: 1,347 scans alone are soon known by heart."""
    import torch
    from torch.nn import functional

    matrices = torch.eye(2, 3).repeat(len(images), 1, 1) + torch.randn(len(images), 2, 3) * 0.08
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def export(model: torch.nn.Module, path: Path) -> None:
    import onnx
    import torch

    # The newer exporter starts at opset 18, which JetPack 5 does not take.
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 8, 8),),
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    proto = onnx.load(path)
    proto.ir_version = IR
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def accuracy(model: torch.nn.Module, images: Array, labels: Array) -> float:
    """Percent of pictures whose highest output is their label."""
    import torch

    with torch.inference_mode():
        found = model(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((found == labels).mean() * 100)


def write_pictures(gray: Array, indices: Array, folders: list[Path]) -> None:
    """Write the scans of ``indices``, each as ``<index>.png`` into its folder."""
    import cv2

    for index, folder in zip(indices, folders, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index:04}.png"), gray[index])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample model.")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    folder: Path = parser.parse_args().into
    scans, labels = load_digits(return_X_y=True)
    gray = pictures(scans.reshape(-1, 8, 8))
    images = tensors(gray)
    seen, calib, held_out = split(labels)
    model = train(images[seen], labels[seen])
    write_pictures(gray, calib, [folder / "calib"] * len(calib))
    write_pictures(gray, held_out, [folder / "eval" / str(labels[i]) for i in held_out])
    export(model, folder / "digits.onnx")
    for name, part in (("training", seen), ("held-out", held_out)):
        figure = accuracy(model, images[part], labels[part])
        print(f"{name} accuracy: {figure:.2f} % of {len(part)} scans")


if __name__ == "__main__":
    main()
