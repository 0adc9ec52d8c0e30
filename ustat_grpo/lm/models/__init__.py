"""Language models that sample answers: our own transformer, and those of transformers."""
