"""The ready queries on Parquet and on BigQuery's emulator: the same rows, those that plain NumPy finds."""

import datetime
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision import table
from beam_vision.errors import UsageError
from beam_vision.search import ready, sql
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table

ROWS, DIMENSION, OLD = 60, 8, 40
KEYS = [f"lake/{i:05d}.jpg" for i in range(ROWS)]
LABELS = [None if i % 11 == 0 else f"l{i % 3}" for i in range(ROWS)]
VECTORS = clustered(ROWS, DIMENSION, clusters=6)
VECTORS[7] = VECTORS[3]  # a pair of twins
SCORES = VECTORS.astype(np.float64) @ VECTORS.T.astype(np.float64)
ASKED = VECTORS[5] + VECTORS[9]
SINCE = "2026-11-20"
DAYS = [18 if i < OLD else 20 + i % 2 for i in range(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ready")
    for name, model in (("embedded", "a"), ("predicted", "b")):
        write_embeddings(str(folder / name), VECTORS, labels=LABELS, model_digest=model)
        (path,) = table.part_paths(str(folder / name))
        rows = pq.ParquetFile(path).read()
        runs = pa.array([f"202611{day}T235959000000Z" for day in DAYS])
        rows = rows.set_column(rows.column_names.index("run_id"), rows.field("run_id"), runs)
        if name == "predicted":
            rows = rows.drop_columns(["embedding"]).slice(0, 30)
            rows = rows.append_column("prediction", pa.array([f"p{i}" for i in range(30)]))
            rows = rows.append_column("score", pa.array([i / 32 for i in range(30)], pa.float32()))
        pq.write_table(rows, path)
    return folder


@pytest.fixture
def places(folder, warehouse):
    """The embedded table, and one with predictions, in a folder and in BigQuery."""
    uris = [copy_table(str(folder / name), warehouse, name) for name in ("embedded", "predicted")]
    return [(str(folder / "embedded"), str(folder / "predicted")), tuple(uris)]


def ask(places, query_name, /, **given):
    """The rows of a ready query, which are the same on both."""
    query = ready.ready_query(query_name)
    answers = []
    for place, predicted in places:
        joins = dict.fromkeys(query.joins, predicted)
        with sql.query(place, query.sql, query.values(given), joins=joins) as result:
            answers.append([dict(zip(result.names, row, strict=True)) for b in result.batches for row in b])
    assert len(answers[0]) == len(answers[1])
    for one, other in zip(*answers, strict=True):
        assert list(one) == list(other)
        for column in one:
            is_real = isinstance(one[column], float)
            assert other[column] == (pytest.approx(one[column], abs=2e-6) if is_real else one[column])
    return answers[0]


def cosine(one, other):
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return one @ other.T / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def nearest(scores, k, among=range(ROWS)):
    """Numbers of the rows with the highest scores, ties in the order of their keys."""
    return sorted(among, key=lambda i: (-round(float(scores[i]), 6), i))[:k]


def keys_of(rows, column="key"):
    return [row[column] for row in rows]


def test_every_ready_query_has_a_test_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in ready.ready_queries() if f'"{name}"' not in source] == []


def test_nearest_to_key(places):
    rows = ask(places, "nearest_to_key", key=KEYS[3], k="5")
    expected = nearest(SCORES[3], 5, [i for i in range(ROWS) if i != 3])
    assert keys_of(rows) == [KEYS[i] for i in expected]
    assert rows[0]["key"] == KEYS[7]
    for row, i in zip(rows, expected, strict=True):
        assert row["score"] == pytest.approx(SCORES[3][i], abs=2e-6)
        assert (row["label"], row["uri"]) == (LABELS[i], f"/data/{KEYS[i]}")


def test_nearest_to_vector(places):
    rows = ask(places, "nearest_to_vector", vector=ASKED.tolist(), k="7")
    assert keys_of(rows) == [KEYS[i] for i in nearest(cosine(VECTORS, ASKED), 7)]


def test_nearest_with_label_gives_exactly_k(places):
    among = [i for i in range(ROWS) if LABELS[i] == "l1"]
    rows = ask(places, "nearest_with_label", vector=ASKED.tolist(), label="l1", k="9")
    assert keys_of(rows) == [KEYS[i] for i in nearest(cosine(VECTORS, ASKED), 9, among)]
    assert len(ask(places, "nearest_with_label", vector=ASKED.tolist(), label="l1", k="99")) == len(among)


def test_nearest_with_attribute(places):
    among = range(1, ROWS, 3)  # camera b
    rows = ask(places, "nearest_with_attribute", vector=ASKED.tolist(), name="camera", value="b", k="4")
    assert keys_of(rows) == [KEYS[i] for i in nearest(cosine(VECTORS, ASKED), 4, among)]


def test_like_and_unlike(places):
    like, unlike = [1, 2], [30]
    wanted = VECTORS[like].mean(0) - 0.25 * VECTORS[unlike].mean(0)
    among = [i for i in range(ROWS) if i not in like + unlike]
    given = {"like": ",".join(KEYS[i] for i in like), "unlike": f'["{KEYS[30]}"]', "weight": "0.25", "k": "6"}
    rows = ask(places, "like_and_unlike", **given)
    assert keys_of(rows) == [KEYS[i] for i in nearest(cosine(VECTORS, wanted), 6, among)]
    alone = ask(places, "like_and_unlike", like=KEYS[1], k="2")
    assert keys_of(alone) == [KEYS[i] for i in nearest(SCORES[1], 2, [i for i in range(ROWS) if i != 1])]
    assert ask(places, "like_and_unlike", like="nowhere", unlike=KEYS[1]) == []


def test_near_duplicates(places):
    rows = ask(places, "near_duplicates", least_score="0.9")
    expected = {(a, b) for a, b in itertools.combinations(range(ROWS), 2) if round(SCORES[a][b], 6) >= 0.9}
    assert {(row["one"], row["other"]) for row in rows} == {(KEYS[a], KEYS[b]) for a, b in expected}
    assert (rows[0]["one"], rows[0]["other"], rows[0]["score"]) == (KEYS[3], KEYS[7], pytest.approx(1))
    assert len(rows) == len(expected) > 3


def test_label_suspects(places):
    rows = ask(places, "label_suspects", neighbours="5", least_share="0.5")
    expected = {}
    for i in range(ROWS):
        if LABELS[i] is None:
            continue
        near = nearest(SCORES[i], 5, [j for j in range(ROWS) if j != i])
        votes = Counter(LABELS[j] for j in near if LABELS[j] is not None)
        label, count = min(votes.items(), key=lambda each: (-each[1], each[0]))
        if label != LABELS[i] and count / sum(votes.values()) >= 0.5:
            expected[KEYS[i]] = (label, pytest.approx(count / sum(votes.values()), abs=1e-6))
    assert {row["key"]: (row["neighbours_say"], row["share"]) for row in rows} == expected
    assert len(expected) > 3


def test_most_novel(places):
    rows = ask(places, "most_novel", since=SINCE, k="4")
    best = SCORES[:, :OLD].max(axis=1)
    expected = sorted(range(OLD, ROWS), key=lambda i: (round(best[i], 6), i))[:4]
    assert keys_of(rows) == [KEYS[i] for i in expected]
    assert keys_of(rows, "nearest_key") == [KEYS[int(SCORES[i, :OLD].argmax())] for i in expected]
    time = rows[0]["written_at"].astimezone(datetime.timezone.utc)
    assert time.strftime("%Y%m%dT%H%M%S") == f"202611{DAYS[expected[0]]}T235959"


def test_nearest_of_each_class(places):
    rows = ask(places, "nearest_of_each_class", vector=ASKED.tolist(), k="2")
    scores = cosine(VECTORS, ASKED)
    expected = [
        (label, place + 1, KEYS[i])
        for label in ("l0", "l1", "l2")
        for place, i in enumerate(nearest(scores, 2, [j for j in range(ROWS) if LABELS[j] == label]))
    ]
    assert [(row["label"], row["place"], row["key"]) for row in rows] == expected


def test_drift_by_day(places):
    rows = ask(places, "drift_by_day", since=SINCE)
    baseline = VECTORS[:OLD].astype(np.float64).mean(0)
    for row, day in zip(rows, (20, 21), strict=True):
        own = [i for i in range(OLD, ROWS) if DAYS[i] == day]
        assert (row["day"], row["images"]) == (datetime.date(2026, 11, day), len(own))
        similarity = cosine(VECTORS[own].astype(np.float64).mean(0), baseline)
        assert row["similarity"] == pytest.approx(similarity, abs=2e-6)


def test_similar_predictions(places):
    rows = ask(places, "similar_predictions", key=KEYS[3], k="8")
    expected = nearest(SCORES[3], 8, [i for i in range(ROWS) if i != 3])
    assert keys_of(rows) == [KEYS[i] for i in expected]
    said = [(f"p{i}", i / 32) if i < 30 else (None, None) for i in expected]
    assert [(row["prediction"], row["prediction_score"]) for row in rows] == said
    assert None in keys_of(rows, "prediction")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nearest_to_kay", {}, "did you mean nearest_to_key"),
        ("nearest_to_key", {}, "needs @key"),
        ("nearest_to_key", {"key": "a", "fetch": "3"}, "no parameter @fetch; it has @key, @k"),
        ("nearest_to_key", {"key": "a", "k": "ten"}, "@k is 'ten', which is no INT64"),
        ("nearest_to_key", {"key": "a", "k": str(2**63)}, "can't hold"),
        ("most_novel", {"since": "yesterday"}, "no TIMESTAMP"),
        ("near_duplicates", {"least_score": "nan"}, "finite"),
        ("nearest_to_vector", {"vector": "[1, null]"}, "finite numbers"),
        ("nearest_to_vector", {"vector": "[]"}, "finite numbers"),
        ("like_and_unlike", {"like": "[1]"}, "a JSON list of texts"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_read(name, given, message):
    with pytest.raises(UsageError) as caught:
        ready.ready_query(name).values(given)
    assert message in str(caught.value)


def test_a_head_that_reads_wrong_would_lose_a_parameter():
    """Each @name of a statement is in its head, and each of the head in the statement."""
    from beam_vision.search.googlesql import parameters_in, parse

    for name in ready.ready_queries():
        query = ready.ready_query(name)
        own = parameters_in(parse(query.sql))
        computed = {part for each in query.parameters for part in each.computed if not part.isdecimal()}
        assert {each.name for each in query.parameters} == own | computed, name
        assert query.about
