"""What kerasnn needs of the private parts of Keras, TensorFlow and keras-tuner: a sentence and a test for each name."""

import ast
import inspect
import threading
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from kerasnn import keras_private as private

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("keras.src", "tensorflow.python", "keras_tuner.src")


def parameters(function):
    return list(inspect.signature(function).parameters)


def small_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize("path", sorted((ROOT / "kerasnn").rglob("*.py")), ids=lambda path: path.stem)
def test_one_file_alone_uses_private_parts(path):
    if path.name == "keras_private.py":
        return
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not [name for name in names if name.startswith(FOREIGN)]
        if isinstance(node, ast.Attribute) and node.attr == "src":
            raise AssertionError(f"{path}:{node.lineno} reads {ast.unparse(node)}")
    assert "mock" not in text


def test_importing_kerasnn_registers_nothing_in_tensorflow():
    assert not {"StatelessRandomUniformFullIntV2", "Bitcast"} & set(private.pfor._pfor_converter_registry)


# Replacing functions


class Owner:
    @staticmethod
    def answer():
        return "original"


def test_replaced_functions_are_put_back():
    before = Owner.__dict__["answer"]
    with private.replaced(Owner, answer=lambda: "replaced"):
        assert Owner.answer() == "replaced"
    assert Owner.__dict__["answer"] is before
    with pytest.raises(ZeroDivisionError), private.replaced(Owner, answer=lambda: "replaced"):
        _ = 1 / 0
    assert Owner.__dict__["answer"] is before


def test_inherited_functions_are_put_back_where_they_were():
    class Heir(Owner):
        pass

    with private.replaced(Heir, answer=lambda: "replaced"):
        assert (Heir.answer(), Owner.answer()) == ("replaced", "original")
    assert "answer" not in vars(Heir)


def test_the_innermost_replacement_answers():
    with private.replaced(Owner, answer=lambda: "outer"), private.replaced(Owner, answer=lambda: "inner"):
        assert Owner.answer() == "inner"
        assert private.original(Owner, "answer")() == "original"


def test_threads_replace_functions_for_themselves():
    """Two threads overlap; each gets its own replacement, a third the original, and nothing stays behind."""
    before = Owner.__dict__["answer"]
    found, entered, leave = {}, threading.Barrier(3), threading.Barrier(3)

    def run(name):
        with private.replaced(Owner, answer=lambda: name):
            entered.wait(10)
            found[name] = Owner.answer()
            leave.wait(10)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    entered.wait(10)
    found["other"] = Owner.answer()
    leave.wait(10)
    for thread in threads:
        thread.join()
    assert found == {"first": "first", "second": "second", "other": "original"}
    assert Owner.__dict__["answer"] is before


def test_a_traced_graph_takes_its_replacements_into_other_threads():
    """A strategy traces each replica in a thread of its own."""
    found = []

    @tf.function(autograph=False)
    def traced():
        graph = tf.compat.v1.get_default_graph()

        def replica():
            with graph.as_default():
                found.append(Owner.answer())

        with private.replaced(Owner, answer=lambda: "replaced"):
            thread = threading.Thread(target=replica)
            thread.start()
            thread.join()
        return tf.constant(0)

    traced()
    assert found == ["replaced"]


def test_converters_are_registered_for_a_while():
    with private.vectorized_by({"Bitcast": lambda operation: None}):
        with private.vectorized_by({"Bitcast": lambda operation: None}):
            assert "Bitcast" in private.pfor._pfor_converter_registry
        assert "Bitcast" in private.pfor._pfor_converter_registry
    assert "Bitcast" not in private.pfor._pfor_converter_registry


# Keras


def test_backend_random_dropout_takes_a_rate_and_a_seed():
    """Dropout layers call `backend.random.dropout`, which fused training replaces by one for rates that are tensors."""
    assert parameters(private.backend_random.dropout) == ["inputs", "rate", "noise_shape", "seed"]
    called = []
    with private.replaced(private.backend_random, dropout=lambda inputs, *rest, **options: called.append(1) or inputs):
        keras.layers.Dropout(0.5)(np.ones((2, 2)), training=True)
    assert called == [1]


def test_random_helpers_cast_seeds_and_shapes():
    """Fused training casts a seed and finds the shape of the noise as Keras does."""
    seed = private.tensorflow_random._cast_seed(private.draw_seed(3))
    assert seed.shape == (2,)
    assert private.tensorflow_random._get_concrete_noise_shape(tf.zeros((2, 3)), (None, 1)) == [2, 1]


def test_global_state_keeps_the_global_seed_generator():
    """The training state saves the generator that layers without a seed draw from."""
    keras.utils.set_random_seed(0)
    generator = private.global_seed_generator()
    assert private.global_state.get_global_attribute(private.GLOBAL_SEED_GENERATOR) is generator


