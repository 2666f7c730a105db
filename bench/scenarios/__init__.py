"""What is measured: each module makes one group of rows, and needs nothing of the others."""
