"""The guest agent of one instance."""

__version__ = "0.1.0"
