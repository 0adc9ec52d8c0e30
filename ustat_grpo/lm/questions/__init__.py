"""Questions with their solutions, and what an answer to them is worth."""
