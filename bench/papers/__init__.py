"""Publications as grids: what their tables hold, line by line."""
