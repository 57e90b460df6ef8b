"""Toy refinement expert with 93.75 % sparse attention.

Hardware: a laptop's CPU (2 cores). After configs/toy/refinement_dense.py:

    python -m lcv_jax.train configs/toy/refinement_sparse.py
"""

from configs.toy.refinement_dense import refinement
from lcv_jax.toy.sizes import SIZES
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """The adapter goes on with attention to 9 blocks of 144."""
    sparse = SIZES["small"].dit.bsa_params
    return refinement("refinement_sparse", after="refinement_dense", start="refinement_lora", sparse=sparse, steps=300)
