"""The worker's work: one job's stages, each heavy step in a process of its own."""
