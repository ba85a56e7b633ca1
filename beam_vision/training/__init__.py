"""Training of a small classifier on a TFRecord dataset, and its export as a model bundle."""
