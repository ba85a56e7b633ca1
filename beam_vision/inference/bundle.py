"""Model bundles: where a model's files are, what they are, and bundles written whole.

A bundle is a folder with ``saved_model.pb``, ``model.keras``, ``model.onnx`` or ``model.tflite``, and
``model_spec.json`` beside it. Models exported elsewhere are read without the latter. Of several model files
in a folder each may have its own, e.g. ``int8.tflite.model_spec.json``. A root of versions holds bundles in
folders and a small file ``LATEST`` with the name of the current one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beam_vision import storage
from beam_vision.digest import settings_digest
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.inference.resolve import resolve
from beam_vision.inference.signature import Signature, find_in_saved_model
from beam_vision.inference.spec import ModelSpec, known_fields

SPEC_FILE = "model_spec.json"
LATEST_FILE = "LATEST"
_FILE_FORMATS = {".keras": "keras", ".h5": "keras", ".onnx": "onnx", ".tflite": "tflite"}
_SAVED_MODEL_PARTS = ("variables", "assets", "assets.extra")
_SPEC_FIELDS_OF_DIGEST = ("signature", "input_name", "scores_output", "embedding_output")
_OF_DETECTORS = (
    *("detector", "boxes_output", "classes_output", "count_output", "raw_outputs", "box_format"),
    *("class_offset", "activation"),
)


@dataclass(frozen=True)
class ModelFiles:
    """A model's files.

    Attributes:
      folder: the folder that holds them.
      main: the file that the model is loaded from (for a SavedModel: ``saved_model.pb``).
      model_format: ``saved_model``, ``keras``, ``onnx`` or ``tflite``.
    """

    folder: str
    main: str
    model_format: str

    @property
    def path(self) -> str:
        """What a loader opens: the folder of a SavedModel, else the file."""
        return self.folder if self.model_format == "saved_model" else storage.join(self.folder, self.main)

    def names(self) -> list[str]:
        """Names, relative to the folder, of the files that make the model, sorted."""
        if self.model_format == "saved_model":
            below = [f"{part}/{name}" for part in _SAVED_MODEL_PARTS for name in _below(self.folder, part)]
            return sorted([self.main, *below])
        # An ONNX model may keep its weights in files beside it: model.onnx.data, model.data, ...
        stem = Path(self.main).stem
        beside = storage.list_folder(self.folder) if self.model_format == "onnx" else [self.main]
        data = [name for name in beside if name.startswith(stem + ".")]
        data = [name for name in data if not name.endswith((".tmp", f".{SPEC_FILE}"))]
        return sorted({self.main, *data})


def _below(folder: str, part: str) -> list[str]:
    root = storage.join(folder, part)
    return [path[len(root) + 1 :] for path in storage.list_tree(root)]


def find_files(path: str) -> ModelFiles:
    """Finds the model at ``path``: a file, a folder, or a root of versions (followed through ``LATEST``).

    Raises:
      UsageError: there is none, or more than one.
    """
    path = storage.absolute(path.rstrip("/"))
    for _ in range(5):
        if (
            os.path.splitext(path)[1] in _FILE_FORMATS
            and storage.exists(path)
            and not storage.is_folder(path)
        ):
            folder, _, name = path.rpartition("/")
            return ModelFiles(folder or "/", name, _FILE_FORMATS[os.path.splitext(name)[1]])
        names = storage.list_folder(path)
        if "saved_model.pb" in names:
            return ModelFiles(path, "saved_model.pb", "saved_model")
        models = [name for name in names if os.path.splitext(name)[1] in _FILE_FORMATS]
        models = [name for name in models if Path(name).stem == "model"] or models
        if len(models) == 1:
            return ModelFiles(path, models[0], _FILE_FORMATS[os.path.splitext(models[0])[1]])
        if models:
            raise UsageError(f"{path} holds several models ({', '.join(models)}); give one of the files")
        if LATEST_FILE not in names:
            break
        path = storage.join(path, storage.read_text(storage.join(path, LATEST_FILE)).strip())
    raise UsageError(
        f"no model at {path}: it holds no saved_model.pb, model.keras, model.onnx, model.tflite or "
        f"{LATEST_FILE}"
    )


def fetch(files: ModelFiles) -> ModelFiles:
    """The same files on the local disk: copied to a temporary folder when they are remote.

    The copy is made through Beam's filesystems (TensorFlow's own ``gs://`` reader ignores emulators and
    credentials given to Beam), and is kept for the life of the process as long as the files don't change.
    """
    if not storage.is_remote(files.folder):
        return replace(files, folder=storage.local(files.folder))
    found = storage.filesystems().match([storage.join(files.folder, "**")])[0].metadata_list
    version = sorted((item.path, item.size_in_bytes, item.last_updated_in_seconds) for item in found)
    target = os.path.join(_cache(), settings_digest(version))
    here = replace(files, folder=target)
    if not os.path.isdir(target):
        aside = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        for name in [*files.names(), *_spec_names(files)]:
            storage.write_bytes(
                os.path.join(aside, name), storage.read_bytes(storage.join(files.folder, name))
            )
        os.rename(aside, target)
    _COPIES[target] = files.folder
    return here


def forget(path: str) -> None:
    """Removes what :func:`fetch` copied of a remote model, once it is in memory or was given up.

    Args:
      path: of the model, or of a folder above it.
    """
    for target, folder in list(_COPIES.items()):
        if f"{folder}/".startswith(f"{path.rstrip('/')}/"):
            shutil.rmtree(target, ignore_errors=True)
            _COPIES.pop(target, None)


_CACHE: list[str] = []
_COPIES: dict[str, str] = {}
"""The folder of each copy -> the remote folder that it was made of."""


def _cache() -> str:
    """This process's folder for fetched models; removed when it ends."""
    if not _CACHE:
        import atexit

        _CACHE.append(tempfile.mkdtemp(prefix="beam-vision-model-"))
        atexit.register(shutil.rmtree, _CACHE[0], ignore_errors=True)
    return _CACHE[0]


