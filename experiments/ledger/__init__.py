"""The ledger: paper_repro.md, docs/repro/, and the measured parts of other documents."""
