"""Suites: files, mistakes in them, the two that are shipped, and those of public benchmarks."""

import json
from pathlib import Path

import pytest

from lcv_jax.evaluate import main
from lcv_jax.evaluation import describing, suite_readers
from lcv_jax.evaluation.suites import KINDS, Item, read_suite, write_suite
from lcv_jax.toy.captions import parse
from lcv_jax.toy.world import is_held_out


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_a_suite_comes_back_as_written(tmp_path):
    items = [
        Item(id="a", prompt="a fox", categories=("animal",), kind="concise", translations={"zh": "狐狸"}),
        Item(id="b", prompt="", task="image-to-video", kind="empty", image="b.png", num_samples=3),
    ]
    write_suite(items, tmp_path / "two.jsonl")
    found = read_suite(tmp_path / "two.jsonl")
    assert found.items == tuple(items)
    assert items[0].text("zh") == "狐狸"
    with pytest.raises(ValueError, match="b has no prompt in 'zh'; it has en"):
        items[1].text("zh")
    write_suite(items[::-1], tmp_path / "other.jsonl")
    assert read_suite(tmp_path / "other.jsonl").digest != found.digest


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"id": "a"}, "line 2: prompt missing"),
        ({"id": "first", "prompt": "x"}, "line 2: the id 'first' is that of line 1 too"),
        ({"id": "a", "prompt": "x", "categorys": []}, "unknown field 'categorys', did you mean 'categories'"),
        ({"id": "a/b", "prompt": "x"}, "id must be 1 to 100 letters"),
        ({"id": "a", "prompt": " "}, "the prompt is empty"),
        ({"id": "a", "prompt": "x", "kind": "short"}, "kind must be one of detailed"),
        ({"id": "a", "prompt": "x", "task": "image-to-video"}, "image belongs to image-to-video"),
        ({"id": "a", "prompt": "x", "aspect_ratio": "wide"}, "such as 16:9"),
        ({"id": "a", "prompt": 3}, "prompt must be a text"),
        ({"id": "a", "prompt": "x", "num_samples": 10**400}, r"num_samples must lie in 1\.\.10000, got 1000"),
        ({"id": "a", "prompt": "x", "categories": "animal"}, "categories must be a list"),
        ([], "expected an object"),
    ],
)
def test_mistakes_name_their_line(tmp_path, row, wanted):
    path = write(tmp_path / "bad.jsonl", {"id": "first", "prompt": "fine"}, row)
    with pytest.raises(ValueError, match=wanted):
        read_suite(path)


def test_an_unknown_suite_says_which_there_are():
    with pytest.raises(OSError, match="the package has general, toy"):
        read_suite("generl")


def test_the_general_suite():
    pytest.importorskip("skimage")
    suite = read_suite("general")
    found = describing.describe(suite)
    # The report's own: 39.2 % most frequent, 58.3 % rare, 34.8 % concise and 34.6 % detailed.
    assert 230 < found.num_items < 250
    assert found.most_frequent < 0.392
    assert found.rare_categories > 0.583
    assert min(found.concise, found.detailed) > 0.3
    assert len(found.shares["categories"]) >= 48
    assert {"entity", "action", "physics", "inductive reasoning"} <= found.shares["categories"].keys()
    for item in suite.items:
        assert item.text("zh").strip() or item.kind == "empty"
        assert not item.text("zh").isascii() or item.kind == "empty"
    assert len({item.prompt for item in suite.items if item.prompt}) == sum(bool(i.prompt) for i in suite.items)
    images: dict[str, list[str]] = {}
    for item in suite.items:
        if item.image:
            images.setdefault(item.image, []).append(item.kind)
            assert suite.image(item).shape[2] == 3
    assert len(images) == 12
    assert all(sorted(kinds) == sorted(KINDS) for kinds in images.values())


def test_the_toy_suite_was_never_trained():
    for item in read_suite("toy").items:
        asked = parse(item.prompt)
        assert is_held_out((asked.colour, asked.shape, asked.motion))
        assert item.categories == (asked.motion, asked.colour, asked.shape)


def test_describe_draws_shares(tmp_path, capsys):
    rows = [
        {"id": f"{n}", "prompt": "word " * (60 if n else 3), "categories": ["a", "b"][: 1 + (n == 1)]} for n in range(4)
    ]
    main(["describe", str(write(tmp_path / "s.jsonl", *rows))])
    out = capsys.readouterr().out
    assert "4 items; prompts of 3 to 60 words, median 60" in out
    assert "25.0% concise (< 20 words), 75.0% detailed (> 51 words)" in out
    assert f"a  100.0%  {'#' * 40}\n" in out
    assert f"b   25.0%  {'#' * 10}\n" in out


