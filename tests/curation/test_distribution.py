import dataclasses
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from small_stages import CUT, MEASURE

from lcv_jax import curate
from lcv_jax.curation.distribution import density, find_clusters, inverse_weights, reduced, telling_words, word_vectors
from lcv_jax.curation.distribution_map import place_captions, push_apart
from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.stage import Stage, attempt
from lcv_jax.curation.stages import distribution, embedding, stage_named

TOPICS = {
    "animals": ("dog puppy horse", "runs sleeps eats", "meadow yard grass"),
    "kitchen": ("chef cook woman", "chops stirs bakes", "onions soup bread"),
    "sea": ("ship boat surfer", "sails dives drifts", "ocean harbour waves"),
}


def make_captions(count, shares, seed=0):
    generator = random.Random(seed)
    topics = generator.choices(list(TOPICS), shares, k=count)
    words = [[generator.choice(each.split()) for each in TOPICS[topic]] for topic in topics]
    return [f"A {who} {does} by the {where}, take {n}." for n, (who, does, where) in enumerate(words)], np.array(topics)


@pytest.fixture(scope="module")
def planted():
    captions, topics = make_captions(600, (0.8, 0.15, 0.05))
    words = word_vectors(captions)
    vectors = reduced(words, 0)
    return captions, topics, words, vectors, *find_clusters(vectors, 12, 0)


def test_clusters_hold_one_topic_and_are_named_by_its_words(planted):
    captions, topics, _, _, labels, centres = planted
    assert len(centres) == labels.max() + 1 == 12
    assert (np.diff(np.bincount(labels)) <= 0).all()
    names = telling_words(captions, labels, 3)
    for label in range(12):
        members, counts = np.unique(topics[labels == label], return_counts=True)
        words = " ".join(TOPICS[members[counts.argmax()]]).split()
        assert counts.max() / counts.sum() > 0.9
        assert names[label][0] in words


@pytest.mark.parametrize("dense", [False, True])
def test_density_counts_captions_that_are_as_similar_as_in_a_cluster(planted, dense):
    _, _, words, _, labels, _ = planted
    words = words.toarray() if dense else words
    cosines = np.asarray((words @ words.T).toarray() if not dense else words @ words.T, float)
    np.fill_diagonal(cosines, np.nan)
    same = labels[:, None] == labels
    limit = np.nanmean(np.nanmean(np.where(same, cosines, np.nan), 1))
    exact = (cosines >= limit - 1e-4).sum(1) / 599
    np.testing.assert_allclose(density(words, labels, 10**6, 0), exact)
    np.testing.assert_allclose(density(words, labels, 200, 0).mean(), exact.mean(), rtol=0.25)


def test_weights_bring_rare_topics_back(planted):
    _, topics, words, _, labels, _ = planted
    weights = inverse_weights(density(words, labels, 10**6, 0), most=10.0)
    shares = [weights[topics == topic].sum() / weights.sum() for topic in TOPICS]
    assert weights.mean() == pytest.approx(1)
    assert max(shares) < 0.5
    assert min(shares) > 0.15


def test_a_large_topic_is_dense_however_many_words_it_has():
    """Of 20 topics of 30 words each one has half of the captions: an SVD spreads them farther than the others."""
    generator = np.random.default_rng(0)
    topics = np.where(generator.random(600) < 0.5, 0, generator.integers(1, 20, 600))
    spelled = ["".join(chr(97 + int(digit)) for digit in f"{place:04}") for place in range(600)]
    captions = [" ".join(spelled[30 * topic + word] for word in generator.integers(0, 30, 20)) for topic in topics]
    words = word_vectors(captions)
    labels, _ = find_clusters(reduced(words, 0), 20, 0)
    found = density(words, labels, 10**6, 0)
    assert found[topics == 0].mean() > 5 * found[topics != 0].mean()


def test_weights_are_inverse_and_capped():
    weights = inverse_weights(np.array([0.0, 0.1, 0.2, 0.2, 0.4]), most=3.0)
    np.testing.assert_allclose(weights / weights[2], [3.0, 2.0, 1.0, 1.0, 0.5])
    assert inverse_weights(np.zeros(3), most=3.0).tolist() == [1.0, 1.0, 1.0]


