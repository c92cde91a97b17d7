"""A socket to one client, as asyncio's transports describe it and uvloop keeps it.

It holds what the tests are about: a kernel buffer that takes only so much, a write buffer with
limits, `pause_writing` called in the middle of `write`, `resume_writing` and `connection_lost` in
turns of their own, `close` that waits for a peer that may never read, `abort` that doesn't, and a
dead handle that can't be written to.
"""

import asyncio
from collections.abc import Callable
from typing import Any

# Some hundred frames of the tests; real listeners here have tens of KiB.
KERNEL_BYTES = 32 * 1024


class Wire(asyncio.Transport):
    """Both ends of one connection: the relay writes, the client reads when it pleases.

    `cost_s` is how far the clock moves with each write. `deliver` gets what the client reads.
    """

    def __init__(
        self,
        deliver: Callable[[bytes], None],
        *,
        kernel_bytes: int = KERNEL_BYTES,
        reading: bool = True,
        cost_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.reading = reading  # the client reads whatever comes
        self.writes: list[bytes] = []  # each call of `write`
        self.aborted = False
        self.finished = False  # the client has seen an orderly end
        self.lost = False  # connection_lost has been called
        self.cost_s = cost_s
        self.protocol: asyncio.Protocol
        self._loop: Any = asyncio.get_running_loop()
        self._deliver = deliver
        self._kernel_bytes = kernel_bytes
        self._kernel = bytearray()
        self._unsent = bytearray()
        self._high, self._low = 64 * 1024, 16 * 1024
        self._protocol_paused = False
        self._closing = False
        self._dropping = False  # connection_lost is on its way: what is written goes nowhere

    # -- the relay's side

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._ensure_alive()
        assert high is not None
        self._high, self._low = high, high // 4 if low is None else low
        self._maybe_pause()

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._ensure_alive()
        assert isinstance(data, bytes), "the same bytes go to everybody, so nobody may change them"
        if self._dropping or not data:
            return
        self._loop.now_s += self.cost_s
        self.writes.append(data)
        at_once = not self._protocol_paused and not self._unsent
        self._unsent += data
        if at_once:
            self._fill_kernel()
        if self._unsent:
            self._maybe_pause()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._unsent:
            self._lose(None)

    def abort(self) -> None:
        self.aborted = True
        self._force_close(None)

    # -- the client's side

    def stall(self) -> None:
        """Stop reading: the kernel's buffer fills, then the transport's."""
        self.reading = False

    def resume(self) -> None:
        """Read everything, now and from now on."""
        self.reading = True
        self._loop.call_soon(self._read)

    def take(self, size_bytes: int) -> None:
        """Read so much, once."""
        self._read(size_bytes)

    def say(self, data: bytes) -> None:
        """Send something to the relay, which didn't ask."""
        if not self._closing:
            self.protocol.data_received(data)

    def half_close(self) -> None:
        """A FIN, from a client that still reads."""
        if not self._closing and not self.protocol.eof_received():
            self.close()

    def hang_up(self) -> None:
        """A FIN from a client that is gone: what is still sent to it is answered by a reset."""
        self.reading = False
        self.half_close()
        if self._unsent:
            self._force_close(ConnectionResetError())

    # -- between them

    def _fill_kernel(self) -> None:
        room = self._kernel_bytes - len(self._kernel)
        if room > 0 and self._unsent:
            self._kernel += self._unsent[:room]
            del self._unsent[:room]
            if self.reading:
                self._loop.call_soon(self._read)

    def _read(self, size_bytes: int | None = None) -> None:
        if not self.reading and size_bytes is None:
            return
        size_bytes = len(self._kernel) if size_bytes is None else size_bytes
        data = bytes(self._kernel[:size_bytes])
        del self._kernel[:size_bytes]
        if data:
            self._deliver(data)
        if self.lost:
            self.finished = not self.aborted and not self._kernel
        elif self._unsent:
            self._loop.call_soon(self._writable)

    def _writable(self) -> None:
        if self.lost or self._dropping:
            return
        self._fill_kernel()
        if self._protocol_paused and len(self._unsent) <= self._low:
            self._protocol_paused = False
            self._tell(self.protocol.resume_writing)
        if not self._unsent and self._closing:
            self._lose(None)

    def _maybe_pause(self) -> None:
        if not self._protocol_paused and len(self._unsent) > self._high:
            self._protocol_paused = True
            self._tell(self.protocol.pause_writing)

    def _tell(self, callback: Callable[[], object]) -> None:
        """Both loops swallow what these two raise, and say so to the exception handler."""
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - as the loop does
            message = f"protocol.{callback.__name__}() failed"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _force_close(self, error: Exception | None) -> None:
        if self._dropping or self.lost:
            return
        self._closing = True
        self._unsent.clear()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._dropping:
            self._dropping = True
            self._loop.call_soon(self._connection_lost, error)

    def _connection_lost(self, error: Exception | None) -> None:
        self.protocol.connection_lost(error)
        self.lost = True
        if self.aborted:
            self._kernel.clear()  # a reset overtakes what the client has not read
        elif self.reading:
            self._read()

    def _ensure_alive(self) -> None:
        if self.lost:
            message = "unable to perform operation: the handler is closed"
            raise RuntimeError(message)
