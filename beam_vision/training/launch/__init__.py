"""Where a training job runs: a child process here, or Vertex AI."""
