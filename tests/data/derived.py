"""The constants of src/format/pinned.rs, computed from docs/FORMAT.md with Python's hashlib and hmac alone (and AES-SIV from
the `cryptography` package), never with the crate itself: run `python3 tests/data/derived.py` and compare."""
import hashlib
import hmac as hmac_module

from cryptography.hazmat.primitives.ciphers.aead import AESSIV, AESGCMSIV

PREFIX = b"strongroom/1/"


def hmac(key, text):
    return hmac_module.new(key, text, hashlib.sha256).digest()


def hkdf(ikm, salt, label, n):
    prk, block, out, i = hmac(salt, ikm), b"", b"", 1
    while len(out) < n:
        block = hmac(prk, block + PREFIX + label + bytes([i]))
        out, i = out + block, i + 1
    return out[:n]


def mac(key, label, *parts, n=16):
    framed = [PREFIX + label, *parts]
    return hmac(key, b"".join(len(part).to_bytes(4, "little") + part for part in framed))[:n]


def le(n, value):
    return value.to_bytes(n, "little")


def show(name, value):
    print(f"{name:24} {value.hex()}")


SECRET, DATA_KEY, BIND = bytes([1] * 32), bytes([2] * 32), bytes([3] * 32)
VOLUME, FILE, DIR, KEY = bytes([0xA0] * 16), bytes([0xB0] * 16), bytes([0xC0] * 16), bytes([0xD0] * 16)
STORED = b"stored-name"

# Volume keys.
for purpose, n in [("name", 64), ("symlink", 64), ("xattr-name", 64), ("xattr-value", 64),
                   ("dir", 32), ("volume-mac", 32), ("pin", 16), ("bind", 32)]:
    show(purpose, hkdf(SECRET, VOLUME, purpose.encode(), n))

# A file's keys.
header_key = hkdf(DATA_KEY + BIND, FILE, b"header", 32)
show("header_key", header_key)
show("content gcm", hkdf(DATA_KEY, FILE, b"content" + b"\x01", 32))
show("content xts", hkdf(DATA_KEY, FILE, b"content" + b"\x02", 64))

# Core and commitment.
core = b"STRONGRM" + le(2, 1) + bytes([1, 12]) + le(4, 0) + VOLUME + FILE
core = core + bytes(512 - len(core))
commitment = hkdf(DATA_KEY + BIND, FILE, b"commit" + core, 32)
show("commitment", commitment)
core = core[:48] + commitment + core[80:]
show("sha256(core)", hashlib.sha256(core).digest())


# Key area: CRC-32C bit by bit.
def crc32c(text):
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283
wrapped = bytes(range(60))
area = le(8, 7) + bytes([1, 1]) + le(2, len(wrapped)) + le(4, 3) + KEY + wrapped + bytes(400 - len(wrapped))
area = area + le(4, crc32c(area))
area = area + bytes(512 - len(area))
area = area[:436] + mac(header_key, b"wrap", FILE, area) + area[452:]
show("sha256(area)", hashlib.sha256(area).digest())

# State: sparse and unsettled, two tags.
tag = mac(header_key, b"name", FILE, DIR, STORED)
show("name_tag", tag)
state = le(8, 123456789) + le(4, 0b101) + le(4, 2) + le(8, 9) + le(8, 5) + le(4, 2) + le(4, 4) + le(8, 8) + bytes(16)
state = state + tag + bytes([0xEE] * 16)
state = state + bytes(256 - len(state))
state = state[:48] + mac(header_key, b"state", FILE, state) + state[64:]
show("sha256(state)", hashlib.sha256(state).digest())

# Record and block.
half_a = bytes([0x11] * 12) + bytes([0x22] * 16) + bytes([5, 1]) + le(2, 0x1234)
half_b = bytes([0x33] * 12) + bytes([0x44] * 16) + bytes([0, 2]) + le(2, 0x1235)
show("record", half_a + half_b)
aad = b"block" + bytes([1]) + le(8, 77) + FILE
show("block_aad", aad)
show("sealed block", AESGCMSIV(hkdf(DATA_KEY, FILE, b"content" + b"\x01", 32)).encrypt(bytes([0x11] * 12), b"text", aad))

# Entry of the redo file.
entry = FILE + le(8, 77) + bytes(4)
show("redo entry", entry + le(4, crc32c(entry)))

# Wraps.
show("context data key", PREFIX + b"wrap" + b"\0" + bytes([1]) + VOLUME + FILE + le(4, 0))
show("context volume key", PREFIX + b"wrap" + b"\0" + bytes([2]) + VOLUME + bytes(16) + le(4, 6))

# Names.
dir_key = hkdf(SECRET, VOLUME, b"dir", 32)
root = hkdf(dir_key, VOLUME, b"root", 16)
show("root", root)
child = hkdf(dir_key, root, b"child" + STORED, 16)
show("child", child)
show("place_tag", mac(dir_key, b"place", DIR, root, STORED))


def base64url(text):
    import base64
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


siv = AESSIV(hkdf(SECRET, VOLUME, b"name", 64))
print("name                    ", base64url(siv.encrypt("Grüße.txt".encode(), [root])))
long = siv.encrypt(b"n" * 176, [root])
print("long                    ", "strongroom.long." + base64url(hashlib.sha256(long).digest()))
print("gone                    ", "strongroom.gone." + base64url(hashlib.sha256(STORED).digest()))
xattr = AESSIV(hkdf(SECRET, VOLUME, b"xattr-name", 64))
stored_xattr = b"user.strongroom." + base64url(xattr.encrypt(b"user.colour", None)).encode()
print("xattr                   ", stored_xattr.decode())
nonce = bytes([0x55] * 16)
values = AESSIV(hkdf(SECRET, VOLUME, b"xattr-value", 64))
show("xattr value", nonce + values.encrypt(b"blue", [stored_xattr, nonce]))
links = AESSIV(hkdf(SECRET, VOLUME, b"symlink", 64))
print("symlink                 ", base64url(nonce + links.encrypt(b"../target", [nonce])))

# Framing of the volume and mount files.
show("mac32", mac(hkdf(SECRET, VOLUME, b"volume-mac", 32), b"mount", b"{}", n=32))
