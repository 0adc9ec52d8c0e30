"""What the library is handed: arrays, numbers, ids, texts and files, checked before work starts."""
