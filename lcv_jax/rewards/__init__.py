"""Rewards: what scores videos, how it is reached, and what happens where it fails. NumPy alone, no networks."""
