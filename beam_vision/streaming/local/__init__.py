"""A Beam runner for streaming on one machine: at least once, with state that outlives a kill.

Beam's own local runners either read nothing from Pub/Sub, and say that all is well, or acknowledge a message
before anything is done with it. This one is small because it runs only what our streaming graph holds:
ParDo with state and timers, Flatten, and one source; see :mod:`beam_vision.streaming.local.runner`.
"""
