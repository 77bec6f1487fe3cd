"""Write torch_schedules.json: 200 steps of PyTorch's learning-rate schedulers, each beside the call that made it.

PyTorch is needed for this file only: `python make_torch_schedules.py` with torch 2.13 installed.
"""

import json
import warnings
from pathlib import Path

import torch
from torch.optim import lr_scheduler

STEPS = 200
LEARNING_RATE = 0.1
CALLS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "step": [("StepLR", {"step_size": 50, "gamma": 0.5})],
    "step_7": [("StepLR", {"step_size": 7, "gamma": 0.9})],
    "multi_step": [("MultiStepLR", {"milestones": [50, 125, 160], "gamma": 0.5})],
    "exponential": [("ExponentialLR", {"gamma": 0.98})],
    "cosine": [("CosineAnnealingLR", {"T_max": 200, "eta_min": 0.0})],
    "cosine_floor": [("CosineAnnealingLR", {"T_max": 200, "eta_min": 0.001})],
    "restarts": [("CosineAnnealingWarmRestarts", {"T_0": 30, "T_mult": 1, "eta_min": 0.0})],
    "restarts_doubling": [("CosineAnnealingWarmRestarts", {"T_0": 10, "T_mult": 2, "eta_min": 0.002})],
    "linear": [("PolynomialLR", {"total_iters": 200, "power": 1.0})],
    "polynomial": [("PolynomialLR", {"total_iters": 150, "power": 2.5})],
    "warm_step": [
        ("StepLR", {"step_size": 50, "gamma": 0.5}),
        ("LinearLR", {"start_factor": 0.1, "end_factor": 1.0, "total_iters": 20}),
    ],
}
for anneal in ("cos", "linear"):
    for three_phase in (False, True):
        CALLS[f"one_cycle_{anneal}_{3 if three_phase else 2}"] = [
            (
                "OneCycleLR",
                {
                    "max_lr": LEARNING_RATE,
                    "total_steps": STEPS,
                    "pct_start": 0.3,
                    "anneal_strategy": anneal,
                    "three_phase": three_phase,
                    "div_factor": 25.0,
                    "final_div_factor": 1e4,
                    "base_momentum": 0.85,
                    "max_momentum": 0.95,
                },
            )
        ]
for mode, gamma in (("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.99)):
    CALLS[f"cyclic_{mode}"] = [
        (
            "CyclicLR",
            {
                "base_lr": 0.01,
                "max_lr": LEARNING_RATE,
                "step_size_up": 20,
                "step_size_down": 30,
                "mode": mode,
                "gamma": gamma,
                "cycle_momentum": False,
            },
        )
    ]


def course(calls: list[tuple[str, dict[str, object]]]) -> dict[str, object]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE, momentum=0.9)
    schedulers = [getattr(lr_scheduler, name)(optimizer, **arguments) for name, arguments in calls]
    rates, momenta = [], []
    for step in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        if step < STEPS - 1:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
    text = "; ".join(
        f"{name}(optimizer, {', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for name, arguments in calls
    )
    made: dict[str, object] = {"call": text, "rates": rates}
    if len(set(momenta)) > 1:
        made["momenta"] = momenta
    return made


def main() -> None:
    warnings.simplefilter("ignore")
    lines = [f"{json.dumps(name)}: {json.dumps(course(calls))}" for name, calls in CALLS.items()]
    about = (
        f"Rate (and momentum where it changes) before each of {STEPS} steps; torch {torch.__version__}, "
        f"optimizer = SGD(lr={LEARNING_RATE}, momentum=0.9); made by make_torch_schedules.py"
    )
    text = "{\n" + ",\n".join([f'"_about": {json.dumps(about)}', *lines]) + "\n}\n"
    (Path(__file__).parent / "torch_schedules.json").write_text(text)


if __name__ == "__main__":
    main()
