"""From the cache and a data file to batches: conversations, prompts, datasets, collation."""
