from .config import SearchConfig as SearchConfig
from .run_search import SearchResult as SearchResult
from .run_search import search as search
from .trial import Trial as Trial
