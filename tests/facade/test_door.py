"""Who begins, who waits and who is turned away, turn by turn of a loop that the test turns."""

import asyncio

from fakes.fake_turns import FakeTurns

from quillgate_facade.door import (
    BURST_S,
    CROWD,
    LEAST_SHARE,
    MAX_WAIT_S,
    MAX_WAITING_BYTES,
    REFUSAL_COST,
    SHORT_LINE,
    SHORT_TURN_CPU_S,
    TURN_CPU_S,
    Door,
)

#: What a request costs in most of these tests.
COST_S = 0.0005


class Guest:
    """A visitor that notes when it was let in."""

    def __init__(self, name: int, let_in: list[int]) -> None:
        self.waiting_bytes = 100
        self._name = name
        self._let_in = let_in

    def let_in(self) -> None:
        self.waiting_bytes = 0
        self._let_in.append(self._name)


class Hall:
    """A door, its loop, and guests that come to it by number."""

    def __init__(self) -> None:
        self.turns = FakeTurns()
        self.door = Door(self.turns, self.turns.cpu_time)
        self.began: list[int] = []
        self.guests: list[Guest] = []
        self.away = 0
        self.start_s = self.turns.now_s
        self._served = 0

    def waiting(self) -> int:
        """How many are in line."""
        return len(self.guests) - len(self.began)

    def come(self, count: int) -> None:
        """So many come in this turn."""
        for _ in range(count):
            guest = Guest(len(self.guests), self.began)
            if self.door.enter():
                self.guests.append(guest)
                guest.let_in()
            elif self.door.is_shut():
                self.door.note_refusal()
                self.away += 1
            else:
                self.guests.append(guest)
                self.door.line_up(guest)

    def turn(self, cost_s: float = COST_S, *, besides_s: float = 0.0) -> int:
        """Turns the loop after it has served who began in this turn, at least for 1 ms; returns how many those were."""
        served = len(self.began) - self._served
        self._served = len(self.began)
        work_s = max(served * cost_s + besides_s, 0.001)
        self.turns.turn(after_s=work_s, cpu_s=work_s)
        return served


def test_few_begin_at_once() -> None:
    """Requests that come a few at a time never wait."""
    hall = Hall()
    for turn in range(50):
        hall.come(4)
        assert len(hall.began) == 4 * (turn + 1)
        hall.turn()


def test_a_crowd_is_let_in_turn_by_turn() -> None:
    """Of many that come together some begin, the others follow in their order, as many a turn as keep it short."""
    hall = Hall()
    hall.come(600)
    assert 0 < len(hall.began) < 100
    shares = []
    while len(hall.began) < 600:
        shares.append(hall.turn())
    assert hall.began == list(range(600))
    assert set(shares[40:]) <= {9, 10}


def test_costly_requests_begin_one_by_one() -> None:
    """When one request is more than a turn's work, a turn begins one; when they get cheap, it begins many again."""
    hall = Hall()
    hall.come(2000)
    assert [hall.turn(0.02) for _ in range(50)][-1] == 1
    assert max(hall.turn(0.0002) for _ in range(200)) > 15


def test_nobody_overtakes() -> None:
    """Who comes while there is a line goes to its end, even at the beginning of a turn."""
    hall = Hall()
    hall.come(100)
    hall.turn()
    hall.come(1)
    while len(hall.began) < 101:
        hall.turn()
    assert hall.began == list(range(101))


