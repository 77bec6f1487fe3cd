"""The gallery: pictures of activations, losses, optimizers and more, drawn from the package's own functions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
