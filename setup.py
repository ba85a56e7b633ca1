"""Metadata and lower bounds of beam-vision; also what Dataflow's ``--setup_file`` builds."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = "0.1.0"

REQUIRES = [
    "apache-beam[gcp]>=2.77,<2.78",
    "tensorflow>=2.21,<2.22",
    "tfx-bsl>=1.21,<1.22",
    "scann>=1.4.2,<1.5; sys_platform == 'linux'",
    "google-cloud-bigquery>=3.20",
    "google-cloud-bigquery-storage>=2.24",
    "google-cloud-pubsub>=2",
    "google-crc32c>=1.5",  # without its C code, writing TFRecords is slow or raises
    "duckdb>=2",
    "numpy>=2",
    "pillow>=11",
    "pyarrow>=16",
    "pyyaml>=6",
    "sqlglot>=30.9,<31",  # GoogleSQL to DuckDB's SQL
]

EXTRAS = {
    "bench": ["tensorflow-hub>=0.16"],  # Beam's own TensorFlow handler, which we compare with, imports it
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],  # CUDA's libraries; the driver is the machine's
    "onnx": ["onnxruntime>=1.18"],
    "demo": ["scikit-learn>=1.5", "scikit-image>=0.24"],
    "train": ["google-cloud-aiplatform>=1.100", "keras-hub>=0.32,<0.33", "keras-tuner>=1.4.7"],
    "test": [
        "bqemulator>=1.4,<2",
        "dockerfile-parse>=2,<3",
        "gcp-storage-emulator>=2024",
        "google-cloud-aiplatform>=1.100",
        "hypothesis>=6",
        "keras-hub>=0.32,<0.33",
        "keras-tuner>=1.4.7",
        "mypy>=1.11",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "pycocotools>=2.0.8",
        "pytest>=8",
        "pytest-timeout>=2",
        "ruff>=0.6",
        "scikit-image>=0.24",
        "scikit-learn>=1.5",
    ],
}

setup(
    name="beam-vision",
    version=VERSION,
    description="Vision pipelines on Apache Beam: image lake to TFRecords, predictions and image search.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.14",
    # The job files live in pipelines/ and are installed as beam_vision.pipelines, so that a
    # user's own `pipelines` package can't shadow them; so are templates/.
    packages=[
        *find_packages(include=["beam_vision", "beam_vision.*"]),
        "beam_vision.pipelines",
        "beam_vision.templates",
    ],
    package_dir={"beam_vision.pipelines": "pipelines", "beam_vision.templates": "templates"},
    package_data={
        "beam_vision": ["py.typed"],
        "beam_vision.planning": ["prices.json"],
        "beam_vision.templates": ["sql/*.sql", "flex/*", "flex/*/metadata.json"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["beam-vision = beam_vision.pipelines.cli:main"]},
)
