"""Published PyTorch checkpoints to parameters and back, and how parameters lie on disk."""