def test_stateless_scope_holds_values_of_variables():
    """Fused training reads and replaces the values that variables have within a scope."""
    variable = keras.Variable(1.0)
    with keras.StatelessScope([(variable, 2.0)]):
        scope = private.get_stateless_scope()
        assert scope.state_mapping[id(variable)] == scope.get_current_value(variable) == 2.0


def test_moments_over_replicas_are_a_function_of_the_backend():
    """Synchronized batch normalization over replicas replaces `_compute_moments_sync`."""
    assert parameters(private.tensorflow_nn._compute_moments_sync) == ["x", "axes", "keepdims"]


@pytest.mark.parametrize("name", ["scale_loss_for_distribution", "unscale_loss_for_distribution"])
def test_losses_are_scaled_for_replicas_by_a_function(name):
    """Replicas weigh losses by examples, so Keras's division by the number of replicas is replaced."""
    assert parameters(getattr(private.loss_module, name)) == ["value"]
    assert name in inspect.getsource(keras.Model.compute_loss) + inspect.getsource(
        type(small_model()).train_step
    ) + inspect.getsource(inspect.getmodule(keras.Model.train_step))


@pytest.mark.parametrize(
    "name",
    [
        "assign",
        "assign_add",
        "assign_sub",
        "_var_key",
        "_apply_weight_decay",
        "_backend_update_step",
        "_backend_increment_gradient_accumulators",
        "_overwrite_model_variables_with_average_value",
    ],
)
def test_base_optimizer_works_on_values(name):
    """Fused training takes Keras's optimizer as it is without tf.distribute: the base class has each method."""
    assert callable(vars(private.base_optimizer.BaseOptimizer)[name])
    assert callable(getattr(private.TFOptimizer, name))


def test_base_optimizer_decides_by_ops_cond():
    """Fused training replaces `ops.cond`, by which accumulation decides whether to update."""
    assert "ops.cond(" in inspect.getsource(private.base_optimizer)


def test_optimizers_add_up_gradients_in_one_method():
    """On replicas gradients are added up before the optimizer sees them, so its own sum is replaced."""
    assert parameters(private.TFOptimizer._all_reduce_sum_gradients) == ["self", "grads_and_vars"]
    scaled = keras.mixed_precision.LossScaleOptimizer
    assert parameters(scaled._tf_apply) == parameters(scaled._common_apply)


def test_arrays_are_adapted_sliced_and_split():
    """`fit` asks Keras which data are arrays, and slices and splits them as Keras does."""
    x = np.arange(10.0)
    assert private.can_convert_arrays((x, None))
    (train, _), (held_out, _) = private.array_slicing.train_validation_split((x, None), validation_split=0.2)
    assert (len(train), len(held_out)) == (8, 2)
    sliced = private.array_slicing.convert_to_sliceable(x, target_backend="tensorflow")
    assert sliced.shape == (10,)
    adapter = private.ArrayDataAdapter(x, x, batch_size=4)
    assert (adapter.num_batches, adapter.batch_size, adapter.partial_batch_size) == (3, 4, 2)
    assert issubclass(private.ArrayDataAdapter, private.DataAdapter)
    assert (adapter._num_samples, len(adapter._inputs)) == (10, 2)


def test_data_adapters_are_chosen_by_type():
    """Replicas take batches from whatever adapter Keras has for the data."""
    dataset = tf.data.Dataset.from_tensor_slices(np.zeros((4, 2))).batch(2)
    assert isinstance(private.get_data_adapter(dataset), private.DataAdapter)


