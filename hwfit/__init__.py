"""hwfit: fit a pretrained LLM to a hardware envelope, with measured milliseconds."""

__version__ = "0.1.0"
