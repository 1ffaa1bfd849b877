"""What an open file or directory is after its last name went, in four processes at once. Usage: unlinked.py DIR SEED"""
import errno, mmap, os, sys

TOP = sys.argv[1]


def said(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def look(fd):
    stat = os.fstat(fd)
    return (stat.st_nlink, stat.st_size, oct(stat.st_mode))


def nameless(me, say):
    path = os.path.join(TOP, "file-%d" % me)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    second = os.open(path, os.O_RDONLY)
    os.write(fd, bytes([me]) * 300_000)
    os.unlink(path)
    say("gone", look(fd), look(second), said(lambda: os.stat(path)))
    say("read", os.pread(second, 10, 299_995), os.pwrite(fd, b"later", 100_000), os.pread(second, 7, 99_999))
    os.ftruncate(fd, 200_000)
    say("cut", look(second), len(os.pread(second, 400_000, 0)))
    say("grown", os.pwrite(fd, b"end", 700_000), look(second), os.pread(second, 4, 500_000))
    os.fchmod(fd, 0o600), os.fsync(fd)
    os.utime(fd, ns=(5, 7))
    say("times", os.fstat(second).st_mtime_ns)
    os.setxattr(fd, b"user.a", b"value")
    say("xattr", os.getxattr(second, b"user.a"), os.listxattr(fd))
    with mmap.mmap(fd, 700_003) as pages:
        pages[50_000:50_004] = b"page"
        pages.flush()
    say("mapped", os.pread(second, 6, 49_999))
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDONLY)
    say("opened again", os.pread(again, 5, 100_000))
    with open(path, "wb") as other:
        other.write(b"another")
    say("another", look(fd), os.stat(path).st_size, os.pread(second, 5, 100_000))
    say("linked again", said(lambda: os.link("/proc/self/fd/%d" % fd, path + "-again", follow_symlinks=True)))
    os.close(again), os.close(second), os.close(fd)


def replaced(me, say):
    old, new = os.path.join(TOP, "old-%d" % me), os.path.join(TOP, "new-%d" % me)
    for path, byte in ((old, b"o"), (new, b"n")):
        with open(path, "wb") as file:
            file.write(byte * 10_000)
    fd = os.open(old, os.O_RDWR)
    os.rename(new, old)
    say("replaced", look(fd), os.pread(fd, 3, 9_997), os.pwrite(fd, b"still", 4_000), open(old, "rb").read() == b"n" * 10_000)
    os.close(fd)


def directory(me, say):
    path = os.path.join(TOP, "dir-%d" % me)
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(path)
    say("removed", os.fstat(fd).st_nlink, said(lambda: os.listdir(fd)))
    say("made in it", said(lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)), said(lambda: os.mkdir("y", dir_fd=fd)))
    say("found in it", said(lambda: os.stat("x", dir_fd=fd)))
    os.mkdir(path)
    say("another", os.listdir(path), said(lambda: os.stat("x", dir_fd=fd)))
    os.close(fd)


def main():
    for me in range(4):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            lines = []
            for act in (nameless, replaced, directory):
                try:
                    act(me, lambda *what: lines.append(" ".join(map(str, (me,) + what))))
                except BaseException as error:
                    lines.append("%d %s: %r" % (me, act.__name__, error))
            os.write(writing, ("\n".join(lines) + "\n").encode())
            os._exit(0)
        os.close(writing)
        pipes.append(reading)
    for reading in pipes:
        print(os.fdopen(reading).read(), end="")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    print(sorted(os.listdir(TOP)))


pipes = []
main()
