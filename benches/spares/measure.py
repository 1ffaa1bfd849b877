#!/usr/bin/env python3
"""How many spare slots should a group have, and what does settling cost? Measured on real I/O.

Lays a file out as FORMAT.md section 3 does (groups of 32, then 64 blocks; tag page; S spare slots; a block goes to the
slot of its own index when that is free, else to the lowest free one; a sync when no slot is free) and drives it with
pwrite and fdatasync. The ciphertext is random bytes: only the I/O is real. Variants run interleaved, each with the same
seeds; medians. Only ratios hold on a machine that does other work.

usage: measure.py [--dir DIR] [--mib 512] [--overwrites 16384] [--commits 1000] [--rounds 3] [--files 5000]
DIR must lie on ext4 or XFS (filefrag needs FIEMAP); it needs 2 GiB. Takes some minutes.
"""
import argparse, ctypes, os, random, re, shutil, statistics, subprocess, tempfile, time

PAGE = 4096
HEADER, STATE_A, STATE_B, STATE = 4096, 1536, 1792, 256
PER_SPARE = {"S=3": 32, "S=5": 16, "S=9": 8, "S=13": 16 / 3}          # spares = 1 + ceil(m / this), m = 64 blocks
libc = ctypes.CDLL(None, use_errno=True)


