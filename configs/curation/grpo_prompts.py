"""Prompts for GRPO (report, section 4.2 and table 5): captions of moving scenes, balanced, one of each clip.

    python -m lcv_jax.curate select configs/curation/grpo_prompts.py LIBRARY prompts.txt
    python -m lcv_jax.train configs/longcat_13b/grpo.py --data.path prompts.txt

Only captions are used: how well a clip is filmed does not matter. 500 steps of 64 prompts draw 32,000.
"""

from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """Drawn in inverse proportion to the captions' density, so that frequent subjects do not decide the reward."""
    return Recipe(
        most_text=0.2,  # pages of text: captions quote them
        most_frozen=0.65,
        least_motion=1.0,  # the reward of motion needs scenes that move
        weight_column="weight",
        most_clips=32_000,
        captions="one",
    )
