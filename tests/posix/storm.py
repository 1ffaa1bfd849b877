"""Four processes rename at once. First files and directories are only moved and exchanged: each must be there once at the
end, whole. Then whole new versions are renamed over one name, linked and unlinked: whoever opens it reads one version,
whole. Usage: storm.py DIR SEED"""
import ctypes, errno, os, random, sys, traceback

TOP, SEED = sys.argv[1], int(sys.argv[2])
NOREPLACE, EXCHANGE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)
FILES, DIRS, ROUNDS = 24, 4, 600
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.EINVAL, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def content(n):
    return b"%05d" % n * (10 + 400 * (n % 5))


def whole(data):
    return len(data) >= 50 and data == content(int(data[:5]))


def name(draw):
    return draw.choice(["f%d" % draw.randrange(30), "long" * 55 + str(draw.randrange(6))])


def path(draw):
    return os.path.join(TOP, "d%d" % draw.randrange(DIRS), name(draw))


def tolerate(call):
    try:
        return call()
    except OSError as error:
        if error.errno not in EXPECTED:
            raise
        return None


def read(where):
    with open(where, "rb") as file:
        return file.read()


def move(draw, me):
    for round in range(ROUNDS):
        if draw.randrange(8) == 0:
            left, right = draw.sample(range(DIRS), 2)
            one, two = (os.path.join(TOP, "d%d" % n, "sub%d" % draw.randrange(3)) for n in (left, right))
            flags = draw.choice([NOREPLACE, EXCHANGE])
            tolerate(lambda: renameat2(one, two, flags))
        else:
            flags = draw.choice([NOREPLACE, NOREPLACE, EXCHANGE])
            old, new = path(draw), path(draw)
            tolerate(lambda: renameat2(old, new, flags))
        if draw.randrange(4) == 0:
            data = tolerate(lambda: read(path(draw)))
            assert data is None or whole(data), data[:60]


def replace(draw, me):
    target = os.path.join(TOP, "d0", "target")
    for round in range(ROUNDS // 2):
        new = os.path.join(TOP, "d%d" % draw.randrange(DIRS), "new-%d" % me)
        with open(new, "wb") as file:
            file.write(content(me * 1000 + round))
        what = draw.randrange(4)
        if what == 0:
            tolerate(lambda: os.link(target, new + "-linked"))
            tolerate(lambda: os.rename(new + "-linked", new))
        os.rename(new, target)
        if os.path.lexists(new):  # two names of one file: rename left both
            os.unlink(new)
        assert whole(read(target))


def in_four(act):
    children = []
    for me in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                act(random.Random("%d-%d" % (SEED, me)), me)
                os._exit(0)
            except BaseException as error:
                traceback.print_exc()
                print(act.__name__, me, repr(error), flush=True)
                os._exit(1)
        children.append(pid)
    return [os.waitpid(pid, 0)[1] for pid in children]


def main():
    for n in range(DIRS):
        os.mkdir(os.path.join(TOP, "d%d" % n))
    for n in range(3):
        os.makedirs(os.path.join(TOP, "d%d" % n, "sub%d" % n, "inner"))
        with open(os.path.join(TOP, "d%d" % n, "sub%d" % n, "inner", "file"), "wb") as file:
            file.write(content(90 + n))
    for n in range(FILES):
        with open(os.path.join(TOP, "d%d" % (n % DIRS), "f%d" % n), "wb") as file:
            file.write(content(n))
    print("moved", in_four(move))
    found = []
    for where, _, files in os.walk(TOP):
        for file in files:
            data = read(os.path.join(where, file))
            assert whole(data), (where, file)
            found.append(int(data[:5]))
    print("files", sorted(found))
    print("replaced", in_four(replace))
    print("left", sorted(n for n in os.listdir(os.path.join(TOP, "d0")) if n.startswith(("new", "target"))))


main()