class Layout:
    """One file in groups with spare slots. `plain` is the same load on a file without any layout."""

    def __init__(self, path, blocks, per_spare):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.path, self.blocks, self.per_spare = path, blocks, per_spare
        self.base, page, left = [], 0, blocks
        while left:
            m = min(left, 64 if self.base else 32)
            slots = m if per_spare is None else m + 1 + -int(-m // per_spare)
            self.base.append((page, m, slots)); page += slots + (per_spare is not None); left -= m
        self.length = page * PAGE
        self.slot = [list(range(m)) for _, m, _ in self.base]
        self.old = [{} for _ in self.base]                             # block -> slot of its durable entry
        self.syncs = 0

    def group(self, i): return (0, i) if i < 32 else (1 + (i - 32) // 64, (i - 32) % 64)
    def offset(self, g, s): return (self.base[g][0] + s + (self.per_spare is not None)) * PAGE
    def sync(self):
        os.fdatasync(self.fd); self.syncs += 1
        for o in self.old: o.clear()

    def fill(self, data):
        os.ftruncate(self.fd, self.length)
        for g, (page, m, _) in enumerate(self.base):
            os.pwrite(self.fd, data[:m * PAGE], self.offset(g, 0))
            if self.per_spare is not None: os.pwrite(self.fd, data[:PAGE], page * PAGE)
        os.fsync(self.fd)

    def overwrite(self, i, data):
        """One block: data into a free slot, then its 32-byte record half. Returns whether a sync was forced."""
        g, b = self.group(i)
        if self.per_spare is None:
            os.pwrite(self.fd, data, self.offset(g, b)); return False
        used, forced = set(self.slot[g]) | set(self.old[g].values()), False
        if len(used) == self.base[g][2]:
            self.sync(); used, forced = set(self.slot[g]), True
        s = b if b not in used else next(s for s in range(self.base[g][2]) if s not in used)
        os.pwrite(self.fd, data, self.offset(g, s))
        self.old[g].setdefault(b, self.slot[g][b]); self.slot[g][b] = s
        os.pwrite(self.fd, data[:32], self.base[g][0] * PAGE + b * 64)
        return forced

    def read_all(self):
        """Seconds for one cold read in logical order; neighbouring slots are read together, at most 256 KiB."""
        os.fdatasync(self.fd); os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for g, (page, m, _) in enumerate(self.base):
            if self.per_spare is not None: os.pread(self.fd, PAGE, page * PAGE)
            b = 0
            while b < m:
                n = 1
                while b + n < m and self.slot[g][b + n] == self.slot[g][b] + n: n += 1
                got = os.pread(self.fd, n * PAGE, self.offset(g, self.slot[g][b]))
                assert len(got) == n * PAGE
                b += n
        return time.perf_counter() - start

    def median_read(self): return statistics.median(self.read_all() for _ in range(3))

    def extents(self):
        """(entries of the extent map, physical fragments: places where the next byte is not the next on the device)"""
        out = subprocess.run(["filefrag", "-v", self.path], check=True, capture_output=True, text=True).stdout
        return len(re.findall(r"^ *\d+: ", out, re.M)), int(re.search(r"(\d+) extents? found", out)[1])

    def close(self): os.close(self.fd); os.unlink(self.path)


def one_file(where, per_spare, a, seed):
    rnd, data = random.Random(seed), os.urandom(64 * PAGE)
    f = Layout(os.path.join(where, "file"), a.mib * 256, per_spare)
    t = time.perf_counter(); f.fill(data); r = {"fill s": time.perf_counter() - t}
    st = os.stat(f.path); r["apparent MiB"], r["allocated MiB"] = st.st_size / 2**20, st.st_blocks / 2048
    (r["extents new"], r["fragments new"]), r["cold read new s"] = f.extents(), f.median_read()
    t = time.perf_counter()
    for _ in range(a.overwrites): f.overwrite(rnd.randrange(f.blocks), data[:PAGE])
    r["early syncs"] = f.syncs; f.sync(); r["overwrites s"] = time.perf_counter() - t
    r["allocated after MiB"] = os.stat(f.path).st_blocks / 2048
    (r["extents after"], r["fragments after"]), r["cold read after s"] = f.extents(), f.median_read()
    t = time.perf_counter(); forced = 0
    for _ in range(a.commits):                                         # a database: 16 MiB hot, every write synced
        forced += f.overwrite(rnd.randrange(4096), data[:PAGE]); f.sync()
    r["commits s"], r["commits forced"] = time.perf_counter() - t, forced
    r["extents db"], r["fragments db"] = f.extents()
    f.close()
    return r


def settle(where, a, whole_store):
    """FORMAT.md rule 9 for small files: sync; write settled states, zero record halves; sync; zero old states; sync."""
    d = os.path.join(where, "small"); os.mkdir(d)
    names = [os.path.join(d, str(n)) for n in range(a.files)]
    for n in names:
        fd = os.open(n, os.O_RDWR | os.O_CREAT, 0o600); os.ftruncate(fd, 4 * PAGE + 100)
        os.pwritev(fd, [bytes(HEADER), os.urandom(PAGE)], 0); os.close(fd)
    writes = syncs = 0
    def step(change):
        nonlocal writes, syncs
        for n in names:
            if not change and whole_store: continue
            fd = os.open(n, os.O_RDWR)
            for at, what in change: os.pwrite(fd, what, at); writes += 1
            if not whole_store: os.fdatasync(fd); syncs += 1
            os.close(fd)
        if whole_store:
            fd = os.open(d, os.O_RDONLY)
            if libc.syncfs(fd): raise OSError(ctypes.get_errno(), "syncfs")
            os.close(fd); syncs += 1
    t = time.perf_counter(); step([]); first = time.perf_counter() - t
    t = time.perf_counter()
    step([(STATE_B, b"s" * STATE), (2048 + 32, bytes(32))]); step([(STATE_A, bytes(STATE))])
    r = {"first sync s": first, "other steps s": time.perf_counter() - t, "writes": writes, "syncs": syncs}
    shutil.rmtree(d)
    return r


def table(results):
    keys = list(next(iter(results.values()))[0])
    print("| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for k in keys:
        row = [statistics.median(r[k] for r in rs) for rs in results.values()]
        print(f"| {k} | " + " | ".join(f"{v:.2f}" if k.endswith(" s") else f"{v:.0f}" for v in row) + " |", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k, v in {"mib": 512, "overwrites": 16384, "commits": 1000, "rounds": 3, "files": 5000}.items():
        ap.add_argument("--" + k, type=int, default=v)
    ap.add_argument("--dir", default="/tmp"); a = ap.parse_args()
    if not shutil.which("filefrag"): raise SystemExit("filefrag is missing: apt-get install e2fsprogs")
    where = tempfile.mkdtemp(prefix="spares-", dir=a.dir)
    try:
        variants = {"plain": None, **PER_SPARE}
        files = {k: [] for k in variants}; small = {"syncfs": [], "fdatasync each": []}
        for n in range(a.rounds):
            for k, per in variants.items(): files[k].append(one_file(where, per, a, n))
            for k in small: small[k].append(settle(where, a, k == "syncfs"))
        table(files); print(); table(small)
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
