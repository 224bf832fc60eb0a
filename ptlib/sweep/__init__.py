"""Many runs of one notebook, over a grid or a list of parameters, by whatever executes functions: processes of this
machine, a Dask cluster, Slurm. Each is a run of its own: what is complete is not done again, what was stopped goes on.

On Slurm by submitit, from a folder that all nodes share (not run where this repository's numbers were made):

    executor = submitit.AutoExecutor(folder="outputs/slurm/%j")
    executor.update_parameters(timeout_min=240, gpus_per_node=1, cpus_per_task=8, slurm_partition="...")
    ptlib.sweep.run("params/finetune/sweep.yaml", executor)
"""

from ptlib.sweep.planning import plan, whole
from ptlib.sweep.running import complete, dask, execute, local, preview, run

__all__ = ["complete", "dask", "execute", "local", "plan", "preview", "run", "whole"]
