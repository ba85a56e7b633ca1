"""Small tables of embeddings, written as the sinks write them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_vision import storage, table


def clustered(rows: int, dimension: int, *, clusters: int = 20, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 ``[rows, dimension]`` around a few centres, as embeddings of classes lie."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dimension))
    vectors = centres[rng.integers(0, clusters, rows)] + 0.7 * rng.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_embeddings(
    folder: str,
    vectors: np.ndarray,
    *,
    keys: Sequence[str] = (),
    labels: Sequence[str | None] = (),
    attributes: Sequence[Mapping[str, str]] = (),
    model_digest: str = "model-a",
    preprocessing_digest: str = "prep-a",
    parts: int = 1,
) -> list[str]:
    """Writes a table of embeddings, with its manifest, in ``parts`` files.

    Args:
      folder: may hold an earlier table, which is replaced.
      vectors: float32 ``[N, D]``, taken as they are.
      keys: default: ``lake/00000.jpg`` and so on.
      labels: default: ``even`` and ``odd``, in turn.
      attributes: default: camera ``a``, ``b``, ``c``, in turn.

    Returns:
      the keys.
    """
    rows, dimension = vectors.shape
    keys = list(keys) or [f"lake/{i:05d}.jpg" for i in range(rows)]
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns = {
        "key": keys,
        "uri": [f"/data/{key}" for key in keys],
        "label": list(labels) or [("even", "odd")[i % 2] for i in range(rows)],
        "embedding": pa.FixedSizeListArray.from_arrays(flat, dimension),
        "width": [32] * rows,
        "height": [24] * rows,
        "model_digest": [model_digest] * rows,
        "preprocessing_digest": [preprocessing_digest] * rows,
        "run_id": ["run-1"] * rows,
        "attributes": [list(each.items()) for each in attributes]
        or [[("camera", "abc"[i % 3])] for i in range(rows)],
    }
    whole = pa.table(columns, schema=table.schema(predictions=False, embedding_dim=dimension))
    os.makedirs(folder, exist_ok=True)
    cuts = np.linspace(0, rows, parts + 1).astype(int)
    written = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        name = f"part-run-1-{number:05d}.parquet"
        pq.write_table(whole.slice(start, end - start), os.path.join(folder, name))
        written.append(table.Part(name, int(end - start)))
    manifest = table.TableManifest(
        parts=written,
        rows=rows,
        run_id="run-1",
        task="embed",
        model_digest=model_digest,
        preprocessing_digest=preprocessing_digest,
        embedding_dim=dimension,
    )
    storage.write_json(os.path.join(folder, table.MANIFEST), manifest.to_json())
    return keys
