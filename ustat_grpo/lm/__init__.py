"""Small language models and the arithmetic they are asked."""
