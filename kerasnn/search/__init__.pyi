from .config import SearchConfig as SearchConfig
from .dispatch import search as search
from .model_config import ModelSearchConfig as ModelSearchConfig
from .result import SearchResult as SearchResult
from .trial import Trial as Trial
