"""The anchors of KerasHub's RetinaNet, which its exported graph gives offsets from but doesn't hold."""

from __future__ import annotations

import functools

import numpy as np

_LEVELS = range(3, 8)
_SIZE_OF_STRIDE = 4
_SCALES = 3
_RATIOS = (0.5, 1.0, 2.0)


@functools.lru_cache(maxsize=8)
def retinanet_anchors(height_px: int, width_px: int) -> np.ndarray:
    """float32 ``[anchors, 4]``, xyxy in pixels of the input, in the order of the model's boxes.

    As ``keras_hub.layers.AnchorGenerator`` makes them with the settings that ``RetinaNetObjectDetector``
    and all its presets have: levels 3 to 7, three scales, height to width 1/2, 1 and 2, anchors of four
    strides (Lin et al. 2017, arXiv:1708.02002, section 4).
    """
    parts = []
    for level in _LEVELS:
        rows, columns = -(-height_px // 2**level), -(-width_px // 2**level)
        y, x = np.arange(rows) * (height_px // rows), np.arange(columns) * (width_px // columns)
        corners = np.stack([*np.meshgrid(x, y)] * 2, axis=-1).reshape(-1, 1, 4)
        parts.append((corners + _around_zero(level)).reshape(-1, 4))
    anchors = np.concatenate(parts).astype(np.float32)
    anchors.flags.writeable = False
    return anchors


def _around_zero(level: int) -> np.ndarray:
    """The anchors of one place, ``[9, 4]``, around the origin."""
    sizes = [int(2**level * _SIZE_OF_STRIDE * 2 ** (scale / _SCALES)) for scale in range(_SCALES)]
    tall = np.sqrt(np.array(_RATIOS, np.float32))[:, None]
    heights, widths = (tall * sizes).reshape(-1), (1 / tall * sizes).reshape(-1)
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)
