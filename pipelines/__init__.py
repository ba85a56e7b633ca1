"""One file per job: Options, ``preflight(options)``, ``build(pipeline, options)`` and ``run(argv)``.

Nothing here runs on a worker: no DoFn, no lambda.
"""
