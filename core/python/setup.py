"""What pyproject.toml cannot say: the version is the library's, the wheel is for any Python on this one platform."""
import re
from pathlib import Path

from setuptools import Distribution, setup
from wheel.bdist_wheel import bdist_wheel

HEADER = Path(__file__).parent / "deq" / "lib" / "deq.h"

if not HEADER.exists():
    raise SystemExit("deq is installed from a wheel, which has the compiled library inside. At the top of the "
                     "project:\n    make wheel && pip install build/wheel/deq-*.whl")


class WithLibrary(Distribution):
    def has_ext_modules(self):
        return True


class AnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    version=re.search(r'#define DEQ_VERSION "(.*)"', HEADER.read_text()).group(1),
    distclass=WithLibrary,
    cmdclass={"bdist_wheel": AnyPython},
)
