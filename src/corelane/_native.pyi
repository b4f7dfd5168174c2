"""cffi writes this module from csrc/api/*.h, which is where its functions are declared and described."""

from typing import Any

ffi: Any
lib: Any
