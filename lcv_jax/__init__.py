"""LongCat-Video in JAX: start reading at `models/dit.py`, start using at `pipeline.py`."""
