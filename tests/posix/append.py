"""Four processes append records to one file, one of them through writev; the file is those records, each whole, each
process's in its order. Usage: append.py DIR SEED"""
import os, random, sys

TOP, SEED = sys.argv[1], int(sys.argv[2])
PATH, RECORDS = os.path.join(TOP, "log"), 300


def record(writer, number):
    length = random.Random("%d-%d-%d" % (SEED, writer, number)).choice([10, 100, 4096, 5000, 9000])
    head = b"<%d %d %d:" % (writer, number, length)
    return head + bytes([65 + writer]) * length + b">"


def append(writer):
    fd = os.open(PATH, os.O_WRONLY | os.O_APPEND)
    for number in range(RECORDS):
        data = record(writer, number)
        written = os.writev(fd, [data[:7], data[7:]]) if writer == 0 else os.write(fd, data)
        assert written == len(data), written
        if number % 50 == writer:
            os.fsync(fd)
    os.close(fd)


def main():
    open(PATH, "wb").close()
    children = []
    for writer in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                append(writer)
                os._exit(0)
            except BaseException as error:
                print(writer, repr(error), flush=True)
                os._exit(1)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    content, at, next_of = open(PATH, "rb").read(), 0, [0] * 4
    while at < len(content):
        end = content.find(b":", at, at + 40)
        assert content[at : at + 1] == b"<" and end > 0, "no record at %d: %r" % (at, content[at : at + 60])
        writer, number, _ = (int(field) for field in content[at + 1 : end].split())
        wanted = record(writer, number)
        assert content[at : at + len(wanted)] == wanted, "torn at %d" % at
        assert number == next_of[writer], "out of order at %d" % at
        next_of[writer] += 1
        at += len(wanted)
    for writer in range(4):
        print("writer", writer, "records", next_of[writer])
    print("bytes", len(content))


main()
