"""Programs for whoever works on cope; not installed with it."""
