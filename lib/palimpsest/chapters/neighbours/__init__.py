"""What the neighbours of the five papers have found: their rivals and stress tests, in the five papers' protocols."""
