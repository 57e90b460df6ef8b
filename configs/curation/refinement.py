r"""Clips for the refinement expert, 720p x 93 or 189 (report, section 4.3 and table 7): rich in texture.

    python -m lcv_jax.curate select configs/curation/refinement.py LIBRARY refinement.jsonl
    python -m lcv_jax.encode refinement.jsonl CHECKPOINT data/refinement --resolutions 720p --granularity 64 \
        --num-frames 93 189 --fps 30 --refine 480p,15 480p,30
    python -m lcv_jax.train configs/longcat_13b/refinement_dense.py --data.path data/refinement

Encoding degrades each clip (blur, noise, codecs) to 480p at one of the two rates: with 15 frames a second the expert
learns to refine space and time, with 30 space alone.
"""

import dataclasses

from configs.curation.pretrain_720p import get_recipe as at_720p
from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """The limits of 720p, and texture."""
    return dataclasses.replace(
        at_720p(),
        least_side=704,  # the shorter side of 720p's buckets
        least_fps=29.9,  # frames at 30 a second that are really there; 30000/1001 counts
        least_seconds=93 / 30,
        most_edge_width=0.3,  # sharp below
        least_glcm_contrast=1.0,  # plain walls and skies are below
        least_glcm_entropy=5.0,
    )
