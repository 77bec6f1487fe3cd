"""The best trials' models, and no others, are on disk; each gives its trial's score on raw examples."""

import warnings

import keras
import numpy as np
import pytest

from kerasnn.data.loading import load_data
from kerasnn.search.best_models import BestModels
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.search.trial import Trial

CONFIG = {
    "run": {
        "network": {"hidden": [6]},
        "data": {"scaling": "standardize"},
        "training": {"epochs": 4},
        "report": {"progress": "silent", "tensorboard": False},
    },
    "space": {"optimizer.learning_rate": {"min": 1e-3, "max": 3e-1, "sampling": "log"}},
    "trials": 6,
    "trials_at_once": 3,
    "objective": "val_accuracy",
}


def test_the_best_trials_models_are_kept_and_find_their_scores(tmp_path):
    config = SearchConfig.model_validate({**CONFIG, "keep_best": 2})
    (tmp_path / "s" / "models").mkdir(parents=True)
    (tmp_path / "s" / "journal.jsonl").touch()
    (tmp_path / "s" / "models" / ".0001.5.partial.keras").touch()
    result = search(config, tmp_path / "s")
    kept = {path.stem: path for path in (tmp_path / "s" / "models").iterdir()}
    assert set(kept) == {f"{trial.number:04d}" for trial in result.trials[:2]}
    data = load_data(config.run.data, config.run.task)
    for trial in result.trials[:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = keras.models.load_model(kept[f"{trial.number:04d}"])
        # What the model takes is what there was before the data were prepared.
        raw = data.x_validation / data.preparation.factor + data.preparation.center
        found = model.predict(raw.reshape(-1, *data.raw_shape), verbose=0).argmax(axis=1)
        assert np.mean(found == data.y_validation) == pytest.approx(trial.score, abs=1e-6)


def test_files_of_trials_that_fall_out_are_deleted_and_no_others(tmp_path):
    ranking = [Trial(7, {}, "completed", 0.1), Trial(3, {}, "completed", 0.2), Trial(5, {}, "failed")]
    of_others = {"exported.keras", "0012.keras", "0005.h5", "0005-best.keras", "notes.txt", ".0005.keras"}
    for name in ("0007.keras", "0003-0.keras", "0003-1.keras", "0005.keras", "0005-2.keras", *of_others):
        (tmp_path / name).touch()
    models = BestModels(tmp_path, SearchConfig(keep_best=2))
    models.delete_others(ranking)
    assert {path.name for path in tmp_path.iterdir()} == {"0007.keras", "0003-0.keras", "0003-1.keras"} | of_others
    assert models.score_to_beat(ranking) == 0.2
    assert models.score_to_beat(ranking[:1]) is None
    BestModels(tmp_path, SearchConfig(keep_best=0)).delete_others(ranking)
    assert {path.name for path in tmp_path.iterdir()} == of_others
