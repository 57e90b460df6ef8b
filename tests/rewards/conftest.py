"""The tiny published reward models of tests/golden/rewards, converted once with templates of our own words."""

import json
from pathlib import Path

import pytest

from lcv_jax.checkpoint.judge_conversion import convert_judge
from lcv_jax.checkpoint.judge_source import open_judge
from lcv_jax.rewards.judge import load_judge

PUBLISHED = Path(__file__).parent.parent / "golden" / "rewards"
TEMPLATES = {
    "hpsv3": {
        "instruction": "\nHow good is this picture of {text_prompt}\n",
        "prompt_with_special_token": "\nAnswer: <|Reward|>\n",
    },
    "videoalign": {
        "detailed_special": "\nLooks <|VQ_reward|>\nMoves <|MQ_reward|>\nShows - {text_prompt}\nFits <|TA_reward|>\n"
    },
}


@pytest.fixture(scope="session")
def published_judges():
    return PUBLISHED


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "templates.json"
    path.write_text(json.dumps(TEMPLATES))
    return path


@pytest.fixture(scope="session")
def converted_judge(tmp_path_factory, templates):
    """converted_judge(kind, source) -> folder."""
    made = {}

    def convert(kind, source=None):
        source = PUBLISHED / (source or kind)
        if source not in made:
            made[source] = tmp_path_factory.mktemp("judge") / "converted"
            convert_judge(open_judge(source, kind, templates), made[source])
        return made[source]

    return convert


@pytest.fixture(scope="session")
def judge(converted_judge):
    """judge(kind, exact) -> the judge, loaded once."""
    loaded = {}

    def load(kind, exact=True, source=None):
        key = kind, exact, source
        if key not in loaded:
            loaded[key] = load_judge(converted_judge(kind, source), exact_frequencies=exact)
        return loaded[key]

    return load
