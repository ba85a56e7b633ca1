"""What is known of Dataflow without asking it: machines, GPUs, what a job needs of them, flex templates."""
