"""Encoded bytes to upright RGB pixels: one decoder, one resize and the affine that maps boxes back.

Pure: no Beam, no TensorFlow. :mod:`~beam_vision.images.codec` decodes, :mod:`~beam_vision.images.geometry`
plans the resize, :mod:`~beam_vision.images.boxes` and :mod:`~beam_vision.images.hashing` stand by themselves.
"""
