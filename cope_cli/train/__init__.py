"""Training on the cache: the Trainer subclass, the two recipes, and the folders their runs are kept in."""
