"""Searches over shards, held against the same search in one exact index, key by key."""

import json
import os
import shutil

import numpy as np
import pytest

from beam_vision import storage
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import shards
from beam_vision.search.fan_out import ShardedIndex, how_in_all
from beam_vision.search.index import build, open_index, open_table, update
from beam_vision.testing.sharding import build_in_shards, settings_for
from beam_vision.testing.tables import clustered, write_embeddings

ROWS, DIMENSION, SHARDS = 600, 16, 5


def twins():
    """Vectors of which every one stands three times, so that scores tie over shards."""
    return np.repeat(clustered(ROWS // 3, DIMENSION), 3, axis=0)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_embeddings(str(folder / "t"), twins(), parts=3)
    manifest = build_in_shards(settings_for(str(folder / "t"), str(folder / "i"), shards=SHARDS))
    build(str(folder / "t"), str(folder / "plain"), backend="exact")
    assert len(manifest.shards) == SHARDS
    return open_index(str(folder / "i")), open_index(str(folder / "plain")), folder


def values(found):
    return [[vars(each) if hasattr(each, "__dict__") else each for each in near] for near in found.neighbors]


@pytest.mark.parametrize("k", [1, 2, 10, ROWS, ROWS + 7])
def test_exact_shards_answer_as_one_exact_index(both, k):
    sharded, plain, _ = both
    queries = np.concatenate([twins()[::97], 5 * clustered(4, DIMENSION, seed=9)])
    assert values(sharded.search(queries, k)) == values(plain.search(queries, k))
    alone = 2.5 * clustered(1, DIMENSION, seed=4)[0]
    assert values(sharded.search(alone, k)) == values(plain.search(alone, k))


@pytest.mark.parametrize(
    "where", ["label = 'odd'", "attributes['camera'] = 'b'", "key < 'lake/00002.jpg'", "false"]
)
def test_with_a_filter_too(both, where):
    sharded, plain, _ = both
    queries = clustered(5, DIMENSION, seed=3)
    found, truth = sharded.search(queries, 7, where=where), plain.search(queries, 7, where=where)
    assert values(found) == values(truth)
    assert [note for note in found.notes if "only" in note] == [
        note for note in truth.notes if "only" in note
    ]


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("where", ["", "label = 'even'"])
def test_like_an_image_of_the_index(both, include_self, where):
    sharded, plain, _ = both
    for key in ("lake/00000.jpg", "lake/00301.jpg", "lake/00599.jpg"):
        asked = {"where": where, "include_self": include_self}
        found = sharded.search_key(key, 6, **asked)
        assert values(found) == values(plain.search_key(key, 6, **asked))
        own = [each.key for each in found.neighbors[0]]
        assert (key in own) == (include_self and (not where or int(key[5:10]) % 2 == 0))


def test_what_it_says(both):
    sharded, plain, _ = both
    assert len(sharded) == len(plain) == ROWS
    assert (sharded.backend, plain.backend) == ("exact, 5 shards", "exact")
    found = sharded.search(clustered(1, DIMENSION), ROWS + 1)
    assert found.notes == ["searched: 5 shards, exact", "only 600 rows are there: all are given"]
    assert sharded.search(clustered(1, DIMENSION), 3).notes == ["searched: 5 shards, exact"]
    assert sharded.knows("lake/00007.jpg")
    assert not sharded.knows("lake/7.jpg")


def test_how_it_searched_is_said_once_for_all_shards(both):
    sharded, plain, _ = both
    asked = {"where": "label = 'odd'"}
    said = [each.search(clustered(1, DIMENSION), 3, **asked).notes[0] for each in (sharded, plain)]
    assert said[1].startswith("searched: exact over the ")
    assert said[0] == said[1].replace("searched: ", "searched: 5 shards, ")
    hows = ["scann_ah", "scann_ah; 1 of 4 queries exactly", "scann_ah; 3 of 4 queries exactly"]
    assert how_in_all(hows, 9) == "scann_ah; scann_ah; some of 4 queries exactly"
    assert how_in_all(["scann_tree, over the 9,000 that match"], 12_000) == (
        "scann_tree, over the 12,000 that match"
    )


def test_wrong_questions_are_refused_as_by_one_index(both):
    sharded, plain, _ = both
    questions = [
        lambda index: index.search(clustered(1, DIMENSION), 0),
        lambda index: index.search(clustered(1, DIMENSION + 1), 3),
        lambda index: index.search(np.full(DIMENSION, np.nan), 3),
        lambda index: index.search(clustered(1, DIMENSION), 3, where="colour = 'red'"),
        lambda index: index.search_key("lake/00600.jpg"),
        lambda index: index.require_made_by(model_digest="model-a", preprocessing_digest="prep-b"),
    ]
    for ask in questions:
        said = []
        for index in (sharded, plain):
            with pytest.raises(UsageError) as error:
                ask(index)
            said.append((type(error.value), str(error.value)))
        assert said[0] == said[1]
    with pytest.raises(DigestMismatch, match="model digests differ"):
        sharded.require_made_by(model_digest="model-b", preprocessing_digest="prep-a")
    sharded.require_made_by(model_digest="model-a", preprocessing_digest="prep-a")


def test_it_can_be_moved_and_its_table_be_gone(both, tmp_path):
    sharded, _, folder = both
    shutil.copytree(folder / "i", tmp_path / "moved")
    opened = open_index(str(tmp_path / "moved"))
    assert isinstance(opened, ShardedIndex)
    query = clustered(3, DIMENSION, seed=5)
    assert values(opened.search(query)) == values(sharded.search(query))


def test_a_shard_that_is_gone_or_is_another_one_is_named(both, tmp_path):
    shutil.copytree(both[2] / "i", tmp_path / "i")
    index = str(tmp_path / "i")
    first, second, *_ = shards.read_manifest(index).shards
    os.rename(os.path.join(index, first.name), tmp_path / "aside")
    with pytest.raises(UsageError, match=f"lacks {first.name}, which its manifest lists"):
        open_index(index)
    shutil.copytree(os.path.join(index, second.name), os.path.join(index, first.name))
    with pytest.raises(UsageError, match=r"holds [0-9]+ rows, not [0-9]+"):
        open_index(index)


def test_who_knows_only_one_piece_refuses_shards_and_the_other_way_round(both, tmp_path):
    _, _, folder = both
    for change in (build, update):
        with pytest.raises(UsageError, match="is an index in shards, and this would"):
            change(str(folder / "t"), str(folder / "i"))
    with pytest.raises(UsageError, match="of an index in a single piece; leave out --shards"):
        shards.read_manifest(str(folder / "plain"))
    with pytest.raises(UsageError, match="'beam-vision table', not of an index"):
        shards.read_manifest(str(folder / "t"))
    with pytest.raises(UsageError, match="no index at"):
        shards.read_manifest(str(tmp_path))
    with pytest.raises(UsageError, match="an index is a local folder"):
        open_index("gs://lake/index")
    shutil.copytree(folder / "i", tmp_path / "newer")
    path = tmp_path / "newer" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(UsageError, match="newer beam-vision"):
        open_index(str(tmp_path / "newer"))


def test_a_single_row_and_empty_shards(tmp_path):
    write_embeddings(str(tmp_path / "t"), clustered(1, 4))
    manifest = build_in_shards(settings_for(str(tmp_path / "t"), str(tmp_path / "i"), shards=9))
    assert (len(manifest.shards), manifest.shard_count, manifest.recall_at_10) == (1, 9, 1.0)
    opened = open_index(str(tmp_path / "i"))
    assert values(opened.search(np.ones(4), 3)) == values(
        open_table(str(tmp_path / "t")).search(np.ones(4), 3)
    )


def test_a_reader_that_meets_a_replacement_opens_the_new_one(both, tmp_path, monkeypatch):
    """The first manifest names shards that are gone by the time they are opened."""
    shutil.copytree(both[2] / "i", tmp_path / "i")
    index, table = str(tmp_path / "i"), str(both[2] / "t")
    read, reads = shards.read_manifest, []

    def read_and_replace(folder):
        found = read(folder)
        reads.append(found.run_id)
        if len(reads) == 1:
            monkeypatch.setattr(shards, "read_manifest", read)
            settings = settings_for(table, index, run_id="20270101T000000000000Z", replaces=found.run_id)
            build_in_shards(settings)
        return found

    monkeypatch.setattr(shards, "read_manifest", read_and_replace)
    opened = open_index(index)
    assert opened.manifest.run_id == "20270101T000000000000Z"
    assert len(opened) == ROWS
    assert not storage.exists(storage.join(index, both[0].manifest.shards[0].name))
