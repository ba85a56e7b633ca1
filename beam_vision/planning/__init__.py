"""What a job will take and cost: a sample of its images, measured here and scaled to workers."""
