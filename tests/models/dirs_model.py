#!/usr/bin/env python3
"""Executable model of directory ids (docs/FORMAT.md, section 5): derived ids, strongroom.dir with its places, gone-markers.

The store keeps the changes of one directory in their order, and a rename is one change of both parents; changes of
different directories may reach the disk in any order, unless synced. A power cut keeps any set of changes that respects
this. A kill keeps everything, but what the daemon knew is gone.
Checked after every operation and crash: every directory that can be reached has an id that fits where it stands, is still the
id that it had (else its names do not decrypt), and no other directory has it (else files could be swapped between them).

usage: dirs_model.py [--runs N] [--seed S] [--break RULE]
"""
import argparse, copy, random

RULES = {
    "no-dirfile": "renaming: strongroom.dir carries the id to the new place",
    "dirfile-unsynced": "it is synced before the rename",
    "new-place-only": "it names the old place, too, until the rename is durable",
    "drop-unsynced": "the older place is dropped once the rename is durable",
    "no-marker": "renaming leaves a marker in the old parent",
    "marker-after": "the marker comes before the rename",
    "derived-on-marker": "mkdir takes a random id where a marker stands",
    "random-unsynced": "such a directory is built hidden and synced before it appears",
    "no-marker-of-own": "removing a directory that holds markers leaves one for it",
    "purge-unsynced": "one that holds files of ours is hidden, durably, before they go",
    "place-unchecked": "a place must fit where the directory stands",
}
ROOT, TMP, DIR = 0, "tmp", "strongroom.dir"


class Store:
    """Directories as object -> {entry: what}; entries are names, ("gone", name), ("hidden", d), DIR -> (id, places)."""
    def __init__(self): self.now, self.base, self.journal = {ROOT: {}}, {ROOT: {}}, []

    def change(self, dirs, change): self.journal.append((frozenset(dirs), change)); change(self.now)

    def put(self, d, k, v): self.change([d], lambda s: s.setdefault(d, {}).__setitem__(k, v))
    def drop(self, d, k): self.change([d], lambda s: s.setdefault(d, {}).pop(k, None))

    def move(self, p, a, q, b):
        def change(s):
            if a in s.get(p, {}): s.setdefault(q, {})[b] = s[p].pop(a)
        self.change([p, q], change)

    def sync(self, d):
        """fsync of a directory: its changes, and all that came before them in the directories that they touch."""
        dirs, kept = {d}, []
        for op in reversed(self.journal):
            if op[0] & dirs: dirs |= op[0]; kept.append(op)
        for _, change in reversed(kept): change(self.base)
        self.journal = [op for op in self.journal if not any(op is k for k in kept)]

    def power_cut(self, rnd):
        state, dropped, p = self.base, set(), rnd.random()
        for dirs, change in self.journal:
            if dirs & dropped or rnd.random() < p: dropped |= dirs
            else: change(state)
        self.now, self.base, self.journal = state, copy.deepcopy(state), []


class Volume:
    def __init__(self, store, rule, ids): self.s, self.rule, self.ids = store, rule, ids

    # ---- what the tree says now
    def tree(self):
        """Every directory that can be reached: object -> (parent, name, id); id None: EIO."""
        found, todo = {ROOT: (None, None, "root")}, [ROOT]
        while todo:
            p = todo.pop()
            for name, d in sorted((k, v) for k, v in self.s.now.get(p, {}).items() if isinstance(k, str) and k not in (DIR, TMP)):
                found[d] = (p, name, self.id_of(d, found[p][2], name)); todo.append(d)
        return found

    def id_of(self, d, parent, name):
        stored = self.s.now.get(d, {}).get(DIR)
        if stored is None: return ("derived", parent, name)
        return stored[0] if (parent, name) in stored[1] or self.rule == "place-unchecked" else None

    # ---- operations
    def make(self, p, name, parent):
        d = next(self.ids)
        if ("gone", name) not in self.s.now[p] or self.rule == "derived-on-marker":
            self.s.change([p, d], lambda s: (s.setdefault(d, {}), s[p].__setitem__(name, d))); return d
        self.s.change([p, d], lambda s: (s.setdefault(d, {}), s[p].__setitem__(TMP, d)))
        self.s.put(d, DIR, (("random", d), frozenset({(parent, name)})))
        if self.rule != "random-unsynced": self.s.sync(d)
        self.s.move(p, TMP, p, name)
        return d

    def rename(self, d, tree, q, b):
        p, a, id_ = tree[d]
        here, there = (tree[p][2], a), (tree[q][2], b)
        if self.rule != "no-dirfile":
            stored = self.s.now[d].get(DIR)
            if stored and len(stored[1]) > 1: self.one_place(d, p, here)
            self.s.put(d, DIR, (id_, frozenset({there} if self.rule == "new-place-only" else {here, there})))
            if self.rule != "dirfile-unsynced": self.s.sync(d)
        marker = lambda: self.s.put(p, ("gone", a), True)
        if self.rule not in ("no-marker", "marker-after"): marker()
        self.s.move(p, a, q, b)
        if self.rule == "marker-after": marker()

    def one_place(self, d, parent, here):
        """The rename is durable once the parent where the directory stands is synced; then the older place goes."""
        if self.rule != "drop-unsynced": self.s.sync(parent)
        self.s.put(d, DIR, (self.s.now[d][DIR][0], frozenset({here})))

    def remove(self, d, tree):
        p, a, _ = tree[d]
        if self.rule != "no-marker-of-own" and any(k[0] == "gone" for k in self.s.now[d]): self.s.put(p, ("gone", a), True)
        if not self.s.now[d]: self.s.drop(p, a); return
        hidden = ("hidden", d)
        self.s.sync(d); self.s.move(p, a, p, hidden)
        if self.rule != "purge-unsynced": self.s.sync(p)
        for ours in list(self.s.now[d]): self.s.drop(d, ours)
        self.s.drop(p, hidden)

    def settle(self, tree):
        for d, (p, a, _) in tree.items():
            stored = self.s.now[d].get(DIR)
            if stored and len(stored[1]) > 1: self.one_place(d, p, (tree[p][2], a))


