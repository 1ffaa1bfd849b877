"""The operations on one file: FORMAT.md section 4, rules 1 to 9, on top of file_model.File.

An operation is a generator that first yields the new units it is about to write ({unit: value}) and then runs to its end;
the disk may kill it between any two steps, and any sync in it may fail.
"""
from disk import HEADER, U, SyncFailed, beyond, blocks, cap, first, group_of, slots
from file_model import BREAK, EMPTY, ENTRIES, HOLE, TEXT, Area, Damaged, Entry, File, Kept, NoRoom, State

ATOMIC = [True]                                            # whether the store writes a page whole (rule 3)


class Engine(File):
    reading, redone, beside, ordinary, freed = None, 0, None, 0, 0

    # ---- readers: between any two steps of a writer
    def reader(self):
        """Looks up an entry at one step and opens the slot at a later one."""
        if self.exclusive and "reader-in-place" not in BREAK: return
        if not self.core or not self.n: self.reading = None; return
        if self.reading is None:
            i = self.d.rnd.randrange(self.n)
            if group_of(i) in self.loaded and i in self.cur and i not in self.lost: self.reading = (i, self.cur[i], self.core)
            return
        (i, e, core), self.reading = self.reading, None
        if core != self.core or i >= self.n or i in self.lost or self.failed or self.opens(i, e): return
        assert "reader-no-retry" not in BREAK and self.cur.get(i) != e and self.opens(i, self.cur[i]), ("reader", i, e)

    def start(self):
        """Before any change: an operation that failed half-way is undone or finished; a file in doubt is mended."""
        if self.ragged and self.core: self.shorten()
        self.ragged, self.growing = False, 0; self.mend()

    # ---- writing
    def write(self, lo, hi):
        fresh = {u: next(self.ids) for u in range(lo, hi)}
        yield fresh
        self.start()
        touched = range(lo // U, blocks(hi))
        for i in touched:
            if i < self.n: self.ensure(group_of(i))
        if any(i < self.n and self.read(i) == "EIO" and not all(u in fresh for u in range(i * U, i * U + U)) for i in touched):
            raise Damaged                                  # half of a block that cannot be read
        texts = {i: tuple(fresh.get(i * U + k, (self.read(i) if i < self.n and self.read(i) != "EIO" else EMPTY)[k])
                          for k in range(U)) for i in touched}
        if hi > self.size: self.grow(hi, texts)
        else: self.mark += 1; self.put_blocks(texts, self.n)

    def grow(self, size, texts):
        """Rule 5: length, data, records, last the state half (a new header is there from the start)."""
        old, n, made = self.n, blocks(size), not self.core
        self.mark += 1; self.ragged = True; self.growing = n
        if made: self.new_header(size)
        else:
            self.mend(size); self.ensure(group_of(old - 1))
            if self.stale and "grow-early" not in BREAK: self.sync_all()
            if "state-first" in BREAK: self.d.sync(); self.put_state(size); self.d.sync()
            self.d.write("P", size)
        skipped = self.skipped(old, n, texts)
        for i in range(old, n):                            # authenticated holes for what is not written
            self.old.pop(i, None); self.rec.pop(i, None); self.lost.discard(i); self.cur.pop(i, None)
            self.loaded.add(group_of(i))
            if i not in texts:
                self.cur[i] = Entry(HOLE, None, self.core)
                if group_of(i) not in skipped: self.put_rec(i)
        self.put_blocks(texts, n)
        if not made or skipped:
            lo, hi = self.state.sparse; groups = list(skipped) + ([lo, hi - 1] if hi > lo else [])
            self.put_state(size, (min(groups), max(groups) + 1) if groups else (0, 0))
        self.ragged, self.growing = False, 0

    def skipped(self, old, n, texts):
        """The groups that a sparse file does not fill: wholly new, and without data."""
        if "no-sparse" in BREAK: return ()
        have = {group_of(i) for i in range(old)[-1:]} | {group_of(i) for i in texts}
        return [g for g in range(group_of(old), group_of(n - 1) + 1) if g not in have and g > 0 and n >= first(g) + cap(g)]

    def new_header(self, size):
        if self.d.now.get("P") is not None:                # remains of one that never arrived were copied aside
            self.d.sync(); self.d.cut(None, lambda k: True)
        core = ("core", next(self.ids)); self.forget()
        self.d.write("P", size)
        self.core = core
        self.old_state = State(0, core, self.v.epoch, True, -1, (0, 0), 1)
        self.state = State(size, core, self.v.epoch, True, -1, (0, 0), 2)
        self.states = (self.old_state, self.state); self.area = Area(core, self.v.key_version, 1); self.areas = (self.area, None)
        self.write_header()

    def forget(self):
        self.cur, self.old, self.rec, self.inplace, self.loaded, self.lost = {}, {}, {}, set(), set(), set()
        self.suspects, self.reading = set(), None
        self.core, self.doubt, self.lenient, self.stale, self.ragged = None, False, False, False, False
        self.states, self.state, self.old_state = (None, None), None, None

    def put_blocks(self, texts, n=None):
        n = n or self.n
        for g in sorted({group_of(i) for i in texts}):
            part = [i for i in texts if group_of(i) == g]
            if n == self.n: self.ensure(g)
            while part: part = self.put_group(g, part, texts, n)

    def put_group(self, g, part, texts, n):
        """Rules 1 to 3. Returns what is still to be written."""
        if any(i in self.inplace for i in part) and "inplace-twice" not in BREAK: self.sync_all()
        free = self.free(g, n)
        skip = "inplace-undurable" in BREAK and ATOMIC[0] and len(free) > 1
        if len(free) < len(part) and not skip and not self.over_at_once(g, part, free, n): self.sync_all(); free = self.free(g, n)
        if len(free) < len(part) and ATOMIC[0]: self.in_place(g, part, texts, free); return []
        free = [s for s in free if self.d.has_room(g, s)]
        if not free:                                       # the store is full
            if any(self.undurable(i) for i in part) or self.failed: self.sync_all()
            return self.redo(g, part, texts)
        now = list(zip(part, free))
        new = {i: Entry(self.version(texts[i]), s, self.core) for i, s in now}
        if "record-first" in BREAK:
            for i, e in new.items(): self.point(i, e)
        before = self.d.serial
        for i, e in new.items(): self.d.page(g, e.slot, e.version)
        if "record-first" not in BREAK:
            for i, e in new.items(): self.point(i, e)
        self.ordinary += self.d.serial - before
        return part[len(now):]

    def over_at_once(self, g, part, free, n):
        """Whether to write in place without a sync before: what is overwritten is durable, and it would free too few slots."""
        if not ATOMIC[0] or self.failed or any(self.undurable(i) or i in self.inplace for i in part): return False
        stay = [i for i in part if i in self.cur and self.cur[i].slot is not None and i not in self.lost]
        named = {e.slot for i, e in self.cur.items() if group_of(i) == g and e.slot is not None}
        return len(part) - len(stay) <= len(free) and slots(g, n) - len(named) < len(part)

    def version(self, text):
        v = ("v", next(self.ids)); TEXT[v] = text
        return v

    def point(self, i, e):
        """The block's current entry is e now; its durable one is kept."""
        had = self.cur.get(i)
        if i in self.lost: had = None; self.lost.discard(i)
        if i not in self.old and had is not None: self.old[i] = had
        self.cur[i] = e; self.put_rec(i)

    def in_place(self, g, part, texts, free):
        """More than the spares can take: both halves name the same slot; records, sync, data."""
        new = {i: self.version(texts[i]) for i in part}
        self.over(g, part, new, list(free), "inplace-nosync")

    def redo(self, g, part, texts):
        """Rule 10: a copy, durable; then in place; then a sync, after which the copy is not needed. What is left to write."""
        n = [n for n in range(ENTRIES) if n not in self.kept or "redo-forgotten" in BREAK and self.kept[n].before]
        if not n or any(i not in self.cur or self.cur[i].slot is None or i in self.lost for i in part): raise NoRoom
        now = part[:len(n)]
        new = {i: self.version(texts[i]) for i in now}
        kept = {n: Kept(self.core, i, new[i], False) for n, i in zip(n, now)}
        for n, k in kept.items(): self.r.page(0, n, k.version); self.r.write(("rec", n), ((k.core, k.block), None))
        if "redo-nosync" not in BREAK: self.r.sync()
        self.kept.update(kept); self.mark += 1; self.redone += 1
        self.over(g, now, new, [], "redo-records")
        if "redo-early" in BREAK: self.let_go(before=False)
        else: self.sync_all()
        return part[len(now):]

    def over(self, g, part, new, free, nosync):
        over = []
        self.exclusive = True                              # readers wait for the data
        try:
            for i in part:
                had = self.cur.get(i)
                if had is None or had.slot is None or i in self.lost:
                    assert free, "the slots are not what they were when this began"
                    s = free.pop(0)
                else: s = had.slot; over.append(i)
                self.point(i, Entry(new[i], s, self.core))
            if nosync not in BREAK:
                self.wait_beside()
                try: self.d.sync()                         # if it fails, the next sync falls back on the durable entries
                except SyncFailed: self.failed = True; raise
            self.inplace.update(over)
            for i in part: self.d.page(g, self.cur[i].slot, self.cur[i].version)
        finally: self.exclusive = False

    # ---- shrinking
    def truncate(self, size):
        yield {}
        if size == 0:
            self.d.cut(None, lambda k: True); self.mark += 1; self.forget(); return
        self.start()
        if size > self.size: self.grow(size, {})
        elif size < self.size:
            self.mend(size); self.ensure(group_of(blocks(size) - 1))
            self.mark += 1; self.ragged = True
            lo, hi = self.state.sparse; hi = min(hi, group_of(blocks(size) - 1) + 1)
            if "state-last" in BREAK: self.cut_to(size)
            self.put_state(size, (lo, hi) if lo < hi else (0, 0))
            self.shorten()

    def shorten(self):
        """Rule 6, from where the state half says the size that the file is to have."""
        if "shrink-nosync" not in BREAK: self.sync_all()   # the new length is durable before anything is given up
        for t in (self.cur, self.old, self.rec):
            for i in [i for i in t if i >= self.n]: del t[i]
        self.lost = {i for i in self.lost if i < self.n}; self.suspects = {i for i in self.suspects if i < self.n}
        if self.n: self.ensure(group_of(self.n - 1)); self.move_down(self.n)
        if self.old and "move-nosync" not in BREAK: self.sync_all()
        self.wipe_tail(); self.cut_to(self.size); self.ragged = False

    def move_down(self, n):
        """Blocks of the last group in slots that the shorter file does not have move to lower ones."""
        g, limit = group_of(n - 1), slots(group_of(n - 1), n)
        if "no-move" in BREAK: return
        for i in range(first(g), n):
            e = self.cur.get(i)
            if e and e.slot is not None and e.slot >= limit and self.opens(i, e):
                free = self.free(g, n)
                if not free: self.sync_all(); free = self.free(g, n)
                self.d.page(g, free[0], e.version); self.point(i, Entry(e.version, free[0], self.core))

    def cut_to(self, size):
        """Entries past the end are wiped; until that is durable, growing waits (else old content could come back)."""
        n = blocks(size); g = group_of(n - 1)
        for i in range(n, first(g) + cap(g)):
            # in doubt even what reads as zero: the zeros may be in the cache only
            if (self.doubt or any(self.d.now.get(("rec", i)) or ())) and "keep-records" not in BREAK:
                self.rec[i] = (None, None); self.d.write(("rec", i), self.rec[i]); self.stale = True
        if self.d.now["P"] > size:
            self.stale = True; self.d.cut(size, lambda k: k != "P" and k not in HEADER and beyond(k, size))

    # ---- a sync beside the writer (rule 4)
    def unusual(self): return self.d.serial - self.ordinary

    def begin_beside(self):
        if not self.core or self.failed or self.ragged or self.beside: return
        self.beside = self.d.begin(), self.d.failures, self.unusual(), dict(self.cur), dict(self.old)
        if "beside-early" in BREAK: self.take_in(self.cur, self.old)

    def wait_beside(self):
        """Before any other sync of this file, so that a failure that one of them is told reaches both."""
        if not self.beside: return
        (token, failures, unusual, cur, old), self.beside = self.beside, None
        try: self.d.end(token)
        except SyncFailed: self.failed = True
        if self.d.failures != failures: self.failed = True
        if not self.failed and (self.unusual() == unusual or "beside-unusual" in BREAK): self.take_in(cur, old)

    def take_in(self, cur, old):
        """Blocks that are as they were when it began are durable."""
        for i in [i for i, e in self.old.items() if "beside-all" in BREAK or i in cur and cur[i] == self.cur[i] and old.get(i) == e]:
            del self.old[i]; self.inplace.discard(i); self.freed += 1

    # ---- making durable
    def fsync(self): yield {}; self.start(); self.sync_all()

    def settle(self, meanwhile=lambda: None, alone=False):
        """Rule 9. `meanwhile` stands for other threads, which may write during the store-wide syncs of the pass; a pass
        that sees the count of changes moved believes nothing of it. Returns whether it came to its end."""
        if self.ragged or self.failed: self.start(); self.sync_all()
        if not self.core: return self.passed(meanwhile, "")
        if self.doubt and "settle-unmended" not in BREAK:
            self.start()
            for g in range(group_of(self.n - 1) + 1): self.ensure(g)
        if not self.passed(meanwhile, "settle-nosync1"): return False
        self.all_durable()                                 # step 2: of what was durable as of the start of that sync
        self.let_go(before=True)
        if "no-zero-halves" not in BREAK:
            for i in [i for i, h in self.rec.items() if i in self.cur and i < self.n and all(h)]: self.put_rec(i)
        self.put_state(settle=True)
        if "wipe-with-settle" in BREAK: self.wipe_state()
        if not self.passed(meanwhile, "settle-nosync3"): return False
        self.all_durable(); self.wipe_state()              # step 4
        return self.passed(meanwhile, "settle-nosync5")

    def passed(self, meanwhile, switch):
        self.wait_beside(); mark = self.mark
        if switch in BREAK: meanwhile(); return True
        token = self.d.begin(); meanwhile()
        try: self.d.end(token)
        except SyncFailed: self.failed = True
        return (self.mark == mark or "no-mark" in BREAK) and not self.failed

    def wipe_state(self):
        self.states = tuple(s if s == self.state else None for s in self.states); self.d.write("state", self.states)

    def rewrap(self):
        """The other key area, a sync, then the old one is zeroed."""
        yield {}
        if not self.core: return
        self.start()
        self.v.key_version += 1; old = self.area
        new = Area(self.core, self.v.key_version, old.sequence + 1)
        k = self.areas.index(old); self.d.write(f"area{1 - k}", new)
        self.areas = (old, new) if k == 0 else (new, old)
        self.mark += 1
        if "rewrap-nosync" not in BREAK:
            try: self.sync_all()
            except SyncFailed: return                      # both areas stay; the next pass goes on from the newer one
        self.area = new
        self.areas = tuple(a if a == new else None for a in self.areas); self.d.write(f"area{k}", None)
