"""What the medium and the page cache do to one file: FORMAT.md section 4, "What the media give".

`now` is the page cache; `hist` keeps, for every key whose disk content is not certain, the versions that a power cut may
leave. Keys: 'P' (the physical length, in units; None for 0 bytes), 'core', 'area0', 'area1', 'state', ('rec', block),
('slot', group, slot, half). The rules modelled:
  * a kill keeps `now`; a power cut keeps, per key, any version since the last good sync began;
  * metadata (length, cuts) keep their order: a prefix of the cuts survives;
  * no stable pages: of a record or state that is written again, each half may be torn;
  * a sync makes durable what was written before it began (`begin`, `end`; writes may come between);
  * a full store (`full`) takes no page where there is none yet;
  * a failed sync makes nothing durable, yet the pages count as clean: later good syncs skip them until they are written
    again, and the cache may drop them, so that reading shows the old disk content.
"""
U = 4                                  # units (stand-ins for bytes) in a block
N0, N = 4, 8                           # blocks in group 0 and in the others (the real ones: 32 and 64; small to stress)
SECTOR = 2                             # records in a sector (the real one: 8)
TEAR = 0.2                             # share of cuts in which a half was being copied while it went to disk
TORN = "torn"


def spares(m): return 1 + -(-m // 4)   # real format: 1 + ceil(m / 8)
def group_of(i): return 0 if i < N0 else 1 + (i - N0) // N
def first(g): return 0 if g == 0 else N0 + (g - 1) * N
def cap(g): return N0 if g == 0 else N
def blocks(size): return -(-size // U)
def slots(g, n): m = min(cap(g), n - first(g)); return m + spares(m)


def beyond(k, size):
    """Whether a physical length for this size ends before record or slot k."""
    if not size: return True
    n = blocks(size); g = group_of(n - 1)
    if k[0] == "rec": return group_of(k[1]) > g
    return k[1] > g or (k[1] == g and k[2] >= slots(g, n))


class Killed(Exception): """The daemon died here; the page cache lives on."""
class SyncFailed(Exception): """fdatasync returned an error."""


HEADER = ("core", "area0", "area1", "state")


class Disk:
    def __init__(self, rnd):
        self.rnd, self.now, self.hist, self.dirty, self.ever = rnd, {}, {}, {}, {}
        self.serial = self.epoch = self.failures = 0       # of writes; of cuts; of syncs
        self.cuts = []                     # (epoch, gone) of cuts that are not durable
        self.fuse, self.fail, self.hook, self.full = None, None, None, False

    def step(self):
        if self.fuse is not None:
            if self.fuse == 0: raise Killed
            self.fuse -= 1
        if self.hook: self.hook()

    # ---- writes
    def put(self, k, v):
        self.serial += 1
        self.hist.setdefault(k, [(0, 0, self.now.get(k))]).append((self.serial, self.epoch, v))
        self.now[k] = v; self.dirty[k] = self.serial
        self.ever.setdefault(k, []).append(v)

    def write(self, k, v): self.step(); self.put(k, v)

    def write_all(self, keys):
        """One write call over several keys: no kill in between, but a power cut may part them."""
        self.step()
        for k, v in keys.items(): self.put(k, v)

    def page(self, g, s, v): self.write_all({("slot", g, s, 0): v, ("slot", g, s, 1): v})

    def has_room(self, g, s): return not self.full or self.now.get(("slot", g, s, 0)) is not None

    def slot(self, g, s):
        a, b = self.now.get(("slot", g, s, 0)), self.now.get(("slot", g, s, 1))
        return a if a == b else None

    def cut(self, P, gone):
        """ftruncate to a smaller length: the keys for which gone(k) holds lose their content."""
        self.step(); self.epoch += 1; self.cuts.append((self.epoch, gone))
        for k in [k for k in self.now if k != "P" and gone(k)]: self.put(k, None)
        self.put("P", P)

    # ---- syncs
    def sync(self): self.end(self.begin())

    def begin(self):
        self.step()
        return self.serial, self.epoch, tuple(self.dirty)

    def end(self, token):
        if self.fail is not None:
            self.fail -= 1
            if self.fail < 0: self.fail = None; self.lose(token); raise SyncFailed
        self.step()
        serial, epoch, written = token; self.cleaned(token)
        durable = [c for c in self.cuts if c[0] <= epoch]; self.cuts = [c for c in self.cuts if c[0] > epoch]
        for k, h in list(self.hist.items()):
            if k in written or k == "P":
                h = [x for n, x in enumerate(h) if n + 1 == len(h) or h[n + 1][0] > serial]
            else:
                for n, gone in durable:
                    if k != "P" and gone(k): h = [x for x in h if x[1] >= n] or [(0, n, None)]
            if len({x[2] for x in h}) > 1: self.hist[k] = h
            else: del self.hist[k]

    def cleaned(self, token):
        self.dirty = {k: n for k, n in self.dirty.items() if n > token[0]}

    def lose(self, token):
        """The sync failed: all counts as clean; a part of it reached the disk, a part is dropped from the cache."""
        self.cleaned(token); self.failures += 1
        for k in token[2]:
            h = self.hist.get(k)
            if k == "P" or k in self.dirty or not h or self.rnd.random() < 0.5: continue
            if any(x[1] != self.epoch for x in h[1:]) or any(gone(k) for _, gone in self.cuts): continue
            t = (k[:3] if k[0] == "slot" else k)
            v = self.rnd.choice([x[2] for x in h])
            for j in ((("slot", k[1], k[2], 0), ("slot", k[1], k[2], 1)) if k[0] == "slot" else (k,)):
                if j in self.hist: del self.hist[j]
                self.now[j] = v

    def power_cut(self, torn):
        rnd, e = self.rnd, self.rnd.choice([self.epoch] + [n - 1 for n, _ in self.cuts])
        ties = {}
        for k, h in self.hist.items():
            lo, hi = 0, self.epoch                          # content before the last persisted cut of this key is gone,
            for n, gone in self.cuts:                       # content after the first unpersisted one is not there yet
                if k != "P" and gone(k): lo, hi = (n, hi) if n <= e else (lo, min(hi, n - 1))
            if k == "P": lo, hi = 0, e; first_cut = min([n for n, _ in self.cuts], default=e + 1)
            if k == "P" and first_cut <= e: ok = [v for _, ep, v in h if ep == e]
            else: ok = [v for _, ep, v in h if lo <= ep <= hi]
            if k == "P" and not ok: ok = [v for _, ep, v in h if ep <= e][-1:]
            pairs = [(x, y) for x, y in zip(ok, ok[1:]) if y and (x or k[0] == "rec")]      # a new header is a new page
            if lo: ok.append(None)
            t = k[:3] if k[0] == "slot" and not torn else k
            if t in ties and ties[t] in ok: self.now[k] = ties[t]
            else: self.now[k] = ties[t] = rnd.choice(ok) if ok else None
            if (k[0] == "rec" or k == "state") and pairs and rnd.random() < TEAR:
                self.now[k] = self.tear(*rnd.choice(pairs))
            if k in ("area0", "area1") and isinstance(ok[-1], tuple) and ok[-1].sequence > 1 and ok[0] != ok[-1] and rnd.random() < TEAR: self.now[k] = TORN
        for k in self.now:                                  # nothing exists past the length
            if k not in HEADER and k != "P" and beyond(k, self.now.get("P")): self.now[k] = None
            if k in HEADER and self.now.get("P") is None: self.now[k] = None
        self.hist, self.dirty, self.cuts = {}, {}, []

    def tear(self, x, y):
        """A pair of halves that was copied while it went to disk: a half that changes may be old, new or garbage."""
        x, y = x or (None, None), y or (None, None)
        return tuple(p if p == q else self.rnd.choice([p, q, TORN]) for p, q in zip(x, y))


class Beside(Disk):
    """Another file on the same store: its own syncs, the same deaths and failures. Pages and ('rec', n) never end."""
    def __init__(self, main): super().__init__(main.rnd); self.main, self.now["P"] = main, 1 << 20
    def step(self): self.main.step()
    @property
    def fail(self): return self.main.fail if hasattr(self, "main") else None
    @fail.setter
    def fail(self, n):
        if hasattr(self, "main"): self.main.fail = n
    @property
    def failures(self): return self.main.failures if hasattr(self, "main") else 0
    @failures.setter
    def failures(self, n):
        if hasattr(self, "main"): self.main.failures = n
