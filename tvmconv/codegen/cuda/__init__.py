"""CUDA: scheduled kernels to source, source to machine code, machine code to an artifact."""
