r"""Clips for supervised fine-tuning at 480p and 720p x 93 (report, section 4.1 and table 4): few, good and balanced.

    python -m lcv_jax.curate run VIDEOS LIBRARY \
        --stages duplicates measures text staying_text logo augmentation distribution
    python -m lcv_jax.curate select configs/curation/sft.py LIBRARY sft.jsonl
    python -m lcv_jax.encode sft.jsonl CHECKPOINT data/sft --images-from-clips 1 --resolutions 480p 720p
    python -m lcv_jax.train configs/longcat_13b/sft.py --data.path data/sft

The trainer draws by the column `weight`. Where CLIP's weights are at hand, run the stage aesthetic and give
`--least-aesthetic 5 --least-aesthetic-heuristic None`.
"""

import dataclasses

from configs.curation.pretrain_720p import get_recipe as at_720p
from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """Aesthetics, quality of pictures and of motion; balance by inverse density; subsets for camera and style."""
    return dataclasses.replace(
        at_720p(),
        most_text=0.01,
        most_edge_width=0.35,
        most_flicker=1.5,
        most_frozen=0.1,
        least_motion=3.0,
        most_motion=150.0,
        least_aesthetic_heuristic=0.5,
        weight_column="weight",  # of the stage distribution: inverse to the density of the captions
        camera_share=0.1,  # a tenth of the samples: every camera movement as often
        style_share=0.1,  # another tenth: every style as often
        most_weight=20.0,
    )
