"""A mutator without a memory: bytes from seeds, bent until something breaks.

What a target returns for an input is its outcome; an input with a new one joins the seeds, so that
the search follows what the code does without measuring how. Plain and seeded, because a find has to
be found again: a failure carries its input.
"""

import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

Check = Callable[[bytes], Hashable]

# Of inputs that showed something new; more only dilute the seeds.
_MOST_KEPT = 2000
_LONGEST_BYTES = 12_000  # past every limit on one line
_ODD = [b"\0", b"\r", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b" ", b"\t", b":"]


@dataclass(frozen=True)
class Target:
    """One entry point. `invariant` is its one line; `check` asserts it and returns the outcome."""

    name: str
    invariant: str
    check: Check
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()


class Found(AssertionError):  # noqa: N818 - it is what fuzzing is for
    """An input that breaks an invariant."""

    def __init__(self, target: Target, data: bytes, error: BaseException) -> None:
        super().__init__(f"{target.name}: {target.invariant}\nbroken by {data!r}\n{error!r}")
        self.data = data


def fuzz(target: Target, seed: int, inputs: int = 0, seconds: float = 0.0) -> int:
    """Try so many inputs, or for so long; how many. Raises Found."""
    rng = random.Random(seed)
    tried = 0
    ends_s = time.monotonic() + seconds
    for _ in _inputs(target, rng):
        tried += 1
        if (inputs and tried > inputs) or (seconds and time.monotonic() > ends_s):
            break
    return tried


def _inputs(target: Target, rng: random.Random) -> Iterator[bytes]:
    corpus = list(target.seeds)
    known = {_outcome(target, data) for data in corpus}
    while True:
        data = _mutated(rng, corpus, target.words)
        outcome = _outcome(target, data)
        if outcome not in known and len(corpus) < _MOST_KEPT:
            known.add(outcome)
            corpus.append(data)
        yield data


def _outcome(target: Target, data: bytes) -> Hashable:
    try:
        return target.check(data)
    except Exception as error:
        raise Found(target, data, error) from error


def _mutated(rng: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 64)))
        match rng.randint(0, 6):
            case 0:
                data[start:end] = rng.choice(_ODD)
            case 1 | 2:
                data[start:end] = rng.choice(words or _ODD)
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = data[start:end] * rng.choice((1, 2, 50))
            case 5:
                other = rng.choice(corpus)
                data[start:] = other[rng.randint(0, len(other)) :]
            case _:
                data[start:end] = rng.randbytes(rng.randint(1, 4))
    return bytes(data[:_LONGEST_BYTES])
