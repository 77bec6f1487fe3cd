"""Training, validation and test parts of a data set, and their targets."""

import numpy as np


def final_targets(y: np.ndarray, task: str, part: str) -> np.ndarray:
    """Targets in their final dtype and shape, multiclass as integer labels."""
    if task == "multiclass":
        if y.ndim == 2 and y.shape[1] > 1:
            if not (y.max(axis=1) == 1).all():
                raise ValueError(f"y_{part}'s one-hot rows must hold one 1 and zeros; soft labels are not supported")
            return y.argmax(axis=1).astype(np.int32)
        return y.reshape(-1).astype(np.int32)
    y = y.astype(np.float32)
    return y.reshape(-1) if task == "binary" else y.reshape(len(y), -1)


def output_count(targets: np.ndarray, y: np.ndarray, task: str) -> int:
    """The number of outputs for the targets of the training part."""
    if task == "binary":
        return 1
    if task != "multiclass":
        return targets.shape[1]
    if y.ndim == 2 and y.shape[1] > 1:
        return y.shape[1]
    found = np.unique(targets)
    if len(found) <= found[-1]:
        missing = int((found != np.arange(len(found))).argmax())
        raise ValueError(
            f"y_train's labels must be 0 to {found[-1]} without gaps; {missing} is missing: number the classes without "
            "gaps, or give class_names"
        )
    return len(found)


def check_like_train(x: np.ndarray, x_train: np.ndarray, part: str) -> None:
    """Refuse a part whose examples have another shape or scale than the training part's."""
    if x.shape[1:] != x_train.shape[1:]:
        raise ValueError(f"x_{part}'s examples must have x_train's shape {x_train.shape[1:]}; received {x.shape[1:]}")
    if (x.dtype == np.uint8) != (x_train.dtype == np.uint8):
        raise ValueError(
            f"x_{part} must have x_train's scale; only one of them holds unsigned bytes "
            f"({x.dtype}, x_train {x_train.dtype})"
        )


def split_rows(part: str, share: float, targets: np.ndarray, seed: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose examples for another part: positions of the rest, and of those taken.

    Args:
        part: `"validation"` or `"test"`.
        share: fraction of the examples to take, above 0.
        targets: the examples' targets.
        seed: seed of the choice.
        task: classes of binary and multiclass tasks are taken in proportion, if every class has enough examples.

    Raises:
        ValueError: one line, if none would be left.
    """
    from sklearn.model_selection import train_test_split

    y = targets
    count = max(1, round(share * len(y)))
    if count >= len(y):
        raise ValueError(f"data.{part}_share {share:g} of {len(y)} examples leaves none to train on")
    labels = None
    if task in ("binary", "multiclass"):
        sizes = np.unique_counts(y).counts
        # scikit-learn stratifies only if both parts can hold every class.
        if sizes.min() > 1 and len(sizes) <= min(count, len(y) - count):
            labels = y
    # One seed per part, so that the test part does not depend on validation_share.
    state = np.random.SeedSequence([seed, ("validation", "test").index(part)]).generate_state(1)
    rest, taken = train_test_split(np.arange(len(y)), test_size=count, random_state=int(state[0]), stratify=labels)
    return rest, taken