def test_adapters_learn_shapes_from_their_first_batches_by_one_function():
    """`ChunkedBatches` takes these batches' size for that of all, without reading another one."""
    found = []

    class Table(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.zeros((2, 4)), np.zeros(2)

    def remembering(batches, get_tensor_spec=private.data_adapter_utils.get_tensor_spec):
        found.append(len(batches))
        return get_tensor_spec(batches)

    with private.replaced(private.data_adapter_utils, get_tensor_spec=remembering):
        for source in (Table(), iter([(np.zeros((2, 4)),)] * 3)):
            source = source if isinstance(source, Table) else (batch for batch in source)
            private.get_data_adapter(source).get_tf_dataset()
    assert found == [2, 2]


def test_models_say_whether_xla_compiles_them():
    """`fit` asks Keras whether XLA is on for a model."""
    assert private.model_supports_jit(small_model()) is True


def test_functional_models_have_a_class():
    """Checks look at a functional model's output layers."""
    inputs = keras.Input((3,))
    assert isinstance(keras.Model(inputs, keras.layers.Dense(2)(inputs)), private.Functional)


@pytest.mark.parametrize(
    "name",
    [
        "_symbolic_build",
        "_maybe_symbolic_build",
        "_flatten_layers",
        "_compute_loss",
        "_compile_config",
        "_compile_metrics",
        "_loss_tracker",
        "_distribute_strategy",
    ],
)
def test_compiled_models_have_their_private_parts(name):
    """`fit` and fused training build models symbolically, and reach their layers, loss and metrics."""
    model = small_model()
    model._symbolic_build(data_batch=(tf.TensorSpec((2, 3)), tf.TensorSpec((2, 2))))
    assert hasattr(model, name)


# TensorFlow


def test_datasets_tell_their_batch_size_and_their_iterator():
    """`DatasetBatches` compiles for the batch size before it reads, and reads by the iterator's resource."""
    batched = tf.data.Dataset.range(6).batch(2)
    (part,) = batched.map(lambda x: x + 1)._inputs()
    assert tf.get_static_value(part._batch_size) == 2
    resource = iter(batched)._iterator_resource
    (batch,) = tf.raw_ops.IteratorGetNext(iterator=resource, output_types=[tf.int64], output_shapes=[(None,)])
    assert batch.numpy().tolist() == [0, 1]


def test_seeds_become_keys_counters_and_an_algorithm():
    """Random numbers under XLA are drawn by the kernels' algorithm: `get_key_counter_alg(seed, alg)` chooses it."""
    assert parameters(private.random_ops_util.get_key_counter_alg) == ["seed", "alg"]
    assert private.random_ops_util.convert_alg_to_int("philox") == tf.random.Algorithm.PHILOX.value


@pytest.mark.parametrize("kind", ["uniform", "uniform_full_int", "uniform_int", "normal"])
def test_draws_take_a_shape_a_key_and_a_counter(kind):
    """Draws are replaced under XLA, and on replicas, where each takes its slice of the batch's numbers."""
    function = getattr(private.gen_stateless_random_ops_v2, f"stateless_random_{kind}_v2")
    assert parameters(function)[:4] == ["shape", "key", "counter", "alg"]


def test_truncated_normals_are_drawn_alike():
    """As the other draws."""
    function = private.gen_stateless_random_ops_v2.stateless_truncated_normal_v2
    assert parameters(function)[:4] == ["shape", "key", "counter", "alg"]


def test_shapes_are_known_from_constants():
    """On replicas a draw's shape tells whether its first axis is the batch's."""
    assert private.tensor_util.constant_value_as_shape(tf.constant([2, 3])).as_list() == [2, 3]


def test_variables_of_replicas_aggregate_in_a_function():
    """What an optimizer assigns on each replica alone must not be aggregated."""
    assert callable(private.distributed_values.apply_aggregation_replica_context)


def test_pfor_converts_operations_by_type():
    """`tf.vectorized_map` finds a converter by an operation's type."""
    assert "MatMul" in private.pfor._pfor_converter_registry
    assert callable(private.pfor.wrap)


def test_graphs_know_the_graph_around_them():
    """Replacements hold within every graph that is traced inside the one that made them."""
    found = []

    @tf.function(autograph=False)
    def outer():
        around = tf.compat.v1.get_default_graph()
        tf.while_loop(
            lambda i: i < 1,
            lambda i: found.append(tf.compat.v1.get_default_graph().outer_graph is around) or (i + 1,),
            (tf.constant(0),),
        )
        return tf.constant(0)

    outer()
    assert found == [True]


# keras-tuner


def test_keras_tuner_reads_results_and_errors_as_kerasnn_does():
    """The tuners turn what training returned into metrics and a step, and tell a failed trial from a fatal error."""
    objective = keras_tuner.Objective("val_loss", "min")
    history = keras.callbacks.History()
    history.history = {"loss": [3.0, 2.0], "val_loss": [1.0, 2.0]}
    assert private.tuner_utils.convert_to_metrics_dict([history], objective) == {"loss": 3.0, "val_loss": 1.0}
    assert private.tuner_utils.get_best_step([history], objective) == 0
    assert private.tuner_utils.validate_trial_results([history], objective, "fit") is None
    assert issubclass(private.tuner_errors.FatalTypeError, private.tuner_errors.FatalError)
    assert issubclass(private.tuner_errors.FailedTrialError, Exception)


def test_gradient_tapes_can_be_replaced_for_a_while():
    """Fused training gives tapes the values that `keras.StatelessScope` holds, by these methods of the class."""
    with private.replaced(tf.GradientTape, gradient=lambda tape, target, sources: "replaced"):
        tape = tf.GradientTape()
        assert tape.gradient(None, None) == "replaced"
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    assert float(tape.gradient(y, x)) == 6.0


def test_models_that_call_their_base_s_fit_reach_the_trainer_s():
    """`kerasnn.fit` compiles what a model's own `fit` calls."""
    for name in ("fit", "evaluate"):
        assert getattr(keras.Model, name) is vars(private.TensorFlowTrainer)[name]
        assert parameters(vars(private.TensorFlowTrainer)[name])[:4] == ["self", "x", "y", "batch_size"]


def test_seeds_drop_prepared_operations_by_one_function():
    """A seed that was never set before is set without it."""
    calls = []
    with private.replaced(private.pywrap_tfe, TFE_ContextClearCaches=calls.append):
        keras.utils.set_random_seed(1)
    assert len(calls) == 1
