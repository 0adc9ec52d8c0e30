"""What practice changes: clipping, reuse of outputs, lengths, normalisation."""
