"""sparsedc: how to spend a fixed corpus — how large a language model, how sparse, over how many passes."""

__version__ = "0.1.0"
