from .loading import Data as Data
from .loading import fingerprint as fingerprint
from .loading import from_arrays as from_arrays
from .loading import load_data as load_data
from .loading import read_examples as read_examples
