"""A command that segments a NIfTI file, in plain Python, as NumPy would take a second to import."""

_TOOL = """
import array, gzip, struct, sys
with gzip.open(sys.argv[1]) as stream:
    raw = bytearray(stream.read())
values = array.array("f", bytes(raw[352:]))
ordered = sorted(values)
labels = [{label} for value in values]
struct.pack_into("<hh", raw, 70, 2, 8)
with gzip.open(sys.argv[2], "wb") as stream:
    stream.write(bytes(raw[:352]) + bytes(labels))
"""


def script(label: str) -> str:
    """The source of a tool whose labels are an expression of `value`, one voxel's, and all values `ordered`."""
    return _TOOL.replace("{label}", label)
