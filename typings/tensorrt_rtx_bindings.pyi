# The bindings bring no types, so checkers accept any name here. A test checks our calls against stubs from the library.
from typing import Any

def __getattr__(name: str) -> Any: ...
