"""The protocol of one AES-256-GCM-SIV file: FORMAT.md section 4, in the form in which the code keeps it.

Ciphers are symbolic: a slot opens under an entry exactly when it holds the version that the entry names. A version's
plaintext is a tuple of U units (`TEXT`). One writer lock per file: an operation runs alone, except for readers and for
the syncs of background settling, during which anything may be written (`settle`).
Each rule can be broken by a switch (`BREAK`, see RULES in crash_model.py); none is set in a right run.
"""
from typing import NamedTuple, Optional
from disk import TORN, HEADER, SECTOR, U, SyncFailed, beyond, blocks, cap, first, group_of, slots

BREAK = set()
ENTRIES = 3                                               # of the redo file (the real one: 32)
HOLE = "hole"                                             # the version of an authenticated hole
EMPTY = (0,) * U
TEXT = {HOLE: EMPTY}                                      # version -> plaintext


class Entry(NamedTuple):
    version: object
    slot: Optional[int]
    core: object


class Half(NamedTuple):
    entry: Entry
    sequence: int


class State(NamedTuple):
    size: int                                             # in units
    core: object
    epoch: int
    unsettled: bool
    settled: int                                          # the settled epoch; -1: never
    sparse: tuple                                         # groups [lo, hi)
    sequence: int = 0


class Area(NamedTuple):
    core: object
    key_version: int
    sequence: int


class Volume:
    """strongroom.mount: replaced atomically and synced, so always durable here."""
    def __init__(self): self.epoch, self.clean, self.listed, self.key_version = 0, True, set(), 0
    def mount(self):
        if not self.clean: self.listed.add(self.epoch)
        self.epoch, self.clean = self.epoch + 1, False
    def newest_listed(self): return max(self.listed, default=-1)


class Damaged(Exception): """EIO: nothing may be believed of this file."""
class NoRoom(Exception): """ENOSPC."""


class Kept(NamedTuple):
    """A copy in the redo file of what a block is written over with."""
    core: object
    block: int
    version: object
    before: bool                                          # found by this mount, not made by it


def sector(i): g = group_of(i); lo = first(g) + (i - first(g)) // SECTOR * SECTOR; return range(lo, lo + SECTOR)
def newest_first(halves): return sorted([h for h in halves or () if h and h != TORN], key=lambda h: -h.sequence)


