from .comparison import Cell as Cell
from .config import ModelStudyConfig as ModelStudyConfig
from .config import StudyConfig as StudyConfig
from .dispatch import study as study
from .run_study import StudyResult as StudyResult
