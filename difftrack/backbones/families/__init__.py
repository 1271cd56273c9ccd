"""The built-in families, a folder each: its classes and checkpoints here, the class that runs it in `_backbone`."""
