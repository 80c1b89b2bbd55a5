"""The structure that a reader relies on: rooms that import downwards, and no circle anywhere."""

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


def test_no_module_imports_itself_by_a_detour():
    """Imports inside functions and those for type checkers count; the package's top is one of the modules."""
    graph = grimp.build_graph("singlelife", include_external_packages=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' imports '.join(reversed(error.args[1]))}")
