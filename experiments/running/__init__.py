"""From a configuration to one CSV: checks, records, resumption, collection."""
