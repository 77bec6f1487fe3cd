from .best_model import BestModel as BestModel
from .divergence import DivergenceError as DivergenceError
from .divergence import StopOnDivergence as StopOnDivergence
from .health import Health as Health
from .history import HistoryFile as HistoryFile
from .layer_probe import Probe as Probe
from .learning_rate import LearningRate as LearningRate
from .progress import Progress as Progress
