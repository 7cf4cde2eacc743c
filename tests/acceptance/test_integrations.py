"""Integrations cost nothing where they are not used, and say what to install where that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import localfirst

PACKAGES = "agents fastapi langchain_core openstackai pydantic_ai starlette"
EXTRAS = {"langchain": "langchain_core", "pydantic_ai": "pydantic_ai", "fastapi": "fastapi"}


def run(code: str) -> str:
    """What a program prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_importing_localfirst_imports_none_of_them() -> None:
    modules = [path.stem for path in Path(localfirst.__file__).parent.glob("*.py") if not path.stem.startswith("_")]
    code = f"import sys, localfirst\nfor name in {modules}: __import__('localfirst.' + name)\n"
    code += "import localfirst.integrations.pyai\n"
    assert run(code + f"print(set({PACKAGES.split()}) & set(sys.modules))") == "set()\n"


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    code = f"""
import sys
sys.modules[{EXTRAS[module]!r}] = None
import localfirst
try:
    import localfirst.integrations.{module}
except ImportError as error:
    print(isinstance(error, localfirst.ConfigurationError), error)
"""
    told = run(code)
    assert told.startswith("True ")
    assert f"pip install 'localfirst[{module.replace('_', '-')}]'" in told
