import weakref
from fractions import Fraction

import cv2
import numpy as np
import pytest

from lcv_jax.curation import duplicates as matching
from lcv_jax.curation.duplicates import find_matches, find_originals
from lcv_jax.curation.fingerprints import RATE, VALID, fingerprint, hash_frames, read_fingerprint
from lcv_jax.curation.library import Library
from lcv_jax.curation.stage import GroupStage, Stage
from lcv_jax.curation.stages import duplicates
from lcv_jax.curation.stages import fingerprint as stage
from lcv_jax.data.media_writer import VideoWriter

FPS, SIZE = 24, (64, 96)


def scenes(seed, seconds):
    """A function of time: a window that moves over another smooth texture every two seconds."""
    generator = np.random.default_rng(seed)
    count = int(seconds // 2) + 1
    textures = [
        cv2.resize(generator.random((6, 9, 3), np.float32), (192, 128), interpolation=cv2.INTER_CUBIC)
        for _ in range(count)
    ]
    moves = generator.uniform(-15, 15, (count, 2))

    def at(moment):
        number = min(int(moment // 2), count - 1)
        y, x = (30 + moves[number] * (moment - 2 * number)).astype(int)
        return (textures[number][y : y + 64, x : x + 96].clip(0, 1) * 255).astype(np.uint8)

    return at


def write(path, at, start, end, *, fps=FPS, size=SIZE, crf=20):
    with VideoWriter(path, fps=fps, height=size[0], width=size[1], crf=crf) as video:
        for moment in np.arange(start, end, 1 / float(fps)):
            video.write(cv2.resize(at(moment), size[::-1], interpolation=cv2.INTER_AREA)[None])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Of a film: itself, two copies, an excerpt at another rate; and another film that begins as it does."""
    folder = tmp_path_factory.mktemp("films")
    one, other = scenes(0, 10), scenes(1, 10)
    write(folder / "film.mp4", one, 0, 10)
    write(folder / "small.mp4", one, 0, 10, size=(32, 48), crf=35)
    write(folder / "excerpt.mp4", one, 3.13, 8.4, fps=15)
    write(folder / "rate.mp4", one, 0, 10, fps=Fraction(30000, 1001), size=(96, 144), crf=30)
    write(folder / "other.mp4", lambda t: one(t) if t < 4 else other(t), 0, 10)
    return {path.stem: read_fingerprint(fingerprint(path)) for path in sorted(folder.glob("*.mp4"))}


def test_copies_and_parts_are_found_and_the_best_copy_is_kept(films):
    names = [*films]
    ranks = [({"rate": 2, "small": 0}.get(name, 1),) for name in names]
    found = find_originals(list(films.values()), [None] * len(films), ranks, 0.7)
    told = {name: each and (names[each.film], each.kind) for name, each in zip(names, found, strict=True)}
    assert told == {
        "film": ("rate", "copy"),
        "small": ("rate", "copy"),
        "excerpt": ("rate", "part"),
        "rate": None,
        "other": None,
    }
    assert found[names.index("excerpt")].share > 0.9


def test_a_shared_beginning_is_measured(films):
    (match,) = find_matches([films["film"], films["other"]], 0.2)
    assert match.first_share == pytest.approx(4 / 10, abs=0.05)
    (match,) = find_matches([films["film"], films["excerpt"]], 0.2)
    assert match.offset / RATE == pytest.approx(-3.13, abs=0.26)


def test_frames_pass_by_one_at_a_time():
    alive, most = set(), 0

    def frames():
        nonlocal most
        for number in range(40):
            frame = np.full((64, 96, 3), number, np.uint8)
            alive.add(number)
            weakref.finalize(frame, alive.discard, number)
            most = max(most, len(alive))
            yield frame
            del frame

    assert (hash_frames(frames())[:, 0] == 0).all()  # uniform frames have no hash
    assert most <= 2


def random_films(count, length, seed=0):
    hashes = np.random.default_rng(seed).integers(2**63, size=(count, length), dtype=np.uint64) | VALID
    return list(np.stack([hashes, np.zeros_like(hashes)], axis=-1))


def test_many_films_are_not_compared_with_each_other(monkeypatch):
    films = random_films(400, 100)
    films[7] = films[300][20:80].copy()
    films[8] = films[300] ^ np.uint64([3, 0])
    compared = []
    compare = matching._compare
    monkeypatch.setattr(matching, "_compare", lambda *given: compared.append(given) or compare(*given))
    assert {(match.first, match.second) for match in find_matches(films, 0.7)} == {(7, 8), (7, 300), (8, 300)}
    assert len({given[1:3] for given in compared}) < 100  # of 79,800
    # With a tenth of the keys the same is found.
    assert len(matching._index(films)[0]) == pytest.approx(56 * 100 * 400, rel=0.01)
    monkeypatch.setattr(matching, "MOST_KEYS", 24_000)
    assert len(matching._index(films)[0]) == pytest.approx(24_000, rel=0.1)
    assert len(find_matches(films, 0.7)) == 3


def test_strong_compression_is_found_where_the_index_has_room():
    """Hashes of which 12 bits are wrong often have three of eight bands in common, and hardly ever two of four."""
    (film,), rng = random_films(1, 24), np.random.default_rng(1)
    wrong = [sum(1 << int(bit) for bit in rng.choice(63, 12, replace=False)) for _ in film]
    copy = film ^ np.array([[bits, 0] for bits in wrong], np.uint64)
    assert [match.first_share for match in find_matches([film, copy], 0.6)] == [1.0]


def test_films_of_other_colours_are_others():
    def ball(colour):
        rows, columns = np.mgrid[:64, :96]
        light = np.clip(1 - np.hypot(rows - 30, columns - 48)[..., None] / 24, 0, 1)
        for move in range(12):
            yield np.roll((light * colour).astype(np.uint8), 2 * move, axis=1)

    green, faded, purple = (hash_frames(ball(colour)) for colour in ((60, 200, 90), (70, 195, 95), (150, 110, 220)))
    assert np.bitwise_count(green[:, 0] ^ purple[:, 0]).max() <= matching._SAME_BITS
    assert [(match.first, match.second) for match in find_matches([green, faded, purple], 0.6)] == [(0, 1)]


def test_many_copies_of_one_film_lead_to_one():
    film = random_films(1, 60)[0]
    found = find_originals([film] * 50, [None] * 50, [(number,) for number in range(50)], 0.7)
    assert [each and each.film for each in found] == [49] * 49 + [None]


def test_the_better_copy_is_kept_although_it_is_shorter():
    film = random_films(1, 62)[0]
    films = [film, film[:60], film[5:30]]
    found = find_originals(films, [None] * 3, [(1,), (2,), (3,)], 0.6)
    assert [each and (each.film, each.kind) for each in found] == [(1, "copy"), None, (1, "part")]


def test_ids_and_pictures_together():
    """A part of a film whose id another film has leads to the better one of the two."""
    film, other, blank = *random_films(2, 60), np.zeros((60, 2), np.uint64)
    films = [film, other, film[10:40], blank, blank]
    found = find_originals(films, ["a", "a", None, None, "b"], [(1,), (2,), (3,), (4,), (5,)], 0.7)
    assert [each and (each.film, each.kind) for each in found] == [(1, "id"), None, (1, "part"), None, None]


def test_short_films_are_not_judged_by_their_pictures():
    film = random_films(1, 2)[0]
    assert find_matches([film, film], 0.7) == []


def test_a_library_of_the_version_before_takes_the_new_stage(tmp_path):
    old = GroupStage(
        name="duplicates", version=1, run=lambda columns, settings: {}, settings=stage.Settings(), of="source",
        reads={"source_id": str}, writes={"duplicate_of": str},
    )  # fmt: skip
    cut = Stage(
        name="segment", version=1, run=lambda row, settings: {}, settings=stage.Settings(), of="source",
        reads={"path": str}, writes={"crop": list[int]},
    )  # fmt: skip
    sizes = {"source_height": int, "source_width": int, "source_frames": int}
    probe = Stage(
        name="probe", version=1, run=lambda row, settings: {}, settings=stage.Settings(), of="source",
        reads={"path": str}, writes=sizes,
    )  # fmt: skip
    library = Library(tmp_path / "library")
    with library.writing():
        for each in (probe, old, cut, stage.STAGE, duplicates.STAGE):
            library.adopt(each)
            library.connect().execute("SELECT * FROM sources")
    assert library.stages() == ["probe", "fingerprint", "duplicates", "segment"]
