"""Curation of training data: stages over raw videos, a library of what they found, and the selection from it."""
