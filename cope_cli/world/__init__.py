"""A small rendered world: clips whose events are known, with questions that their I-frames cannot answer."""
