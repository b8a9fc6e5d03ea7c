"""Serve primitives to a training loop: batches from a DataLoader whose workers read the cache.

    python examples/serve_dataloader.py VIDEOS

Encodes and extracts the videos of a folder into `cope_cache` (or `COPE_CACHE`), reads all slots twice with two workers,
and prints the shapes of a batch and the slots read per second.
"""

import sys
import time

from torch.utils.data import DataLoader

import cope_cli as cope


def main(folder: str) -> None:
    """Print what one batch holds, and how fast batches come."""
    cope.encode(folder)
    cope.extract()
    dataset = cope.SlotDataset(fusion=30, returns=("motion", "residual", "seconds"))
    print(dataset)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True)
    for epoch in (1, 2):
        start, num_slots = time.perf_counter(), 0
        for batch in loader:
            num_slots += len(batch["slot"])
        per_second = num_slots / (time.perf_counter() - start)
        print(f"epoch {epoch}: {num_slots} slots, {per_second:.0f} slots per second")
    for name, tensor in batch.items():
        print(f"  {name}: {list(tensor.shape)} {tensor.dtype}")


if __name__ == "__main__":
    main(sys.argv[1])
