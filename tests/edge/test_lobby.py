"""The lobby: who has to go when it is full, and that it is told once."""

import pytest

from lebureau_relay.edge.lobby import MIN_WAITING, Lobby


class Person:
    def __init__(self):
        self.dropped = False

    def drop(self):
        self.dropped = True


class House:
    """A lobby that may hold `most`, and what it told."""

    def __init__(self, most=MIN_WAITING):
        self.most = most
        self.now_s = 100.0
        self.told = []
        self.lobby = Lobby(
            lambda: self.most, lambda first, most: self.told.append((first, most)), self.clock
        )

    def clock(self):
        return self.now_s

    def come(self, count=1):
        people = [Person() for _ in range(count)]
        for one in people:
            self.lobby.enter(one)
        return people


@pytest.fixture
def house():
    return House()


def test_the_longest_silent_goes_first(house):
    people = house.come(MIN_WAITING)
    house.lobby.begin(people[0])
    house.lobby.begin(people[2])
    house.lobby.end(people[2])  # it has said something later than all the others
    house.come(2)
    assert [n for n, one in enumerate(people) if one.dropped] == [1, 3]
    assert len(house.lobby) == MIN_WAITING


def test_room_that_shrinks_below_those_being_answered_costs_the_newcomer_alone(house):
    house.most = MIN_WAITING + 10
    people = house.come(house.most)
    for one in people:
        house.lobby.begin(one)
    house.most = MIN_WAITING  # streams have taken the descriptors meanwhile
    (late,) = house.come()
    assert late.dropped
    assert not any(one.dropped for one in people)
    assert len(house.told) == 1


def test_who_is_being_answered_stays_and_the_newcomer_goes(house):
    people = house.come(MIN_WAITING)
    for one in people:
        house.lobby.begin(one)
    (late,) = house.come()
    assert late.dropped
    assert not any(one.dropped for one in people)


def test_a_stream_has_left_and_stays_away(house):
    (one,) = house.come()
    house.lobby.begin(one)
    house.lobby.leave(one)
    house.lobby.end(one)
    house.lobby.leave(one)
    assert len(house.lobby) == 0


def test_room_may_shrink_and_never_vanishes(house):
    house.most = 200
    people = house.come(200)
    house.most = -5  # streams have taken all there is
    house.come()
    assert len(house.lobby) == MIN_WAITING
    assert sum(one.dropped for one in people) == 201 - MIN_WAITING


def test_every_drop_is_told_and_one_a_minute_is_to_be_written(house):
    house.come(MIN_WAITING + 3)
    assert house.told == [(True, MIN_WAITING)] + [(False, MIN_WAITING)] * 2
    house.now_s += 60
    house.come()
    assert house.told[-1] == (True, MIN_WAITING)
