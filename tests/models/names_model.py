#!/usr/bin/env python3
"""Executable model of how files are bound to their names (docs/FORMAT.md, section 5), with epochs and leniency.

A header's state sector (name tags, unsettled flag, epoch; written whole) is data: after a power cut it has any version
since the last sync of the file. Directory changes are metadata: a prefix of them, in order, has survived. A power cut ends
the epoch uncleanly and puts it on the list; a clean end settles everything.
Checked after every step: each name that exists opens its file (no false alarm). At the end: no name that was never given
to a file opens it (a swapped file is found out), not even with an older state of the file put back, unless that state is of
a listed epoch.

usage: names_model.py [--runs N] [--seed S] [--break RULE]
"""
import argparse, random
from typing import NamedTuple

RULES = {
    "drop-early": "tags of names that went are dropped by settling only",
    "no-sync": "a new tag is durable before the directory changes, if the durable state is settled",
    "links-unsynced": "or if the file has or gets several links",
    "state-in-memory": "the durable state counts for that, not the newest",
    "wipe-at-fsync": "an fsync does not settle",
    "no-mend": "settling: one link, its tag alone stays",
    "via-unmended": "the tag by which the file was reached is mended with the new one",
    "names-unsynced": "and only once the directory changes are durable",
    "settle-at-once": "names that changed during the sync of settling are left for the next pass",
    "untold-clean": "an epoch that ended uncleanly is listed",
    "unlisted-tolerated": "a missing tag is tolerated only where the epoch is listed",
    "settled-tolerated": "and the state is unsettled",
}


class State(NamedTuple):
    tags: frozenset
    unsettled: bool
    epoch: int


class Store:
    def __init__(self): self.dir, self.base, self.journal, self.sector, self.hist, self.ever = {}, {}, [], {}, {}, {}

    def put(self, f, state):
        self.hist.setdefault(f, [self.sector.get(f)]).append(state); self.sector[f] = state
        self.ever.setdefault(f, set()).add(state)

    def meta(self, change): self.journal.append(change); change(self.dir)

    def sync_file(self, f):
        """fdatasync: this file's sector; the journal goes along with it, as on ext4, at worst not at all."""
        self.hist.pop(f, None)

    def sync_all(self): self.hist, self.journal, self.base = {}, [], dict(self.dir)

    def power_cut(self, rnd):
        self.dir = dict(self.base)
        for change in self.journal[:rnd.randint(0, len(self.journal))]: change(self.dir)
        for f, h in self.hist.items(): self.sector[f] = rnd.choice(h)
        self.sync_all()


class Volume:
    def __init__(self, store, rule): self.s, self.rule, self.gone, self.epoch, self.listed = store, rule, {}, 1, set()

    def names(self, f): return {n for n, g in self.s.dir.items() if g == f}

    def crashed(self):
        if self.rule != "untold-clean": self.listed.add(self.epoch)
        self.epoch += 1; self.gone = {}

    # ---- opening
    def tolerant(self, v, mounted):
        """A missing tag is tolerated: of this mount (known in memory) or of a listed epoch, and unsettled."""
        known = v.epoch in self.listed or (mounted and v.epoch == self.epoch) or self.rule == "unlisted-tolerated"
        return known and (v.unsettled or self.rule == "settled-tolerated")

    def opens(self, name, v, mounted=True):
        return v is None or name in v.tags or self.tolerant(v, mounted)                     # None: an empty file, not bound

    # ---- changes of names
    def put(self, f, tags, unsettled=True): self.s.put(f, State(frozenset(tags), unsettled, self.epoch))

    def create(self, name, f):
        self.s.meta(lambda d: d.__setitem__(name, f)); self.put(f, {name})                  # first write: a header appears

    def add_tag(self, f, name, via, link=False):
        """Before a name is added: the file was reached under the name `via`, so that tag is mended too."""
        v = self.s.sector.get(f)
        if not v: return
        assert self.opens(via, v), ("false alarm", via, f)                                  # else a swap would be laundered
        self.put(f, v.tags | {name} | (set() if self.rule == "via-unmended" else {via}))
        several = link or len(self.names(f)) > 1                                            # st_nlink
        on_disk = self.s.hist.get(f, [self.s.sector[f]])[:-1] or [v]                        # states that a cut may leave
        settled = any(x and not x.unsettled for x in on_disk) if self.rule != "state-in-memory" else not v.unsettled
        if (settled and self.rule != "no-sync") or (several and self.rule != "links-unsynced"): self.s.sync_file(f)

    def rename(self, a, b):
        f = self.s.dir[a]; self.add_tag(f, b, a)
        def change(d): d[b] = f; d.pop(a, None)
        self.s.meta(change); self.lost(f, a)

    def link(self, a, b):
        f = self.s.dir[a]; self.add_tag(f, b, a, True); self.s.meta(lambda d: d.__setitem__(b, f))

    def unlink(self, a):
        f = self.s.dir[a]; self.s.meta(lambda d: d.pop(a, None)); self.lost(f, a)

    def lost(self, f, name):
        self.gone.setdefault(f, set()).add(name)                                            # dropped when that is durable
        if self.rule == "drop-early" and self.s.sector.get(f): self.put(f, self.names(f), self.s.sector[f].unsettled)

    # ---- making durable
    def append(self, f):
        if self.s.sector.get(f): self.put(f, self.s.sector[f].tags)                         # growth: unsettled, not synced

    def fsync(self, f):
        self.s.sync_file(f)
        if self.rule == "wipe-at-fsync" and self.s.sector.get(f): self.put(f, self.s.sector[f].tags, False)

    def settle(self, rnd, meanwhile=lambda: None):
        """A sync is no instant: files whose names changed meanwhile are left for the next pass."""
        self.s.sync_all() if self.rule != "names-unsynced" else self.s.hist.clear(); was = {f: self.names(f) for f in set(self.s.dir.values())}; meanwhile()
        for f in sorted(set(self.s.dir.values())):
            here, v = self.names(f), self.s.sector.get(f)
            if not v or (here != was.get(f) and self.rule != "settle-at-once"): continue
            n = rnd.choice(sorted(here)); tags = v.tags
            if len(here) == 1: tags = {n} if self.rule != "no-mend" else tags               # its only name
            else: tags = (tags | {n}) - (self.gone.get(f, set()) - here)
            self.put(f, tags, False); self.gone.pop(f, None)


