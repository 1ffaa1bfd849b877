#!/usr/bin/env python3
"""Executable model of the on-disk protocol for one AES-256-GCM-SIV file (docs/FORMAT.md, section 4).

Every single write is a step. Between random operations the model kills the daemon between any two steps (the page cache
survives), cuts the power (each sector keeps any version since the last sync that ended well), lets syncs fail, ends the
mount cleanly, or damages the file; then it opens the file again, compares it with the reference, and goes on from there.

Checked: nothing that an fsync acknowledged is lost or changed; after a kill nothing that a write acknowledged is lost; what
was cut off never comes back; zeros past the end; readers see whole versions; a cleanly settled file that was damaged gives
its own bytes or EIO; no zeros are made up by replaying its older bytes.

usage: crash_model.py [--runs N] [--seed S] [--torn] [--break RULE]      (--torn: a data page may tear, too)
"""
import argparse, copy, random
from disk import TORN, U, Beside, Disk, Killed, SyncFailed, blocks, group_of
from engine import ATOMIC, Engine
from file_model import BREAK, EMPTY, HOLE, TEXT, Damaged, NoRoom, Volume

# Each breaks one rule of FORMAT.md section 4; a run with it must fail.
RULES = {
    "half-in-place": "two halves: the durable half's bytes never change",
    "record-first": "1: ciphertext first, then the record half",
    "reuse-slot": "2: no slot of a durable entry is reused",
    "reader-no-retry": "threads: a reader whose entry changed tries again",
    "inplace-nosync": "3: in place: records, sync, then data",
    "inplace-undurable": "3: in place: only over blocks whose entry is durable",
    "inplace-twice": "3: such a block is not written again before the next sync",
    "reader-in-place": "3: readers wait for the data",
    "beside-early": "4: a sync beside counts once it has ended",
    "beside-all": "4: and for what was not changed since it began",
    "beside-unusual": "4: and where nothing but free slots was written since",
    "no-mark": "4: a background sync that saw writes counts for nothing",
    "state-first": "5: growth: the state half last",
    "state-last": "6: shrinking: the state half first",
    "shrink-nosync": "6: a sync before anything is given up",
    "move-nosync": "6: moved blocks are durable before ftruncate",
    "no-move": "6: blocks in slots past the end move down",
    "keep-records": "6: records past the end are zeroed",
    "keep-tail": "6: the tail of the last block is zeroed",
    "grow-early": "6: growing waits until the cut is durable",
    "no-older-half": "7: the other half counts in doubt",
    "no-zeros": "7: zeros between the two sizes",
    "no-sparse-torn": "7: a torn record in a sparse range is a hole",
    "sparse-needs-unsettled": "7: there doubt alone counts",
    "half-sector": "3 (data): the first touch of a sector fills it",
    "no-mend": "8: length and tail are mended",
    "no-mend-sync": "8: what was mended is durable before anything builds on it",
    "trust-cache": "8: what may be in the cache only is written again",
    "trust-header": "8: the header, too",
    "no-zero-halves": "9: step 2 zeroes superseded halves",
    "settle-nosync1": "9: step 1 before step 2",
    "settle-nosync3": "9: step 3 before step 4",
    "settle-nosync5": "9: step 5 before the clean mark",
    "wipe-with-settle": "9: the older state half goes after a sync of its own",
    "settle-unmended": "unclean ends: settled only once every group was mended",
    "settled-flag-kept": "two halves: a state not written by settling is unsettled",
    "doubt-never": "unclean ends: files in doubt are lenient",
    "arrival-ungated": "a header that never arrived: only with a list",
    "never-arrived-torn": "a header that never arrived: a torn half is none",
    "no-rewrite": "durable: after a failed sync all is written again",
    "drop-durable": "durable: what is gone falls back on its durable entry",
    "rewrap-nosync": "re-wrap: the old area goes after a sync",
    "redo-nosync": "10: a copy is durable before its block is written over",
    "redo-early": "10: a copy goes after a sync of the file",
    "redo-ignored": "10: a block that does not open is its copy",
    "redo-forgotten": "10: copies that were found stay until every group of their file is mended",
    "redo-records": "10: records are durable before the block is written over",
}

MAX = 24 * U                                               # units that a file may have here


def cut_off(text, k): return text if text == "EIO" else text[:k] + EMPTY[k:]


def shown(f):
    texts = {i: f.read(i) for i in range(blocks(f.size))}
    return {i: cut_off(f.falls_back(i) if x == "EIO" else x, min(U, f.size - i * U)) for i, x in texts.items()}


