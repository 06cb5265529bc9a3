"""The functions of `import bench`: what the command line does, for objects in a Python session.

The package `bench` is their door; it imports a module of this room when its function is first used.
"""
