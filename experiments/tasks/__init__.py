"""What is experimented on."""
