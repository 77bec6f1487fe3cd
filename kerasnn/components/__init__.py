"""What a network is trained with, by name: activations, initializers, losses, metrics, optimizers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
