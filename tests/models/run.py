#!/usr/bin/env python3
"""Runs every model with fixed seeds, and every model with each of its rules broken, which must be found out.

usage: run.py        (some minutes; exits 1 on any surprise; nothing but Python 3.9 or newer is needed)
"""
import concurrent.futures, os, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
HOLD = [["crash_model.py", "--runs", "2500"], ["crash_model.py", "--runs", "1500", "--torn"],
        ["names_model.py", "--runs", "30000"], ["dirs_model.py", "--runs", "20000"]]
# rule -> (model, runs): enough for the break to be found well before the end
BREAK_RUNS = {"crash_model.py": 8000, "names_model.py": 60000, "dirs_model.py": 200000}


def rules(model):
    return subprocess.run([sys.executable, "-B", os.path.join(HERE, model), "--list"], check=True, capture_output=True, text=True).stdout.split()


def one(command, rule=None):
    full = [sys.executable, "-B", os.path.join(HERE, command[0])] + command[1:] + (["--break", rule] if rule else [])
    start = time.monotonic()
    done = subprocess.run(full, capture_output=True, text=True)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:] or [""]
    found = "Traceback" not in done.stderr or "AssertionError" in last[0]           # a broken model is not a broken rule
    good = (done.returncode == 0) if rule is None else (done.returncode != 0 and found)
    return good, f"{' '.join(command)}{' --break ' + rule if rule else ''} [{time.monotonic() - start:.0f} s]: {last[0][:160]}"


def main():
    jobs = [(c, None) for c in HOLD]
    for model, runs in BREAK_RUNS.items(): jobs += [([model, "--runs", str(runs)], r) for r in rules(model)]
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for good, line in pool.map(lambda j: one(*j), jobs):
            print(("ok    " if good else "WRONG ") + line, flush=True); bad += not good
    print(f"{len(jobs) - bad} of {len(jobs)} as expected")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
