"""The commands of the README and the docs, run in their order on a small lake."""

import contextlib
import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_vision.inference.bundle import read_bundle, set_latest, write_spec
from beam_vision.pipelines import cli, demo_lake, options, plan_options, synth_material, template
from beam_vision.search import vector_index
from beam_vision.testing import detectors, images, models
from beam_vision.testing.bigquery_indexes import IndexServer
from beam_vision.warehouse import clients

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(path):
    """The lines that begin with ``$ beam-vision`` in a document's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line[2:])[1:] for line in lines if line.startswith("$ beam-vision ")]


def quicker(argv):
    """The same command with less training."""
    return [
        "2" if before == "--max_seconds" else word for before, word in zip(["", *argv], argv, strict=False)
    ]


def mend(failures, by):
    """Puts a good image in the place of every failed one."""
    for path in Path(failures).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            Path(json.loads(line)["uri"]).write_bytes(Path(by).read_bytes())


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_commands_of_the_guide_to_detection_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synth_material, "DIGITS", 200)
    detectors.save_saved_model("detector")
    said = commands(ROOT / "docs" / "detection.md")
    assert len(said) > 5
    for argv in said:
        code = cli.main(argv)
        assert code == 0, f"beam-vision {shlex.join(argv)}\n{capsys.readouterr().err[-3000:]}"
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["accounts"]["images"] == 40


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_commands_of_the_guide_to_streaming_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, version in enumerate(("v1", "v2")):
        models.save_saved_model(f"models/{version}")
        write_spec(f"models/{version}", read_bundle(f"models/{version}", {"threshold": number / 4 + 0.25}))
    set_latest("models", "v1")
    for i in range(30):
        path = tmp_path / "cameras" / f"gate{i % 2}" / f"20261122T1015{i:02d}.500Z.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(images.photo(i, 64, 48), "jpeg"))
    said = commands(ROOT / "docs" / "streaming.md")
    assert len(said) > 7
    for argv in said:
        code = cli.main(argv)
        printed = capsys.readouterr()
        assert code == 0, f"beam-vision {shlex.join(argv)}\n{printed.err[-3000:]}"
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "seen").glob("*.parquet")) == 30


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_commands_of_the_guide_to_bigquery_run(tmp_path, monkeypatch, capsys, bigquery_server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vector_index, "LEAST_ROWS", 1)
    monkeypatch.setattr(vector_index, "LEAST_TABLE_BYTES", 1)
    images.make_lake("lake", per_class=8)
    images.make_lake("new", per_class=2, seed=5)
    models.save_saved_model("bundle")
    models.save_image_bytes_model("bundle_v2")
    path = tmp_path / "cameras" / "gate" / "20261122T101500.500Z.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(images.encode(images.photo(0, 64, 48), "jpeg"))
    said = commands(ROOT / "docs" / "bigquery.md")
    assert len(said) > 20
    with IndexServer(bigquery_server.rest) as indexes:
        for name, value in {**bigquery_server.environment, clients.EMULATOR_HOST: indexes.rest}.items():
            monkeypatch.setenv(name, value)
        with contextlib.closing(clients.client("my-project")) as client:
            client.create_dataset("lake")
            for argv in said:
                code = cli.main(argv)
                printed = capsys.readouterr()
                assert code == 0, f"beam-vision {shlex.join(argv)}\n{printed.err[-3000:]}"
            counted = client.query("SELECT COUNT(*), COUNT(DISTINCT key) FROM lake.images").result()
            assert [tuple(row.values()) for row in counted] == [(30, 30)]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_commands_of_the_guide_to_training_run(tmp_path, monkeypatch, capsys):
    demo_lake.make_lake(str(tmp_path / "lake"), digits=300, crops_per_photo=0)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text()
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", page, flags=re.DOTALL):
        Path(name).write_text(text)
    said = commands(ROOT / "docs" / "training.md")
    assert len(said) > 5
    for argv in said:
        code = cli.main(argv)
        assert code == 0, f"beam-vision {shlex.join(argv)}\n{capsys.readouterr().err[-3000:]}"
    assert (tmp_path / "models" / "LATEST").read_text().strip() == "v1"
    assert (tmp_path / "search" / "best.yaml").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_the_commands_of_the_readme_and_the_cookbook_run(tmp_path, monkeypatch, capsys):
    demo_lake.make_lake(str(tmp_path / "lake"), digits=300, crops_per_photo=4)
    monkeypatch.chdir(tmp_path)
    pages = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("cookbook.md", "sql.md"))]
    said = [argv for path in pages for argv in commands(path)]
    assert len(said) > 20
    for argv in said:
        if argv[0] == "redrive":
            mend("table/failures", by="lake/digit_3/0259.png")
        argv, target = (argv[:-2], argv[-1]) if ">" in argv else (argv, None)
        code = cli.main(quicker(argv))
        printed = capsys.readouterr()
        assert code == 0, f"beam-vision {shlex.join(argv)}\n{printed.err[-3000:]}"
        if target:
            Path(target).write_text(printed.out)
    for code in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "cookbook.md").read_text(), flags=re.DOTALL
    ):
        names = {}
        exec(code, names)
        images, labels = next(iter(names["train"]))
        assert images.shape[1:] == (64, 64, 3)
        assert len(images) == len(labels)


def test_every_link_of_the_docs_leads_somewhere():
    for path in [
        *DOCS,
        ROOT / "ARCHITECTURE.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_reason_is_explained():
    from beam_vision.errors import Reason

    text = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in text] == []


OF_OTHERS = {
    "--no-cache",
    "--no-deps",
    "--wheel",
    "--worker_pool",
    "--service_port",
    "--location",
    "--repository",
}
"""Options of pip, Beam's worker pool and gcloud, as far as the expression below reads them."""


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_option_in_the_docs_exists(path):
    import dataclasses
    import importlib

    known = {"--help", "--version"} | options.beam_option_names() | OF_OTHERS
    modules = [importlib.import_module(f"beam_vision.pipelines.{job.replace('-', '_')}") for job in cli.JOBS]
    kinds = {module.Options for module in modules} | {template.BuildOptions, plan_options.StreamOptions}
    for kind in kinds:
        fields = dataclasses.fields(kind)
        known |= {f"--{field.name.rstrip('_')}" for field in fields}
        known |= {f"--no-{field.name}" for field in fields if field.default is True}
    used = set(re.findall(r"(?<![\w-])--(?:no-)?[a-z][a-z_]+", path.read_text(encoding="utf-8")))
    assert used - known == set()
