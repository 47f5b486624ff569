"""The identity-balanced order is pure: K images of a person side by side, everyone once an epoch."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharding.plan import Plan, Stream

# Which of few people stands in each row of each shard; a shard may be empty.
shards_of_people = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4).filter(
    lambda shards: any(shards)
)
several = st.integers(2, 5)


def plan_of(shards, per_identity=3, seed=1, root_hash="hash", split="train"):
    stream = Stream(name="a", root_hash=root_hash, split=split, shard_samples=tuple(len(shard) for shard in shards))
    names = [np.array([f"source:{person}" for person in shard], dtype=object) for shard in shards]
    return Plan([stream], seed=seed, block=8, identities=[names], per_identity=per_identity)


def images_of(shards):
    """Person -> the places (shard, row) of the person's images, in packing order; people in order of their names."""
    images = {}
    for shard, people in enumerate(shards):
        for row, person in enumerate(people):
            images.setdefault(person, []).append((shard, row))
    return dict(sorted(images.items(), key=lambda item: f"source:{item[0]}"))


def person_of(place, shards):
    return shards[place[0]][place[1]]


def places(plan, positions):
    found = plan.locate(positions)
    return list(zip(found.shard.tolist(), found.row.tolist(), strict=True))


@given(shards_of_people, several, st.integers(0, 2**32), st.integers(0, 10_000))
def test_a_sample_is_found_where_its_position_put_it(shards, per_identity, seed, first):
    plan, positions = plan_of(shards, per_identity, seed), np.arange(first, first + 40)
    assert (plan.positions_of(plan.locate(positions)) == positions).all()


@given(shards_of_people, several, st.integers(0, 2**32))
def test_an_epoch_of_a_sample_counts_how_often_it_came_before(shards, per_identity, seed):
    plan, seen = plan_of(shards, per_identity, seed), Counter()
    found = plan.locate(range(6 * per_identity * len(images_of(shards))))
    for epoch, *place in zip(found.epoch.tolist(), found.shard.tolist(), found.row.tolist(), strict=True):
        assert epoch == seen[tuple(place)]
        seen[tuple(place)] += 1


@given(shards_of_people, several, st.integers(0, 1000))
def test_a_stand_in_is_of_the_same_person_while_the_group_has_others(shards, per_identity, position):
    plan = plan_of(shards, per_identity)
    group = position - position % per_identity
    tried = {plan.substitute(position, attempt) for attempt in range(per_identity - 1)}
    assert tried == set(range(group, group + per_identity)) - {position}
    another = plan.substitute(position, per_identity - 1)
    length = per_identity * len(images_of(shards))
    assert another // length == position // length


def test_groups_of_a_mixture_hold_one_person_of_one_dataset_in_proportion():
    shards = [[[0, 1, 1, 2], [3, 0]], [[0, 0, 5], [7, 8, 9, 9]]]
    streams = [
        Stream(name=name, root_hash=name, split="train", shard_samples=tuple(map(len, part)), weight=weight)
        for name, part, weight in zip("ab", shards, (3.0, 1.0), strict=True)
    ]
    people = [[np.array(rows) for rows in part] for part in shards]
    plan = Plan(streams, seed=3, block=8, identities=people, per_identity=3)
    found = plan.locate(range(3 * 8 * 5))
    assert (plan.positions_of(found) == np.arange(3 * 8 * 5)).all()
    rows = zip(found.stream.tolist(), found.shard.tolist(), found.row.tolist(), strict=True)
    whose = np.array([(stream, shards[stream][shard][row]) for stream, shard, row in rows]).reshape(-1, 3, 2)
    assert (whose == whose[:, :1]).all()
    assert all((block[:, 0, 0] == 0).sum() == 6 for block in whose.reshape(5, 8, 3, 2))


@given(shards_of_people, several, st.integers(0, 2**32), st.integers(0, 4))
def test_an_epoch_visits_everyone_once_with_k_images_side_by_side(shards, per_identity, seed, epoch):
    length = per_identity * len(images_of(shards))
    found = places(plan_of(shards, per_identity, seed), range(epoch * length, (epoch + 1) * length))
    people = [person_of(place, shards) for place in found]
    groups = [people[start : start + per_identity] for start in range(0, length, per_identity)]
    assert all(len(set(group)) == 1 for group in groups)
    assert sorted(group[0] for group in groups) == sorted(images_of(shards))


@given(shards_of_people, several, st.integers(0, 2**32))
def test_all_images_of_a_person_come_before_any_comes_again(shards, per_identity, seed):
    images = images_of(shards)
    found = places(plan_of(shards, per_identity, seed), range(8 * per_identity * len(images)))
    for person, own in images.items():
        walk = [place for place in found if person_of(place, shards) == person]
        for start in range(0, len(walk) - len(own) + 1, len(own)):
            assert sorted(walk[start : start + len(own)]) == own
    group = Counter(found[:per_identity])
    assert max(group.values()) <= 1 + per_identity // len(images[person_of(found[0], shards)])


@given(st.permutations(range(60)), st.sampled_from([1, 2, 3, 7, 60]))
def test_a_position_means_the_same_sample_however_positions_are_asked_for(order, parts):
    plan, again = (plan_of([[0, 1, 1, 2], [], [3, 0, 2, 2, 2]]) for _ in range(2))
    whole = places(plan, range(60))
    assert places(again, order) == [whole[position] for position in order]
    split = [place for part in np.array_split(np.arange(60), parts) for place in places(again, part)]
    assert split == whole


def test_epochs_and_cycles_differ():
    shards = [list(range(6)) * 5]
    found = places(plan_of(shards, per_identity=5), range(90))
    people = [[person_of(place, shards) for place in found[start : start + 30 : 5]] for start in (0, 30, 60)]
    assert people[0] != people[1] != people[2]
    walks = [[place for place in found[start : start + 30] if person_of(place, shards) == 0] for start in (0, 30, 60)]
    assert walks[0] != walks[1] != walks[2]


def test_the_hash_follows_everything_that_decides_the_order():
    shards = [[0, 1, 1], [2]]
    plan = plan_of(shards)
    assert plan.hash == plan_of(shards).hash
    others = [
        plan_of(shards, per_identity=2),
        plan_of(shards, seed=2),
        plan_of(shards, root_hash="other"),
        plan_of(shards, split="val"),
        plan_of([[0, 1, 1], [2, 2]]),
        plan_of([[0, 0, 1], [2]]),
    ]
    assert len({plan.hash, *(other.hash for other in others)}) == 7


def test_the_order_is_frozen_across_releases():
    found = places(plan_of([[0, 1, 1, 2], [3, 0, 2, 2]], per_identity=2, seed=7), range(12))
    first = [(0, 2), (0, 1), (1, 0), (1, 0), (1, 3), (1, 2), (0, 0), (1, 1)]  # people 1, 3 (one image), 2, 0
    assert found == [*first, (1, 0), (1, 0), (0, 3), (1, 2)]
