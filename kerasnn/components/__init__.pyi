from . import activations as activations
from . import initializers as initializers
from . import losses as losses
from . import metrics as metrics
from . import optimizers as optimizers
