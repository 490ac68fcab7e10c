"""A gunicorn configuration, for those who start gunicorn themselves.

``gunicorn -c python:aigateway.http.server.conf "aigateway.http.app:create_app()"``

Settings come from the environment and from the YAML file that CODER_CONFIG_PATH names.
gunicorn reads this module's names as its settings.
"""

from __future__ import annotations

import os

from aigateway.http.server.application import gunicorn_options
from aigateway.http.settings import load

globals().update(gunicorn_options(load({}, os.environ)))
