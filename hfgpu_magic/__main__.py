"""``python -m hfgpu_magic`` is ``hfgpu``."""

from .cli import entry

if __name__ == "__main__":
    entry()
