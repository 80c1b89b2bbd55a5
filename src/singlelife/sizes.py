"""Numbers of bytes, for people."""


def in_bytes(number: float) -> str:
    """In kB, MB or GB: `in_bytes(2_830_000)` is `"2.8 MB"`."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
