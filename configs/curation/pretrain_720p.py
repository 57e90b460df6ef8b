"""Clips to pretrain on at 480p and 720p x 93 (report, table 3, stage 5): the last stage before fine-tuning.

python -m lcv_jax.curate select configs/curation/pretrain_720p.py LIBRARY pretrain_720p.jsonl
"""

import dataclasses

from configs.curation.pretrain_480p import get_recipe as at_480p
from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """The limits of 480p, drawn tighter; clips below 720p fill the buckets of 480p."""
    return dataclasses.replace(
        at_480p(),
        most_text=0.03,
        most_logo=0.2,
        most_edge_width=0.4,  # blurred above
        most_clipped_dark=0.6,
        most_clipped_bright=0.3,
        most_flicker=2.0,  # flickers above
        least_aesthetic_heuristic=0.3,
    )
