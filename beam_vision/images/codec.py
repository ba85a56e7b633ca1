"""The one decoder: encoded bytes to upright RGB pixels at the asked size.

Thread-safe: no global of Pillow is changed or relied on. Pillow releases the GIL while it decodes,
converts and resizes, so threads decode side by side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from beam_vision.errors import Reason, VisionError
from beam_vision.images.boxes import exif_transform, inverse_orientation
from beam_vision.images.geometry import ResizePlan, plan_resize
from beam_vision.images.header import ABOVE_ANY_SIZE_PX, Header, open_image, reasons
from beam_vision.images.pixels import to_grey_or_rgb
from beam_vision.images.settings import INTERPOLATIONS, DecodeSettings
from beam_vision.images.tiles import Tile, plan_tiles
from beam_vision.types import DecodedImage

_Part = tuple[float, float, float, float]

_REDUCING_GAP = 2.0
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_DEFAULTS = DecodeSettings()


def read_header(data: bytes) -> Header:
    """What the file says of its image; what follows the header is not looked at.

    Raises:
      VisionError: ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``TRUNCATED`` or ``CORRUPT``.
    """
    with reasons():
        return open_image(data, ABOVE_ANY_SIZE_PX, whole=False)[1]


def decode(data: bytes, settings: DecodeSettings = _DEFAULTS) -> DecodedImage:
    """Decodes ``data``: the first frame or page, upright by its EXIF orientation, as RGB, resized.

    The same bytes and settings give the same pixels. A JPEG carries no checksum: damage that still
    parses gives wrong pixels and no error; what can be known of damage is reported.

    Raises:
      VisionError: ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``TRUNCATED``, ``CORRUPT``,
        ``TOO_LARGE``, ``TOO_SMALL`` or ``OUT_OF_MEMORY``.
    """
    with reasons():
        image, header = _open(data, settings)
        return _whole(image, header, settings)


def decode_tiles(
    data: bytes, settings: DecodeSettings, tile_px: int, overlap: float
) -> tuple[Sequence[tuple[Tile, DecodedImage]], int, tuple[int, int]]:
    """Decodes ``data`` once, at its native size, and cuts it in tiles, each resized as the settings say.

    A tile is what :func:`decode` gives for an image of that part alone, but for these: its ``affine`` takes
    points of the whole upright image (not of the tile), ``width_px`` and ``height_px`` are the whole's, and
    there is no reduced decoding. So :func:`~beam_vision.images.boxes.to_original` brings boxes of any tile
    to one frame. An image no larger than a tile is decoded as :func:`decode` does.

    Args:
      data: the file.
      settings: for each tile; the limits (``max_pixels``, ``min_side_px``) hold for the whole image.
      tile_px, overlap: see :func:`~beam_vision.images.tiles.plan_tiles`.

    Returns:
      The tiles in their order, the EXIF orientation, and (width, height) of the upright image in pixels.
      The sequence holds the decoded image (3 or 4 bytes a pixel) and makes a tile whenever it is asked for
      one, from any thread; take them one by one to save memory.

    Raises:
      VisionError: as :func:`decode`; a tile that is asked for may raise ``OUT_OF_MEMORY``.
      UsageError: as :func:`~beam_vision.images.tiles.plan_tiles`.
    """
    with reasons():
        image, header = _open(data, settings)
        plan = plan_tiles(*header.upright_size, tile_px, overlap)
        if len(plan) == 1:
            return [(plan[0], _whole(image, header, settings))], header.orientation, header.upright_size
        image.load()
        pixels = to_grey_or_rgb(image, settings.background_rgb)
        return _Tiles(pixels, header, plan, settings), header.orientation, header.upright_size


class _Tiles(Sequence[tuple[Tile, DecodedImage]]):
    """Cuts tiles from pixels as they are stored, so that a large image is never turned as a whole."""

    def __init__(
        self, pixels: Image.Image, header: Header, plan: Sequence[Tile], settings: DecodeSettings
    ) -> None:
        self._pixels = pixels
        self._header = header
        self._plan = plan
        self._settings = settings

    def __len__(self) -> int:
        return len(self._plan)

    @overload
    def __getitem__(self, index: int) -> tuple[Tile, DecodedImage]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Tile, DecodedImage]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tile = self._plan[index]
        plan = _planned(tile.width_px, tile.height_px, self._settings)
        width, height = self._header.upright_size
        orientation = _turns(self._header)
        back = inverse_orientation(orientation)
        part = exif_transform(np.array([tile.box], np.float64), back, width, height)[0]
        with reasons():
            crop = self._pixels.crop(tuple(part.tolist()))
            pixels = np.asarray(_resized(crop, plan, orientation, self._settings))
        ax, ay, tx, ty = plan.affine
        affine = ax, ay, tx - ax * tile.left_px, ty - ay * tile.top_px
        header = self._header
        return tile, DecodedImage(pixels, width, height, affine, header.format, header.orientation)


def _open(data: bytes, settings: DecodeSettings) -> tuple[ImageFile, Header]:
    image, header = open_image(data, settings.max_pixels)
    width, height = header.upright_size
    if min(width, height) < settings.min_side_px:
        raise VisionError(
            Reason.TOO_SMALL,
            f"{width} x {height} pixels: a side is under min_side_px={settings.min_side_px}",
        )
    return image, header


def _planned(width_px: int, height_px: int, settings: DecodeSettings) -> ResizePlan:
    return plan_resize(
        width_px,
        height_px,
        out_width_px=settings.width_px,
        out_height_px=settings.height_px,
        mode=settings.resize,
        max_side_px=settings.max_side_px,
    )


def _turns(header: Header) -> int:
    """The orientation that is left for us to apply: Pillow itself turns a TIFF upright while it loads."""
    return 1 if header.format == "TIFF" else header.orientation


def _whole(image: ImageFile, header: Header, settings: DecodeSettings) -> DecodedImage:
    width, height = header.upright_size
    plan = _planned(width, height, settings)
    orientation = _turns(header)
    size, box = _as_stored(plan, orientation)
    if settings.reduced_decode:
        box = _draft(image, box, size)
    image.load()
    pixels = np.asarray(
        _resized(to_grey_or_rgb(image, settings.background_rgb), plan, orientation, settings, box)
    )
    return DecodedImage(pixels, width, height, plan.affine, header.format, header.orientation)


def _as_stored(plan: ResizePlan, orientation: int) -> tuple[tuple[int, int], _Part]:
    """The size to resize to, and the part to resize, before the orientation is applied."""
    size = plan.target[2] - plan.target[0], plan.target[3] - plan.target[1]
    box = plan.source
    if orientation >= 5:
        # The part shown is centred, so that mirroring leaves it where it is.
        size, box = size[::-1], (box[1], box[0], box[3], box[2])
    return size, box


def _resized(
    result: Image.Image,
    plan: ResizePlan,
    orientation: int,
    settings: DecodeSettings,
    box: _Part | None = None,
) -> Image.Image:
    """Resizes pixels as stored (of them ``box``, else the plan's part) and turns the small result upright."""
    size, planned = _as_stored(plan, orientation)
    box = planned if box is None else box
    if result.size != size or box != (0, 0, *size):
        gap = _REDUCING_GAP if settings.reduced_decode else None
        result = result.resize(size, INTERPOLATIONS[settings.interpolation], box, gap)
    if orientation != 1:
        result = result.transpose(_TO_UPRIGHT[orientation])
    if result.mode != "RGB":
        result = result.convert("RGB")
    if plan.padded:
        canvas = Image.new("RGB", (plan.width_px, plan.height_px), settings.pad_rgb)
        canvas.paste(result, plan.target[:2])
        result = canvas
    return result


def _draft(image: ImageFile, box: _Part, size: tuple[int, int]) -> _Part:
    """Asks a JPEG for 1/2, 1/4 or 1/8 of its size where twice ``size`` remains; gives the box there."""
    if image.format != "JPEG":
        return box
    factor = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / 2
    scale = next((s for s in (8, 4, 2) if factor >= s), 1)
    if scale == 1:
        return box
    image.draft(None, (image.width // scale, image.height // scale))
    return tuple(edge / scale for edge in box)  # type: ignore[return-value]


def decode_grey(
    data: bytes, width_px: int, height_px: int, *, max_pixels: int = _DEFAULTS.max_pixels
) -> np.ndarray:
    """A quick look at ``data``: uint8 ``[height_px, width_px]`` grey, stretched, not turned upright.

    A JPEG is decoded without its colours, at 1/2, 1/4 or 1/8 of its size where that is no smaller than what
    is asked for. For measuring, not for a model.

    Raises:
      VisionError: as :func:`decode`, but for ``TOO_SMALL``.
    """
    with reasons():
        image, _ = open_image(data, max_pixels)
        if image.format == "JPEG" and image.mode == "RGB":
            image.draft("L", (width_px, height_px))
        image.load()
        grey = to_grey_or_rgb(image, _DEFAULTS.background_rgb).convert("L")
        return np.asarray(grey.resize((width_px, height_px), Image.Resampling.BOX))


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """``pixels`` (uint8 ``[H, W, 3]`` RGB or ``[H, W]`` grey) as a baseline JPEG."""
    return _encode(pixels, "JPEG", quality=quality)


def encode_png(pixels: np.ndarray) -> bytes:
    """``pixels`` (uint8 ``[H, W, 3]`` RGB or ``[H, W]`` grey) as a PNG, lossless."""
    return _encode(pixels, "PNG")


def _encode(pixels: np.ndarray, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()
