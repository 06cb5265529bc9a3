"""One cell, from its name to a stored number, and what that costs."""
