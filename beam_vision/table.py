"""The Parquet table: its columns, and the manifest that says which files belong to it.

A table is a folder::

    OUTPUT/manifest.json                     written last; lists the parts
    OUTPUT/part-<run id>-00000.parquet       rows sorted by key
    OUTPUT/failures/part-<run id>-00000.jsonl
    OUTPUT/.staging/<run id>/                gone when a run has ended well

A folder of Parquet files without a manifest (made elsewhere) reads as a table too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
KIND = "beam-vision table"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table. ``images``: of how many its rows are, 0 where that wasn't counted."""

    name: str
    rows: int
    bytes: int = 0
    images: int = 0


@dataclass(frozen=True)
class TableManifest:
    """What a finished table says of itself.

    Attributes:
      rows: rows in all parts.
      images: images that the rows are of, none twice; 0 where that wasn't counted.
      row_kind: what a row stands for: ``images``, ``boxes`` or ``tiles``.
      embedding_dim: length of each vector, or None when the table has no embeddings.
      model_digest, preprocessing_digest: what made the rows; a table holds rows of one of each.
      inputs, outputs, failed, already_done: the accounts of the last run, in images;
        ``inputs == outputs + failed + already_done``.
    """

    parts: list[Part]
    rows: int
    run_id: str
    task: str
    model_digest: str = ""
    preprocessing_digest: str = ""
    embedding_dim: int | None = None
    inputs: int = 0
    outputs: int = 0
    failed: int = 0
    already_done: int = 0
    images: int = 0
    row_kind: str = "images"
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], *, path: str = "") -> TableManifest:
        """Reads what :meth:`to_json` gave.

        Raises:
          UsageError: it is another kind of manifest, or of a newer format.
        """
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind != KIND:
            raise UsageError(f"{path or MANIFEST} is the manifest of {kind!r}, not of a table")
        if value.get("format_version", 0) > FORMAT_VERSION:
            raise UsageError(f"{path or MANIFEST} was written by a newer beam-vision; upgrade to read it")
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        known["parts"] = [Part(**part) for part in value["parts"]]
        return cls(**known)


def read_manifest(folder: str) -> TableManifest | None:
    """The manifest of the table in ``folder``, or None when there is none."""
    path = storage.join(folder, MANIFEST)
    if not storage.exists(path):
        return None
    return TableManifest.from_json(storage.read_json(path), path=path)


def part_paths(folder: str) -> list[str]:
    """Paths of the Parquet files of the table in ``folder``: the manifest's, or all when it has none.

    Raises:
      UsageError: there is no table at ``folder``; or a part that the manifest lists is missing.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.endswith(".parquet") and storage.exists(folder) and not storage.is_folder(folder):
            return [folder]
        names = [name for name in storage.list_folder(folder) if name.endswith(".parquet")]
        if not names:
            raise UsageError(f"no table at {folder}: it holds neither {MANIFEST} nor *.parquet")
        return [storage.join(folder, name) for name in names]
    paths = [storage.join(folder, part.name) for part in manifest.parts]
    missing = [path for path in paths if not storage.exists(path)]
    if missing:
        raise UsageError(
            f"the table at {folder} lacks {missing[0]}, which its manifest lists; run the job again"
        )
    return paths


def schema(
    *, predictions: bool, embedding_dim: int | None, boxes: bool = False, rows: str = "images"
) -> pa.Schema:
    """The Arrow schema of a table's rows.

    A table of boxes has in place of ``boxes`` a row for each: ``box`` (0 for the highest score of its image),
    ``xmin``, ``ymin``, ``xmax``, ``ymax``, ``prediction`` (the box's label) and ``score``. An image without
    boxes has one row, with nulls in these columns, as an outer join would give; so no image is missing.
    ``label`` is the image's true label, here as everywhere.

    A table of tiles has the key of the image in ``image_key``, and where the tile lies in it, in pixels of
    the upright image, in ``tile_left_px``, ``tile_top_px``, ``tile_width_px`` and ``tile_height_px``.

    Args:
      predictions: whether it has ``prediction``, ``score`` and ``predictions``.
      embedding_dim: the length of ``embedding``, or None for no such column.
      boxes: whether it has ``boxes`` (xyxy, pixels of the original upright image; highest score first) and
        ``exif_orientation`` (1..8, applied already), which truth drawn on stored pixels is turned by.
      rows: what a row stands for: ``images``, ``boxes`` or ``tiles``.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float32()
    fields = [
        pa.field("key", text, nullable=False),
        pa.field("uri", text, nullable=False),
        pa.field("label", text),
    ]
    if rows == "tiles":
        places = ("tile_left_px", "tile_top_px", "tile_width_px", "tile_height_px")
        fields.append(pa.field("image_key", text, nullable=False))
        fields += [pa.field(name, pa.int32(), nullable=False) for name in places]
    if predictions:
        scored = pa.struct([pa.field("label", text), pa.field("score", number)])
        fields += [
            pa.field("prediction", text),
            pa.field("score", number),
            pa.field("predictions", pa.list_(scored)),
        ]
    if embedding_dim is not None:
        fields.append(pa.field("embedding", pa.list_(number, embedding_dim)))
    corners = [pa.field(name, number) for name in ("xmin", "ymin", "xmax", "ymax")]
    if rows == "boxes":
        fields += [pa.field("box", pa.int32()), *corners]
        fields += [pa.field("prediction", text), pa.field("score", number)]
    elif boxes:
        box = pa.struct([*corners, pa.field("label", text), pa.field("score", number)])
        fields.append(pa.field("boxes", pa.list_(box)))
    if boxes:
        fields.append(pa.field("exif_orientation", pa.int8()))
    fields += [
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("model_digest", text),
        pa.field("preprocessing_digest", text),
        pa.field("run_id", text),
        pa.field("attributes", pa.map_(text, text)),
    ]
    return pa.schema(fields)


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    # Vectors have nothing to gain from a dictionary and little from compression; texts have much.
    pq.write_table(table, sink, compression="zstd", use_dictionary=text)
    return sink.getvalue().to_pybytes()
