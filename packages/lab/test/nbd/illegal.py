# A script for nbdsh, given on its standard input: requests that no client should send. `socket_path`, `read_only_name`
# and `size` come with another -c. Each case is one line of JSON on the standard output: what it is, how it was answered, and
# whether the connection went on. What an answer has to be is the business of illegal.test.ts.

import errno
import json
import socket
import struct

NBDMAGIC, IHAVEOPT, OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST, SIMPLE, STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
GO, LIST, STRUCTURED_REPLY, SET_META = 7, 3, 8, 10


def say(case, answer, goes_on):
    print(json.dumps({"case": case, "answer": answer, "goesOn": goes_on}), flush=True)


# ---- What libnbd sends when it is not strict.


def connect(name="", structured=True):
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.set_request_structured_replies(structured)
    if structured:
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_unix(socket_path)
    handle.set_strict_mode(0)
    return handle


def answer_of(call):
    try:
        call()
        return "ok"
    except nbd.Error as error:
        return errno.errorcode.get(error.errnum, error.string)


def goes_on(handle):
    try:
        return len(handle.pread(512, 0)) == 512
    except nbd.Error:
        return False


def run(title, handle, cases):
    for case, call in cases.items():
        say(f"{title}: {case}", answer_of(call), goes_on(handle))
    handle.shutdown()


def extents(*_):
    return 0


h = connect()
far = 2**63 - 512
run(
    "past the end",
    h,
    {
        "read across": lambda: h.pread(1024, size - 512),
        "read after": lambda: h.pread(512, size),
        "read far": lambda: h.pread(512, far),
        "write across": lambda: h.pwrite(b"x" * 1024, size - 512),
        "write after": lambda: h.pwrite(b"x" * 512, size + 512),
        "write far": lambda: h.pwrite(b"x" * 512, far),
        "zero across": lambda: h.zero(1024, size - 512),
        "zero far": lambda: h.zero(512, far),
        "trim across": lambda: h.trim(1024, size - 512),
        "trim far": lambda: h.trim(512, far),
        "cache across": lambda: h.cache(1024, size - 512),
        "status across": lambda: h.block_status(1024, size - 512, extents),
        "status far": lambda: h.block_status(512, far, extents),
    },
)
h = connect()
run(
    "zero length",
    h,
    {
        "read": lambda: h.pread(0, 0),
        "write": lambda: h.pwrite(b"", 0),
        "trim": lambda: h.trim(0, 0),
        "zero": lambda: h.zero(0, 0),
        "cache": lambda: h.cache(0, 0),
        "status": lambda: h.block_status(0, 0, extents),
    },
)
h = connect()
run(
    "flags",
    h,
    {
        "unknown, read": lambda: h.pread(512, 0, 0x4000),
        "unknown, write": lambda: h.pwrite(b"x" * 512, 0, 0x4000),
        "unknown, flush": lambda: h.flush(0x4000),
        "unknown, trim": lambda: h.trim(512, 0, 0x4000),
        "no hole, read": lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE),
        "no hole, trim": lambda: h.trim(512, 0, nbd.CMD_FLAG_NO_HOLE),
        "fast zero, write": lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FAST_ZERO),
        "df, write": lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_DF),
        "one extent, read": lambda: h.pread(512, 0, nbd.CMD_FLAG_REQ_ONE),
    },
)
h = connect()
run("whole replies", h, {"small read": lambda: h.pread(65536, 0, nbd.CMD_FLAG_DF)})
h = connect(structured=False)
run("simple replies", h, {"df, read": lambda: h.pread(512, 0, nbd.CMD_FLAG_DF)})
h = connect(structured=False)
run("simple replies", h, {"status": lambda: h.block_status(512, 0, extents)})

h = connect()
h.pwrite(b"abcdefgh", 1021)
h.trim(3, 1)
h.zero(3, 1023)
run("bytes", h, {"unaligned": lambda: h.pread(7, 1020)})
h = connect()
say("bytes: what was written unaligned", h.pread(8, 1021).decode("latin1"), goes_on(h))
h.shutdown()

h = connect(read_only_name)
run(
    "read-only",
    h,
    {
        "write": lambda: h.pwrite(b"x" * 512, 0),
        "zero": lambda: h.zero(512, 0),
        "trim": lambda: h.trim(512, 0),
        "flush": lambda: h.flush(),
        "read": lambda: h.pread(512, 0),
    },
)


# ---- What libnbd never sends: by hand.


