"""Which images are chosen: by rank, by distance, and not all of one street corner."""

from collections.abc import Sequence

import numpy as np

from cag_uda.prediction.choosing import Candidates, choose, ranks

NONE = np.empty((0, 2))


def candidates(
    values: Sequence[float], looks: Sequence[Sequence[float]], keys: list[str]
) -> Candidates:
    return Candidates(keys, {"uncertainty": np.array(values)}, np.array(looks, float))


def test_ranks_are_shares_of_the_others() -> None:
    assert ranks(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert ranks(np.array([5.0, 5.0])).tolist() == [0.5, 0.5]
    assert ranks(np.array([7.0])).tolist() == [0.0]


def test_without_diversity_the_highest_are_chosen() -> None:
    few = candidates([0.1, 0.9, 0.5], [[0, 0]] * 3, ["a", "b", "c"])
    chosen = choose(few, 2, ["uncertainty"], NONE)
    assert [each.number for each in chosen] == [1, 2]
    assert [each.merit for each in chosen] == [1.0, 0.5]
    assert chosen[0].apart is None


def test_diversity_alone_is_greedy_facility_location() -> None:
    """Each chosen image brings all images nearest, in sum; an outlier stands for itself alone."""
    looks = np.random.default_rng(0).normal(size=(30, 3))
    looks[7] = 50.0
    few = Candidates([f"{number} a" for number in range(30)], {}, looks)
    got = [each.number for each in choose(few, 4, ["diversity"], NONE[:, :0])]
    wanted: list[int] = []
    for _ in range(4):
        sums = [
            float(
                sum(min(np.linalg.norm(row - looks[i]) for i in [*wanted, index]) for row in looks)
            )
            for index in range(30)
        ]
        wanted.append(int(np.argmin(sums)))
    assert got == wanted
    assert got[0] != 7


def test_what_is_labelled_is_stood_for_and_the_nearest_is_told() -> None:
    looks: list[list[float]] = [[0, 0], [1, 0], [10, 0], [10, 1], [0.5, 0]]
    few = candidates([0] * 5, looks, ["a", "b", "c", "d", "e"])
    first, second = choose(few, 2, ["diversity"], NONE)
    assert (first.number, first.apart, first.nearest) == (1, None, None)
    assert second.number == 2
    assert second.apart == 9
    assert second.nearest == 1
    after = choose(few, 1, ["diversity"], np.array([[10.0, 0.5]]), ["z"])
    assert after[0].number == 4
    assert after[0].nearest is None


def test_an_image_like_a_chosen_one_waits_though_its_value_is_high() -> None:
    few = candidates([1.0, 0.9, 0.5, 0.1], [[0, 0], [0.01, 0], [5, 0], [5, 1]], list("abcd"))
    assert [each.number for each in choose(few, 2, ["uncertainty", "diversity"], NONE)] == [0, 2]


def test_frames_that_follow_each_other_are_not_both_chosen() -> None:
    keys = [f"drive/{number}" for number in range(40)]
    rng = np.random.default_rng(0)
    few = Candidates(keys, {"uncertainty": np.arange(40.0)}, rng.normal(size=(40, 3)))
    chosen = sorted(
        each.number for each in choose(few, 5, ["uncertainty", "diversity"], NONE[:, :0])
    )
    assert min(np.diff(chosen)) >= 4
    other = Candidates(
        [f"{place}/{number}" for place in "ab" for number in range(20)], few.values, few.looks
    )
    assert len(choose(other, 40, ["diversity"], NONE[:, :0])) == 40


def test_random_is_decided_by_the_seed_alone() -> None:
    few = candidates([0.0] * 9, [[0, 0]] * 9, list("abcdefghi"))
    first, again, other = (
        [each.number for each in choose(few, 4, ["random"], NONE, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
