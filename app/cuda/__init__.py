"""TensorRT and the CUDA driver: what engines and observers on a GPU share. Everything here runs in a step's own process."""
