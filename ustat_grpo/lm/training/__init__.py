"""Training of language models: Algorithms 1 and 2, one run or many, with a critic or without."""
