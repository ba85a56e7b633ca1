"""Cut-outs and backgrounds of simple shapes, as files."""

import io

import numpy as np
from PIL import Image, ImageDraw


def png(image, format_name="PNG"):
    file = io.BytesIO()
    image.save(file, format_name)
    return file.getvalue()


def shape(kind, colour, size=(40, 24), margin=6):
    """A shape on nothing, with a transparent margin; its edges are hard."""
    image = Image.new("RGBA", (size[0] + 2 * margin, size[1] + 2 * margin))
    box = (margin, margin, margin + size[0] - 1, margin + size[1] - 1)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if kind == "disc" else draw.rectangle)(box, fill=colour)
    return image


def make_material(folder, *, each=3, backgrounds=2):
    """``folder/cutouts/{bar,disc}/*.png`` and ``folder/backgrounds/*.jpg``; gives the two as text."""
    rng = np.random.default_rng(0)
    for kind in ("bar", "disc"):
        (folder / "cutouts" / kind).mkdir(parents=True)
        for i in range(each):
            colour = tuple(int(value) for value in rng.integers(150, 256, 3))
            (folder / "cutouts" / kind / f"{i}.png").write_bytes(png(shape(kind, colour)))
    (folder / "backgrounds").mkdir()
    for i in range(backgrounds):
        pixels = rng.integers(0, 60, (90, 120, 3), dtype=np.uint8)
        (folder / "backgrounds" / f"{i}.jpg").write_bytes(png(Image.fromarray(pixels), "JPEG"))
    return str(folder / "cutouts"), str(folder / "backgrounds")
