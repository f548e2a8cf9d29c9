"""Make pytest see the installed packages whose distribution's folder has the same name."""

# With --import-mode=importlib a test in atlas_kernels_builtin/tests is the module atlas_kernels_builtin.tests.test_x:
# pytest would take the folder for an empty namespace package and hide the real one, unless that is there first.
import atlas_kernels_builtin  # noqa: F401
import atlas_solvers_builtin  # noqa: F401
