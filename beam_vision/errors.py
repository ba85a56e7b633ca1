"""Why an element can fail, as a bounded vocabulary, and the error that carries it.

Every failure of one element is a :class:`VisionError`; every mistake of the caller (an option, a
missing file, two digests that don't agree) is a :class:`UsageError` and ends the job before it starts.
"""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    """The step of a pipeline in which an element failed."""

    SOURCE = "source"
    MESSAGE = "message"
    ANNOTATION = "annotation"
    READ = "read"
    DECODE = "decode"
    INFERENCE = "inference"
    WRITE = "write"


class Reason(str, Enum):
    """Why an element failed; short, stable words that are safe to group by."""

    # source
    DUPLICATE_KEY = "duplicate_key"
    BAD_MANIFEST_ROW = "bad_manifest_row"
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_SPLIT = "unknown_split"
    NO_LONGER_LISTED = "no_longer_listed"
    # message: of a stream
    BAD_MESSAGE = "bad_message"
    MISSING_FIELD = "missing_field"
    BAD_TIME = "bad_time"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    # annotation: of one box, whose image goes on without it
    BAD_BOX = "bad_box"
    UNKNOWN_CATEGORY = "unknown_category"
    # read
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    READ_ERROR = "read_error"
    BAD_RECORD = "bad_record"
    TOO_MANY_BYTES = "too_many_bytes"
    # decode
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    # inference
    BAD_MODEL_OUTPUT = "bad_model_output"
    NON_FINITE = "non_finite"
    ZERO_VECTOR = "zero_vector"
    MODEL_ERROR = "model_error"
    OUT_OF_MEMORY = "out_of_memory"
    # write
    WRITE_ERROR = "write_error"
    REFUSED = "refused"
    # anything that nobody foresaw; its type stands in the detail
    UNEXPECTED = "unexpected"


TRANSIENT_REASONS = frozenset({Reason.READ_ERROR, Reason.OUT_OF_MEMORY, Reason.WRITE_ERROR})
"""Reasons that may pass by themselves: worth a retry, and the first that a redrive should try."""


class VisionError(Exception):
    """One element can't be processed.

    Args:
      reason: the short reason.
      detail: one sentence with the value, the place and the remedy; never the payload.
      key: the element's key, where the raiser knows it (:class:`~beam_vision.failures.Guard` fills it in).
    """

    def __init__(self, reason: Reason, detail: str, *, key: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.key = key

    @property
    def transient(self) -> bool:
        """Whether the same element may pass when tried again."""
        return self.reason in TRANSIENT_REASONS

    def __reduce__(self) -> tuple:
        return _rebuild, (self.reason, self.detail, self.key)


def _rebuild(reason: Reason, detail: str, key: str) -> VisionError:
    return VisionError(reason, detail, key=key)


class UsageError(Exception):
    """The job can't start or go on as asked: says the value, the place and the remedy (exit code 2)."""


class JobError(Exception):
    """The job ran and its result is not acceptable (exit code 1)."""


class DigestMismatch(UsageError):  # noqa: N818  (what it says is the mismatch)
    """Two things that must have been made with the same settings were not.

    Args:
      what: what was compared, e.g. ``"preprocessing"``.
      expected: the digest that is asked for.
      found: the digest that was found.
      remedy: what to do.
    """

    def __init__(self, what: str, *, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{what} digests differ: expected {expected}, found {found}; {remedy}")
        self.expected = expected
        self.found = found
