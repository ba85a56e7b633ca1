"""Vision pipelines on Apache Beam: image lake to TFRecords, predictions, embeddings and search.

Importing this package loads neither TensorFlow, Beam nor a cloud client; the rooms below load what
they need when they need it.
"""

__version__ = "0.1.0"
