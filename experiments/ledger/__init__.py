"""`python -m experiments.ledger`: paper_repro.md and the measured parts of other documents."""
