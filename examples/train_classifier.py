"""Train your own classifier on primitives, without decoding a single frame.

    python examples/train_classifier.py VIDEOS

Encodes and extracts the videos of a folder into `cope_cache` (or `COPE_CACHE`), then trains a small network to tell
which video a slot is from. Prints the share of right answers on slots that it has not seen, and what guessing gives.
For a task of your own, replace `item["video"]` by your label.
"""

import sys

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

import cope_cli as cope


def features(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return motion in pixels (2 channels) and residual (3 channels), as floats of about 1: (N, 5, G, G)."""
    motion = batch["motion"].float() / 2 / 30
    residual = batch["residual"].permute(0, 3, 1, 2).float() / 30
    return torch.cat([motion, residual], dim=1)


def network(num_classes: int) -> nn.Module:
    """Return three convolutions over patches of 8 grid points, and a linear layer on their mean."""
    layers = [nn.Conv2d(5, 32, 8, 8), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, num_classes))


def main(folder: str, epochs: int = 15) -> None:
    """Train, and print the accuracy on every fourth P-frame slot."""
    torch.manual_seed(0)
    cope.encode(folder)
    cope.extract()
    dataset = cope.SlotDataset(fusion=30, returns=("motion", "residual", "is_iframe"))
    print(dataset)
    slots = [index for index in range(len(dataset)) if not dataset[index]["is_iframe"]]
    tested, learned = slots[::4], [slot for index, slot in enumerate(slots) if index % 4]
    model = network(len(dataset.videos))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for batch in DataLoader(Subset(dataset, learned), batch_size=16, shuffle=True):
            loss = functional.cross_entropy(model(features(batch)), batch["video"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    (batch,) = DataLoader(Subset(dataset, tested), batch_size=len(tested))
    right = (model(features(batch)).argmax(1) == batch["video"]).float().mean().item()
    print(f"right on {len(tested)} new slots: {right:.0%}; guessing gives {1 / len(dataset.videos):.0%}")


if __name__ == "__main__":
    main(sys.argv[1])
