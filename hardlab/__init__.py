"""hardlab: which examples are hard for a self-supervised model, and does training on them help?"""

__version__ = "0.1.0"