class Wire:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(socket_path)
        assert struct.unpack(">QQ", self.get(16)) == (NBDMAGIC, IHAVEOPT)
        self.get(2)
        self.socket.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes

    def get(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def option(self, number, data=b"", length=None, magic=IHAVEOPT):
        """Sends an option, and returns what the last reply to it says, or that there was none."""
        try:
            given = len(data) if length is None else length
            self.socket.sendall(struct.pack(">QII", magic, number, given) + data)
            while True:
                reply_magic, answered, kind, rest = struct.unpack(">QIII", self.get(20))
                assert reply_magic == OPTION_REPLY and answered == number
                self.get(rest)
                if kind == 1:
                    return "ack"
                if kind >> 31:
                    return f"error {kind & 0x7FFFFFFF}"
        except TimeoutError:
            return "silence"
        except (EOFError, OSError):
            return "closed"

    def go(self, name=b""):
        return self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))

    def request(self, kind, offset=0, length=0, flags=0, data=b"", magic=REQUEST):
        """Sends a request and returns the error of its simple reply."""
        try:
            self.socket.sendall(struct.pack(">IHHQQI", magic, flags, kind, 7, offset, length) + data)
            reply_magic, error, cookie = struct.unpack(">IIQ", self.get(16))
            assert reply_magic == SIMPLE and cookie == 7
            if error == 0 and kind == READ:
                self.get(length)
            return errno.errorcode[error] if error else "ok"
        except TimeoutError:
            return "silence"
        except (EOFError, OSError):
            return "closed"

    def goes_on(self):
        return self.request(READ, 0, 512) == "ok"


def transmission():
    wire = Wire()
    assert wire.go() == "ack"
    return wire


def by_hand(case, **request):
    wire = transmission()
    answer = wire.request(**request)
    say(f"by hand: {case}", answer, wire.goes_on())
    wire.socket.close()


for number in (8, 9, 77, 0xFFFF):
    by_hand(f"command {number}", kind=number)
by_hand("read of 4 GiB", kind=READ, length=0xFFFFFFFF)
by_hand("read of 64 MiB and a byte", kind=READ, length=(64 << 20) + 1)
by_hand("read that wraps around", kind=READ, offset=2**64 - 512, length=1024)
by_hand("trim that wraps around", kind=TRIM, offset=2**64 - 512, length=1024)
by_hand("zeroes of 4 GiB", kind=ZEROES, length=0xFFFFFFFF)
by_hand("zeroes that wrap around", kind=ZEROES, offset=2**64 - 512, length=1024)
by_hand("write that wraps around", kind=WRITE, offset=2**64 - 512, length=1024, data=b"x" * 1024)
by_hand("flush with a range", kind=FLUSH, offset=512, length=512)
by_hand("write of 48 MiB", kind=WRITE, length=48 << 20, data=bytes(48 << 20))
by_hand("wrong magic", kind=READ, length=512, magic=0xDEADBEEF)


def negotiation(case, call):
    wire = Wire()
    answer = call(wire)
    goes_on = wire.option(99) == "error 1" and wire.go() == "ack" and wire.goes_on()
    say(f"options: {case}", answer, goes_on)
    wire.socket.close()


query = struct.pack(">I", 0) + struct.pack(">II", 1, 15) + b"base:allocation"
negotiation("unknown", lambda wire: wire.option(0x12345678, b"some data"))
negotiation("unknown export", lambda wire: wire.go(b"no such export"))
negotiation("name longer than its option", lambda wire: wire.option(GO, struct.pack(">IH", 400, 0)))
negotiation("name that is not UTF-8", lambda wire: wire.go(b"\xff\xfe"))
negotiation("list with data", lambda wire: wire.option(LIST, b"data"))
negotiation("structured replies with data", lambda wire: wire.option(STRUCTURED_REPLY, b"data"))
negotiation("contexts before structured replies", lambda wire: wire.option(SET_META, query))
negotiation("option of 1 MiB", lambda wire: wire.option(99, bytes(1 << 20)))
negotiation("wrong magic", lambda wire: wire.option(LIST, magic=0xDEADBEEF))

# Somebody who leaves in the middle of a write or an option, somebody who never reads, and somebody as it should be.


def unfinished(case, wire, data):
    wire.socket.sendall(data)
    wire.socket.shutdown(socket.SHUT_WR)
    try:
        while wire.socket.recv(4096):
            pass
        say(f"unfinished: {case}", "closed", False)
    except TimeoutError:
        say(f"unfinished: {case}", "silence", False)
    except OSError:
        say(f"unfinished: {case}", "closed", False)
    wire.socket.close()


unfinished("write", transmission(), struct.pack(">IHHQQI", REQUEST, 0, WRITE, 7, 0, 65536) + b"x" * 100)
unfinished("write of 4 GiB", transmission(), struct.pack(">IHHQQI", REQUEST, 0, WRITE, 7, 0, 0xFFFFFFFF) + b"x" * 100)
unfinished("request", transmission(), struct.pack(">IHH", REQUEST, 0, READ))
unfinished("option of 4 GiB", Wire(), struct.pack(">QII", IHAVEOPT, 99, 0xFFFFFFFF) + b"x" * 100)
unfinished("option", Wire(), struct.pack(">Q", IHAVEOPT))
idle = transmission()
idle.socket.settimeout(0.5)
try:
    for _ in range(10_000):
        idle.socket.sendall(struct.pack(">IHHQQI", REQUEST, 0, READ, 7, 0, 1 << 20))
except OSError:
    pass
h = connect()
say("others: beside one that never reads", answer_of(lambda: h.pread(512, 0)), goes_on(h))
h.shutdown()
idle.socket.close()
