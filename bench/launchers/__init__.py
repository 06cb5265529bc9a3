"""Start `bench worker` many times: on this machine, as a job array of Slurm, as tasks of Ray.

The workers share out the work by themselves, over the database (docs/cluster.md). A launcher gives them places.
"""
