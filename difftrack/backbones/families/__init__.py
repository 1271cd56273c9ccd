"""The built-in families, one folder each: classes and checkpoints, and in `_backbone` the class that runs them."""
