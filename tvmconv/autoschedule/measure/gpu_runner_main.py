"""The process in which candidates run on a GPU; it answers as ``runner_main`` does."""

from __future__ import annotations

from functools import partial

from tvmconv.autoschedule.measure.gpu_stage import Gpu, GpuLibrary, GpuStage
from tvmconv.autoschedule.measure.runner_main import Runner, read_arguments, serve
from tvmconv.runtime.cuda import open_driver


def main() -> None:
    """Run candidates on the GPU whose number the job names."""
    job, channel = read_arguments()
    driver = open_driver()
    with driver.context(job["gpu"]):
        gpu = Gpu(driver)
        lay_out = partial(GpuStage, gpu=gpu, cold_bytes=job["cold_bytes"])
        serve(channel, Runner(partial(GpuLibrary, gpu=gpu), lay_out))
