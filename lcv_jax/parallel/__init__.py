"""One model over many devices: how attention is split over a mesh. Knows kernels, and nothing of models."""
