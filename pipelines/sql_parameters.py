"""The values of a query's parameters, from ``beam-vision sql``'s options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from beam_vision import storage
from beam_vision.errors import DigestMismatch, UsageError

if TYPE_CHECKING:
    from beam_vision.pipelines.sql import Options
    from beam_vision.search.ready import ReadyQuery
    from beam_vision.warehouse.cost import Bill


def parameters_of(options: Options, ready: ReadyQuery | None, bill: Bill) -> dict[str, Any]:
    """The values of ``--param``, ``--image`` and ``--vector``, by their names.

    Args:
      options: the job's.
      ready: the ready query, if one is asked for.
      bill: is told of queries that look something up for it; with ``--cost_only`` there are none.

    Raises:
      UsageError: a value of the wrong type, a name twice, one that a ready query lacks, or a key that the
        table lacks.
      DigestMismatch: the model of ``--image`` is not the one that made the table.
    """
    from beam_vision.search.ready import parameter_of, value_of

    given: dict[str, Any] = {}
    for text in options.param:
        name, kind, value = parameter_of(text)
        if name in given:
            raise UsageError(f"--param {name} is given twice")
        given[name] = value if ready and not kind else value_of(kind or "STRING", value, name)
    if options.image or options.vector:
        if "vector" in given:
            raise UsageError("@vector is given by --param and by --image or --vector; give it once")
        if ready and not any(each.name == "vector" for each in ready.parameters):
            raise UsageError(f"--query {ready.name} has no @vector; leave --image and --vector out")
        given["vector"] = _vector(options, bill)
    if not ready:
        return given
    values = ready.values(given)
    named = [name for name in ("key", "like", "unlike") if name in values]
    asked = {name: values[name] if isinstance(values[name], list) else [values[name]] for name in named}
    if named and not options.cost_only:
        known = _keys([key for keys in asked.values() for key in keys], options, bill)
        for name, keys in asked.items():
            found = [known[key] for key in keys]
            values[name] = found if isinstance(values[name], list) else found[0]
    return values


def _keys(asked: list[str], options: Options, bill: Bill) -> dict[str, str]:
    """What the table has for each key: itself; or the absolute path that it stands for, where that is the key
    of a local file. An empty one stands for none.

    Raises:
      UsageError: the table has neither.
    """
    from beam_vision.search.sql import query

    paths = {key: storage.absolute(key) for key in asked if key}
    if not paths:
        return {"": ""}
    statement = "SELECT DISTINCT key FROM images WHERE key IN UNNEST(@wanted)"
    wanted = {"wanted": [*paths, *paths.values()]}
    limit = options.max_bytes_billed
    with query(options.table, statement, wanted, max_bytes_billed=limit, charge=bill.look_up) as result:
        there = {key for batch in result.batches for (key,) in batch}
    for key, path in paths.items():
        if not {key, path} & there:
            raise UsageError(f"{options.table} has no image of the key {key!r}")
    return {"": "", **{key: key if key in there else path for key, path in paths.items()}}


def _vector(options: Options, bill: Bill) -> list[float]:
    from beam_vision.pipelines.search import embed_file, read_vector_file

    if options.image:
        return [float(x) for x in embed_file(cast("Any", Embedded(options, bill)), cast("Any", options))]
    vector = read_vector_file(options.vector)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise UsageError(
            f"--vector {options.vector} holds {vector.dtype} {list(vector.shape)}; needs numbers [D]"
        )
    if not vector.any():
        raise UsageError(f"--vector {options.vector} is all zeros, which has no direction")
    return [float(x) for x in vector]


@dataclass(frozen=True)
class Embedded:
    """The table's rows, to be asked which model made them."""

    options: Options
    bill: Bill

    def require_made_by(self, *, model_digest: str, preprocessing_digest: str) -> None:
        """Returns when all vectors are of this model.

        Raises:
          DigestMismatch: some are not.
          UsageError: the table doesn't say.
        """
        from beam_vision.search.sql import query

        if self.options.cost_only:
            return
        remedy = "use the model that made the table, or embed the images anew with this one"
        statement = "SELECT DISTINCT model_digest, preprocessing_digest FROM images"
        limit = self.options.max_bytes_billed
        charge = self.bill.look_up
        with query(self.options.table, statement, max_bytes_billed=limit, charge=charge) as result:
            made = [row for batch in result.batches for row in batch]
        for model, preprocessing in made:
            for what, asked, found in (
                ("model", model_digest, model),
                ("preprocessing", preprocessing_digest, preprocessing),
            ):
                if found and found != asked:
                    raise DigestMismatch(what, expected=found, found=asked, remedy=remedy)
