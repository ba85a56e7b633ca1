"""What is right and what isn't, before a job is run: this machine, the cloud project, a job's options."""
