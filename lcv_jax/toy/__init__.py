"""A procedural world of captioned clips, readers that say what a clip shows, and scores of a model trained on it."""