def vbench2_info(path):
    """As many prompts in each dimension as make 1,230 of which 10 are for diversity."""
    names = [name for group in suite_readers.VBENCH2_DIMENSIONS.values() for name in group if name != "Diversity"]
    rows = [{"prompt_en": f"a thing {n}", "dimension": ["Diversity"]} for n in range(10)]
    rows += [{"prompt_en": f"prompt {n}", "dimension": [names[n % len(names)]]} for n in range(1220)]
    path.write_text(json.dumps(rows))
    return path


def test_vbench_2_wants_3860_videos(tmp_path, capsys):
    source = vbench2_info(tmp_path / "VBench2_full_info.json")
    main(["import", "vbench2", str(source), str(tmp_path / "v2.jsonl")])
    assert "1230 prompts, 3860 videos" in capsys.readouterr().out
    items = read_suite(tmp_path / "v2.jsonl").items
    assert len({name for item in items for name in item.dimensions}) == 18
    with pytest.raises(ValueError, match="read it as vbench2"):
        suite_readers.read_vbench(source)


def test_vbench_wants_25_where_flicker_is_scored(tmp_path):
    rows = [
        {"prompt_en": "a cliff", "dimension": ["temporal_flickering"]},
        {"prompt_en": "a dog", "dimension": ["object_class", "dynamic_degree"], "auxiliary_info": {}},
    ]
    path = tmp_path / "VBench_full_info.json"
    path.write_text(json.dumps(rows))
    found = suite_readers.read_vbench(path)
    assert [item.num_samples for item in found] == [25, 5]
    assert found[1].dimensions == ("object_class", "dynamic_degree")
    with pytest.raises(ValueError, match="object_class, temporal_flickering is no dimension of VBench 2.0"):
        suite_readers.read_vbench2(write(path, [*rows[:1], {**rows[1], "dimension": ["object_class"]}]))


def test_movie_gen_with_and_without_tags(tmp_path):
    plain, tagged = tmp_path / "MovieGenVideoBench.txt", tmp_path / "MovieGenVideoBenchWithTag.csv"
    plain.write_text("A fox.\nA bear, eating.\n")
    tagged.write_text('prompt,concept,motion_level\n"A bear, eating.","animal,human - mouth",low\n')
    assert [item.prompt for item in suite_readers.read_movie_gen(plain)] == ["A fox.", "A bear, eating."]
    (found,) = suite_readers.read_movie_gen(tagged)
    assert found.categories == ("animal", "human - mouth", "low motion")
    head = "prompt,concept,motion_level\n"
    tagged.write_text(f'{head}"A bear,\neating.",animal,low\nA fox.,animal,high\n')
    assert [item.prompt for item in suite_readers.read_movie_gen(tagged)] == ["A bear,\neating.", "A fox."]
    plain.write_text("A fox\u2028and a bear.\n")
    assert [item.prompt for item in suite_readers.read_movie_gen(plain)] == ["A fox\u2028and a bear."]
    for text, told in (
        ("prompt,motion_level\nA fox.,low\n", "concept is missing"),
        (f"{head}A fox.,animal\n", "row 1 must have a prompt and as many fields as the head"),
        (f"{head}A fox.,animal,low,more\n", "row 1 must have a prompt and as many fields as the head"),
        (f'{head}"A fox.,animal,low\n', "unexpected end of data"),
        (head, "holds no prompts"),
    ):
        tagged.write_text(text)
        with pytest.raises(ValueError, match=f"WithTag.csv: .*{told}"):
            suite_readers.read_movie_gen(tagged)


def test_t2v_compbench_is_a_folder_of_categories(tmp_path):
    (tmp_path / "7_numeracy.txt").write_text("Two cars.\n\nThree cats.\n")
    (tmp_path / "1_consistent_attr.txt").write_text("A red ball.\n")
    found = suite_readers.read_t2v_compbench(tmp_path)
    assert [(item.categories, item.prompt) for item in found] == [
        (("consistent_attr",), "A red ball."),
        (("numeracy",), "Two cars."),
        (("numeracy",), "Three cats."),
    ]
    with pytest.raises(ValueError, match="give the folder `prompts`"):
        suite_readers.read_t2v_compbench(Path(tmp_path, ".."))


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["describe", str(tmp_path / "none.jsonl")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