class File:
    def __init__(self, disk, redo, volume, ids):
        self.d, self.r, self.v, self.ids = disk, redo, volume, ids
        self.kept = {}                                     # entry of the redo file -> Kept; others are free
        if volume.listed and "redo-ignored" not in BREAK: self.find_kept()
        self.recovered = self.barriers = self.mark = 0
        self.cur, self.old, self.rec = {}, {}, {}         # block -> entry; its durable entry if another; both halves
        self.inplace, self.loaded = set(), set()          # blocks overwritten in place; groups whose records are known
        self.core, self.states, self.state, self.old_state = None, (None, None), None, None
        self.areas, self.area = (None, None), None
        self.doubt = self.lenient = self.stale = self.failed = self.ragged = False
        self.lost, self.suspects = set(), set()            # not to be read; perhaps only in the cache
        self.from_block = 0                                # in a file in doubt: zeros are believed from here on
        self.exclusive = self.whole = False
        self.growing = 0                                   # blocks that the file will have
        if disk.now.get("P") is not None: self.load()

    # ---- opening: what a reader trusts
    @property
    def size(self): return self.state.size if self.core else 0
    @property
    def n(self): return blocks(self.size)
    def old_blocks(self): return min(blocks(self.state.size), blocks(self.old_state.size))

    def load(self):
        now, listed = self.d.now, self.v.listed
        core, area, sector_ = now.get("core"), (now.get("area0"), now.get("area1")), now.get("state")
        states = [s for s in newest_first(sector_) if s.core == core]
        areas = [a for a in newest_first(area) if a.core == core]
        absent = [core is None, not any(area or ()), not any(sector_ or ()), bool(states) and not states[0].size]
        if any(absent) and (listed or "arrival-ungated" in BREAK): return          # a header that never arrived: empty
        if any(absent) or not states or not areas: raise Damaged
        if "never-arrived-torn" in BREAK and TORN in sector_: return
        self.doubt = states[0].settled <= self.v.newest_listed()
        if "doubt-never" in BREAK: self.doubt = False
        self.lenient = self.doubt and states[0].unsettled and (states[0].epoch in listed or "unlisted-zeros" in BREAK)
        self.core, self.state, self.states = core, states[0], tuple(sector_)
        self.old_state = states[1] if len(states) > 1 and self.doubt else states[0]
        self.areas, self.area = tuple(a if a != TORN else None for a in area), areas[0]
        self.from_block = self.old_blocks()
        if not self.doubt:
            if now["P"] != self.size: raise Damaged
            if self.state.unsettled and self.state.epoch != self.v.epoch: raise Damaged

    def entries(self, i):
        """What the records on disk say of block i: (entry or None, True if it was mended)."""
        halves = self.d.now.get(("rec", i))
        sparse = self.in_sparse(i)
        if not any(halves or ()) and sparse and not any(any(self.d.now.get(("rec", j)) or ()) for j in sector(i)):
            return Entry(HOLE, None, self.core), False
        hs = newest_first(halves)
        if not self.doubt or "no-older-half" in BREAK: hs = hs[:1]
        for k, h in enumerate(hs):
            if self.opens(i, h.entry): return h.entry, k > 0
        if self.lenient and i >= self.from_block and "no-zeros" not in BREAK: return Entry(HOLE, None, self.core), True
        if sparse and self.doubt and ("sparse-needs-unsettled" not in BREAK or self.lenient) and "no-sparse-torn" not in BREAK:
            return Entry(HOLE, None, self.core), True
        return None, False

    def in_sparse(self, i): return self.state.sparse[0] <= group_of(i) < self.state.sparse[1]
    def opens(self, i, e):
        if not e or e.core != self.core: return False
        return e.version == HOLE or self.d.slot(group_of(i), e.slot) == e.version or self.is_kept(i, e)

    # ---- the redo file (rule 10)
    def find_kept(self):
        for n in range(ENTRIES):
            said = (self.r.now.get(("rec", n)) or (None, None))[0]
            if said and said != TORN: self.kept[n] = Kept(*said, self.r.slot(0, n), True)

    def is_kept(self, i, e):
        """What counts is what opens under the entry: what a copy is said to be is only where to look."""
        return any(k.core == self.core and k.block == i and k.version == e.version for k in self.kept.values())

    def let_go(self, before):
        """The file is durable without these copies."""
        for n in [n for n, k in self.kept.items() if k.core == self.core and k.before == before]:
            del self.kept[n]; self.r.write(("rec", n), (None, None))

    def read(self, i):
        """The plaintext of block i, or 'EIO'."""
        e = self.cur.get(i) if group_of(i) in self.loaded else self.entries(i)[0]
        return TEXT[e.version] if i not in self.lost and self.opens(i, e) else "EIO"

    def falls_back(self, i):
        """After a failed sync: the durable text of a block that is EIO only until the next sync ends well."""
        e = self.old.get(i)
        return TEXT[e.version] if self.failed and i not in self.lost and self.opens(i, e) else "EIO"

    # ---- mending, once per group and mount (rules 7 and 8); in a file in doubt durable before anything builds on it
    def ensure(self, g):
        if g in self.loaded or not self.core: return
        self.load_group(g)
        if not self.doubt or "no-mend-sync" in BREAK: return
        if "trust-cache" not in BREAK:                     # the cache may be clean and the disk not have it
            for i in sorted(self.suspects): self.again(i)
            if "trust-header" not in BREAK: self.write_header()
        self.sync_all()

    def load_group(self, g):
        self.loaded.add(g); mend = []
        for i in range(first(g), min(first(g) + cap(g), self.n)):
            e, mended = self.entries(i)
            halves = self.d.now.get(("rec", i)) or (None, None)
            self.rec[i] = tuple(None if h == TORN else h for h in halves)
            if e is None: continue
            self.cur[i] = e
            self.recovered += halves[0] is not None and halves[1] is not None and mended
            several = sum(h is not None for h in halves) > 1 or i >= self.from_block or (self.in_sparse(i) and any(halves))
            if self.doubt and (mended or several): self.suspects.add(i)
            if mended: mend.append(i)
        for i in mend: self.put_rec(i)                     # only now: filling a sector must know all of its records

    def again(self, i):
        """Same bytes, same place: the other half stays, too, as the page is not durable before the next sync."""
        e = self.cur[i]
        if e.slot is not None: self.d.page(group_of(i), e.slot, e.version)
        if any(h and h.entry == e for h in self.rec.get(i) or ()): self.mark += 1; self.d.write(("rec", i), self.rec[i])
        else: self.put_rec(i)

    def mend(self, size=None):
        """Before a file in doubt changes: its length, its last block, and, if a new state comes, all between its sizes."""
        if not self.core or not self.doubt or "no-mend" in BREAK: return
        if not self.whole:
            if self.d.now["P"] < self.size: self.d.write("P", self.size)
            if self.failed: self.sync_all()      # may fall back on slots past the end
            self.ensure(group_of(self.n - 1)); self.move_down(self.n); self.sync_all()
            self.wipe_tail()
            self.cut_to(self.size); self.whole = True
        if size is not None and size != self.size:
            for g in range(group_of(self.from_block), group_of(self.n - 1) + 1): self.ensure(g)
            self.sync_all()

    def wipe_tail(self):
        """The last block is zero past the end."""
        i, k = self.n - 1, self.size % U
        e = self.cur.get(i)
        if not k or not e or e.version == HOLE or not any(TEXT[e.version][k:]) or "keep-tail" in BREAK: return
        self.put_blocks({i: TEXT[e.version][:k] + EMPTY[k:]})
        self.sync_all()

    # ---- halves: a change goes into the half that does not hold the durable value
    def put_rec(self, i):
        cur, old, h = self.cur[i], self.old.get(i), list(self.rec.get(i) or (None, None))
        at = lambda e: next((k for k in (0, 1) if h[k] and h[k].entry == e), None)
        if old is None or old == cur:                      # nothing durable to keep: the other half is zeroed
            k = at(cur); h = [Half(cur, 1), None] if k is None else [h[j] if j == k else None for j in (0, 1)]
        else:
            k = at(old)
            if k is None: h = [Half(old, 1), Half(cur, 2)]
            elif "half-in-place" in BREAK: h[k] = Half(cur, h[k].sequence + 1)
            else: h[1 - k] = Half(cur, h[k].sequence + 1)
        self.rec[i] = tuple(h); self.mark += 1
        # in a sparse range the first touch of an all-zero sector fills it, in one write call
        keys = {("rec", i): self.rec[i]}
        if self.in_sparse(i):
            for j in sector(i):
                if j not in self.rec or not any(self.rec[j]):
                    if j < max(self.n, self.growing) and j != i and "half-sector" not in BREAK:
                        self.rec[j] = (Half(Entry(HOLE, None, self.core), 1), None); keys[("rec", j)] = self.rec[j]
        self.d.write_all(keys)

    def put_state(self, size=None, sparse=None, settle=False):
        s = self.state
        new = State(s.size if size is None else size, self.core, self.v.epoch, not settle,
                    self.v.epoch if settle else s.settled, s.sparse if sparse is None else sparse)
        if "settled-flag-kept" in BREAK and not s.unsettled: new = new._replace(unsettled=False)
        h, durable = list(self.states), self.old_state
        k = next((k for k in (0, 1) if h[k] == durable), 0)
        if "half-in-place" in BREAK: k = 1 - k
        new = new._replace(sequence=durable.sequence + 1)
        h[1 - k] = new
        self.state, self.states = new, tuple(h); self.mark += 1
        self.d.write("state", self.states)

    # ---- syncs
    def sync_all(self):
        """A sync that somebody is promised: under the writer lock."""
        self.wait_beside()
        if self.failed and "no-rewrite" not in BREAK: self.rewrite()
        try: self.d.sync()
        except SyncFailed: self.failed = True; raise
        self.barriers += 1; self.all_durable()

    def all_durable(self):
        self.failed = False; self.settled_blocks(); self.old_state, self.stale = self.state, False
        self.let_go(before=False)

    def undurable(self, i): return i in self.old or i >= self.old_blocks() or self.in_sparse(i) or i in self.suspects

    def settled_blocks(self): self.old, self.inplace, self.suspects = {}, set(), set()

    def rewrite(self):
        """After a failed sync: every non-durable block, record and state again, same bytes, same place, read back."""
        if self.core and self.doubt and "rewrite-loaded" not in BREAK:      # the mount before may have left some, too
            for g in range(group_of(self.n - 1) + 1):
                if g not in self.loaded: self.load_group(g)
        for i in [i for i in self.cur if self.undurable(i)]:
            e = self.cur[i]
            if self.opens(i, e): self.again(i); continue
            if i in self.old and "drop-durable" not in BREAK and self.opens(i, self.old[i]):
                self.cur[i] = self.old.pop(i); self.put_rec(i)    # the durable version stays
            else: self.lost.add(i)
        for i, h in self.rec.items():                      # zeroed halves and wiped records, too
            if i not in self.cur or i not in self.old: self.d.write(("rec", i), h)
        if self.core: self.write_header()

    def write_header(self): self.d.write_all({"core": self.core, "area0": self.areas[0], "area1": self.areas[1], "state": self.states})

    # ---- slots
    def free(self, g, n):
        tables = (self.cur,) if "reuse-slot" in BREAK else (self.cur, self.old)
        used = {e.slot for t in tables for i, e in t.items() if group_of(i) == g}
        return [s for s in range(slots(g, n)) if s not in used]
