"""The import table: which room may import which, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "beam_vision"
SHARED = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
ROOMS = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}

SHARED_MAY_USE = {
    "types": {"errors"},
    "errors": set(),
    "deps": {"errors"},
    "digest": set(),
    "storage": set(),
    "coders": {"types", "stream_types"},
    "metrics": set(),
    "measured": {"metrics"},
    "failures": {"errors", "types"},
    "table": {"errors", "storage"},
    "stream_types": {"types"},
    "stream_table": {"table"},
    "tfrecord_io": set(),
    "pubsub": {"errors"},
    "regions": set(),
}
IMAGES = {f"images.{name}" for name in ("annotated", "boxes", "codec", "geometry", "hashing", "nms", "tiles")}
ROOMS_MAY_USE = {
    "warehouse": set(),
    "dataflow": set(),
    "sources": {"warehouse"},
    "images": set(),
    "records": IMAGES,
    "inference": IMAGES,
    "sinks": {"records.schema", "warehouse"},
    "search": {"warehouse"},
    "evaluation": {"warehouse"} | IMAGES,
    "synth": IMAGES,
    "reports": IMAGES,
    "planning": {"sources", "inference"} | IMAGES,
    "doctor": {"dataflow", "warehouse"},
    "streaming": {"sources.files", "sources.reader"} | IMAGES,
    "training": {f"records.{name}" for name in ("manifest", "reader", "indexed")}
    | {f"inference.{name}" for name in ("spec", "bundle", "serving_history")}
    | {"evaluation.images"}
    | IMAGES,
    "testing": ROOMS | IMAGES,
}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def ours(path):
    """The names below beam_vision that a module imports, anywhere in it: ``room.module`` or a shared name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inner = {name.removeprefix("beam_vision.") for name in found if name.startswith("beam_vision.")}
    return {short(name) for name in inner} - {"__version__"}


def short(name):
    head, *rest = name.split(".")
    return f"{head}.{rest[0]}" if head in ROOMS and rest else head


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_follow_the_table(path):
    name = name_of(path)
    if not name:
        return
    head = name.split(".")[0]
    used = ours(path)
    if head in SHARED:
        assert used <= SHARED_MAY_USE[head], f"{name} imports {used - SHARED_MAY_USE[head]}"
        return
    own = {use for use in used if use.split(".")[0] == head}
    others = used - own - SHARED
    allowed = ROOMS_MAY_USE[head]
    refused = {use for use in others if use not in allowed and use.split(".")[0] not in allowed}
    assert not refused, f"{name} imports {refused}"
    assert "pipelines" not in {use.split(".")[0] for use in used}


def test_only_deps_imports_scann():
    for path in modules():
        if name_of(path) == "deps":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "scann" for n in names), path


def test_pipelines_define_nothing_that_runs_on_a_worker():
    for path in (ROOT / "pipelines").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert not any(base.endswith(("DoFn", "PTransform", "CombineFn")) for base in bases), path


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/", timeout=60
    ).stdout


HEAVY = (
    *("tensorflow", "keras", "apache_beam", "scann", "tfx_bsl", "duckdb", "onnxruntime"),
    *("google.cloud.bigquery", "google.cloud.pubsub", "google.pubsub_v1", "google.cloud.storage"),
)


def test_importing_the_package_loads_nothing_heavy():
    code = f"import beam_vision, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom beam_vision.pipelines.cli import main\n"
        f"assert main(['--help']) == 0\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"