def test_a_crowd_that_comes_at_once_is_no_overload() -> None:
    """A thousand may come at once, on a slow machine too, where it takes some time until all are there."""
    hall = Hall()
    hall.come(CROWD)
    assert hall.away == 0
    hall = Hall()
    while len(hall.guests) + hall.away < CROWD:
        hall.come(CROWD // 8)
        hall.turn(3 * COST_S)
    assert hall.away == 0


def test_a_crowd_has_an_end() -> None:
    """Of many thousands most are told at once to come back later: those who joined would wait for longer otherwise."""
    hall = Hall()
    hall.come(5000)
    assert hall.waiting() == CROWD


def test_clients_that_wait_for_their_answers_are_no_overload() -> None:
    """As many clients as a short line holds, each with one request at a time, are never turned away, however slow."""
    hall = Hall()
    hall.come(SHORT_LINE)
    for _ in range(3000):
        hall.come(hall.turn(0.05))
    assert hall.away == 0


def test_three_times_too_many() -> None:
    """What the loop cannot do is turned away, what it can do is done, in short turns and after no long wait."""
    hall = Hall()
    came, served = 0, 0
    for turn in range(2000):
        crowd = int((hall.turns.now_s - hall.start_s) * 3 / COST_S) - came
        hall.come(crowd)
        came += crowd
        before_s = hall.turns.now_s
        served += hall.turn()
        assert turn < 100 or hall.turns.now_s - before_s < 0.01
    assert served > 0.95 * (hall.turns.now_s - hall.start_s) / COST_S
    assert 0.6 < hall.away / came < 0.7
    assert hall.waiting() < SHORT_LINE + 1.2 * MAX_WAIT_S / COST_S


def test_a_line_that_stands_is_as_long_as_it_may_be() -> None:
    """On a fast machine too: nobody joins it when that is too long a wait, also when those before came in one burst.

    Turns are short meanwhile, since who is turned away waits for them.
    """
    hall = Hall()
    cost_s = COST_S / 5
    came = 0
    lengths: list[int] = []
    shares: list[int] = []
    while hall.turns.now_s - hall.start_s < 3:
        crowd = int((hall.turns.now_s - hall.start_s) * 3 / cost_s) - came
        hall.come(crowd)
        came += crowd
        lengths.append(hall.waiting())
        shares.append(hall.turn(cost_s))
    standing = lengths[len(lengths) // 3 :]
    assert 0.7 * MAX_WAIT_S / cost_s < min(standing)
    assert max(standing) < 1.2 * MAX_WAIT_S / cost_s
    assert max(shares[len(shares) // 3 :]) * cost_s < (SHORT_TURN_CPU_S + TURN_CPU_S) / 2


def test_clients_that_come_back_at_once() -> None:
    """Hundreds who ask again as soon as they are turned away do not keep the others from being served."""
    hall = Hall()
    hall.come(SHORT_LINE)
    hall.turns.turn(after_s=BURST_S * 1.1)
    start_s, served = hall.turns.now_s, 0
    for _ in range(500):
        hall.come(300)
        served += hall.turn(besides_s=300 * REFUSAL_COST * COST_S)
    assert hall.away > 100_000
    assert served * COST_S > 0.6 * (hall.turns.now_s - start_s)


def test_a_slow_machine_serves_a_few_at_a_time() -> None:
    """Where a turn would hold less, it serves eight while others are turned away, and takes up to twice as long."""
    hall = Hall()
    cost_s = TURN_CPU_S / 5
    for _ in range(300):
        hall.come(10)
        hall.turn(cost_s)
    assert hall.away
    for _ in range(100):
        hall.come(10)
        assert hall.turn(cost_s) == LEAST_SHARE
    slower_s = TURN_CPU_S / 2
    for _ in range(100):
        hall.come(10)
        served = hall.turn(slower_s)
    assert served in (3, 4)


def test_the_door_opens_again() -> None:
    """When the crowd has stopped coming, the line is served to its end and new requests begin at once."""
    hall = Hall()
    hall.come(SHORT_LINE * 3)
    hall.turns.turn(after_s=BURST_S * 1.1)
    hall.come(1)
    assert hall.away == 1
    while hall.waiting():
        hall.turn()
    hall.turn()
    hall.come(1)
    assert (hall.away, hall.waiting()) == (1, 0)
    hall.come(CROWD)
    assert hall.away == 1


def test_what_waits_is_bounded_in_bytes() -> None:
    """A line that has sent too much takes nobody in, however short it is."""
    hall = Hall()
    hall.come(100)
    hall.door.waiting_bytes = MAX_WAITING_BYTES
    assert not hall.door.is_shut()
    hall.door.waiting_bytes += 1
    assert hall.door.is_shut()


def test_who_has_gone_takes_no_place() -> None:
    """Visitors that left the line cost nothing when their turn comes: the next ones begin instead."""
    hall = Hall()
    hall.come(200)
    in_line = len(hall.began)
    for guest in hall.guests[in_line:190]:
        guest.waiting_bytes = 0
    while len(hall.began) < in_line + 5:
        hall.turn()
    assert hall.began[in_line:] == list(range(190, 190 + len(hall.began) - in_line))


def test_slow_providers_are_no_overload() -> None:
    """Ten thousand requests that wait for their providers do no work here, and keep nobody at the door."""
    hall = Hall()
    for _ in range(2500):
        hall.come(4)
        hall.turn()
    assert len(hall.began) == 10_000
    hall.come(4)
    assert len(hall.began) == 10_004


def test_running_streams_take_their_part_first() -> None:
    """While streams take most of a turn, fewer requests begin in it."""
    hall = Hall()
    hall.come(900)
    shares = [hall.turn(besides_s=0.004) for _ in range(100)]
    assert 1 <= shares[-1] <= 3


async def test_empty_waits_for_the_line() -> None:
    """A stop can wait until everybody who was in line has begun."""
    loop = asyncio.get_running_loop()
    door = Door(loop)
    began: list[int] = []
    while door.enter():
        pass
    for name in range(20):
        door.line_up(Guest(name, began))
    await door.empty()
    assert began == list(range(20))
