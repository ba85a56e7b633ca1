"""DoFns of the tests of a drain, in a module of their own: a test module's are pickled by value."""

import errno
import time

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

FIRED = []


def keyed(message):
    return ("k", int(message.data))


def full_disk(message):
    raise OSError(errno.ENOSPC, "No space left on device")


@beam.typehints.with_input_types(tuple[str, int])
class ForgetLater(beam.DoFn):
    """Would forget in an hour; fired early it sets itself again, as housekeeping does."""

    FORGET = TimerSpec("forget", TimeDomain.REAL_TIME)

    def process(self, element, forget=beam.DoFn.TimerParam(FORGET)):
        forget.set(Timestamp.of(time.time() + 3600))

    @on_timer(FORGET)
    def forget_it(self, forget=beam.DoFn.TimerParam(FORGET)):
        FIRED.append("forget")
        forget.set(Timestamp.of(time.time() + 3600))


@beam.typehints.with_input_types(tuple[str, int])
class EndWindows(beam.DoFn):
    """Has many windows open; each timer sets that of the next."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, windows):
        self.windows = windows

    def process(self, element, end=beam.DoFn.TimerParam(END)):
        end.set(Timestamp.of(time.time() + 3600))

    @on_timer(END)
    def end_one(self, at=beam.DoFn.TimestampParam, end=beam.DoFn.TimerParam(END)):
        FIRED.append("end")
        if FIRED.count("end") < self.windows:
            end.set(Timestamp.of(at) + 1)
