"""Locks of three processes on two files: fcntl, OFD and flock, drawn at random and asked for one after another; then waiting
ones and a deadlock. Says what each call gave. Usage: locks.py DIR SEED"""
import errno, fcntl, os, random, struct, sys, time

TOP, SEED = sys.argv[1], int(sys.argv[2])
F_OFD_GETLK, F_OFD_SETLK = 36, 37
KINDS = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
FLOCK = "hhqqi4x"
FILES = [os.path.join(TOP, name) for name in ("a", "b")]


def flock_struct(kind, start, length):
    return struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)


def answer(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


class Worker:
    """In the child: opens each file twice and does as it is told."""

    def __init__(self):
        self.opened = {}

    def file(self, n):
        if n not in self.opened:
            self.opened[n] = os.open(FILES[n // 2], os.O_RDWR)
        return self.opened[n]

    def do(self, command):
        what, n, *rest = command
        if what == "close":
            if n in self.opened:
                os.close(self.opened.pop(n))
            return "closed"
        fd = self.file(n)
        if what == "flock":
            operation = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}[rest[0]]
            return answer(lambda: str(fcntl.flock(fd, operation | fcntl.LOCK_NB)))
        kind, start, length = KINDS[rest[0]], rest[1], rest[2]
        calls = {"set": fcntl.F_SETLK, "wait": fcntl.F_SETLKW, "ofd-set": F_OFD_SETLK, "get": fcntl.F_GETLK, "ofd-get": F_OFD_GETLK}
        got = answer(lambda: fcntl.fcntl(fd, calls[what], flock_struct(kind, start, length)))
        if isinstance(got, bytes) and what.endswith("get"):
            kind, whence, start, length, pid = struct.unpack(FLOCK, got)
            return [kind, whence, start, length, pid] if kind != fcntl.F_UNLCK else "free"
        return got if isinstance(got, str) else "got"


def start():
    to_child, to_parent = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to_child[1]), os.close(to_parent[0])
        commands, answers = os.fdopen(to_child[0]), os.fdopen(to_parent[1], "w")
        worker = Worker()
        for line in commands:
            if eval(line) == "end":
                os._exit(0)
            print(repr(worker.do(eval(line))), file=answers, flush=True)
    os.close(to_child[0]), os.close(to_parent[1])
    return pid, os.fdopen(to_child[1], "w"), os.fdopen(to_parent[0])


def main():
    for path in FILES:
        with open(path, "wb") as file:
            file.write(b"x" * 100)
    workers = [start() for _ in range(3)]
    numbers = {pid: n for n, (pid, _, _) in enumerate(workers)}

    def send(n, command):
        print(repr(command), file=workers[n][1], flush=True)

    def receive(n):
        said = eval(workers[n][2].readline())
        return said[:4] + ["worker %s" % numbers.get(said[4], said[4])] if isinstance(said, list) else said

    def do(n, *command):
        send(n, command)
        said = receive(n)
        print(n, command, said)
        return said

    draw = random.Random(SEED)
    for _ in range(400):
        n, file = draw.randrange(3), draw.randrange(4)
        what = draw.choice(["set", "set", "get", "ofd-set", "ofd-set", "ofd-get", "flock", "close"])
        kind = draw.choice(["read", "write", "none"]) if not what.endswith("get") else draw.choice(["read", "write"])
        do(n, what, file, kind, draw.choice([0, 0, 5, 10, 50, 200]), draw.choice([0, 1, 5, 40]))
    for n in range(3):
        for file in range(4):
            do(n, "close", file)

    def waits(n):
        pid = str(workers[n][0])
        while not any("->" in line and pid in line.split() for line in open("/proc/locks")):
            time.sleep(0.01)

    # One waits until the other lets go.
    do(0, "set", 0, "write", 0, 10)
    send(1, ("wait", 0, "write", 5, 10))
    waits(1)
    do(0, "set", 0, "none", 0, 0)
    print("waited", receive(1))
    # Each waits for the other: the second is told.
    do(0, "set", 0, "write", 50, 1)
    do(1, "set", 0, "write", 60, 1)
    send(0, ("wait", 0, "write", 60, 1))
    waits(0)
    do(1, "wait", 0, "write", 50, 1)
    do(1, "set", 0, "none", 0, 0)
    print("waited", receive(0))
    # The end of a process lets go.
    do(0, "set", 0, "write", 20, 5)
    send(0, "end")
    os.waitpid(workers[0][0], 0)
    do(2, "set", 0, "write", 20, 5)
    for n in (1, 2):
        send(n, "end")
        os.waitpid(workers[n][0], 0)


main()
