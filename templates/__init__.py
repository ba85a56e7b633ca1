"""Ready queries in GoogleSQL (``sql/``); installed as ``beam_vision.templates``."""