class Run:
    def __init__(self, rnd, rule):
        self.rnd, self.s, self.ids, self.log = rnd, Store(), iter(range(1, 1 << 20)), []
        self.v, self.ever, self.cuts = Volume(self.s, rule), {}, 0                          # ever: file -> names it ever had

    def step(self):
        s, v, rnd, have = self.s, self.v, self.rnd, sorted(self.s.dir)
        op = rnd.choice(["create", "rename", "rename", "link", "unlink", "fsync", "settle", "cut", "append", "remount"]); new = rnd.choice("abcdefgh")
        self.log.append((op, new))
        if op == "create" and new not in s.dir: f = next(self.ids); v.create(new, f); self.ever.setdefault(f, set()).add(new)
        elif not have: return
        elif op in ("rename", "link"):
            x = rnd.choice(have)
            if x != new and not (op == "link" and new in s.dir): self.ever[s.dir[x]].add(new); getattr(v, op)(x, new)
        elif op == "unlink": v.unlink(rnd.choice(have))
        elif op == "fsync": v.fsync(s.dir[rnd.choice(have)])
        elif op == "append": v.append(s.dir[rnd.choice(have)])
        elif op == "settle":
            x = rnd.choice(have); free = new not in s.dir and rnd.random() < 0.5
            if free: self.ever[s.dir[x]].add(new)
            v.settle(rnd, (lambda: v.rename(x, new)) if free else (lambda: None))
        elif op == "cut": s.power_cut(rnd); self.cuts += 1; v.crashed()
        elif op == "remount": v.settle(rnd); s.sync_all(); v.epoch += 1
        for n, f in s.dir.items(): assert v.opens(n, s.sector.get(f)), ("false alarm", n, f, s.sector[f], self.log)

    def swaps(self):
        """After a clean end somebody puts files under other names, with their newest or with an older state of theirs."""
        self.v.settle(self.rnd); self.s.sync_all(); self.v.epoch += 1; n = 0
        for name in self.s.dir:
            for f in set(self.s.dir.values()):
                if name in self.ever[f] or not self.s.sector.get(f): continue
                for state in self.s.ever[f]:
                    if state != self.s.sector[f] and state.unsettled and state.epoch in self.v.listed: continue     # a known limit
                    n += 1
                    assert not self.v.opens(name, state, False), ("swap not found out", name, f, state, self.log)
        return n


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--runs", type=int, default=40000); ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--break", dest="rule", choices=RULES); ap.add_argument("--list", action="store_true"); a = ap.parse_args()
    if a.list: print("\n".join(RULES)); return
    cuts = swaps = 0
    for n in range(a.runs):
        run = Run(random.Random(a.seed * 1_000_003 + n), a.rule)
        try:
            for _ in range(run.rnd.randint(2, 18)): run.step()
            swaps += run.swaps(); cuts += run.cuts
        except AssertionError as e: raise SystemExit(f"run {n}: {e}")
    print(f"names_model: {a.runs} runs, {cuts} power cuts, no false alarm; {swaps} of {swaps} swaps found out")


if __name__ == "__main__":
    main()