class Run:
    def __init__(self, rnd, rule):
        self.rnd, self.s, self.log = rnd, Store(), []
        self.v, self.had, self.crashes, self.moved_by_enemy = Volume(self.s, rule, iter(range(1, 1 << 20))), {}, 0, 0

    def step(self):
        rnd, v, tree = self.rnd, self.v, self.v.tree()
        op = rnd.choice(["make"] * 4 + ["rename"] * 4 + ["remove", "remove", "sync", "settle", "cut", "kill"]); d = rnd.choice(sorted(tree))
        q, name = rnd.choice(sorted(tree)), rnd.choice("abc")
        self.log.append((op, d, q, name))
        if op == "make" and name not in self.s.now[q]: v.make(q, name, tree[q][2])
        if op == "rename" and d != ROOT and name not in self.s.now[q] and not self.inside(q, d, tree): v.rename(d, tree, q, name)
        if op == "remove" and d != ROOT and not any(isinstance(k, str) and k != DIR for k in self.s.now[d]): v.remove(d, tree)
        if op == "sync": self.s.sync(d)
        if op == "settle": v.settle(tree)
        if op == "cut": self.s.power_cut(rnd); self.crashes += 1
        self.check()

    def inside(self, q, d, tree):
        while q is not None:
            if q == d: return True
            q = tree[q][0]
        return False

    def check(self):
        owner = {}
        for d, (_, _, id_) in self.v.tree().items():
            assert id_ is not None, ("no place fits", d, self.log)
            assert self.had.setdefault(d, id_) == id_, ("another id", d, self.had[d], id_, self.log)
            assert owner.setdefault(id_, d) == d, ("two directories share an id", d, owner[id_], self.log)

    def enemy(self):
        """After a clean end: somebody moves a directory on the store. It must not be believed, unless it is put back."""
        self.v.settle(self.v.tree()); self.check(); tree = self.v.tree()
        for d, (p, a, _) in tree.items():
            q, b = self.rnd.choice(sorted(tree)), self.rnd.choice("abc")
            if d == ROOT or DIR not in self.s.now[d] or b in self.s.now[q] or self.inside(q, d, tree): continue
            self.moved_by_enemy += 1
            assert self.v.id_of(d, tree[q][2], b) is None, ("moved by somebody", d, self.log)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--runs", type=int, default=20000); ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--break", dest="rule", choices=RULES); ap.add_argument("--list", action="store_true"); a = ap.parse_args()
    if a.list: print("\n".join(RULES)); return
    crashes = moved = 0
    for n in range(a.runs):
        run = Run(random.Random(a.seed * 1_000_003 + n), a.rule)
        try:
            for _ in range(run.rnd.randint(2, 20)): run.step()
            run.enemy(); crashes += run.crashes; moved += run.moved_by_enemy
        except AssertionError as e: raise SystemExit(f"run {n}: {e}")
    print(f"dirs_model: {a.runs} runs, {crashes} power cuts: every id kept and of one directory; {moved} moved directories found out")


if __name__ == "__main__":
    main()
