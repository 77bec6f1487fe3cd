from .run_search import SearchResult as SearchResult
from .run_search import search as search
from .space import SearchConfig as SearchConfig
from .trial import Trial as Trial
