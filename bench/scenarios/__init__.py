"""The measurements: each module makes one group of rows, independent of the others."""
