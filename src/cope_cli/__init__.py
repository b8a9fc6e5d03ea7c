"""cope makes video cheap for language models, from the primitives a codec already stores."""

__version__ = "0.1.0"
