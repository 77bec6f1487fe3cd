"""Variables in the place of Python numbers."""

import keras


class NumberVariable(keras.Variable):
    """A variable in the place of a Python number that Keras would bake into a compiled graph as a constant.

    Keras checks such a number in Python before it uses it (`if self.momentum`, `!= 0`, `> 0`). A NumberVariable passes
    every such check, whatever its value is.
    """

    __hash__ = keras.Variable.__hash__

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __gt__(self, other: object) -> bool:
        return True
