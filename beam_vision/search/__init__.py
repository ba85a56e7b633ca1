"""A table of embeddings -> an index of them -> the neighbours of a query; and SQL over the table.

:mod:`~beam_vision.search.index` is the front: ``build``, ``update``, ``open_index``, ``open_table``.
"""
