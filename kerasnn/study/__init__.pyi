from .comparison import Cell as Cell
from .config import StudyConfig as StudyConfig
from .run_study import StudyResult as StudyResult
from .run_study import study as study
