from __future__ import annotations

import re
import subprocess
import sys

import pytest

from klime_mp import cli
from klime_mp._version import __version__
from support.collector import environment


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"klime-mp {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["collector", "--port", "x"],
        ["collector", "--port", "-1"],
        ["collector", "--port", "65536"],
        ["collector", "--cert", "cert.pem"],
        ["collector", "--key", "key.pem"],
        ["collector", "--write-key"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.match(r"usage: klime-mp ", shown.err)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "collector" in capsys.readouterr().out


def python(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )


def test_the_collector_without_its_extra():
    done = python(
        "import sys; sys.modules['aiohttp'] = None\n"
        "from klime_mp.cli import main\n"
        "sys.exit(main(['collector', '--port', '0']))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'klime-mp[collector]'" in done.stderr


def test_aiohttp_is_imported_when_it_is_needed_only():
    done = python("import sys, klime_mp.cli; print('aiohttp' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "klime_mp.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"klime-mp {__version__}\n", "")