class World:
    """What the disk may show: per block the contents, and the sizes."""
    def __init__(self, size, base): self.may, self.sizes, self.base = {}, {size}, dict(base)
    def allows(self, f_size, got):
        if f_size not in self.sizes: return False
        for i, v in got.items():
            k = min(U, f_size - i * U)
            ok = {cut_off(x, k) for x in self.may.get(i, ()) or {self.base.get(i, EMPTY)}}
            if i >= blocks(min(self.sizes)) or "EIO" in ok: ok.add(EMPTY)
            if v not in ok: return False
        return True


class Run:
    def __init__(self, rnd, torn):
        self.rnd, self.torn, self.ids = rnd, torn, iter(range(1, 1 << 30))
        TEXT.clear(); TEXT[HOLE] = EMPTY; ATOMIC[0] = not torn
        self.d, self.v = Disk(rnd), Volume()
        self.r = Beside(self.d)                            # the redo file
        self.counts = dict.fromkeys(("operations", "kills", "cuts", "failed syncs", "older entries", "redone", "freed beside", "no room", "damages"), 0)
        self.val, self.size, self.worlds, self.log = {}, 0, [World(0, {})], []
        self.inner = None                                  # the write that runs while a pass syncs
        self.lossy = self.shaky = False      # lossy: a sync failed and none ended well since
        self.history = set()                               # every (block, content) that this file ever had
        self.mount()

    def mount(self):
        self.v.mount()
        self.f = Engine(self.d, self.r, self.v, self.ids)
        self.d.hook = self.f.reader

    # ---- one operation
    def go(self):
        for _ in range(self.rnd.randint(1, 14)): self.operation()
        self.end()

    def operation(self):
        rnd, f, size = self.rnd, self.f, self.size
        op = rnd.choice(["write"] * 7 + ["big"] * 2 + ["trunc", "trunc", "fsync", "fsync", "settle", "settle", "empty", "rewrap", "clean"])
        crash = rnd.random() < 0.25
        self.beside()
        self.d.fuse = rnd.randint(0, 16) if crash and rnd.random() < 0.6 else None
        self.d.fail = rnd.randint(0, 2) if rnd.random() < 0.08 else None
        lo = hi = 0
        if op == "write": lo = rnd.randint(0, min(size + 3 * U, MAX - 2 * U)); hi = lo + rnd.randint(1, 2 * U)
        if op == "big": lo = rnd.randint(0, 8 * U); hi = min(MAX, lo + rnd.randint(6 * U, 16 * U))
        self.d.full = self.torn and size > 0 and op in ("write", "big") and rnd.random() < 0.4
        if self.d.full: lo = rnd.randrange(size); hi = min(size, lo + rnd.randint(1, 4 * U))
        to = {"write": max(size, hi), "big": max(size, hi), "trunc": rnd.randint(1, MAX), "empty": 0}.get(op, size)
        self.log.append((op, (lo, hi, to), self.d.fuse, self.d.fail, self.d.full))
        self.counts["operations"] += 1
        gen = {"write": lambda: f.write(lo, hi), "big": lambda: f.write(lo, hi), "trunc": lambda: f.truncate(to), "empty": lambda: f.truncate(0),
               "fsync": f.fsync, "settle": self.settle, "clean": self.settle, "rewrap": f.rewrap}[op]()
        done = killed = False
        fresh, failures = next(gen), self.d.failures; self.seen = failures
        allowed = self.foresee(op, fresh, to)
        try: next(gen, None); done = True
        except Killed: killed = True; self.counts["kills"] += 1
        except NoRoom: self.counts["no room"] += 1
        except (SyncFailed, Damaged): pass
        self.d.full = False
        if self.d.failures > failures: self.lossy = True; self.counts["failed syncs"] += self.d.failures - failures
        self.d.fuse = self.d.fail = None
        if op in ("settle", "clean"): allowed, self.inner = self.inner or (dict(self.val), self.size), None
        before, before_size = dict(self.val), self.size
        if done: self.finished(op, allowed)
        elif not killed: self.look_again()
        if op == "clean" and done and self.f_settled: self.clean()
        elif self.lossy and not killed and rnd.random() < 0.4: self.crash(True, before, before_size, allowed)
        elif killed or crash: self.crash(killed and rnd.random() < 0.5, before, before_size, allowed)

    def beside(self):
        """A sync beside the writer begins, or ends, between two operations; within them, whoever syncs waits for it."""
        if self.rnd.random() < 0.5: return
        if not self.f.beside: return self.f.begin_beside()
        if self.rnd.random() < 0.1: self.d.fail = 0
        failures = self.d.failures
        self.f.wait_beside(); self.d.fail = None
        if self.d.failures > failures: self.lossy = True; self.counts["failed syncs"] += 1; self.look_again()

    def foresee(self, op, fresh, to):
        """The reference after the operation; the worlds that a power cut may show from now on."""
        val, size = dict(self.val), self.size
        merged, over = {}, lambda i, x: tuple(fresh.get(i * U + k, x[k]) for k in range(U))
        for i in {u // U for u in fresh}:
            old = val.get(i, EMPTY)
            if old == "EIO":                               # refused, or over what a repaired sync brings back
                merged[i] = {over(i, x) for w in self.worlds for x in w.may.get(i, ()) if x != "EIO"} | {over(i, EMPTY)}
            val[i] = over(i, EMPTY if old == "EIO" else old)
        if op == "empty": val = {}
        if to < size:
            val = {i: cut_off(x, min(U, to - i * U)) for i, x in val.items() if i * U < to}
        if op == "empty": self.worlds.append(World(0, {}))
        w = self.worlds[-1]
        for i in range(max(blocks(to), blocks(size))):
            if val.get(i, EMPTY) != self.val.get(i, EMPTY) or (i < blocks(to)) != (i < blocks(size)):
                w.may.setdefault(i, {self.val.get(i, EMPTY)}).update({val.get(i, EMPTY)} | ({EMPTY} if i >= blocks(size) else set()))
        for i, texts in merged.items():
            w.may.setdefault(i, {"EIO"}).update(texts); self.history |= {(i, x) for x in texts}
        w.sizes.add(to)
        self.history |= {(i, val.get(i, EMPTY)) for i in range(blocks(to))}
        return val, to

    def finished(self, op, allowed):
        shrunk = 0 < allowed[1] < self.size
        self.val, self.size = allowed
        self.val = {i: v for i, v in self.val.items() if i < blocks(self.size)}
        if self.f.size != self.size or any(self.f.read(i) != self.val.get(i, EMPTY) for i in range(blocks(self.size))):
            assert self.lossy or self.shaky, ("not what was written", self.log)
            self.look_again()
        if shrunk or op == "fsync" or (op in ("settle", "clean") and self.f_settled): self.promised()

    def promised(self):
        """A sync ended well: what the file shows is durable."""
        w = World(self.size, self.val)
        if self.shaky:                                     # but of what an earlier mount failed to sync, only what was mended
            for old in self.worlds: w.may.update({i: m for i, m in old.may.items() if not self.f.core or group_of(i) not in self.f.loaded})
        self.worlds, self.lossy = [w], False

    def look_again(self):
        """After an operation that failed: what the file shows now must be something that it may show."""
        got = shown(self.f)
        self.check("failed operation", self.f.size, got)
        self.val, self.size = got, self.f.size
        for w in self.worlds[-1:]: w.sizes.add(self.size); [w.may.setdefault(i, set()).add(v) for i, v in got.items()]

    def check(self, what, size, got):
        for w in self.worlds:
            lax = {i: v for i, v in got.items() if not (v == "EIO" and (self.lossy or self.shaky) and i in w.may)}
            if w.allows(size, lax): return
        assert False, (what, size, got, [(w.sizes, w.may, w.base) for w in self.worlds], self.log)

    # ---- settling, unmounting, crashing
    def settle(self):
        """Another thread may write while the pass syncs."""
        self.f_settled = False
        yield {}
        self.f_settled = self.f.settle(self.meanwhile if self.rnd.random() < 0.4 else lambda: None)

    def meanwhile(self):
        if not self.f.core or self.rnd.random() < 0.5: return
        if self.d.failures > self.seen: self.lossy = True; self.look_again()           # a sync beside, before the pass
        lo = self.rnd.randrange(self.size) if self.size else 0
        hi = min(lo + self.rnd.randint(1, 2 * U), self.size if self.rnd.random() < 0.6 else MAX)
        gen = self.f.write(lo, max(hi, lo + 1)); fresh = next(gen); to = max(self.size, hi, lo + 1)
        self.log.append(("meanwhile", lo, hi)); self.inner = self.foresee("write", fresh, to)
        try:
            next(gen, None); self.finished("write", self.inner)
        except Damaged: pass
        self.inner = None

    def clean(self):
        """A clean unmount; sometimes the next mount finds the file damaged by somebody without keys."""
        if not self.f.failed: self.v.clean = True
        self.d.hook = None
        if self.v.clean:
            for _ in range(2): self.damage()
        self.mount()
        got = {i: self.f.read(i) for i in range(blocks(self.f.size))}
        want = {i: self.val.get(i, EMPTY) for i in range(blocks(self.size))}
        assert self.f.size == self.size and got == want, ("clean", self.f.size, self.size, got, want, self.log)

    def crash(self, keep_cache, before, before_size, allowed):
        """keep_cache: the daemon was killed, the host lives on."""
        self.d.hook = None
        if not keep_cache: self.d.power_cut(self.torn); self.r.power_cut(True); self.counts["cuts"] += 1
        self.counts["redone"] += self.f.redone; self.counts["freed beside"] += self.f.freed
        old, self.f = self.f, None
        lossy = self.lossy or old.failed
        self.mount()
        f = self.f
        got = shown(f)
        if keep_cache and not lossy and not self.shaky:
            assert f.size in {before_size, allowed[1]}, ("kill: size", f.size, self.log)
            for i, v in got.items():
                k = min(U, f.size - i * U)
                ok = {cut_off(before.get(i, EMPTY), k), cut_off(allowed[0].get(i, EMPTY), k)}
                assert v in ok or (v == EMPTY and ("EIO" in ok or i >= blocks(before_size))), ("kill: block", i, v, ok, self.log)
        self.check("kill" if keep_cache else "power cut", f.size, got)
        self.history |= set(got.items())
        self.counts["older entries"] += old.recovered
        self.val, self.size = got, f.size
        if keep_cache:
            self.shaky = self.shaky or lossy
            w = self.worlds[-1]; w.sizes.add(f.size); [w.may.setdefault(i, set()).add(v) for i, v in got.items()]
        else: self.worlds, self.shaky = [World(self.size, self.val)], False
        self.lossy = False

    # ---- somebody without keys
    def damage(self):
        (d, r), v, rnd = copy.deepcopy((self.d, self.r)), copy.deepcopy(self.v), self.rnd
        keys = [k for k in d.now if d.now[k] is not None]
        if not keys or not self.f.core: return
        self.counts["damages"] += 1
        replay = rnd.random() < 0.5
        for k in keys:
            if not replay and rnd.random() < 0.8: continue
            if replay: d.now[k] = rnd.choice(d.ever.get(k, [None]) + [d.now[k]] * 2)
            elif k == "P": d.now[k] = rnd.randint(1, MAX)
            elif k[0] == "rec" or k == "state":
                d.now[k] = rnd.choice([None, (TORN, None), (None, TORN), (d.now[k][0], None), (None, d.now[k][1]), d.now[k][::-1]])
            else: d.now[k] = rnd.choice([None, TORN])
        if d.now["P"] is None: return                      # cut to 0 bytes: not hidden from anybody (THREAT_MODEL.md)
        v.mount()
        for k in [k for k in r.now if k != "P"]:           # the redo file, too
            if rnd.random() < 0.5: r.now[k] = rnd.choice(r.ever.get(k, []) + [None, TORN if k[0] == "slot" else (TORN, None)])
        try: f = Engine(d, r, v, iter(range(1 << 31, 1 << 32)))
        except Damaged: return
        if not f.core: assert v.listed, ("empty without doubt", self.log); return
        if not replay: assert f.size == self.size, ("damage: size", f.size, self.size, self.log)
        for i in range(blocks(f.size)):
            got = f.read(i)
            if got == "EIO": continue
            if not replay: ok = got == self.val.get(i, EMPTY) or (got == EMPTY and f.in_sparse(i))
            else: ok = any(got == cut_off(x, k) for j, x in self.history if j == i for k in range(U + 1)) or (got == EMPTY and (f.in_sparse(i) or f.state.epoch in v.listed))
            assert ok, ("damage", "replay" if replay else "change", i, got, self.val.get(i), self.log)

    def end(self):
        """A clean end shows exactly what was acknowledged, whatever came before."""
        while not self.f.settle(): pass
        self.f_settled = True; self.look_again(); self.promised()
        self.clean()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--runs", type=int, default=5000); ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--torn", action="store_true"); ap.add_argument("--break", dest="rule"); ap.add_argument("--list", action="store_true"); a = ap.parse_args()
    if a.list: print("\n".join(RULES)); return
    if a.rule and a.rule not in RULES: ap.error(f"no such rule; there are: {', '.join(RULES)}")
    if a.rule: BREAK.add(a.rule)
    a.torn = a.torn or bool(a.rule and a.rule.startswith("redo-"))
    total = {}
    for n in range(a.runs):
        run = Run(random.Random(a.seed * 1_000_003 + n), a.torn)
        try: run.go()
        except AssertionError as e: raise SystemExit(f"run {n}: {e}")
        except Damaged: raise SystemExit(f"run {n}: a mount found the file damaged {run.log}")
        for k, c in run.counts.items(): total[k] = total.get(k, 0) + c
    print(f"crash_model: {a.runs} runs, " + ", ".join(f"{c} {k}" for k, c in total.items()) + ": all held")


if __name__ == "__main__":
    main()
