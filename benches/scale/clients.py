"""How many files CLIENTS programs make at once: clients.py DIR CLIENTS FILES.

Each makes, writes (100 bytes) and closes its share of the files in directories of its own, 64 in all. Counted from when all
have started until the last has made its last file.
"""
import os, subprocess, sys, time

CLIENT = """
import os, sys
top, files, dirs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for n in range(dirs): os.mkdir(f'{top}-{n}')
sys.stdout.write('r'); sys.stdout.flush(); sys.stdin.read(1)
for n in range(files):
    file = os.open(f'{top}-{n % dirs}/f{n}', os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
    os.write(file, b'x' * 100)
    os.close(file)
sys.stdout.write('e'); sys.stdout.flush()
"""

top, clients, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tops = [f"{top}/c{clients}-{os.getpid()}-{n}" for n in range(clients)]
share = [str(files // clients), str(64 // clients)]
programs = [subprocess.Popen([sys.executable, "-c", CLIENT, top, *share],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE) for top in tops]
def told(word): return all(program.stdout.read(1) == word for program in programs)
assert told(b"r")
begun = time.time()
for program in programs:
    program.stdin.write(b"g")
    program.stdin.flush()
assert told(b"e"), "a client failed"
print(f"{clients} clients: {files / (time.time() - begun):.0f} files/s")
for program in programs: program.wait()
