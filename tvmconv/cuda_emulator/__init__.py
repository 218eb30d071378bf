"""CUDA kernels on the CPU: a compiler front end, an executor with checks, and a driver.

The CUDA source that is compiled for a GPU is compiled for this machine, and executed with the
semantics of CUDA's execution model: a grid of blocks, whose threads are fibres that switch at
barriers and at operations of a warp. Every access to memory is checked: bounds of every buffer and
shared array, races between threads, copies by ``cp.async`` that are read before they are waited
for. Barriers that not all threads reach are errors, and shared memory begins as NaN.

:func:`driver` is a library with the functions of CUDA's driver that a compiled model calls; with
its path in ``TVMCONV_CUDA_DRIVER``, a model with images of :func:`host_image` runs as on a GPU.
"""

from tvmconv.cuda_emulator.build import driver, host_image
from tvmconv.cuda_emulator.run import Launch, configure, run, run_both_ways

__all__ = ["Launch", "configure", "driver", "host_image", "run", "run_both_ways"]
