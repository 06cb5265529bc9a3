"""What others measured, and whether our numbers agree."""
