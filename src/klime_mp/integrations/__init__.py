"""What is true of one server, one module each. Nothing here is needed: forks and exits are noticed anyway."""
