"""Clips to pretrain on at 256p x 93 (report, table 3, stages 2 and 3): as many as possible, without what is broken.

    python -m lcv_jax.curate run VIDEOS LIBRARY --stages duplicates measures text staying_text logo augmentation
    python -m lcv_jax.curate select configs/curation/pretrain_256p.py LIBRARY pretrain_256p.jsonl

Every field is a flag: `--most-text 0.2`, or `--most-text None` where the stage text was not run. The report does not
give its thresholds. These are values to begin with; the histograms of your own library say what they cost.
"""

from lcv_jax.curation.recipe import Recipe


def get_recipe() -> Recipe:
    """Loose limits: 256p hides slight blur, and the model has to see many things."""
    return Recipe(
        least_side=256,
        least_seconds=93 / 15,  # 93 frames at 15 a second; shorter clips fill no bucket
        most_text=0.1,  # a subtitle covers about 0.05, a page of credits above 0.2
        most_logo=0.5,
        most_edge_width=0.6,  # blurred beyond what 256p hides
        most_clipped_dark=0.8,  # fades, and films of the night that show nothing
        most_clipped_bright=0.5,
        most_flicker=5.0,
        most_frozen=0.65,  # above: still pictures
        least_motion=1.0,  # slide shows and still cameras over still things (report: "filter out minimal motion")
    )
