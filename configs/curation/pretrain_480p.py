"""Clips to pretrain on at 480p x 93 (report, table 3, stage 4): sharper ones, with less text.

python -m lcv_jax.curate select configs/curation/pretrain_480p.py LIBRARY pretrain_480p.jsonl
"""

import dataclasses

from configs.curation.pretrain_256p import get_recipe as at_256p
from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """The limits of 256p, drawn tighter where 480p shows more."""
    return dataclasses.replace(
        at_256p(),
        least_side=480,
        most_text=0.05,
        most_staying_text=0.0,  # watermarks in writing, which the model would learn to write
        most_edge_width=0.45,
        most_flicker=3.0,
        most_frozen=0.3,
        most_motion=300.0,  # three times the height a second: shaken, or torn between frames
    )
