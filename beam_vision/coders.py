"""Registers the types of :mod:`beam_vision.types` with Beam: rows instead of pickles across a shuffle.

Imported (for its effect) by every module that builds transforms.
"""

from apache_beam import coders

from beam_vision import stream_types, types

for _row in (
    *(types.Box, types.BoxFrame, types.Fault, types.Label),
    *(types.ImageRef, types.Prediction, types.Failure),
    *(stream_types.FrameInfo, stream_types.Observation),
):
    coders.registry.register_row(_row)
