"""Blocks: the right numbers, within the budget of keys, for one block or a thousand."""

import numpy as np
import pytest

from nanwatch.records import STATISTICS, NamesRecord
from nanwatch.sinks.mlflow_blocks import BLOCK_STATISTICS, BlockStatistics, global_grad_norm
from nanwatch.sinks.mlflow_names import KeyNames


def rows(*tensors):
    """stats_KS from one dict a tensor; what is not named is 0."""
    return np.array([[t.get(s, 0) for s in STATISTICS] for t in tensors], np.float32)


def names(*blocks, numel=10):
    tensors = tuple(f"{b}.{i}" for i, b in enumerate(blocks))
    return NamesRecord(1, tensors, (numel,) * len(blocks), blocks)


def measured(blocks, stats_KS):
    return dict(zip(blocks.keys, blocks.measure(stats_KS), strict=True))


def test_statistics_of_a_block_are_those_of_its_tensors_together():
    blocks = BlockStatistics(names("a", "a", "b"), KeyNames(), 100)
    got = measured(
        blocks,
        rows(
            {"l2": 3, "min": -2, "max": 1, "sum": 5, "zeros": 4},
            {"l2": 4, "min": -1, "max": 7, "sum": 15, "zeros": 6},
            {"l2": 1, "min": -9, "max": 0, "sum": -10, "zeros": 0},
        ),
    )
    assert got["nanwatch/grad_norm_by_block/a"] == 5
    assert got["nanwatch/grad_absmax_by_block/a"] == 7
    assert got["nanwatch/grad_absmax_by_block/b"] == 9
    assert got["nanwatch/zero_share_by_block/a"] == 0.5
    assert got["nanwatch/grad_mean_by_block/a"] == 1
    assert got["nanwatch/grad_mean_by_block/b"] == -1


@pytest.mark.parametrize("bad", ["nan", "pos_inf", "neg_inf"])
def test_a_block_with_a_bad_tensor_has_no_value_and_the_others_have(bad):
    blocks = BlockStatistics(names("a", "a", "b"), KeyNames(), 100)
    got = measured(blocks, rows({"l2": 3}, {"l2": 4, bad: 1}, {"l2": 1}))
    assert np.isnan(got["nanwatch/grad_norm_by_block/a"])
    assert got["nanwatch/grad_norm_by_block/b"] == 1


def test_a_tensor_without_gradient_is_left_out_and_a_count_that_was_not_made_too():
    nan = float("nan")
    blocks = BlockStatistics(names("a", "a", "b"), KeyNames(), 100)
    got = measured(blocks, rows({"l2": nan, "min": nan, "max": nan, "sum": nan}, {"l2": 4, "zeros": nan}, {"l2": nan}))
    assert got["nanwatch/grad_norm_by_block/a"] == 4
    assert np.isnan(got["nanwatch/zero_share_by_block/a"])
    assert np.isnan(got["nanwatch/grad_norm_by_block/b"])


@pytest.mark.parametrize("count", [1, 2, 5, 17, 30, 44, 200, 1_000])
@pytest.mark.parametrize("budget", [8, 88])
def test_keys_stay_within_the_budget_and_every_tensor_belongs_to_one(count, budget):
    blocks = BlockStatistics(names(*[f"layers.{i}" for i in range(count)]), KeyNames(), budget)
    assert len(blocks.keys) == len(set(blocks.keys)) <= budget
    got = measured(blocks, rows(*[{"l2": 1}] * count))
    norms = [v for k, v in got.items() if k.startswith("nanwatch/grad_norm_by_block/")]
    assert round(sum(v * v for v in norms)) == count


def test_neighbours_are_merged_when_there_are_too_many():
    blocks = BlockStatistics(names(*[f"layers.{i}" for i in range(8)]), KeyNames(), 8)
    assert blocks.keys[:4] == [f"nanwatch/grad_norm_by_block/layers.{i} to layers.{i + 1}" for i in range(0, 8, 2)]


def test_a_model_of_two_blocks_has_every_statistic():
    assert len(BlockStatistics(names("0", "2"), KeyNames(), 88).keys) == 2 * len(BLOCK_STATISTICS)


def test_the_global_norm():
    assert global_grad_norm(rows({"l2": 3}, {"l2": 4}, {"l2": float("nan")})) == 5
    assert np.isnan(global_grad_norm(rows({"l2": 3}, {"l2": 4, "pos_inf": 1})))
    assert np.isnan(global_grad_norm(rows({"l2": float("nan")})))
    assert np.isnan(global_grad_norm(np.zeros((0, len(STATISTICS)), np.float32)))
