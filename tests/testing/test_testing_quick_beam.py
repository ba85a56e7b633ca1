"""What Beam is made to remember in tests is what it would say."""

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer

from beam_vision.testing import quick_beam


class Plain(beam.DoFn):
    def process(self, element):
        yield element


class Stateful(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())
    LATER = TimerSpec("later", TimeDomain.WATERMARK)

    def process(self, element, seen=beam.DoFn.StateParam(SEEN), later=beam.DoFn.TimerParam(LATER)):
        yield element

    @on_timer(LATER)
    def at_last(self, seen=beam.DoFn.StateParam(SEEN)):
        yield seen.read()


class Twice(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())

    def process(self, element, one=beam.DoFn.StateParam(SEEN), two=beam.DoFn.StateParam(SEEN)):
        yield element


class Counting:
    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def __call__(self, *args):
        self.asked += 1
        return self.answer(*args)


@pytest.fixture
def ask():
    """Beam's own function, however often it has been wrapped."""
    from apache_beam.transforms import userstate

    found = userstate.get_dofn_specs
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return Counting(found)


def test_a_class_is_looked_through_once_and_the_answer_is_beams(ask):
    remembered = quick_beam.specs_by_class(ask)
    for _ in range(3):
        assert remembered(Plain()) == (set(), set())
        assert remembered(Stateful()) == ({Stateful.SEEN}, {Stateful.LATER})
    assert ask.asked == 2


def test_an_answer_cannot_be_spoilt(ask):
    remembered = quick_beam.specs_by_class(ask)
    remembered(Stateful())[0].clear()
    assert remembered(Stateful())[0] == {Stateful.SEEN}


def test_a_dofn_with_methods_of_its_own_is_looked_through_each_time(ask):
    remembered = quick_beam.specs_by_class(ask)
    assert remembered(Plain()) == (set(), set())
    odd = Plain()
    odd.process = Stateful().process
    assert remembered(odd) == ({Stateful.SEEN}, {Stateful.LATER})
    assert remembered(Plain()) == (set(), set())


def test_what_beam_refuses_is_refused_each_time(ask):
    remembered = quick_beam.specs_by_class(ask)
    for _ in range(2):
        with pytest.raises(ValueError, match="duplicate process method parameters"):
            remembered(Twice())


def test_views_share_their_values_and_each_options_have_their_own():
    quick_beam.install()
    first, second = PipelineOptions(["--streaming"]), PipelineOptions([])
    assert first.view_as(StandardOptions).streaming
    assert not second.view_as(StandardOptions).streaming
    second.view_as(StandardOptions).streaming = True
    assert second.view_as(TypeOptions).view_as(StandardOptions).streaming
    first.view_as(StandardOptions).streaming = False
    assert not first.view_as(StandardOptions).streaming
    assert second.view_as(StandardOptions).streaming
    assert first.view_as(StandardOptions) is first.view_as(TypeOptions).view_as(StandardOptions)


def test_no_options_are_taken_for_others_that_are_gone():
    quick_beam.install()
    for number in range(3 * quick_beam._OPTIONS_KEPT):
        options = PipelineOptions([f"--runner=Runner{number}"])
        assert options.view_as(StandardOptions).runner == f"Runner{number}"
        assert options.view_as(TypeOptions).view_as(StandardOptions).runner == f"Runner{number}"


def test_beam_asks_by_the_name_that_is_replaced():
    """It looks ``get_dofn_specs`` up in its module; else tests would be slow again, and nobody told."""
    from apache_beam.transforms import userstate

    quick_beam.install()
    quick_beam.install()
    assert userstate.get_dofn_specs.asked_once
    assert not hasattr(userstate.get_dofn_specs.__wrapped__, "asked_once")
    assert userstate.is_stateful_dofn(Stateful())
    assert not userstate.is_stateful_dofn(Plain())
