"""From a model's output to unit vectors."""

from __future__ import annotations

import numpy as np

from beam_vision.errors import Reason, VisionError


def rows(output: np.ndarray, *, layout: str = "NHWC") -> np.ndarray:
    """An output as one row of numbers an image.

    Args:
      output: ``[n, d]``; or a map ``[n, h, w, d]`` (``[n, d, h, w]`` where ``layout`` is NCHW), which is
        averaged over its places; a map of one place, either way round, is just its numbers.

    Returns:
      float32 ``[n, d]``.

    Raises:
      VisionError: ``bad_model_output`` for any other rank.
    """
    output = output.astype(np.float32, copy=False)
    if output.ndim == 2:
        return output
    if output.ndim == 4:
        if output.shape[1:].count(1) >= 2:
            return output.reshape(len(output), -1)
        return output.mean(axis=(2, 3) if layout == "NCHW" else (1, 2))
    raise VisionError(
        Reason.BAD_MODEL_OUTPUT,
        f"an output of shape {list(output.shape)} is neither [n, d] nor a map [n, h, w, d]",
    )


def normalize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brings vectors to length one (L2).

    Args:
      vectors: float32 ``[n, d]``, finite.

    Returns:
      The vectors, little-endian float32 ``[n, d]``, and a mask ``[n]`` that is False where a vector is zero.
    """
    # The largest component is taken out first, so that squares neither overflow nor vanish.
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    kept = largest[:, 0] > 0
    scaled = vectors / np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64))[:, None]
    return (scaled / np.where(lengths > 0, lengths, 1)).astype("<f4"), kept
