"""Encoded bytes to upright RGB pixels: one decoder, one resize and the affine that maps boxes back.

Pure: no Beam, no TensorFlow. :mod:`~beam_vision.images.codec` decodes, :mod:`~beam_vision.images.geometry`
plans the resize, :mod:`~beam_vision.images.tiles` cuts large images and merges what was found in the parts.
:mod:`~beam_vision.images.boxes`, :mod:`~beam_vision.images.nms` and :mod:`~beam_vision.images.hashing` stand
by themselves; :mod:`~beam_vision.images.annotated` brings annotated boxes to pixels of the upright image.
"""
