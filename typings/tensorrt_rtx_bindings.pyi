# The bindings bring no types. Checkers then accept any name; a test checks our calls against stubs made from the library.
from typing import Any

def __getattr__(name: str) -> Any: ...
