"""kerasnn: train, study and tune neural networks with Keras 3 on TensorFlow.

Public names are loaded on first use, so that importing kerasnn imports neither TensorFlow nor Keras.
"""

import lazy_loader

from kerasnn.registration import register_with_keras

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_with_keras()
