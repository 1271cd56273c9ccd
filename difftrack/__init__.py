"""DiffTrack: where video diffusion transformers keep track of points."""
