"""From a CSV file to a network that takes its rows: train, evaluate, predict.

Run it with `python examples/own_table.py`; it writes `logs/wine`.
"""

import pandas as pd
from sklearn.datasets import load_wine

import kerasnn
from kerasnn import RunConfig, evaluate_run, figures, load_model, train


def main() -> None:
    # Stands for your own file: 178 Italian wines, 13 measurements, and the grower, with some cells left empty.
    wines = load_wine(as_frame=True).frame
    wines["target"] = wines["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    wines.loc[::20, "magnesium"] = None
    wines.rename(columns={"target": "wine"}).to_csv("wine.csv", index=False)

    # The task follows from the target: texts are classes. Everything that is not said here has a default, and
    # logs/wine/config.json lists all of it.
    config = RunConfig(
        data={"path": "wine.csv", "target": "wine"},
        network={"hidden": [32, 16]},
        training={"epochs": 40, "early_stopping": {"patience": 10}},
    )
    result = train(config, "logs/wine")
    print("test part", {name: round(value, 3) for name, value in result.metrics.items()})
    figures.save(result.figure(), "logs/wine/curves.png")

    # Precision and recall of each class, from the folder alone.
    print(evaluate_run("logs/wine", model="best"))

    # The saved model takes raw rows: columns in any order, cells missing. No preprocessing to repeat.
    model = load_model("logs/wine/best.keras")
    rows = pd.read_csv("wine.csv").drop(columns="wine").sample(3, random_state=0)
    print(model.predict(rows, verbose=0).round(2))

    # A number close to 1 may only mean that the table is easy: is a linear model as good?
    print("kerasnn", kerasnn.__version__, "- next: kerasnn compare wine.csv --target wine")


if __name__ == "__main__":
    main()
