"""The load client judges everybody, so it is judged first: what it calls lost was lost."""

import json
import socket
import subprocess

import pytest

FIRST = 100_000_000_001
T0 = 1_700_000_000_000_000_000


def event(number: int) -> bytes:
    return b'id: %d\ndata: {"n":%d,"t":%d,"pad":"xxxx"}\n\n' % (number, number, T0 + number % 1000)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.fixture
def judged(built):
    """What the client says of one stream whose body comes in these writes."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def judge(writes: list[bytes], events: int, cut: int) -> dict[str, int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            argv = (built["load"], str(server.getsockname()[1]), "1", "0", str(cut), "1", "/")
            program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            with program:
                say(program, "open 1 10")
                stream, _ = server.accept()
                with stream:
                    stream.recv(4096)
                    stream.sendall(head)
                    assert hear(program)["open"] == 1
                    say(program, f"expect {events} 20 0")
                    assert hear(program) == {"armed": True}
                    for write in writes:
                        stream.sendall(write)
                    answer = hear(program)
                program.stdin.close()
        return answer

    return judge


def say(program, line):
    program.stdin.write(line.encode() + b"\n")
    program.stdin.flush()


def hear(program):
    return json.loads(program.stdout.readline())


def test_a_whole_stream_is_whole(judged):
    body = b"".join(map(event, range(FIRST, FIRST + 50)))
    answer = judged([chunked(body, len(body))], 50, 0)
    assert (answer["events"], answer["missing"], answer["repeated"]) == (50, 0, 0)


def test_a_hole_and_a_repeat_are_seen(judged):
    numbers = [FIRST, FIRST + 1, FIRST + 5, FIRST + 5, FIRST + 6]
    body = b"".join(map(event, numbers))
    answer = judged([chunked(body, len(body))], 5, 0)
    assert (answer["events"], answer["missing"], answer["repeated"]) == (5, 3, 1)


@pytest.mark.parametrize("size", [1, 7, 40, 41, 200])
def test_events_across_chunks_and_reads_are_found(judged, size):
    body = chunked(b"".join(map(event, range(FIRST, FIRST + 20))), size)
    writes = [body[at : at + 13] for at in range(0, len(body), 13)]
    answer = judged(writes, 20, 1)
    assert (answer["events"], answer["missing"], answer["repeated"]) == (20, 0, 0)
