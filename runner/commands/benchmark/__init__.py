"""The command `trainopt benchmark`. May import other commands and benchmark."""
