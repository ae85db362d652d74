"""A client for thousands of requests at once in one thread: sockets that do not block, epoll, timers. It only gathers
bytes and times while the load runs; texts are read out of them afterwards, so that the daemon's two cores are not
shared with a JSON parser."""
import errno
import heapq
import json
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
from lib import parse_sse  # noqa: E402

LINGER_0 = struct.pack("ii", 1, 0)


class Call:
    """One request on a connection of its own. state: open, done (the answer is whole), cut (by us), broken (by the
    other side)."""
    __slots__ = ("sock", "out", "data", "head", "whole", "start", "first", "end", "state", "tag", "times", "tokens",
                 "on_token", "on_end")

    def status(self):
        return int(self.data[9:12]) if len(self.data) > 12 else 0

    def body(self):
        """The bytes of a whole answer, chunks put together."""
        head, data = bytes(self.data[:self.head]), bytes(self.data[self.head:])
        if b"chunked" not in head:
            return data
        parts, at = [], 0
        while True:
            end = data.index(b"\r\n", at)
            n = int(data[at:end], 16)
            if not n:
                return b"".join(parts)
            parts.append(data[end + 2:end + 2 + n])
            at = end + 4 + n

    def events(self):
        """The JSON objects of an answer, stream or not, and whether it came to its proper end."""
        if self.state != "done":
            return [], False
        if b"text/event-stream" in self.data[:self.head]:
            return parse_sse(self.body())
        return [json.loads(self.body())], True

    def error(self):
        """The code of an error, also of one inside a stream; None."""
        events, done = self.events()
        codes = [e["error"]["code"] for e in events if "error" in e]
        return codes[0] if codes else None if done else "unfinished"

    def answers(self, key="text"):
        """What every choice holds under key, in order, or None when there is an error."""
        if self.error() or self.status() != 200:
            return None
        whole = {}
        for e in self.events()[0]:
            for c in e["choices"]:
                if c.get(key):
                    whole[c["index"]] = whole[c["index"]] + c[key] if c["index"] in whole else c[key]
        return [whole[i] for i in sorted(whole)]


class Client:
    """nap: seconds between two looks at the sockets. gather: bytes of an answer that are read at once; fewer at its end
    only. Both gather many tokens in one read, which costs less, but their times are then of no use."""

    def __init__(self, host, port, nap=0.0, gather=1):
        self.address = (host, port)
        self.nap, self.gather = nap, gather
        self.epoll = select.epoll()
        self.calls = {}  # descriptor -> Call
        self.timers = []  # (when, number, function)
        self.n = self.most = 0

    def close(self):
        for c in list(self.calls.values()):
            self.cut(c, False)
        self.epoll.close()

    def at(self, when, fn):
        self.n += 1
        heapq.heappush(self.timers, (when, self.n, fn))

    def post(self, body, path="/v1/completions", headers="", send=None, **more):
        """send: so many bytes of the request only (a client that leaves while it speaks). more: of raw."""
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        out = ("POST %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n%sContent-Type: "
               "application/json\r\nContent-Length: %d\r\n\r\n" % (
            path, headers, len(raw))).encode() + raw
        return self.raw(out if send is None else out[:send], **more)

    def raw(self, out, tag=None, times=False, on_token=None, on_end=None):
        """These bytes on a connection of their own; one answer is read."""
        c = Call()
        c.sock, c.out, c.data = socket.socket(), out, bytearray()
        c.head, c.whole = 0, None
        c.start, c.first, c.end, c.state, c.tag, c.tokens = time.monotonic(), None, None, "open", tag, 0
        c.times, c.on_token, c.on_end = [] if times else None, on_token, on_end
        c.sock.setblocking(False)
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self.gather)
        e = c.sock.connect_ex(self.address)
        self.calls[c.sock.fileno()] = c
        self.most = max(self.most, len(self.calls))
        self.epoll.register(c.sock.fileno(), select.EPOLLOUT if out else select.EPOLLIN)
        if e not in (0, errno.EINPROGRESS):
            self.over(c, "broken")
        return c

    def say(self, c, more):
        """Further bytes of a request whose first ones are sent."""
        if c.state == "open":
            c.out += more
            self.epoll.modify(c.sock.fileno(), select.EPOLLOUT)

    def hush(self, c):
        """Nothing of its answer is read from now on, but by read."""
        if c.state == "open":
            self.epoll.modify(c.sock.fileno(), 0)

    def over(self, c, state):
        if c.state != "open":
            return
        del self.calls[c.sock.fileno()]
        self.epoll.unregister(c.sock.fileno())
        c.sock.close()
        c.state, c.end = state, time.monotonic()
        if c.on_end:
            c.on_end(c)

    def cut(self, c, reset):
        if c.state == "open":
            if reset:
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            self.over(c, "cut")

    def write(self, c):
        try:
            c.out = c.out[c.sock.send(c.out):]
        except BlockingIOError:
            return
        except OSError:
            return self.over(c, "broken")
        if not c.out:
            self.epoll.modify(c.sock.fileno(), select.EPOLLIN)

    def read(self, c, now, most=1 << 18):
        try:
            got = c.sock.recv(most)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            return self.over(c, "broken")
        c.data += got
        if not c.head:
            c.head = c.data.find(b"\r\n\r\n") + 4
            if c.head < 4:
                c.head = 0
                return
            head = bytes(c.data[:c.head]).lower()
            at = head.find(b"content-length: ")
            c.whole = None if at < 0 else c.head + int(head[at + 16:head.index(b"\r", at)])
            got = bytes(c.data[c.head:])
        n = got.count(b"data: {")
        if n:
            c.first = c.first or now
            c.tokens += n
            if c.times is not None:
                c.times += [now] * n
            if c.on_token:
                c.on_token(c)
        if c.state == "open" and (len(c.data) >= c.whole if c.whole is not None else c.data.endswith(b"\r\n0\r\n\r\n")):
            c.first = c.first or now
            self.over(c, "done")

    def step(self, wait=0.05):
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()
        if self.timers:
            wait = min(wait, max(self.timers[0][0] - now, 0))
        for fd, mask in self.epoll.poll(wait, 4096):
            c = self.calls.get(fd)
            if not c:
                continue
            if c.out and mask & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
                self.write(c)
            elif mask & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                self.read(c, time.monotonic())
        if self.nap:
            time.sleep(self.nap)

    def run(self, until=None, seconds=600):
        """Until nothing is open (or until() holds). False when that took too long; what is open then is cut."""
        end = time.monotonic() + seconds
        while not until() if until else self.calls:
            if time.monotonic() > end:
                for c in list(self.calls.values()):
                    self.cut(c, True)
                return False
            self.step()
        return True
