"""The label map is protobuf text that protobuf itself reads."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.records import label_map

_Field = descriptor_pb2.FieldDescriptorProto


def message():
    """``StringIntLabelMap`` as ``object_detection/protos/string_int_label_map.proto`` has it."""
    file = descriptor_pb2.FileDescriptorProto(name="label_map.proto", package="p", syntax="proto2")
    item = file.message_type.add(name="StringIntLabelMapItem")
    item.field.add(name="name", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    item.field.add(name="id", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_INT32)
    items = file.message_type.add(name="StringIntLabelMap").field
    items.add(
        name="item",
        number=1,
        label=_Field.LABEL_REPEATED,
        type=_Field.TYPE_MESSAGE,
        type_name=".p.StringIntLabelMapItem",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.StringIntLabelMap"))()


def test_the_form():
    assert (
        label_map.to_text(["x", "y"]) == "item {\n  id: 1\n  name: 'x'\n}\nitem {\n  id: 2\n  name: 'y'\n}\n"
    )
    assert label_map.to_text([]) == ""


@given(st.lists(st.text(min_size=1, max_size=8), max_size=4, unique=True))
def test_any_name_comes_through(names):
    found = text_format.Parse(label_map.to_text(names), message())
    assert [(item.id, item.name) for item in found.item] == list(enumerate(names, start=1))