def _spec_names(files: ModelFiles) -> list[str]:
    """The spec of a model: its own, else the folder's, else none."""
    there = storage.list_folder(files.folder)
    return [name for name in (own_spec_file(files.main), SPEC_FILE) if name in there][:1]


def own_spec_file(name: str) -> str:
    """The spec that is of one model file of a folder, and of none beside it."""
    return f"{name}.{SPEC_FILE}"


def files_digest(files: ModelFiles) -> str:
    """sha256 over the names and contents of a model's files (not of ``model_spec.json``), as hex digits."""
    digest = hashlib.sha256()
    for name in files.names():
        shown = "model" + os.path.splitext(name)[1] if name == files.main else name
        content = hashlib.sha256()
        with storage.open_read(storage.join(files.folder, name)) as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        digest.update(f"{shown}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()


def model_digest(path: str, spec: ModelSpec) -> str:
    """Digest of what a model says: its files' contents, which of its signatures and outputs is asked, and how
    a detector's are read.

    It doesn't depend on where the files are, nor on labels, metrics or anything else of the spec.
    """
    return _digest(find_files(path), spec)


def _digest(files: ModelFiles, spec: ModelSpec) -> str:
    fields = (*_SPEC_FIELDS_OF_DIGEST, *(_OF_DETECTORS if spec.detector else ()))
    asked = {name: getattr(spec, name) for name in fields}
    return settings_digest({"files": files_digest(files), **asked})


def read_spec_file(files: ModelFiles) -> dict[str, Any]:
    """What the ``model_spec.json`` of a model says; empty when there is none.

    Raises:
      UsageError: it isn't JSON, or has unknown keys.
    """
    names = _spec_names(files)
    if not names:
        return {}
    path = storage.join(files.folder, names[0])
    try:
        value = storage.read_json(path)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    ModelSpec.from_json(value, path=path)
    return known_fields(value, path=path)


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is put together.

    Attributes:
      files: its files, on the local disk.
      said: fields of a :class:`ModelSpec` from ``model_spec.json`` and from the caller.
      found: what the model itself tells.
    """

    files: ModelFiles
    said: Mapping[str, Any]
    found: Signature


def read_bundle(path: str, overrides: Mapping[str, Any] | None = None) -> ModelSpec:
    """The spec of the model at ``path``: ``model_spec.json``, then ``overrides``, then what is found.

    Args:
      path: a model file, a bundle, any SavedModel folder, or a root of versions; local or remote.
      overrides: fields of :class:`ModelSpec` to set; None and empty values don't count as set.

    Raises:
      UsageError: no model; what was said contradicts it; or something needed is neither said nor found.
      DigestMismatch: the files are not those that ``model_spec.json`` was written for.
    """
    return to_spec(read_facts(path, overrides))


def read_facts(path: str, overrides: Mapping[str, Any] | None = None) -> Facts:
    """The first half of :func:`read_bundle`: all that can be read, whether or not it is enough.

    Raises:
      UsageError, DigestMismatch: as there.
    """
    files = fetch(find_files(path))
    stored = read_spec_file(files)
    expected = stored.pop("model_digest", "")
    if expected and expected != (found := _digest(files, ModelSpec(**stored))):
        raise DigestMismatch(
            f"model {path}:",
            expected=expected,
            found=found,
            remedy=f"its files were changed after {SPEC_FILE} was written; export the bundle again, or "
            "remove model_digest from that file to accept them",
        )
    asked = {name: value for name, value in (overrides or {}).items() if value not in (None, "", ())}
    said = {**stored, **asked, "model_format": files.model_format}
    return Facts(files, said, _read_signature(files, said))


def to_spec(facts: Facts) -> ModelSpec:
    """The second half of :func:`read_bundle`.

    Raises:
      UsageError: as there.
    """
    spec = resolve(facts.found, facts.said)
    return replace(spec, model_digest=_digest(facts.files, spec))


def _read_signature(files: ModelFiles, said: Mapping[str, Any]) -> Signature:
    if files.model_format == "saved_model":
        return find_in_saved_model(files.path, said.get("signature", ""))
    if files.model_format == "keras":
        from beam_vision.inference import keras_model

        layer, look = said.get("embedding_output", ""), not said.get("value_range")
        return keras_model.find(files.path, layer, look_for_range=look)
    from beam_vision.inference import onnx_model, tflite_model

    return (onnx_model if files.model_format == "onnx" else tflite_model).find(files.path)


def write_bundle(
    target: str, save: Callable[[str], None], said: Mapping[str, Any], *, overwrite: bool = False
) -> ModelSpec:
    """Writes a bundle whole: aside, read back and resolved, then renamed.

    Args:
      target: the local folder to make.
      save: writes the model into the empty folder it is given, e.g. ``lambda d: model.export(d)`` or
        ``lambda d: model.save(f"{d}/model.keras")``.
      said: fields of :class:`ModelSpec` that are known: labels, value_range, metrics...
      overwrite: whether a folder that is there may be replaced.

    Returns:
      The whole spec, as ``model_spec.json`` holds it.

    Raises:
      UsageError: there is something at ``target``; or the model that was saved can't be read back.
    """
    target = storage.absolute(target)
    if storage.is_remote(target):
        raise UsageError(f"a bundle is written to a local folder, not to {target}; copy it when it is done")
    if os.path.exists(target) and not overwrite:
        raise UsageError(f"{target} is there already; choose another folder or remove it")
    aside = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    os.makedirs(aside)
    try:
        save(aside)
        spec = read_bundle(aside, said)
        storage.write_json(os.path.join(aside, SPEC_FILE), spec.to_json())
        old = f"{aside}.old"
        if os.path.exists(target):
            os.rename(target, old)
        os.rename(aside, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return spec


def write_spec(path: str, spec: ModelSpec) -> str:
    """Writes ``model_spec.json`` beside a model, which makes a bundle of it.

    Args:
      path: of the model, as :func:`read_bundle` takes it.
      spec: what that gave.

    Returns:
      The path of the file.

    Raises:
      UsageError: several models lie in the folder, so that the file would speak for all of them.
    """
    folder = find_files(path).folder
    find_files(folder)
    target = storage.join(folder, SPEC_FILE)
    storage.write_json(target, spec.to_json())
    return target


def set_latest(root: str, version: str) -> None:
    """Points ``LATEST`` of a root of versions at its folder ``version``, which must hold a model."""
    find_files(storage.join(root, version))
    storage.write_bytes(storage.join(root, LATEST_FILE), version.encode() + b"\n")
