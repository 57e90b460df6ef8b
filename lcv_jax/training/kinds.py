"""What can be trained: objectives, the networks that they train, and the data that they read."""

from collections.abc import Mapping
from typing import Literal

from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.objectives.next_token import NextToken
from lcv_jax.objectives.preferences import PairPreference, RatingRegression
from lcv_jax.objectives.refinement import Refinement
from lcv_jax.objectives.self_forcing import SelfForcing

Objective = (
    FlowMatching
    | CausalFlowMatching
    | SelfForcing
    | CFGDistillation
    | ConsistencyDistillation
    | Refinement
    | Autoencoder
    | GRPO
    | PairPreference
    | RatingRegression
    | NextToken
)
Network = Literal["dit", "vae", "judge", "captioner"]
NETWORKS: Mapping[type, Network] = {
    Autoencoder: "vae",
    PairPreference: "judge",
    RatingRegression: "judge",
    NextToken: "captioner",
}
"""What objectives train, those that do not train the transformer."""
DATA: Mapping[type, type] = {
    GRPO: PromptsConfig,
    PairPreference: PreferencesConfig,
    RatingRegression: PreferencesConfig,
    NextToken: CaptionsConfig,
}
"""What objectives are trained on, those that are not trained on clips."""
