"""Training on the cache: the Trainer subclass, and the two stages."""