def test_discs_do_not_overlap_and_captions_lie_in_their_own(planted):
    _, _, _, vectors, labels, centres = planted
    radii = np.random.default_rng(0).uniform(0.1, 0.6, 40)
    places = push_apart(np.random.default_rng(1).normal(0, 0.3, (40, 2)), radii)
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) - (radii[:, None] + radii)
    assert gaps[~np.eye(40, dtype=bool)].min() > 0
    places = place_captions(vectors, labels, centres, 0)
    assert np.abs(places).max() <= 1
    middles = np.stack([places[labels == label].mean(0) for label in range(12)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=-1).argmin(1)
    assert (nearest == labels).mean() > 0.9


@pytest.mark.parametrize("captions", [["a dog runs"], ["a dog", "a cat"], ["a dog"] * 5, ["the", "a dog", "it is"]])
def test_small_libraries_have_a_distribution(captions):
    found = distribution.distribute({"caption_en": captions}, distribution.Settings())
    assert all(len(values) == len(captions) for values in found.values())
    assert np.mean(found["weight"]) == pytest.approx(1)
    assert np.isfinite([found["x"], found["y"]]).all()


class Endpoint(BaseHTTPRequestHandler):
    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.asked.append((self.path, body))
        if self.path == "/v1/embeddings":
            reply = {"data": [{"embedding": [3.0, 4.0, 0.0] if body["input"] else []}]}
        else:
            reply = {"choices": [{"message": {"content": json.dumps({"name": f"Group {len(Endpoint.asked)}"})}}]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    Endpoint.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_a_language_model_names_clusters(url):
    captions, _ = make_captions(40, (0.5, 0.5, 0))
    settings = distribution.Settings(clusters=2, model="m", url=url)
    found = distribution.distribute({"caption_en": captions}, settings)
    assert {*zip(found["cluster"], found["cluster_name"], strict=True)} == {(0, "Group 1"), (1, "Group 2")}
    (question,) = Endpoint.asked[0][1]["messages"][0]["content"]
    assert any(caption in question["text"] for caption in captions)


def test_embeddings_of_an_endpoint_are_read_by_the_distribution(url):
    stage = stage_named("embedding", embedding.Settings(url=url))
    outcome = attempt(stage, {"clip": "a", "caption_en": "a dog"})
    vector = np.frombuffer(outcome.rows[0]["embedding"], np.float16)
    np.testing.assert_allclose(vector, [0.6, 0.8, 0], atol=1e-3)
    assert attempt(stage, {"clip": "a", "caption_en": ""}).fault.startswith(f"{url}: expected an embedding")
    assert "embedding" in stage_named("distribution", distribution.Settings(vectors="embedding")).reads
    columns = {"caption_en": ["a dog", "a cat"], "embedding": [vector.tobytes(), vector.tobytes()]}
    found = distribution.distribute(columns, distribution.Settings(vectors="embedding"))
    assert found["density"] == [1.0, 1.0]


def test_embeddings_of_a_local_model(tmp_path):
    torch = pytest.importorskip("torch")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: place for place, word in enumerate(["[UNK]", "[PAD]", "a", "dog"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(tmp_path)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=4, **size)).eval()
    model.save_pretrained(tmp_path)
    stage = stage_named("embedding", embedding.Settings(folder=tmp_path))
    assert stage.cost.calls == 0
    found = np.frombuffer(attempt(stage, {"clip": "a", "caption_en": "a dog"}).rows[0]["embedding"], np.float16)
    with torch.no_grad():
        wanted = model(torch.tensor([[2, 3]])).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=2e-3)


def test_the_command_prints_what_is_thin(tmp_path, capsys):
    captions, _ = make_captions(60, (0.9, 0.1, 0))
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("30")
    describe = Stage(
        name="captions", version=1, run=lambda row, _: {"caption_en": captions[row["first"]]},
        settings=MEASURE.settings, reads={"first": int}, writes={"caption_en": str},
    )  # fmt: skip
    library = Library(tmp_path / "library")
    stages = [MEASURE, CUT, describe, stage_named("distribution", distribution.Settings(clusters=8))]
    with library.writing():
        list_sources(library, tmp_path / "films")
        run_stages(library, stages[:3], Engine(engine="process"))
    with pytest.raises(SystemExit):
        curate.main(["distribution", str(tmp_path / "library")])
    assert "run the stage distribution" in capsys.readouterr().err
    with library.writing():
        run_stages(library, stages, Engine(engine="process"))
    curate.main(["distribution", str(tmp_path / "library"), "--thin", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[1:9]]
    assert sum(int(row[0]) for row in rows) == 60
    thin = [row for row in rows if row[-1] == "(thin)"]
    assert thin
    assert all(int(row[0]) < 60 / 8 / 2 for row in thin)
    assert lines[-1].startswith("thin, collect more of: ")


def test_a_group_that_failed_is_tried_again_on_request(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("1")
    fails = [True]

    def sometimes(columns, settings):
        if fails[0]:
            raise ValueError("down")
        return {"name": ["b"] * len(columns["number"])}

    stage = dataclasses.replace(
        distribution.STAGE, name="group", of="source", run=sometimes, reads={"number": int}, writes={"name": str}
    )
    library = Library(tmp_path / "library")
    counts = []
    for retry in (False, False, True):
        with library.writing():
            list_sources(library, tmp_path / "films")
            run_stages(
                library, [MEASURE, stage], Engine(engine="process"), retry=retry,
                tell=lambda name, *told: counts.append(told) if name == "group" else None,
            )  # fmt: skip
        fails[0] = not counts
    assert counts == [(1, 1, 1), (0, 0, 0), (1, 1, 0)]
