"""The methods that propose trials, described as data."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from kerasnn.config.schema import Schema, named


class Random(Schema):
    """Values drawn independently."""

    name: Literal["random"] = "random"


class Grid(Schema):
    """Every combination in turn; a range without a step is tried at its minimum and at ten values within."""

    name: Literal["grid"] = "grid"


class Bayesian(Schema):
    """A Gaussian process over the results so far; proposes the point that it finds most promising.

    Reference: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting" (ICML 2010).
    """

    name: Literal["bayesian"] = "bayesian"
    initial_points: PositiveInt | None = None
    """Random trials before the first model; null takes three for each key of the space."""
    alpha: float = Field(default=1e-4, gt=0)
    """Noise expected in the objective, as a variance."""
    beta: float = Field(default=2.6, ge=0)
    """Weight of the uncertainty against the expected objective; larger values explore more."""


class Hyperband(Schema):
    """Many short trials, of which the best continue to more epochs, up to `run.training.epochs`.

    Reference: Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018).
    """

    name: Literal["hyperband"] = "hyperband"
    factor: int = Field(default=3, ge=2)
    """One trial in this many continues, to this many times the epochs."""


class Tpe(Schema):
    """Optuna's tree-structured Parzen estimator: densities of the values of good and of other trials.

    Reference: Watanabe, "Tree-Structured Parzen Estimator" (arXiv 2304.11127); `optuna.samplers.TPESampler`.
    """

    name: Literal["tpe"] = "tpe"
    startup_trials: PositiveInt = 10
    """Random trials before the first model."""


class Gp(Schema):
    """Optuna's Gaussian process, by the logarithm of the expected improvement; needs PyTorch.

    Reference: Ament et al., "Unexpected Improvements to Expected Improvement" (NeurIPS 2023);
        `optuna.samplers.GPSampler`.
    """

    name: Literal["gp"] = "gp"
    startup_trials: PositiveInt = 10
    """Random trials before the first model."""


class Cmaes(Schema):
    """Optuna's CMA-ES: a normal distribution over the numbers of the space, moved by generations; choices are random.

    Reference: Hansen, "The CMA Evolution Strategy" (arXiv 1604.00772); `optuna.samplers.CmaEsSampler`.
    """

    name: Literal["cmaes"] = "cmaes"
    population_size: int = Field(default=8, ge=4)
    """Trials of a generation."""


class Nsga2(Schema):
    """Optuna's NSGA-II: crossover of the trials that no other one beats in every objective.

    Reference: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002);
        `optuna.samplers.NSGAIISampler`.
    """

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=32, ge=2)
    """Trials of a generation."""


class Pbt(Schema):
    """Population-based training: members train together, and the worst go on from the weights of the best with changed
    rates.

    After each interval the worst members take over the weights, the optimizer's state and the values of the best, and
    change the values. All train in one program, which holds the values; whatever changes the program is refused.

    Reference: Jaderberg et al., "Population Based Training of Neural Networks" (arXiv 1711.09846).
    """

    name: Literal["pbt"] = "pbt"
    members: int = Field(default=16, ge=2)
    """Models that train at the same time."""
    interval: PositiveInt = 3
    """Epochs between two selections; each member is a trial of its own in each interval."""
    share: float = Field(default=0.2, gt=0, le=0.5)
    """Share of the members that are replaced, and of those that replace them."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """Probability that a value is drawn anew; otherwise it is multiplied by 0.8 or 1.2."""

    def generations(self, epochs: int) -> int:
        """Number of intervals in a training of so many epochs; the last may be shorter."""
        return -(-epochs // self.interval)


Optuna = Tpe | Gp | Cmaes | Nsga2
OracleConfig = Annotated[
    Random | Grid | Bayesian | Hyperband | Optuna | Pbt, Field(discriminator="name"), BeforeValidator(named)
]
MULTI_OBJECTIVE = (Random, Grid, Tpe, Gp, Nsga2)
"""Oracles that take several objectives."""
