from .building import build_model as build_model
from .building import with_preprocessing as with_preprocessing
from .layers import network_layers as network_layers
from .loading import load_model as load_model
from .subclassed import Network as Network
