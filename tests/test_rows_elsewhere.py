"""A row that crosses to another process is an object of its class there."""

import subprocess
import sys

import pytest
from apache_beam.coders import Coder, registry
from apache_beam.portability import python_urns
from apache_beam.runners.pipeline_context import PipelineContext

from beam_vision import coders, types

DECODE = """
import sys
from apache_beam.coders import RowCoder
coder = bytes.fromhex(sys.argv[1])
if sys.argv[3] == "late":  # as in a worker that meets the coder before any of our steps
    RowCoder.from_payload(coder)
import beam_vision.coders
import beam_vision.records.plan_transforms
print(repr(RowCoder.from_payload(coder).decode(bytes.fromhex(sys.argv[2]))))
"""
REF = types.ImageRef(key="a/b.jpg", uri="gs://lake/a/b.jpg", labels=("cat",), split="train")


@pytest.mark.parametrize("when", ["early", "late"])
def test_another_process_makes_objects_of_the_class(when):
    assert coders.register_row(types.ImageRef) is types.ImageRef  # again: nothing
    coder = registry.get_coder(types.ImageRef)
    words = [coder.schema.SerializeToString().hex(), coder.encode(REF).hex(), when]
    told = subprocess.run([sys.executable, "-c", DECODE, *words], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == repr(REF)


def test_each_class_has_an_id_of_its_own():
    kinds = (types.Box, types.Failure, types.ImageRef, types.Prediction)
    assert len({registry.get_coder(kind).schema.id for kind in kinds}) == len(kinds)


def test_a_runner_sees_bytes_and_no_row_that_it_would_read_its_own_way():
    coder = registry.get_coder(types.ImageRef)
    context = PipelineContext()
    sent = coder.to_runner_api(context)
    assert sent.spec.urn == python_urns.PICKLED_CODER
    again = Coder.from_runner_api(sent, context)
    assert again == coder
    assert again.decode(coder.encode(REF)) == REF
