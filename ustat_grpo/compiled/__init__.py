"""What every compiled loop needs: its random streams, its draws, its cache and its threads."""
