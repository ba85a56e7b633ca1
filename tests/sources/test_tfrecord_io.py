import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.tfrecord_io import OVERHEAD_BYTES, CorruptRecord, Example, read_records, write_record


def written(records):
    file = io.BytesIO()
    sizes = [write_record(file, data) for data in records]
    assert sizes == [len(data) + OVERHEAD_BYTES for data in records]
    return file.getvalue()


def read(data):
    """The records that come through, and the error that ends them."""
    records = []
    try:
        for record in read_records(io.BytesIO(data)):
            records.append(record)
    except CorruptRecord as error:
        return records, error
    return records, None


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_records_come_back(records):
    assert read(written(records)) == (records, None)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_any_flipped_bit_is_found_at_its_record(records, data):
    whole = bytearray(written(records))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    starts = [sum(len(r) + OVERHEAD_BYTES for r in records[:i]) for i in range(len(records))]
    index = max(i for i, start in enumerate(starts) if start <= place)
    good, error = read(bytes(whole))
    assert good == records[:index]
    assert (error.index, error.offset) == (index, starts[index])
    assert f"record {index}" in str(error)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_a_file_cut_short_is_found(records, data):
    whole = written(records)
    end = data.draw(st.integers(0, len(whole) - 1))
    good, error = read(whole[:end])
    assert good == records[: len(good)]
    assert (error is None) == (len(written(good)) == end)


def test_an_absurd_length_is_not_allocated():
    file = io.BytesIO()
    length = (2**62).to_bytes(8, "little")
    from beam_vision.tfrecord_io import masked_crc32c

    file.write(length + masked_crc32c(length).to_bytes(4, "little") + b"x" * 100)
    _, error = read(file.getvalue())
    assert "beyond any record's" in error.why


def test_the_error_pickles():
    error = pickle.loads(pickle.dumps(CorruptRecord(5, 1, "why")))
    assert (error.offset, error.index, error.why) == (5, 1, "why")


def test_tensorflow_reads_what_we_write_and_we_what_it_writes(tmp_path):
    tf = pytest.importorskip("tensorflow")
    example = Example()
    features = example.features.feature
    features["bytes"].bytes_list.value.extend([b"\xff", b""])
    features["ints"].int64_list.value.extend([-1, 2**62])
    features["floats"].float_list.value.extend([0.1, -1e30])
    features["none"].SetInParent()
    data = example.SerializeToString(deterministic=True)
    assert tf.train.Example.FromString(data).SerializeToString(deterministic=True) == data
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    with open(ours, "wb") as file:
        write_record(file, data)
        write_record(file, b"")
    assert [record.numpy() for record in tf.data.TFRecordDataset(ours)] == [data, b""]
    with tf.io.TFRecordWriter(theirs) as writer:
        writer.write(data)
    with open(theirs, "rb") as file:
        (record,) = read_records(file)
    found = Example.FromString(record).features.feature
    assert list(found["bytes"].bytes_list.value) == [b"\xff", b""]
    assert list(found["ints"].int64_list.value) == [-1, 2**62]
    assert "absent" not in found
