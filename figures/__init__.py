"""One script a figure: reads a CSV, returns a Figure. Imports nothing else of this project."""
