from typing import Annotated, Literal

import pytest
from pydantic import Field

from kerasnn.config.schema import Schema, one_of, short


class Square(Schema):
    name: Literal["square"] = "square"
    side: float = Field(1.0, gt=0)


class Circle(Schema):
    name: Literal["circle"] = "circle"
    radius: float = Field(1.0, gt=0)


class Inner(Schema):
    count: int = Field(1, ge=1)
    sizes: tuple[int, ...] = ()


class Outer(Schema):
    shape: Annotated[Square | Circle, Field(discriminator="name")] = Square()
    inner: Inner = Inner()
    label: str | None = None
    required: int = 0


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"inner": {"count": 0}}, "inner.count must be greater than or equal to 1, received 0"),
        ({"inner": {"sizes": [1, "x"]}}, "inner.sizes.1 must be a valid integer.*received 'x'"),
        ({"iner": {}}, r"key must be one of shape, inner, .*received 'iner' \(did you mean 'inner'\?\)"),
        ({"inner": {"cont": 1}}, r"inner: key must be one of count, sizes; received 'cont' \(did you mean 'count'\?\)"),
        ({"shape": {"name": "cirle"}}, r"shape.name must be one of square, circle; .*\(did you mean 'circle'\?\)"),
        ({"shape": {"name": "circle", "radius": -1}}, "^shape.radius must be greater than 0, received -1$"),
        ({"shape": {"name": "circle", "side": 1}}, "^shape: key must be one of name, radius; received 'side'"),
        ({"shape": {}}, "^shape.name is required and was not given$"),
        ({"inner": {"count": float("nan")}}, "inner.count must be a finite number, received nan"),
        ({"inner": 3}, r"^inner must be an object \(keys: count, sizes\), received 3$"),
    ],
)
def test_error_is_one_line_with_key_rule_and_value(data, line):
    for make in (lambda: Outer(**data), lambda: Outer.model_validate(data)):
        with pytest.raises(ValueError, match=line) as error:
            make()
        assert "\n" not in str(error.value)
        assert type(error.value) is ValueError


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().label = "x"


def test_repr_shows_only_what_was_chosen():
    assert repr(Outer(inner=Inner(count=2))) == "Outer(inner=Inner(count=2))"


def test_one_of_names_the_nearest():
    assert one_of("activation", "Relu", ["tanh", "relu"]) == (
        "activation must be one of tanh, relu; received 'Relu' (did you mean 'relu'?)"
    )
    assert one_of("activation", 3, ["tanh"]) == "activation must be one of tanh; received 3"


def test_short_keeps_to_one_line():
    assert short("a\nb") == r"'a\nb'"
    assert len(short(list(range(1000)))) == 80
