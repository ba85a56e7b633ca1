"""Which output holds scores and which an embedding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.inference.signature import Signature, Tensor

_SCORES = re.compile(r"logit|prob|prediction|score|softmax|sigmoid|class", re.IGNORECASE)
_EMBEDDING = re.compile(
    r"embed|feature|pool|bottleneck|descriptor|representation|last_hidden|cls", re.IGNORECASE
)
_PROBABILITIES = ("softmax", "sigmoid")


def choose_outputs(
    found: Signature, said: Mapping[str, Any], notes: list[str], *, layout: str = "NHWC"
) -> dict[str, Any]:
    """``task``, ``scores_output``, ``embedding_output``, ``classes`` and ``embedding_dim`` of a model.

    What is said wins; then names; then shapes. An output left over when the other is known is taken for
    the other. A task that was said decides what must be there; without one, either will do.

    Raises:
      UsageError: an output that was asked for isn't there, or the task's output can't be told.
    """
    outputs = {item.name: item for item in found.outputs}
    for flag in ("scores_output", "embedding_output"):
        if said.get(flag) and said[flag] not in outputs:
            raise UsageError(f"the model has no output {said[flag]!r} (--{flag}); outputs: {_listed(found)}")
    scores = said.get("scores_output") or _guess_scores(found, said)
    embedding = said.get("embedding_output") or _guess_embedding(found, said, scores)
    task = said.get("task", "")
    if len(outputs) == 1 and not (said.get("scores_output") or said.get("embedding_output")):
        scores, embedding = _of_single(found, task, notes)
    if task == "classify" and not scores:
        raise UsageError(f"no output of scores is known; choose it with --scores_output: {_listed(found)}")
    if not embedding and (task == "embed" or not scores):
        raise UsageError(f"no output of embeddings is known; {_embedding_remedy(found)}")
    return {
        "task": task or ("classify" if scores else "embed"),
        "scores_output": scores,
        "embedding_output": embedding,
        "classes": _length(outputs[scores]) if scores else None,
        "embedding_dim": embedding_length(outputs[embedding], layout) if embedding else None,
    }


def _of_single(found: Signature, task: str, notes: list[str]) -> tuple[str, str]:
    """A single output is what the task needs, unless it plainly isn't."""
    (only,) = found.outputs
    if task == "classify":
        return (only.name if _is_flat(only) else ""), ""
    if found.final_activation in _PROBABILITIES or _SCORES.search(only.name):
        return only.name, ""
    if not task and not _EMBEDDING.search(only.name) and _is_flat(only):
        return only.name, ""
    if not _EMBEDDING.search(only.name) and not _is_map(only):
        notes.append(f"the only output, {only}, is taken for the embedding")
    return "", only.name


def _guess_scores(found: Signature, said: Mapping[str, Any]) -> str:
    flat = [item for item in found.outputs if _is_flat(item) and item.name != said.get("embedding_output")]
    named = [item.name for item in flat if _SCORES.search(item.name) and not _EMBEDDING.search(item.name)]
    if len(named) == 1:
        return named[0]
    labels = len(said.get("labels") or ())
    fitting = [item.name for item in flat if labels and _length(item) == labels]
    if len(fitting) == 1:
        return fitting[0]
    left = [item.name for item in flat if not _EMBEDDING.search(item.name)]
    return left[0] if len(left) == 1 else ""


def _guess_embedding(found: Signature, said: Mapping[str, Any], scores: str) -> str:
    left = [
        item for item in found.outputs if item.name != scores and item.dtype.startswith(("float", "bfloat"))
    ]
    named = [item for item in left if _EMBEDDING.search(item.name)]
    vectors = [item.name for item in named if _is_flat(item)]
    if len(vectors) == 1:
        return vectors[0]
    if len(named) == 1:
        return named[0].name
    return left[0].name if len(left) == 1 and scores else ""


def _embedding_remedy(found: Signature) -> str:
    text = f"choose it with --embedding_output: {_listed(found)}"
    if found.layers:
        text += f"; or a layer, e.g. --embedding_output {found.layers[0]} (of {', '.join(found.layers[:6])})"
    return text


def _listed(found: Signature) -> str:
    return "; ".join(map(str, found.outputs))


def _is_flat(item: Tensor) -> bool:
    """Whether it gives a row of numbers an image: [N, k], [N, 1, 1, k], [N, k, 1, 1], or of unknown rank."""
    if not item.dtype.startswith(("float", "bfloat")):
        return False
    if item.shape is None:
        return True
    return len(item.shape) == 2 or (len(item.shape) == 4 and item.shape[1:].count(1) >= 2)


def _is_map(item: Tensor) -> bool:
    return item.shape is not None and len(item.shape) == 4


def _length(item: Tensor) -> int | None:
    if item.shape is None or None in item.shape[1:]:
        return None
    return max(n or 1 for n in item.shape[1:])


def embedding_length(item: Tensor, layout: str) -> int | None:
    """The length of the embedding made from an output, when its shape tells.

    Raises:
      UsageError: the output is no vector and no map of vectors.
    """
    if item.shape is None:
        return None
    if len(item.shape) not in (2, 4):
        raise UsageError(f"the output {item} is no embedding: it must be [N, d] or a map [N, h, w, d]")
    return item.shape[1] if len(item.shape) == 4 and layout == "NCHW" else item.shape[-1]
