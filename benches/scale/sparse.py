"""Random blocks of 4 KiB in a sparse file: sparse.py FILE GIB PID BLOCKS. PID is the daemon's, whose processor time is shown.

Written, written again, and read with the file's own pages dropped; writes end with an fsync.
"""
import os, random, sys, time

path, gib, pid, blocks = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def spent():
    """Milliseconds, user and system."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")

random.seed(7)
places = [random.randrange(gib << 18) << 12 for _ in range(blocks)]
block = os.urandom(4096)
file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL)
os.ftruncate(file, gib << 30)

def write():
    for place in places: os.pwrite(file, block, place)
    os.fsync(file)

def read():
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    for place in places: assert os.pread(file, 4096, place) == block

for what, work in [("first write", write), ("overwrite", write), ("read", read)]:
    ms, begun = spent(), time.time()
    work()
    rate = blocks / (time.time() - begun)
    print(f"{gib} GiB, {what}: {rate:.0f}/s, the daemon {(spent() - ms) * 1000 / blocks:.0f} us each")
os.close(file)
os.unlink(path)
