"""The names of the gallery's pictures."""

PICTURES = {
    "activations": "functions.activation_curves",
    "losses": "functions.loss_curves",
    "regression_losses": "functions.regression_losses",
    "schedules": "functions.schedule_curves",
    "initializers": "weights.initializer_histograms",
    "signal_variance": "weights.signal_variance",
    "optimizer_paths": "paths.optimizer_paths",
    "optimizers": "paths.every_optimizer",
    "optimizer_animation": "paths.optimizer_animation",
    "dropout": "layers.dropout_masks",
    "batch_norm": "layers.batch_norm_effect",
    "examples": "networks.data_examples",
    "builders": "networks.three_builders",
}
"""The function that draws each picture, by name; the name is also its file's and its tag in TensorBoard."""
