"""Map the two source folders into one import package.

``actors/`` is ``aigateway.actors`` and ``http/`` is ``aigateway.http``.  There is no
``aigateway/`` folder, and ``http/`` has no ``__init__.py``: a plain folder loses against
a regular package, so the standard library's ``http`` wins wherever the checkout itself
is on ``sys.path``.
"""

import warnings

from setuptools import find_namespace_packages, setup

ROOMS = {"aigateway.actors": "actors", "aigateway.http": "http"}

packages = [
    name
    for room, folder in ROOMS.items()
    for name in [room, *(f"{room}.{sub}" for sub in find_namespace_packages(folder))]
    if "__pycache__" not in name
]

# An editable installation warns of a folder named like the package, which this checkout has not.
warnings.filterwarnings("ignore", message="Editable installation")

setup(
    package_dir=dict(ROOMS),
    packages=packages,
    package_data={
        name: [
            "*.pyi",
            "*.proto",
            "py.typed",
            "*.sql",
            "table.json",
            # The console's templates and assets.
            "*.html",
            "*.svg",
            "*.css",
            "*.js",
            "*.LICENSE.txt",
        ]
        for name in packages
    },
)
