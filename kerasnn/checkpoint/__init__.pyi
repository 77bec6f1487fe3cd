from .training_state import TrainingState as TrainingState
