"""The lake of the benchmarks: photograph-like JPEGs of 0.2, 1 and 12 MP, the same on every machine."""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys
from pathlib import Path

from beam_vision.testing import images

SIZES = {"0.2MP": (480, 416), "1MP": (1152, 864), "12MP": (4000, 3000)}
SHARES = {"0.2MP": 0.70, "1MP": 0.25, "12MP": 0.05}
VARIANTS = 8  # distinct pictures per size; each file is its own crop of one, so no two files are alike
CLASSES = 4  # blocks of 20 images, each with the whole mix of sizes, so that a prefix by key has it too


def sizes_of(count: int) -> list[str]:
    """The size of each of ``count`` images; sizes are spread evenly, so that any prefix has the same mix."""
    names: list[str] = []
    made = dict.fromkeys(SIZES, 0)
    for index in range(count):
        name = max(SIZES, key=lambda size: SHARES[size] * (index + 1) - made[size])
        made[name] += 1
        names.append(name)
    return names


def make(folder: Path, count: int) -> Path:
    """Writes the lake once; a finished one is kept. Files are named so that sorting them mixes the sizes."""
    done = folder / "lake.json"
    facts = {"count": count, "sizes": SIZES, "shares": SHARES}
    if done.exists() and json.loads(done.read_text()) == json.loads(json.dumps(facts)):
        return folder
    big = {name: [_source(name, v) for v in range(VARIANTS)] for name in SIZES}
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True, exist_ok=True)

    def write(index: int, name: str) -> int:
        width, height = SIZES[name]
        pixels = big[name][index % VARIANTS]
        shift = index // VARIANTS % 32
        crop = pixels[shift : shift + height, 31 - shift : 31 - shift + width]
        data = images.encode(crop, "jpeg", quality=85 + index % 10)
        path = folder / f"class_{index // 20 % CLASSES}" / f"{index:06d}_{name}.jpg"
        path.write_bytes(data)
        return len(data)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        written = list(pool.map(write, range(count), sizes_of(count)))
    done.write_text(json.dumps(facts))
    sys.stderr.write(f"wrote {count} images, {sum(written) / 1e6:,.0f} MB, to {folder}\n")
    return folder


def _source(name: str, variant: int):
    width, height = SIZES[name]
    return images.photo(1000 * list(SIZES).index(name) + variant, width + 32, height + 32)


def files(folder: Path, count: int) -> list[str]:
    """The first ``count`` images by their number."""
    return [str(path) for path in sorted(folder.glob("class_*/*.jpg"), key=lambda path: path.name)[:count]]
