"""Other libraries' trainers that measure their own gradient noise; one module and extra each."""
