"""The version, in one place: the wire's `context.library` and the package's metadata read it here."""

__version__ = "0.1.0"
