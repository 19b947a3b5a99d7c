"""The library beside six peers, against one sink on the same machine. `make bench`; see README.md here."""
