from .callback import TensorBoard as TensorBoard
